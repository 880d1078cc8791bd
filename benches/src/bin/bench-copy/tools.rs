//! The tools that are compared: which there are, and what each can do. [`call`] knows how each is called.

mod call;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ValueEnum;

use crate::launch::{Job, Program};
use crate::limit;
use crate::shapes::Shape;
use crate::task::{Pair, Task};
use call::{Call, environment};

/// How many processes of a tuned tool run at a time where each copies one image only.
const TUNED_PROCESSES: usize = 4;

/// A program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
pub enum Tool {
    /// The program of this project
    Ours,
    Skopeo,
    Crane,
    Regctl,
    Oras,
    /// curl, reading from one registry and writing to the other
    Limit,
}

/// How a program is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Setting {
    Default,
    Tuned,
}

/// A column of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contender {
    pub tool: Tool,
    pub setting: Setting,
}

/// The programs that were found.
pub struct Tools {
    found: BTreeMap<Tool, Found>,
    /// What is left out, and why.
    pub absent: Vec<String>,
}

struct Found {
    path: PathBuf,
    version: String,
    /// Whether one process can be told to do more at a time.
    tunable: bool,
}

impl Tool {
    fn program(self) -> &'static str {
        match self {
            Self::Ours => "mirror-sidecar",
            Self::Skopeo => "skopeo",
            Self::Crane => "crane",
            Self::Regctl => "regctl",
            Self::Oras => "oras",
            Self::Limit => "curl",
        }
    }

    /// The settings that are compared. The program under test has to do with its defaults.
    fn settings(self) -> &'static [Setting] {
        match self {
            Self::Ours | Self::Limit => &[Setting::Default],
            _ => &[Setting::Default, Setting::Tuned],
        }
    }
}

impl Contender {
    /// The program under test.
    pub const OURS: Self = Self {
        tool: Tool::Ours,
        setting: Setting::Default,
    };
    /// The limit.
    pub const LIMIT: Self = Self {
        tool: Tool::Limit,
        setting: Setting::Default,
    };

    /// The head of its column.
    pub fn title(self) -> String {
        match self.tool {
            Tool::Ours => format!("**{}**", self.name()),
            _ => self.name(),
        }
    }

    /// What it is called in running text.
    pub fn name(self) -> String {
        match (self.tool, self.setting) {
            (Tool::Limit, _) => "limit (curl)".to_owned(),
            (tool, Setting::Default) => tool.program().to_owned(),
            (tool, Setting::Tuned) => format!("{}, tuned", tool.program()),
        }
    }

    /// Whether it is one of those to be compared with.
    pub fn is_peer(self) -> bool {
        !matches!(self.tool, Tool::Ours | Tool::Limit)
    }
}

impl Tools {
    /// Looks for the programs; `wanted` may be empty, which means all.
    pub fn find(ours: &Path, wanted: &[Tool]) -> anyhow::Result<Self> {
        let mut tools = Self {
            found: BTreeMap::new(),
            absent: Vec::new(),
        };
        for tool in Tool::value_variants() {
            if !wanted.is_empty() && !wanted.contains(tool) {
                continue;
            }
            let path = match tool {
                Tool::Ours => Some(std::path::absolute(ours)?),
                tool => on_path(tool.program()),
            };
            let Some(path) = path.filter(|path| path.is_file()) else {
                tools
                    .absent
                    .push(format!("{} was not found", tool.program()));
                continue;
            };
            let found = Found::new(*tool, path);
            if *tool == Tool::Skopeo && !found.tunable {
                tools.absent.push(format!(
                    "{} has no --image-parallel-copies: tuned, it only runs {TUNED_PROCESSES} times at once where there are many images",
                    found.version
                ));
            }
            tools.found.insert(*tool, found);
        }
        Ok(tools)
    }

    /// Name and version of each program.
    pub fn versions(&self) -> impl Iterator<Item = &str> {
        self.found.values().map(|found| found.version.as_str())
    }

    /// The columns of the tables.
    pub fn contenders(&self) -> Vec<Contender> {
        let columns = |tool: Tool| {
            tool.settings()
                .iter()
                .map(move |&setting| Contender { tool, setting })
        };
        self.found.keys().copied().flat_map(columns).collect()
    }

    /// Why a contender has no figure in a row; `None` when it has one.
    pub fn cannot(&self, contender: Contender, shape: Shape) -> Option<&'static str> {
        let one_image = !matches!(shape, Shape::OneRepo | Shape::ManyRepos);
        let tunable = self
            .found
            .get(&contender.tool)
            .is_some_and(|found| found.tunable);
        match (contender.tool, shape) {
            (Tool::Skopeo | Tool::Crane, Shape::Referrers) => Some("copies no referrers"),
            (Tool::Limit, Shape::Big | Shape::Layers | Shape::Platforms) => None,
            (Tool::Limit, _) => Some("n/a"),
            _ if contender.setting == Setting::Tuned && one_image && !tunable => Some("no setting"),
            _ => None,
        }
    }

    /// The job that makes a contender do a task; `None` when its program was not found.
    pub fn job(&self, contender: Contender, task: &Task) -> Option<Job> {
        let found = self.found.get(&contender.tool)?;
        let tuned = contender.setting == Setting::Tuned;
        let call = Call {
            program: &found.path,
            tuned: tuned && found.tunable,
            plain: task.ca.is_none(),
            task,
        };
        let each = |call: &dyn Fn(&Pair) -> Program| task.pairs.iter().map(call).collect();
        let mut setup = Vec::new();
        let programs = match contender.tool {
            Tool::Ours => vec![call.ours()],
            Tool::Skopeo => each(&|pair| call.skopeo(pair)),
            Tool::Crane => each(&|pair| call.crane(pair)),
            Tool::Regctl => {
                setup = call.regctl_setup();
                each(&|pair| call.regctl(pair))
            }
            Tool::Oras => each(&|pair| call.oras(pair)),
            Tool::Limit => vec![limit::program(task)],
        };
        Some(Job {
            setup,
            programs,
            parallel: if tuned { TUNED_PROCESSES } else { 1 },
            environment: environment(task),
        })
    }
}

/// The repository at the destination below which all copies go.
pub const REPOSITORY: &str = "backup";

impl Found {
    fn new(tool: Tool, path: PathBuf) -> Self {
        let arguments: &[&str] = match tool {
            Tool::Crane | Tool::Regctl | Tool::Oras => &["version"],
            _ => &["--version"],
        };
        let version = output(&path, arguments);
        // The first token with a digit says it best: "skopeo version 1.9.3", "VCSTag: v0.11".
        let token = version
            .split_whitespace()
            .find(|token| token.contains('.') && token.contains(|c: char| c.is_ascii_digit()));
        Self {
            version: format!(
                "{} {}",
                tool.program(),
                token.unwrap_or("of unknown version")
            ),
            tunable: match tool {
                Tool::Skopeo => {
                    output(&path, &["copy", "--help"]).contains("--image-parallel-copies")
                }
                _ => true,
            },
            path,
        }
    }
}

/// What a program prints; empty when it cannot be run.
pub fn output(program: &Path, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}
