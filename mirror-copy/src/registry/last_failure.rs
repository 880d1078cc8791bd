//! The failure for which a request is being retried.
//!
//! A caller that cannot wait for the last attempt would otherwise report a slow registry, whatever the cause.

use crate::error::{Operation, RegistryError};
use crate::lock::lock;
use std::sync::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// The error texts of a failed attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastFailure {
    /// For the operator: the text of the error.
    pub detail: String,
    /// For the user who named the image: [`RegistryError::public_text`] about "the backup registry".
    pub public: String,
}

#[derive(Default)]
pub(super) struct LastFailures {
    ping: Slot,
    manifest: Slot,
}

type Slot = Mutex<Option<(Instant, LastFailure)>>;

impl LastFailures {
    fn slot(&self, operation: Operation) -> Option<&Slot> {
        match operation {
            Operation::Ping => Some(&self.ping),
            Operation::ReadManifest => Some(&self.manifest),
            _ => None,
        }
    }

    /// Records an attempt; its failure is kept until the next one, if it is transient.
    pub(super) fn record<T>(&self, operation: Operation, attempt: &Result<T, RegistryError>) {
        let Some(slot) = self.slot(operation) else {
            return;
        };
        let error = attempt.as_ref().err();
        let failure = error
            .filter(|error| error.retry().is_transient())
            .map(|error| LastFailure {
                detail: error.to_string(),
                public: error.public_text("the backup registry"),
            });
        *lock(slot) = failure.map(|failure| (Instant::now(), failure));
    }

    pub(super) fn get(&self, operation: Operation, within: Duration) -> Option<LastFailure> {
        let slot = self.slot(operation)?;
        let last = lock(slot);
        let (_, failure) = last.as_ref().filter(|(at, _)| at.elapsed() <= within)?;
        Some(failure.clone())
    }
}
