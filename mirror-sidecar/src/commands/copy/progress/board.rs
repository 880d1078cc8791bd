//! The state of a run, updated by events. No I/O; the time is passed in.

mod image;
mod rate;

use std::collections::BTreeMap;
use std::time::Instant;

use mirror_copy::{CopyReport, Event};

use crate::output::{count, human_bytes};
pub(super) use image::Image;
pub(super) use rate::Rate;

/// Maximum number of images that are shown one by one.
const FEW: usize = 4;

#[derive(Debug)]
pub(super) struct Board {
    started: Instant,
    pub(super) total: usize,
    pub(super) copied: usize,
    /// Images that the target already had.
    pub(super) present: usize,
    pub(super) failed: usize,
    /// Repositories whose tags could not be listed.
    pub(super) failed_repositories: usize,
    /// Bytes sent, including failed attempts.
    pub(super) sent: u64,
    pub(super) rate: Rate,
    /// Running copies, by number.
    pub(super) running: BTreeMap<usize, Image>,
}

impl Board {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            started: now,
            total: 0,
            copied: 0,
            present: 0,
            failed: 0,
            failed_repositories: 0,
            sent: 0,
            rate: Rate::new(now),
            running: BTreeMap::new(),
        }
    }

    /// Returns whether images are shown one by one.
    pub(super) fn is_few(&self) -> bool {
        self.total <= FEW
    }

    pub(super) fn done(&self) -> usize {
        self.copied + self.present + self.failed
    }

    pub(super) fn begin(&mut self, number: usize, name: &str, now: Instant) {
        let image = Image::new(name, now);
        self.running.insert(number, image);
    }

    /// Returns whether the event is new information about a running copy.
    pub(super) fn apply(&mut self, number: usize, event: &Event<'_>, now: Instant) -> bool {
        if let Event::Bytes { bytes, .. } = event {
            self.sent = self.sent.saturating_add(*bytes);
        }
        let image = self.running.get_mut(&number);
        image.is_some_and(|image| image.apply(event, now))
    }

    pub(super) fn tick(&mut self, now: Instant) {
        self.rate.update(self.sent, now);
        for image in self.running.values_mut() {
            image.tick(now);
        }
    }

    /// Records the end of a copy, with a report if it succeeded.
    pub(super) fn end(&mut self, number: usize, report: Option<&CopyReport>) {
        self.running.remove(&number);
        match report {
            None => self.failed += 1,
            Some(report) if report.manifests == 0 => self.present += 1,
            Some(_) => self.copied += 1,
        }
    }

    /// The result of the run in one line.
    pub(super) fn summary(&self) -> String {
        let repositories = match self.failed_repositories {
            0 => String::new(),
            1 => ", 1 repository failed".to_owned(),
            several => format!(", {several} repositories failed"),
        };
        format!(
            "{}: {} copied, {} already there, {} failed{repositories}; {} sent in {:.1} s",
            count(self.total as u64, "image"),
            self.copied,
            self.present,
            self.failed,
            human_bytes(self.sent),
            self.started.elapsed().as_secs_f64()
        )
    }

    /// The state of the run in one line.
    pub(super) fn state(&self) -> String {
        let failed = match self.failed {
            0 => String::new(),
            failed => format!(", {failed} failed"),
        };
        let is_waiting = |image: &&Image| image.waits_for_source();
        let waiting = match self.running.values().filter(is_waiting).count() {
            0 => String::new(),
            waiting => format!(", {waiting} waiting for the source"),
        };
        format!(
            "{} of {} images done{failed}, {} sent, {}{waiting}",
            self.done(),
            self.total,
            human_bytes(self.sent),
            self.rate
        )
    }
}

#[cfg(test)]
mod tests;
