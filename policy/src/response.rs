//! The response to the host: acceptance or rejection, with warnings and audit annotations.

use std::fmt;

use mirror_contract::settings::{Fallback, Settings};
use serde::{Serialize, Serializer};

use crate::decide::{Annotated, Copy, Decision, Outcome, Plan};
use crate::images::InvalidFields;
use crate::json::Edited;
use crate::old_object::OldObject;
use crate::pull_secrets::SecretChange;
use crate::reason::Reason;
use crate::truncate::{Lines, cut, shorten};

const PREFIX: &str = "image-mirror: ";
/// `AdmissionResponse.warnings`: "Limit warnings to 120 characters if possible".
const MAX_WARNING: usize = 120;
/// Further warnings are only counted.
const MAX_WARNINGS: usize = 5;
/// Leaves room for the reason in a warning.
const MAX_IMAGE_IN_WARNING: usize = 48;
/// Characters of the longest reference: repository 255, tag 128, sha512 digest 135, and their separators.
const MAX_IMAGE: usize = 520;
/// Bytes of a message or an audit annotation, enough for all images of a real workload.
const MAX_MESSAGE: usize = 16 * 1024;
/// As for an exceeded quota: controllers retry it with backoff. A status of 500 or more would count as a failure of the API
/// server in its alerts.
const FORBIDDEN: u16 = 403;
/// Initial capacity for the response without the object, in bytes.
const RESERVE: usize = 1024;

/// The `ValidationResponse` of Kubewarden's SDK, but the object stays text.
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

