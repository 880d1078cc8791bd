//! What the project demands of its copy engine, and whether the figures show it.

use std::time::Duration;

use crate::network::Network;
use crate::results::{Cell, Results};
use crate::shapes::Shape;
use crate::tools::Contender;

/// Wall time of many small layers, and of many platforms, at [`FAR`].
const FAR_WALL: f64 = 1.2;
const FAR: Network = Network {
    latency: Duration::from_millis(40),
    tls: false,
};
const NEAR: Network = Network {
    latency: Duration::ZERO,
    tls: false,
};
/// How much longer than the limit one large layer may take.
const OVER_LIMIT: f64 = 1.05;
/// Peak memory in MiB, in every row.
const MEMORY: f64 = 32.0;
/// How much more memory a layer of ten times the size may take.
const GROWTH: f64 = 1.1;
/// CPU seconds for each GiB.
const CPU: f64 = 1.0;
/// Requests to each registry when there is nothing to copy.
const RECOPY: f64 = 2.0;

/// A demand and what became of it.
#[derive(Debug, PartialEq)]
pub struct Target {
    pub name: String,
    pub limit: String,
    pub figure: String,
    pub verdict: String,
}

/// All demands, in order.
pub fn evaluate(results: &Results, title: impl Fn(Shape) -> String) -> Vec<Target> {
    let ours = |shape, network| results.cell(shape, network, Contender::OURS);
    let wall = |shape, network| {
        ours(shape, network)
            .and_then(Cell::wall)
            .map(|wall| wall.as_secs_f64())
    };
    let mut targets = faster(results, &title);
    for shape in [Shape::Tiny, Shape::Platforms] {
        let name = format!("{}, {FAR}: wall", title(shape));
        targets.push(Target::below(name, FAR_WALL, wall(shape, FAR), "s"));
    }
    let limit = results
        .cell(Shape::Big, NEAR, Contender::LIMIT)
        .and_then(Cell::wall);
    let name = format!(
        "{}, {NEAR}: wall within 5 % of the limit",
        title(Shape::Big)
    );
    targets.push(match limit {
        Some(limit) => {
            let limit = limit.as_secs_f64() * OVER_LIMIT;
            Target::below(name, limit, wall(Shape::Big, NEAR), "s")
        }
        None => Target::unknown(name, "the limit"),
    });
    targets.push(Target::below(
        "peak memory in every row".into(),
        MEMORY,
        memory(results),
        "MiB",
    ));
    targets.push(growth(results));
    for (tls, name) in [(false, "plain HTTP"), (true, "TLS")] {
        let name = format!("CPU s per GiB of large layers, {name}");
        targets.push(Target::below(name, CPU, cpu(results, tls), "s"));
    }
    targets.extend(recopy(results, &title));
    targets
}

/// Whether every row beats the fastest of all peers, and by how much those do not that miss it.
fn faster(results: &Results, title: impl Fn(Shape) -> String) -> Vec<Target> {
    let mut targets = Vec::new();
    let (mut rows, mut met) = (0, 0);
    for (shape, network) in results.rows() {
        let peers = results.cells.iter().filter(|cell| {
            (cell.shape, cell.network) == (shape, network) && cell.contender.is_peer()
        });
        let best = peers
            .filter_map(|cell| Some((cell.wall()?, cell.contender)))
            .min_by_key(|(wall, _)| *wall);
        let Some((best, peer)) = best else { continue };
        let Some(ours) = results.cell(shape, network, Contender::OURS) else {
            continue;
        };
        rows += 1;
        if ours.wall().is_some_and(|wall| wall < best) {
            met += 1;
            continue;
        }
        let name = format!("{}, {network}: faster than {}", title(shape), peer.name());
        let best = best.as_secs_f64();
        targets.push(match ours.wall() {
            Some(wall) => Target::below(name, best, Some(wall.as_secs_f64()), "s"),
            None => Target {
                verdict: "**missed**: it failed".to_owned(),
                ..Target::unknown(name, &format!("≤ {}", quantity(best, "s")))
            },
        });
    }
    let verdict = match rows {
        0 => "not measured".to_owned(),
        _ if rows == met => "met".to_owned(),
        _ => format!("missed in {}", rows - met),
    };
    let summary = Target {
        name: "faster than the best peer at its best setting".into(),
        limit: "every row".into(),
        figure: format!("{met} of {rows} rows"),
        verdict,
    };
    targets.insert(0, summary);
    targets
}

/// Peak memory of all runs in MiB.
fn memory(results: &Results) -> Option<f64> {
    let cells = results
        .cells
        .iter()
        .filter(|cell| cell.contender == Contender::OURS);
    let flat = results.flat.iter().map(|flat| flat.max_rss);
    let most = cells.filter_map(Cell::max_rss).chain(flat).max()?;
    Some(mebibytes(most))
}

