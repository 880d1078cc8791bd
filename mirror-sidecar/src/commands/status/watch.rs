//! `--watch`: redraws on a terminal, and prints a line for each change otherwise.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use console::Term;

use super::client::Client;
use super::report::{Report, document};
use super::table;
use crate::args::{StatusArgs, StatusFormat};
use crate::exit::{SIGNAL, StopSignal, stop_signal};
use crate::output;
use crate::output::escape::escape;
use crate::status::model::ImageStatus;

/// Time between two requests.
const INTERVAL: Duration = Duration::from_secs(2);

/// An image in one place, and what is said about it.
type Lines = BTreeMap<(String, Option<String>), String>;

/// Shows the status until a signal.
pub(super) async fn run(client: &Client, args: &StatusArgs) -> anyhow::Result<ExitCode> {
    let mut stop = std::pin::pin!(stop_signal());
    let mut before = Lines::new();
    // The first error ends the command; a later one may pass.
    let mut report = Report::read(client, args).await?;
    loop {
        show(&report, args, &mut before)?;
        loop {
            tokio::select! {
                signal = &mut stop => {
                    let number = match signal {
                        StopSignal::Interrupt => 2,
                        StopSignal::Terminate => 15,
                    };
                    return Ok(ExitCode::from(SIGNAL + number));
                }
                () = tokio::time::sleep(INTERVAL) => {}
            }
            match Report::read(client, args).await {
                Ok(next) => {
                    report = next;
                    break;
                }
                Err(error) => output::error(&format!("{error:#}")),
            }
        }
    }
}

fn show(report: &Report, args: &StatusArgs, before: &mut Lines) -> anyhow::Result<()> {
    if let StatusFormat::Json | StatusFormat::Yaml = args.output {
        return document(report, args.output);
    }
    let terminal = Term::stdout();
    if terminal.is_term() {
        let text = if args.output == StatusFormat::Wide {
            table::wide(report)
        } else {
            table::summary_with_attention(report)
        };
        let (rows, columns) = terminal.size();
        output::raw(&screen(&text, rows.into(), columns.into()));
    } else {
        let (lines, now) = changes(&report.items, before);
        *before = now;
        for line in lines {
            output::line(&line);
        }
    }
    Ok(())
}

/// Returns the text as a screen that replaces the former one and fits the terminal.
fn screen(text: &str, rows: usize, columns: usize) -> String {
    let lines: Vec<_> = text.lines().collect();
    let room = rows.saturating_sub(1).max(1);
    let mut screen = String::from("\x1b[H\x1b[J");
    let shown = if lines.len() > room {
        room.saturating_sub(1)
    } else {
        room
    };
    for line in lines.iter().take(shown) {
        screen.push_str(&console::truncate_str(line, columns, "…"));
        screen.push('\n');
    }
    if lines.len() > room {
        let more = lines.len().saturating_sub(shown);
        let _ = writeln!(screen, "… and {more} more lines");
    }
    screen
}

/// Returns a line for each image that changed, and what is known now.
fn changes(items: &[ImageStatus], before: &Lines) -> (Vec<String>, Lines) {
    let now: Lines = items
        .iter()
        .map(|item| {
            let key = (item.original.clone(), item.backup.clone());
            (key, format!("{}: {}", item.state, item.reason))
        })
        .collect();
    let changed = now
        .iter()
        .filter(|(key, text)| before.get(*key) != Some(*text));
    let mut lines: Vec<_> = changed
        .map(|((image, _), text)| escape(&format!("{image} {text}")).into_owned())
        .collect();
    let gone = before.keys().filter(|key| !now.contains_key(*key));
    lines.extend(
        gone.map(|(image, _)| {
            escape(&format!("{image} is done or not in use any more")).into_owned()
        }),
    );
    (lines, now)
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::item;
    use super::*;
    use crate::status::model::State;

    #[test]
    fn only_changes_are_printed() {
        let failed = item("a.b/c:1", State::Failed, "no such image");
        let (lines, known) = changes(std::slice::from_ref(&failed), &Lines::new());
        assert_eq!(lines, ["a.b/c:1 failed: no such image"]);
        let (lines, known) = changes(&[failed], &known);
        assert!(lines.is_empty());
        let (lines, _) = changes(&[], &known);
        assert_eq!(lines, ["a.b/c:1 is done or not in use any more"]);
    }

    #[test]
    fn a_screen_fits() {
        let text = "12345678\n2\n3\n4\n5\n";
        assert_eq!(
            screen(text, 4, 5),
            "\x1b[H\x1b[J1234…\n2\n… and 3 more lines\n"
        );
        assert_eq!(screen(text, 24, 80), format!("\x1b[H\x1b[J{text}"));
    }
}
