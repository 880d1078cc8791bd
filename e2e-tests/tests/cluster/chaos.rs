//! Everything goes wrong, in an order that a seed decides, while workloads come: afterwards all is as it shall be.
//!
//! `CHAOS_SEED` repeats an order. `CHAOS_ROUNDS` makes more of it: in each round everything goes wrong one by one first.

mod disturbance;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::{Duration, Instant};

use e2e_tests::drill::{Estate, Options, Plan, Scale};
use e2e_tests::manifests::Kind;

use disturbance::Disturbance;

/// How long it may take until all is well again. A lost replica is missed after 15 s, a lost copy is looked for every 5 s,
/// watches come back after at most 30 s, new credentials are out after 60 s; all that on a busy machine.
const WELL_AGAIN: Duration = Duration::from_mins(3);
/// How long nothing may be written when nothing is wrong.
const QUIET: Duration = Duration::from_secs(7);
/// Kinds of the workloads that come meanwhile: those that are re-admitted.
const COMING: [Kind; 3] = [Kind::Deployment, Kind::StatefulSet, Kind::DaemonSet];

const SCALE: Scale = Scale {
    namespaces: 3,
    workloads: 16,
    images: 10,
};

#[test]
fn whatever_goes_wrong_all_is_well_in_the_end() {
    let seed = number("CHAOS_SEED", 3);
    say(&format!("seed {seed}"));
    let mut random = fastrand::Rng::with_seed(seed);
    let Some(mut estate) = running(seed) else {
        return;
    };
    match number("CHAOS_ROUNDS", 0) {
        0 => all_at_once(&mut estate, &mut random),
        rounds => {
            for _ in 0..rounds {
                one_by_one(&mut estate, &mut random);
                all_at_once(&mut estate, &mut random);
            }
        }
    }
    assert_no_loops(&estate);
    assert_quiet(&estate);
    let mut report = e2e_tests::drill::Report::default();
    estate.upstream.stop();
    estate.pull_copies(&mut report).unwrap();
    assert!(report.is_good(), "{report}");
}

/// One after the other, so that it is known which one did harm.
fn one_by_one(estate: &mut Estate, random: &mut fastrand::Rng) {
    let mut all = Disturbance::ALL;
    random.shuffle(&mut all);
    for disturbance in all {
        let start = Instant::now();
        let result = disturbance.happens(estate, random);
        result
            .and_then(|()| estate.settle(WELL_AGAIN))
            .unwrap_or_else(|error| panic!("{disturbance:?}: {error:#}"));
        say_well_again(&format!("{disturbance:?}"), start);
    }
}

/// Without a pause in between.
fn all_at_once(estate: &mut Estate, random: &mut fastrand::Rng) {
    let mut all = Disturbance::ALL;
    random.shuffle(&mut all);
    let start = Instant::now();
    for disturbance in all {
        disturbance
            .happens(estate, random)
            .unwrap_or_else(|error| panic!("{disturbance:?} of {all:?}: {error:#}"));
        say(&format!("{disturbance:?} happened"));
    }
    estate
        .settle(WELL_AGAIN)
        .unwrap_or_else(|error| panic!("after {all:?}: {error:#}"));
    say_well_again(&format!("{all:?}"), start);
}

/// Three replicas, with half of the workloads there before them.
fn running(seed: u64) -> Option<Estate> {
    let options = Options {
        replicas: 3,
        arguments: vec![
            "--readmit-per-minute=6000".into(),
            "--recheck-interval=5s".into(),
        ],
    };
    let mut estate = Estate::prepare(Plan::new(SCALE, seed), options).unwrap()?;
    let (early, late) = estate.halves();
    for number in early {
        estate.create(number).unwrap();
    }
    estate.start().unwrap();
    for number in late {
        estate.create(number).unwrap();
    }
    estate.settle(WELL_AGAIN).unwrap();
    Some(estate)
}

/// The most patches of a workload: nobody but the sidecars changes one here, so each has one generation that needs it. There
/// is one more for each outage that comes between a dry run and its patch: of the backup, of the API server, of the replica.
const PATCHES: usize = 4;

/// A workload of a namespace that was made again is another one, of the same name.
fn assert_no_loops(estate: &Estate) {
    let mut counts: BTreeMap<[String; 3], usize> = BTreeMap::new();
    for workload in estate.readmissions() {
        *counts.entry(workload).or_default() += 1;
    }
    assert!(!counts.is_empty(), "nothing was re-admitted at all");
    counts.retain(|[_, namespace, _], count| {
        *count > PATCHES * (1 + estate.times_made_again(namespace))
    });
    assert_eq!(counts, BTreeMap::new(), "a re-admission loop");
}

/// Replicas that are done write nothing. Events may still wait for their turn when the workloads have settled.
fn assert_quiet(estate: &Estate) {
    let start = Instant::now();
    loop {
        let before = estate.writes().len();
        // The absence of writes can only be waited for.
        std::thread::sleep(QUIET);
        let writes = estate.writes();
        if writes.len() <= before {
            return;
        }
        assert!(start.elapsed() < WELL_AGAIN, "{:?}", &writes[before..]);
    }
}

/// Makes a workload with an image that nobody has seen, while something is wrong.
fn something_new_comes(estate: &mut Estate, random: &mut fastrand::Rng) -> anyhow::Result<()> {
    let kind = COMING[random.usize(0..COMING.len())];
    let namespace = random.usize(0..estate.namespaces.len());
    let number = estate.plan.add(kind, namespace);
    if let Some(image) = estate.plan.images.last() {
        estate.push(image)?;
    }
    estate.create(number)
}

fn number(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{variable}={text} is no number")),
        Err(_) => default,
    }
}

fn say_well_again(after: &str, start: Instant) {
    let seconds = start.elapsed().as_secs_f64();
    say(&format!("{after}: well again after {seconds:.1} s"));
}

/// Shown with `--nocapture`, and when the test fails.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}
