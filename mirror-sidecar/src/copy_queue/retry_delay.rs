//! How long a failed copy waits for its next attempt.

use std::time::Duration;

use mirror_copy::Retry;

use crate::backoff::{doubling, jittered};

/// Failures after which a job is retried only on request: after half an hour of waits, or six hours in the penalty queue.
pub(super) const AUTOMATIC_ATTEMPTS: u32 = 12;

/// Returns the wait after the `failures`-th failure in a row: 1 s doubling to 15 minutes, with jitter so that many
/// images are not retried together. A permanent error waits five minutes: somebody has to act first, and each attempt
/// adds load.
pub(super) fn retry_delay(failures: u32, retry: Retry) -> Duration {
    const FIRST: Duration = Duration::from_secs(1);
    const LONGEST: Duration = Duration::from_mins(15);
    match retry {
        Retry::Permanent => Duration::from_mins(5),
        Retry::Transient { after } => {
            let delay = doubling(FIRST, LONGEST, failures);
            jittered(delay.max(after.unwrap_or_default()).min(LONGEST))
        }
    }
}

/// Returns the wait of a job in the penalty queue: 1 minute, doubling to an hour.
pub(super) fn penalty_delay(failures: u32) -> Duration {
    const FIRST: Duration = Duration::from_mins(1);
    const LONGEST: Duration = Duration::from_hours(1);
    jittered(doubling(FIRST, LONGEST, failures))
}
