//! What was measured, and what a row says of it.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use testkit::registry::Request;

use crate::network::Network;
use crate::shapes::Shape;
use crate::tools::Contender;

/// One run that succeeded.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sample {
    pub wall: Duration,
    pub cpu: Duration,
    /// Bytes.
    pub max_rss: u64,
    pub source: Requests,
    pub target: Requests,
}

/// How many requests a registry answered, by method.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requests(BTreeMap<String, u64>);

/// One run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Outcome {
    Done(Sample),
    /// It was stopped after this time.
    GaveUp(Duration),
    Failed(String),
}

/// All runs of one contender in one row.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cell {
    pub shape: Shape,
    pub network: Network,
    pub contender: Contender,
    pub outcomes: Vec<Outcome>,
    /// Bytes of the blobs that the row is about.
    pub bytes: u64,
}

/// A run with one large blob against servers that keep nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Flat {
    pub bytes: u64,
    pub wall: Duration,
    pub cpu: Duration,
    pub max_rss: u64,
}

/// Everything that was measured.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Results {
    /// The commands that measured it.
    pub commands: Vec<String>,
    pub cells: Vec<Cell>,
    pub flat: Vec<Flat>,
}

impl Requests {
    /// Counts.
    pub fn count<'a>(requests: impl IntoIterator<Item = &'a Request>) -> Self {
        let mut counts = BTreeMap::new();
        for request in requests {
            *counts.entry(request.method.clone()).or_default() += 1;
        }
        Self(counts)
    }

    /// All methods together.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// `203: 1 HEAD, 202 GET`; a single method needs no list.
    pub fn describe(&self) -> String {
        let list: Vec<_> = self
            .0
            .iter()
            .map(|(method, count)| format!("{count} {method}"))
            .collect();
        match list.as_slice() {
            [] => "0".to_owned(),
            [one] => one.clone(),
            _ => format!("{}: {}", self.total(), list.join(", ")),
        }
    }
}

impl Cell {
    /// The runs that succeeded.
    pub fn samples(&self) -> impl Iterator<Item = &Sample> {
        self.outcomes.iter().filter_map(|outcome| match outcome {
            Outcome::Done(sample) => Some(sample),
            _ => None,
        })
    }

    /// Median wall time, when every run succeeded.
    pub fn wall(&self) -> Option<Duration> {
        let walls: Vec<_> = self.samples().map(|sample| sample.wall).collect();
        (walls.len() == self.outcomes.len())
            .then(|| median(walls))
            .flatten()
    }

    /// Shortest and longest wall time.
    pub fn range(&self) -> Option<(Duration, Duration)> {
        let walls = || self.samples().map(|sample| sample.wall);
        Some((walls().min()?, walls().max()?))
    }

    /// Median CPU time.
    pub fn cpu(&self) -> Option<Duration> {
        median(self.samples().map(|sample| sample.cpu).collect())
    }

    /// Median CPU seconds for each GiB of the row.
    #[allow(clippy::cast_precision_loss)] // a row has far fewer than 2^52 bytes
    pub fn cpu_per_gib(&self) -> Option<f64> {
        let gib = self.bytes as f64 / f64::from(1 << 30);
        Some(self.cpu()?.as_secs_f64() / gib)
    }

    /// Greatest peak memory in bytes.
    pub fn max_rss(&self) -> Option<u64> {
        self.samples().map(|sample| sample.max_rss).max()
    }
}

impl Results {
    /// The figures of an earlier run; none if the file is not there.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .with_context(|| format!("{} holds no figures", path.display())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| path.display().to_string()),
        }
    }

    /// Keeps the figures for a later run.
    pub fn save(&self, path: &Path) -> anyhow::Result<()> {
        std::fs::write(path, serde_json::to_vec(self)?)
            .with_context(|| format!("{} cannot be written", path.display()))
    }

    /// Forgets a row, because it is measured again.
    pub fn forget(&mut self, shape: Shape, network: Network) {
        self.cells
            .retain(|cell| (cell.shape, cell.network) != (shape, network));
    }

    /// What a contender did in a row.
    pub fn cell(&self, shape: Shape, network: Network, contender: Contender) -> Option<&Cell> {
        self.cells
            .iter()
            .find(|cell| (cell.shape, cell.network, cell.contender) == (shape, network, contender))
    }

    /// All rows that were measured, in order.
    pub fn rows(&self) -> Vec<(Shape, Network)> {
        let mut rows: Vec<_> = Vec::new();
        for cell in &self.cells {
            if !rows.contains(&(cell.shape, cell.network)) {
                rows.push((cell.shape, cell.network));
            }
        }
        rows
    }
}

/// The middle one; of an even number the mean of the two in the middle.
pub fn median(mut values: Vec<Duration>) -> Option<Duration> {
    values.sort_unstable();
    let upper = *values.get(values.len() / 2)?;
    let lower = *values.get(values.len().saturating_sub(1) / 2)?;
    Some((lower + upper) / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let median_of =
            |values: &[u64]| median(values.iter().copied().map(Duration::from_secs).collect());
        assert_eq!(median_of(&[]), None);
        assert_eq!(median_of(&[3]), Some(Duration::from_secs(3)));
        assert_eq!(median_of(&[9, 1, 2]), Some(Duration::from_secs(2)));
        assert_eq!(median_of(&[4, 1, 2, 9]), Some(Duration::from_secs(3)));
    }

    #[test]
    fn requests_are_counted_by_method() {
        let request = |method: &str| Request {
            method: method.to_owned(),
            path: "/v2/".to_owned(),
            status: 200,
        };
        let requests = [request("GET"), request("HEAD"), request("GET")];
        let counts = Requests::count(&requests);
        assert_eq!(counts.describe(), "3: 2 GET, 1 HEAD");
        assert_eq!(Requests::count(&requests[..1]).describe(), "1 GET");
        assert_eq!(Requests::default().describe(), "0");
    }
}
