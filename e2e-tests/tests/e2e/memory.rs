//! How much memory a copy takes: little, however large a layer is.

use std::process::{Command, Stdio};
use std::sync::Arc;

use testkit::artifacts;
use testkit::endless::{Endless, Sink};
use wait4::Wait4 as _;

/// Size of the layer: no buffer that grows with it could stay below the limits.
const LAYER_MIB: u64 = 2048;

/// The most that a copy of the large layer may have in memory beyond one of a layer of 1 MiB, in bytes. What the program itself
/// takes is several times as large in a debug build as in production, so it does not count.
const GROWTH: u64 = 8 << 20;

/// How the child is told which program it is to run: the arguments, one a line.
const JOB: &str = "MEMORY_TEST_JOB";

#[test]
fn two_gibibytes_pass_through_a_few_mebibytes() {
    assert_growth(peak_of_copy);
}

#[test]
fn two_gibibytes_are_verified_in_a_few_mebibytes() {
    assert_growth(peak_of_verify);
}

/// Compares the peaks of memory with a small and a large layer.
fn assert_growth(peak_with: impl Fn(u64) -> u64) {
    let (small, large) = (peak_with(1), peak_with(LAYER_MIB));
    assert!(
        large <= small + GROWTH,
        "{} KiB at the peak, {} KiB with a small layer",
        large >> 10,
        small >> 10
    );
    // A process that only shows its help takes more than that, so less would be a wrong measurement.
    assert!(small > 1 << 20, "{small} bytes cannot be right");
}

fn peak_of_copy(layer_mib: u64) -> u64 {
    let image = Arc::new(Endless::new(layer_mib));
    let sink = Arc::new(Sink::default());
    let source = image.serve().unwrap();
    let target = sink.serve().unwrap();
    let program = artifacts::sidecar_program().unwrap();
    let (peak, succeeded) = run(&[
        program.display().to_string(),
        "copy".to_owned(),
        format!("{}/team/big:v1", source.address()),
        format!("--to={}/copies/big:v1", target.address()),
        format!("--insecure-registry={}", source.address()),
        format!("--insecure-registry={}", target.address()),
    ]);
    assert!(succeeded);
    // The sink keeps what had the right digest, and nothing else.
    assert!(sink.has(&image, "v1"), "the layer did not arrive");
    peak
}

fn peak_of_verify(layer_mib: u64) -> u64 {
    let image = Arc::new(Endless::new(layer_mib));
    let backup = image.serve().unwrap();
    let program = artifacts::sidecar_program().unwrap();
    let (peak, succeeded) = run(&[
        program.display().to_string(),
        "verify".to_owned(),
        "--deep".to_owned(),
        "--offline".to_owned(),
        "registry.example.com/team/big:v1".to_owned(),
        format!("--registry={}", backup.address()),
        "--repository=copies".to_owned(),
        format!("--insecure-registry={}", backup.address()),
    ]);
    assert!(succeeded);
    peak
}

/// A program and its arguments.
pub type Job = Vec<String>;

/// Runs a program to its end. Returns its peak memory in bytes, and whether it succeeded.
///
/// The kernel counts into that what the process that started it had in memory. This one has much, so it starts
/// itself anew, with a single test, and that one starts and awaits the program.
pub fn run(job: &[String]) -> (u64, bool) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "memory::as_launcher", "--ignored", "--nocapture"])
        .env(JOB, job.join("\n"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let number = |name: &str| {
        let found = said.lines().find_map(|line| line.split_once(name));
        found.and_then(|(_, number)| number.parse().ok())
    };
    match (number("peak: "), number("status: ")) {
        (Some(peak), Some(status)) => (peak, status == 0),
        _ => panic!("{said}{}", String::from_utf8_lossy(&output.stderr)),
    }
}

#[test]
#[ignore = "runs as the child process of another test"]
#[allow(
    clippy::print_stdout,
    reason = "standard output is how a child answers"
)]
fn as_launcher() {
    let Ok(job) = std::env::var(JOB) else {
        return;
    };
    let mut words = job.lines();
    let used = Command::new(words.next().unwrap())
        .args(words)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
        .wait4()
        .unwrap();
    println!("status: {}", used.status.code().unwrap());
    println!("peak: {}", used.rusage.maxrss);
}
