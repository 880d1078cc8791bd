//! How many instructions evaluations take: no more than was accepted.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;

use e2e_tests::fuel::{Case, Figures, Meter, rustc_version};
use testkit::artifacts;

/// Set to anything, it makes the measured figures the accepted ones: `make fuel-accept`.
const ACCEPT: &str = "FUEL_ACCEPT";

fn meter() -> Meter {
    Meter::new(&std::fs::read(artifacts::policy_module().unwrap()).unwrap()).unwrap()
}

/// Past the test harness, which keeps what tests print to itself as long as they pass.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

#[test]
fn no_case_takes_more_instructions_than_accepted() {
    let meter = meter();
    let mut instructions = BTreeMap::new();
    for case in Case::all(None) {
        let case = Arc::new(case);
        let spent = meter.run(&case, 0).unwrap();
        case.check(&spent.answer).unwrap();
        // The start is the same in all cases, and a case of its own.
        let count = if case.operation == "validate" {
            spent.call
        } else {
            spent.start + spent.call
        };
        instructions.insert(case.name.to_owned(), count);
    }
    let measured = Figures {
        rustc: rustc_version().unwrap(),
        instructions,
    };
    if std::env::var_os(ACCEPT).is_some() {
        measured.accept().unwrap();
        say(&format!("accepted: {measured:#?}"));
        return;
    }
    let accepted = Figures::accepted().unwrap();
    if !measured.is_comparable(&accepted) {
        say(&format!(
            "WARNING: the accepted instruction counts are of {}, this is {}: only gross growth is noticed. \
             Accept new ones: make fuel-accept",
            accepted.rustc, measured.rustc
        ));
    }
    let worse = measured.worse_than(&accepted);
    assert!(
        worse.is_empty(),
        "the policy has become slower:\n  {}\nIf that is worth it: make fuel-accept, and commit {}",
        worse.join("\n  "),
        Figures::path().display()
    );
}

/// Else the figures would prove nothing: the same in every run, and nearly so whatever the seeds of hash tables are.
#[test]
fn counts_can_be_repeated() {
    let meter = meter();
    for case in Case::all(None) {
        let case = Arc::new(case);
        let first = meter.run(&case, 0).unwrap();
        assert_eq!(meter.run(&case, 0).unwrap(), first, "{}", case.name);
        for seed in [1, 77, 255] {
            let other = meter.run(&case, seed).unwrap();
            let difference = other.call.abs_diff(first.call);
            assert!(
                difference * 100 <= first.call,
                "{}: {} and {} instructions",
                case.name,
                first.call,
                other.call
            );
        }
    }
}
