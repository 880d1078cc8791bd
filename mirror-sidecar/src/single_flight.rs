//! One lookup for all requests of the same image, and a limited number of lookups.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mirror_contract::{ImageRef, Refusal};
use tokio::sync::watch;

/// Part of the limits that is available to lookups without priority: invented names must not displace the images that
/// workloads use.
const UNKNOWN_PART: usize = 2;

/// The number of lookups that run at the same time. A registry that does not respond must not delay those in others.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub total: usize,
    /// In one registry.
    pub of_host: usize,
}

/// The running lookups by image. Clones share them.
pub(crate) struct SingleFlight<T> {
    limits: Limits,
    running: Arc<Running<T>>,
}

type Running<T> = Mutex<HashMap<ImageRef<'static>, Flight<T>>>;

struct Flight<T> {
    result: LookupResult<T>,
    has_priority: bool,
}

/// The result of a lookup that may still be running.
pub(crate) struct LookupResult<T>(watch::Receiver<Option<Result<T, Refusal<'static>>>>);

/// Removes a lookup from the map when it ended, even by a panic.
struct Entry<T> {
    running: Arc<Running<T>>,
    image: ImageRef<'static>,
}

impl<T: Clone + Send + Sync + 'static> SingleFlight<T> {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            running: Arc::default(),
        }
    }

    /// Returns the result of the running lookup of `image`; `None` if there is none.
    pub(crate) fn join(&self, image: &ImageRef<'static>) -> Option<LookupResult<T>> {
        let running = lock(&self.running);
        running.get(image).map(|lookup| lookup.result.clone())
    }

    /// Joins the running lookup of `image`, or starts `lookup`, which continues if nobody waits for it. Returns `None` if too
    /// many are running. A lookup of an image that was found before `has_priority`, and so has a background check, whose number
    /// is limited elsewhere; others have a part of the room.
    pub(crate) fn join_or_start(
        &self,
        image: &ImageRef<'static>,
        has_priority: bool,
        lookup: impl Future<Output = Result<T, Refusal<'static>>> + Send + 'static,
    ) -> Option<LookupResult<T>> {
        let mut running = lock(&self.running);
        if let Some(lookup) = running.get(image) {
            return Some(lookup.result.clone());
        }
        let counted = |lookup: &Flight<T>| has_priority || !lookup.has_priority;
        let all = running.values().filter(|lookup| counted(lookup)).count();
        let of_host = running
            .iter()
            .filter(|(other, lookup)| other.host() == image.host() && counted(lookup));
        let part = if has_priority { 1 } else { UNKNOWN_PART };
        if all >= self.limits.total / part || of_host.count() >= self.limits.of_host / part {
            return None;
        }
        let (sender, receiver) = watch::channel(None);
        let result = LookupResult(receiver);
        running.insert(
            image.clone(),
            Flight {
                result: result.clone(),
                has_priority,
            },
        );
        drop(running);
        let entry = Entry {
            running: Arc::clone(&self.running),
            image: image.clone(),
        };
        tokio::spawn(async move {
            let found = lookup.await;
            // Later requests get the result from the caches.
            drop(entry);
            let _ = sender.send(Some(found));
        });
        Some(result)
    }
}

impl<T: Clone> LookupResult<T> {
    /// Waits until the lookup ends.
    pub(crate) async fn wait(mut self) -> Result<T, Refusal<'static>> {
        let found = match self.0.wait_for(Option::is_some).await {
            Ok(found) => found.clone(),
            Err(_) => None,
        };
        found.unwrap_or_else(|| Err(Refusal::unavailable("the lookup was aborted")))
    }
}

impl<T> Clone for LookupResult<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Drop for Entry<T> {
    fn drop(&mut self) {
        lock(&self.running).remove(&self.image);
    }
}

fn lock<T>(running: &Running<T>) -> MutexGuard<'_, HashMap<ImageRef<'static>, Flight<T>>> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use mirror_contract::RefusalKind;

    use super::*;

    const LIMITS: Limits = Limits {
        total: 64,
        of_host: 32,
    };

    fn image(host: &str, number: usize) -> ImageRef<'static> {
        format!("{host}/a{number}:1").parse().unwrap()
    }

    /// Starts lookups that never end at these hosts; returns how many were started.
    fn start(
        running: &SingleFlight<()>,
        host: impl Fn(usize) -> String,
        has_priority: bool,
    ) -> usize {
        let numbers = (0..100).map(|number| number + 1000 * usize::from(has_priority));
        let started = numbers.filter(|&number| {
            let image = image(&host(number), number);
            running
                .join_or_start(&image, has_priority, pending())
                .is_some()
        });
        started.count()
    }

    #[tokio::test]
    async fn unknown_images_leave_room_for_known_ones() {
        let running = SingleFlight::<()>::new(LIMITS);
        let one_host = |_| "harbor.test".to_owned();
        assert_eq!(
            start(&running, one_host, false),
            LIMITS.of_host / UNKNOWN_PART
        );
        let any_host = |number| format!("h{number}.test");
        let unknown = LIMITS.total / UNKNOWN_PART;
        assert_eq!(
            start(&running, any_host, false),
            unknown - LIMITS.of_host / UNKNOWN_PART
        );
        assert_eq!(
            start(&running, one_host, true),
            LIMITS.of_host / UNKNOWN_PART
        );
        assert_eq!(
            lock(&running.running).len(),
            unknown + LIMITS.of_host / UNKNOWN_PART
        );
        // Joining one needs no room.
        assert!(
            running
                .join_or_start(&image("harbor.test", 0), false, pending())
                .is_some()
        );
    }

    #[tokio::test]
    async fn a_lookup_that_panics_is_removed() {
        let running = SingleFlight::<()>::new(LIMITS);
        let image = image("harbor.test", 0);
        let lookup = async { panic!("a bug") };
        let found = running.join_or_start(&image, false, lookup).unwrap();
        assert_eq!(
            found.wait().await.unwrap_err().kind,
            RefusalKind::Unavailable
        );
        assert!(running.join(&image).is_none());
    }
}
