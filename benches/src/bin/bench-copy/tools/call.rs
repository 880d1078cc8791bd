//! The command line of each tool, at its defaults and at its best. The one place that knows.

use std::collections::BTreeMap;
use std::path::Path;

use super::REPOSITORY;
use crate::launch::Program;
use crate::task::{Pair, Task};

/// How many requests or layers a tuned tool has under way.
const TUNED: &str = "32";

/// How a program is called for one task.
pub(super) struct Call<'a> {
    pub program: &'a Path,
    /// At its best setting, not at its defaults.
    pub tuned: bool,
    /// Over plain HTTP.
    pub plain: bool,
    pub task: &'a Task,
}

impl Call<'_> {
    pub fn ours(&self) -> Program {
        let task = self.task;
        let mut arguments = strings(&["copy"]);
        arguments.extend(task.pairs.iter().map(|pair| pair.source.clone()));
        match task.pairs.as_slice() {
            [pair] => arguments.extend(strings(&["--to", &pair.target])),
            _ => arguments.extend(strings(&[
                "--registry",
                &task.target,
                "--repository",
                REPOSITORY,
            ])),
        }
        match &task.ca {
            Some(ca) => arguments.extend(strings(&["--ca-file", &ca.to_string_lossy()])),
            None => arguments.extend(strings(&[
                "--insecure-registry",
                &task.source,
                "--insecure-registry",
                &task.target,
            ])),
        }
        self.program(arguments)
    }

    pub fn skopeo(&self, pair: &Pair) -> Program {
        let mut arguments = strings(&["--insecure-policy", "copy", "--all", "--preserve-digests"]);
        if self.plain {
            arguments.extend(strings(&[
                "--src-tls-verify=false",
                "--dest-tls-verify=false",
            ]));
        }
        if self.tuned {
            arguments.extend(strings(&["--image-parallel-copies", TUNED]));
        }
        arguments.extend([&pair.source, &pair.target].map(|image| format!("docker://{image}")));
        self.program(arguments)
    }

    pub fn crane(&self, pair: &Pair) -> Program {
        let mut arguments = strings(&["copy"]);
        if self.plain {
            arguments.extend(strings(&["--insecure"]));
        }
        if self.tuned {
            arguments.extend(strings(&["-j", TUNED]));
        }
        arguments.extend([pair.source.clone(), pair.target.clone()]);
        self.program(arguments)
    }

    /// regctl reads its settings from a file, which lies in the task's folder.
    pub fn regctl_setup(&self) -> Vec<Program> {
        let tls = if self.plain { "disabled" } else { "enabled" };
        [&self.task.source, &self.task.target]
            .map(|host| {
                let mut arguments =
                    strings(&["registry", "set", host, "--tls", tls, "--skip-check"]);
                if self.tuned {
                    arguments.extend(strings(&["--req-concurrent", TUNED]));
                }
                self.program(arguments)
            })
            .into()
    }

    pub fn regctl(&self, pair: &Pair) -> Program {
        let mut arguments = strings(&["image", "copy"]);
        if self.task.referrers {
            arguments.extend(strings(&["--referrers"]));
        }
        arguments.extend([pair.source.clone(), pair.target.clone()]);
        self.program(arguments)
    }

    pub fn oras(&self, pair: &Pair) -> Program {
        let mut arguments = strings(&["cp"]);
        if self.plain {
            arguments.extend(strings(&["--from-plain-http", "--to-plain-http"]));
        }
        if self.task.referrers {
            arguments.extend(strings(&["-r"]));
        }
        if self.tuned {
            arguments.extend(strings(&["--concurrency", TUNED]));
        }
        arguments.extend([pair.source.clone(), pair.target.clone()]);
        self.program(arguments)
    }

    fn program(&self, arguments: Vec<String>) -> Program {
        Program {
            path: self.program.to_owned(),
            arguments,
        }
    }
}

/// Nothing of the user's settings, and the authority under the names that the programs know.
pub(super) fn environment(task: &Task) -> BTreeMap<String, String> {
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let mut environment = BTreeMap::from([
        ("HOME".to_owned(), path(&task.folder)),
        (
            "REGCTL_CONFIG".to_owned(),
            path(&task.folder.join("regctl.json")),
        ),
    ]);
    if let Some(ca) = &task.ca {
        for name in ["SSL_CERT_FILE", "CURL_CA_BUNDLE"] {
            environment.insert(name.to_owned(), path(ca));
        }
    }
    environment
}

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}
