//! The answer to the host: acceptance or rejection, with warnings and audit annotations in our own words.

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use kubewarden_policy_sdk::response::ValidationResponse;
use serde_json::Value;

use crate::before::Before;
use crate::decide::{Copy, Fate, Plan};
use crate::pull_secrets::SecretChange;
use crate::settings::{Otherwise, Settings};
use crate::text::{cut, join, shorten};
use crate::why::Why;

const SPEAKER: &str = "image-mirror: ";
/// `AdmissionResponse.warnings`: "Limit warnings to 120 characters if possible".
const MAX_WARNING: usize = 120;
/// So many warnings are read; more are only counted.
const MAX_WARNINGS: usize = 5;
/// Leaves room for the reason in a warning.
const MAX_IMAGE_IN_WARNING: usize = 48;
/// A reference cannot be longer: repository 255, tag 128, sha512 digest 135, and their separators.
const MAX_IMAGE: usize = 520;
/// Bytes, of messages and audit annotations. All images of any real workload fit.
const MAX_MESSAGE: usize = 16 * 1024;
/// 403, as the API server answers to an exceeded quota: a denial that controllers try again with growing pauses. An error
/// of 500 or more would say that the API server is broken, and count so in its alerts.
const FORBIDDEN: u16 = 403;

/// What happened to the images of an object.
#[derive(Debug, Default)]
pub struct Report {
    /// `<original> -> <copy> (<digest>)`, the digest only where the copy does not end with it.
    rewritten: BTreeSet<String>,
    /// The same for images that are rewritten in the Pods.
    left_to_pods: BTreeSet<String>,
    /// The images that keep their upstream, and why.
    kept: BTreeSet<String>,
    /// Those of them that the settings do not tolerate.
    intolerable: BTreeSet<String>,
    /// What became of the pull Secrets, in one line.
    secret: Option<String>,
    warnings: Vec<String>,
}

impl Report {
    /// Reports on `plan`, and on what could not be understood.
    ///
    /// An image that was there `before` is never a reason to deny an update: it runs already, and whoever scales, labels or
    /// removes the object during an outage must not be stopped by it.
    pub fn new(
        plan: &Plan,
        oddities: &[String],
        settings: &Settings<'_>,
        before: &Before<'_>,
    ) -> Self {
        let mut report = Self {
            secret: match &plan.secret {
                SecretChange::None => None,
                SecretChange::Add { name, .. } => Some(format!("{name} added")),
                SecretChange::Remove { name } => Some(format!("{name} left to the Pods")),
            },
            ..Self::default()
        };
        for decision in &plan.decisions {
            let image = &decision.image;
            match &decision.fate {
                Fate::InBackup { .. } | Fate::Remembered { copy: None, .. } | Fate::Unwanted => {}
                Fate::Remembered {
                    copy: Some(copy), ..
                } => _ = report.rewritten.insert(format!("{image} -> {copy}")),
                Fate::Rewrite(copy) => _ = report.rewritten.insert(copy.line(image)),
                Fate::RewriteInPods(copy) => _ = report.left_to_pods.insert(copy.line(image)),
                Fate::Restore { original } => {
                    _ = report.left_to_pods.insert(format!("{original} -> {image}"));
                }
                Fate::Keep(why) => report.keep(image, why, settings, before),
            }
        }
        for oddity in oddities {
            report.warn(&format!("left as it is: {oddity}"));
        }
        report
    }

    fn keep(&mut self, image: &str, why: &Why, settings: &Settings<'_>, before: &Before<'_>) {
        let line = format!("{} {why}", shorten(image, MAX_IMAGE));
        let otherwise = if why.is_unavailable() {
            settings.when_unavailable
        } else {
            settings.when_not_mirrored
        };
        if otherwise == Otherwise::Reject && !before.had(image) {
            self.intolerable.insert(line.clone());
        }
        if self.kept.insert(line) {
            self.warn(&format!("{} {why}", shorten(image, MAX_IMAGE_IN_WARNING)));
        }
    }

