//! The table of attacks in `docs/security.md`.

use std::fmt::Write as _;

use anyhow::Context as _;

use super::{Attack, Measured};

const BEGIN: &str = "<!-- attack table begin -->";
const END: &str = "<!-- attack table end -->";

/// The table.
#[must_use]
pub fn render(results: &[(Attack, Measured)], machine: &[String]) -> String {
    let mut text = "| attack | bound | measured |\n|---|---|---|\n".to_owned();
    for (attack, measured) in results {
        let verdict = if measured.is_within_bound {
            ""
        } else {
            " **(missed)**"
        };
        let _ = writeln!(
            text,
            "| {} | {} | {}{verdict} |",
            attack.name, attack.bound, measured.value
        );
    }
    let _ = write!(
        text,
        "\nMeasured by `make attack` with the release build: {}.\n",
        machine.join("; ")
    );
    text
}

/// A page with the table between its markers.
///
/// # Errors
/// When the page lacks them.
pub fn put(page: &str, table: &str) -> anyhow::Result<String> {
    let (head, rest) = page
        .split_once(BEGIN)
        .context("the page lacks the begin marker")?;
    let (_, tail) = rest
        .split_once(END)
        .context("the page lacks the end marker")?;
    Ok(format!("{head}{BEGIN}\n{table}{END}{tail}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_markers_changes() {
        let page = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let new = put(&page, "new\n").unwrap();
        assert_eq!(new, format!("before\n{BEGIN}\nnew\n{END}\nafter\n"));
        assert_eq!(put(&new, "new\n").unwrap(), new);
        assert!(put("nothing", "new").is_err());
    }
}
