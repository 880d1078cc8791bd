//! The document.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use testkit::machine;

use super::Args;
use super::load::Requests;

/// The memory may grow by so many bytes in an hour, once everything is copied.
const SLOPE: f64 = 4.0 * 1024.0 * 1024.0;
/// The 99th percentile of the facade: what it promises whatever the registries do. After a 503 with `Retry-After` the backup
/// is not asked for a second, and a late response is waited for 400 ms; with so many faults that concerns one request of a
/// hundred.
const P99: Duration = Duration::from_millis(500);
/// File descriptors: connections of the facade, of two registries, and what a process has anyway.
const DESCRIPTORS: usize = 512;
/// The memory of the chart, in bytes.
const MEMORY: u64 = 128 << 20;

/// The process at one moment.
pub struct Sample {
    pub at: Duration,
    pub resident: u64,
    pub descriptors: usize,
}

pub struct Report {
    pub args: Args,
    pub requests: Requests,
    pub settled_after: Duration,
    pub copies: usize,
    pub faults: usize,
    pub peak: u64,
    pub samples: Vec<Sample>,
}

impl Report {
    pub fn meets_its_targets(&self) -> bool {
        self.targets().iter().all(|(_, _, _, is_met)| *is_met)
    }

    /// Name, target, measured, met.
    fn targets(&self) -> Vec<(&'static str, String, String, bool)> {
        let p99 = self.requests.percentile(990);
        let descriptors = self
            .samples
            .iter()
            .map(|sample| sample.descriptors)
            .max()
            .unwrap_or(0);
        let slope = self.slope();
        let lost = self.args.images.saturating_sub(self.copies);
        let unanswered = self.requests.failed + self.requests.late;
        vec![
            (
                "images that are not in the backup at the end",
                "0".into(),
                lost.to_string(),
                lost == 0,
            ),
            (
                "requests without a response",
                "0".into(),
                unanswered.to_string(),
                unanswered == 0,
            ),
            (
                "facade, 99th percentile",
                format!("{} ms", P99.as_millis()),
                format!("{:.1} ms", p99.as_secs_f64() * 1000.0),
                p99 <= P99,
            ),
            (
                "growth of the memory in the second half",
                format!("{:.0} MiB an hour", SLOPE / 1_048_576.0),
                format!("{:.1} MiB an hour", slope / 1_048_576.0),
                slope <= SLOPE,
            ),
            (
                "memory, peak",
                "128 MiB".into(),
                mib(self.peak),
                self.peak <= MEMORY,
            ),
            (
                "file descriptors, most",
                DESCRIPTORS.to_string(),
                descriptors.to_string(),
                descriptors <= DESCRIPTORS,
            ),
        ]
    }

    /// Bytes an hour in the second half, by least squares.
    #[allow(clippy::cast_precision_loss, reason = "figures for people")]
    fn slope(&self) -> f64 {
        let half = self.samples.len() / 2;
        let samples: Vec<_> = self.samples.iter().skip(half).collect();
        let count = samples.len().max(1) as f64;
        let mean_at = samples
            .iter()
            .map(|sample| sample.at.as_secs_f64())
            .sum::<f64>()
            / count;
        let mean = samples
            .iter()
            .map(|sample| sample.resident as f64)
            .sum::<f64>()
            / count;
        let (mut above, mut below) = (0.0, 0.0);
        for sample in samples {
            let at = sample.at.as_secs_f64() - mean_at;
            above += at * (sample.resident as f64 - mean);
            below += at * at;
        }
        if below == 0.0 {
            0.0
        } else {
            above / below * 3600.0
        }
    }

    pub fn render(&self) -> String {
        let Args {
            seconds,
            rate,
            images,
            faults_per_mille,
            ..
        } = self.args;
        let mut text = format!(
            "# The sidecar under a long load\n\n\
             Made by `make soak` on {}: {rate} requests a second for {seconds} s over {images} images.\n\n",
            httpdate::fmt_http_date(SystemTime::now())
        );
        for line in machine::describe() {
            let _ = writeln!(text, "- {line}");
        }
        #[allow(clippy::cast_precision_loss, reason = "figures for people")]
        let percent = faults_per_mille as f64 / 10.0;
        let _ = write!(
            text,
            "- registries: scripted, on the same machine, plain HTTP; images of 2 KB; {percent:.1} % of their responses are faults \
             (500, 502 with HTML, 503 with `Retry-After`, 2 s late): {} in all\n\
             - requests: for each a new TLS connection with Basic authentication, as Kubewarden's host sends them; the client \
             shares the machine\n\
             - the sidecar: release build, everything at its defaults\n\n\
             | what | target | measured |\n| --- | --- | --- |\n",
            self.faults
        );
        for (name, target, measured, is_met) in self.targets() {
            let verdict = if is_met { "" } else { " (**missed**)" };
            let _ = writeln!(text, "| {name} | {target} | {measured}{verdict} |");
        }
        let mut row = |name: &str, value: String| {
            let _ = writeln!(text, "| {name} | | {value} |");
        };
        row("requests", self.requests.times.len().to_string());
        row(
            "of them for an image that was in the backup",
            self.requests.mirrored.to_string(),
        );
        for (name, per_mille) in [("median", 500), ("99.9th percentile", 999)] {
            row(
                &format!("facade, {name}"),
                format!(
                    "{:.1} ms",
                    self.requests.percentile(per_mille).as_secs_f64() * 1000.0
                ),
            );
        }
        if let Some(last) = self.samples.last() {
            row("memory at the end", mib(last.resident));
            row("file descriptors at the end", last.descriptors.to_string());
        }
        row(
            "last copy after the end of the load",
            format!("{:.0} s", self.settled_after.as_secs_f64()),
        );
        text
    }
}

fn mib(bytes: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "figures for people")]
    let mebibytes = bytes as f64 / 1_048_576.0;
    format!("{mebibytes:.1} MiB")
}
