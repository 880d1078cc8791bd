//! A server as a child process that cannot outlive the tests, however they end.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::Context as _;

/// Runs a command and kills it when stdin ends: when the test drops its end, or dies and the system does it.
///
/// A killed server's folder is removed if there is one to remove, because a test that dies cannot do that either.
const SUPERVISOR: &str = r#"
folder=$1
shift
exec 3<&0 </dev/null
"$@" 3<&- &
server=$!
{ read -r _ <&3; kill -KILL "$server"; } &
reader=$!
wait "$server"
status=$?
kill -KILL "$reader" 2>/dev/null
[ "$status" -ne 137 ] || [ -z "$folder" ] || rm -rf "$folder"
exit "$status"
"#;

/// An API server writes thousands of lines, of which the last ones say why it failed.
const LOG_LINES: usize = 40;

/// A running server. It is killed when this is dropped.
pub(super) struct Process {
    supervisor: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program in a folder; what it writes is appended to `log`. `doomed` is removed when it is killed.
    pub fn start<A: AsRef<OsStr>>(
        program: &Path,
        arguments: impl IntoIterator<Item = A>,
        folder: &Path,
        log: &str,
        doomed: Option<&Path>,
    ) -> anyhow::Result<Self> {
        let log = folder.join(log);
        let file = File::options().create(true).append(true).open(&log)?;
        let supervisor = Command::new("/bin/sh")
            .args(["-c", SUPERVISOR, "supervisor"])
            .arg(doomed.unwrap_or(Path::new("")))
            .arg(program)
            .args(arguments)
            .current_dir(folder)
            // Nothing of this machine, such as its proxies, may change how the server behaves.
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", folder)
            // Ctrl-C in a terminal ends the tests, and their end this.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("{} cannot be run", program.display()))?;
        Ok(Self { supervisor, log })
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        // try_wait() closes no pipes, so the server lives on.
        Ok(self.supervisor.try_wait()?)
    }

    /// The last lines that it wrote.
    pub fn log(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let start = lines.len().saturating_sub(LOG_LINES);
        lines[start..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // wait() closes the pipe first, which is the signal to the shell.
        let _ = self.supervisor.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    const CHILD_FOLDER: &str = "CHILD_FOLDER";

    /// Waits for what another process does.
    fn wait_for<T>(mut look: impl FnMut() -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(
                start.elapsed() < Duration::from_secs(30),
                "it does not happen"
            );
            std::thread::yield_now();
        }
    }

    /// Starts a script that writes its process id and sleeps.
    fn start(folder: &Path, doomed: Option<&Path>) -> Process {
        let script = "echo $$ > pid.new; mv pid.new pid; exec sleep 1000";
        Process::start(Path::new("/bin/sh"), ["-c", script], folder, "log", doomed).unwrap()
    }

    fn id_in(folder: &Path) -> u32 {
        wait_for(|| {
            let id = fs::read_to_string(folder.join("pid")).ok()?;
            Some(id.trim().parse().unwrap())
        })
    }

    fn runs(id: u32) -> bool {
        Path::new(&format!("/proc/{id}")).exists()
    }

    #[test]
    fn a_dropped_server_is_gone_and_its_folder_too() {
        let folder = tempfile::tempdir().unwrap();
        let process = start(folder.path(), Some(folder.path()));
        let id = id_in(folder.path());
        assert!(runs(id));
        drop(process);
        assert!(!runs(id));
        assert!(!folder.path().exists());
    }

    #[test]
    fn a_folder_that_is_not_doomed_stays() {
        let folder = tempfile::tempdir().unwrap();
        let process = start(folder.path(), None);
        let id = id_in(folder.path());
        drop(process);
        assert!(!runs(id));
        assert!(folder.path().join("log").exists());
    }

    #[test]
    fn a_server_that_ends_by_itself_leaves_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let arguments = ["-c", "echo port is taken; exit 3"];
        let shell = Path::new("/bin/sh");
        let mut process =
            Process::start(shell, arguments, folder.path(), "log", Some(folder.path())).unwrap();
        let status = wait_for(|| process.ended().unwrap());
        assert_eq!(status.code(), Some(3));
        assert_eq!(process.log(), "port is taken");
    }

    #[test]
    fn nothing_outlives_a_killed_test() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("server");
        fs::create_dir(&folder).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "cluster::process::tests::as_child", "--ignored"])
            .env(CHILD_FOLDER, &folder)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let id = id_in(&folder);
        child.kill().unwrap();
        child.wait().unwrap();
        wait_for(|| (!runs(id) && !folder.exists()).then_some(()));
    }

    #[test]
    #[ignore = "runs as the child process of another test"]
    fn as_child() {
        let Some(folder) = std::env::var_os(CHILD_FOLDER) else {
            return;
        };
        let folder = Path::new(&folder);
        let _process = start(folder, Some(folder));
        loop {
            std::thread::park();
        }
    }
}
