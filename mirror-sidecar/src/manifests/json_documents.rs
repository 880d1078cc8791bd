//! JSON documents, one after another. The items of a `List` are read one by one, as `kubectl get --output json` writes them.

use std::io::{self, BufRead};
use std::sync::Arc;

use super::document::{Content, Document, MAX_DOCUMENT, Place};
use crate::cluster::json_filter::{JsonFilter, Keep, Part};

/// Longest string that is kept. A longer one is no image.
const MAX_STRING: usize = 64 * 1024;

/// Everything is kept, within bounds.
const KEEP: Keep = Keep {
    is_wanted: |_| true,
    whole: None,
    string: MAX_STRING,
    elements: usize::MAX,
    bytes: MAX_DOCUMENT,
};

/// Passes each value to `send`, until that returns `false`. The first one begins in `line`.
pub(super) fn split(
    file: &Arc<str>,
    mut input: impl BufRead,
    mut line: u64,
    send: &mut dyn FnMut(Document) -> bool,
) -> io::Result<()> {
    let mut filter = JsonFilter::new(KEEP, Some("items"));
    let mut document = 1_u32;
    let mut send = |document, line, content| {
        let place = Place {
            file: Arc::clone(file),
            document,
            line,
        };
        send(Document { place, content })
    };
    loop {
        let buffer = input.fill_buf()?;
        if buffer.is_empty() {
            break;
        }
        let length = buffer.len();
        let mut rest = buffer;
        loop {
            let before = rest;
            let part = filter.next(&mut rest);
            let read = before.len().saturating_sub(rest.len());
            let bytes = before.iter().take(read);
            line += bytes.map(|byte| u64::from(*byte == b'\n')).sum::<u64>();
            let Some(part) = part else { break };
            let (is_last, text) = match part {
                Part::Element(text) => (false, text),
                Part::Value(text) => (true, text),
            };
            // The filter has left out the rest.
            let content = if text.len() >= MAX_DOCUMENT {
                Content::too_long()
            } else {
                Content::Json(text)
            };
            if !send(document, line, content) {
                return Ok(());
            }
            document = document.saturating_add(u32::from(is_last));
        }
        input.consume(length);
    }
    if !filter.is_between_values() {
        let reason = "the file ends within a JSON value".to_owned();
        send(document, line, Content::Unreadable(reason));
    }
    Ok(())
}
