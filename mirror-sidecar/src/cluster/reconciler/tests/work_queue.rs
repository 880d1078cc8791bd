//! When and in which order images are checked.

use super::*;

#[test]
fn turns_are_spread_evenly_and_stay_after_a_restart() {
    let start = Instant::now();
    let unix = Duration::from_secs(1_700_000_123);
    let recheck_schedule = RecheckSchedule::new(HOUR, start, unix);
    let later = start + Duration::from_secs(1_000);
    let restarted = RecheckSchedule::new(HOUR, later, unix + Duration::from_secs(1_000));
    let mut minutes = [0; 60];
    for number in 0..6_000 {
        let phase = Phase::of(&image(&format!("registry.test/a{number}:1")));
        let next = recheck_schedule.at(start).next_turn(phase);
        let wait = next - start;
        assert!(!wait.is_zero() && wait <= HOUR);
        minutes[usize::try_from((wait.as_secs() / 60).min(59)).unwrap()] += 1;
        assert_eq!(recheck_schedule.at(next).next_turn(phase), next + HOUR);
        assert_eq!(
            recheck_schedule.at(next).turn(phase),
            recheck_schedule.at(start).turn(phase) + 1
        );
        let after = next.max(later);
        assert_eq!(
            recheck_schedule.at(after).next_turn(phase),
            restarted.at(after).next_turn(phase)
        );
    }
    let [least, most] = [minutes.iter().min(), minutes.iter().max()];
    assert!(*least.unwrap() > 60 && *most.unwrap() < 150, "{minutes:?}");
}

/// Starts all due checks, as the controller does.
fn next_checks(
    work_queue: &mut WorkQueue,
    states: &mut [(Image, ImageState)],
    now: Instant,
) -> Vec<String> {
    let mut checks = Vec::new();
    while let Some(image) = work_queue.due_in_backup(now) {
        checks.push(image.path().to_owned());
        for (_, state) in states.iter_mut().filter(|(name, _)| *name == image) {
            state.begin(Check::Backup);
            work_queue.set(&image, state);
        }
    }
    checks
}

#[test]
fn new_images_are_first_but_do_not_starve_others() {
    let now = Instant::now();
    let recheck_schedule = RecheckSchedule::new(HOUR, now, Duration::ZERO);
    let mut work_queue = WorkQueue::default();
    let mut states = Vec::new();
    let later = now + HOUR * 2;
    for (prefix, number, is_new) in [("old", 3, false), ("new", 8, true)] {
        for number in 0..number {
            let name = Image::new(image(&format!("quay.io/{prefix}{number}:1")));
            let first = now + Duration::from_secs(number);
            let clock = recheck_schedule.at(now);
            let mut state = ImageState::new(Phase::of(&name), Owner::Others, first, clock);
            if !is_new {
                state.backup_checked(Ok(complete('a')), clock);
            }
            work_queue.set(&name, &state);
            states.push((name, state));
        }
    }
    assert_eq!(next_checks(&mut work_queue, &mut states, now), ["new0"]);
    assert_eq!(
        work_queue.next(Check::Backup),
        Some(now + Duration::from_secs(1))
    );
    let checks = next_checks(&mut work_queue, &mut states, later);
    let sorts: Vec<_> = checks.iter().map(|name| &name[..3]).collect();
    let expected = [
        "new", "new", "new", "old", "new", "new", "new", "old", "new", "old",
    ];
    assert_eq!(sorts, expected);
    // All are being checked.
    assert_eq!(work_queue.next(Check::Backup), None);
    for (name, state) in &mut states {
        state.end(Check::Backup);
        work_queue.set(name, state);
        work_queue.forget(name);
    }
    assert_eq!(work_queue.next(Check::Backup), None);
}
