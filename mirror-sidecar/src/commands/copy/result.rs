//! The results on standard output.

use mirror_copy::CopyReport;
use serde::Serialize;

use super::plan::Plan;
use crate::output::{self, OutputFormat, human_bytes};

/// The result of one copy, as JSON shows it.
#[derive(Serialize)]
struct Copied<'a> {
    image: &'a str,
    target: &'a str,
    #[serde(flatten)]
    report: &'a CopyReport,
}

/// Prints what became of one copy.
pub(super) fn print(plan: &Plan, report: &CopyReport, format: OutputFormat) {
    let (image, target) = (plan.image.as_str(), plan.copy.as_str());
    match format {
        OutputFormat::Json => output::json(&Copied {
            image,
            target,
            report,
        }),
        OutputFormat::Text => output::line(&text(image, target, report)),
    }
}

fn text(image: &str, target: &str, report: &CopyReport) -> String {
    format!(
        "{image} -> {target}\n  {}\n  {} in {} blobs copied, {} mounted, {} already there, {} requests, {:.1} s",
        report.digest,
        human_bytes(report.bytes),
        report.blobs_copied,
        report.blobs_mounted,
        report.blobs_skipped,
        report.requests,
        report.elapsed.as_secs_f64()
    )
}
