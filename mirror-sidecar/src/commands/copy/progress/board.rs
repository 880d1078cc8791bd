//! How far a run is. Pure: events and clock readings in, figures out.

mod rate;

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use mirror_copy::{CopyReport, Digest, Event};

use crate::output::human_bytes;
use rate::Rate;

/// Images that are shown one by one. Of more, only their number helps.
const FEW: usize = 4;

/// How far a run is.
#[derive(Debug)]
pub(super) struct Board {
    started: Instant,
    /// Images to copy.
    pub(super) total: usize,
    pub(super) copied: usize,
    /// Images that their targets already had.
    pub(super) present: usize,
    pub(super) failed: usize,
    /// Bytes sent, those of failed attempts included.
    pub(super) sent: u64,
    pub(super) rate: Rate,
    /// The copies in progress, by number.
    pub(super) running: BTreeMap<usize, Image>,
}

/// How far the copy of one image is.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) name: String,
    /// The root manifest, as soon as it is known.
    pub(super) root: Option<Digest>,
    /// Whether it is known what there is to do.
    pub(super) planned: bool,
    /// Blobs and bytes that the target lacks, as far as is known.
    pub(super) blobs: u64,
    pub(super) bytes: u64,
    /// Blobs that were sent, and their bytes.
    sent_blobs: u64,
    sent_bytes: u64,
    pub(super) rate: Rate,
    /// The blobs on their way.
    pub(super) layers: HashMap<Digest, Layer>,
}

/// A blob on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layer {
    pub(super) size: u64,
    /// Bytes sent by the present attempt.
    pub(super) sent: u64,
    pub(super) rate: Rate,
}

impl Board {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            started: now,
            total: 0,
            copied: 0,
            present: 0,
            failed: 0,
            sent: 0,
            rate: Rate::new(now),
            running: BTreeMap::new(),
        }
    }

    /// Whether images are shown one by one.
    pub(super) fn is_few(&self) -> bool {
        self.total <= FEW
    }

    /// Images that came to their end, one way or another.
    pub(super) fn done(&self) -> usize {
        self.copied + self.present + self.failed
    }

    pub(super) fn begin(&mut self, number: usize, name: &str, now: Instant) {
        let image = Image {
            name: name.to_owned(),
            root: None,
            planned: false,
            blobs: 0,
            bytes: 0,
            sent_blobs: 0,
            sent_bytes: 0,
            rate: Rate::new(now),
            layers: HashMap::new(),
        };
        self.running.insert(number, image);
    }

    pub(super) fn apply(&mut self, number: usize, event: &Event<'_>, now: Instant) {
        if let Event::Bytes { bytes, .. } = event {
            self.sent = self.sent.saturating_add(*bytes);
        }
        if let Some(image) = self.running.get_mut(&number) {
            image.apply(event, now);
        }
    }

    pub(super) fn tick(&mut self, now: Instant) {
        self.rate.update(self.sent, now);
        for image in self.running.values_mut() {
            let sent = image.sent();
            image.rate.update(sent, now);
            for layer in image.layers.values_mut() {
                layer.rate.update(layer.sent, now);
            }
        }
    }

    /// A copy ended, with a report if it succeeded.
    pub(super) fn end(&mut self, number: usize, report: Option<&CopyReport>) {
        self.running.remove(&number);
        match report {
            None => self.failed += 1,
            Some(report) if report.manifests == 0 => self.present += 1,
            Some(_) => self.copied += 1,
        }
    }

    /// The whole run in one line.
    pub(super) fn summary(&self) -> String {
        format!(
            "{} images: {} copied, {} already there, {} failed; {} sent in {:.1} s",
            self.total,
            self.copied,
            self.present,
            self.failed,
            human_bytes(self.sent),
            self.started.elapsed().as_secs_f64()
        )
    }

    /// The run so far in one line.
    pub(super) fn state(&self) -> String {
        let failed = match self.failed {
            0 => String::new(),
            failed => format!(", {failed} failed"),
        };
        format!(
            "{} of {} images done{failed}, {} sent, {}",
            self.done(),
            self.total,
            human_bytes(self.sent),
            self.rate
        )
    }
}

impl Image {
    fn apply(&mut self, event: &Event<'_>, now: Instant) {
        match *event {
            Event::Resolved { digest } => self.root = Some(digest.clone()),
            Event::Planned { blobs, bytes, .. } => {
                self.planned = true;
                self.blobs = self.blobs.saturating_add(blobs);
                self.bytes = self.bytes.saturating_add(bytes);
            }
            // What need not be sent is no part of the way.
            Event::BlobSkipped { size, .. } | Event::BlobMounted { size, .. } => {
                self.blobs = self.blobs.saturating_sub(1);
                self.bytes = self.bytes.saturating_sub(size);
            }
            // Also after a failure: then the blob is sent from its beginning.
            Event::BlobStarted { digest, size } => {
                let (sent, rate) = (0, Rate::new(now));
                let layer = Layer { size, sent, rate };
                self.layers.insert(digest.clone(), layer);
            }
            Event::BlobFailed { digest, .. } => {
                if let Some(layer) = self.layers.get_mut(digest) {
                    layer.sent = 0;
                }
            }
            Event::Bytes { digest, bytes } => {
                if let Some(layer) = self.layers.get_mut(digest) {
                    layer.sent = layer.sent.saturating_add(bytes).min(layer.size);
                }
            }
            Event::BlobCopied { digest, size } => {
                self.layers.remove(digest);
                self.sent_blobs += 1;
                self.sent_bytes = self.sent_bytes.saturating_add(size);
            }
            _ => {}
        }
    }

    /// Bytes at the target or on their way, without those of failed attempts.
    pub(super) fn sent(&self) -> u64 {
        let on_the_way = self.layers.values().map(|layer| layer.sent);
        on_the_way.fold(self.sent_bytes, u64::saturating_add)
    }

    /// Whether everything that is known of is at the target.
    pub(super) fn is_sent(&self) -> bool {
        self.planned && self.layers.is_empty() && self.sent_blobs >= self.blobs
    }

    /// How much of it is done, from 0 to 1.
    pub(super) fn share(&self) -> f64 {
        match (self.planned, self.bytes) {
            (false, _) => 0.0,
            (true, 0) => 1.0,
            (true, bytes) => fraction(self.sent(), bytes),
        }
    }

    /// What is going on, in words.
    pub(super) fn state(&self) -> String {
        if !self.planned {
            return "reading manifests".into();
        }
        if self.is_sent() {
            return "writing manifests".into();
        }
        let left = self.blobs.saturating_sub(self.sent_blobs);
        let (sent, rate) = (self.sent(), self.rate);
        let time = match rate.time_for(self.bytes.saturating_sub(sent)) {
            Some(time) => format!(", {} s left", time.as_secs()),
            None => String::new(),
        };
        format!(
            "{} of {}, {left} of {} blobs left, {rate}{time}",
            human_bytes(sent),
            human_bytes(self.bytes),
            self.blobs,
        )
    }
}

#[expect(clippy::cast_precision_loss, reason = "it is shown as a bar")]
fn fraction(part: u64, whole: u64) -> f64 {
    (part as f64 / whole as f64).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests;
