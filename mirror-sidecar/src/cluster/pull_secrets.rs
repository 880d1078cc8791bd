//! Makes the pull Secrets: where the policy asks for one and where a workload names it, with the current credentials, and
//! removes those that nothing needs any more.
//!
//! A Secret is ours if it has the label `app.kubernetes.io/managed-by: image-mirror`. Another one of the same name is
//! never touched. Everything is derived again from what the watches tell, so nothing can be lost; the answers to the
//! policy do not wait for the watches, because a namespace may be older than what they told.
//!
//! - `content`, `source`: what we put into them, and where it comes from;
//! - `logins`: what is in them, ours and what stays beside it;
//! - `object`, `there`: which of them are there;
//! - `decide`: what is to be done, as pure functions;
//! - `api`, `trouble`: the calls to the API server, and why they fail;
//! - `bring`: makes one as it should be, or removes it;
//! - `single_flight`: one work at a time in a namespace, however many wait for it;
//! - `rounds`: looks at all of them again and again;
//! - `conflicts`: bounds what others cost who undo our writes;
//! - `provision`: what there is to say about them, also if none is made here.

mod api;
mod apply;
mod cache;
mod conflict_backoff;
mod controller;
mod credential_source;
mod dockerconfigjson;
mod error;
mod login;
mod object;
mod plan;
mod provider;
mod single_flight;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use kube::Resource as _;
use kube::runtime::watcher::Event;
use mirror_contract::{Mode, Refusal, RefusalKind};
use mirror_copy::Credentials;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::api_server::ApiServer;
use super::events::{About, Events, Notice};
use super::excluded::ExcludedNamespaces;
use super::index::{NamespaceState, PRESENT_NAME};
use super::json_filter::Keep;
use super::replicas::Replicas;
use super::shared_index::SharedIndex;
use super::supervision::supervise;
use super::watch::stream;
use crate::args::UsageError;
use crate::lookup::ANSWER_WITHIN;
use crate::metrics::Metrics;
use crate::token_bucket::TokenBucket;
use api::Secrets;
use cache::Cache;
use conflict_backoff::{ConflictBackoff, login_in};
use controller::Rests;
use credential_source::{CredentialSource, Current, SourceError};
use dockerconfigjson::key_of;
use error::PullSecretError;
use login::DesiredLogin;
use object::{Seen, Shown};
use plan::{Step, Wanted, step};
pub use provider::{Provision, PullSecrets};
use single_flight::SingleFlight;

/// How long the start waits for the credentials. A credential helper may take longer, and then the start goes on.
const FIRST_READ_WITHIN: Duration = Duration::from_secs(5);

/// Between two questions to the API server about namespaces that nobody told of. Namespaces are not made by the dozen, and
/// a new one is told within a second.
const STRANGER_EACH: Duration = Duration::from_millis(100);

/// Such questions that may come at once.
const STRANGERS_AT_ONCE: u32 = 30;

/// What the pull Secrets are made of.
pub struct Setup {
    /// Their name.
    pub name: String,
    /// Names that they had before: where something lists one, it is kept, but the policy is never told of it.
    pub former_names: Vec<String>,
    /// Where the login for the registry is looked up.
    pub credentials: Credentials,
    /// The registry that keeps the copies, named as in references.
    pub registry: String,
    /// Namespaces that are left alone.
    pub excluded_namespaces: ExcludedNamespaces,
    /// Which workloads name the Secret, and which namespaces there are.
    pub cluster: Arc<SharedIndex>,
    /// Which share of the work is this replica's.
    pub replicas: Replicas,
    /// Who is told of Secrets that are in the way.
    pub events: Events,
    /// Counts.
    pub metrics: Metrics,
}

/// The pull Secrets that are made here. Clones are the same.
#[derive(Clone)]
pub struct ManagedSecrets(Arc<Inner>);

