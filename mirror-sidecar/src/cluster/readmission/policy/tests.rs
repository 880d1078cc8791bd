//! What is tried when, and what is said about it.

use rstest::rstest;

use super::*;
use crate::cluster::WorkloadKind;
use crate::cluster::index::tests::{deployment, gone, index, namespace, seen};
use crate::cluster::index::{Change, CopyState};
use crate::cluster::workload::Workload;

const SECOND: Duration = Duration::from_secs(1);

fn per_minute(rate: u32) -> NonZeroU32 {
    NonZeroU32::new(rate).unwrap()
}

/// A history that does not pace.
fn readmissions() -> Readmissions {
    Readmissions::new(Readmit::On, per_minute(10_000))
}

fn next(readmissions: &Readmissions, index: &Index, now: Instant) -> Option<Candidate> {
    let candidate = index.candidates(|_| CopyState::Mirrored);
    readmissions.next(candidate, Timestamp::UNIX_EPOCH, now)
}

/// All that are given out from `now` on, at the earliest times, each with this end; until `limit` or until nothing is.
fn run(
    readmissions: &mut Readmissions,
    index: &Index,
    now: &mut Instant,
    limit: usize,
    outcome: Outcome,
) -> Vec<(String, Option<News>)> {
    let mut all = Vec::new();
    while all.len() < limit
        && let Some(candidate) = next(readmissions, index, *now)
    {
        if outcome == Outcome::Rewritten {
            readmissions.reserve_patch(1, *now);
        }
        let news = readmissions.record(&candidate, outcome, *now);
        all.push((candidate.key.name.to_string(), news));
        *now += TRY_INTERVAL;
    }
    all
}

fn names(ended: &[(String, Option<News>)]) -> Vec<&str> {
    ended.iter().map(|(name, _)| name.as_str()).collect()
}

fn many(number: usize) -> Index {
    index((0..number).map(|number| deployment(&format!("web-{number:03}"), &["nginx"])))
}

fn in_namespace(workload: Workload, namespace: &str) -> Workload {
    let mut workload = workload;
    workload.key.namespace = namespace.into();
    workload.uid = format!("{namespace}-{}", workload.uid).into();
    workload
}

#[rstest]
#[case(10, 2)]
#[case(1, 1)]
#[case(60, 15)]
fn the_rate_of_patches_is_kept(#[case] rate: u32, #[case] burst: usize) {
    let index = many(700);
    let mut readmissions = Readmissions::new(Readmit::On, per_minute(rate));
    let start = Instant::now();
    let mut now = start;
    let mut patched = Vec::new();
    while now < start + 10 * MINUTE {
        if let Some(candidate) = next(&readmissions, &index, now) {
            readmissions.reserve_patch(1, now);
            readmissions.record(&candidate, Outcome::Rewritten, now);
            patched.push(now);
        }
        now += TRY_INTERVAL;
    }
    let rate = usize::try_from(rate).unwrap();
    assert!(
        patched.len().abs_diff(10 * rate) <= burst,
        "{}",
        patched.len()
    );
    for first in &patched {
        let minute = patched
            .iter()
            .filter(|at| (*first..*first + MINUTE).contains(*at));
        assert!(minute.count() <= rate + burst);
    }
}

/// What nothing rewrites takes no patch's place.
#[test]
fn dry_runs_without_effect_do_not_count_for_the_rate() {
    let index = many(30);
    let mut readmissions = Readmissions::new(Readmit::On, per_minute(1));
    readmissions.has_effect = true;
    let start = Instant::now();
    let mut now = start;
    let tried = run(&mut readmissions, &index, &mut now, 100, Outcome::Unchanged);
    assert_eq!(tried.len(), 30);
    assert_eq!(now - start, 30 * TRY_INTERVAL);
}

