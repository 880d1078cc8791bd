//! What the kernel counts of a process (proc(5)).

use std::fs;
use std::time::Duration;

use anyhow::Context as _;

/// Linux counts CPU time in hundredths of a second for user space, on every architecture that matters.
const TICK: Duration = Duration::from_millis(10);

pub struct Process {
    pid: u32,
}

impl Process {
    pub fn of(pid: u32) -> Self {
        Self { pid }
    }

    /// Bytes of memory now.
    pub fn rss(&self) -> anyhow::Result<u64> {
        self.status("VmRSS:")
    }

    /// Bytes of memory at most, so far.
    pub fn peak(&self) -> anyhow::Result<u64> {
        self.status("VmHWM:")
    }

    /// User and system time so far.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid))?;
        // The name, in parentheses, may have spaces; utime and stime are the fields 14 and 15.
        let (_, rest) = stat.rsplit_once(')').context("no name in stat")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let mut ticks = 0;
        for field in [11, 12] {
            ticks += fields.get(field).context("stat is short")?.parse::<u32>()?;
        }
        Ok(TICK * ticks)
    }

    fn status(&self, name: &str) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kibibytes = line
            .context("status lacks it")?
            .trim()
            .trim_end_matches(" kB");
        Ok(kibibytes.parse::<u64>()? * 1024)
    }
}
