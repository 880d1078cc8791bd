//! Markdown tables, and how figures look in them.

use std::fmt::Write as _;
use std::time::Duration;

use crate::results::{Cell, Outcome};
use crate::targets::mebibytes;

/// A table with a head and rows of as many cells.
pub fn markdown(head: &[String], rows: &[Vec<String>]) -> String {
    let mut text = String::new();
    let mut line = |cells: &[String]| {
        let cells: Vec<_> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    };
    line(head);
    line(&vec!["---".to_owned(); head.len()]);
    for row in rows {
        line(row);
    }
    text
}

/// Wall time of a cell: median, shortest and longest, and its ratio to `ours`.
pub fn wall(cell: &Cell, ours: Option<Duration>) -> String {
    let failed = cell
        .outcomes
        .iter()
        .filter(|outcome| matches!(outcome, Outcome::Failed(_)))
        .count();
    if failed > 0 {
        return format!("failed {failed} of {}", cell.outcomes.len());
    }
    let gave_up = cell.outcomes.iter().find_map(|outcome| match outcome {
        Outcome::GaveUp(after) => Some(*after),
        _ => None,
    });
    if let Some(after) = gave_up {
        return format!("> {}{}", seconds(after), ratio(after, ours));
    }
    let (Some(median), Some((least, most))) = (cell.wall(), cell.range()) else {
        return "–".to_owned();
    };
    let range = match cell.outcomes.len() {
        1 => String::new(),
        _ => format!(" ({}–{})", number(least), number(most)),
    };
    format!("{}{range}{}", seconds(median), ratio(median, ours))
}

/// ` · 2.1×`; nothing without something to compare with.
fn ratio(wall: Duration, ours: Option<Duration>) -> String {
    match ours {
        Some(ours) if !ours.is_zero() => {
            format!(" · {:.2}×", wall.as_secs_f64() / ours.as_secs_f64())
        }
        _ => String::new(),
    }
}

/// `1.23 s`, with fewer digits the longer it is.
pub fn seconds(duration: Duration) -> String {
    format!("{} s", number(duration))
}

fn number(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    match seconds {
        0.0..10.0 => format!("{seconds:.2}"),
        10.0..100.0 => format!("{seconds:.1}"),
        _ => format!("{seconds:.0}"),
    }
}

/// `12.3 MiB`.
pub fn memory(bytes: u64) -> String {
    format!("{:.1} MiB", mebibytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::Network;
    use crate::results::{Requests, Sample};
    use crate::shapes::Shape;
    use crate::tools::Contender;

    fn cell(outcomes: Vec<Outcome>) -> Cell {
        Cell {
            shape: Shape::Big,
            network: "0".parse::<Network>().unwrap(),
            contender: Contender::OURS,
            outcomes,
            bytes: 1,
        }
    }

    fn done(milliseconds: u64) -> Outcome {
        Outcome::Done(Sample {
            wall: Duration::from_millis(milliseconds),
            cpu: Duration::ZERO,
            max_rss: 0,
            source: Requests::default(),
            target: Requests::default(),
        })
    }

    #[test]
    fn a_table_has_a_head_and_escaped_cells() {
        let row = |cells: [&str; 2]| cells.map(str::to_owned).to_vec();
        let table = markdown(&row(["a", "b"]), &[row(["1", "x|y"])]);
        assert_eq!(table, "| a | b |\n| --- | --- |\n| 1 | x\\|y |\n");
    }

    #[test]
    fn a_cell_shows_median_range_and_ratio() {
        let ours = Some(Duration::from_millis(500));
        let three = cell(vec![done(1200), done(1000), done(1500)]);
        assert_eq!(wall(&three, ours), "1.20 s (1.00–1.50) · 2.40×");
        assert_eq!(wall(&three, None), "1.20 s (1.00–1.50)");
        assert_eq!(wall(&cell(vec![done(250_000)]), ours), "250 s · 500.00×");
    }

    #[test]
    fn a_cell_hides_no_failure() {
        let failed = cell(vec![done(1000), Outcome::Failed("no".into())]);
        assert_eq!(wall(&failed, None), "failed 1 of 2");
        let slow = cell(vec![Outcome::GaveUp(Duration::from_mins(5))]);
        assert_eq!(
            wall(&slow, Some(Duration::from_secs(3))),
            "> 300 s · 100.00×"
        );
        assert_eq!(wall(&cell(Vec::new()), None), "–");
    }
}
