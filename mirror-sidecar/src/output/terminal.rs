//! Standard error as the terminal of progress bars.
//!
//! The library that draws them panics on errors, and a closed terminal must not end a copy. So write errors are ignored.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::sync::{Mutex, PoisonError};

use indicatif::TermLike;

/// Free columns at the end of each line. A terminal shows Ctrl-C as `^C` after the bars: on a full line it would wrap, and
/// the bars would be cleared one line too low.
const FREE_COLUMNS: u16 = 2;

/// Rows and columns if the size is unknown.
const DEFAULT_SIZE: (u16, u16) = (24, 80);

/// Standard error. Each drawing is written in one piece.
#[derive(Debug, Default)]
pub(super) struct Stderr {
    pending: Mutex<String>,
}

impl Stderr {
    fn size() -> (u16, u16) {
        let (rows, columns) = console::Term::stderr()
            .size_checked()
            .unwrap_or(DEFAULT_SIZE);
        // Zero stands for an unknown size.
        (rows.max(1), if columns == 0 { 80 } else { columns })
    }

    fn add(&self, text: std::fmt::Arguments<'_>) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = pending.write_fmt(text);
    }

    /// A control sequence of ECMA-48 that takes a number; zero would mean one.
    fn control(&self, count: usize, letter: char) {
        if count > 0 {
            self.add(format_args!("\x1b[{count}{letter}"));
        }
    }
}

impl TermLike for Stderr {
    fn width(&self) -> u16 {
        Self::size().1.saturating_sub(FREE_COLUMNS).max(1)
    }

    fn height(&self) -> u16 {
        Self::size().0
    }

    fn move_cursor_up(&self, count: usize) -> io::Result<()> {
        self.control(count, 'A');
        Ok(())
    }

    fn move_cursor_down(&self, count: usize) -> io::Result<()> {
        self.control(count, 'B');
        Ok(())
    }

    fn move_cursor_right(&self, count: usize) -> io::Result<()> {
        self.control(count, 'C');
        Ok(())
    }

    fn move_cursor_left(&self, count: usize) -> io::Result<()> {
        self.control(count, 'D');
        Ok(())
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.add(format_args!("{text}\n"));
        Ok(())
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.add(format_args!("{text}"));
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        self.add(format_args!("\r\x1b[2K"));
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = io::stderr().lock().write_all(pending.as_bytes());
        pending.clear();
        Ok(())
    }
}
