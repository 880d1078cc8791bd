//! In any order of events, a Secret gets no login that it may not have, and the ones that it must have.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use secrecy::ExposeSecret as _;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::super::cache::{BARRED_FOR, Cache, Record, State, StoredSecret, Version};
use super::super::dockerconfigjson::login;
use super::super::keyring::tests::{desired_login, keyring};
use super::super::plan::{Step, step};
use super::*;

const LOGINS: usize = 3;
const DEFAULT: usize = 0;
const NAMESPACE: &str = "team-a";
const OTHER_KEYS: [&str; 3] = ["other.example", "r.example/elsewhere", "r.example/acme"];

#[derive(Clone, Debug)]
enum Event {
    /// The rules allow these.
    Allow(LoginSet),
    /// The rules may allow these.
    Doubt(LoginSet),
    /// Workloads use images of these.
    Use(LoginSet),
    /// A login gets a new password.
    Rotate(usize),
    /// The tenant stores a password that the Secret has had, or any other one, under a key of ours or of others.
    Plant(usize, Option<usize>),
    /// The tenant removes an entry.
    Remove(usize),
    Delete,
    Later,
    /// Another replica is in charge.
    Lenient(bool),
}

struct World {
    keyring: Keyring,
    current: CurrentLogins,
    versions: [usize; LOGINS],
    access: LoginAccess,
    is_lenient: bool,
    secret: Option<Map<String, Value>>,
    cache: Cache,
    now: Instant,
    /// Passwords that the tenant has seen.
    seen: Vec<String>,
    /// Logins that the Secret has had since the rules allowed it.
    entitled: LoginSet,
}

impl World {
    fn new() -> Self {
        let mut cache = Cache::default();
        cache.begin();
        cache.end();
        Self {
            keyring: keyring(&[
                ("default", "r.example", "acme"),
                ("team-a", "r.example", "team/a"),
                ("team-b", "b.example", "team"),
            ]),
            current: CurrentLogins::unknown(LOGINS),
            versions: [0; LOGINS],
            access: LoginAccess::default(),
            is_lenient: false,
            secret: None,
            cache,
            now: Instant::now(),
            seen: Vec::new(),
            entitled: LoginSet::NONE,
        }
    }

    fn key(&self, index: usize) -> String {
        if index < LOGINS {
            self.keyring.key(index).to_owned()
        } else {
            OTHER_KEYS[(index - LOGINS) % OTHER_KEYS.len()].to_owned()
        }
    }

    fn happen(&mut self, event: &Event) {
        match event {
            Event::Allow(logins) => self.access.allowed = *logins,
            Event::Doubt(logins) => self.access.possible = *logins,
            Event::Use(logins) => self.access.used = *logins,
            Event::Rotate(index) => {
                self.versions[*index] += 1;
                let password = format!("real-{index}-{}", self.versions[*index]);
                self.current.set(*index, desired_login(&password));
            }
            Event::Plant(key, seen) => {
                let key = self.key(*key);
                let seen = seen.and_then(|index| self.seen.get(index % self.seen.len().max(1)));
                let password = seen.map_or("garbage", String::as_str);
                let login = login("u", password, None);
                self.secret.get_or_insert_default().insert(key, login);
            }
            Event::Remove(key) => {
                let key = self.key(*key);
                self.secret.as_mut().and_then(|secret| secret.remove(&key));
            }
            Event::Delete => self.secret = None,
            Event::Later => self.now += BARRED_FOR + Duration::from_secs(1),
            Event::Lenient(is_lenient) => self.is_lenient = *is_lenient,
        }
    }

    fn text(&self) -> Vec<u8> {
        let logins = self.secret.iter().collect::<Vec<_>>();
        json!({ "auths": logins.first() }).to_string().into_bytes()
    }

    fn store(&mut self) {
        match &self.secret {
            Some(_) => {
                let held = HeldLogins::of(&self.text());
                let secret = StoredSecret {
                    version: Version::default(),
                    state: State::Ours {
                        held,
                        is_immutable: false,
                    },
                };
                self.cache.insert(Arc::from(NAMESPACE), secret);
            }
            None => self.cache.clear(NAMESPACE),
        }
    }

