//! The blackout drill in small; `make drill` runs the whole.

use std::io::Write as _;

use e2e_tests::drill::Scale;
use e2e_tests::drill::blackout::{self, Stopped};
use rstest::rstest;

#[rstest]
#[case::upstream(Stopped::Upstream)]
#[case::backup(Stopped::Backup)]
fn a_cluster_survives_the_loss_of_a_registry(#[case] stopped: Stopped) {
    let say = |text: &str| {
        // Captured by the test runner unless it fails.
        let _ = writeln!(std::io::stdout(), "{text}");
    };
    let Some(report) = blackout::run(Scale::SMALL, 2, stopped, &say).unwrap() else {
        return;
    };
    assert!(report.is_good(), "{report}");
    let total = report.total();
    assert!(total.objects > Scale::SMALL.workloads, "{report}");
}
