//! The machine that the figures come from.

use std::path::Path;

use testkit::machine;

use crate::tools;

/// What a reader needs to compare: processor, memory, kernel, registry.
pub fn describe() -> Vec<String> {
    let registry = tools::output(Path::new("/usr/bin/docker-registry"), &["--version"]);
    let mut lines = machine::describe();
    lines.push(format!(
        "both registries: docker-registry {}, filesystem driver on a memory-backed folder, the same machine as the tools",
        registry
            .split_whitespace()
            .last()
            .unwrap_or("of unknown version")
    ));
    lines
}
