//! The table of cases in the test host. `e2e.bats` runs the same table in the real kwctl, against the same answers.
//!
//! `IMAGE_MIRROR_ACCEPT=1` records the sessions anew and takes what comes of them as expected: then read the difference.

use std::sync::Arc;

use crate::support::policy_builder;
use anyhow::{Context as _, ensure};
use e2e_tests::fixtures;
use e2e_tests::host::PolicyHost;
use e2e_tests::session::{
    Case, Player, Recorder, Session, expected_file, orphans, readable, session_file, table,
};
use serde_json::Value;

const ACCEPT_VARIABLE: &str = "IMAGE_MIRROR_ACCEPT";

/// The policy in a host whose questions go to `replay`. Busy machines get more time than the sessions need.
fn host(
    replay: impl Fn(&str, &str) -> Result<String, String> + Send + Sync + 'static,
) -> PolicyHost {
    let builder = policy_builder().epoch_ticks(60).replay(replay);
    builder.build().unwrap()
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
    let host = host(move |operation, image| answers.answer(operation, image));
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

#[test]
fn every_case_ends_as_expected() {
    let cases = table().unwrap();
    if std::env::var_os(ACCEPT_VARIABLE).is_some() {
        accept(&cases).unwrap();
    }
    let player = Arc::new(Player::default());
    let answers = Arc::clone(&player);
    let host = host(move |operation, image| answers.answer(operation, image));
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
    assert_eq!(orphans(&cases).unwrap(), Vec::<std::path::PathBuf>::new());
}

/// Every request that an API server sent is a case.
#[test]
fn no_fixture_is_left_out() {
    let cases = table().unwrap();
    for fixture in fixtures::names() {
        assert!(cases.iter().any(|case| case.is_of(&fixture)), "{fixture}");
    }
}
