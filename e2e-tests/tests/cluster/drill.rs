//! The blackout drill in small; `make drill` runs the whole.

use std::io::Write as _;

use e2e_tests::drill::{Scale, blackout};

#[test]
fn a_cluster_survives_the_loss_of_its_upstream_registry() {
    let say = |text: &str| {
        // Captured by the test runner unless it fails.
        let _ = writeln!(std::io::stdout(), "{text}");
    };
    let Some(report) = blackout::run(Scale::SMALL, 2, &say).unwrap() else {
        return;
    };
    assert!(report.is_good(), "{report}");
    let total = report.total();
    assert!(total.objects > Scale::SMALL.workloads, "{report}");
}
