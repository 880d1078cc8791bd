//! The short attacks of `make attack`, against a debug build.

use e2e_tests::attack::{Attack, Setup, all};
use rstest::rstest;

/// The attacks run in four groups, each in a test of its own.
#[rstest]
fn no_short_attack_exceeds_its_bound(#[values(0, 1, 2, 3)] group: usize) {
    let short: Vec<Attack> = all().into_iter().filter(|attack| attack.is_short).collect();
    assert!(short.len() >= 8, "{} short attacks", short.len());
    let missed: Vec<_> = short
        .iter()
        .skip(group)
        .step_by(4)
        .filter_map(|attack| {
            let measured = attack.run(Setup::DEBUG);
            (!measured.is_within_bound).then(|| {
                format!(
                    "{}: {} (bound: {})",
                    attack.name, measured.value, attack.bound
                )
            })
        })
        .collect();
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}
