//! Which original is looked up next. Pure rules: the caller carries them out.
//!
//! Anybody who may create workloads chooses registries that respond slowly, under any number of names. So lookups of
//! originals in use come before others, registrable domains take turns, and one that did not respond waits behind all others.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::copy_queue::Class;

/// Concurrent lookups.
pub(super) const MAX_RUNNING: usize = 32;

/// Concurrent lookups in one registrable domain.
const MAX_OF_DOMAIN: usize = 8;

/// Lookups that only domains that have responded before may use.
const KEPT_FOR_PROVEN: usize = 8;

/// Part of these limits for originals that are not known to be in use.
const UNUSED_PART: usize = 2;

/// Lookups that wait, at about 300 bytes each.
pub(super) const MAX_WAITING: usize = 512;

/// A lookup that waits or runs.
#[derive(Clone, Debug)]
pub(super) struct Request {
    /// The registrable domain of the original's registry.
    pub(super) domain: Arc<str>,
    pub(super) class: Class,
    pub(super) is_in_use: bool,
}

/// The lookups that wait and those that run.
#[derive(Debug, Default)]
pub(super) struct Turns {
    waiting: BTreeMap<u64, Request>,
    running: BTreeMap<u64, Request>,
    /// When each domain with lookups was last served or began to wait; the lowest is next.
    domains: BTreeMap<Arc<str>, u64>,
    last_number: u64,
}

/// The order without turns, most significant first. The lowest is next, and the highest gives way when too many wait.
type Priority = (bool, bool, bool);

impl Turns {
    /// Adds a lookup. Returns its id, and that of the one that gives way to it; `None` if too many wait that come before it.
    pub(super) fn add(&mut self, request: Request) -> Option<(u64, Option<u64>)> {
        let displaced = if self.waiting.len() < MAX_WAITING {
            None
        } else {
            let new = (request.priority(), self.waiting_of(&request.domain) + 1);
            let (last, id) = self.last()?;
            if new >= last {
                return None;
            }
            self.remove(id);
            Some(id)
        };
        self.last_number += 1;
        let id = self.last_number;
        self.domains
            .entry(Arc::clone(&request.domain))
            .or_insert(id);
        self.waiting.insert(id, request);
        Some((id, displaced))
    }

    /// The next lookup that may run, which runs from now on.
    pub(super) fn start_next(&mut self) -> Option<u64> {
        let waiting = self.waiting.iter();
        let admitted = waiting.filter(|(_, request)| self.admits(request));
        let next = admitted.min_by_key(|(id, request)| {
            let running = self.running_of(|other| other.domain == request.domain);
            let turn = self.domains.get(&request.domain);
            (request.priority(), running, turn, **id)
        });
        let id = *next?.0;
        let request = self.waiting.remove(&id)?;
        self.last_number += 1;
        self.domains
            .insert(Arc::clone(&request.domain), self.last_number);
        self.running.insert(id, request);
        Some(id)
    }

    /// Removes a lookup that ended, or that nobody waits for any more.
    pub(super) fn remove(&mut self, id: u64) {
        let removed = self
            .waiting
            .remove(&id)
            .or_else(|| self.running.remove(&id));
        if let Some(Request { domain, .. }) = removed {
            let is_same = |request: &Request| request.domain == domain;
            if !self.waiting.values().any(is_same) && !self.running.values().any(is_same) {
                self.domains.remove(&domain);
            }
        }
    }

    /// The lookup that gives way first, with its priority and the number of its domain that wait.
    fn last(&self) -> Option<((Priority, usize), u64)> {
        let mut of_domains: BTreeMap<&str, usize> = BTreeMap::new();
        for request in self.waiting.values() {
            *of_domains.entry(&request.domain).or_default() += 1;
        }
        let waiting = self.waiting.iter().map(|(id, request)| {
            let of_domain = of_domains.get(&*request.domain).copied();
            ((request.priority(), of_domain.unwrap_or_default()), *id)
        });
        waiting.max()
    }

    fn admits(&self, request: &Request) -> bool {
        let part = if request.is_in_use { 1 } else { UNUSED_PART };
        // Lookups without priority take nothing from those with it.
        let counts = |other: &Request| request.is_in_use || !other.is_in_use;
        let all = self.running_of(counts);
        let of_domain = self.running_of(|other| counts(other) && other.domain == request.domain);
        let unproven = self.running_of(|other| other.class != Class::Proven);
        self.running.len() < MAX_RUNNING
            && all < MAX_RUNNING / part
            && of_domain < MAX_OF_DOMAIN / part
            && (request.class == Class::Proven || unproven < MAX_RUNNING - KEPT_FOR_PROVEN)
    }

    fn running_of(&self, is_counted: impl Fn(&Request) -> bool) -> usize {
        self.running.values().filter(|it| is_counted(it)).count()
    }

