//! Numbers, times and sentences of the page.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use crate::output::{count, human_bytes};
use crate::status::model::{ImageStatus, Progress, State, Totals, Upstream};

/// Returns the part of a whole in percent, rounded down: only the whole is 100.
pub(super) fn percent(part: u64, whole: u64) -> u64 {
    match whole {
        0 => 0,
        whole => u64::try_from(u128::from(part) * 100 / u128::from(whole)).unwrap_or(100),
    }
}

/// Returns the title of the overview.
pub(super) fn headline(images: Totals) -> String {
    let unprotected = images.unprotected();
    let wanted = images.protected() + unprotected;
    match (unprotected, wanted) {
        (0, 0) => "No image in use needs a copy".to_owned(),
        (0, 1) => "The only image in use is protected".to_owned(),
        (0, wanted) => format!("All {wanted} images in use are protected"),
        (1, wanted) => format!("1 of {wanted} images in use is not protected"),
        (unprotected, wanted) => {
            format!("{unprotected} of {wanted} images in use are not protected")
        }
    }
}

/// Turns a reason into a sentence.
pub(super) fn sentence(reason: &str) -> String {
    let mut characters = reason.chars();
    let first = characters.next().map(char::to_uppercase);
    let mut text: String = first.into_iter().flatten().chain(characters).collect();
    if !text.ends_with(['.', '!', '?', '…']) {
        text.push('.');
    }
    text
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "templates pass references"
)]
pub(super) fn size(bytes: &u64) -> String {
    human_bytes(*bytes)
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "templates pass references"
)]
pub(super) fn images(number: &usize) -> String {
    count(*number as u64, "image")
}

pub(super) fn percent_done(progress: &Progress) -> u64 {
    percent(
        progress.bytes_done,
        progress.bytes_total.unwrap_or_default(),
    )
}

pub(super) fn time(time: &Time) -> String {
    time.0.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// Returns the time since then in its largest unit.
pub(super) fn ago(then: &Time, now: Timestamp) -> String {
    let seconds = u64::try_from(now.duration_since(then.0).as_secs()).unwrap_or_default();
    let units = [(86_400, "day"), (3_600, "hour"), (60, "minute")];
    let unit = units.into_iter().find(|(length, _)| seconds >= *length);
    match unit {
        None => "less than a minute ago".to_owned(),
        Some((length, unit)) => format!("{} ago", count(seconds / length, unit)),
    }
}

pub(super) fn progress(progress: &Progress) -> String {
    let done = human_bytes(progress.bytes_done);
    let rate = human_bytes(progress.bytes_per_second);
    match progress.bytes_total {
        Some(total) => format!("{done} of {}, {rate}/s", human_bytes(total)),
        None => "its manifests are being read".to_owned(),
    }
}

/// Returns the next step of an operator; `None` if there is nothing to do.
pub(super) fn next_step(image: &ImageStatus) -> Option<&'static str> {
    match (image.state, image.upstream) {
        (State::Failed, Upstream::Gone) => {
            Some("Restore the copy, or move the workloads to an image that exists.")
        }
        (State::Failed, _) => Some(
            "Run mirror-sidecar check with this image to find the cause. The copy is retried with exponential backoff.",
        ),
        (State::Mirrored, Upstream::Gone) => Some(
            "Do not delete the copy, and move the workloads to an image that is still maintained.",
        ),
        (State::Missing, _) => Some(
            "Wait for the next check if the image is new. Otherwise, check the health of the backup.",
        ),
        _ => None,
    }
}

/// Returns everything about an image in one place, in sentences.
pub(super) fn sentences(image: &ImageStatus, now: Timestamp) -> Vec<String> {
    let mut sentences = vec![sentence(&image.reason)];
    sentences.extend(
        image
            .progress
            .as_ref()
            .map(|running| sentence(&format!("the copy is running: {}", progress(running)))),
    );
    sentences.extend(next_step(image).map(str::to_owned));
    sentences.push(match &image.rule {
        Some(rule) => sentence(&format!("{} decides about the image", rule.describe())),
        None => "No single rule decides about the image: the default applies, or its workloads have different rules."
            .to_owned(),
    });
    sentences.push(upstream(image).to_owned());
    let since = |then: &Time| format!("{} ({})", ago(then, now), time(then));
    let times = [
        (image.first_seen.as_ref(), "The image was first seen"),
        (
            image.last_check.as_ref(),
            "The backup last responded about the copy",
        ),
        (
            image.last_copy.as_ref(),
            "The copy was last created or updated",
        ),
    ];
    sentences.extend(
        times
            .into_iter()
            .filter_map(|(then, what)| Some(format!("{what} {}.", since(then?)))),
    );
    sentences
}

fn upstream(image: &ImageStatus) -> &'static str {
    match (image.upstream, image.state) {
        (Upstream::Current, State::Mirrored) => {
            "The original is there, with the digest of the copy."
        }
        (Upstream::Current, _) => "The original is there.",
        (Upstream::Moved, _) => "The tag of the original has another digest than the copy.",
        (Upstream::Gone, _) => "The original is not there any more.",
        (Upstream::Unknown, _) => {
            "The original was not checked yet, or its registry did not respond."
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(0, 0, 0)]
    #[case(1999, 2000, 99)]
    #[case(2000, 2000, 100)]
    #[case(u64::MAX, u64::MAX, 100)]
    fn only_the_whole_is_100_percent(#[case] part: u64, #[case] whole: u64, #[case] expected: u64) {
        assert_eq!(percent(part, whole), expected);
    }

    #[rstest]
    #[case(0, 0, "No image in use needs a copy")]
    #[case(1, 0, "The only image in use is protected")]
    #[case(7, 0, "All 7 images in use are protected")]
    #[case(7, 1, "1 of 8 images in use is not protected")]
    #[case(0, 2, "2 of 2 images in use are not protected")]
    fn the_headline_counts(#[case] mirrored: usize, #[case] failed: usize, #[case] expected: &str) {
        let totals = Totals {
            mirrored,
            failed,
            excluded: 3,
            ..Totals::default()
        };
        assert_eq!(headline(totals), expected);
    }

    #[rstest]
    #[case(59, "less than a minute ago")]
    #[case(60, "1 minute ago")]
    #[case(7_300, "2 hours ago")]
    #[case(90_000, "1 day ago")]
    #[case(-5, "less than a minute ago")]
    fn times_are_in_their_largest_unit(#[case] seconds: i64, #[case] expected: &str) {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let then = Time(Timestamp::from_second(1_000_000 - seconds).unwrap());
        assert_eq!(ago(&then, now), expected);
    }

    #[rstest]
    #[case("the copy waits", "The copy waits.")]
    #[case("Done.", "Done.")]
    #[case("", ".")]
    fn reasons_become_sentences(#[case] reason: &str, #[case] expected: &str) {
        assert_eq!(sentence(reason), expected);
    }
}
