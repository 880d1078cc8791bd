//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::network::Network;
use crate::shapes::Shape;
use crate::tools::Tool;

/// Measures the copy engine against its peers and writes the figures as a document.
#[derive(Parser)]
pub struct Args {
    #[command(subcommand)]
    pub mode: Option<Mode>,

    /// The program under test
    #[arg(
        long,
        env = "MIRROR_SIDECAR_BIN",
        default_value = "target/release/mirror-sidecar"
    )]
    pub program: PathBuf,

    /// Only these shapes (by default all)
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<Shape>,

    /// Networks: added round-trip time in milliseconds, with "tls" after it for HTTPS
    /// (by default 0,40,100,40tls, with --quick 0,20tls)
    #[arg(long, value_delimiter = ',')]
    pub latency: Vec<Network>,

    /// How often each tool does each row
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub runs: u32,

    /// Only these tools (by default all that are on the PATH)
    #[arg(long, value_delimiter = ',')]
    pub tools: Vec<Tool>,

    /// The document to write (with --quick: standard output unless this is given)
    #[arg(long)]
    pub out: Option<PathBuf>,

    /// Keep all figures in this file, and begin with those of earlier runs that it holds: a long
    /// measurement can be made in parts, in one document
    #[arg(long)]
    pub figures: Option<PathBuf>,

    /// Small sizes and one run, to see that the bench works; nothing is compared
    #[arg(long)]
    pub quick: bool,

    /// Leave out the rows that show whether memory stays flat
    #[arg(long)]
    pub no_flat: bool,

    /// A tool that needs longer for a row, in seconds, does it only once
    #[arg(long, default_value_t = 60)]
    pub once_above: u64,

    /// A tool that needs longer for a row, in seconds, is stopped
    #[arg(long, default_value_t = 240)]
    pub give_up: u64,
}

/// What the program does instead of measuring.
#[derive(Subcommand, Clone, Copy)]
pub enum Mode {
    /// Run one job from standard input and print what it used (the bench starts itself like this)
    #[command(hide = true)]
    Launch,
}

impl Args {
    /// The shapes to measure.
    pub fn shapes(&self) -> Vec<Shape> {
        if self.only.is_empty() {
            Shape::ALL.to_vec()
        } else {
            self.only.clone()
        }
    }

    /// The networks to measure on.
    pub fn networks(&self) -> Vec<Network> {
        if !self.latency.is_empty() {
            return self.latency.clone();
        }
        let network = |milliseconds, tls| Network {
            latency: Duration::from_millis(milliseconds),
            tls,
        };
        if self.quick {
            vec![network(0, false), network(20, true)]
        } else {
            vec![
                network(0, false),
                network(40, false),
                network(100, false),
                network(40, true),
            ]
        }
    }

    /// How often each tool does each row.
    pub fn runs(&self) -> u32 {
        if self.quick { 1 } else { self.runs }
    }

    /// Where the document goes; `None` is standard output.
    pub fn document(&self) -> Option<PathBuf> {
        let default = (!self.quick).then(|| PathBuf::from("docs/bench-copy.md"));
        self.out.clone().or(default)
    }

    /// After this time a tool does the row no further time.
    pub fn once_above(&self) -> Duration {
        Duration::from_secs(self.once_above)
    }

    /// After this time a tool is stopped.
    pub fn give_up(&self) -> Duration {
        Duration::from_secs(self.give_up)
    }
}
