//! Progress as JSON: one object per line, with the kind of event in `event`.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use mirror_copy::{Digest, Event};
use serde::Serialize;

use super::super::result::Copied;
use super::super::tags::Listed;
use super::board::Board;
use crate::commands::list::RepositoryName;

/// Interval between objects about the bytes of one image.
const EVERY: Duration = Duration::from_secs(1);

/// The time and the bytes of the last object of each image.
#[derive(Debug, Default)]
pub(super) struct Events(HashMap<usize, (Instant, u64)>);

/// The objects. Their names and fields are an interface for other programs.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Object<'a> {
    Listed {
        repository: String,
        tags: usize,
        left_out: usize,
        not_selected: usize,
    },
    NotListed {
        repository: String,
        error: &'a str,
    },
    Resolved {
        image: &'a str,
        digest: &'a Digest,
    },
    Planned {
        image: &'a str,
        blobs: u64,
        bytes: u64,
        manifests: u64,
    },
    ManifestSkipped {
        image: &'a str,
        digest: &'a Digest,
    },
    BlobSkipped {
        image: &'a str,
        digest: &'a Digest,
        size: u64,
    },
    BlobMounted {
        image: &'a str,
        digest: &'a Digest,
        size: u64,
        from: &'a str,
    },
    /// The source holds back the first byte of a blob; reported once for each wait.
    WaitingForSource {
        image: &'a str,
        digest: &'a Digest,
    },
    BlobStarted {
        image: &'a str,
        digest: &'a Digest,
        size: u64,
    },
    BlobFailed {
        image: &'a str,
        digest: &'a Digest,
        error: String,
    },
    BlobCopied {
        image: &'a str,
        digest: &'a Digest,
        size: u64,
    },
    /// Bytes of the image that were sent, and all bytes to send.
    Bytes {
        image: &'a str,
        sent: u64,
        total: u64,
    },
    ManifestPushed {
        image: &'a str,
        digest: &'a Digest,
    },
    ReferrerCopied {
        image: &'a str,
        subject: &'a Digest,
        digest: &'a Digest,
    },
    ReferrerLeftOut {
        image: &'a str,
        subject: &'a Digest,
        error: String,
    },
    Tagged {
        image: &'a str,
        tag: &'a str,
        digest: &'a Digest,
    },
    Copied {
        image: &'a str,
        target: &'a str,
        digest: &'a Digest,
        bytes: u64,
    },
    Present {
        image: &'a str,
        target: &'a str,
        digest: &'a Digest,
    },
    Failed {
        image: &'a str,
        target: &'a str,
        error: String,
    },
    Finished {
        images: usize,
        copied: usize,
        present: usize,
        failed: usize,
        failed_repositories: usize,
        bytes: u64,
    },
    Interrupted,
}

impl Object<'_> {
    fn line(&self) -> String {
        // Strings and numbers cannot fail to be serialized.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl Events {
    /// Adds objects that are due.
    pub(super) fn tick(&mut self, board: &Board, now: Instant, lines: &mut Vec<String>) {
        self.0
            .retain(|number, _| board.running.contains_key(number));
        for (number, image) in &board.running {
            let sent = image.sent();
            let (at, said) = self.0.entry(*number).or_insert((now, 0));
            if sent != *said && now.saturating_duration_since(*at) >= EVERY {
                (*at, *said) = (now, sent);
                let object = Object::Bytes {
                    image: &image.name,
                    sent,
                    total: image.to_send().bytes,
                };
                lines.push(object.line());
            }
        }
    }
}

