//! The loop that compares the objects with the status, and its requests.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use axum::http::Request;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::core;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::MirroredImages;
use super::pace::Paces;
use super::plan::plan;
use super::resource::{GROUP, MirroredImage, PLURAL, VERSION};
use super::store::{Store, Stored};
use crate::backoff::Backoff;
use crate::cluster::api_response;
use crate::cluster::copy_status::{Maintainer, State};
use crate::cluster::json_fields::{field, text};
use crate::cluster::json_filter::Keep;
use crate::cluster::watch::stream;
use crate::status::describe::MAX_USERS;
use crate::status::query::{ImageQuery, RowKey};
use crate::status::rows::{Facts, Row, Share};
use crate::status::sources::ClusterSources;
use crate::token_bucket::TokenBucket;

/// Writes of this replica: one in this time, with a burst. They share nothing with the requests for pull Secrets and
/// readmission, which have their own connections and are never queued behind them.
const WRITE_SPACING: Duration = Duration::from_millis(50);
const WRITE_BURST: u32 = 20;

/// Writes that are planned at a time: those of a few seconds, so that none is outdated.
const MAX_PLANNED: usize = 100;

/// Images that are described while other tasks wait.
const STEP: usize = 100;

/// Pause between two passes: at least this, and so much longer than a pass that passes take a twentieth of a processor.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const PAUSE_FACTOR: u32 = 20;

/// How often the objects are compared without a notification: not all changes of the status notify.
const INTERVAL: Duration = Duration::from_secs(15);

/// How long after the start an image that was not checked yet gets no object. If it has one, that stays until the check.
const UNCHECKED_FOR: Duration = Duration::from_mins(2);

/// Longest wait for the response to a write.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Waits after a failed write.
const FIRST_BACKOFF: Duration = Duration::from_secs(5);
const LONGEST_BACKOFF: Duration = Duration::from_mins(5);

const FIELD_MANAGER: &str = "mirror-sidecar";

struct Controller {
    ctx: MirroredImages,
    cluster: ClusterSources,
    store: Store,
    paces: Paces,
    rate: TokenBucket,
    backoff: Backoff,
    /// The error that was logged last, and when it occurred last.
    reported: Option<(Option<u16>, Instant)>,
    started: Instant,
}

enum Write {
    Create(String, Box<MirroredImage>),
    Change(String, Box<MirroredImage>),
    Remove(String),
}

#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error("cannot {operation} the MirroredImage {name}: {source}")]
    Refused {
        operation: &'static str,
        name: String,
        source: Box<kube::Error>,
    },
    #[error(
        "cannot {operation} the MirroredImage {name}: no response from the API server within {} s",
        REQUEST_TIMEOUT.as_secs()
    )]
    TooSlow {
        operation: &'static str,
        name: String,
    },
}

impl MirroredImages {
    /// Keeps the objects up to date until it is dropped. While the API server does not serve the kind, nothing happens.
    pub(super) async fn run(self) {
        let Some(cluster) = self.sources.cluster.clone() else {
            return std::future::pending().await;
        };
        let store = Store::new();
        let watched = store.watched(&self.installation);
        let watch = stream::watch(self.server.clone(), watched, Arc::new(Semaphore::new(1)));
        let controller = Controller {
            ctx: self,
            cluster,
            store,
            paces: Paces::default(),
            rate: TokenBucket::new(WRITE_SPACING, WRITE_BURST),
            backoff: Backoff::new(FIRST_BACKOFF, LONGEST_BACKOFF),
            reported: None,
            started: Instant::now(),
        };
        tokio::select! {
            () = watch => {}
            () = controller.run() => {}
        }
    }
}

impl Controller {
    async fn run(mut self) {
        // Their senders live as long as this loop.
        let mut copies = self.cluster.copy_status.of_default().subscribe();
        let mut shares = self.cluster.replicas.subscribe();
        let mut objects = self.store.subscribe();
        let mut is_listed = self.store.is_listed();
        loop {
            if is_listed.wait_for(|is_listed| *is_listed).await.is_err() {
                return;
            }
            copies.borrow_and_update();
            shares.borrow_and_update();
            objects.borrow_and_update();
            let began = Instant::now();
            let writes = self.plan().await;
            let pause = SHORTEST_PAUSE.max(began.elapsed() * PAUSE_FACTOR);
            let has_more = writes.len() >= MAX_PLANNED;
            for write in writes {
                if !self.carry_out(write).await {
                    break;
                }
            }
            sleep_until(began + pause).await;
            let now = Instant::now();
            if let Some(until) = self.backoff.until(now) {
                sleep_until(until).await;
            } else if !has_more {
                tokio::select! {
                    _ = copies.changed() => {}
                    _ = shares.changed() => {}
                    _ = objects.changed() => {}
                    () = sleep(INTERVAL) => {}
                }
            }
        }
    }

