//! Collects the lines that a child process writes, and lets others wait for one.

use std::io::{BufRead as _, BufReader, Read};
use std::process::Child;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub(super) struct Output {
    shared: Arc<Shared>,
    readers: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    lines: Mutex<Vec<String>>,
    more: Condvar,
}

impl Output {
    /// Takes over the stdout and stderr of a process that was started with pipes.
    pub fn collect(process: &mut Child) -> Self {
        let shared = Arc::new(Shared::default());
        let stdout = process.stdout.take().map(|pipe| shared.read(pipe));
        let stderr = process.stderr.take().map(|pipe| shared.read(pipe));
        Self {
            readers: stdout.into_iter().chain(stderr).collect(),
            shared,
        }
    }

    pub fn lines(&self) -> Vec<String> {
        self.shared.lines().clone()
    }

    /// Waits for the last lines of a process that ended.
    pub fn finish(&mut self) {
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
    }

    /// The first thing that `find` sees in a line; `None` when the time is over.
    pub fn wait<T>(&self, timeout: Duration, find: impl Fn(&str) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + timeout;
        let mut lines = self.shared.lines();
        let mut seen = 0;
        loop {
            if let Some(found) = lines[seen..].iter().find_map(|line| find(line)) {
                return Some(found);
            }
            seen = lines.len();
            let rest = deadline.checked_duration_since(Instant::now())?;
            let waited = self.shared.more.wait_timeout(lines, rest);
            lines = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Shared {
    fn read(self: &Arc<Self>, pipe: impl Read + Send + 'static) -> JoinHandle<()> {
        let shared = Arc::clone(self);
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                shared.lines().push(line);
                shared.more.notify_all();
            }
        })
    }

    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn lines_of_both_pipes_are_collected_and_can_be_waited_for() {
        let mut process = Command::new("sh")
            .args(["-c", "echo one; echo two >&2; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = Output::collect(&mut process);
        let second = Duration::from_secs(10);
        let two = output.wait(second, |line| (line == "two").then_some(2));
        assert_eq!(two, Some(2));
        let never = output.wait(Duration::ZERO, |line| (line == "three").then_some(3));
        assert_eq!(never, None);
        drop(process.stdin.take());
        process.wait().unwrap();
        output.finish();
        let mut lines = output.lines();
        lines.sort();
        assert_eq!(lines, ["one", "two"]);
    }
}
