//! The lines that `check` prints.

use crate::output;

/// The result of one check.
#[derive(Debug)]
pub(super) enum Line {
    Passed {
        check: String,
        text: String,
    },
    Failed {
        check: String,
        error: String,
    },
    /// Works, and should be changed.
    Warning {
        check: String,
        text: String,
    },
    /// Cannot be checked now.
    Skipped {
        check: String,
        text: String,
    },
}

impl Line {
    pub(super) fn of(check: &str, result: Result<String, String>) -> Self {
        let check = check.to_owned();
        match result {
            Ok(text) => Self::Passed { check, text },
            Err(error) => Self::Failed { check, error },
        }
    }

    /// Prints the line. Returns whether nothing failed.
    pub(super) fn print(&self) -> bool {
        output::line(&output::escape::escape(&self.text()));
        !matches!(self, Self::Failed { .. })
    }

    pub(super) fn text(&self) -> String {
        match self {
            Self::Passed { check, text } => format!("ok      {check}: {text}"),
            Self::Failed { check, error } => format!("failed  {check}: {error}"),
            Self::Warning { check, text } => format!("warning {check}: {text}"),
            Self::Skipped { check, text } => format!("skipped {check}: {text}"),
        }
    }
}
