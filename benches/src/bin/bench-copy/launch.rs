//! Runs the measured programs and takes their wall time, CPU time and peak memory.
//!
//! The kernel counts into a process's peak memory what its parent had in memory when it started it. The bench has much,
//! so it starts itself anew, as a small launcher, and that one starts and awaits the programs.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};
use wait4::{ResUse, Wait4 as _};

use crate::interrupt;

/// How much of what a failed program wrote is kept, in bytes from the end.
const COMPLAINT: u64 = 600;
/// How often a wait looks whether the bench was interrupted.
const LOOK: Duration = Duration::from_millis(200);

/// Programs to run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// Run before the clock starts, one after another.
    pub setup: Vec<Program>,
    /// What is measured.
    pub programs: Vec<Program>,
    /// How many of them run at a time.
    pub parallel: usize,
    /// The whole environment, but for `PATH`.
    pub environment: BTreeMap<String, String>,
}

/// A program with its arguments.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Program {
    pub path: PathBuf,
    pub arguments: Vec<String>,
}

/// What all programs of a job used.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Usage {
    /// From the start of the first to the end of the last.
    pub wall: Duration,
    /// User and system time of all together.
    pub cpu: Duration,
    /// The peak of the largest one, in bytes.
    pub max_rss: u64,
    /// What was wrong, for each program that failed.
    pub failures: Vec<String>,
}

/// How a job ended.
pub enum Ran {
    Ended(Usage),
    /// It took too long and was killed.
    GaveUp,
}

/// Runs a job in a launcher and waits for it.
///
/// # Errors
/// When the launcher cannot be run, a setup step fails, or the bench is interrupted.
pub fn run(job: &Job, give_up: Duration) -> anyhow::Result<Ran> {
    let mut launcher = Command::new(std::env::current_exe()?)
        .arg("launch")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // One group, so that everything can be stopped at once.
        .process_group(0)
        .spawn()?;
    let group = Pid::from_child(&launcher);
    let mut input = launcher.stdin.take().context("the launcher's input")?;
    input.write_all(&serde_json::to_vec(job)?)?;
    drop(input);
    let mut output = launcher.stdout.take().context("the launcher's output")?;
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut text = String::new();
        let result = output.read_to_string(&mut text).map(|_| text);
        // Nobody listens any more when the job was given up.
        let _ = sender.send(result);
    });
    let start = Instant::now();
    loop {
        match receiver.recv_timeout(LOOK) {
            Ok(text) => {
                let status = launcher.wait()?;
                ensure!(status.success(), "the launcher failed: {status}");
                return Ok(Ran::Ended(serde_json::from_str(&text?)?));
            }
            Err(RecvTimeoutError::Timeout)
                if start.elapsed() < give_up && !interrupt::happened() => {}
            Err(_) => {
                // The launcher was not awaited yet, so the group is still its own.
                let _ = kill_process_group(group, Signal::KILL);
                launcher.wait()?;
                interrupt::check()?;
                return Ok(Ran::GaveUp);
            }
        }
    }
}

/// The launcher itself: a job on standard input, what it used on standard output.
pub fn launcher() -> anyhow::Result<()> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let job: Job = serde_json::from_str(&text)?;
    for step in &job.setup {
        let (used, complaint) = await_program(step, &job)?;
        ensure!(
            used.status.success(),
            "{}: {complaint}",
            step.path.display()
        );
    }
    let usage = all(&job);
    serde_json::to_writer(std::io::stdout(), &usage)?;
    Ok(())
}

fn all(job: &Job) -> Usage {
    let total = Mutex::new(Usage::default());
    let next = AtomicUsize::new(0);
    let start = Instant::now();
    let worker = || {
        while let Some(program) = job.programs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let result = await_program(program, job);
            let ended = start.elapsed();
            let mut total = total.lock().expect("no holder panics");
            total.wall = total.wall.max(ended);
            match result {
                Ok((used, complaint)) => {
                    total.cpu += used.rusage.utime + used.rusage.stime;
                    total.max_rss = total.max_rss.max(used.rusage.maxrss);
                    if !used.status.success() {
                        total.failures.push(format!("{}: {complaint}", used.status));
                    }
                }
                Err(error) => total.failures.push(format!("{error:#}")),
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..job.parallel {
            scope.spawn(worker);
        }
        worker();
    });
    total.into_inner().expect("no holder panicked")
}

/// Runs one program to its end; also what it wrote last to standard error.
fn await_program(program: &Program, job: &Job) -> anyhow::Result<(ResUse, String)> {
    let mut complaint = tempfile::tempfile()?;
    let child = Command::new(&program.path)
        .args(&program.arguments)
        .env_clear()
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .envs(&job.environment)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(complaint.try_clone()?)
        .spawn()
        .with_context(|| format!("{} cannot be run", program.path.display()))?;
    let used = child.wait4()?;
    Ok((used, tail(&mut complaint)?))
}

fn tail(file: &mut File) -> anyhow::Result<String> {
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(length.saturating_sub(COMPLAINT)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}
