//! What is to be done about a Secret. Pure functions of what is there and what is wanted.

use std::time::Duration;

use tokio::time::Instant;

use super::cache::Record;
use super::login::Fingerprint;
use super::object::{Seen, State, Version};

/// How long nothing names a Secret before it is removed. A tool that deletes a workload and makes it anew takes minutes,
/// whoever runs short-lived Pods need not wait for it each time, and what the policy was told just now, by whichever
/// replica, may name it in a moment.
pub(super) const IDLE_FOR: Duration = Duration::from_hours(1);

/// What a Secret must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted<'a> {
    /// Under which key.
    pub key: &'a str,
    /// Which login; `None` if any will do: another replica sees to that, whose credential helper may give another token.
    pub login: Option<Fingerprint>,
}

/// How a Secret becomes as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It is.
    Nothing,
    /// By a write.
    Write(How),
    /// It can come when its predecessor is gone.
    Wait,
    /// It is somebody else's.
    LeaveAlone,
}

/// What is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// A new one, since there is none.
    Create,
    /// Another content for this one, as it is now.
    Change(Version),
    /// This one cannot be changed, so it goes and another one comes.
    Replace(Version),
}

/// What is to be done in a namespace without being asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Duty {
    /// Nothing.
    Nothing,
    /// Nothing before that moment.
    Later(Instant),
    /// To make the Secret as it should be.
    Bring,
    /// To remove it.
    Remove,
    /// To tell that a Secret of somebody else is in the way.
    Tell,
}

/// How the Secret that is there becomes as it should be.
pub(super) fn step(there: Option<&Seen>, wanted: Wanted<'_>) -> Step {
    let Some(Seen { version, state }) = there else {
        return Step::Write(How::Create);
    };
    match state {
        State::Foreign => Step::LeaveAlone,
        State::Leaving => Step::Wait,
        State::WrongType => Step::Write(How::Replace(version.clone())),
        State::Ours { held, is_immutable } => {
            let login = held.usable(wanted.key);
            let is_right = login.is_some_and(|login| wanted.login.is_none_or(|it| it == login));
            match (is_right, *is_immutable) {
                (true, _) => Step::Nothing,
                (false, false) => Step::Write(How::Change(version.clone())),
                (false, true) => Step::Write(How::Replace(version.clone())),
            }
        }
    }
}

/// The same in a namespace that is to be left alone. A login that is there already, from before that was said, is kept new:
/// it would fail one day, and Pods with it. Nothing else is done.
pub(super) fn renewal(there: Option<&Seen>, wanted: Wanted<'_>) -> Step {
    let is_there = there
        .and_then(Seen::held)
        .is_some_and(|held| held.has(wanted.key));
    match step(there, wanted) {
        renewal @ Step::Write(How::Change(_)) if is_there => renewal,
        _ => Step::Nothing,
    }
}

