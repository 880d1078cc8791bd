//! One watch stream: lists, watches, and goes on after errors.

use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use kube::runtime::watcher;
use kube::runtime::watcher::{Config, DefaultBackoff, Error, Event};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

/// Objects in a page of a list, which is in memory as a whole. An object has at most 1.5 MiB; a usual Pod has 5 KiB.
const PAGE: u32 = 50;

/// Pause before asking again for a kind that the API server does not serve. Only its upgrade changes that.
pub(super) const UNSERVED_PAUSE: Duration = Duration::from_mins(5);

/// After this time without another error a watch is thought to work again, if nothing else shows it: a kind of which nothing
/// changes is silent. Longer than any request may take.
const WELL_AFTER: Duration = Duration::from_mins(10);

/// Longest pause after any other error, should the backoff ever run out.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What is watched, and who is told of it.
pub(in crate::cluster) trait Subject: Send + 'static {
    /// What the objects are read into.
    type Object: Resource + Clone + Debug + DeserializeOwned + Send + 'static;

    /// The name of the kind, for the log.
    fn kind(&self) -> &'static str;

    /// Where it is served.
    fn api(&self, client: Client) -> Api<Self::Object>;

    /// Which of the objects are meant; all by default.
    fn config(&self) -> Config {
        Config::default()
    }

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

/// What is wrong with a watch. Only a change is worth a line in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    NotServed,
    Failing,
}

/// A watch of one kind.
struct Watch<S> {
    subject: S,
    backoff: DefaultBackoff,
    trouble: Option<Trouble>,
}

/// How to go on.
enum Next {
    Continue,
    /// After a pause.
    Retry(Duration),
    /// After a pause, and with a new list.
    Restart(Duration),
}

/// Watches for ever. Lists only with one of the permits of `lists`.
pub(in crate::cluster) async fn watch<S: Subject>(
    client: Client,
    subject: S,
    lists: Arc<Semaphore>,
) {
    let mut watch = Watch {
        subject,
        backoff: DefaultBackoff::default(),
        trouble: None,
    };
    loop {
        let api = watch.subject.api(client.clone());
        let config = watch.subject.config().page_size(PAGE);
        let mut stream = pin!(watcher(api, config));
        let mut is_listed = false;
        let mut permit = None;
        loop {
            if !is_listed && permit.is_none() {
                permit = lists.acquire().await.ok();
            }
            let Ok(event) = timeout(WELL_AFTER, stream.next()).await else {
                watch.end_trouble();
                continue;
            };
            let Some(event) = event else {
                break;
            };
            is_listed |= matches!(event, Ok(Event::InitDone));
            if is_listed || event.is_err() {
                permit = None;
            }
            match watch.take(event) {
                Next::Continue => {}
                Next::Retry(pause) => sleep(pause).await,
                Next::Restart(pause) => {
                    sleep(pause).await;
                    break;
                }
            }
        }
    }
}

impl<S: Subject> Watch<S> {
    fn take(&mut self, event: Result<Event<S::Object>, Error>) -> Next {
        match event {
            Ok(event) => {
                if ends_trouble(&event) {
                    self.end_trouble();
                }
                self.subject.take(event);
                Next::Continue
            }
            Err(error) if is_useless_to_repeat(&error) => {
                tracing::debug!(kind = self.subject.kind(), %error, "cannot go on from there, listing again");
                Next::Restart(self.pause())
            }
            Err(error) if is_not_found(&error) && self.subject.take_not_served() => {
                self.report(Trouble::NotServed, &error);
                Next::Retry(UNSERVED_PAUSE)
            }
            Err(error) => {
                self.report(Trouble::Failing, &error);
                Next::Retry(self.pause())
            }
        }
    }

    fn pause(&mut self) -> Duration {
        self.backoff.next().unwrap_or(LONGEST_PAUSE)
    }

    fn end_trouble(&mut self) {
        if self.trouble.take().is_some() {
            tracing::info!(kind = self.subject.kind(), "watching again");
            self.subject.take_trouble(false);
        }
    }

    fn report(&mut self, trouble: Trouble, error: &Error) {
        if self.trouble.replace(trouble) == Some(trouble) {
            return;
        }
        self.subject.take_trouble(trouble == Trouble::Failing);
        let kind = self.subject.kind();
        match trouble {
            Trouble::NotServed => tracing::info!(
                kind,
                "the API server does not serve this kind; it is asked for again now and then"
            ),
            Trouble::Failing => tracing::warn!(
                kind,
                %error,
                "cannot watch this kind; what happens meanwhile is seen later"
            ),
        }
    }
}

/// The beginning of a list is announced before anything is asked, and proves nothing.
fn ends_trouble<K>(event: &Event<K>) -> bool {
    !matches!(event, Event::Init)
}

/// A list of a kind that the API server does not know is answered with 404.
fn is_not_found(error: &Error) -> bool {
    matches!(
        error,
        Error::InitialListFailed(kube::Error::Api(status)) if status.code == 404
    )
}

/// What was seen last is too long ago (410), which may be said at once, between pages, or in the stream; or the watch is
/// refused for another reason that a new list may mend. The watcher alone would ask the same for ever.
fn is_useless_to_repeat(error: &Error) -> bool {
    match error {
        Error::WatchStartFailed(kube::Error::Api(status)) => {
            (400..500).contains(&status.code) && !matches!(status.code, 401 | 403 | 429)
        }
        Error::WatchError(status)
        | Error::InitialListFailed(kube::Error::Api(status))
        | Error::WatchFailed(kube::Error::Api(status)) => status.code == 410,
        _ => false,
    }
}
