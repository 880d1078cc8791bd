//! Results on standard output.

use mirror_copy::{CopyReport, Digest};
use serde::Serialize;

use super::missing::Failure;
use super::plan::Plan;
use crate::commands::list::RepositoryName;
use crate::output::{self, OutputFormat, count, human_bytes};

/// A copy that ended.
pub(super) struct Copied {
    /// Its number among the copies of this run.
    pub(super) number: usize,
    pub(super) plan: Plan,
    pub(super) result: Result<CopyReport, Failure>,
}

/// The result of a dry run.
#[derive(Serialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub(super) enum Preview {
    /// The target has no image with this name.
    WouldCopy {
        digest: Digest,
    },
    /// The target has another image with this name.
    WouldReplace {
        digest: Digest,
        replaces: Digest,
    },
    Present {
        digest: Digest,
    },
}

/// The JSON object of one image.
#[derive(Serialize)]
struct Object<'a, T> {
    image: &'a str,
    target: &'a str,
    #[serde(flatten)]
    outcome: T,
}

#[derive(Serialize)]
#[serde(tag = "result", rename_all = "snake_case")]
enum Outcome<'a> {
    Copied(&'a CopyReport),
    Present(&'a CopyReport),
    Failed { error: String },
}

/// The JSON object of a repository whose tags cannot be listed.
#[derive(Serialize)]
struct Unlisted<'a> {
    repository: String,
    result: &'a str,
    error: &'a str,
}

/// Prints the result of one copy. In text format, failures are only on standard error.
pub(super) fn print(plan: &Plan, result: Result<&CopyReport, &Failure>, format: OutputFormat) {
    let (image, target) = (plan.image.as_str(), plan.copy.as_str());
    match (format, result) {
        (OutputFormat::Json, result) => output::json(&Object {
            image,
            target,
            outcome: match result {
                Ok(report) if report.manifests == 0 => Outcome::Present(report),
                Ok(report) => Outcome::Copied(report),
                Err(error) => Outcome::Failed {
                    error: error.to_string(),
                },
            },
        }),
        (OutputFormat::Text, Ok(report)) => output::line(&text(image, target, report)),
        (OutputFormat::Text, Err(_)) => {}
    }
}

pub(super) fn print_preview(
    plan: &Plan,
    preview: Result<&Preview, &Failure>,
    format: OutputFormat,
) {
    let (image, target) = (plan.image.as_str(), plan.copy.as_str());
    match (format, preview) {
        (OutputFormat::Json, Ok(outcome)) => output::json(&Object {
            image,
            target,
            outcome,
        }),
        (OutputFormat::Json, Err(error)) => output::json(&Object {
            image,
            target,
            outcome: Outcome::Failed {
                error: error.to_string(),
            },
        }),
        (OutputFormat::Text, Ok(preview)) => {
            let (digest, words) = match preview {
                Preview::WouldCopy { digest } => (digest, "would be copied".to_owned()),
                Preview::WouldReplace { digest, replaces } => {
                    (digest, format!("would replace {replaces}"))
                }
                Preview::Present { digest } => (digest, "already there".to_owned()),
            };
            output::line(&format!("{image} -> {target}\n  {digest}\n  {words}"));
        }
        (OutputFormat::Text, Err(_)) => {}
    }
}

/// Prints the failure to list the tags of a repository.
pub(super) fn print_unlisted(repository: &RepositoryName, error: &str, format: OutputFormat) {
    if format == OutputFormat::Json {
        output::json(&Unlisted {
            repository: repository.to_string(),
            result: "failed",
            error,
        });
    }
}

fn text(image: &str, target: &str, report: &CopyReport) -> String {
    format!(
        "{image} -> {target}\n  {}\n  {}, {}, {:.1} s{}",
        report.digest,
        transferred(report),
        count(report.requests, "request"),
        report.elapsed.as_secs_f64(),
        referrers(report)
    )
}

fn transferred(report: &CopyReport) -> String {
    if report.manifests == 0 && report.blobs_copied == 0 {
        return "already there".into();
    }
    format!(
        "{} in {} copied, {} mounted, {} already there",
        human_bytes(report.bytes),
        count(report.blobs_copied, "blob"),
        report.blobs_mounted,
        report.blobs_skipped,
    )
}

/// Returns a line about referrers, such as signatures, if there are any.
fn referrers(report: &CopyReport) -> String {
    match (report.referrers, report.referrers_left_out) {
        (0, 0) => String::new(),
        (copied, 0) => format!("\n  referrers: {copied} copied"),
        (copied, left_out) => format!("\n  referrers: {copied} copied, {left_out} left out"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_copy_that_was_there_has_no_figures_of_blobs() {
        let report = CopyReport {
            manifests: 0,
            bytes: 0,
            blobs_copied: 0,
            requests: 1,
            ..report(0, 0)
        };
        let text = text("a", "b", &report);
        assert_eq!(
            text.lines().nth(2).unwrap(),
            "  already there, 1 request, 1.5 s"
        );
    }

    fn lines(referrers: u64, referrers_left_out: u64) -> Vec<String> {
        let text = text("a", "b", &report(referrers, referrers_left_out));
        text.lines().map(str::to_owned).collect()
    }

    fn report(referrers: u64, referrers_left_out: u64) -> CopyReport {
        CopyReport {
            digest: format!("sha256:{}", "a".repeat(64)).parse().unwrap(),
            media_type: String::new(),
            bytes: 2048,
            blobs_copied: 1,
            blobs_mounted: 2,
            blobs_skipped: 3,
            blobs_foreign: 0,
            manifests: 1,
            manifests_trusted: 0,
            referrers,
            referrers_left_out,
            requests: 9,
            elapsed: Duration::from_millis(1500),
        }
    }

    #[test]
    fn referrers_are_mentioned_when_there_are_any() {
        let sent = "  2.0 KiB in 1 blob copied, 2 mounted, 3 already there, 9 requests, 1.5 s";
        assert_eq!(lines(0, 0)[2..], [sent]);
        assert_eq!(lines(2, 0)[2..], [sent, "  referrers: 2 copied"]);
        let both = "  referrers: 0 copied, 1 left out";
        assert_eq!(lines(0, 1)[2..], [sent, both]);
    }
}