    /// Returns the next writes of this replica.
    async fn plan(&mut self) -> Vec<Write> {
        let mut writes = Vec::new();
        let mut in_use = HashSet::new();
        let mut after = None;
        loop {
            let (rows, last) = self.page(Share::All, after);
            for row in rows {
                in_use.insert(self.name(&row.key));
                // The others are those of each replica.
                if is_shared(&row) && self.owns_shared(&row.key) {
                    self.consider(&row, &mut writes);
                }
            }
            after = last;
            if after.is_none() {
                break;
            }
            yield_now().await;
        }
        loop {
            let (rows, last) = self.page(Share::Own, after);
            for row in rows {
                // It may have come into use since.
                in_use.insert(self.name(&row.key));
                self.consider(&row, &mut writes);
            }
            after = last;
            if after.is_none() {
                break;
            }
            yield_now().await;
        }
        self.consider_unused(&in_use, &mut writes);
        self.paces.forget(Instant::now());
        writes
    }

    /// Returns a page of images, and where the next one begins.
    fn page(&self, share: Share<'_>, after: Option<RowKey>) -> (Vec<Row>, Option<RowKey>) {
        let query = ImageQuery {
            limit: STEP,
            after,
            ..ImageQuery::default()
        };
        let rows = self.cluster.rows(&query, share, STEP, MAX_USERS);
        let last = rows.last().filter(|_| rows.len() >= STEP);
        let last = last.map(|row| row.key.clone());
        (rows, last)
    }

    fn name(&self, key: &RowKey) -> String {
        self.ctx.installation.object_name(key)
    }

    fn owns_shared(&self, key: &RowKey) -> bool {
        self.cluster.replicas.owns(&format!("image/{}", key.image))
    }

    /// Plans the write of the object of an image that this replica owns.
    fn consider(&mut self, row: &Row, writes: &mut Vec<Write>) {
        if writes.len() >= MAX_PLANNED {
            return;
        }
        let name = self.name(&row.key);
        let stored = self.store.get(&name);
        let now = Instant::now();
        if !is_checked(row) && (stored.is_some() || now < self.started + UNCHECKED_FOR) {
            return;
        }
        let sources = &self.ctx.sources;
        let status = sources.describe(&self.cluster, row, None, MAX_USERS);
        let time = Timestamp::now();
        let desired = MirroredImage::new(&self.ctx.installation, &row.key, status, time);
        let content = stored.as_ref().and_then(Stored::content);
        let Some((object, urgency)) = plan(desired, content.as_ref(), time) else {
            return;
        };
        let version = stored.as_ref().map(|stored| stored.version.as_str());
        if self.paces.may_write(&name, version, urgency, now) {
            let object = Box::new(object);
            writes.push(match stored {
                Some(_) => Write::Change(name, object),
                None => Write::Create(name, object),
            });
        }
    }

    /// Plans the removal of objects whose images are not in use.
    fn consider_unused(&mut self, in_use: &HashSet<String>, writes: &mut Vec<Write>) {
        if !self.ctx.sources.is_complete() {
            return;
        }
        let replicas = &self.cluster.replicas;
        let unused = self.store.names(|name| !in_use.contains(name));
        for (name, version) in unused {
            if writes.len() >= MAX_PLANNED {
                return;
            }
            if replicas.owns(&format!("mirroredimage/{name}"))
                && self.paces.may_remove(&name, Some(&version), Instant::now())
            {
                writes.push(Write::Remove(name.into()));
            }
        }
    }

    /// Carries out a write in its turn. Returns `false` if the next ones have to wait.
    async fn carry_out(&mut self, write: Write) -> bool {
        let (name, result) = match write {
            Write::Create(name, object) => {
                let created = self.create(&name, &object).await;
                let is_there = matches!(&created, Err(error) if error.code() == Some(409));
                let result = if is_there {
                    // Somebody removed its labels, so that the watch does not see it.
                    self.change(&name, &object).await
                } else {
                    created
                };
                (name, result)
            }
            Write::Change(name, object) => {
                let result = self.change(&name, &object).await;
                (name, result)
            }
            Write::Remove(name) => {
                let result = self.remove(&name).await;
                (name, result)
            }
        };
        let now = Instant::now();
        match result {
            Ok(version) => {
                self.paces.written(&name, version, now);
                self.backoff.succeed();
                // Other objects may still be refused.
                let is_over = |failed: Instant| now >= failed + LONGEST_BACKOFF;
                if self.reported.is_some_and(|(_, failed)| is_over(failed)) {
                    self.reported = None;
                    tracing::info!("MirroredImages are up to date again");
                }
                true
            }
            // Somebody deleted it, which the watch reports in a moment.
            Err(error) if error.is_gone() => {
                self.paces.written(&name, None, now);
                true
            }
            Err(error) => {
                // It must not keep the others from their turn.
                self.paces.written(&name, None, now);
                self.backoff.fail(now);
                self.report(&error, now);
                false
            }
        }
    }

