//! The report of a run: a table, or one document.

use std::fmt::Write as _;

use serde::Serialize;

use super::findings::Finding;
use super::inspection::{CopyState, Inspection, Original};
use super::items::{Item, Skipped};
use crate::args::ReportFormat;
use crate::output;
use crate::output::escape::escape;

#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    /// The location of the backup.
    pub(super) backup: String,
    pub(super) images: Vec<ImageReport>,
    /// Images and repositories that were not verified.
    pub(super) not_checked: Vec<NotChecked>,
}

#[derive(Debug, Serialize)]
pub(super) struct NotChecked {
    pub(super) object: String,
    pub(super) reason: String,
}

#[derive(Debug, Serialize)]
pub(super) struct ImageReport {
    pub(super) image: String,
    pub(super) copy: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    result: Outcome,
    original: OriginalReport,
    findings: Vec<Finding>,
    /// The reason why not everything was repaired.
    #[serde(skip_serializing_if = "Option::is_none")]
    repair_error: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Protected,
    Repaired,
    NotProtected,
}

#[derive(Debug, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
enum OriginalReport {
    NotChecked,
    Same,
    Other { digest: String },
    Gone,
    Unreachable { reason: String },
}

#[derive(Debug, Default, Serialize)]
struct Summary {
    images: usize,
    protected: usize,
    repaired: usize,
    not_protected: usize,
    notices: usize,
    not_checked: usize,
}

#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    report: &'a Report,
    summary: Summary,
}

impl ImageReport {
    pub(super) fn new(
        item: &Item,
        inspection: &Inspection,
        findings: Vec<Finding>,
        repair_error: Option<String>,
    ) -> Self {
        let root = match &inspection.copy {
            CopyState::Found { root, .. } => Some(root),
            CopyState::Missing | CopyState::Unusable(_) => None,
        };
        let result = if findings.iter().any(Finding::is_open_problem) {
            Outcome::NotProtected
        } else if findings
            .iter()
            .any(|finding| finding.repaired == Some(true))
        {
            Outcome::Repaired
        } else {
            Outcome::Protected
        };
        Self {
            image: item.name(),
            copy: item.copy.to_string(),
            digest: root.map(ToString::to_string),
            result,
            original: match &inspection.original {
                Original::NotChecked => OriginalReport::NotChecked,
                Original::Is(digest) if Some(digest) == root => OriginalReport::Same,
                Original::Is(digest) => OriginalReport::Other {
                    digest: digest.to_string(),
                },
                Original::Gone(_) => OriginalReport::Gone,
                Original::Unreachable(reason) => OriginalReport::Unreachable {
                    reason: reason.clone(),
                },
            },
            findings,
            repair_error,
        }
    }

    /// The digest of the copy.
    pub(super) fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    pub(super) fn is_protected(&self) -> bool {
        self.result != Outcome::NotProtected
    }

    pub(super) fn has_findings(&self) -> bool {
        !self.findings.is_empty()
    }
}

impl Report {
    pub(super) fn skip(&mut self, skipped: Skipped) {
        self.not_checked.push(NotChecked {
            object: skipped.object,
            reason: skipped.reason,
        });
    }

    /// Sorts the images by name: they are verified in any order.
    pub(super) fn sort(&mut self) {
        self.images
            .sort_by(|one, other| one.image.cmp(&other.image));
        self.not_checked
            .sort_by(|one, other| one.object.cmp(&other.object));
    }

    pub(super) fn are_all_protected(&self) -> bool {
        self.images.iter().all(ImageReport::is_protected)
    }

    pub(super) fn print(&self, format: ReportFormat) {
        let document = Document {
            report: self,
            summary: self.summary(),
        };
        match format {
            ReportFormat::Table => output::raw(&self.table()),
            ReportFormat::Json => output::json(&document),
            ReportFormat::Yaml => match serde_saphyr::to_string(&document) {
                Ok(text) => output::raw(&text),
                Err(error) => output::error(&format!("cannot write the result as YAML: {error}")),
            },
        }
    }

    fn summary(&self) -> Summary {
        let with = |result| {
            let images = self.images.iter();
            images.filter(|image| image.result == result).count()
        };
        let findings = self.images.iter().flat_map(|image| &image.findings);
        Summary {
            images: self.images.len(),
            protected: with(Outcome::Protected),
            repaired: with(Outcome::Repaired),
            not_protected: with(Outcome::NotProtected),
            notices: findings.filter(|finding| finding.kind.is_notice()).count(),
            not_checked: self.not_checked.len(),
        }
    }

    /// A line for each finding, and the summary. Images without findings have no line.
    fn table(&self) -> String {
        let mut rows: Vec<[String; 4]> = Vec::new();
        for image in &self.images {
            for finding in &image.findings {
                rows.push([
                    image.image.clone(),
                    finding.kind.words().to_owned(),
                    finding.object.clone(),
                    image.next_step(finding),
                ]);
            }
        }
        for NotChecked { object, reason } in &self.not_checked {
            rows.push([
                object.clone(),
                "not checked".into(),
                "-".into(),
                reason.clone(),
            ]);
        }
        let mut text = String::new();
        if !rows.is_empty() {
            let header = ["IMAGE", "FINDING", "OBJECT", "NEXT STEP"].map(str::to_owned);
            rows.insert(0, header);
            text = aligned(&rows);
            text.push('\n');
        }
        let summary = self.summary();
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "{} in {}: {} protected",
            output::count(summary.images as u64, "image"),
            self.backup,
            summary.protected
        );
        for (number, words) in [
            (summary.repaired, "repaired"),
            (summary.not_protected, "not protected"),
            (summary.not_checked, "not checked"),
        ] {
            if number > 0 {
                let _ = write!(text, ", {number} {words}");
            }
        }
        text.push('\n');
        text
    }
}

impl ImageReport {
    /// The last column: the result of a repair, or what to do.
    fn next_step(&self, finding: &Finding) -> String {
        match (finding.repaired, &self.repair_error) {
            (Some(true), _) => "repaired".to_owned(),
            (Some(false), Some(error)) => format!("not repaired: {error}"),
            _ => finding.next_step.clone(),
        }
    }
}

/// Pads all columns but the last. Text of registries cannot break a line.
fn aligned(rows: &[[String; 4]]) -> String {
    let mut widths = [0; 3];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for [image, finding, object, next_step] in rows {
        let [first, second, third] = widths;
        let line = format!("{image:first$}  {finding:second$}  {object:third$}  {next_step}");
        text.push_str(&escape(&line));
        text.push('\n');
    }
    text
}
