//! Writes Events, one after the other, rate-limited.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::dedup::{Memory, Name};
use super::metrics::{EventMetrics, EventResult};
use super::notice::{About, Notice};
use crate::cluster::api_server::{ApiServer, is_unreachable};

/// Interval between Events: at most 120 a minute, to spare the API server.
const WRITE_INTERVAL: Duration = Duration::from_millis(500);

/// Timeout for an Event, both requests included.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

const CONTROLLER: &str = "mirror-sidecar";

/// The namespace for Events about cluster-scoped objects.
const DEFAULT_NAMESPACE: &str = "default";

/// Longest `reportingInstance` that an API server accepts.
const MAX_INSTANCE: usize = 128;

/// Longest object name within an Event's name, whose limit is 253.
const MAX_NAME: usize = 200;

#[derive(Debug)]
pub(super) struct Item {
    pub name: Name,
    pub about: About,
    pub notice: Notice,
    /// The count of the Event series.
    pub count: i32,
}

pub(super) struct Writer {
    server: ApiServer,
    instance: String,
    memory: Arc<Mutex<Memory>>,
    metrics: EventMetrics,
    /// The last write failed.
    failing: bool,
}

#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error("cannot write Event {event}: the API server refuses it: {source}")]
    Refused {
        event: String,
        source: Box<kube::Error>,
    },
    #[error("cannot write Event {event}: the API server is unreachable: {source}")]
    Unreachable {
        event: String,
        source: Box<kube::Error>,
    },
    #[error("cannot write Event {event}: no response from the API server in time")]
    TooSlow { event: String },
}

impl Writer {
    pub(super) fn new(
        server: ApiServer,
        replica: Option<&str>,
        memory: Arc<Mutex<Memory>>,
        metrics: EventMetrics,
    ) -> Self {
        let instance = replica.unwrap_or(CONTROLLER);
        Self {
            server,
            instance: instance.chars().take(MAX_INSTANCE).collect(),
            memory,
            metrics,
            failing: false,
        }
    }

    /// Writes until all senders are dropped.
    pub(super) async fn run(mut self, mut items: mpsc::Receiver<Item>) {
        let mut pace = interval(WRITE_INTERVAL);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while let Some(item) = items.recv().await {
            pace.tick().await;
            let result = match timeout(WRITE_TIMEOUT, self.write(&item)).await {
                Ok(result) => result,
                Err(_) => Err(WriteError::TooSlow {
                    event: event_name(&item),
                }),
            };
            self.record(&item, result);
        }
    }

    /// Creates the Event. An existing one, from another replica or from an earlier report, becomes a series.
    async fn write(&self, item: &Item) -> Result<(), WriteError> {
        let namespace = namespace(&item.about);
        let api = Api::<Event>::namespaced(self.server.client().clone(), namespace);
        let created = api
            .create(&PostParams::default(), &self.event(item, Timestamp::now()))
            .await;
        self.server.observe(&created);
        match created {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let series = EventSeries {
                    // A series begins with the second Event; the reporter of the first is not known.
                    count: item.count.max(2),
                    last_observed_time: MicroTime(Timestamp::now()),
                };
                let patch = Patch::Merge(json!({ "series": series }));
                let patched = api
                    .patch(&event_name(item), &PatchParams::default(), &patch)
                    .await;
                patched.map(drop).map_err(|error| write_error(item, error))
            }
            Err(error) => Err(write_error(item, error)),
        }
    }

    fn record(&mut self, item: &Item, result: Result<(), WriteError>) {
        let Err(error) = result else {
            self.failing = false;
            self.metrics.event(EventResult::Written);
            return;
        };
        self.metrics.event(EventResult::Failed);
        // A refused Event would be refused again; others are due again.
        if !matches!(error, WriteError::Refused { .. }) {
            let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
            memory.mark_lost(item.name);
        }
        if error.is_outage() || std::mem::replace(&mut self.failing, true) {
            tracing::debug!(%error, "cannot write Event");
        } else {
            tracing::warn!(%error, "cannot write Event; check the API server and the permissions of mirror-sidecar. Further failures are logged at level debug");
        }
    }

    fn event(&self, item: &Item, now: Timestamp) -> Event {
        let Item { about, notice, .. } = item;
        let type_ = if notice.is_warning() {
            "Warning"
        } else {
            "Normal"
        };
        Event {
            metadata: ObjectMeta {
                name: Some(event_name(item)),
                namespace: Some(namespace(about).to_owned()),
                ..ObjectMeta::default()
            },
            action: Some(notice.action().to_owned()),
            reason: Some(notice.reason().to_owned()),
            note: Some(notice.note()),
            type_: Some(type_.to_owned()),
            event_time: Some(MicroTime(now)),
            regarding: Some(regarding(about)),
            reporting_controller: Some(CONTROLLER.to_owned()),
            reporting_instance: Some(self.instance.clone()),
            ..Event::default()
        }
    }
}

impl WriteError {
    /// Returns whether an outage of the API server explains the error.
    fn is_outage(&self) -> bool {
        matches!(self, Self::Unreachable { source, .. } if is_unreachable(source))
    }
}

fn write_error(item: &Item, error: kube::Error) -> WriteError {
    let (event, source) = (event_name(item), Box::new(error));
    match &*source {
        kube::Error::Api(status) if (400..500).contains(&status.code) && status.code != 429 => {
            WriteError::Refused { event, source }
        }
        _ => WriteError::Unreachable { event, source },
    }
}

fn regarding(about: &About) -> ObjectReference {
    let known = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    ObjectReference {
        api_version: known(&about.api_version),
        kind: known(&about.kind),
        // Old API servers, such as 1.20, require that of the Event here, also for a cluster-scoped object.
        namespace: Some(namespace(about).to_owned()),
        name: known(&about.name),
        uid: known(&about.uid),
        ..ObjectReference::default()
    }
}

fn namespace(about: &About) -> &str {
    match about.namespace.as_str() {
        "" => DEFAULT_NAMESPACE,
        namespace => namespace,
    }
}

/// The name of the object, then a unique suffix.
fn event_name(item: &Item) -> String {
    let object: String = item.about.name.chars().take(MAX_NAME).collect();
    // A dot may only follow a letter or a digit.
    let object = object.trim_end_matches(|last: char| !last.is_ascii_alphanumeric());
    match object {
        "" => format!("{CONTROLLER}.{}", item.name),
        object => format!("{object}.{}", item.name),
    }
}
