//! The state of one copy.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use mirror_copy::{Digest, Event};

use super::rate::Rate;
use crate::output::{count, human_bytes};

/// A layer without events for this time counts as abandoned. The engine reports each layer in transit four times per second;
/// a layer that is reported again is restored.
const SILENCE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(in super::super) struct Image {
    pub(in super::super) name: String,
    pub(in super::super) root: Option<Digest>,
    /// A manifest was read.
    planned: bool,
    /// Blobs in the manifests that were read.
    named: Amount,
    /// Blobs that need not be sent. They may be found before their manifest is counted.
    present: Amount,
    copied: Amount,
    rate: Rate,
    /// Blobs in transit.
    layers: HashMap<Digest, Layer>,
    /// Abandoned blobs.
    lost: HashMap<Digest, Layer>,
    /// Blobs whose first byte the source holds back, with the time of the last report.
    waiting: HashMap<Digest, Instant>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Amount {
    pub(in super::super) blobs: u64,
    pub(in super::super) bytes: u64,
}

#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Layer {
    pub(in super::super) size: u64,
    /// Bytes sent by the current attempt.
    pub(in super::super) sent: u64,
    pub(in super::super) rate: Rate,
    /// Since this time it may be abandoned.
    doubted: Option<Instant>,
}

impl Amount {
    fn add(&mut self, blobs: u64, bytes: u64) {
        self.blobs = self.blobs.saturating_add(blobs);
        self.bytes = self.bytes.saturating_add(bytes);
    }

    fn without(self, other: Self) -> Self {
        Self {
            blobs: self.blobs.saturating_sub(other.blobs),
            bytes: self.bytes.saturating_sub(other.bytes),
        }
    }
}

impl Image {
    pub(super) fn new(name: &str, now: Instant) -> Self {
        Self {
            name: name.to_owned(),
            root: None,
            planned: false,
            named: Amount::default(),
            present: Amount::default(),
            copied: Amount::default(),
            rate: Rate::new(now),
            layers: HashMap::new(),
            lost: HashMap::new(),
            waiting: HashMap::new(),
        }
    }

    /// Returns whether the event is new information: a repeated wait for the source is not.
    pub(super) fn apply(&mut self, event: &Event<'_>, now: Instant) -> bool {
        match *event {
            Event::WaitingForSource { digest } => {
                return self.waiting.insert(digest.clone(), now).is_none();
            }
            Event::Resolved { digest } => self.root = Some(digest.clone()),
            Event::Planned { blobs, bytes, .. } => {
                self.planned = true;
                self.named.add(blobs, bytes);
            }
            Event::BlobSkipped { size, .. } | Event::BlobMounted { size, .. } => {
                self.present.add(1, size);
            }
            // After a failure, the blob is sent again from its start.
            Event::BlobStarted { digest, size } => {
                self.waiting.remove(digest);
                self.lost.remove(digest);
                self.layers.insert(digest.clone(), Layer::new(size, now));
            }
            Event::BlobFailed { digest, .. } => {
                if let Some(layer) = self.moving(digest) {
                    layer.sent = 0;
                }
            }
            Event::Bytes { digest, bytes } => {
                if let Some(layer) = self.moving(digest) {
                    layer.sent = layer.sent.saturating_add(bytes).min(layer.size);
                }
            }
            Event::BlobCopied { digest, size } => {
                self.layers.remove(digest);
                self.lost.remove(digest);
                self.copied.add(1, size);
            }
            // Blobs of a referrer that is left out are abandoned without an event.
            Event::ReferrerLeftOut { .. } => {
                for layer in self.layers.values_mut() {
                    layer.doubted.get_or_insert(now);
                }
            }
            _ => {}
        }
        true
    }

    /// Returns whether the source holds back the first byte of a blob.
    pub(in super::super) fn waits_for_source(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Returns the layer of an event, which is in transit.
    fn moving(&mut self, digest: &Digest) -> Option<&mut Layer> {
        if let Some(layer) = self.lost.remove(digest) {
            self.layers.insert(digest.clone(), layer);
        }
        let layer = self.layers.get_mut(digest)?;
        layer.doubted = None;
        Some(layer)
    }

    pub(super) fn tick(&mut self, now: Instant) {
        self.lost
            .extend(self.layers.extract_if(|_, layer| layer.is_lost(now)));
        self.waiting
            .retain(|_, reported| now.saturating_duration_since(*reported) < SILENCE);
        let sent = self.sent();
        self.rate.update(sent, now);
        for layer in self.layers.values_mut() {
            layer.rate.update(layer.sent, now);
        }
    }

    pub(in super::super) fn layers(&self) -> impl Iterator<Item = (&Digest, Layer)> {
        self.layers.iter().map(|(digest, layer)| (digest, *layer))
    }

    /// Everything to send, as far as it is known.
    pub(in super::super) fn to_send(&self) -> Amount {
        let mut lost = Amount::default();
        for layer in self.lost.values() {
            lost.add(1, layer.size);
        }
        self.named.without(self.present).without(lost)
    }

    /// Bytes sent, without failed attempts. At most the bytes to send: a blob that the target lost is sent although it was
    /// found there.
    pub(in super::super) fn sent(&self) -> u64 {
        let on_the_way = self.layers.values().map(|layer| layer.sent);
        let sent = on_the_way.fold(self.copied.bytes, u64::saturating_add);
        if self.planned {
            sent.min(self.to_send().bytes)
        } else {
            sent
        }
    }

    pub(super) fn is_sent(&self) -> bool {
        self.planned && self.layers.is_empty() && self.copied.blobs >= self.to_send().blobs
    }

    /// The completed share, from 0 to 1.
    pub(in super::super) fn share(&self) -> f64 {
        match (self.planned, self.to_send().bytes) {
            (false, _) => 0.0,
            (true, 0) => 1.0,
            (true, bytes) => fraction(self.sent(), bytes),
        }
    }

    pub(in super::super) fn state(&self) -> String {
        let state = self.transfer_state();
        if self.waits_for_source() {
            return format!("{state}, waiting for the source");
        }
        state
    }

    fn transfer_state(&self) -> String {
        if !self.planned {
            return "reading manifests".into();
        }
        if self.is_sent() {
            return "writing manifests".into();
        }
        let Amount { blobs, bytes } = self.to_send();
        let left = blobs.saturating_sub(self.copied.blobs);
        let (sent, rate) = (self.sent(), self.rate);
        let time = match rate.time_for(bytes.saturating_sub(sent)) {
            Some(time) => format!(", {} s left", time.as_secs()),
            None => String::new(),
        };
        format!(
            "{} of {}, {left} of {} left, {rate}{time}",
            human_bytes(sent),
            human_bytes(bytes),
            count(blobs, "blob"),
        )
    }
}

impl Layer {
    fn new(size: u64, now: Instant) -> Self {
        Self {
            size,
            sent: 0,
            rate: Rate::new(now),
            doubted: None,
        }
    }

    fn is_lost(&self, now: Instant) -> bool {
        let silent = |since| now.saturating_duration_since(since) >= SILENCE;
        self.doubted.is_some_and(silent)
    }
}

#[expect(clippy::cast_precision_loss, reason = "it is shown as a bar")]
fn fraction(part: u64, whole: u64) -> f64 {
    (part as f64 / whole as f64).clamp(0.0, 1.0)
}
