//! Random Secrets become as they should be, and conflicts with others cost little.

use proptest::prelude::*;

use super::*;
use crate::cluster::login_access::LoginSet;
use crate::cluster::pull_secrets::desired::Grants;
use crate::cluster::pull_secrets::dockerconfigjson::{
    Configuration, HeldLogins, StoredLogins, login,
};
use crate::cluster::pull_secrets::keyring::tests::{desired_login, keyring};
use crate::cluster::pull_secrets::keyring::{CurrentLogins, Keyring};

const KEY: &str = "registry.example";

fn held(password: &str) -> HeldLogins {
    held_for(KEY, password)
}

fn held_for(key: &str, password: &str) -> HeldLogins {
    let mut configuration = Configuration::default();
    configuration.add(key, login("u", password, None));
    configuration.held()
}

/// A backup whose password is `new`.
fn backup() -> (Keyring, CurrentLogins) {
    let mut current = CurrentLogins::unknown(1);
    current.set(0, desired_login("new"));
    (keyring(&[("default", KEY, "acme")]), current)
}

fn desired(
    (keyring, current): &(Keyring, CurrentLogins),
    is_granted: bool,
    is_lenient: bool,
) -> Desired<'_> {
    let granted = if is_granted {
        LoginSet::ALL
    } else {
        LoginSet::NONE
    };
    Desired {
        keyring,
        current,
        grants: Grants {
            granted,
            ..Grants::default()
        },
        is_lenient,
    }
}

fn version() -> Version {
    Version {
        uid: "u".into(),
        resource_version: "7".into(),
    }
}

fn any_state() -> impl Strategy<Value = State> {
    let held = prop_oneof![
        Just(HeldLogins::default()),
        Just(held("new")),
        Just(held("old")),
        Just(held_for("other.example", "p")),
    ];
    prop_oneof![
        Just(State::Foreign),
        Just(State::Leaving),
        Just(State::WrongType),
        (held, any::<bool>()).prop_map(|(held, is_immutable)| State::Ours { held, is_immutable }),
    ]
}

/// The state that a step leads to, if nobody interferes.
fn after(state: Option<State>, step: &Step, desired: &Desired<'_>) -> Option<State> {
    let fresh = State::Ours {
        held: desired.configuration(&StoredLogins::default()).held(),
        is_immutable: false,
    };
    match step {
        Step::Nothing | Step::LeaveAlone => state,
        Step::Write(Write::Create | Write::Replace(_)) => Some(fresh),
        Step::Write(Write::Change(_)) => match state {
            Some(State::Ours {
                is_immutable: false,
                ..
            }) => Some(fresh),
            other => panic!("{other:?} cannot be changed"),
        },
        Step::Wait => None,
    }
}

proptest! {
    #[test]
    fn every_managed_secret_reaches_its_desired_state(
        state in proptest::option::of(any_state()), is_granted: bool, is_lenient: bool,
    ) {
        let backup = backup();
        let desired = desired(&backup, is_granted, is_lenient);
        let mut now = state.clone();
        for _ in 0..3 {
            let seen = now.clone().map(|state| StoredSecret { version: version(), state });
            let step = step(seen.as_ref(), &desired);
            if let Step::Write(Write::Change(touched) | Write::Replace(touched)) = &step {
                prop_assert_eq!(touched, &version());
            }
            now = after(now, &step, &desired);
        }
        if state == Some(State::Foreign) {
            prop_assert_eq!(now, state);
        } else {
            let seen = now.map(|state| StoredSecret { version: version(), state });
            prop_assert_eq!(step(seen.as_ref(), &desired), Step::Nothing);
            let held = seen.as_ref().and_then(StoredSecret::held);
            let login = held.and_then(|held| held.get(KEY));
            if !is_lenient {
                prop_assert_eq!(login.is_some(), is_granted);
            }
        }
    }

    #[test]
    fn only_managed_and_unused_secrets_are_removed(
        state in any_state(),
        is_granted: bool,
        is_lenient: bool,
        is_needed: bool,
        knows_all: bool,
        idle in proptest::option::of(0_u64..7200),
    ) {
        let backup = backup();
        let desired = desired(&backup, is_granted, is_lenient);
        let now = Instant::now() + Duration::from_hours(2);
        let ago = |seconds: Option<u64>| seconds.map(|seconds| now - Duration::from_secs(seconds));
        let mut record = Record::new(StoredSecret { version: version(), state: state.clone() }, 0);
        record.idle_since = ago(idle);
        let is_useless = idle.is_some_and(|idle| idle >= 3600);
        let may_go = !is_needed && knows_all && is_useless && !matches!(state, State::Foreign | State::Leaving);
        let action = action(is_needed, Some(&record), &desired, knows_all, now);
        prop_assert_eq!(action == Action::Remove, may_go, "{:?}", action);
        if state == State::Foreign {
            prop_assert!(matches!(action, Action::Nothing | Action::ReportForeign));
        }
        if let Action::After(from) = action {
            prop_assert!(from > now);
        }
    }

    #[test]
    fn in_excluded_namespaces_only_the_own_login_is_changed(
        state in proptest::option::of(any_state()), is_lenient: bool,
    ) {
        let backup = backup();
        let has_login = matches!(&state, Some(State::Ours { held, .. }) if held.get(KEY).is_some());
        let desired = Desired {
            grants: Grants { kept: LoginSet::ALL, ..desired(&backup, has_login, is_lenient).grants },
            ..desired(&backup, has_login, is_lenient)
        };
        let old = State::Ours { held: held("old"), is_immutable: false };
        let is_old = !is_lenient && state == Some(old);
        let seen = state.map(|state| StoredSecret { version: version(), state });
        let expected = if is_old { Step::Write(Write::Change(version())) } else { Step::Nothing };
        prop_assert_eq!(renewal(seen.as_ref(), &desired), expected);
    }
}

