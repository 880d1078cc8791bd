//! Checks of the parts of copies.

use super::*;

/// Checks the parts, as the controller does; returns the checked parts and the task that follows.
fn check_parts(
    bench: &mut Bench,
    seen: Result<Completeness, ProbeError>,
) -> (PartsPlan, Option<Task>) {
    let clock = bench.recheck_schedule.at(bench.now);
    assert!(
        bench
            .state
            .next(Check::Parts)
            .is_some_and(|at| at <= bench.now)
    );
    let plan = bench.state.parts_plan(clock);
    (plan, bench.state.parts_checked(plan, seen, clock))
}

#[expect(clippy::unnecessary_wraps, reason = "it is what a check returns")]
fn whole(next: Option<usize>) -> Result<Completeness, ProbeError> {
    Ok(Completeness::Complete { next })
}

#[expect(clippy::unnecessary_wraps, reason = "it is what a check returns")]
fn part_is_missing() -> Result<Completeness, ProbeError> {
    let part = digest('f').to_string().parse().unwrap();
    Ok(Completeness::Missing(part))
}

const EVERYTHING: PartsPlan = PartsPlan {
    turn: Turn::Everything,
    skip: 0,
};

/// Everything after a start, and each part in its turn afterwards: once a week.
#[test]
fn parts_are_checked_in_turns() {
    let mut bench = Bench::new(Owner::Ours);
    assert_eq!(bench.state.next(Check::Parts), None);
    bench.found(complete('a'));
    assert_eq!(
        check_parts(&mut bench, whole(Some(500))),
        (EVERYTHING, None)
    );
    let rest = PartsPlan {
        skip: 500,
        ..EVERYTHING
    };
    assert_eq!(check_parts(&mut bench, whole(None)), (rest, None));
    assert_eq!(
        bench.state.next(Check::Parts),
        None,
        "until the next interval"
    );
    let mut turns = Vec::new();
    for number in 0..168 {
        if number == 10 {
            bench.now += 5 * HOUR;
        }
        bench.sleep();
        bench.found(complete('a'));
        bench.upstream_checked(Upstream::Is(digest('a')));
        while bench.state.next(Check::Parts).is_some() {
            // The rest follows in the next interval.
            let next = (number == 3).then_some(500);
            let (plan, _) = check_parts(&mut bench, whole(next));
            let Turn::Part { number, of: 168 } = plan.turn else {
                panic!("{plan:?}");
            };
            if plan.skip == 0 {
                turns.push(number);
            }
        }
    }
    let in_order = turns.windows(2).all(|pair| (pair[0] + 1) % 168 == pair[1]);
    assert!(in_order, "{turns:?}");
    // Five hours passed in place of one interval.
    assert_eq!(turns.len(), 168 + 4, "turns that were left out follow");
}

/// The next check continues there, and no outage follows from it.
#[test]
fn an_unfinished_check_of_parts_continues_later() {
    let mut bench = Bench::new(Owner::Ours);
    bench.found(complete('a'));
    let unfinished = Ok(Completeness::Unfinished { next: 40 });
    check_parts(&mut bench, unfinished);
    bench.now = bench.state.next(Check::Parts).unwrap();
    let rest = PartsPlan {
        skip: 40,
        ..EVERYTHING
    };
    assert_eq!(check_parts(&mut bench, whole(None)), (rest, None));
}

#[test]
fn a_copy_that_lacks_parts_is_restored_with_backoff() {
    let mut bench = Bench::new(Owner::Ours);
    let start = bench.now;
    let mut restored = 0;
    while bench.now < start + HOUR {
        bench.found(complete('a'));
        bench.now = bench.state.next(Check::Parts).unwrap().max(bench.now);
        let (plan, task) = check_parts(&mut bench, part_is_missing());
        assert_eq!((plan, task), (EVERYTHING, Some(Task::Restore)));
        assert_eq!(bench.record_state(), State::Copying);
        restored += 1;
        bench.follow(pending());
        bench.follow(None);
    }
    assert!((8..=15).contains(&restored), "{restored}");
}

#[test]
fn all_parts_are_checked_after_an_outage() {
    let mut bench = Bench::mirrored(Owner::Ours);
    check_parts(&mut bench, whole(None));
    bench.state.recheck_parts(bench.now);
    assert!(bench.due().presence, "immediately");
    bench.found(complete('a'));
    let outage = Err(ProbeError {
        reason: "503".into(),
        is_outage: true,
    });
    assert_eq!(check_parts(&mut bench, outage), (EVERYTHING, None));
    assert!(bench.state.is_mirrored());
    bench.now = bench.state.next(Check::Parts).unwrap();
    assert_eq!(check_parts(&mut bench, whole(None)), (EVERYTHING, None));
    // Parts of other replicas' copies are not checked.
    let mut others = Bench::mirrored(Owner::Others);
    assert_eq!(others.state.next(Check::Parts), None);
    others.set_owner(Owner::Ours);
    others.found(complete('a'));
    assert_eq!(check_parts(&mut others, whole(None)), (EVERYTHING, None));
}