#[rstest]
#[case(Outcome::Rewritten, &[10, 20, 40, 80, 160, 320, 360, 360])]
#[case(Outcome::Unchanged, &[1, 2, 4, 8, 16, 32, 64, 128, 256, 360, 360])]
#[case(Outcome::Failed, &[1, 2, 4, 8, 16, 32, 64, 128, 256, 360, 360])]
fn the_same_images_back_off_exponentially(#[case] outcome: Outcome, #[case] minutes: &[u64]) {
    let index = many(1);
    let mut readmissions = readmissions();
    let mut now = Instant::now();
    if outcome == Outcome::Unchanged {
        in_doubt(&mut readmissions, &index, &mut now);
    }
    for minutes in minutes {
        let candidate = next(&readmissions, &index, now).unwrap();
        readmissions.record(&candidate, outcome, now);
        let rest = Duration::from_mins(*minutes);
        let early = now + rest.saturating_sub(SECOND);
        assert_eq!(
            next(&readmissions, &index, early),
            None,
            "{minutes} minutes"
        );
        now += rest;
    }
}

/// The first try of the only workload: it is in vain, nothing is told, and soon it is tried again.
fn in_doubt(readmissions: &mut Readmissions, index: &Index, now: &mut Instant) {
    let candidate = next(readmissions, index, *now).unwrap();
    assert_eq!(
        readmissions.record(&candidate, Outcome::Unchanged, *now),
        None
    );
    let soon = *now + Duration::from_secs(30);
    assert_eq!(
        next(readmissions, index, soon.checked_sub(SECOND).unwrap()),
        None
    );
    *now = soon;
}

/// The policy server was away for a moment: that is no reason to wait for long.
#[test]
fn an_outage_is_no_decision_of_the_policy() {
    let index = many(1);
    let mut readmissions = readmissions();
    let mut now = Instant::now();
    in_doubt(&mut readmissions, &index, &mut now);
    let tried = run(&mut readmissions, &index, &mut now, 9, Outcome::Rewritten);
    assert_eq!(tried, [("web-000".to_owned(), None)]);
    // When somebody undoes it later, there may be an outage again.
    now += Duration::from_hours(6);
    in_doubt(&mut readmissions, &index, &mut now);
}

#[test]
fn other_images_and_new_objects_do_not_back_off() {
    let mut index = many(1);
    let mut readmissions = readmissions();
    let mut now = Instant::now();
    assert_eq!(
        run(&mut readmissions, &index, &mut now, 9, Outcome::Rewritten).len(),
        1
    );
    index.apply(seen(deployment("web-000", &["redis"])));
    assert_eq!(
        run(&mut readmissions, &index, &mut now, 9, Outcome::Rewritten).len(),
        1
    );
    index.apply(seen(Workload {
        uid: "second".into(),
        ..deployment("web-000", &["redis"])
    }));
    let tried = run(&mut readmissions, &index, &mut now, 9, Outcome::Rewritten);
    assert_eq!(tried.len(), 1);
}

#[test]
fn the_time_of_the_next_candidate_is_known() {
    let index = many(2);
    let mut readmissions = Readmissions::new(Readmit::On, per_minute(1));
    let now = Instant::now();
    assert_eq!(readmissions.recheck_at(now), None);
    let candidate = next(&readmissions, &index, now).unwrap();
    readmissions.reserve_patch(1, now);
    readmissions.record(&candidate, Outcome::Rewritten, now);
    assert_eq!(
        readmissions.recheck_at(now),
        Some(now + MINUTE),
        "the next place"
    );
    let now = now + MINUTE;
    let candidate = next(&readmissions, &index, now).unwrap();
    readmissions.record(&candidate, Outcome::Failed, now);
    assert_eq!(readmissions.recheck_at(now), Some(now + TRY_INTERVAL));
    let now = now + TRY_INTERVAL;
    assert_eq!(
        readmissions.recheck_at(now),
        Some(now + (MINUTE.saturating_sub(TRY_INTERVAL))),
        "the end of a rest"
    );
}

#[test]
fn deleted_workloads_are_forgotten() {
    let mut index = many(3);
    let mut readmissions = readmissions();
    let mut now = Instant::now();
    run(&mut readmissions, &index, &mut now, 9, Outcome::Rewritten);
    readmissions.sync(&[&index]);
    assert_eq!(
        (readmissions.attempts.len(), readmissions.turns.len()),
        (3, 0),
        "the namespace is not known"
    );
    for number in 0..3 {
        index.apply(gone(deployment(&format!("web-{number:03}"), &[])));
    }
    readmissions.sync(&[&index]);
    assert_eq!(
        (readmissions.attempts.len(), readmissions.turns.len()),
        (0, 0)
    );
}