    /// Logs an error once.
    fn report(&mut self, error: &WriteError, now: Instant) {
        let server = &self.ctx.server;
        let is_first = self.backoff.failures() <= 1;
        let is_explained = match error {
            WriteError::Refused { source, .. } => server.explains(source, is_first),
            WriteError::TooSlow { .. } => is_first || server.is_away(),
        };
        if is_explained {
            return;
        }
        let code = error.code();
        let before = self.reported.replace((code, now));
        if before.is_none_or(|(reported, _)| reported != code) {
            tracing::warn!(
                %error,
                "MirroredImages are outdated until a retry succeeds; check that the CustomResourceDefinition \
                 mirroredimages.image-mirror.dev is that of this version, and the ClusterRole of mirror-sidecar"
            );
        }
    }

    async fn create(
        &mut self,
        name: &str,
        object: &MirroredImage,
    ) -> Result<Option<String>, WriteError> {
        let params = PostParams {
            dry_run: false,
            field_manager: Some(FIELD_MANAGER.to_owned()),
        };
        let body = object.creation(name).to_string();
        let request = request().create(&params, body.into_bytes());
        self.send("create", name, request).await
    }

    async fn change(
        &mut self,
        name: &str,
        object: &MirroredImage,
    ) -> Result<Option<String>, WriteError> {
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let request = request().patch(name, &params, &Patch::Merge(object.patch()));
        self.send("change", name, request).await
    }

    async fn remove(&mut self, name: &str) -> Result<Option<String>, WriteError> {
        let request = request().delete(name, &DeleteParams::default());
        self.send("delete", name, request).await.map(|_| None)
    }

    /// Sends a request when the rate allows it, and returns the version of the object in the response.
    async fn send(
        &mut self,
        operation: &'static str,
        name: &str,
        request: Result<Request<Vec<u8>>, core::request::Error>,
    ) -> Result<Option<String>, WriteError> {
        let refused = |source| WriteError::Refused {
            operation,
            name: name.to_owned(),
            source: Box::new(source),
        };
        let request = request.map_err(|error| refused(kube::Error::BuildRequest(error)))?;
        let now = Instant::now().into_std();
        let turn = self.rate.next_token(now);
        self.rate.take(now);
        if let Some(turn) = turn {
            sleep_until(turn.into()).await;
        }
        let response = api_response::text(&self.ctx.server, request, VERSION_ONLY);
        match timeout(REQUEST_TIMEOUT, response).await {
            Ok(Ok(response)) => {
                tracing::debug!(operation, name, "wrote MirroredImage");
                let object: Value = serde_json::from_slice(&response).unwrap_or_default();
                let version = text(field(&object, "metadata"), "resourceVersion");
                Ok(Some(version.to_owned()).filter(|version| !version.is_empty()))
            }
            Ok(Err(error)) => Err(refused(error)),
            Err(_) => {
                let error = WriteError::TooSlow {
                    operation,
                    name: name.to_owned(),
                };
                self.ctx.server.failed(&error);
                Err(error)
            }
        }
    }
}

/// The part of a response that is read.
const VERSION_ONLY: Keep = Keep {
    is_wanted: |name| matches!(name, "metadata" | "resourceVersion"),
    whole: None,
    string: 64,
    elements: 0,
    bytes: 1024,
};

fn request() -> core::Request {
    core::Request::new(format!("/apis/{GROUP}/{VERSION}/{PLURAL}"))
}

/// All replicas know the same about the image, so that none has it in its own share.
fn is_shared(row: &Row) -> bool {
    match &row.facts {
        Facts::Copy(record) => record.details.maintainer == Maintainer::None,
        Facts::Rewritten { .. } => false,
        Facts::Excluded { .. } => true,
    }
}

/// The image was checked since this replica started.
fn is_checked(row: &Row) -> bool {
    match &row.facts {
        Facts::Copy(record) => record.state != State::Unknown,
        Facts::Rewritten { state, .. } => state.is_some(),
        Facts::Excluded { .. } => true,
    }
}

impl WriteError {
    fn code(&self) -> Option<u16> {
        match self {
            Self::Refused { source, .. } => match &**source {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            Self::TooSlow { .. } => None,
        }
    }

    /// The object of a change or a removal does not exist.
    fn is_gone(&self) -> bool {
        let operation = match self {
            Self::Refused { operation, .. } | Self::TooSlow { operation, .. } => *operation,
        };
        operation != "create" && self.code() == Some(404)
    }
}
