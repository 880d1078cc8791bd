//! One watch stream: lists, watches, and continues after errors.
//!
//! The size of pages follows that of the objects. Neither a page nor an object is in memory as a whole: see
//! [`JsonFilter`](crate::cluster::json_filter::JsonFilter).

use std::sync::Arc;
use std::time::Duration;

use axum::http::Request;
use kube::core::request;
use kube::core::{Status, WatchEvent};
use kube::runtime::watcher::{DefaultBackoff, Event};
use kube::{Resource, api, core};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::page_size::PageSize;
use crate::cluster::api_response::Parts;
use crate::cluster::api_server::ApiServer;
use crate::cluster::json_fields::parse_permit;
use crate::cluster::json_filter::{Keep, Part};

/// Pause before another list of a kind that the API server does not serve. Only an upgrade changes that.
pub(super) const UNSERVED_PAUSE: Duration = Duration::from_mins(5);

/// A watch counts as working after this time without another error, even without an event: a kind whose objects do not change
/// is silent. Longer than any request may take.
const HEALTHY_AFTER: Duration = Duration::from_mins(10);

/// Pause after any other error if the backoff ends.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Longest wait for the next bytes of a list.
const LIST_SILENCE: Duration = Duration::from_mins(1);

/// Longest wait for the next bytes of a watch. The API server ends each one after 290 s on request, so the connection of one
/// that is silent for longer is lost.
const WATCH_SILENCE: Duration = Duration::from_mins(5);

/// Pause after a watch that ended immediately, without an event.
const EMPTY_PAUSE: Duration = Duration::from_secs(1);

/// What is watched, and where its events go.
pub(in crate::cluster) trait Subject: Send + 'static {
    type Object: Resource + DeserializeOwned + Send + 'static;

    /// The name of the kind, for the log.
    fn kind(&self) -> &'static str;

    fn path(&self) -> String;

    /// Selects the objects; all by default.
    fn field_selector(&self) -> Option<String> {
        None
    }

    /// The part of an object that is read. It must include [`is_envelope`](crate::cluster::api_response::is_envelope).
    fn keep(&self) -> Keep;

    fn take(&self, event: Event<Self::Object>);

    /// Records that the API server does not serve the kind. Returns `false` if that is impossible, so that the response counts
    /// as any other error: a proxy returns 404 too.
    fn set_not_served(&self) -> bool {
        false
    }

    /// Records that the watch fails, so that earlier events may be outdated, or that it works again.
    fn set_failing(&self, _is_failing: bool) {}
}

