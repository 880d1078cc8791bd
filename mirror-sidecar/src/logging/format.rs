//! Log lines: each event is one line, whatever its fields contain.
//!
//! Values may come from a registry, a user or a peer, so all of them are escaped and truncated in one place.

use std::fmt::{self, Debug, Write as _};

use clap::ValueEnum;
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::output::escape::{Escaped, must_escape};

/// Maximum bytes of a value.
const MAX_VALUE: usize = 2 * 1024;

/// Maximum bytes of all values of an event.
const MAX_VALUES: usize = 8 * 1024;

/// The field of `tracing` with the text of an event.
const MESSAGE: &str = "message";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Plain text
    Text,
    /// One JSON object per line
    Json,
}

pub(super) struct LineFormat(pub(super) LogFormat);

impl<S, N> FormatEvent<S, N> for LineFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut values = Values::new(self.0);
        event.record(&mut values);
        let metadata = event.metadata();
        match self.0 {
            LogFormat::Text => text(writer, *metadata.level(), &values),
            LogFormat::Json => json(writer, *metadata.level(), metadata.target(), &values),
        }
    }
}

fn text(mut writer: Writer<'_>, level: Level, values: &Values) -> fmt::Result {
    let (dim, colour, reset) = match (writer.has_ansi_escapes(), level) {
        (false, _) => ("", "", ""),
        (_, Level::ERROR) => ("\x1b[2m", "\x1b[31m", "\x1b[0m"),
        (_, Level::WARN) => ("\x1b[2m", "\x1b[33m", "\x1b[0m"),
        (_, Level::INFO) => ("\x1b[2m", "\x1b[32m", "\x1b[0m"),
        (_, Level::DEBUG) => ("\x1b[2m", "\x1b[34m", "\x1b[0m"),
        (_, Level::TRACE) => ("\x1b[2m", "\x1b[35m", "\x1b[0m"),
    };
    write!(writer, "{dim}")?;
    SystemTime.format_time(&mut writer)?;
    write!(writer, "{reset} {colour}{level:>5}{reset}")?;
    if let Some(message) = &values.message {
        write!(writer, " {message}")?;
    }
    for (name, value) in &values.others {
        match value {
            Value::String(text) => write!(writer, " {dim}{name}={reset}{text}")?,
            other => write!(writer, " {dim}{name}={reset}{other}")?,
        }
    }
    writeln!(writer)
}

fn json(mut writer: Writer<'_>, level: Level, target: &str, values: &Values) -> fmt::Result {
    write!(writer, "{{\"timestamp\":\"")?;
    SystemTime.format_time(&mut writer)?;
    write!(writer, "\",\"level\":\"{level}\"")?;
    if let Some(message) = &values.message {
        write!(writer, ",\"{MESSAGE}\":{}", Value::from(message.as_str()))?;
    }
    for (name, value) in &values.others {
        write!(writer, ",{}:{value}", Value::from(*name))?;
    }
    writeln!(writer, ",\"target\":{}}}", Value::from(target))
}

/// The values of an event in the order of the code.
struct Values {
    format: LogFormat,
    /// Bytes left for further values.
    left: usize,
    message: Option<String>,
    others: Vec<(&'static str, Value)>,
}

impl Values {
    fn new(format: LogFormat) -> Self {
        Self {
            format,
            left: MAX_VALUES,
            message: None,
            others: Vec::new(),
        }
    }

    fn add(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        let mut text = String::new();
        let limit = MAX_VALUE.min(self.left);
        let mut escaped = match self.format {
            LogFormat::Text => Escaped::new(&mut text, limit),
            LogFormat::Json => Escaped::only(&mut text, limit, is_raw_in_json),
        };
        // A value whose formatting fails is shown up to the failure.
        let _ = escaped.write_fmt(value);
        self.left = self.left.saturating_sub(text.len());
        if field.name() == MESSAGE {
            self.message = Some(text);
        } else {
            self.others.push((name(field), text.into()));
        }
    }
}

/// JSON escapes ASCII's control characters itself.
fn is_raw_in_json(character: char) -> bool {
    must_escape(character) && character >= '\u{7f}'
}

fn name(field: &Field) -> &'static str {
    // Raw identifiers, such as `r#type`.
    field.name().trim_start_matches("r#")
}

impl Visit for Values {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.add(field, format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if self.format == LogFormat::Text && field.name() != MESSAGE {
            self.add(field, format_args!("{value:?}"));
        } else {
            self.add(field, format_args!("{value}"));
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.others.push((name(field), value.into()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.others.push((name(field), value.into()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.others.push((name(field), value.into()));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.others.push((name(field), value.into()));
    }
}

#[cfg(test)]
mod tests;