/// What is to be done in a namespace. Only who knows all workloads can tell that nothing names the Secret.
pub(super) fn duty(
    is_needed: bool,
    there: Option<&Record>,
    wanted: Wanted<'_>,
    knows_all: bool,
    now: Instant,
) -> Duty {
    let step = step(there.map(|record| &record.seen), wanted);
    if is_needed {
        return match step {
            Step::Nothing | Step::Wait => Duty::Nothing,
            Step::LeaveAlone => Duty::Tell,
            Step::Write(_) => Duty::Bring,
        };
    }
    let Some(record) = there.filter(|record| record.seen.is_ours()) else {
        return Duty::Nothing;
    };
    match (knows_all.then(|| record.useless_from()).flatten(), step) {
        (_, Step::Wait) => Duty::Nothing,
        (Some(from), _) if from <= now => Duty::Remove,
        (_, Step::Write(_)) => Duty::Bring,
        (Some(from), _) => Duty::Later(from),
        (None, _) => Duty::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::dockerconfigjson::{Held, Others, login};
    use super::*;

    const KEY: &str = "registry.example";

    fn held(password: &str) -> Held {
        Held::of(&config(password))
    }

    fn config(password: &str) -> Vec<u8> {
        let config = Others::default().with(KEY, login("u", password, None));
        config.to_string().into_bytes()
    }

    fn exactly() -> Wanted<'static> {
        Wanted {
            key: KEY,
            login: held("new").usable(KEY),
        }
    }

    fn version() -> Version {
        Version {
            uid: "u".into(),
            resource_version: "7".into(),
        }
    }

    fn any_state() -> impl Strategy<Value = State> {
        let other = Others::default().with("other.example", login("u", "p", None));
        let held = prop_oneof![
            Just(Held::default()),
            Just(held("new")),
            Just(held("old")),
            Just(Held::of(other.to_string().as_bytes())),
        ];
        prop_oneof![
            Just(State::Foreign),
            Just(State::Leaving),
            Just(State::WrongType),
            (held, any::<bool>())
                .prop_map(|(held, is_immutable)| State::Ours { held, is_immutable }),
        ]
    }

    fn any_wanted() -> impl Strategy<Value = Wanted<'static>> {
        let anything = Wanted {
            key: KEY,
            login: None,
        };
        prop_oneof![Just(exactly()), Just(anything)]
    }

    /// The state that a step leads to, if nobody interferes.
    fn after(state: Option<State>, step: &Step) -> Option<State> {
        let fresh = State::Ours {
            held: held("new"),
            is_immutable: false,
        };
        match step {
            Step::Nothing | Step::LeaveAlone => state,
            Step::Write(How::Create | How::Replace(_)) => Some(fresh),
            Step::Write(How::Change(_)) => match state {
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
        fn every_secret_but_a_foreign_one_becomes_right(state in proptest::option::of(any_state()), wanted in any_wanted()) {
            let mut now = state.clone();
            for _ in 0..3 {
                let seen = now.clone().map(|state| Seen { version: version(), state });
                let step = step(seen.as_ref(), wanted);
                if let Step::Write(How::Change(touched) | How::Replace(touched)) = &step {
                    prop_assert_eq!(touched, &version());
                }
                now = after(now, &step);
            }
            if state == Some(State::Foreign) {
                prop_assert_eq!(now, state);
            } else {
                let seen = now.map(|state| Seen { version: version(), state });
                prop_assert_eq!(step(seen.as_ref(), wanted), Step::Nothing);
            }
        }

        #[test]
        fn only_what_is_ours_and_useless_is_removed(
            state in any_state(),
            wanted in any_wanted(),
            is_needed: bool,
            knows_all: bool,
            idle in proptest::option::of(0_u64..7200),
        ) {
            let now = Instant::now() + Duration::from_hours(2);
            let ago = |seconds: Option<u64>| seconds.map(|seconds| now - Duration::from_secs(seconds));
            let mut record = Record::new(Seen { version: version(), state: state.clone() }, 0);
            record.idle_since = ago(idle);
            let is_useless = idle.is_some_and(|idle| idle >= 3600);
            let may_go = !is_needed && knows_all && is_useless && !matches!(state, State::Foreign | State::Leaving);
            let duty = duty(is_needed, Some(&record), wanted, knows_all, now);
            prop_assert_eq!(duty == Duty::Remove, may_go, "{:?}", duty);
            if state == State::Foreign {
                prop_assert!(matches!(duty, Duty::Nothing | Duty::Tell));
            }
            if let Duty::Later(from) = duty {
                prop_assert!(from > now);
            }
        }
    }

    proptest! {
        #[test]
        fn where_it_is_to_be_left_alone_only_its_own_login_is_changed(
            state in proptest::option::of(any_state()), wanted in any_wanted(),
        ) {
            let old = State::Ours { held: held("old"), is_immutable: false };
            let is_old = wanted == exactly() && state == Some(old);
            let seen = state.map(|state| Seen { version: version(), state });
            let expected = if is_old { Step::Write(How::Change(version())) } else { Step::Nothing };
            prop_assert_eq!(renewal(seen.as_ref(), wanted), expected);
        }
    }

    #[test]
    fn what_is_needed_and_not_there_is_made() {
        let now = Instant::now();
        let wanted = exactly();
        assert_eq!(duty(true, None, wanted, false, now), Duty::Bring);
        assert_eq!(duty(false, None, wanted, true, now), Duty::Nothing);
    }
}