struct Inner {
    /// The place of their name among all names that they have and had.
    place: usize,
    api: Secrets,
    excluded: ExcludedNamespaces,
    /// Of the login for the registry that keeps the copies.
    key: String,
    content: Current,
    cluster: Arc<SharedIndex>,
    replicas: Replicas,
    events: Events,
    metrics: Metrics,
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

struct State {
    there: Cache,
    in_flight: SingleFlight,
    rests: Rests,
    conflicts: ConflictBackoff,
    strangers: TokenBucket,
    /// How many the metrics count.
    counted: usize,
}

impl Default for State {
    fn default() -> Self {
        Self {
            there: Cache::default(),
            in_flight: SingleFlight::default(),
            rests: Rests::default(),
            conflicts: ConflictBackoff::default(),
            strangers: TokenBucket::new(STRANGER_EACH, STRANGERS_AT_ONCE),
            counted: 0,
        }
    }
}

/// What is done in the background. Each part is started again should it break off.
#[derive(Clone, Copy, Debug)]
enum Part {
    Watch,
    DesiredLogin,
    Rounds,
}

impl ManagedSecrets {
    /// Makes them in the background, until `stop`.
    ///
    /// # Errors
    /// [`UsageError`] when the credentials hold no login for the registry.
    pub async fn start(
        setup: Setup,
        server: impl Into<ApiServer>,
        stop: CancellationToken,
    ) -> Result<Self, UsageError> {
        let key = key_of(&setup.registry).to_owned();
        let source = CredentialSource {
            credentials: setup.credentials,
            registry: setup.registry,
        };
        let first = match timeout(FIRST_READ_WITHIN, source.read()).await {
            Ok(Ok(content)) => Some(Arc::new(content)),
            Ok(Err(error @ SourceError::Absent { .. })) => {
                return Err(UsageError(error.to_string()));
            }
            // It is tried again, and then said why not.
            Ok(Err(_)) | Err(_) => None,
        };
        let sender = watch::Sender::new(first);
        let server = server.into();
        let inner = |place: usize, name: String| {
            Arc::new(Inner {
                place,
                api: Secrets::new(server.clone(), name),
                excluded: setup.excluded_namespaces.clone(),
                key: key.clone(),
                content: sender.subscribe(),
                cluster: Arc::clone(&setup.cluster),
                replicas: setup.replicas.clone(),
                events: setup.events.clone(),
                metrics: setup.metrics.clone(),
                state: Mutex::default(),
                changed: watch::Sender::new(()),
            })
        };
        let present = inner(PRESENT_NAME, setup.name);
        let former = setup.former_names.into_iter().enumerate();
        let former = former.map(|(place, name)| inner(PRESENT_NAME + 1 + place, name));
        for inner in former {
            inner.work(&[Part::Watch, Part::Rounds], None, stop.clone());
        }
        let content = Some((source, sender.clone()));
        Arc::clone(&present).work(
            &[Part::Watch, Part::DesiredLogin, Part::Rounds],
            content,
            stop,
        );
        Ok(Self(present))
    }

    /// Their name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.api.name()
    }

    /// Whether the Secret is in a namespace; with [`Mode::Ensure`] it is made if not, with [`Mode::Peek`] it is enough
    /// that it could be. The answer comes within [`ANSWER_WITHIN`]; the work goes on.
    ///
    /// # Errors
    /// [`Refusal`] is the answer for now.
    pub async fn answer(&self, namespace: &str, mode: Mode) -> Result<(), Refusal<'static>> {
        let ask = Arc::clone(&self.0).ask(namespace.into(), mode);
        match timeout(ANSWER_WITHIN, ask).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(trouble)) => Err(trouble.refusal()),
            Err(_) => Err(Refusal::new(
                RefusalKind::Pending,
                "the pull Secret is being made",
            )),
        }
    }
}

impl Inner {
    /// Does these parts of the work in the background, until `stop`.
    fn work(
        self: Arc<Self>,
        parts: &'static [Part],
        content: Option<(CredentialSource, watch::Sender<Option<Arc<DesiredLogin>>>)>,
        stop: CancellationToken,
    ) {
        let parts = supervise(parts, move |part| {
            let inner = Arc::clone(&self);
            match (part, &content) {
                (Part::Watch, _) => {
                    let lists = Arc::new(Semaphore::new(1));
                    stream::watch(inner.api.server().clone(), OfOurName(inner), lists).boxed()
                }
                (Part::DesiredLogin, Some((source, sender))) => {
                    source.clone().follow(sender.clone()).boxed()
                }
                (Part::DesiredLogin, None) => std::future::pending().boxed(),
                (Part::Rounds, _) => inner.rounds().boxed(),
            }
        });
        tokio::spawn(stop.run_until_cancelled_owned(parts));
    }

    async fn ask(self: Arc<Self>, namespace: Arc<str>, mode: Mode) -> Result<(), PullSecretError> {
        let content = self.content();
        let told = self.cluster.read(|index| index.namespace_state(&namespace));
        {
            let now = Instant::now();
            let mut state = self.state();
            let seen = state.there.get(&namespace).map(|record| &record.seen);
            let wanted = self.wanted(&state, &namespace, seen, content.as_deref());
            let step = step(seen, wanted);
            let is_known = seen.is_some() || told != NamespaceState::Unknown;
            let is_going =
                state.in_flight.is_removing(&namespace) || told == NamespaceState::Terminating;
            if step == Step::Nothing && !is_going {
                return Ok(());
            }
            if !is_known && !state.strangers.try_take(now.into_std()) {
                return Err(PullSecretError::Busy);
            }
        }
        let outcome = Arc::clone(&self).fly(&namespace, mode).await;
        if let (Mode::Ensure, Err(trouble)) = (mode, &outcome) {
            if let PullSecretError::Foreign { .. } = trouble {
                self.report_foreign(&namespace);
            }
            self.report_refusal(&namespace, trouble);
        }
        outcome
    }

