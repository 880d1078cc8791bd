//! What a policy did during one evaluation: its log lines and its calls to the host.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;

/// One line that the policy logged.
#[derive(Debug, Clone, PartialEq)]
pub struct LogLine {
    /// Level as the SDK writes it: `TRACE`, `DEBUG`, `INFO`, `WARN`(`ING`), `ERROR`; empty when it was missing.
    pub level: String,
    /// The message; empty when it was missing.
    pub message: String,
    /// The whole event. A JSON string when the policy did not send JSON.
    pub event: Value,
}

/// One call of a host capability.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostCall {
    /// `namespace/operation`, for example `oci/v1/oci_manifest`.
    pub operation: String,
    /// The payload's text; for a JSON string its content.
    pub argument: String,
    /// The response's text, or the error's.
    pub outcome: Result<String, String>,
    /// Whether the host had the answer in its cache.
    pub cached: bool,
    /// How long the policy had to wait.
    pub elapsed: Duration,
}

/// Collects lines and calls while the guest runs.
#[derive(Default)]
pub(super) struct Journal(Mutex<Entries>);

#[derive(Default)]
pub(super) struct Entries {
    pub logs: Vec<LogLine>,
    pub calls: Vec<HostCall>,
}

impl Journal {
    pub fn log(&self, payload: &[u8]) {
        let event = serde_json::from_slice(payload)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(payload).into_owned()));
        let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
        let line = LogLine {
            level: text("level").to_uppercase(),
            message: text("message"),
            event,
        };
        self.with(|entries| entries.logs.push(line));
    }

    pub fn call(&self, call: HostCall) {
        self.with(|entries| entries.calls.push(call));
    }

    pub fn take(&self) -> Entries {
        self.with(std::mem::take)
    }

    fn with<T>(&self, change: impl FnOnce(&mut Entries) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
