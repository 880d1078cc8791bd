//! The document.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use testkit::api_server::Calls;
use testkit::machine;

use super::objects::Scale;

/// Bytes of memory that an object may cost on average.
const BYTES_PER_OBJECT: f64 = 1024.0;

/// What was measured at one size.
pub struct Run {
    pub ready: Duration,
    pub complete: Duration,
    pub cpu_complete: Duration,
    pub settled: Duration,
    pub rss: u64,
    pub peak: u64,
    pub object_bytes: usize,
    pub idle: Idle,
}

/// What was measured while nothing happened.
pub struct Idle {
    pub time: Duration,
    pub cpu: Duration,
    pub calls: Calls,
    pub backup: usize,
    pub upstream: usize,
}

pub struct Report {
    pub scale: Scale,
    pub empty: Run,
    pub full: Run,
}

impl Report {
    pub fn meets_its_target(&self) -> bool {
        self.bytes_per_object() <= BYTES_PER_OBJECT
    }

    #[allow(clippy::cast_precision_loss, reason = "figures for people")]
    fn bytes_per_object(&self) -> f64 {
        let objects = self.scale.workloads + self.scale.pods + self.scale.namespaces;
        self.full.rss.saturating_sub(self.empty.rss) as f64 / objects.max(1) as f64
    }

    pub fn render(&self, command: &str) -> String {
        let Scale {
            workloads,
            pods,
            images,
            namespaces,
        } = self.scale;
        let Run { idle, .. } = &self.full;
        let mut text = format!(
            "# The sidecar in a large cluster\n\n\
             Made by `{command}` on {}: {workloads} workloads, {pods} Pods, {images} images, {namespaces} namespaces.\n\n",
            httpdate::fmt_http_date(SystemTime::now())
        );
        for line in machine::describe() {
            let _ = writeln!(text, "- {line}");
        }
        let objects = (workloads + pods + namespaces).max(1);
        let _ = write!(
            text,
            "- API server and registries: scripted, on the same machine, plain HTTP. The objects are made beforehand, on average \
             {:.1} KiB of JSON each, with the images that the policy has put there; pages as large as the sidecar asks for; nothing changes but what the \
             sidecar writes. Both registries have every image, so nothing is copied.\n\
             - the sidecar: release build, `--kubernetes=on`, one replica, everything else at its defaults\n\n",
            kib(self.full.object_bytes as u64) / count(objects)
        );
        text.push_str("| what | measured |\n| --- | --- |\n");
        let mut row = |name: &str, value: String| {
            let _ = writeln!(text, "| {name} | {value} |");
        };
        let seconds = |time: Duration| format!("{:.2} s", time.as_secs_f64());
        let per_minute =
            |number: usize| format!("{:.1}", count(number) / idle.time.as_secs_f64() * 60.0);
        row("start to `/readyz`", seconds(self.full.ready));
        row(
            "start to the complete model (every list read, every watch open)",
            seconds(self.full.complete),
        );
        row("CPU until then", seconds(self.full.cpu_complete));
        row(
            "start to the end of the first look at all copies",
            seconds(self.full.settled),
        );
        row("RSS, idle", mib(self.full.rss));
        row("RSS, peak", mib(self.full.peak));
        row(
            "RSS, idle, the same in an empty cluster",
            mib(self.empty.rss),
        );
        row(
            "memory per object (limit 1 KiB)",
            format!(
                "{:.0} bytes: {}",
                self.bytes_per_object(),
                if self.meets_its_target() {
                    "met"
                } else {
                    "**missed**"
                }
            ),
        );
        row(
            "CPU in 60 s idle",
            format!(
                "{:.2} s",
                idle.cpu.as_secs_f64() / idle.time.as_secs_f64() * 60.0
            ),
        );
        row(
            "requests to the backup per minute, idle",
            per_minute(idle.backup),
        );
        row(
            "requests to the upstream per minute, idle",
            per_minute(idle.upstream),
        );
        row(
            "API calls per minute, idle",
            per_minute(idle.calls.values().sum()),
        );
        let _ = write!(
            text,
            "\nIdle is the mean of {} s. The API calls in that time:\n\n| verb | resource | calls |\n| --- | --- | --- |\n",
            idle.time.as_secs()
        );
        for ((verb, resource), calls) in &idle.calls {
            let _ = writeln!(text, "| {verb} | `{resource}` | {calls} |");
        }
        text.push_str(
            "\nA watch ends after 290 s, as its client asks, and is opened again. Leases are renewed every few seconds.\n",
        );
        text
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", kib(bytes) / 1024.0)
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn kib(bytes: u64) -> f64 {
    bytes as f64 / 1024.0
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn count(number: usize) -> f64 {
    number as f64
}
