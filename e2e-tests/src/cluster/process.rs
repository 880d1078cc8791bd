//! A server as a child process that cannot outlive the tests, however they end.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::Context as _;

/// Runs a command and kills it when stdin ends: when the test drops its end, or dies and the system does it.
///
/// A killed server's folder is removed if there is one to remove, because a test that dies cannot do that either.
/// Signals of the terminal end the tests; what they end is none of the shell's business.
const SUPERVISOR: &str = r#"
trap '' INT TERM HUP
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

    /// All that it wrote so far, earlier servers with the same log included.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
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

    /// A script's process id, once it has written it.
    fn start(folder: &Path, doomed: Option<&Path>) -> (Process, u32) {
        let script = "echo $$ > pid.new; mv pid.new pid; exec sleep 1000";
        let process =
            Process::start(Path::new("/bin/sh"), ["-c", script], folder, "log", doomed).unwrap();
        let id = loop {
            if let Ok(id) = fs::read_to_string(folder.join("pid")) {
                break id.trim().parse().unwrap();
            }
            std::thread::yield_now();
        };
        (process, id)
    }

    fn runs(id: u32) -> bool {
        Path::new(&format!("/proc/{id}")).exists()
    }

    #[test]
    fn a_dropped_server_is_gone_and_its_folder_too() {
        let folder = tempfile::tempdir().unwrap();
        let (process, id) = start(folder.path(), Some(folder.path()));
        assert!(runs(id));
        drop(process);
        assert!(!runs(id));
        assert!(!folder.path().exists());
    }

    #[test]
    fn a_folder_that_is_not_doomed_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (process, id) = start(folder.path(), None);
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
        let status = loop {
            if let Some(status) = process.ended().unwrap() {
                break status;
            }
            std::thread::yield_now();
        };
        assert_eq!(status.code(), Some(3));
        assert_eq!(process.log(), "port is taken\n");
    }
}
