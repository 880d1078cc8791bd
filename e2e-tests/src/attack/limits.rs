//! The memory limit of a process: a control group where the machine allows one.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Where control groups are mounted, each with the file that holds its memory limit: version 2, and version 1.
const HIERARCHIES: [(&str, &str); 2] = [
    ("/sys/fs/cgroup", "memory.max"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
];

/// A control group with a memory limit. It is removed when this is dropped, after its processes have ended.
pub struct ControlGroup {
    folder: PathBuf,
}

impl ControlGroup {
    /// A new group with this limit in bytes; `None` where this process may not make one.
    #[must_use]
    pub fn new(limit: u64) -> Option<Self> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("image-mirror-attack-{}-{number}", std::process::id());
        HIERARCHIES.iter().find_map(|(parent, file)| {
            let group = Self {
                folder: Path::new(parent).join(&name),
            };
            fs::create_dir(&group.folder).ok()?;
            let is_limited = group.folder.join(file).exists()
                && fs::write(group.folder.join(file), limit.to_string()).is_ok();
            // Swap would hide what is used beyond the limit.
            let _ = fs::write(group.folder.join("memory.swap.max"), "0");
            is_limited.then_some(group)
        })
    }

    /// A command that enters the group and then becomes the program that follows it.
    #[must_use]
    pub fn launcher(&self) -> Vec<OsString> {
        let script = format!(
            "echo $$ > {}/cgroup.procs && exec \"$@\"",
            self.folder.display()
        );
        ["sh", "-c", &script, "sh"].map(OsString::from).to_vec()
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        // A process that was just killed may still be in it.
        for _ in 0..100 {
            if fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

/// The peak of a process's memory in bytes (`VmHWM`, proc(5)); `None` when there is no such process.
#[must_use]
pub fn peak(pid: u32) -> Option<u64> {
    status(pid, "VmHWM:")
}

/// The memory of a process in bytes (`VmRSS`, proc(5)); `None` when there is no such process.
#[must_use]
pub fn resident(pid: u32) -> Option<u64> {
    status(pid, "VmRSS:")
}

fn status(pid: u32, field: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kibibytes: u64 = value.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes << 10)
}
