//! The table of cases in the test host. `e2e.bats` runs the same table in the real kwctl, against the same answers.
//!
//! `IMAGE_MIRROR_ACCEPT=1` records the sessions anew and takes what comes of them as expected: then read the difference.

use std::sync::Arc;

use crate::support::{COPY_DEADLINE, World, policy_builder};
use anyhow::{Context as _, ensure};
use e2e_tests::session::{
    Answers, Case, Player, Recorder, Request, Session, expected_file, orphans, readable,
    session_file, table,
};
use serde_json::{Value, json};
use testkit::fixtures;
use testkit::host::{PolicyHost, PolicyHostBuilder};

const ACCEPT_VARIABLE: &str = "IMAGE_MIRROR_ACCEPT";

/// The policy in a host that gets its responses from `replay`. Busy machines get more time than the sessions need.
fn host(
    replay: impl Fn(&str, &str) -> Result<String, String> + Send + Sync + 'static,
) -> PolicyHostBuilder {
    policy_builder().epoch_ticks(60).replay(replay)
}

/// What kwctl does: first the settings, and only if they are right the request.
fn run(host: &PolicyHost, case: &Case) -> anyhow::Result<Value> {
    let settings = case.settings()?;
    let verdict = host.validate_settings(&settings);
    if !verdict.valid {
        return Ok(serde_json::to_value(verdict)?);
    }
    readable(&host.evaluate(&case.review(), &settings)?.response)
}

fn accept(cases: &[Case]) -> anyhow::Result<()> {
    let recorder = Arc::new(Recorder::default());
    let answers = Arc::clone(&recorder);
    let host = host(move |operation, image| answers.answer(operation, image)).build()?;
    for case in cases {
        recorder.start(case.answers.clone());
        let actual = run(&host, case).with_context(|| case.name.clone())?;
        recorder.stop().save(&session_file(case))?;
        let text = serde_json::to_string_pretty(&actual)?;
        std::fs::write(expected_file(case), format!("{text}\n"))?;
    }
    for orphan in orphans(cases)? {
        std::fs::remove_file(orphan)?;
    }
    Ok(())
}

/// Plays a session and compares; the player must have been asked all of it and nothing else.
fn check(host: &PolicyHost, player: &Player, case: &Case) -> anyhow::Result<()> {
    let session = Session::load(&session_file(case))?;
    for exchange in &session.0 {
        let told = case.answers.to(&exchange.request)?;
        ensure!(
            told == exchange.response,
            "the session is not what the table says: {exchange:?}"
        );
    }
    player.insert(session);
    let actual = run(host, case)?;
    player.eject()?;
    let text = std::fs::read_to_string(expected_file(case)).context("nothing is expected")?;
    let expected: Value = serde_json::from_str(&text)?;
    ensure!(
        actual == expected,
        "expected {expected:#}, which became {actual:#}"
    );
    Ok(())
}

/// Plays all sessions in one host.
fn play(cases: &[Case], engine: impl Fn(PolicyHostBuilder) -> PolicyHostBuilder) {
    let player = Arc::new(Player::default());
    let answers = Arc::clone(&player);
    let host = host(move |operation, image| answers.answer(operation, image));
    let host = engine(host).build().unwrap();
    let complaints: Vec<_> = cases
        .iter()
        .filter_map(|case| {
            let error = check(&host, &player, case).err()?;
            Some(format!("{}: {error:#}", case.name))
        })
        .collect();
    assert!(
        complaints.is_empty(),
        "{}\n({ACCEPT_VARIABLE}=1 takes what is there now as expected)",
        complaints.join("\n")
    );
}

#[test]
fn every_case_ends_as_expected() {
    let cases = table().unwrap();
    if std::env::var_os(ACCEPT_VARIABLE).is_some() {
        accept(&cases).unwrap();
    }
    play(&cases, |host| host);
    assert_eq!(orphans(&cases).unwrap(), Vec::<std::path::PathBuf>::new());
}

/// The demo runs the policy in an interpreter, which must not differ from the engine of the policy server.
#[test]
fn every_case_ends_the_same_in_the_interpreter() {
    play(&table().unwrap(), PolicyHostBuilder::interpreted);
}

/// Every request that an API server sent is a case.
#[test]
fn no_fixture_is_left_out() {
    let cases = table().unwrap();
    for fixture in fixtures::names() {
        assert!(cases.iter().any(|case| case.is_of(&fixture)), "{fixture}");
    }
}

/// Asks the real sidecar through the test host, which is compared with kwctl elsewhere: question and answer.
fn live(
    host: &PolicyHost,
    review: &Value,
    settings: &Value,
) -> Vec<(Request, Result<String, String>)> {
    let evaluation = host.evaluate(review, settings).unwrap();
    let calls = evaluation.calls.into_iter();
    calls
        .map(|call| {
            (
                Request::OciManifest {
                    image: call.argument,
                },
                call.outcome,
            )
        })
        .collect()
}

