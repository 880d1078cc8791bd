//! Finds kube-apiserver and etcd, and says what a test does without them.

use std::env;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, bail, ensure};

/// Folder with `kube-apiserver` and `etcd`, by the convention of envtest.
pub const ASSETS_VARIABLE: &str = "KUBEBUILDER_ASSETS";
/// `required`: a test that has no API server fails instead of being skipped. So it is where `CI` is set.
pub const POLICY_VARIABLE: &str = "CLUSTER_TESTS";

/// What a cluster without nodes consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Programs {
    pub apiserver: PathBuf,
    pub etcd: PathBuf,
}

impl Programs {
    /// Looks where [`ASSETS_VARIABLE`] says, else where `apiserver.sh` puts what it builds.
    pub fn find() -> anyhow::Result<Self> {
        if let Some(folder) = variable(ASSETS_VARIABLE) {
            return Self::in_folder(Path::new(&folder)).with_context(|| {
                format!("{ASSETS_VARIABLE}={folder} lacks kube-apiserver or etcd")
            });
        }
        let cache = cache_folder().context("there is no home folder")?;
        Self::in_cache(&cache).with_context(|| {
            format!(
                "there is no kube-apiserver in {}: run e2e-tests/apiserver.sh, or name a folder with kube-apiserver \
                 and etcd in {ASSETS_VARIABLE}",
                cache.display()
            )
        })
    }

    /// The newest version in a cache folder.
    fn in_cache(cache: &Path) -> Option<Self> {
        let mut folders: Vec<_> = cache
            .read_dir()
            .ok()?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                let name = path.file_name().and_then(|name| name.to_str());
                name.is_some_and(|name| name.starts_with("kubernetes-"))
            })
            .collect();
        folders.sort();
        folders
            .iter()
            .rev()
            .find_map(|folder| Self::in_folder(folder))
    }

    fn in_folder(folder: &Path) -> Option<Self> {
        let file = |name| Some(folder.join(name)).filter(|path| path.is_file());
        Some(Self {
            apiserver: file("kube-apiserver")?,
            etcd: file("etcd")?,
        })
    }
}

/// The programs, or `None` when the test shall be skipped, which is said and counted on stderr.
pub(super) fn find_or_skip() -> anyhow::Result<Option<Programs>> {
    let policy = variable(POLICY_VARIABLE);
    ensure!(
        matches!(policy.as_deref(), None | Some("required")),
        "{POLICY_VARIABLE} is {policy:?}; use \"required\" or leave it out"
    );
    let missing = match Programs::find() {
        Ok(programs) => return Ok(Some(programs)),
        Err(error) => error,
    };
    if policy.is_some() || variable("CI").is_some() {
        bail!(missing.context("the cluster tests are required here"));
    }
    skip(&format!("{missing:#}"));
    Ok(None)
}

/// Says and counts on stderr that this test is skipped, and why.
pub(super) fn skip(why: &str) {
    static SKIPPED: AtomicUsize = AtomicUsize::new(0);
    let count = SKIPPED.fetch_add(1, Ordering::Relaxed) + 1;
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test").to_owned();
    // Not a macro: the test harness would swallow the line, since the test passes.
    let _ = writeln!(
        std::io::stderr(),
        "SKIPPED ({count} cluster tests so far): {test}: {why}"
    );
}

/// A variable that is set to something.
pub(super) fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// Must be what `apiserver.sh` uses.
fn cache_folder() -> Option<PathBuf> {
    let cache = variable("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(Path::new(&variable("HOME")?).join(".cache")))?;
    Some(cache.join("image-mirror"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_newest_complete_version_is_used() {
        let cache = tempfile::tempdir().unwrap();
        assert_eq!(Programs::in_cache(cache.path()), None);
        for (version, files) in [
            ("kubernetes-1.20.2", &["kube-apiserver", "etcd"][..]),
            ("kubernetes-1.33.1", &["kube-apiserver", "etcd"]),
            ("kubernetes-1.34.0", &["etcd"]),
            ("other-2.0.0", &["kube-apiserver", "etcd"]),
        ] {
            let folder = cache.path().join(version);
            fs::create_dir(&folder).unwrap();
            for file in files {
                fs::write(folder.join(file), "").unwrap();
            }
        }
        let found = Programs::in_cache(cache.path()).unwrap();
        assert_eq!(found.etcd, cache.path().join("kubernetes-1.33.1/etcd"));
    }
}
