//! Which object needs a write, as a pure function of the object that exists and the one that should.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::resource::{MirroredImage, to_seconds};
use crate::status::model::{State, Upstream};

/// How far the time of the last check in an object may lag behind. It changes with each re-check, and with thousands of images
/// writing it each time would be the most frequent write of all.
pub(super) const CHECK_LAG: SignedDuration = SignedDuration::from_hours(24);

/// How urgently an object needs a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Urgency {
    /// The state changed, or the object is not there.
    Urgent,
    /// Something else changed, or what changed may soon change again.
    Patient,
}

/// Returns the object to write, and how urgently; `None` if the stored one may stay. `desired` became what it is at `now`.
pub(super) fn plan(
    mut desired: MirroredImage,
    stored: Option<&MirroredImage>,
    now: Timestamp,
) -> Option<(MirroredImage, Urgency)> {
    let status = &desired.status;
    let Some(stored) = stored else {
        // A new image is copied in a moment, and the size of a copy is known a little later: one write has both.
        let is_to_change = status.state == State::Missing
            || (status.state == State::Mirrored && status.bytes.is_none());
        let urgency = if is_to_change {
            Urgency::Patient
        } else {
            Urgency::Urgent
        };
        return Some((desired, urgency));
    };
    keep(&mut desired, stored, now);
    let check = &mut desired.status.last_check_time;
    let latest = std::mem::replace(check, stored.status.last_check_time.clone());
    let is_same = desired == *stored;
    if is_same && !lags(stored.status.last_check_time.as_ref(), latest.as_ref()) {
        return None;
    }
    let urgency = if is_same || !is_urgent(&desired, stored) {
        Urgency::Patient
    } else {
        Urgency::Urgent
    };
    desired.status.last_check_time = latest.or(desired.status.last_check_time.take());
    Some((desired, urgency))
}

/// Keeps what is still true of the stored object, and what a replica does not know after it started.
fn keep(desired: &mut MirroredImage, stored: &MirroredImage, now: Timestamp) {
    let (new, old) = (&mut desired.status, &stored.status);
    for condition in &mut new.conditions {
        let mut known = old.conditions.iter();
        let same = known.find(|known| {
            known.type_ == condition.type_
                && known.status == condition.status
                && known.last_transition_time.0 <= now
        });
        if let Some(same) = same {
            condition.last_transition_time = same.last_transition_time.clone();
        }
    }
    // The progress of a copy changes all the time.
    if new.state == State::Copying && old.state == State::Copying {
        new.reason.clone_from(&old.reason);
        for condition in &mut new.conditions {
            condition.message.clone_from(&old.reason);
        }
    }
    if new.digest.is_none() || new.digest != old.digest {
        return;
    }
    if new.bytes.is_none() {
        new.bytes = old.bytes;
        new.size = old.bytes.map(crate::output::human_bytes);
        new.platforms.clone_from(&old.platforms);
    }
    if new.upstream == Upstream::Unknown {
        new.upstream = old.upstream;
    }
    let is_past = |time: &Time| time.0 <= to_seconds(now);
    let old_copy = old.last_copy_time.clone().filter(is_past);
    new.last_copy_time = new.last_copy_time.take().max(old_copy);
}

/// Returns whether the stored time of a check is too old, or was written by somebody else.
fn lags(stored: Option<&Time>, latest: Option<&Time>) -> bool {
    match (stored, latest) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(stored), Some(latest)) => stored.0.duration_until(latest.0).abs() > CHECK_LAG,
    }
}

fn is_urgent(desired: &MirroredImage, stored: &MirroredImage) -> bool {
    // An attempt to copy the image again fails again as a rule, within seconds.
    let is_attempt = stored.status.state == State::Failed
        && matches!(desired.status.state, State::Missing | State::Copying);
    let statuses = |object: &MirroredImage| -> Vec<(String, String)> {
        let conditions = object.status.conditions.iter();
        conditions
            .map(|condition| (condition.type_.clone(), condition.status.clone()))
            .collect()
    };
    !is_attempt
        && (desired.labels != stored.labels
            || desired.spec != stored.spec
            || desired.status.state != stored.status.state
            || desired.status.digest != stored.status.digest
            || desired.status.target != stored.status.target
            || statuses(desired) != statuses(stored))
}

#[cfg(test)]
mod tests;