#[test]
fn a_missing_secret_that_is_needed_is_created() {
    let now = Instant::now();
    let backup = backup();
    let exactly = desired(&backup, true, false);
    assert_eq!(action(true, None, &exactly, false, now), Action::Apply);
    assert_eq!(action(false, None, &exactly, true, now), Action::Nothing);
    let nothing = desired(&backup, false, false);
    assert_eq!(action(true, None, &nothing, true, now), Action::Nothing);
}

const SECOND: Duration = Duration::from_secs(1);
const NEARLY_OVER: Duration = Duration::from_secs(599);

fn ours() -> Fingerprint {
    Fingerprint::of(b"ours")
}

fn theirs() -> Fingerprint {
    Fingerprint::of(b"theirs")
}

#[test]
fn a_conflict_is_reported_once_and_backs_off() {
    let (mut conflicts, shop) = (ConflictBackoff::default(), Arc::from("shop"));
    let mut now = Instant::now();
    assert!(!conflicts.record_write(&shop, ours(), None, now));
    assert_eq!(
        conflicts.until("shop", Some(theirs()), now),
        None,
        "the first is restored"
    );
    let mut told = Vec::new();
    for _ in 0..20 {
        told.push(conflicts.record_write(&shop, ours(), Some(theirs()), now));
        assert_eq!(conflicts.until("shop", Some(ours()), now), None);
        let until = conflicts.until("shop", Some(theirs()), now).unwrap();
        assert_eq!(
            conflicts.until("shop", None, now),
            Some(until),
            "also if it is gone"
        );
        assert!(until - now < CONFLICT_ENDS_AFTER);
        now = until;
        assert_eq!(conflicts.until("shop", Some(theirs()), now), None);
    }
    assert_eq!(told.iter().filter(|told| **told).count(), 1, "{told:?}");
    assert!(told[1], "{told:?}");
    now += CONFLICT_ENDS_AFTER;
    assert!(!conflicts.record_write(&shop, ours(), Some(theirs()), now));
    assert_eq!(conflicts.until("shop", Some(theirs()), now), None);
}

#[test]
fn new_credentials_neither_start_nor_end_a_conflict() {
    let (mut conflicts, shop) = (ConflictBackoff::default(), Arc::from("shop"));
    let now = Instant::now();
    conflicts.record_write(&shop, ours(), None, now);
    let newer = Fingerprint::of(b"newer");
    conflicts.record_write(&shop, newer, Some(ours()), now);
    assert_eq!(conflicts.until("shop", Some(theirs()), now), None);
    conflicts.record_write(&shop, newer, Some(theirs()), now);
    let until = conflicts.until("shop", Some(theirs()), now);
    assert!(until.is_some());
    conflicts.record_write(&shop, ours(), Some(newer), now);
    assert_eq!(conflicts.until("shop", Some(theirs()), now), until);
}

#[test]
fn a_secret_that_is_seldom_changed_is_restored_immediately() {
    let (mut conflicts, shop) = (ConflictBackoff::default(), Arc::from("shop"));
    let mut now = Instant::now();
    conflicts.record_write(&shop, ours(), None, now);
    for _ in 0..4 {
        conflicts.record_write(&shop, ours(), None, now);
    }
    let mut told = 0;
    for _ in 0..20 {
        now += NEARLY_OVER;
        assert_eq!(conflicts.until("shop", None, now), None);
        told += u32::from(conflicts.record_write(&shop, ours(), None, now));
    }
    assert_eq!(conflicts.until("shop", None, now), None, "no pause by now");
    assert_eq!(told, 0, "that was told before");
    now += CONFLICT_ENDS_AFTER;
    for undone in 0..3 {
        let is_told = conflicts.record_write(&shop, ours(), None, now);
        assert_eq!(is_told, undone == 2);
        now += NEARLY_OVER;
    }
}

#[test]
fn conflicts_that_ended_are_forgotten() {
    let mut conflicts = ConflictBackoff::default();
    let now = Instant::now();
    for namespace in ["shop", "ending"] {
        conflicts.record_write(&namespace.into(), ours(), None, now);
    }
    conflicts.prune(now + SECOND, |namespace| namespace == "ending");
    assert_eq!(conflicts.0.len(), 1);
    conflicts.prune(now + CONFLICT_ENDS_AFTER, |_| false);
    assert!(conflicts.is_empty());
}