    /// What a round does.
    fn reconcile(&mut self) {
        self.store();
        let desired = |cache: &Cache, now| {
            let record = cache.get(NAMESPACE);
            let overdue = record.map_or(LoginSet::NONE, |record| record.overdue(now));
            let unbroken = record.map_or(LoginSet::NONE, Record::unbroken);
            Desired {
                keyring: &self.keyring,
                current: &self.current,
                grants: Grants::of(&self.access, overdue, unbroken.and(one(DEFAULT))),
                is_lenient: self.is_lenient,
            }
        };
        let before = desired(&self.cache, self.now);
        if let Some(record) = self.cache.get_mut(NAMESPACE) {
            let held = record.secret.held().unwrap();
            let (present, barred) = (before.present(held), before.barred(held, &self.access));
            record.observe(present, self.access.allowed, barred, self.now);
        }
        let desired = desired(&self.cache, self.now);
        let record = self.cache.get(NAMESPACE);
        let Step::Write(_) = step(record.map(|record| &record.secret), &desired) else {
            return;
        };
        let unbroken = record.map_or(LoginSet::NONE, Record::unbroken);
        let stored = StoredLogins::of(&self.text());
        let configuration = desired.configuration(&stored);
        if let Some(held) = record.and_then(|record| record.secret.held())
            && !desired.needs_stored(held)
        {
            let same = desired.configuration(&StoredLogins::default());
            assert_eq!(same.held(), configuration.held());
        }
        let held = configuration.held();
        assert!(desired.is_met_by(&held), "one write is enough");
        let unbroken = desired
            .present(&held)
            .and(unbroken.or(desired.grants.granted));
        let text = STANDARD
            .decode(configuration.encoded().expose_secret())
            .unwrap();
        let config: Value = serde_json::from_slice(&text).unwrap();
        self.secret = Some(config["auths"].as_object().unwrap().clone());
        self.store();
        self.cache.record_unbroken(NAMESPACE, unbroken);
    }

    /// The passwords in the Secret by key.
    fn passwords(&self) -> Vec<(String, String)> {
        let entries = self.secret.iter().flatten();
        let entries = entries.map(|(key, login)| {
            let password = login["password"].as_str().unwrap();
            (key.clone(), password.to_owned())
        });
        entries.collect()
    }

    fn check(&mut self, before: &[(String, String)]) {
        let after = self.passwords();
        for (_, password) in &after {
            let Some(index) = login_of(password) else {
                continue;
            };
            if before.iter().any(|(_, old)| old == password) {
                continue;
            }
            let was_here = before
                .iter()
                .any(|(key, old)| *key == self.key(index) && login_of(old) == Some(index));
            let is_renewal = index == DEFAULT
                && was_here
                && self.entitled.contains(index)
                && self.access.needed().contains(index);
            assert!(
                self.access.allowed.contains(index) || is_renewal,
                "{password} was added: {:?}",
                self.access
            );
            self.seen.push(password.clone());
        }
        let here =
            (0..LOGINS).filter(|index| after.iter().any(|(key, _)| *key == self.key(*index)));
        let here: LoginSet = here.collect();
        self.entitled = self.entitled.or(self.access.allowed).and(here);
        if self.is_lenient {
            return;
        }
        for index in 0..LOGINS {
            if let Some(current) = self.current.get(index)
                && self.access.allowed.contains(index)
            {
                let found = self
                    .secret
                    .as_ref()
                    .and_then(|secret| secret.get(&self.key(index)));
                assert_eq!(found, Some(&current.value()), "it is granted");
            }
        }
    }

