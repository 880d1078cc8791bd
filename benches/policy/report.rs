//! Turns figures into `docs/bench-policy.md`.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use e2e_tests::fuel::{Spent, rustc_version};
use serde_json::Value;
use testkit::{artifacts, machine};

use super::Contender;

/// One case.
pub struct Row {
    /// Its name.
    pub name: &'static str,
    /// Bytes of the call's payload with the settings of image-mirror.
    pub request: usize,
    /// The figures of each policy, image-mirror first.
    pub figures: Vec<Figure>,
}

/// What one policy takes for one case.
pub struct Figure {
    /// Median in microseconds, from the start of the instance to its end.
    pub time: f64,
    /// What the meter counted.
    pub spent: Spent,
}

/// What must be met, in microseconds on top of instantiation.
const TARGETS: [(&str, f64); 2] = [("excluded-namespace", 60.0), ("pod-10", 250.0)];
/// Cases in which nothing is asked of the host; ours may take this part of the other policy's time.
const WITHOUT_CALLS: [&str; 2] = ["excluded-namespace", "pod-10-opted-out"];
const PART_OF_OTHER: f64 = 0.5;

/// The median that criterion found, in microseconds.
pub fn median(case: &str, policy: &str) -> anyhow::Result<f64> {
    let folder = std::env::var_os("CRITERION_HOME").context("CRITERION_HOME is not set")?;
    let path = PathBuf::from(folder)
        .join(case)
        .join(policy)
        .join("new/estimates.json");
    let text = fs::read(&path).with_context(|| format!("{} cannot be read", path.display()))?;
    let estimates: Value = serde_json::from_slice(&text)?;
    let nanoseconds = estimates["median"]["point_estimate"]
        .as_f64()
        .with_context(|| format!("{} has no median", path.display()))?;
    Ok(nanoseconds / 1000.0)
}

/// Writes the document.
pub fn write(contenders: &[Contender], rows: &[Row]) -> anyhow::Result<()> {
    let path = artifacts::workspace().join("docs/bench-policy.md");
    let text = document(contenders, rows)?;
    fs::write(&path, text).with_context(|| format!("{} cannot be written", path.display()))
}

fn document(contenders: &[Contender], rows: &[Row]) -> anyhow::Result<String> {
    let mut text = String::from(INTRODUCTION);
    for line in machine::describe() {
        writeln!(text, "- {line}")?;
    }
    writeln!(text, "- compiler: {}, profile `wasm`", rustc_version()?)?;
    text.push_str(
        "\n## Targets\n\n| target | limit | measured | verdict |\n| --- | --- | --- | --- |\n",
    );
    for (what, limit, measured) in targets(contenders, rows) {
        let verdict = if measured <= limit {
            "met"
        } else {
            "**missed**"
        };
        writeln!(
            text,
            "| {what} | {limit:.0} µs | {measured:.0} µs | {verdict} |"
        )?;
    }
    text.push_str("\n## Figures\n\n| case | request |");
    for contender in contenders {
        write!(text, " {}: time | instructions | memory |", contender.name)?;
    }
    let columns = 2 + 3 * contenders.len();
    writeln!(text, "\n|{}", " --- |".repeat(columns))?;
    for (index, row) in rows.iter().enumerate() {
        write!(text, "| {} | {} |", row.name, bytes(row.request))?;
        for (policy, figure) in row.figures.iter().enumerate() {
            let (time, instructions) = if index == 0 {
                (figure.time, figure.spent.start + figure.spent.call)
            } else {
                (above(rows, index, policy), figure.spent.call)
            };
            let (time, instructions) = (duration(time), thousands(instructions));
            let memory = figure.spent.memory >> 10;
            write!(text, " {time} | {instructions} | {memory} KiB |")?;
        }
        text.push('\n');
    }
    if contenders.iter().any(|other| other.name == NEIGHBOUR) {
        text.push_str(ABOUT_NEIGHBOUR);
    }
    text.push_str(METHOD);
    Ok(text)
}

/// What is to be met, the limit and the measured value in microseconds.
fn targets(contenders: &[Contender], rows: &[Row]) -> Vec<(String, f64, f64)> {
    let find = |name: &str| rows.iter().position(|row| row.name == name);
    let mut targets = Vec::new();
    for (name, limit) in TARGETS {
        if let Some(index) = find(name) {
            let what = format!("{name}, on top of instantiation");
            targets.push((what, limit, above(rows, index, 0)));
        }
    }
    for (number, other) in contenders.iter().enumerate().skip(1) {
        for index in WITHOUT_CALLS.into_iter().filter_map(find) {
            let limit = above(rows, index, number) * PART_OF_OTHER;
            let what = format!("{}, half of what {} takes", rows[index].name, other.name);
            targets.push((what, limit, above(rows, index, 0)));
        }
    }
    targets
}

/// The time of a case on top of instantiation, in microseconds.
fn above(rows: &[Row], index: usize, policy: usize) -> f64 {
    rows[index].figures[policy].time - rows[0].figures[policy].time
}

fn bytes(bytes: usize) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        _ => format!("{} KiB", (bytes + 512) >> 10),
    }
}

fn duration(microseconds: f64) -> String {
    if microseconds < 10_000.0 {
        format!("{microseconds:.0} µs")
    } else {
        format!("{:.1} ms", microseconds / 1000.0)
    }
}

fn thousands(count: u64) -> String {
    if count < 10_000 {
        count.to_string()
    } else {
        format!("{} k", (count + 500) / 1000)
    }
}

const INTRODUCTION: &str = "# What an evaluation takes

Made by `make bench-policy`. To have another policy beside it: `make bench-policy AGAINST=/path/other.wasm AGAINST_SETTINGS='{…}'`.

";

/// The nearest of Kubewarden's own policies.
const NEIGHBOUR: &str = "trusted_repos_policy";

const ABOUT_NEIGHBOUR: &str = "
trusted-repos-policy is the nearest of Kubewarden's own policies: it looks at the same images, asks nobody and changes nothing. It \
compiles a regular expression for references in every fresh instance, which is nearly all of its time.
";

const METHOD: &str = "
The row `instantiation` is the whole of a call that does nothing (`protocol_version`): instance, start, call, end. Every other row \
is what its case takes on top of that.

- `excluded-namespace`, `1mib-excluded-namespace`: a Pod in `kube-system`. The object is skipped, not read.
- `pod-1`, `pod-10`: a new Pod of so many containers, each with an image of its own; all are mirrored and get their copies, the \
  pull Secret is added. One call of the host for each image, one for the Secret, one for the log.
- `pod-10-opted-out`: the same Pod with the annotation that leaves it alone. It is read whole, the host is not called.
- `deployment`: a Deployment with five images of different kinds.
- `1mib-pod-10`: the Pod with 250 KiB of annotations and 774 KiB of variables, all in small pieces.

How it is measured:

- Requests are those that an API server sent, with more containers. A request's size is that of the whole payload.
- The policy runs in the engine of a policy server (wasmtime and waPC), compiled beforehand, with deadlines, in a fresh instance each \
  time. Answers are at hand: what the sidecar takes is not in the figures. Neither is what the server does before and after, such \
  as the JSON patch.
- Time is the processor's, which is the time that passes on an idle machine: criterion's median. Instructions are counted in another run, by wasmtime's fuel, with a clock that stands still; `make \
  test` fails when they grow. Memory is what the instance has at its end.
";
