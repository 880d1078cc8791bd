//! Progress as lines: each step of few images, or for many images a line every few seconds.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use mirror_contract::naming::anchored_digest;
use mirror_copy::Event;

use super::super::tags::Listed;
use super::board::{Board, Image};
use crate::commands::list::RepositoryName;
use crate::output::{count, human_bytes};

/// Interval between lines about the same image, or the run.
const EVERY: Duration = Duration::from_secs(5);

/// The times of the last lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    run: Option<Instant>,
    images: HashMap<usize, Instant>,
}

impl Lines {
    /// Adds lines that are due.
    pub(super) fn tick(&mut self, board: &Board, now: Instant, lines: &mut Vec<String>) {
        let due = |last: &mut Instant| {
            let due = now.saturating_duration_since(*last) >= EVERY;
            if due {
                *last = now;
            }
            due
        };
        if !board.is_few() {
            if due(self.run.get_or_insert(now)) {
                lines.push(board.state());
            }
            return;
        }
        self.images
            .retain(|number, _| board.running.contains_key(number));
        for (number, image) in &board.running {
            if due(self.images.entry(*number).or_insert(now)) {
                lines.push(format!("{}: {}", image.name, image.state()));
            }
        }
    }
}

pub(super) fn listed(repository: &RepositoryName, tags: &Listed) -> String {
    let selected = match tags.not_selected {
        0 => String::new(),
        others => format!(" selected by --tags, {others} not"),
    };
    let left_out = match tags.left_out {
        0 => String::new(),
        others => format!(", and {others} made of digests, which come along with their images"),
    };
    let tags = count(tags.plans.len() as u64, "tag");
    format!("{repository}: {tags}{selected}{left_out}")
}

/// Returns the line for an event. Most events have none.
pub(super) fn line(image: &Image, event: &Event<'_>) -> Option<String> {
    let is_root = |digest| image.root.as_ref() == Some(digest);
    let text = match *event {
        Event::Resolved { digest } => digest.to_string(),
        Event::Planned {
            blobs,
            bytes,
            manifests,
        } => format!(
            "copying {} ({}), {}",
            count(blobs, "blob"),
            human_bytes(bytes),
            count(manifests, "manifest")
        ),
        Event::ManifestSkipped { digest } if is_root(digest) => "already there".into(),
        Event::BlobFailed { digest, error, .. } => format!("{digest} is sent again: {error}"),
        Event::ManifestPushed { digest } if is_root(digest) => "pushed".into(),
        Event::ReferrerCopied { subject, digest } => {
            format!("copied referrer {digest} of {subject}")
        }
        Event::ReferrerLeftOut { subject, error } => {
            format!("left out a referrer of {subject}: {error}")
        }
        // Anchors are internal.
        Event::Tagged { tag, .. } if anchored_digest(tag).is_none() => format!("tagged {tag}"),
        _ => return None,
    };
    Some(format!("{}: {text}", image.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ticks for twenty seconds, and gives what was said.
    fn said(images: usize) -> Vec<String> {
        let start = Instant::now();
        let mut board = Board::new(start);
        board.total = images;
        for number in 0..images {
            board.begin(number, "docker.io/library/nginx:1", start);
        }
        let (mut lines, mut said) = (Lines::default(), Vec::new());
        for tenth in 0..=200 {
            let now = start + Duration::from_millis(100 * tenth);
            lines.tick(&board, now, &mut said);
        }
        said
    }

    #[test]
    fn few_images_have_a_line_each_every_few_seconds() {
        let said = said(2);
        assert_eq!(said.len(), 2 * 4, "{said:?}");
        assert_eq!(said[0], "docker.io/library/nginx:1: reading manifests");
    }

    #[test]
    fn many_images_have_one_line_every_few_seconds() {
        let said = said(100);
        assert_eq!(said.len(), 4, "{said:?}");
        assert!(said[0].starts_with("0 of 100 images done"), "{said:?}");
    }

    #[test]
    fn referrers_have_lines_of_their_own() {
        let now = Instant::now();
        let mut board = Board::new(now);
        board.begin(0, "a", now);
        let [subject, digest] =
            ["a", "b"].map(|letter| format!("sha256:{}", letter.repeat(64)).parse().unwrap());
        let (subject, digest) = (&subject, &digest);
        let said = |event| line(&board.running[&0], &event).unwrap();
        assert_eq!(
            said(Event::ReferrerCopied { subject, digest }),
            format!("a: copied referrer {digest} of {subject}")
        );
        let object = "x".into();
        let error = &mirror_copy::CopyError::SourceMissing { object };
        assert_eq!(
            said(Event::ReferrerLeftOut { subject, error }),
            format!("a: left out a referrer of {subject}: {error}")
        );
    }
}
