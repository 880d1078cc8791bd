//! Captures everything that is logged, and looks for secrets in it.

use crate::support::PASSWORD;
use std::io;
use std::sync::{Arc, Mutex};
use tracing_subscriber::fmt::MakeWriter;

/// Words that no log line and no error may have: the password of both registries and of the pull Secret, as it is and as
/// Basic authentication encodes it, and what tokens begin with.
pub const SECRETS: [&str; 4] = [PASSWORD, "dXNlcjpzM2NyZXQtcGE1N", "token-", "_state="];

/// All lines so far.
#[derive(Clone, Default)]
pub struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    /// Captures what this thread logs, until the guard is dropped.
    pub fn subscribe(&self) -> tracing::subscriber::DefaultGuard {
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter("debug,mirror_copy=trace,h2=off,hyper_util=off")
            .with_writer(self.clone())
            .finish();
        tracing::subscriber::set_default(subscriber)
    }

    /// How many lines have these words.
    pub fn count(&self, words: &str) -> usize {
        let bytes = self.0.lock().unwrap();
        let text = String::from_utf8_lossy(&bytes);
        text.lines().filter(|line| line.contains(words)).count()
    }

    /// The lines with a secret in them.
    pub fn leaks(&self) -> Vec<String> {
        let bytes = self.0.lock().unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.lines().count() > 100, "nothing was captured");
        if let Some(path) = std::env::var_os("FAULTS_TRACE") {
            std::fs::write(path, &*bytes).unwrap();
        }
        let lines = text.lines().filter(|line| shows_secret(line));
        lines
            .map(|line| format!("secret in the log: {line}"))
            .collect()
    }
}

/// Whether one of [`SECRETS`] is in a text.
pub fn shows_secret(text: &str) -> bool {
    SECRETS.iter().any(|secret| text.contains(secret))
}

impl io::Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Captured {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}
