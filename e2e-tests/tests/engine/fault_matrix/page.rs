//! The document.

use super::fault::Fault;
use super::request::Request;
use super::{Cell, Cells};
use std::fmt::Write as _;

const HEAD: &str = "# What happens when a server fails

`make faults` runs every fault of this page against every request that image-mirror sends, with the copy engine and the watches of the sidecar in one process with scripted servers, and writes this page. A test compares each run with it.

No cell may end in a wrong tag, a hang, a panic, or a password or token in a log line or an error; the runner fails then.

| outcome | meaning |
|---|---|
| copied | The image and its referrers are in the backup, after retries if need be. |
| copied without referrers | The image is in the backup. Its signatures follow at a later re-check. |
| later: *reason* | The copy failed, and the sidecar tries again with growing pauses. |
| final: *reason* | The copy failed, and the same request would fail again. The sidecar tries again only when it re-checks the image. |
| *a* / *b* | *a* when the fault passes (two requests in a row fail; one with *connection refused*, *no response*, *1 byte per second*), *b* when it stays. |
| read, written | The request is repeated until the fault is over; what was known before stays known. |
| waits | The request is repeated with growing pauses. |
| – *n* | The fault cannot happen there, see note *n*. |

Reasons are HTTP statuses, or the names of the errors: *connection* (refused, reset, TLS or DNS), *timeout*, *unfinished* (the response took too long as a whole), *too large*, *digest*, *size*, *protocol*, *redirect* (a redirect that is not followed), *credentials* (the registry refused them), *login needed*, *challenge* (the token service cannot be used), *manifest* (unusable content).
";

/// The whole page.
pub fn render(cells: &Cells) -> String {
    let mut page = HEAD.to_owned();
    let mut notes: Vec<&str> = Vec::new();
    for (title, requests) in Request::GROUPS {
        let names: Vec<_> = requests.iter().map(|request| request.name()).collect();
        let _ = write!(
            page,
            "\n## {title}\n\n| fault | {} |\n|---|{}\n",
            names.join(" | "),
            "---|".repeat(requests.len())
        );
        for fault in Fault::ALL {
            let row = requests
                .iter()
                .map(|request| match cells.get(&(*request, fault)) {
                    Some(Cell::Outcome(outcome)) => outcome.clone(),
                    Some(Cell::NotApplicable(reason)) => {
                        let known = notes.iter().position(|note| note == reason);
                        let number = known.unwrap_or_else(|| {
                            notes.push(reason);
                            notes.len() - 1
                        });
                        format!("– {}", number + 1)
                    }
                    None => "not run".to_owned(),
                });
            let row: Vec<_> = row.collect();
            let _ = writeln!(page, "| {} | {} |", fault.name(), row.join(" | "));
        }
    }
    page.push_str("\nNotes:\n\n");
    for (number, note) in notes.iter().enumerate() {
        let _ = writeln!(page, "{}. {}.", number + 1, capitalised(note));
    }
    page
}

fn capitalised(text: &str) -> String {
    let mut rest = text.chars();
    rest.next()
        .map(|first| first.to_uppercase().chain(rest).collect())
        .unwrap_or_default()
}
