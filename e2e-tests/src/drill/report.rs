//! What came of a drill.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::blackout::Stopped;
use crate::manifests::Kind;

/// How many problems are shown.
const SHOWN: usize = 20;

/// What came of a drill.
#[derive(Debug, Default)]
pub struct Report {
    stopped: Stopped,
    rows: BTreeMap<&'static str, Row>,
    /// What took how long, in its order.
    pub times: Vec<(&'static str, Duration)>,
    /// How many images another client pulled too.
    pub by_skopeo: usize,
    /// What is wrong; empty if the cluster survives.
    pub problems: Vec<String>,
}

/// The objects of a kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// How many there are, those of controllers included.
    pub objects: usize,
    /// How many images they name.
    pub images: usize,
    /// How many of these could be pulled, byte for byte.
    pub pulled: usize,
}

impl Report {
    /// An empty report about the loss of this registry.
    #[must_use]
    pub fn new(stopped: Stopped) -> Self {
        Self {
            stopped,
            ..Self::default()
        }
    }

    /// The figures of a kind.
    pub fn row(&mut self, kind: Kind) -> &mut Row {
        self.rows.entry(kind.name()).or_default()
    }

    /// The figures of all kinds together.
    #[must_use]
    pub fn total(&self) -> Row {
        let rows = self.rows.values();
        rows.fold(Row::default(), |sum, row| Row {
            objects: sum.objects + row.objects,
            images: sum.images + row.images,
            pulled: sum.pulled + row.pulled,
        })
    }

    /// Whether everything that is stored can be pulled.
    #[must_use]
    pub fn is_good(&self) -> bool {
        let total = self.total();
        self.problems.is_empty() && total.images > 0 && total.pulled == total.images
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |f: &mut fmt::Formatter<'_>, kind: &str, row: Row| {
            writeln!(
                f,
                "{kind:<24}{:>8}{:>8}{:>8}",
                row.objects, row.images, row.pulled
            )
        };
        writeln!(
            f,
            "{:<24}{:>8}{:>8}{:>8}",
            "kind", "objects", "images", "pulled"
        )?;
        for (kind, row) in &self.rows {
            line(f, kind, *row)?;
        }
        line(f, "all", self.total())?;
        writeln!(f, "{:<24}{:>24}\n", "pulled by skopeo too", self.by_skopeo)?;
        for (name, time) in &self.times {
            writeln!(f, "{name:<40}{:>6.1} s", time.as_secs_f64())?;
        }
        for problem in self.problems.iter().take(SHOWN) {
            writeln!(f, "PROBLEM: {problem}")?;
        }
        if let Some(more @ 1..) = self.problems.len().checked_sub(SHOWN) {
            writeln!(f, "and {more} more")?;
        }
        let registry = match self.stopped {
            Stopped::Upstream => "upstream",
            Stopped::Backup => "backup",
        };
        if self.is_good() {
            writeln!(
                f,
                "\neverything that the cluster names can be pulled, byte for byte, without the {registry} registry"
            )
        } else {
            writeln!(
                f,
                "\nthe cluster does NOT survive the loss of the {registry} registry"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_good_only_if_something_was_pulled_and_nothing_was_wrong() {
        let mut report = Report::default();
        assert!(!report.is_good(), "nothing was tried");
        *report.row(Kind::Pod) = Row {
            objects: 1,
            images: 2,
            pulled: 1,
        };
        assert!(!report.is_good());
        report.row(Kind::Pod).pulled = 2;
        assert!(report.is_good());
        assert!(report.to_string().contains("byte for byte"));
        report.problems.push("one".into());
        assert!(!report.is_good());
        assert!(report.to_string().contains("PROBLEM: one"));
    }
}
