//! Documents of a stream, one at a time. A stream that begins with `{` or `[` is JSON, any other one YAML.

use std::io::{self, BufRead};
use std::sync::Arc;

use super::document::Document;
use super::{json_documents, yaml_documents};

/// Passes each document to `send`, until that returns `false`.
pub(super) fn split(
    file: &Arc<str>,
    mut input: impl BufRead,
    send: &mut dyn FnMut(Document) -> bool,
) -> io::Result<()> {
    skip_byte_order_mark(&mut input)?;
    let mut line = 1;
    let first = first_byte(&mut input, &mut line)?;
    match first {
        None => Ok(()),
        Some(b'{' | b'[') => json_documents::split(file, input, line, send),
        Some(_) => yaml_documents::split(file, input, line, send),
    }
}

fn skip_byte_order_mark(input: &mut impl BufRead) -> io::Result<()> {
    const MARK: &[u8] = "\u{feff}".as_bytes();
    if input.fill_buf()?.starts_with(MARK) {
        input.consume(MARK.len());
    }
    Ok(())
}

/// Skips empty lines at the beginning, and returns the first byte after them. Spaces before it stay: they are the indentation of
/// a YAML document.
fn first_byte(input: &mut impl BufRead, line: &mut u64) -> io::Result<Option<u8>> {
    loop {
        let buffer = input.fill_buf()?;
        match buffer.first() {
            None => return Ok(None),
            Some(b'\n') => *line += 1,
            Some(b'\r') => {}
            Some(b' ' | b'\t') => {
                let mut rest = buffer.iter();
                return Ok(rest.find(|byte| !matches!(byte, b' ' | b'\t')).copied());
            }
            Some(byte) => return Ok(Some(*byte)),
        }
        input.consume(1);
    }
}
