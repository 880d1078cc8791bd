//! The lookups that are running: one for each image, and a limited number.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mirror_contract::{Digest, ImageRef, Refusal, RefusalKind};
use tokio::sync::watch;

/// Concurrent lookups in total, and at one host. Each lasts up to a minute, and waits most of that time.
const MAX_RUNNING: usize = 64;
const MAX_OF_HOST: usize = 32;

/// Part of the limits that is available to lookups without priority: invented names must not displace the images that workloads
/// use.
const UNKNOWN_PART: usize = 2;

/// The digest of an image that the target has, or the reason why it cannot be used.
pub(crate) type Found = Result<Digest<'static>, Refusal<'static>>;

/// The running lookups by image. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Running(Arc<Mutex<HashMap<ImageRef<'static>, One>>>);

struct One {
    result: LookupResult,
    has_priority: bool,
}

/// The result of a lookup that may still be running.
#[derive(Clone)]
pub(super) struct LookupResult(watch::Receiver<Option<Found>>);

/// Removes a lookup from the map when it ended, even by a panic.
struct Entry {
    running: Running,
    image: ImageRef<'static>,
}

impl Running {
    /// Returns the result of the running lookup of `image`; `None` if there is none.
    pub(super) fn join(&self, image: &ImageRef<'static>) -> Option<LookupResult> {
        let running = self.lock();
        running.get(image).map(|one| one.result.clone())
    }

    /// Joins the running lookup of `image`, or starts `lookup`. Returns `None` if too many are running. A lookup of an image that
    /// was found before `has_priority`, and so has a background check, whose number is limited elsewhere.
    pub(super) fn join_or_start(
        &self,
        image: &ImageRef<'static>,
        has_priority: bool,
        lookup: impl Future<Output = Found> + Send + 'static,
    ) -> Option<LookupResult> {
        let mut running = self.lock();
        if let Some(one) = running.get(image) {
            return Some(one.result.clone());
        }
        let counted = |one: &One| has_priority || !one.has_priority;
        let all = running.values().filter(|one| counted(one)).count();
        let of_host = running
            .iter()
            .filter(|(other, one)| other.host() == image.host() && counted(one));
        let part = if has_priority { 1 } else { UNKNOWN_PART };
        if all >= MAX_RUNNING / part || of_host.count() >= MAX_OF_HOST / part {
            return None;
        }
        let (sender, found) = watch::channel(None);
        let result = LookupResult(found);
        let one = One {
            result: result.clone(),
            has_priority,
        };
        running.insert(image.clone(), one);
        drop(running);
        let entry = Entry {
            running: self.clone(),
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

    fn lock(&self) -> MutexGuard<'_, HashMap<ImageRef<'static>, One>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.running.lock().remove(&self.image);
    }
}

impl LookupResult {
    /// Waits until the lookup ends.
    pub(super) async fn wait(mut self) -> Found {
        let found = match self.0.wait_for(Option::is_some).await {
            Ok(found) => found.clone(),
            Err(_) => None,
        };
        found.unwrap_or_else(|| {
            let reason = "the lookup was aborted";
            Err(Refusal::new(RefusalKind::Unavailable, reason))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    fn image(host: &str, number: usize) -> ImageRef<'static> {
        format!("{host}/a{number}:1").parse().unwrap()
    }

    /// Starts lookups that never end at these hosts; returns how many were started.
    fn start(running: &Running, host: impl Fn(usize) -> String, has_priority: bool) -> usize {
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
        let running = Running::default();
        let one_host = |_| "harbor.test".to_owned();
        assert_eq!(start(&running, one_host, false), MAX_OF_HOST / UNKNOWN_PART);
        let any_host = |number| format!("h{number}.test");
        let unknown = MAX_RUNNING / UNKNOWN_PART;
        assert_eq!(
            start(&running, any_host, false),
            unknown - MAX_OF_HOST / UNKNOWN_PART
        );
        assert_eq!(start(&running, one_host, true), MAX_OF_HOST / UNKNOWN_PART);
        assert_eq!(running.lock().len(), unknown + MAX_OF_HOST / UNKNOWN_PART);
        // Joining one needs no room.
        assert!(
            running
                .join_or_start(&image("harbor.test", 0), false, pending())
                .is_some()
        );
    }

    #[tokio::test]
    async fn a_lookup_that_panics_is_removed() {
        let running = Running::default();
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
