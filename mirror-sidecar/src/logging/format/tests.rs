use super::*;
use std::io;
use std::sync::{Arc, Mutex};

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Everything that is logged meanwhile.
fn logged(format: LogFormat, log: impl FnOnce()) -> String {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .event_format(LineFormat(format))
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, log);
    let bytes = lines.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

const HOSTILE: &str = "x\n2026-01-01T00:00:00Z  INFO copied \x1b[2J\r\u{9b}31m\u{202e}\u{2028}\0";

fn log_hostile() {
    let error = std::io::Error::other(HOSTILE);
    tracing::warn!(display = %HOSTILE, debug = ?Some(HOSTILE), plain = HOSTILE, %error, "{HOSTILE}");
}

#[test]
fn a_text_line_cannot_be_forged() {
    let logged = logged(LogFormat::Text, log_hostile);
    assert_eq!(logged.matches('\n').count(), 1, "{logged}");
    let line = logged.strip_suffix('\n').unwrap();
    assert!(!line.chars().any(must_escape), "{line}");
    assert!(line.contains(" WARN x\\n2026-01-01"), "{line}");
    assert!(line.contains(" display=x\\n2026-01-01"), "{line}");
    assert!(line.contains(" plain=\"x\\n2026-01-01"), "{line}");
}

#[test]
fn a_json_line_keeps_the_text_and_drives_no_terminal() {
    let logged = logged(LogFormat::Json, log_hostile);
    assert_eq!(logged.matches('\n').count(), 1, "{logged}");
    assert!(!logged.trim_end().chars().any(must_escape), "{logged}");
    let event: Value = serde_json::from_str(&logged).unwrap();
    let text = event["display"].as_str().unwrap();
    assert!(
        text.starts_with("x\n2026") && text.contains("\\u{9b}31m"),
        "{text}"
    );
    assert_eq!(event["message"], event["display"]);
    assert_eq!(event["message"], event["plain"]);
    assert_eq!(event["level"], "WARN");
    assert_eq!(event["target"], module_path!());
}

#[test]
fn values_keep_their_types() {
    let log = || {
        tracing::info!(
            count = 3_u64,
            less = -1_i64,
            tls = true,
            r#type = "a b",
            "facade is listening"
        );
    };
    let text = logged(LogFormat::Text, log);
    let (_, line) = text.split_once("  INFO ").unwrap();
    assert_eq!(
        line,
        "facade is listening count=3 less=-1 tls=true type=\"a b\"\n"
    );
    let event: Value = serde_json::from_str(&logged(LogFormat::Json, log)).unwrap();
    assert_eq!(event["count"], 3);
    assert_eq!(event["less"], -1);
    assert_eq!(event["tls"], true);
    assert_eq!(event["type"], "a b");
    assert!(
        event["timestamp"].as_str().unwrap().ends_with('Z'),
        "{event}"
    );
}

#[test]
fn a_line_is_bounded() {
    let long = "\n".repeat(1 << 20);
    let log_it = || {
        tracing::warn!(a = %long, b = %long, c = %long, d = %long, e = %long, f = long, g = ?long, h = 1, "{long}");
    };
    for format in [LogFormat::Text, LogFormat::Json] {
        let line = logged(format, log_it);
        // JSON escapes after the text was cut.
        assert!(line.len() < 2 * MAX_VALUES + 512, "{}", line.len());
        assert!(line.contains('…'));
    }
}