/// Returns the object for an event of the engine. Bytes are reported by [`Events::tick`].
pub(super) fn line(image: &str, event: &Event<'_>) -> Option<String> {
    let object = match *event {
        Event::Resolved { digest } => Object::Resolved { image, digest },
        Event::Planned {
            blobs,
            bytes,
            manifests,
        } => Object::Planned {
            image,
            blobs,
            bytes,
            manifests,
        },
        Event::ManifestSkipped { digest } => Object::ManifestSkipped { image, digest },
        Event::BlobSkipped { digest, size } => Object::BlobSkipped {
            image,
            digest,
            size,
        },
        Event::BlobMounted { digest, size, from } => Object::BlobMounted {
            image,
            digest,
            size,
            from,
        },
        Event::WaitingForSource { digest } => Object::WaitingForSource { image, digest },
        Event::BlobStarted { digest, size } => Object::BlobStarted {
            image,
            digest,
            size,
        },
        Event::BlobFailed { digest, error, .. } => Object::BlobFailed {
            image,
            digest,
            error: error.to_string(),
        },
        Event::BlobCopied { digest, size } => Object::BlobCopied {
            image,
            digest,
            size,
        },
        Event::ManifestPushed { digest } => Object::ManifestPushed { image, digest },
        Event::ReferrerCopied { subject, digest } => Object::ReferrerCopied {
            image,
            subject,
            digest,
        },
        Event::ReferrerLeftOut { subject, error } => Object::ReferrerLeftOut {
            image,
            subject,
            error: error.to_string(),
        },
        Event::Tagged { tag, digest } => Object::Tagged { image, tag, digest },
        _ => return None,
    };
    Some(object.line())
}

pub(super) fn listed(repository: &RepositoryName, tags: &Listed) -> String {
    let object = Object::Listed {
        repository: repository.to_string(),
        tags: tags.plans.len(),
        left_out: tags.left_out,
        not_selected: tags.not_selected,
    };
    object.line()
}

pub(super) fn not_listed(repository: &RepositoryName, error: &str) -> String {
    let repository = repository.to_string();
    Object::NotListed { repository, error }.line()
}

pub(super) fn ended(copied: &Copied) -> String {
    let (image, target) = (copied.plan.image.as_str(), copied.plan.copy.as_str());
    let object = match &copied.result {
        Ok(report) if report.manifests == 0 => Object::Present {
            image,
            target,
            digest: &report.digest,
        },
        Ok(report) => Object::Copied {
            image,
            target,
            digest: &report.digest,
            bytes: report.bytes,
        },
        Err(error) => Object::Failed {
            image,
            target,
            error: error.to_string(),
        },
    };
    object.line()
}

pub(super) fn finished(board: &Board) -> String {
    let object = Object::Finished {
        images: board.total,
        copied: board.copied,
        present: board.present,
        failed: board.failed,
        failed_repositories: board.failed_repositories,
        bytes: board.sent,
    };
    object.line()
}

pub(super) fn interrupted() -> String {
    Object::Interrupted.line()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_told_once_a_second_and_only_when_they_move() {
        let start = Instant::now();
        let mut board = Board::new(start);
        board.begin(0, "a", start);
        let digest: Digest = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
        let (digest, size) = (&digest, 1000);
        board.apply(0, &Event::BlobStarted { digest, size }, start);
        let (mut events, mut lines) = (Events::default(), Vec::new());
        for tenth in 0..100 {
            let now = start + Duration::from_millis(100 * tenth);
            if tenth < 35 {
                board.apply(0, &Event::Bytes { digest, bytes: 1 }, now);
            }
            events.tick(&board, now, &mut lines);
        }
        let expected = [11, 21, 31, 35]
            .map(|sent| format!(r#"{{"event":"bytes","image":"a","sent":{sent},"total":0}}"#));
        assert_eq!(lines, expected);
    }

    #[test]
    fn referrers_are_told_with_their_subject() {
        let [subject, digest] =
            ["a", "b"].map(|letter| format!("sha256:{}", letter.repeat(64)).parse().unwrap());
        let (subject, digest) = (&subject, &digest);
        let copied = line("i", &Event::ReferrerCopied { subject, digest }).unwrap();
        let expected = format!(
            r#"{{"event":"referrer_copied","image":"i","subject":"{subject}","digest":"{digest}"}}"#
        );
        assert_eq!(copied, expected);
        let object = "x".into();
        let error = &mirror_copy::CopyError::SourceMissing { object };
        let left_out = line("i", &Event::ReferrerLeftOut { subject, error }).unwrap();
        let start =
            format!(r#"{{"event":"referrer_left_out","image":"i","subject":"{subject}","error":""#);
        assert!(left_out.starts_with(&start), "{left_out}");
    }
}
