//! One run of `mirror-sidecar copy`, watched from outside.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use testkit::artifacts;

use super::line::{Line, Point};

/// How long a copy of some megabytes may take on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long a copy may take to end when it is told to.
const STOP_WITHIN: Duration = Duration::from_secs(1);

/// A copy in its own process. It is killed when this is dropped.
pub struct Run {
    process: Child,
    news: Receiver<News>,
    point: Point,
    /// The last line of progress.
    last: String,
}

/// What is heard of a run.
enum News {
    /// A line of progress.
    Event(String),
    /// The point has come: nothing reaches the target any more.
    Cut,
    /// Standard error was closed, which only its end does.
    Ended,
}

/// How a run ended.
#[derive(Debug)]
pub enum End {
    /// By itself, before its point came.
    Finished(ExitStatus),
    CutOff,
}

impl Run {
    pub fn start(from: &str, to: &str, insecure: &[String], line: &Line, point: Point) -> Self {
        let (sender, news) = mpsc::channel();
        let cut = sender.clone();
        line.open(point, move || {
            // Nobody listens when the run has ended.
            let _ = cut.send(News::Cut);
        });
        let insecure = insecure.iter().map(String::as_str);
        let mut process = Command::new(artifacts::sidecar_program().unwrap())
            .args(["copy", from, "--to", to, "--progress", "json"])
            .args(insecure.flat_map(|host| ["--insecure-registry", host]))
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let progress = BufReader::new(process.stderr.take().unwrap());
        thread::spawn(move || {
            for line in progress.lines().map_while(Result::ok) {
                // Nobody listens when the run was cut off.
                let _ = sender.send(News::Event(line));
            }
            let _ = sender.send(News::Ended);
        });
        Self {
            process,
            news,
            point,
            last: String::new(),
        }
    }

    /// Waits for the end.
    pub fn wait(mut self) -> End {
        self.until_point()
    }

    /// Kills it at its point, as the kernel does when memory runs out.
    pub fn kill_at_point(mut self) -> End {
        // Dropping it is what kills it.
        self.until_point()
    }

    /// Tells it to stop at its point, and sees to it that it does, soon.
    pub fn stop_at_point(mut self) -> End {
        if let End::Finished(status) = self.until_point() {
            return End::Finished(status);
        }
        let asked = Instant::now();
        kill_process(Pid::from_child(&self.process), Signal::TERM).unwrap();
        while let News::Event(_) | News::Cut =
            self.hear(STOP_WITHIN.saturating_sub(asked.elapsed()))
        {}
        let status = self.process.wait().unwrap();
        if status.success() {
            // What was passed on last was all that was missing.
            return End::Finished(status);
        }
        assert_eq!(
            status.code(),
            Some(143),
            "it did not end by itself: {status}"
        );
        assert!(self.last.contains("interrupted"), "{}", self.last);
        End::CutOff
    }

    fn until_point(&mut self) -> End {
        loop {
            match self.hear(PATIENCE) {
                News::Ended => return End::Finished(self.process.wait().unwrap()),
                News::Cut => return End::CutOff,
                News::Event(_) => {}
            }
        }
    }

    fn hear(&mut self, patience: Duration) -> News {
        let news = self.news.recv_timeout(patience).unwrap_or_else(|_| {
            panic!(
                "{patience:?} passed after {:?} and {}",
                self.point, self.last
            )
        });
        if let News::Event(line) = &news {
            self.last.clone_from(line);
        }
        news
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