    fn waiting_of(&self, domain: &str) -> usize {
        let waiting = self.waiting.values();
        waiting.filter(|request| *request.domain == *domain).count()
    }
}

impl Request {
    fn priority(&self) -> Priority {
        (
            !self.is_in_use,
            self.class == Class::Penalized,
            self.class != Class::Proven,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(domain: &str, class: Class, is_in_use: bool) -> Request {
        Request {
            domain: domain.into(),
            class,
            is_in_use,
        }
    }

    /// Adds lookups at `name(number)`, and starts all that may run.
    fn add(turns: &mut Turns, count: usize, is_in_use: bool, name: impl Fn(usize) -> String) {
        for number in 0..count {
            let _ = turns.add(request(&name(number), Class::Untried, is_in_use));
        }
        while turns.start_next().is_some() {}
    }

    /// Adds a lookup; returns after how many lookups that end it starts.
    fn turns_until_started(turns: &mut Turns, request: Request) -> Option<usize> {
        let (id, _) = turns.add(request)?;
        for ended in 0..MAX_WAITING {
            while turns.start_next().is_some() {}
            if turns.running.contains_key(&id) {
                return Some(ended);
            }
            let first = *turns.running.first_key_value()?.0;
            turns.remove(first);
        }
        None
    }

    #[test]
    fn originals_not_in_use_have_a_part_of_the_room_whatever_their_names() {
        for name in [
            |_| "evil.io".to_owned(),
            |number| format!("evil{number}.io"),
        ] {
            let mut turns = Turns::default();
            add(&mut turns, 2_000, false, name);
            assert!(turns.running.len() <= MAX_RUNNING / UNUSED_PART);
            assert!(turns.waiting.len() >= MAX_WAITING - MAX_RUNNING);
            let honest = request("good.io", Class::Untried, true);
            assert_eq!(turns_until_started(&mut turns, honest), Some(0));
        }
    }

    #[test]
    fn domains_take_turns() {
        let mut turns = Turns::default();
        add(&mut turns, 2_000, true, |_| "evil.io".to_owned());
        assert_eq!(turns.running.len(), MAX_OF_DOMAIN);
        for number in 0..MAX_RUNNING {
            let honest = request(&format!("good{number}.io"), Class::Untried, true);
            let turns = turns_until_started(&mut turns, honest);
            assert!(turns.is_some_and(|turns| turns <= 2), "{turns:?}");
        }
    }

    /// They cannot fill the room of domains that respond, nor the places of those that wait.
    #[test]
    fn domains_that_respond_come_before_any_number_of_others() {
        let mut turns = Turns::default();
        add(&mut turns, 2_000, true, |number| format!("evil{number}.io"));
        assert_eq!(turns.running.len(), MAX_RUNNING - KEPT_FOR_PROVEN);
        let proven = request("good.io", Class::Proven, true);
        assert_eq!(turns_until_started(&mut turns, proven), Some(0));
        let mut turns = Turns::default();
        for number in 0..MAX_WAITING {
            let slow = request(&format!("evil{number}.io"), Class::Penalized, true);
            let _ = turns.add(slow);
        }
        while turns.start_next().is_some() {}
        let new = request("good.io", Class::Untried, true);
        assert_eq!(turns_until_started(&mut turns, new), Some(1));
    }

    #[test]
    fn the_domain_with_the_most_that_wait_gives_way() {
        let mut turns = Turns::default();
        for number in 0..MAX_WAITING {
            let name = if number < 10 { "small.io" } else { "large.io" };
            let _ = turns.add(request(name, Class::Untried, true));
        }
        let one_more = |name| request(name, Class::Untried, true);
        assert!(turns.add(one_more("large.io")).is_none());
        let (_, displaced) = turns.add(one_more("new.io")).unwrap();
        assert_eq!(displaced, Some(MAX_WAITING as u64), "the youngest");
        assert_eq!(turns.waiting_of("small.io"), 10);
        let other = request("other.io", Class::Untried, false);
        assert!(turns.add(other).is_none(), "all that wait are in use");
    }

    #[test]
    fn nothing_leaks() {
        let mut turns = Turns::default();
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..2_000 {
            let domain = format!("r{}.io", random.u32(0..700));
            let classes = [Class::Proven, Class::Untried, Class::Penalized];
            let class = classes[random.usize(0..3)];
            let _ = turns.add(request(&domain, class, random.bool()));
            let _ = turns.start_next();
            assert!(turns.waiting.len() <= MAX_WAITING && turns.running.len() <= MAX_RUNNING);
            if random.bool() {
                let ids = turns.running.keys().chain(turns.waiting.keys());
                let ids: Vec<_> = ids.copied().collect();
                turns.remove(ids[random.usize(0..ids.len())]);
            }
        }
        for id in 0..=turns.last_number {
            turns.remove(id);
        }
        assert!(turns.domains.is_empty());
    }
}
