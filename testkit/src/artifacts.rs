//! Finds what is tested: the sidecar's program and the policy's module. Builds them when nobody says where they are.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context as _, ensure};
use serde_json::Value;

/// Path of a `mirror-sidecar` program to test instead of a fresh build.
pub const SIDECAR_VARIABLE: &str = "MIRROR_SIDECAR_BIN";
/// Path of a policy module to test instead of a fresh build.
pub const POLICY_VARIABLE: &str = "IMAGE_MIRROR_WASM";

/// The `mirror-sidecar` program, built once per process.
///
/// # Errors
/// When it cannot be built; cargo says why on stderr.
pub fn sidecar_program() -> anyhow::Result<&'static Path> {
    static PROGRAM: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    find(&PROGRAM, SIDECAR_VARIABLE, || {
        build(&["-p", "mirror-sidecar", "--bin", "mirror-sidecar"], "")
    })
}

/// The policy's WebAssembly module as a file, built once per process.
///
/// # Errors
/// When it cannot be built; cargo says why on stderr.
pub fn policy_module() -> anyhow::Result<&'static Path> {
    static MODULE: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    find(&MODULE, POLICY_VARIABLE, || {
        build(
            &[
                "-p",
                "image-mirror-policy",
                "--target",
                "wasm32-wasip1",
                "--profile",
                "wasm",
            ],
            ".wasm",
        )
    })
}

/// The workspace's folder.
#[must_use]
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
}

fn find(
    cell: &'static OnceLock<Result<PathBuf, String>>,
    variable: &str,
    build: impl FnOnce() -> anyhow::Result<PathBuf>,
) -> anyhow::Result<&'static Path> {
    let found = cell.get_or_init(|| {
        let path = match env::var_os(variable) {
            Some(path) => Ok(PathBuf::from(path)),
            None => build(),
        };
        path.and_then(|path| {
            ensure!(path.is_file(), "{} is not a file", path.display());
            Ok(path)
        })
        .map_err(|error| format!("{error:#} (a ready one can be named in {variable})"))
    });
    match found {
        Ok(path) => Ok(path),
        Err(error) => anyhow::bail!("{error}"),
    }
}

/// Runs `cargo build` and gives the file that it made: the program, or the file with this ending.
fn build(arguments: &[&str], ending: &str) -> anyhow::Result<PathBuf> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--message-format", "json"])
        .args(arguments)
        .arg("--target-dir")
        .arg(target_folder()?)
        .current_dir(workspace())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cargo cannot be run")?;
    ensure!(
        output.status.success(),
        "cargo build {} failed",
        arguments.join(" ")
    );
    String::from_utf8(output.stdout)?
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|message| product(&message, ending))
        .next_back()
        .with_context(|| format!("cargo build {} made nothing", arguments.join(" ")))
}

/// The file that one of cargo's messages reports, if it is of the wanted kind.
fn product(message: &Value, ending: &str) -> Option<PathBuf> {
    let file = if ending.is_empty() {
        message["executable"].as_str()
    } else {
        message["filenames"]
            .as_array()?
            .iter()
            .filter_map(Value::as_str)
            .find(|file| file.ends_with(ending))
    };
    file.map(PathBuf::from)
}

/// Where this very program was built, so that nothing is compiled twice: `<target>/<profile>/deps/<program>`.
fn target_folder() -> anyhow::Result<PathBuf> {
    if let Some(folder) = env::var_os("CARGO_TARGET_DIR") {
        return Ok(workspace().join(folder));
    }
    let program = env::current_exe()?;
    let profile = program
        .ancestors()
        .skip(1)
        .find(|folder| !folder.ends_with("deps") && !folder.ends_with("examples"));
    Ok(profile
        .and_then(Path::parent)
        .map_or_else(|| workspace().join("target"), Path::to_path_buf))
}