    /// What is to be in the Secrets now; `None` if it could not be read yet.
    fn content(&self) -> Option<Arc<DesiredLogin>> {
        self.content.borrow().clone()
    }

    /// What this Secret must hold. Which login it is does not matter if that is another replica's business, if it is not
    /// known, and for a while if others write it too: theirs may do as well.
    fn wanted(
        &self,
        state: &State,
        namespace: &str,
        seen: Option<&Seen>,
        content: Option<&DesiredLogin>,
    ) -> Wanted<'_> {
        let login = login_in(seen, &self.key);
        let conflict = state.conflicts.until(namespace, login, Instant::now());
        Wanted {
            login: content
                .filter(|_| conflict.is_none() && self.owns(namespace))
                .map(DesiredLogin::fingerprint),
            ..self.any_login()
        }
    }

    fn any_login(&self) -> Wanted<'_> {
        Wanted {
            key: &self.key,
            login: None,
        }
    }

    fn owns(&self, namespace: &str) -> bool {
        self.replicas.owns(&format!("secret/{namespace}"))
    }

    /// Tells that a Secret is in the way, if one is.
    fn report_foreign(&self, namespace: &str) {
        let Some(uid) = self.state().there.foreign(namespace).map(str::to_owned) else {
            return;
        };
        let name = self.api.name();
        if self
            .events
            .tell(self.secret(namespace, uid), Notice::ForeignSecret)
        {
            tracing::warn!(
                namespace,
                name,
                "this Secret is not managed here and stays as it is; Pods there lack the credentials for copies"
            );
        }
    }

    /// Reports a refusal by a quota or an admission policy where the people of the namespace see it.
    fn report_refusal(&self, namespace: &str, trouble: &PullSecretError) {
        let PullSecretError::Refused { reason, .. } = trouble else {
            return;
        };
        let notice = Notice::SecretRefused {
            reason: reason.clone(),
        };
        // There is no Secret, so there is no uid.
        if self
            .events
            .tell(self.secret(namespace, String::new()), notice)
        {
            tracing::warn!(
                namespace,
                name = self.api.name(),
                reason,
                "the API server refuses the pull Secret; raise the quota of the namespace or change the admission policy"
            );
        }
    }

    fn secret(&self, namespace: &str, uid: String) -> About {
        About {
            api_version: "v1".into(),
            kind: "Secret".into(),
            namespace: namespace.into(),
            name: self.api.name().into(),
            uid,
        }
    }

    /// Notes what is there.
    fn note(&self, namespace: &Arc<str>, seen: Option<Seen>) {
        {
            let mut state = self.state();
            match seen {
                Some(seen) => state.there.see(Arc::clone(namespace), seen),
                None => state.there.forget(namespace),
            }
        }
        self.wake();
    }

    /// There is something new to look at.
    fn wake(&self) {
        self.changed.send_replace(());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The Secrets of our name in all namespaces.
struct OfOurName(Arc<Inner>);

impl stream::Subject for OfOurName {
    type Object = Shown;

    fn kind(&self) -> &'static str {
        "Secret"
    }

    fn path(&self) -> String {
        Shown::url_path(&(), None)
    }

    fn keep(&self) -> Keep {
        Shown::KEEP
    }

    /// Without it the API server would refuse: no other Secret may be looked at.
    fn field_selector(&self) -> Option<String> {
        Some(format!("metadata.name={}", self.0.api.name()))
    }

    fn take(&self, event: Event<Shown>) {
        {
            let there = &mut self.0.state().there;
            match event {
                Event::Init => there.begin(),
                Event::InitDone => there.end(),
                Event::InitApply(secret) | Event::Apply(secret) => {
                    if let Some((namespace, seen)) = secret.into_seen() {
                        there.see(namespace, seen);
                    }
                }
                Event::Delete(secret) => {
                    if let Some((namespace, seen)) = secret.into_seen() {
                        there.lose(&namespace, &seen.version.uid);
                    }
                }
            }
        }
        self.0.wake();
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Watch => "the watch of pull Secrets",
            Self::DesiredLogin => "the look at the credentials for pulling",
            Self::Rounds => "the care for pull Secrets",
        })
    }
}
