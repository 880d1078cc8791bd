//! The response to the host: acceptance or rejection, with warnings and audit annotations in our own words.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::decide::{Copy, Decision, Outcome, Plan, Remembered};
use crate::images::Oddities;
use crate::json::Edited;
use crate::old_object::OldObject;
use crate::pull_secrets::SecretChange;
use crate::reason::Reason;
use crate::settings::{Otherwise, Settings};
use crate::truncate::{Lines, cut, shorten};

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
/// Bytes that a response has besides the object. One that is longer only grows.
const RESERVE: usize = 1024;

/// What the host gets: the `ValidationResponse` of Kubewarden's SDK, but that the object is never parsed.
#[derive(Serialize)]
pub struct Response<'a> {
    accepted: bool,
    message: Option<String>,
    code: Option<u16>,
    audit_annotations: Option<Annotations>,
    warnings: Option<Vec<String>>,
    #[serde(skip)]
    mutated_object: Option<Edited<'a>>,
}

/// Audit annotations by their keys.
struct Annotations(Vec<(&'static str, String)>);

/// What happened to the images of an object.
#[derive(Default)]
pub struct Report {
    /// `<original> -> <copy> (<digest>)`, the digest only where the copy does not end with it.
    pub rewritten: Lines,
    /// The same for images that are rewritten in the Pods.
    pub left_to_pods: Lines,
    /// The copies that an annotation decided about, with their originals if they were replaced, and why.
    pub remembered: Lines,
    /// The images that keep their upstream, and why.
    pub kept: Lines,
    /// Those of them that the settings do not tolerate.
    intolerable: Lines,
    /// What became of the pull Secrets, in one line.
    secret: Option<String>,
    warnings: Vec<String>,
    more_warnings: usize,
}

impl Response<'_> {
    /// The JSON that the host reads.
    ///
    /// # Errors
    /// Never: everything can be written as JSON.
    pub fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        let size = self.mutated_object.as_ref().map_or(0, Edited::size);
        let mut json = Vec::with_capacity(size + RESERVE);
        serde_json::to_writer(&mut json, self)?;
        if let Some(object) = &self.mutated_object {
            json.pop();
            json.extend_from_slice(br#","mutated_object":"#);
            object.write(&mut json);
            json.push(b'}');
        }
        Ok(json)
    }
}

impl Report {
    /// Reports on `plan`, and on what could not be understood.
    ///
    /// An image that `old_object` had is never a reason to deny an update: it runs already, and whoever scales, labels or
    /// removes the object during an outage must not be stopped by it.
    pub fn new(
        plan: &Plan<'_>,
        oddities: Option<&Oddities>,
        settings: &Settings<'_>,
        old_object: &OldObject<'_>,
    ) -> Self {
        let mut report = Self {
            secret: match &plan.secret {
                SecretChange::None => None,
                SecretChange::Add { name, .. } => Some(format!("{name} added")),
                SecretChange::Remove { name } => Some(format!("{name} left to the Pods")),
            },
            ..Self::default()
        };
        let mut beyond_limit = 0;
        let mut is_beyond_limit_tolerable = true;
        let decisions = plan.decisions.iter();
        for Decision { slot, outcome, .. } in decisions.filter(|decision| !decision.is_repeated) {
            let image = &*slot.image;
            match outcome {
                Outcome::InBackup { .. } | Outcome::Unwanted => {}
                Outcome::Remembered(remembered) => report.remember(image, remembered),
                Outcome::Rewrite(copy) => _ = report.rewritten.add(copy.line(image)),
                Outcome::RewriteInPods(copy) => _ = report.left_to_pods.add(copy.line(image)),
                Outcome::Keep(reason) => {
                    let otherwise = if reason.is_unavailable() {
                        settings.when_unavailable
                    } else {
                        settings.when_not_mirrored
                    };
                    let is_tolerable = otherwise == Otherwise::Keep || old_object.had(image);
                    if **reason == Reason::TooMany {
                        beyond_limit += 1;
                        is_beyond_limit_tolerable &= is_tolerable;
                    } else {
                        report.keep(image, reason, is_tolerable);
                    }
                }
            }
        }
        report.keep_beyond_limit(beyond_limit, is_beyond_limit_tolerable);
        if let Some(Oddities { shown, more }) = oddities {
            for oddity in shown {
                report.warn(&format!("left as it is: {oddity}"));
            }
            report.more_warnings += more;
        }
        report
    }

    fn remember(&mut self, image: &str, remembered: &Remembered) {
        let line = match &remembered.copy {
            Some(copy) => format!("{image} -> {copy}"),
            None => image.to_owned(),
        };
        if remembered.copy.is_some() {
            self.rewritten.add(line.clone());
        }
        let Some(reason) = &remembered.reason else {
            return;
        };
        let reason = reason.reason();
        if !self.remembered.add(format!("{line}: {reason}")) {
            return;
        }
        let image = shorten(image, MAX_IMAGE_IN_WARNING);
        let what = match &remembered.copy {
            Some(_) => "uses the annotated copy",
            None => "is annotated as a copy",
        };
        self.warn(&format!("{image} {what}: {reason}"));
    }

    fn keep(&mut self, image: &str, reason: &Reason, is_tolerable: bool) {
        let line = format!("{} {reason}", shorten(image, MAX_IMAGE));
        if !is_tolerable {
            self.intolerable.add(line.clone());
        }
        if self.kept.add(line) {
            self.warn(&format!(
                "{} {reason}",
                shorten(image, MAX_IMAGE_IN_WARNING)
            ));
        }
    }

    /// One line for all images that were not asked about, since there may be very many.
    fn keep_beyond_limit(&mut self, count: usize, is_tolerable: bool) {
        let images = match count {
            0 => return,
            1 => "1 image".to_owned(),
            count => format!("{count} images"),
        };
        let line = format!("{images}: {}", Reason::TooMany.reason());
        self.warn(&format!("not mirrored, {line}"));
        if !is_tolerable {
            self.intolerable.add(line.clone());
        }
        self.kept.add(line);
    }

    fn warn(&mut self, sentence: &str) {
        if self.warnings.len() < MAX_WARNINGS {
            self.warnings
                .push(cut(&format!("{SPEAKER}{sentence}"), MAX_WARNING));
        } else {
            self.more_warnings += 1;
        }
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
    pub fn into_rejection<'a>(self) -> Response<'a> {
        let message = self.intolerable.join(MAX_MESSAGE);
        Response {
            accepted: false,
            message: Some(format!("{SPEAKER}{message}")),
            code: Some(FORBIDDEN),
            audit_annotations: annotations(&[("not-mirrored", self.kept)]),
            ..left_alone()
        }
    }

    /// The acceptance, of `mutated_object` if anything was changed.
    pub fn into_acceptance(mut self, mutated_object: Option<Edited<'_>>) -> Response<'_> {
        if self.more_warnings > 0 {
            let count = format!("{SPEAKER}and {} more", self.more_warnings);
            self.warnings.push(count);
        }
        let mut secret = Lines::default();
        if let Some(line) = self.secret {
            secret.add(line);
        }
        Response {
            mutated_object,
            audit_annotations: annotations(&[
                ("rewritten", self.rewritten),
                ("left-to-pods", self.left_to_pods),
                ("remembered", self.remembered),
                ("pull-secret", secret),
                ("not-mirrored", self.kept),
            ]),
            warnings: (!self.warnings.is_empty()).then_some(self.warnings),
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
pub fn left_alone<'a>() -> Response<'a> {
    Response {
        accepted: true,
        message: None,
        code: None,
        audit_annotations: None,
        warnings: None,
        mutated_object: None,
    }
}

/// Accepts `mutated_object`, or the object as it is.
pub fn without_a_word(mutated_object: Option<Edited<'_>>) -> Response<'_> {
    Response {
        mutated_object,
        ..left_alone()
    }
}

/// Accepts the object as it is, and says that its Pods are no part of that.
pub fn left_alone_but_for_pods<'a>() -> Response<'a> {
    let warning =
        format!("{SPEAKER}its Pods are rewritten, put image-mirror.dev/skip on the Pod template");
    Response {
        warnings: Some(vec![warning]),
        ..left_alone()
    }
}

/// Accepts what cannot be understood, with a warning.
pub fn not_understood<'a>(what: &str, error: &dyn fmt::Display) -> Response<'a> {
    let warning = format!("{SPEAKER}images stay as they are, {what}: {error}");
    Response {
        warnings: Some(vec![cut(&warning, MAX_WARNING)]),
        ..left_alone()
    }
}

fn annotations(lists: &[(&'static str, Lines)]) -> Option<Annotations> {
    let lists = lists.iter().filter(|(_, lines)| !lines.is_empty());
    let annotations: Vec<_> = lists
        .map(|(key, lines)| (*key, lines.join(MAX_MESSAGE)))
        .collect();
    (!annotations.is_empty()).then_some(Annotations(annotations))
}

impl Serialize for Annotations {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, text)| (key, text)))
    }
}
