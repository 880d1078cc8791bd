//! One work at a time in a namespace, however many wait for it; and it goes on when nobody waits any more.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use mirror_contract::Mode;

use super::Inner;
use super::error::PullSecretError;

/// Works that may be under way. Policy servers ask one question at a time, so more means that the API server hangs, and
/// then one more request helps nobody.
const MAX_IN_FLIGHT: usize = 64;

type Outcome = Result<(), PullSecretError>;
type Flight = Shared<BoxFuture<'static, Outcome>>;

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Work {
    Bring,
    Peek,
    Remove,
}

/// The works that are under way.
#[derive(Default)]
pub(super) struct SingleFlight(HashMap<(Arc<str>, Work), Flight>);

impl SingleFlight {
    /// Whether the Secret of this namespace is being removed.
    pub(super) fn is_removing(&self, namespace: &Arc<str>) -> bool {
        self.find(namespace, Work::Remove).is_some()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    fn find(&self, namespace: &Arc<str>, work: Work) -> Option<Flight> {
        self.0.get(&(Arc::clone(namespace), work)).cloned()
    }
}

impl Inner {
    /// Makes the Secret as it should be, after a removal that is under way.
    pub(super) async fn fly(self: Arc<Self>, namespace: &Arc<str>, mode: Mode) -> Outcome {
        let work = match mode {
            Mode::Ensure => Work::Bring,
            Mode::Peek => Work::Peek,
        };
        self.fly_after(namespace, work, Work::Remove).await
    }

    /// Removes the Secret, unless it is needed by now.
    pub(super) async fn fly_away(self: Arc<Self>, namespace: &Arc<str>) -> Outcome {
        self.fly_after(namespace, Work::Remove, Work::Bring).await
    }

    async fn fly_after(self: Arc<Self>, namespace: &Arc<str>, work: Work, other: Work) -> Outcome {
        loop {
            let other = match self.board(namespace, work, other)? {
                Ok(flight) => return flight.await,
                Err(other) => other,
            };
            // However it ends.
            let _ = other.await;
        }
    }

    /// The flight, or the one that must end before.
    fn board(
        self: &Arc<Self>,
        namespace: &Arc<str>,
        work: Work,
        other: Work,
    ) -> Result<Result<Flight, Flight>, PullSecretError> {
        let mut state = self.state();
        let in_flight = &mut state.in_flight;
        if let Some(other) = in_flight.find(namespace, other) {
            return Ok(Err(other));
        }
        if let Some(flight) = in_flight.find(namespace, work) {
            return Ok(Ok(flight));
        }
        if in_flight.0.len() >= MAX_IN_FLIGHT {
            return Err(PullSecretError::Busy);
        }
        let landing = Landing {
            inner: Arc::clone(self),
            key: (Arc::clone(namespace), work),
        };
        let task = tokio::spawn(landing.work());
        let flight = async move { task.await.unwrap_or(Err(PullSecretError::BrokeOff)) };
        let flight = flight.boxed().shared();
        let key = (Arc::clone(namespace), work);
        in_flight.0.insert(key, flight.clone());
        Ok(Ok(flight))
    }
}

/// Takes the flight off the list, also if it breaks off.
struct Landing {
    inner: Arc<Inner>,
    key: (Arc<str>, Work),
}

impl Landing {
    async fn work(self) -> Outcome {
        let (namespace, work) = &self.key;
        match work {
            Work::Bring => self.inner.bring(namespace, Mode::Ensure).await,
            Work::Peek => self.inner.bring(namespace, Mode::Peek).await,
            Work::Remove => self.inner.remove(namespace).await,
        }
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        let flight = self.inner.state().in_flight.0.remove(&self.key);
        // It may be the last to know of the task, which must not end under the lock.
        drop(flight);
    }
}