    /// After the time that removed logins stay, only those are there that something allows or needs.
    fn check_rest(&mut self) {
        self.is_lenient = false;
        self.reconcile();
        self.happen(&Event::Later);
        self.reconcile();
        for (key, password) in self.passwords() {
            let needed = self.access.needed();
            if let Some(index) = (0..LOGINS).find(|index| self.key(*index) == key) {
                assert!(needed.contains(index), "{key} stays");
            }
            let owners = self.current.of(desired_login(&password).fingerprint());
            assert!(
                owners.is_empty() || !owners.and(needed).is_empty(),
                "{password} stays under {key}"
            );
        }
    }
}

/// The login with this password, if it is real.
fn login_of(password: &str) -> Option<usize> {
    let (index, _) = password.strip_prefix("real-")?.split_once('-')?;
    index.parse().ok()
}

fn any_logins() -> impl Strategy<Value = LoginSet> {
    prop::collection::vec(0..LOGINS, 0..=LOGINS).prop_map(|logins| logins.into_iter().collect())
}

fn any_event() -> impl Strategy<Value = Event> {
    let key = || 0..LOGINS + OTHER_KEYS.len();
    prop_oneof![
        4 => any_logins().prop_map(Event::Allow),
        1 => any_logins().prop_map(Event::Doubt),
        3 => any_logins().prop_map(Event::Use),
        4 => (0..LOGINS).prop_map(Event::Rotate),
        3 => (key(), prop::option::weighted(0.8, 0..100_usize)).prop_map(|(key, seen)| Event::Plant(key, seen)),
        1 => key().prop_map(Event::Remove),
        1 => Just(Event::Delete),
        2 => Just(Event::Later),
        1 => any::<bool>().prop_map(Event::Lenient),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn no_secret_gets_a_login_that_it_may_not_have(events in prop::collection::vec(any_event(), 1..40)) {
        let mut world = World::new();
        for event in &events {
            world.happen(event);
            let before = world.passwords();
            world.reconcile();
            world.check(&before);
        }
        world.check_rest();
    }
}

fn after(events: &[Event]) -> Vec<(String, String)> {
    let mut world = World::new();
    for event in events {
        world.happen(event);
        world.reconcile();
    }
    let mut passwords = world.passwords();
    passwords.retain(|(_, password)| password != "garbage");
    passwords
}

fn one(index: usize) -> LoginSet {
    LoginSet::one(index)
}

fn entry(key: &str, password: &str) -> (String, String) {
    (key.to_owned(), password.to_owned())
}

#[test]
fn a_login_leaves_with_its_rule_after_a_while() {
    let moved = [
        Event::Rotate(0),
        Event::Rotate(1),
        Event::Allow(one(0)),
        Event::Allow(one(1)),
    ];
    let both = [
        entry("r.example", "real-0-1"),
        entry("r.example/team/a", "real-1-1"),
    ];
    assert_eq!(after(&moved), both);
    assert_eq!(after(&[&moved[..], &[Event::Later]].concat()), both[1..]);
}

/// A tenant who stores other values must not extend the time.
#[test]
fn each_login_leaves_after_its_own_time() {
    let mut world = World::new();
    for event in [
        Event::Rotate(0),
        Event::Rotate(2),
        Event::Allow(one(0)),
        Event::Allow(one(1)),
    ] {
        world.happen(&event);
        world.reconcile();
    }
    world.seen.push("real-2-1".to_owned());
    let minute = Duration::from_mins(1);
    for minutes in 0..11 {
        // Another set of logins that nothing needs, each minute.
        let planted = if minutes % 2 == 0 { Some(0) } else { None };
        world.happen(&Event::Plant(3, planted));
        world.now += minute;
        world.reconcile();
    }
    let keys: Vec<_> = world.passwords().into_iter().map(|(key, _)| key).collect();
    assert!(!keys.contains(&"r.example".to_owned()), "{keys:?}");
}

#[test]
fn old_copies_keep_a_current_login() {
    let used = [
        Event::Rotate(0),
        Event::Allow(one(0)),
        Event::Use(one(0)),
        Event::Allow(LoginSet::NONE),
        Event::Later,
        Event::Rotate(0),
    ];
    assert_eq!(after(&used), [entry("r.example", "real-0-2")]);
    let unused = [Event::Use(LoginSet::NONE), Event::Later];
    assert!(after(&[&used[..], &unused].concat()).is_empty());
}

/// Rotation ends the access of a namespace that had the login of a team.
#[test]
fn old_copies_of_a_team_keep_their_login_as_it_is() {
    let used = [
        Event::Rotate(1),
        Event::Allow(one(1)),
        Event::Use(one(1)),
        Event::Allow(LoginSet::NONE),
        Event::Rotate(1),
        Event::Later,
        Event::Rotate(1),
    ];
    assert_eq!(after(&used), [entry("r.example/team/a", "real-1-1")]);
    let unused = [Event::Use(LoginSet::NONE), Event::Later];
    assert!(after(&[&used[..], &unused].concat()).is_empty());
}

/// The tenant creates Pods with images of another team, and stores something under the key of that team.
#[test]
fn the_use_of_images_is_no_way_to_a_login() {
    let foreign = [
        Event::Rotate(2),
        Event::Use(one(2)),
        Event::Plant(2, None),
        Event::Rotate(2),
        Event::Later,
    ];
    assert!(after(&foreign).is_empty());
}

/// Rotation ends the access of those who know the former password.
#[test]
fn an_old_password_is_no_way_to_a_new_one() {
    let mut world = World::new();
    for event in [Event::Rotate(2), Event::Allow(one(2))] {
        world.happen(&event);
        world.reconcile();
    }
    world.seen.push("real-2-1".to_owned());
    for event in [
        Event::Allow(LoginSet::NONE),
        Event::Later,
        Event::Use(one(2)),
        Event::Plant(2, Some(0)),
        Event::Rotate(2),
    ] {
        world.happen(&event);
        world.reconcile();
    }
    assert_eq!(world.passwords(), [entry("b.example/team", "real-2-1")]);
}

#[test]
fn logins_under_other_keys_leave_too() {
    let mut world = World::new();
    for event in [Event::Rotate(2), Event::Allow(one(2))] {
        world.happen(&event);
        world.reconcile();
    }
    // The backup had another location before, and the logins of others stay.
    let secret = world.secret.get_or_insert_default();
    secret.insert("old.example".to_owned(), login("u", "real-2-1", None));
    secret.insert("other.example".to_owned(), login("u", "theirs", None));
    for event in [Event::Allow(LoginSet::NONE), Event::Later] {
        world.happen(&event);
        world.reconcile();
    }
    assert_eq!(world.passwords(), [entry("other.example", "theirs")]);
}

#[test]
fn the_login_of_a_broken_source_does_not_block_others() {
    let desired = |granted: LoginSet, world: &World| {
        let grants = Grants {
            granted,
            ..Grants::default()
        };
        let desired = Desired {
            keyring: &world.keyring,
            current: &world.current,
            grants,
            is_lenient: false,
        };
        (desired.can_create(), desired.lacks_credentials(None))
    };
    let mut world = World::new();
    world.happen(&Event::Rotate(1));
    assert_eq!(desired(one(1), &world), (true, false));
    assert_eq!(desired(one(1).or(one(2)), &world), (true, false));
    assert_eq!(desired(one(2), &world), (false, true));
    // Of the default backup, as without others.
    assert_eq!(desired(one(0).or(one(1)), &world), (true, true));
    assert_eq!(desired(LoginSet::NONE, &world), (false, false));
}

#[test]
fn logins_that_do_not_fit_are_left_out() {
    let mut world = World::new();
    for index in 0..LOGINS {
        let password = index.to_string().repeat(60_000);
        world.current.set(index, desired_login(&password));
    }
    let desired = Desired {
        keyring: &world.keyring,
        current: &world.current,
        grants: Grants {
            granted: LoginSet::ALL,
            ..Grants::default()
        },
        is_lenient: false,
    };
    assert_eq!(desired.left_out(), 1);
    let held = desired.configuration(&StoredLogins::default()).held();
    assert_eq!(held.iter().count(), 2);
    assert!(desired.is_met_by(&held));
}
