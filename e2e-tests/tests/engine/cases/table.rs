//! The table in `docs/copying.md` and the tests must agree.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// How many cases there are.
const CASES: usize = 60;

/// Every test that is named like a case, in the sources of this module.
fn tests() -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/engine/cases");
    let sources = fs::read_dir(folder).unwrap().map(|entry| {
        let path = entry.unwrap().path();
        fs::read_to_string(path).unwrap()
    });
    let text: String = sources.collect();
    let names = text.split("\nasync fn ").skip(1).filter_map(|rest| {
        let (name, _) = rest.split_once('(')?;
        name.starts_with("case_").then(|| name.to_owned())
    });
    names.collect()
}

/// The rows of the table: number and names of tests.
fn rows() -> Vec<(usize, BTreeSet<String>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/copying.md");
    let text = fs::read_to_string(path).unwrap();
    let rows = text.lines().filter_map(|line| {
        let cells: Vec<_> = line.strip_prefix('|')?.split('|').map(str::trim).collect();
        let number = cells.first()?.parse().ok()?;
        let names = cells.get(3)?.split('`').skip(1).step_by(2);
        Some((number, names.map(str::to_owned).collect()))
    });
    rows.collect()
}

#[test]
fn the_table_has_every_case_in_order() {
    let numbers: Vec<_> = rows().into_iter().map(|(number, _)| number).collect();
    assert_eq!(numbers, (1..=CASES).collect::<Vec<_>>());
}

#[test]
fn every_case_names_tests_of_its_own_that_exist() {
    let tests = tests();
    for (number, names) in rows() {
        assert!(!names.is_empty(), "case {number} has no test");
        for name in names {
            assert!(name.starts_with(&format!("case_{number:02}_")), "{name}");
            assert!(tests.contains(&name), "{name} is in the table only");
        }
    }
}

#[test]
fn every_test_of_a_case_is_in_the_table() {
    let named: BTreeSet<_> = rows().into_iter().flat_map(|(_, names)| names).collect();
    let forgotten: Vec<_> = tests().difference(&named).cloned().collect();
    assert!(forgotten.is_empty(), "{forgotten:?}");
}
