//! Health of the backup registry: it responds, its certificate is accepted, and so is the login.
//!
//! The registry is probed every few seconds, whether or not a copy needs it. Each change is logged once, with the next
//! step, and published for the Events of the cluster. Denied uploads count as well, since some registries show only
//! then that a login may not push.

mod state;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mirror_copy::{Registry, RegistryError};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::origin::BackupOrigin;
use state::{Change, State};
pub use state::{Trouble, TroubleKind};

/// Interval between probes of a healthy registry. A probe is one request to the registry's root, which registries do
/// not rate-limit.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);

/// Interval between probes after a failure.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// The health of the backup registry. Clones share it.
#[derive(Clone)]
pub struct BackupHealth {
    inner: Arc<Inner>,
}

struct Inner {
    registry: Registry,
    origin: BackupOrigin,
    /// In log lines; `None` for the default backup.
    backup: Option<String>,
    state: Mutex<State>,
    trouble: watch::Sender<Option<Trouble>>,
    probe_now: Notify,
}

impl BackupHealth {
    /// The health of `registry` before the first probe.
    pub fn new(registry: Registry, origin: BackupOrigin) -> Self {
        let backup = Some(origin.name()).filter(|backup| !backup.is_default());
        Self {
            inner: Arc::new(Inner {
                registry,
                backup: backup.map(|backup| backup.to_string()),
                origin,
                state: Mutex::new(State::default()),
                trouble: watch::Sender::new(None),
                probe_now: Notify::new(),
            }),
        }
    }

    /// The name of the backup for log lines and Events; `None` for the default backup.
    pub fn backup(&self) -> Option<&str> {
        self.inner.backup.as_deref()
    }

    /// The action that an operator takes.
    pub fn next_step(&self, kind: TroubleKind) -> String {
        let origin = &self.inner.origin;
        match kind {
            TroubleKind::Unavailable => format!(
                "check the registry, {}, and the network between it and mirror-sidecar",
                origin.registry()
            ),
            TroubleKind::Certificate => {
                "renew it, or name the authority that signed it with --ca-file".to_owned()
            }
            TroubleKind::Login => format!("correct {}", origin.push()),
            TroubleKind::Uploads => {
                "check that its login may push there and create repositories, or create them by hand"
                    .to_owned()
            }
        }
    }

    /// Probes the registry until the task is dropped.
    pub async fn run(self) {
        loop {
            self.probe().await;
            let pause = if self.state().is_settled() {
                PROBE_INTERVAL
            } else {
                RETRY_INTERVAL
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = self.inner.probe_now.notified() => {}
            }
        }
    }

    /// The current reason why the registry cannot be used; follows each change.
    pub fn subscribe(&self) -> watch::Receiver<Option<Trouble>> {
        self.inner.trouble.subscribe()
    }

    /// Returns whether the registry is known, and was logged, to be unusable.
    pub fn is_in_trouble(&self) -> bool {
        self.inner.trouble.borrow().is_some()
    }

    /// Returns whether the registry has not responded to several probes in a row.
    pub fn is_unavailable(&self) -> bool {
        let trouble = self.inner.trouble.borrow();
        let kind = trouble.as_ref().map(|trouble| trouble.kind);
        kind == Some(TroubleKind::Unavailable)
    }

    /// Reports a failed request: the registry is probed soon.
    pub fn suspect(&self) {
        self.inner.probe_now.notify_one();
    }

    /// Reports an upload to `repository` that the registry denied.
    pub fn upload_denied(&self, repository: &str, error: &RegistryError) {
        let change = self
            .state()
            .upload_denied(repository, error.to_string(), Instant::now());
        self.report(change);
    }

    /// Reports an upload to `repository` that the registry accepted.
    pub fn uploaded(&self, repository: &str) {
        let change = self.state().uploaded(repository);
        self.report(change);
    }

    async fn probe(&self) {
        // The registry responds and is throttling. A probe would wait for the end of the pause.
        if self.inner.registry.is_paused() {
            return;
        }
        let result = match timeout(PROBE_TIMEOUT, self.inner.registry.probe()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) if error.status() == Some(429) => return,
            Err(_) if self.inner.registry.is_paused() => return,
            Ok(Err(error)) => Err(Trouble::of(&error)),
            Err(_) => Err(Trouble {
                kind: TroubleKind::Unavailable,
                reason: format!(
                    "registry {} does not respond within {} s",
                    self.inner.registry.host(),
                    PROBE_TIMEOUT.as_secs()
                ),
            }),
        };
        let change = self.state().probed(result, Instant::now());
        self.report(change);
    }

    fn report(&self, change: Option<Change>) {
        let (registry, backup) = (self.inner.registry.host(), self.backup());
        match change {
            None => {}
            Some(Change::Trouble(trouble)) => {
                tracing::warn!(
                    registry,
                    backup,
                    reason = trouble.reason,
                    "{}; {}",
                    trouble.kind,
                    self.next_step(trouble.kind)
                );
                self.inner.trouble.send_replace(Some(trouble));
            }
            Some(Change::Recovered) => {
                tracing::info!(registry, backup, "the backup registry can be used again");
                self.inner.trouble.send_replace(None);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for BackupHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackupHealth")
            .field("registry", &self.inner.registry.host())
            .finish_non_exhaustive()
    }
}

impl Trouble {
    fn of(error: &RegistryError) -> Self {
        let kind = if error.is_certificate() {
            TroubleKind::Certificate
        } else if error.is_denied() {
            TroubleKind::Login
        } else {
            TroubleKind::Unavailable
        };
        Self {
            kind,
            reason: error.to_string(),
        }
    }
}

impl TroubleKind {
    /// Returns whether one response is conclusive.
    const fn is_definite(self) -> bool {
        !matches!(self, Self::Unavailable)
    }
}

impl fmt::Display for TroubleKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unavailable => "the backup registry cannot be reached or used",
            Self::Certificate => "the certificate of the backup registry is not accepted",
            Self::Login => "the backup registry refuses the login",
            Self::Uploads => "the backup registry denies uploads",
        })
    }
}
