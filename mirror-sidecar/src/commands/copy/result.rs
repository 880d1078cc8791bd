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
        "{image} -> {target}\n  {}\n  {} in {} blobs copied, {} mounted, {} already there, {} requests, {:.1} s{}",
        report.digest,
        human_bytes(report.bytes),
        report.blobs_copied,
        report.blobs_mounted,
        report.blobs_skipped,
        report.requests,
        report.elapsed.as_secs_f64(),
        referrers(report)
    )
}

/// One more line about what refers to the image, such as signatures, if there is any.
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

    fn lines(referrers: u64, referrers_left_out: u64) -> Vec<String> {
        let report = CopyReport {
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
        };
        let text = text("a", "b", &report);
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn referrers_are_mentioned_when_there_are_any() {
        let sent = "  2.0 KiB in 1 blobs copied, 2 mounted, 3 already there, 9 requests, 1.5 s";
        assert_eq!(lines(0, 0)[2..], [sent]);
        assert_eq!(lines(2, 0)[2..], [sent, "  referrers: 2 copied"]);
        let both = "  referrers: 0 copied, 1 left out";
        assert_eq!(lines(0, 1)[2..], [sent, both]);
    }
}
