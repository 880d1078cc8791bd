//! Counts that were accepted, and whether new ones are worse.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

use testkit::artifacts;

/// Percent by which a count may exceed the accepted one.
const GROWTH: u64 = 5;
/// The same for the code of another compiler, about which nothing more exact can be said.
const GROWTH_OTHER_COMPILER: u64 = 30;

/// Instructions of each case, and the compiler that made the code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Figures {
    /// What `rustc --version` says.
    pub rustc: String,
    /// Instructions, by the case's name.
    pub instructions: BTreeMap<String, u64>,
}

impl Figures {
    /// Where the accepted figures are.
    #[must_use]
    pub fn path() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/fuel.json")
    }

    /// Reads the accepted figures.
    ///
    /// # Errors
    /// When the file cannot be read or is not of this form.
    pub fn accepted() -> anyhow::Result<Self> {
        let path = Self::path();
        let text = fs::read(&path).with_context(|| format!("{} cannot be read", path.display()))?;
        serde_json::from_slice(&text)
            .with_context(|| format!("{} is not of its form", path.display()))
    }

    /// Makes these figures the accepted ones.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn accept(&self) -> anyhow::Result<()> {
        let path = Self::path();
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(&path, text).with_context(|| format!("{} cannot be written", path.display()))
    }

    /// What is worse in these figures than in the accepted ones, one sentence each; also cases that only one of both has.
    #[must_use]
    pub fn worse_than(&self, accepted: &Self) -> Vec<String> {
        let growth = self.allowed_growth(accepted);
        let mut worse = Vec::new();
        for (case, &now) in &self.instructions {
            match accepted.instructions.get(case) {
                None => worse.push(format!("{case} has no accepted figure, it takes {now} instructions")),
                Some(&before) if now * 100 > before * (100 + growth) => worse.push(format!(
                    "{case} takes {now} instructions, {} % more than {before}; {growth} % are allowed",
                    (now - before) * 100 / before.max(1)
                )),
                Some(_) => {}
            }
        }
        let gone = accepted.instructions.keys();
        let gone = gone.filter(|case| !self.instructions.contains_key(*case));
        worse.extend(
            gone.map(|case| format!("{case} has an accepted figure, but there is no such case")),
        );
        worse
    }

    /// Whether both are of code from the same compiler, so that they can be compared exactly.
    #[must_use]
    pub fn is_comparable(&self, accepted: &Self) -> bool {
        self.rustc == accepted.rustc
    }

    fn allowed_growth(&self, accepted: &Self) -> u64 {
        if self.is_comparable(accepted) {
            GROWTH
        } else {
            GROWTH_OTHER_COMPILER
        }
    }
}

/// What the compiler that builds this workspace says about its version.
///
/// # Errors
/// When it cannot be run.
pub fn rustc_version() -> anyhow::Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc)
        .arg("--version")
        .current_dir(artifacts::workspace())
        .output()
        .context("rustc cannot be run")?;
    ensure!(output.status.success(), "rustc --version failed");
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn figures(rustc: &str, cases: &[(&str, u64)]) -> Figures {
        let cases = cases.iter().map(|&(case, count)| (case.to_owned(), count));
        Figures {
            rustc: rustc.to_owned(),
            instructions: cases.collect(),
        }
    }

    #[rstest]
    #[case::the_same("1.95", 1000, true)]
    #[case::less("1.95", 10, true)]
    #[case::a_little_more("1.95", 1050, true)]
    #[case::too_much_more("1.95", 1051, false)]
    #[case::another_compiler("1.96", 1300, true)]
    #[case::too_much_for_any_compiler("1.96", 1301, false)]
    fn growth_has_a_limit(#[case] rustc: &str, #[case] now: u64, #[case] is_fine: bool) {
        let accepted = figures("1.95", &[("a", 1000)]);
        let worse = figures(rustc, &[("a", now)]).worse_than(&accepted);
        assert_eq!(worse.is_empty(), is_fine, "{worse:?}");
    }

    #[test]
    fn a_case_without_a_counterpart_is_worse() {
        let worse = figures("x", &[("a", 1)]).worse_than(&figures("x", &[("b", 1)]));
        assert_eq!(worse.len(), 2, "{worse:?}");
    }
}