/// What the table says would have been told.
fn told(answers: &str, request: &Request) -> Result<String, String> {
    let answers: Answers = serde_json::from_str(answers).unwrap();
    let response = answers.to(request).unwrap();
    // The host goes on with the causes of an error.
    Result::from(response).map_err(|message| format!("Callback evaluation failure: {message}"))
}

fn assert_refused_as(answers: &str, (request, actual): &(Request, Result<String, String>)) {
    let expected = told(answers, request).unwrap_err();
    // How far a copy is depends on the moment.
    let expected = expected.strip_suffix(" queued]").unwrap_or(&expected);
    let actual = actual.as_ref().unwrap_err();
    assert!(actual.starts_with(expected), "{actual}\nis not\n{expected}");
}

/// The words of the table stand for the very texts that a real sidecar and a real network give.
#[test]
fn the_sessions_tell_what_a_real_sidecar_tells() {
    let world = World::with(|sidecar| {
        sidecar
            .argument("--pull-secret")
            .argument("image-mirror-pull")
    });
    let mut review = fixtures::load("pod-create");
    let stock = world.stock(&mut review);
    let settings = world.settings();
    let mut missing = review.clone();
    fixtures::replace_images(&mut missing, &mut |image| Some(format!("{image}-missing")));

    let pending = live(&world.host, &review, &settings);
    assert_refused_as(r#"{"others": "pending"}"#, &pending[0]);
    world.wait_until_copied(stock.keys());
    let mirrored = live(&world.host, &review, &settings);
    for (request, answer) in &mirrored {
        let mut actual: Value = serde_json::from_str(answer.as_ref().unwrap()).unwrap();
        let mut expected: Value = serde_json::from_str(&told("{}", request).unwrap()).unwrap();
        for answer in [&mut actual, &mut expected] {
            for (key, value) in answer["annotations"].as_object_mut().unwrap() {
                // Where the copy is and what is in it differs.
                if key.ends_with("/image") || key.ends_with("/digest") {
                    value.take();
                }
            }
        }
        assert_eq!(actual, expected, "{request:?}");
    }

    let mut copy = review.clone();
    let mutated = world.admit(&review, &settings).mutated.unwrap();
    copy["request"]["object"] = mutated;
    let (request, in_backup) = live(&world.host, &copy, &settings).remove(0);
    assert_eq!(in_backup, told(r#"{"others": "in-backup"}"#, &request));

    let mut system = review.clone();
    system["request"]["namespace"] = json!("kube-system");
    let mut everywhere = settings.clone();
    everywhere["excludedNamespaces"] = json!([]);
    let secret = live(&world.host, &system, &everywhere).pop().unwrap();
    assert_refused_as(r#"{"secret": "failed"}"#, &secret);

    live(&world.host, &missing, &settings);
    world
        .sidecar
        .wait_for(COPY_DEADLINE, |event| event["message"] == "copy failed")
        .unwrap();
    let failed = live(&world.host, &missing, &settings).remove(0);
    assert_refused_as(r#"{"others": "failed"}"#, &failed);

    let facade = world.sidecar.facade();
    let stranger = policy_builder()
        .credential(&facade, "policy-server", "another password")
        .source_authority(&facade, world.sidecar.tls().ca_pem())
        .epoch_ticks(60);
    let stranger = stranger.build().unwrap();
    let unauthorized = live(&stranger, &review, &settings).remove(0);
    assert_refused_as(r#"{"others": "unauthorized"}"#, &unauthorized);

    let World {
        sidecar,
        host,
        mut backup,
        upstream: _upstream,
    } = world;
    backup.stop();
    let is_noticed = |event: &Value| {
        let message = event["message"].as_str().unwrap_or_default();
        message.starts_with("the backup registry cannot be reached")
    };
    sidecar.wait_for(COPY_DEADLINE, is_noticed).unwrap();
    host.clear_cache();
    // The copy, and its original.
    let without_backup = live(&host, &copy, &settings);
    assert_eq!(without_backup.len(), 2);
    let address = backup.address().replace(':', "_");
    for (request, answer) in without_backup {
        let Request::OciManifest { image } = request else {
            panic!("{request:?}");
        };
        let image = image.replace(&address, "registry.example.com");
        let request = Request::OciManifest { image };
        assert_eq!(
            answer,
            told(r#"{"others": "backup-unavailable"}"#, &request)
        );
    }

    sidecar.stop().unwrap();
    host.clear_cache();
    let down = live(&host, &review, &settings).remove(0);
    assert_refused_as(r#"{"others": "down"}"#, &down);
}
