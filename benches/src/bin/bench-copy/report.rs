//! The document: what was compared, on what, and all figures.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::SystemTime;

use crate::measure::Bench;
use crate::network::Network;
use crate::results::{Cell, Outcome, Results};
use crate::shapes::Shape;
use crate::task::{Pair, Task};
use crate::tools::Contender;
use crate::{machine, table, targets};

/// CPU seconds for each GiB say something only where there is a good part of one.
const ENOUGH_FOR_CPU: u64 = 256 << 20;
/// How much of a failure's reason is shown, in characters.
const REASON: usize = 300;

/// Everything that the document is made of.
pub struct Report<'a> {
    pub bench: &'a Bench,
    pub results: &'a Results,
    /// Small sizes: the figures mean nothing.
    pub quick: bool,
}

impl Report<'_> {
    /// The whole document.
    pub fn render(&self) -> String {
        let mut text = String::from("# The copy engine and its peers\n\n");
        if self.quick {
            text.push_str("**Small sizes, one run: this only shows that the bench works.**\n\n");
        }
        let _ = writeln!(
            text,
            "Made by {} on {}.\n",
            self.commands(),
            httpdate::fmt_http_date(SystemTime::now())
        );
        for line in machine::describe() {
            let _ = writeln!(text, "- {line}");
        }
        let versions: Vec<_> = self.bench.tools.versions().collect();
        let _ = writeln!(text, "- tools: {}", versions.join(", "));
        for line in &self.bench.tools.absent {
            let _ = writeln!(text, "- left out: {line}");
        }
        if !self.quick {
            self.targets(&mut text);
        }
        for network in self.networks() {
            self.walls(&mut text, network);
        }
        self.failures(&mut text);
        self.costs(&mut text);
        self.flat(&mut text);
        self.method(&mut text);
        text
    }

    fn commands(&self) -> String {
        let commands = self.results.commands.iter();
        let commands: Vec<_> = commands.map(|command| format!("`{command}`")).collect();
        commands.join(", then ")
    }

    fn title(&self, shape: Shape) -> String {
        shape.title(&self.bench.scale)
    }

    /// The networks that were measured, in order.
    fn networks(&self) -> Vec<Network> {
        let mut networks: Vec<Network> = Vec::new();
        for (_, network) in self.results.rows() {
            if !networks.contains(&network) {
                networks.push(network);
            }
        }
        networks
    }

    fn targets(&self, text: &mut String) {
        text.push_str("\n## Targets\n\nOf `mirror-sidecar copy` at its defaults.\n\n");
        let rows: Vec<_> = targets::evaluate(self.results, |shape| self.title(shape))
            .into_iter()
            .map(|target| vec![target.name, target.limit, target.figure, target.verdict])
            .collect();
        text.push_str(&table::markdown(
            &["target", "limit", "measured", "verdict"].map(str::to_owned),
            &rows,
        ));
        text.push_str(
            "\nWhat is behind the misses: [copying.md](copying.md#where-the-time-goes).\n",
        );
    }

    /// A row for each shape, a column for each contender.
    fn walls(&self, text: &mut String, network: Network) {
        let _ = writeln!(
            text,
            "\n## Wall time, round trip {network}\n\n\
             Median (shortest–longest) · ratio to mirror-sidecar: more than 1 is slower than it.\n"
        );
        let contenders = self.bench.tools.contenders();
        let mut head = vec!["shape".to_owned()];
        head.extend(contenders.iter().map(|contender| contender.title()));
        let rows: Vec<_> = Shape::ALL
            .into_iter()
            .filter(|shape| self.results.rows().contains(&(*shape, network)))
            .map(|shape| {
                let mut row = vec![self.title(shape)];
                row.extend(
                    contenders
                        .iter()
                        .map(|contender| self.wall(shape, network, *contender)),
                );
                row
            })
            .collect();
        text.push_str(&table::markdown(&head, &rows));
    }

    fn wall(&self, shape: Shape, network: Network, contender: Contender) -> String {
        if let Some(reason) = self.bench.tools.cannot(contender, shape) {
            return reason.to_owned();
        }
        let ours = self
            .results
            .cell(shape, network, Contender::OURS)
            .and_then(Cell::wall);
        match self.results.cell(shape, network, contender) {
            Some(cell) if contender == Contender::OURS => table::wall(cell, None),
            Some(cell) => table::wall(cell, ours),
            None => "–".to_owned(),
        }
    }

    fn failures(&self, text: &mut String) {
        let mut lines = Vec::new();
        for cell in &self.results.cells {
            let reason = cell.outcomes.iter().find_map(|outcome| match outcome {
                Outcome::Failed(reason) => Some(reason),
                _ => None,
            });
            if let Some(reason) = reason {
                let reason = reason.split_whitespace().collect::<Vec<_>>().join(" ");
                let reason: String = reason.chars().take(REASON).collect();
                let title = self.title(cell.shape);
                lines.push(format!(
                    "- {title}, {}, {}: `{reason}`",
                    cell.network,
                    cell.contender.title()
                ));
            }
        }
        if !lines.is_empty() {
            let _ = writeln!(text, "\n## Failures\n\n{}", lines.join("\n"));
        }
    }

    /// Memory over all networks; the rest from the first one, since it hardly depends on the network.
    fn costs(&self, text: &mut String) {
        let Some(first) = self.networks().first().copied() else {
            return;
        };
        let _ = writeln!(
            text,
            "\n## Memory, CPU time and requests\n\n\
             Memory is the greatest peak of one process in all runs at all latencies. CPU time (median) and requests \
             are those at {first}.\n"
        );
        let head = [
            "shape",
            "tool",
            "peak memory",
            "CPU s",
            "CPU s per GiB",
            "requests to the source",
            "requests to the destination",
        ];
        let mut rows = Vec::new();
        for cell in self
            .results
            .cells
            .iter()
            .filter(|cell| cell.network == first)
        {
            rows.extend(self.cost(cell));
        }
        rows.sort_by_key(|(shape, contender, _)| (*shape, *contender));
        let rows: Vec<_> = rows.into_iter().map(|(_, _, row)| row).collect();
        text.push_str(&table::markdown(&head.map(str::to_owned), &rows));
    }

    /// A row with its place in the table; `None` when no run succeeded.
    fn cost(&self, cell: &Cell) -> Option<(usize, usize, Vec<String>)> {
        let sample = cell.samples().last()?;
        let same = self
            .results
            .cells
            .iter()
            .filter(|other| (other.shape, other.contender) == (cell.shape, cell.contender));
        let memory = same.filter_map(Cell::max_rss).max()?;
        let cpu = cell.cpu()?.as_secs_f64();
        let moves = cell.bytes >= ENOUGH_FOR_CPU && cell.shape != Shape::Recopy;
        let per_gib = cell.cpu_per_gib().filter(|_| moves);
        let row = vec![
            self.title(cell.shape),
            cell.contender.title(),
            table::memory(memory),
            format!("{cpu:.2}"),
            per_gib.map_or_else(|| "–".to_owned(), |figure| format!("{figure:.2}")),
            sample.source.describe(),
            sample.target.describe(),
        ];
        let shape = Shape::ALL.iter().position(|shape| *shape == cell.shape)?;
        let contenders = self.bench.tools.contenders();
        let contender = contenders
            .iter()
            .position(|contender| *contender == cell.contender)?;
        Some((shape, contender, row))
    }

    fn flat(&self, text: &mut String) {
        if self.results.flat.is_empty() {
            return;
        }
        text.push_str(
            "\n## One layer of any size\n\n\
             mirror-sidecar alone, between a source that makes the bytes up and a destination that verifies and forgets \
             them, both in the bench's process: what the engine itself needs.\n\n",
        );
        let rows: Vec<_> = self
            .results
            .flat
            .iter()
            .map(|flat| {
                let gib = targets::mebibytes(flat.bytes) / 1024.0;
                vec![
                    format!("{gib:.2} GiB"),
                    table::seconds(flat.wall),
                    format!("{:.2}", gib / flat.wall.as_secs_f64()),
                    format!("{:.2}", flat.cpu.as_secs_f64() / gib),
                    table::memory(flat.max_rss),
                ]
            })
            .collect();
        let head = ["layer", "wall", "GiB per s", "CPU s per GiB", "peak memory"];
        text.push_str(&table::markdown(&head.map(str::to_owned), &rows));
    }

    fn method(&self, text: &mut String) {
        text.push_str("\n## What is compared\n\n");
        for shape in Shape::ALL {
            let description = shape.description(&self.bench.scale);
            let _ = writeln!(text, "- {}: {description}", self.title(shape));
        }
        text.push_str("\nCommand lines over plain HTTP (many images: one process for each, but for mirror-sidecar, one after another, tuned four at a time):\n\n");
        for contender in self.bench.tools.contenders() {
            let _ = writeln!(
                text,
                "- {}: {}",
                contender.title(),
                self.command_line(contender)
            );
        }
        let _ = writeln!(text, "\n{}", notes(self.bench));
    }

    fn command_line(&self, contender: Contender) -> String {
        if contender == Contender::LIMIT {
            return "`curl GET | curl -T - PUT` for each blob, 32 at a time".to_owned();
        }
        let task = Task {
            pairs: vec![Pair {
                source: "SOURCE/image:1.0".to_owned(),
                target: "DESTINATION/image:1.0".to_owned(),
            }],
            source: "SOURCE".to_owned(),
            target: "DESTINATION".to_owned(),
            ca: None,
            referrers: false,
            folder: PathBuf::new(),
            blobs: Vec::new(),
        };
        let Some(job) = self.bench.tools.job(contender, &task) else {
            return "–".to_owned();
        };
        let lines: Vec<_> = job
            .setup
            .iter()
            .chain(&job.programs)
            .map(|program| {
                let name = program
                    .path
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned();
                format!("`{name} {}`", program.arguments.join(" "))
            })
            .collect();
        lines.join(", then ")
    }
}