fn growth(results: &Results) -> Target {
    let name = "peak memory, 10 GiB layer: at most 10 % above that of 1 GiB".to_owned();
    match results.flat.as_slice() {
        [small, large] => Target::below(
            name,
            mebibytes(small.max_rss) * GROWTH,
            Some(mebibytes(large.max_rss)),
            "MiB",
        ),
        _ => Target::unknown(name, "both layers"),
    }
}

/// The most CPU seconds for each GiB in the rows with large layers.
fn cpu(results: &Results, tls: bool) -> Option<f64> {
    let cells = results.cells.iter().filter(|cell| {
        cell.contender == Contender::OURS
            && cell.network.tls == tls
            && matches!(cell.shape, Shape::Big | Shape::Layers)
    });
    cells.filter_map(Cell::cpu_per_gib).reduce(f64::max)
}

/// The requests of a re-copy to each of the two registries.
fn recopy(results: &Results, title: impl Fn(Shape) -> String) -> [Target; 2] {
    let samples: Vec<_> = results
        .cells
        .iter()
        .filter(|cell| cell.shape == Shape::Recopy && cell.contender == Contender::OURS)
        .flat_map(Cell::samples)
        .collect();
    let most = |counts: &dyn Fn(usize) -> u64| {
        let most = (0..samples.len()).map(counts).max()?;
        u32::try_from(most).ok().map(f64::from)
    };
    let from_source = most(&|index| samples.get(index).map_or(0, |sample| sample.source.total()));
    let from_target = most(&|index| samples.get(index).map_or(0, |sample| sample.target.total()));
    [("source", from_source), ("destination", from_target)].map(|(registry, figure)| {
        let name = format!("{}: requests to the {registry}", title(Shape::Recopy));
        Target::below(name, RECOPY, figure, "")
    })
}

impl Target {
    /// A demand that a figure is not above a limit.
    fn below(name: String, limit: f64, figure: Option<f64>, unit: &str) -> Self {
        let Some(figure) = figure else {
            return Self::unknown(name, &format!("≤ {}", quantity(limit, unit)));
        };
        Self {
            name,
            limit: format!("≤ {}", quantity(limit, unit)),
            figure: quantity(figure, unit),
            verdict: if figure <= limit {
                "met".to_owned()
            } else {
                format!("**missed** by {:.0} %", (figure / limit - 1.0) * 100.0)
            },
        }
    }

    fn unknown(name: String, limit: &str) -> Self {
        Self {
            name,
            limit: limit.to_owned(),
            figure: "–".to_owned(),
            verdict: "not measured".to_owned(),
        }
    }
}

/// Counts have no unit and no fraction.
fn quantity(value: f64, unit: &str) -> String {
    match unit {
        "" => format!("{value:.0}"),
        "MiB" => format!("{value:.1} {unit}"),
        _ => format!("{value:.2} {unit}"),
    }
}

/// Bytes as MiB.
#[allow(clippy::cast_precision_loss)] // no process has 2^52 bytes
pub fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{Outcome, Requests, Sample};
    use crate::tools::{Setting, Tool};

    fn cell(contender: Contender, milliseconds: u64, mebibytes: u64) -> Cell {
        let sample = Sample {
            wall: Duration::from_millis(milliseconds),
            cpu: Duration::from_millis(500),
            max_rss: mebibytes << 20,
            source: Requests::default(),
            target: Requests::default(),
        };
        Cell {
            shape: Shape::Big,
            network: NEAR,
            contender,
            outcomes: vec![Outcome::Done(sample)],
            bytes: 1 << 30,
        }
    }

    fn verdicts(results: &Results) -> Vec<String> {
        let targets = evaluate(results, |_| "row".to_owned());
        targets
            .into_iter()
            .map(|target| format!("{}: {}", target.name, target.verdict))
            .collect()
    }

    #[test]
    fn what_is_slower_or_larger_is_missed_by_so_much() {
        let peer = Contender {
            tool: Tool::Crane,
            setting: Setting::Tuned,
        };
        let results = Results {
            cells: vec![
                cell(Contender::OURS, 1500, 64),
                cell(peer, 1000, 10),
                cell(Contender::LIMIT, 1500, 10),
            ],
            flat: Vec::new(),
            commands: Vec::new(),
        };
        let verdicts = verdicts(&results);
        for expected in [
            "faster than the best peer at its best setting: missed in 1",
            "row, 0 ms: faster than crane, tuned: **missed** by 50 %",
            "row, 0 ms: wall within 5 % of the limit: met",
            "peak memory in every row: **missed** by 100 %",
            "CPU s per GiB of large layers, plain HTTP: met",
            "row: requests to the source: not measured",
        ] {
            assert!(
                verdicts.iter().any(|verdict| verdict == expected),
                "{expected}: {verdicts:#?}"
            );
        }
    }

    #[test]
    fn nothing_measured_is_nothing_met() {
        let verdicts = verdicts(&Results::default());
        assert!(
            verdicts
                .iter()
                .all(|verdict| verdict.ends_with("not measured")),
            "{verdicts:#?}"
        );
    }
}