#[derive(Debug, thiserror::Error)]
enum WatchError {
    #[error("cannot list: {0}")]
    List(#[source] kube::Error),
    #[error("cannot list: no response within {} s", LIST_SILENCE.as_secs())]
    Silent,
    #[error("cannot list: the response is cut short or has no metadata.resourceVersion")]
    Incomplete,
    #[error("cannot watch: {0}")]
    Watch(#[source] kube::Error),
    #[error("the API server ended the watch: {0}")]
    Ended(Box<Status>),
}

/// Why a watch does not work. Only a change is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    NotServed,
    Failing,
}

/// A watch of one kind.
struct Watch<S> {
    server: ApiServer,
    subject: S,
    page_size: PageSize,
    /// The resource version of the last event; `None` before the list is complete.
    version: Option<String>,
    backoff: DefaultBackoff,
    failure: Option<Failure>,
    /// The failure was logged, because an outage of the API server does not explain it.
    is_logged: bool,
    /// When the failure counts as over unless it occurs again.
    healthy_at: Option<Instant>,
}

/// A list without its items.
#[derive(Default, Deserialize)]
#[serde(default)]
struct List {
    metadata: ListMetadata,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ListMetadata {
    resource_version: Option<String>,
    r#continue: Option<String>,
}

/// The request after a page of a list.
enum Page {
    /// The same page with fewer objects: it was too large.
    Again,
    After(String),
    /// None: the list is complete, with this resource version.
    Last(String),
}

/// Watches until it is dropped. Each list needs a permit of `lists`.
pub(in crate::cluster) async fn watch<S: Subject>(
    server: impl Into<ApiServer>,
    subject: S,
    lists: Arc<Semaphore>,
) {
    let mut watch = Watch::new(server, subject);
    loop {
        let result = match watch.version.clone() {
            None => watch.list(&lists).await,
            Some(version) => watch.follow(&version).await,
        };
        if let Err(error) = result {
            let pause = watch.fail(&error);
            sleep(pause).await;
        }
    }
}

/// Lists all objects once, without retries. An object may be passed several times. Returns `false` if the API server does not
/// serve the kind and [`Subject::set_not_served`] accepts that.
///
/// # Errors
/// The operation and its cause.
pub(in crate::cluster) async fn list_once<S: Subject>(
    server: impl Into<ApiServer>,
    subject: S,
) -> anyhow::Result<bool> {
    let mut watch = Watch::new(server, subject);
    match watch.list(&Semaphore::new(1)).await {
        Ok(()) => Ok(true),
        Err(error) if error.is_not_found() && watch.subject.set_not_served() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

impl<S: Subject> Watch<S> {
    fn new(server: impl Into<ApiServer>, subject: S) -> Self {
        Self {
            server: server.into(),
            subject,
            page_size: PageSize::first(),
            version: None,
            backoff: DefaultBackoff::default(),
            failure: None,
            is_logged: false,
            healthy_at: None,
        }
    }

    async fn list(&mut self, lists: &Semaphore) -> Result<(), WatchError> {
        let _permit = lists.acquire().await.ok();
        self.subject.take(Event::Init);
        let mut token = None;
        loop {
            match self.page(token.clone()).await? {
                Page::Again => {}
                Page::After(next) => token = Some(next),
                Page::Last(version) => {
                    self.recover();
                    self.subject.take(Event::InitDone);
                    self.version = Some(version);
                    return Ok(());
                }
            }
        }
    }

    async fn page(&mut self, token: Option<String>) -> Result<Page, WatchError> {
        let params = api::ListParams {
            field_selector: self.subject.field_selector(),
            limit: Some(self.page_size.limit()),
            continue_token: token,
            ..api::ListParams::default()
        };
        let request = made(self.request().list(&params)).map_err(WatchError::List)?;
        let parts = Parts::request(&self.server, request, self.subject.keep(), Some("items"));
        let mut parts = in_time(parts).await?;
        let mut objects = 0_u32;
        loop {
            match in_time(parts.next()).await? {
                None => return Err(WatchError::Incomplete),
                Some(Part::Element(object)) => {
                    objects = objects.saturating_add(1);
                    {
                        let _permit = parse_permit();
                        let object = parsed(&object).map_err(WatchError::List)?;
                        self.subject.take(Event::InitApply(object));
                    }
                    self.recover();
                    if self.page_size.is_too_large(parts.bytes())
                        && objects < self.page_size.limit()
                    {
                        self.page_size = self.page_size.after(objects, parts.bytes());
                        return Ok(Page::Again);
                    }
                }
                Some(Part::Value(list)) => {
                    self.page_size = self.page_size.after(objects, parts.bytes());
                    let List { metadata } = parsed(&list).map_err(WatchError::List)?;
                    let present = |text: Option<String>| text.filter(|text| !text.is_empty());
                    return match (
                        present(metadata.r#continue),
                        present(metadata.resource_version),
                    ) {
                        (Some(next), _) => Ok(Page::After(next)),
                        (None, Some(version)) => Ok(Page::Last(version)),
                        (None, None) => Err(WatchError::Incomplete),
                    };
                }
            }
        }
    }

    /// Watches changes after `version`, until the stream ends.
    async fn follow(&mut self, version: &str) -> Result<(), WatchError> {
        let params = api::WatchParams {
            field_selector: self.subject.field_selector(),
            ..api::WatchParams::default()
        };
        let request = made(self.request().watch(&params, version)).map_err(WatchError::Watch)?;
        let started = Instant::now();
        let parts = Parts::request(&self.server, request, self.subject.keep(), None);
        let mut parts = match timeout(WATCH_SILENCE, parts).await {
            Ok(parts) => parts.map_err(WatchError::Watch)?,
            Err(_) => return Ok(()),
        };
        let mut is_empty = true;
        while let Some(part) = self.next(&mut parts).await {
            let (Part::Value(event) | Part::Element(event)) = part;
            self.take(&event)?;
            is_empty = false;
        }
        if is_empty && started.elapsed() < EMPTY_PAUSE {
            sleep(EMPTY_PAUSE).await;
        }
        Ok(())
    }

    /// Returns the next event; `None` if the stream ended for any reason: the next watch continues there.
    async fn next(&mut self, parts: &mut Parts) -> Option<Part> {
        let dead_at = Instant::now() + WATCH_SILENCE;
        loop {
            let wake_at = self
                .healthy_at
                .map_or(dead_at, |healthy_at| healthy_at.min(dead_at));
            match timeout_at(wake_at, parts.next()).await {
                Ok(Ok(part)) => return part,
                Ok(Err(error)) => {
                    tracing::debug!(kind = self.subject.kind(), %error, "watch aborted; continuing");
                    return None;
                }
                Err(_) if dead_at <= Instant::now() => return None,
                Err(_) => self.recover(),
            }
        }
    }

    fn take(&mut self, text: &[u8]) -> Result<(), WatchError> {
        let _permit = parse_permit();
        let event: WatchEvent<S::Object> = parsed(text).map_err(WatchError::Watch)?;
        let event = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => Event::Apply(object),
            WatchEvent::Deleted(object) => Event::Delete(object),
            WatchEvent::Bookmark(bookmark) => {
                self.version = Some(bookmark.metadata.resource_version);
                self.recover();
                return Ok(());
            }
            WatchEvent::Error(status) => return Err(WatchError::Ended(status)),
        };
        if let Event::Apply(object) | Event::Delete(object) = &event
            && let Some(version) = &object.meta().resource_version
        {
            self.version = Some(version.clone());
        }
        self.recover();
        self.subject.take(event);
        Ok(())
    }

    fn request(&self) -> core::Request {
        core::Request::new(self.subject.path())
    }

    /// Reports an error and returns the pause after it.
    fn fail(&mut self, error: &WatchError) -> Duration {
        if error.needs_list() {
            tracing::debug!(kind = self.subject.kind(), %error, "cannot continue watch; listing again");
            self.version = None;
        } else if error.is_not_found() && self.subject.set_not_served() {
            self.report(Failure::NotServed, error);
            return UNSERVED_PAUSE;
        } else {
            self.report(Failure::Failing, error);
        }
        self.backoff.next().unwrap_or(LONGEST_PAUSE)
    }

    fn recover(&mut self) {
        self.healthy_at = None;
        if self.failure.take().is_some() {
            let kind = self.subject.kind();
            if std::mem::take(&mut self.is_logged) {
                tracing::info!(kind, "watching again");
            } else {
                tracing::debug!(kind, "watching again");
            }
            self.subject.set_failing(false);
        }
    }

    fn report(&mut self, failure: Failure, error: &WatchError) {
        self.healthy_at = Some(Instant::now() + HEALTHY_AFTER);
        let is_repeated = self.failure.replace(failure) == Some(failure);
        if !is_repeated {
            self.subject.set_failing(failure == Failure::Failing);
            self.is_logged = false;
        }
        let kind = self.subject.kind();
        if std::mem::replace(&mut self.is_logged, true) {
            return;
        }
        // The first failure may be the beginning of an outage.
        if error.is_explained_by(&self.server, !is_repeated) {
            self.is_logged = false;
            tracing::debug!(kind, %error, "cannot watch this kind");
            return;
        }
        match failure {
            Failure::NotServed => tracing::info!(
                kind,
                "API server does not serve this kind; retrying periodically"
            ),
            Failure::Failing => tracing::warn!(
                kind,
                %error,
                "cannot watch this kind, changes are delayed; check the API server and the permissions of mirror-sidecar"
            ),
        }
    }
}

impl WatchError {
    /// Returns whether an outage of the API server explains it.
    fn is_explained_by(&self, server: &ApiServer, is_first: bool) -> bool {
        match self {
            Self::List(error) | Self::Watch(error) => server.explains(error, is_first),
            Self::Silent => is_first || server.is_away(),
            Self::Incomplete | Self::Ended(_) => false,
        }
    }

    /// The API server responds with 404 to a list of a kind that it does not serve.
    fn is_not_found(&self) -> bool {
        matches!(self, Self::List(kube::Error::Api(status)) if status.code == 404)
    }

    /// Returns whether only a new list helps: the resource version is too old (410, as a response or in the stream), or the
    /// watch is refused for another reason than permissions or load. The same request would fail again.
    fn needs_list(&self) -> bool {
        match self {
            Self::Watch(kube::Error::Api(status)) => {
                (400..500).contains(&status.code) && !matches!(status.code, 401 | 403 | 429)
            }
            Self::Ended(status) | Self::List(kube::Error::Api(status)) => status.code == 410,
            Self::List(_) | Self::Watch(_) | Self::Silent | Self::Incomplete => false,
        }
    }
}

/// Waits for a part of a list.
async fn in_time<T>(
    response: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, WatchError> {
    match timeout(LIST_SILENCE, response).await {
        Ok(response) => response.map_err(WatchError::List),
        Err(_) => Err(WatchError::Silent),
    }
}

fn made(
    request: Result<Request<Vec<u8>>, request::Error>,
) -> Result<Request<Vec<u8>>, kube::Error> {
    request.map_err(kube::Error::BuildRequest)
}

fn parsed<T: DeserializeOwned>(text: &[u8]) -> Result<T, kube::Error> {
    serde_json::from_slice(text).map_err(kube::Error::SerdeError)
}