fn notes(bench: &Bench) -> String {
    format!(
        "\
How it is measured:

- The source has the images already. The destination is a fresh registry for every run, and is removed after it. Each \
  round begins with another tool. A registry's start and the check of the result are not in the figures.
- After each run every tag must be there with the right digest; the registry takes a manifest only when all its parts \
  are there. For referrers the fallback tag must list them all (regctl is told `--referrers`, oras `-r`).
- Latency is added by a TCP proxy before each registry: half of it to each byte in each direction, and one whole round \
  trip to the start of a connection. Bandwidth is not limited, but for 16 MiB under way in each direction of a \
  connection. Timers have a granularity of a millisecond, so a round trip may take up to two more. The proxies use the \
  same processor as everything else.
- TLS is spoken by docker-registry itself, with a private authority; it offers HTTP/2, and each tool speaks what it wants.
- Wall time, CPU time and peak memory come from the kernel (wait4), taken by a small launcher, so that they contain \
  nothing of the bench. Requests are counted in the access logs of the registries.
- The limit moves blobs only, no manifests, verifies nothing, speaks HTTP/1.1 only, and starts several processes for each \
  blob. It is a limit for large blobs; with many platforms the processes are already a good part of it. It makes no \
  sense where it would measure nothing else: many small blobs, re-copies, many images, referrers.
- A tool that takes more than {} s for a row does it once only (no range in the table), and is stopped after {} s \
  (`>` in the table). Four processes at a time need four times the memory of one.
- skopeo keeps its cache of known blobs where it always does; everything else that a tool keeps is fresh.",
        bench.once_above.as_secs(),
        bench.give_up.as_secs()
    )
}