#[test]
fn namespaces_take_turns() {
    let crowd = (0..50)
        .map(|number| in_namespace(deployment(&format!("a-{number:02}"), &["nginx"]), "crowd"));
    let others = ["x", "y"].map(|name| in_namespace(deployment(name, &["nginx"]), "other"));
    let index = index(crowd.chain(others));
    let mut readmissions = readmissions();
    let mut now = Instant::now();
    let tried = run(&mut readmissions, &index, &mut now, 5, Outcome::Rewritten);
    assert_eq!(names(&tried), ["a-00", "x", "a-01", "y", "a-02"]);
}

#[test]
fn new_candidates_come_first() {
    let mut index = many(2);
    let mut readmissions = readmissions();
    let mut now = Instant::now();
    run(&mut readmissions, &index, &mut now, 9, Outcome::Failed);
    index.apply(seen(deployment("web-999", &["nginx"])));
    now += 2 * MINUTE;
    let tried = run(&mut readmissions, &index, &mut now, 9, Outcome::Failed);
    assert_eq!(names(&tried), ["web-999", "web-000", "web-001"]);
}

#[test]
fn a_workload_that_is_not_rewritten_is_reported_once() {
    let index = many(1);
    let mut readmissions = readmissions();
    let mut now = Instant::now();
    for expected in [None, Some(News::NotRewritten), None, None] {
        let tried = run(&mut readmissions, &index, &mut now, 1, Outcome::Unchanged);
        assert_eq!(tried, [("web-000".to_owned(), expected)]);
        now += Duration::from_hours(6);
    }
}

/// Another replica may be the first that sees the policy work.
#[test]
fn rewrites_by_others_show_that_the_policy_works() {
    let mut index = many(2);
    let mut readmissions = readmissions();
    let mut now = Instant::now();
    run(&mut readmissions, &index, &mut now, 9, Outcome::Unchanged);
    readmissions.sync(&[&index]);
    assert!(next(&readmissions, &index, now).is_none());
    let copy = "ghcr.io/acme/docker.io-library-nginx:latest";
    index.apply(seen(deployment("web-001", &[copy])));
    readmissions.sync(&[&index]);
    let candidate = next(&readmissions, &index, now).unwrap();
    assert_eq!(&*candidate.key.name, "web-000");
    // Once is enough: from now on each rests.
    for _ in 0..2 {
        readmissions.record(&candidate, Outcome::Unchanged, now);
    }
    index.apply(seen(deployment("web-001", &["nginx"])));
    index.apply(seen(deployment("web-001", &[copy])));
    readmissions.sync(&[&index]);
    assert!(next(&readmissions, &index, now + MINUTE.saturating_sub(SECOND)).is_none());
}

/// An outage neither swallows the news nor makes the rests longer.
#[test]
fn failures_and_effects_are_counted_apart() {
    let index = many(1);
    let mut readmissions = readmissions();
    let mut now = Instant::now();
    for _ in 0..6 {
        let candidate = next(&readmissions, &index, now).unwrap();
        assert_eq!(readmissions.record(&candidate, Outcome::Failed, now), None);
        now += Duration::from_hours(6);
    }
    in_doubt(&mut readmissions, &index, &mut now);
    let candidate = next(&readmissions, &index, now).unwrap();
    assert_eq!(
        readmissions.record(&candidate, Outcome::Unchanged, now),
        Some(News::NotRewritten)
    );
    assert!(next(&readmissions, &index, now + MINUTE).is_some());
}

/// Each replica sees only its share of what is due.
#[test]
fn the_rate_is_that_of_all_replicas() {
    let index = many(400);
    let mut readmissions = Readmissions::new(Readmit::On, per_minute(30));
    let start = Instant::now();
    let mut now = start;
    let mut patched = 0;
    while now < start + 10 * MINUTE {
        if let Some(candidate) = next(&readmissions, &index, now) {
            readmissions.reserve_patch(3, now);
            readmissions.record(&candidate, Outcome::Rewritten, now);
            patched += 1;
        }
        now += TRY_INTERVAL;
    }
    assert!((100..=104).contains(&patched), "{patched}");
}

