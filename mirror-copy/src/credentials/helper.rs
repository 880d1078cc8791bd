//! Credential helpers: programs named `docker-credential-NAME` that read a registry from standard input and print a
//! login (docker-credential-helpers, "Development").

use super::error::CredentialError;
use super::login::{Credential, Login};
use crate::lock::lock;
use crate::text::clean;
use serde::Deserialize;
use std::io::{Read, Write as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// Timeout of a credential helper for all keys: cloud helpers fetch a token over the network.
const HELPER_TIMEOUT: Duration = Duration::from_secs(30);

/// Maximum output of a helper in bytes: a login, whose password may be a token or a key file.
const MAX_OUTPUT: u64 = 256 * 1024;

/// Interval of checking for the end of a helper that closed its output.
const CHECK_EVERY: Duration = Duration::from_millis(5);

/// A credential helper and its input.
#[derive(Clone, Debug)]
pub(super) struct Helper {
    name: String,
    host: String,
    /// Keys of this host, tried in this order.
    keys: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Response {
    username: String,
    secret: String,
}

/// The running helper, so that it can be killed.
type Running = Arc<Mutex<Option<Child>>>;

impl Helper {
    pub(super) fn new(name: &str, host: &str, keys: Vec<String>) -> Self {
        Self {
            name: name.to_owned(),
            host: host.to_owned(),
            keys,
        }
    }

    /// Runs the helper for each key until it returns a credential. Returns `None` if it has none.
    pub(super) async fn ask(&self) -> Result<Option<Credential>, CredentialError> {
        let failed = |reason: String| CredentialError::Helper {
            helper: clean(&self.name),
            host: self.host.clone(),
            reason,
        };
        let running = Running::default();
        let (program, keys) = (
            format!("docker-credential-{}", self.name),
            self.keys.clone(),
        );
        let child = Arc::clone(&running);
        let work = tokio::task::spawn_blocking(move || {
            for key in &keys {
                if let Some(found) = get(&program, key, &child)? {
                    return Ok(Some(found));
                }
            }
            Ok(None)
        });
        let result = match tokio::time::timeout(HELPER_TIMEOUT, work).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err("the lookup was interrupted".to_owned()),
            Err(_) => {
                if let Some(child) = lock(&running).as_mut() {
                    let _ = child.kill();
                }
                Err("it did not respond within 30 s".to_owned())
            }
        };
        result.map_err(failed)
    }
}

/// Runs the helper for one key. Returns `None` if it has no credential.
fn get(program: &str, key: &str, running: &Running) -> Result<Option<Credential>, String> {
    let mut child = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("it cannot be run ({error}); check that it is on the PATH"))?;
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    *lock(running) = Some(child);
    let (Some(mut stdin), Some(stdout), Some(stderr)) = pipes else {
        return Err("it has no standard input and output".to_owned());
    };
    let stderr = thread::spawn(move || read_bounded(stderr));
    // If the helper has ended, its output explains more than the broken pipe.
    let _ = stdin.write_all(key.as_bytes());
    drop(stdin);
    let stdout = read_bounded(stdout);
    let stderr = stderr.join().unwrap_or_default();
    let status = wait(running).map_err(|error| format!("cannot wait for its end: {error}"))?;
    if status.success() {
        return serde_json::from_slice::<Response>(&stdout)
            .map(usable)
            .map_err(|_| "its response is malformed".to_owned());
    }
    let [stdout, stderr] = [&stdout, &stderr].map(|text| String::from_utf8_lossy(text));
    // The protocol has no code for "not found", only this message (docker-credential-helpers, credentials/error.go).
    let means_none = |text: &str| text.to_lowercase().contains("credentials not found");
    if means_none(&stdout) || means_none(&stderr) {
        return Ok(None);
    }
    // A response in JSON may hold the secret; a message does not.
    let message = if stdout.contains('{') {
        ""
    } else {
        stdout.trim()
    };
    Err(clean(&format!("{message} {}", stderr.trim())))
}

fn read_bounded(from: impl Read) -> Vec<u8> {
    let mut text = Vec::new();
    let _ = from.take(MAX_OUTPUT).read_to_end(&mut text);
    text
}

/// Waits without holding the lock, which is needed to kill the helper.
fn wait(running: &Running) -> std::io::Result<ExitStatus> {
    loop {
        let status = match lock(running).as_mut() {
            Some(child) => child.try_wait()?,
            None => return Err(std::io::Error::other("it was not started")),
        };
        match status {
            Some(status) => return Ok(status),
            None => thread::sleep(CHECK_EVERY),
        }
    }
}

/// Some helpers respond with empty fields instead of "not found".
fn usable(response: Response) -> Option<Credential> {
    let Response { username, secret } = response;
    match (username.as_str(), secret.is_empty()) {
        ("" | "<token>", true) => None,
        ("<token>", false) => Some(Credential::IdentityToken(secret.into())),
        _ => Some(Credential::Login(Login {
            username,
            password: secret.into(),
        })),
    }
}