    fn warn(&mut self, sentence: &str) {
        self.warnings
            .push(cut(&format!("{SPEAKER}{sentence}"), MAX_WARNING));
    }

    /// The images that keep their upstream, and why.
    pub fn kept(&self) -> &BTreeSet<String> {
        &self.kept
    }

    /// The images that were rewritten, and to what.
    pub fn rewritten(&self) -> &BTreeSet<String> {
        &self.rewritten
    }

    /// The images that are rewritten in the Pods, and to what.
    pub fn left_to_pods(&self) -> &BTreeSet<String> {
        &self.left_to_pods
    }

    /// What became of the pull Secrets, in one line.
    pub fn secret(&self) -> Option<&str> {
        self.secret.as_deref()
    }

    /// Whether the object must not be admitted.
    pub fn is_rejection(&self) -> bool {
        !self.intolerable.is_empty()
    }

    /// The rejection; it names every image and why.
    pub fn into_rejection(self) -> ValidationResponse {
        let message = join(self.intolerable, MAX_MESSAGE);
        ValidationResponse {
            accepted: false,
            message: Some(format!("{SPEAKER}{message}")),
            code: Some(FORBIDDEN),
            audit_annotations: annotations([("not-mirrored", self.kept)]),
            ..left_alone()
        }
    }

    /// The acceptance, of `mutated_object` if anything was changed.
    pub fn into_acceptance(self, mutated_object: Option<Value>) -> ValidationResponse {
        ValidationResponse {
            mutated_object,
            audit_annotations: annotations([
                ("rewritten", self.rewritten),
                ("left-to-pods", self.left_to_pods),
                ("pull-secret", self.secret.into_iter().collect()),
                ("not-mirrored", self.kept),
            ]),
            warnings: limited(self.warnings),
            ..left_alone()
        }
    }
}

impl Copy {
    fn line(&self, original: &str) -> String {
        let Self { image, digest, .. } = self;
        if image.ends_with(digest.as_str()) {
            format!("{original} -> {image}")
        } else {
            format!("{original} -> {image} ({digest})")
        }
    }
}

/// Accepts the object as it is.
pub fn left_alone() -> ValidationResponse {
    ValidationResponse {
        accepted: true,
        message: None,
        code: None,
        mutated_object: None,
        audit_annotations: None,
        warnings: None,
    }
}

/// Accepts `mutated_object`, or the object as it is.
pub fn without_a_word(mutated_object: Option<Value>) -> ValidationResponse {
    ValidationResponse {
        mutated_object,
        ..left_alone()
    }
}

/// Accepts the object as it is, and says that its Pods are no part of that.
pub fn left_alone_but_for_pods() -> ValidationResponse {
    let warning =
        format!("{SPEAKER}its Pods are rewritten, put image-mirror.dev/skip on the Pod template");
    ValidationResponse {
        warnings: Some(vec![warning]),
        ..left_alone()
    }
}

/// Accepts what cannot be understood, with a warning.
pub fn not_understood(what: &str, error: &dyn fmt::Display) -> ValidationResponse {
    let warning = format!("{SPEAKER}images stay as they are, {what}: {error}");
    ValidationResponse {
        warnings: Some(vec![cut(&warning, MAX_WARNING)]),
        ..left_alone()
    }
}

fn limited(mut warnings: Vec<String>) -> Option<Vec<String>> {
    let more = warnings.len().saturating_sub(MAX_WARNINGS);
    if more > 0 {
        warnings.truncate(MAX_WARNINGS);
        warnings.push(format!("{SPEAKER}and {more} more"));
    }
    (!warnings.is_empty()).then_some(warnings)
}

fn annotations<const N: usize>(
    lists: [(&str, BTreeSet<String>); N],
) -> Option<HashMap<String, String>> {
    let annotations: HashMap<String, String> = lists
        .into_iter()
        .filter(|(_, lines)| !lines.is_empty())
        .map(|(key, lines)| (key.to_owned(), join(lines, MAX_MESSAGE)))
        .collect();
    (!annotations.is_empty()).then_some(annotations)
}
