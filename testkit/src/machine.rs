//! The machine that figures come from.

use std::fs;

/// What a reader needs to compare: processor, memory, kernel.
#[must_use]
pub fn describe() -> Vec<String> {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = field("/proc/meminfo", "MemTotal");
    let kibibytes: u64 = memory.trim_end_matches(" kB").parse().unwrap_or(0);
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    // What a builder of kernels adds says nothing to others.
    let kernel: Vec<_> = release.split('.').take(2).collect();
    vec![
        format!(
            "processor: {}, {cores} cores",
            field("/proc/cpuinfo", "model name")
        ),
        format!("memory: {} GiB", (kibibytes + (1 << 19)) >> 20),
        format!("kernel: Linux {}", kernel.join(".")),
    ]
}

/// The value of the first line `name : value`.
fn field(file: &str, name: &str) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    });
    line.unwrap_or_else(|| "unknown".to_owned())
}