/// A few workloads that the policy leaves alone are told of, each of them.
#[test]
fn some_unchanged_workloads_do_not_mean_that_there_is_no_policy() {
    let index = many(9);
    let mut readmissions = readmissions();
    let mut now = Instant::now();
    let doubts = run(&mut readmissions, &index, &mut now, 9, Outcome::Unchanged);
    assert!(doubts.iter().all(|(_, news)| news.is_none()));
    now += Duration::from_secs(30);
    let tried = run(&mut readmissions, &index, &mut now, 9, Outcome::Unchanged);
    assert_eq!(tried.len(), 9);
    assert!(
        tried
            .iter()
            .all(|(_, news)| *news == Some(News::NotRewritten))
    );
}

/// The policy may be installed later than the sidecar.
#[test]
fn without_a_policy_dry_runs_are_rare_and_reported_once() {
    let index = many(100);
    let mut readmissions = readmissions();
    let mut now = Instant::now();
    let tried = run(&mut readmissions, &index, &mut now, 100, Outcome::Unchanged);
    let told: Vec<_> = tried.iter().map(|(_, news)| *news).collect();
    let (last, first) = told.split_last().unwrap();
    assert_eq!(first, [None; 9]);
    assert_eq!(*last, Some(News::NothingIsRewritten));

    now += UNCHANGED_TRY_INTERVAL;
    let candidate = next(&readmissions, &index, now).unwrap();
    assert_eq!(
        readmissions.record(&candidate, Outcome::Unchanged, now),
        None
    );
    assert_eq!(
        next(
            &readmissions,
            &index,
            now + UNCHANGED_TRY_INTERVAL.saturating_sub(SECOND)
        ),
        None
    );

    // It is there now: everything is tried once more.
    now += UNCHANGED_TRY_INTERVAL;
    let tried = run(
        &mut readmissions,
        &index,
        &mut now,
        1000,
        Outcome::Rewritten,
    );
    assert_eq!(tried.len(), 100);
}

#[rstest]
#[case(Readmit::On, &["new", "odd", "old"])]
#[case(Readmit::New, &["new"])]
#[case(Readmit::Off, &[])]
fn the_mode_selects_workloads(#[case] mode: Readmit, #[case] expected: &[&str]) {
    let works_since: Timestamp = "2026-11-23T00:00:00Z".parse().unwrap();
    let old = Some("2026-11-22T23:59:59Z".parse().unwrap());
    let index = index([
        deployment("new", &["nginx"]),
        Workload {
            created: old,
            ..deployment("old", &["nginx"])
        },
        Workload {
            created: None,
            ..deployment("odd", &["nginx"])
        },
    ]);
    let mut readmissions = Readmissions::new(mode, per_minute(1000));
    let mut now = Instant::now();
    let mut tried = Vec::new();
    while let Some(candidate) =
        readmissions.next(index.candidates(|_| CopyState::Mirrored), works_since, now)
    {
        readmissions.record(&candidate, Outcome::Rewritten, now);
        tried.push(candidate.key.name.to_string());
        now += TRY_INTERVAL;
    }
    assert_eq!(tried, expected);
}

#[test]
fn the_policy_works_since_its_first_pod_or_the_start() {
    let time = |text: &str| text.parse::<Timestamp>().unwrap();
    let started = time("2026-11-23T00:00:00Z");
    let copy = "ghcr.io/acme/docker.io-library-nginx:latest";
    let pod = |created: &str| {
        let mut pod = deployment("pod", &[copy]);
        pod.key.kind = WorkloadKind::Pod;
        pod.created = Some(time(created));
        pod.is_annotated = true;
        pod
    };
    assert_eq!(works_since(&[&index([])], started, None), started);
    let later = index([pod("2026-12-01T00:00:00Z")]);
    assert_eq!(works_since(&[&later], started, None), started);
    let mut earlier = index([pod("2026-11-01T00:00:00Z")]);
    assert_eq!(
        works_since(&[&earlier], started, Some("home")),
        time("2026-11-01T00:00:00Z")
    );
    // Nobody can say that it worked before it was installed.
    let mut home = namespace("home", false);
    if let crate::cluster::Object::Namespace(home) = &mut home {
        home.created = Some(time("2026-11-20T00:00:00Z"));
    }
    earlier.apply(Change::Apply(home));
    assert_eq!(
        works_since(&[&earlier], started, Some("home")),
        time("2026-11-20T00:00:00Z")
    );
}
