//! One watch stream: lists, watches, and continues after errors.
//!
//! Lists come in pages whose size follows that of the objects, and neither a page nor an object is ever in memory as a
//! whole: see [`JsonFilter`](crate::cluster::json_filter::JsonFilter).

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
use crate::cluster::json_filter::{Keep, Part};

/// Pause before asking again for a kind that the API server does not serve. Only its upgrade changes that.
pub(super) const UNSERVED_PAUSE: Duration = Duration::from_mins(5);

/// After this time without another error a watch is thought to work again, if nothing else shows it: a kind of which nothing
/// changes is silent. Longer than any request may take.
const WELL_AFTER: Duration = Duration::from_mins(10);

/// Longest pause after any other error, should the backoff ever run out.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Longest silence within a list.
const LIST_SILENCE: Duration = Duration::from_mins(1);

/// Longest silence of a watch. The API server is asked to end each one after 290 s; one that is silent for longer is dead,
/// which nobody says.
const WATCH_SILENCE: Duration = Duration::from_mins(5);

/// Pause after a watch that ended at once, without an event.
const EMPTY_PAUSE: Duration = Duration::from_secs(1);

/// What is watched, and who is told of it.
pub(in crate::cluster) trait Subject: Send + 'static {
    /// What the objects are read into.
    type Object: Resource + DeserializeOwned + Send + 'static;

    /// The name of the kind, for the log.
    fn kind(&self) -> &'static str;

    /// The path of the list.
    fn path(&self) -> String;

    /// Which of the objects are meant; all by default.
    fn field_selector(&self) -> Option<String> {
        None
    }

    /// What of an object is read. It must include [`is_envelope`](crate::cluster::api_response::is_envelope).
    fn keep(&self) -> Keep;

    /// Takes what the watch tells.
    fn take(&self, event: Event<Self::Object>);

    /// The API server does not know the kind. Gives `false` if that cannot be, so that the answer is an error like others:
    /// a proxy says 404 too.
    fn take_not_served(&self) -> bool {
        false
    }

    /// Whether what was told may have become untrue since, because the watch fails.
    fn take_trouble(&self, _has_trouble: bool) {}
}

/// Why a watch failed.
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

/// What is wrong with a watch. Only a change is worth a line in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    NotServed,
    Failing,
}

/// A watch of one kind.
struct Watch<S> {
    server: ApiServer,
    subject: S,
    page_size: PageSize,
    /// The version of the last object that was told; `None` before the list is complete.
    version: Option<String>,
    backoff: DefaultBackoff,
    trouble: Option<Trouble>,
    /// The trouble was logged: an outage of the API server does not explain it.
    is_logged: bool,
    /// When the trouble is over, if nothing is heard of it again.
    well_at: Option<Instant>,
}

/// What a list says besides its objects.
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

/// Where a list continues.
enum Page {
    /// With the same page, which was too large.
    Again,
    After(String),
    /// Nowhere: it is complete, as of this version.
    Last(String),
}

/// Watches for ever. Lists only with one of the permits of `lists`.
pub(in crate::cluster) async fn watch<S: Subject>(
    server: impl Into<ApiServer>,
    subject: S,
    lists: Arc<Semaphore>,
) {
    let mut watch = Watch {
        server: server.into(),
        subject,
        page_size: PageSize::first(),
        version: None,
        backoff: DefaultBackoff::default(),
        trouble: None,
        is_logged: false,
        well_at: None,
    };
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

impl<S: Subject> Watch<S> {
    /// Lists all objects.
    async fn list(&mut self, lists: &Semaphore) -> Result<(), WatchError> {
        let _permit = lists.acquire().await.ok();
        self.subject.take(Event::Init);
        let mut token = None;
        loop {
            match self.page(token.clone()).await? {
                Page::Again => {}
                Page::After(next) => token = Some(next),
                Page::Last(version) => {
                    self.end_trouble();
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
                    self.subject
                        .take(Event::InitApply(parsed(&object).map_err(WatchError::List)?));
                    self.end_trouble();
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

    /// Watches what happens after `version`, until the stream ends.
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

    /// The next event; `None` if the stream ended, however it did: the next one continues where it was.
    async fn next(&mut self, parts: &mut Parts) -> Option<Part> {
        let dead_at = Instant::now() + WATCH_SILENCE;
        loop {
            let wake_at = self.well_at.map_or(dead_at, |well_at| well_at.min(dead_at));
            match timeout_at(wake_at, parts.next()).await {
                Ok(Ok(part)) => return part,
                Ok(Err(error)) => {
                    tracing::debug!(kind = self.subject.kind(), %error, "watch aborted; continuing");
                    return None;
                }
                Err(_) if dead_at <= Instant::now() => return None,
                Err(_) => self.end_trouble(),
            }
        }
    }

    fn take(&mut self, text: &[u8]) -> Result<(), WatchError> {
        let event: WatchEvent<S::Object> = parsed(text).map_err(WatchError::Watch)?;
        let event = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => Event::Apply(object),
            WatchEvent::Deleted(object) => Event::Delete(object),
            WatchEvent::Bookmark(bookmark) => {
                self.version = Some(bookmark.metadata.resource_version);
                self.end_trouble();
                return Ok(());
            }
            WatchEvent::Error(status) => return Err(WatchError::Ended(status)),
        };
        if let Event::Apply(object) | Event::Delete(object) = &event
            && let Some(version) = &object.meta().resource_version
        {
            self.version = Some(version.clone());
        }
        self.end_trouble();
        self.subject.take(event);
        Ok(())
    }

    fn request(&self) -> core::Request {
        core::Request::new(self.subject.path())
    }

    /// Reports an error; returns how long to wait.
    fn fail(&mut self, error: &WatchError) -> Duration {
        if error.needs_list() {
            tracing::debug!(kind = self.subject.kind(), %error, "cannot continue watch; listing again");
            self.version = None;
        } else if error.is_not_found() && self.subject.take_not_served() {
            self.report(Trouble::NotServed, error);
            return UNSERVED_PAUSE;
        } else {
            self.report(Trouble::Failing, error);
        }
        self.backoff.next().unwrap_or(LONGEST_PAUSE)
    }

    fn end_trouble(&mut self) {
        self.well_at = None;
        if self.trouble.take().is_some() {
            let kind = self.subject.kind();
            if std::mem::take(&mut self.is_logged) {
                tracing::info!(kind, "watching again");
            } else {
                tracing::debug!(kind, "watching again");
            }
            self.subject.take_trouble(false);
        }
    }

    fn report(&mut self, trouble: Trouble, error: &WatchError) {
        self.well_at = Some(Instant::now() + WELL_AFTER);
        let is_repeated = self.trouble.replace(trouble) == Some(trouble);
        if !is_repeated {
            self.subject.take_trouble(trouble == Trouble::Failing);
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
        match trouble {
            Trouble::NotServed => tracing::info!(
                kind,
                "API server does not serve this kind; retrying periodically"
            ),
            Trouble::Failing => tracing::warn!(
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

    /// A list of a kind that the API server does not know is answered with 404.
    fn is_not_found(&self) -> bool {
        matches!(self, Self::List(kube::Error::Api(status)) if status.code == 404)
    }

    /// What was seen last is too long ago (410), which may be said at once, between pages, or in the stream; or the watch
    /// is refused for another reason that a new list may mend. The same request would fail for ever.
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

/// What arrives while a list is read.
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