/// Audit annotations by key.
struct Annotations(Vec<(&'static str, String)>);

#[derive(Default)]
pub struct Report {
    /// `<original> -> <copy> (<digest>)`, the digest only if the copy does not end with it.
    pub rewritten: Lines,
    /// The same for images that are rewritten in the Pods only.
    pub left_to_pods: Lines,
    /// Annotated copies, with their originals if those were replaced, and why the sidecar did not decide.
    pub from_annotation: Lines,
    /// Copies of new Pods with the originals that replace them while the backup is unavailable.
    pub failed_over: Lines,
    /// Images that keep their original, and why.
    pub kept: Lines,
    /// Those of them for which the settings demand a rejection.
    denied: Lines,
    /// Images that the settings exclude, each with the setting: `<image> (rules[2])`.
    excluded: Lines,
    secret: Option<String>,
    warnings: Vec<String>,
    more_warnings: usize,
}

impl Response<'_> {
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
    /// An image of `old_object` is never a reason to reject an update: it runs already, and scaling, labelling or removing the
    /// object must stay possible during an outage.
    pub fn new(
        plan: &Plan<'_>,
        invalid_fields: Option<&InvalidFields>,
        settings: &Settings<'_>,
        old_object: &OldObject<'_>,
    ) -> Self {
        let mut report = Self {
            secret: match &plan.secret {
                SecretChange::None => None,
                SecretChange::Add { name, .. } => Some(format!("{name} added")),
                SecretChange::Remove { name } => Some(format!("{name} removed")),
            },
            ..Self::default()
        };
        let mut beyond_limit = 0;
        let mut is_beyond_limit_tolerated = true;
        let decisions = plan.decisions.iter();
        for Decision { slot, outcome, .. } in decisions.filter(|decision| !decision.is_repeated) {
            let image = &*slot.image;
            match outcome {
                Outcome::InBackup { .. } | Outcome::Excluded => {}
                Outcome::KeptByRule(decider) => {
                    let image = shorten(image, MAX_IMAGE);
                    report.excluded.add(format!("{image} ({decider})"));
                }
                Outcome::Annotated(annotated) => report.add_annotated(image, annotated),
                Outcome::Rewrite(copy) => _ = report.rewritten.add(copy.line(image)),
                Outcome::RewriteInPods(copy) => _ = report.left_to_pods.add(copy.line(image)),
                Outcome::Original(original) => {
                    if report.failed_over.add(original.line(image)) {
                        let image = shorten(image, MAX_IMAGE_IN_WARNING);
                        report.warn(&format!(
                            "{image} is replaced by its original: the backup is unavailable"
                        ));
                    }
                }
                Outcome::Keep(reason) => {
                    let fallback = if reason.is_unavailable() {
                        settings.when_unavailable
                    } else {
                        settings.when_not_mirrored
                    };
                    let is_tolerated = fallback == Fallback::Keep || old_object.had(image);
                    if **reason == Reason::TooManyImages {
                        beyond_limit += 1;
                        is_beyond_limit_tolerated &= is_tolerated;
                    } else {
                        report.keep(image, reason, is_tolerated);
                    }
                }
            }
        }
        report.keep_beyond_limit(beyond_limit, is_beyond_limit_tolerated);
        if let Some(InvalidFields { shown, more }) = invalid_fields {
            for field in shown {
                report.warn(&format!("not rewritten: {field}"));
            }
            report.more_warnings += more;
        }
        report
    }

    fn add_annotated(&mut self, image: &str, annotated: &Annotated) {
        let line = match &annotated.copy {
            Some(copy) => format!("{image} -> {copy}"),
            None => image.to_owned(),
        };
        if annotated.copy.is_some() {
            self.rewritten.add(line.clone());
        }
        let Some(reason) = &annotated.reason else {
            return;
        };
        let reason = reason.reason();
        if !self.from_annotation.add(format!("{line}: {reason}")) {
            return;
        }
        let image = shorten(image, MAX_IMAGE_IN_WARNING);
        let what = match &annotated.copy {
            Some(_) => "uses the annotated copy",
            None => "is annotated as a copy",
        };
        self.warn(&format!("{image} {what}: {reason}"));
    }

    fn keep(&mut self, image: &str, reason: &Reason, is_tolerated: bool) {
        let line = format!("{} {reason}", shorten(image, MAX_IMAGE));
        if !is_tolerated {
            self.denied.add(line.clone());
        }
        if self.kept.add(line) {
            self.warn(&format!(
                "{} {reason}",
                shorten(image, MAX_IMAGE_IN_WARNING)
            ));
        }
    }

    /// One line for all images beyond the limit, since there may be very many.
    fn keep_beyond_limit(&mut self, count: usize, is_tolerated: bool) {
        let images = match count {
            0 => return,
            1 => "1 image".to_owned(),
            count => format!("{count} images"),
        };
        let line = format!("{images}: {}", Reason::TooManyImages.reason());
        self.warn(&format!("not mirrored, {line}"));
        if !is_tolerated {
            self.denied.add(line.clone());
        }
        self.kept.add(line);
    }

    fn warn(&mut self, sentence: &str) {
        if self.warnings.len() < MAX_WARNINGS {
            self.warnings
                .push(cut(&format!("{PREFIX}{sentence}"), MAX_WARNING));
        } else {
            self.more_warnings += 1;
        }
    }

    pub fn secret(&self) -> Option<&str> {
        self.secret.as_deref()
    }

    pub fn is_rejection(&self) -> bool {
        !self.denied.is_empty()
    }

    pub fn into_rejection<'a>(self) -> Response<'a> {
        let message = self.denied.join(MAX_MESSAGE);
        Response {
            accepted: false,
            message: Some(format!("{PREFIX}{message}")),
            code: Some(FORBIDDEN),
            audit_annotations: annotations(&[("not-mirrored", self.kept)]),
            ..unchanged()
        }
    }

    pub fn into_acceptance(mut self, mutated_object: Option<Edited<'_>>) -> Response<'_> {
        if self.more_warnings > 0 {
            let count = format!("{PREFIX}and {} more", self.more_warnings);
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
                ("from-annotation", self.from_annotation),
                ("failed-over", self.failed_over),
                ("pull-secret", secret),
                ("not-mirrored", self.kept),
                ("kept", self.excluded),
            ]),
            warnings: (!self.warnings.is_empty()).then_some(self.warnings),
            ..unchanged()
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

pub fn unchanged<'a>() -> Response<'a> {
    Response {
        accepted: true,
        message: None,
        code: None,
        audit_annotations: None,
        warnings: None,
        mutated_object: None,
    }
}

/// Accepts `mutated_object` without a report.
pub fn changed(mutated_object: Option<Edited<'_>>) -> Response<'_> {
    Response {
        mutated_object,
        ..unchanged()
    }
}

pub fn unchanged_except_pods<'a>() -> Response<'a> {
    let warning = format!(
        "{PREFIX}its Pods are still rewritten; set image-mirror.dev/skip on the Pod template"
    );
    Response {
        warnings: Some(vec![warning]),
        ..unchanged()
    }
}

pub fn unchanged_with_warning<'a>(what: &str, error: &dyn fmt::Display) -> Response<'a> {
    let warning = format!("{PREFIX}images not rewritten: {what}: {error}");
    Response {
        warnings: Some(vec![cut(&warning, MAX_WARNING)]),
        ..unchanged()
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
