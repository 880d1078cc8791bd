//! How many copies are made at the same time, in all and from one registry, and whose turn is next.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::{Priority, Task};

/// One place in so many is kept for images in use, so that what anybody asks for never takes them all. Without a cluster
/// nothing is in use, and nothing is kept.
const KEPT_ONE_IN: usize = 4;

/// The places for copies. A registry gets about half of them: one that is slow, limits its clients or is gone must not
/// keep the images of all others from being copied. If there are two, one is never given to an image in use: a workload
/// that is being admitted right now must not wait behind all that a cluster runs.
pub(super) struct Places {
    all: usize,
    state: Mutex<State>,
}

/// Who waits in which line. Images in use and asked ones take turns; of those in use, lost copies come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Line {
    /// The copy of an image in use is gone.
    Repair,
    /// An image in use.
    InUse,
    /// Somebody asked for it.
    Asked,
}

#[derive(Default)]
struct State {
    taken: Taken,
    next_number: u64,
    /// Whether anything was ever in use.
    is_any_in_use: bool,
    /// Whether an image in use got a place last, so that it is an asked one's turn.
    was_in_use: bool,
    /// Only registries of which something is copied or waits.
    hosts: HashMap<String, Host>,
}

#[derive(Default)]
struct Host {
    taken: Taken,
    waiting: BTreeMap<Ticket, oneshot::Sender<()>>,
}

/// Places that are taken.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Taken {
    in_use: usize,
    asked: usize,
}

/// Whoever came first in a line is the first of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ticket {
    line: Line,
    number: u64,
}

/// A place that was taken, or is waited for; dropping it gives it back.
pub(super) struct Place<'a> {
    places: &'a Places,
    host: &'a str,
    ticket: Ticket,
}

impl Line {
    /// The line for this task.
    pub(super) fn of(priority: Priority, task: Task) -> Self {
        match (priority, task) {
            (Priority::Asked, _) => Self::Asked,
            (Priority::InUse, Task::Restore) => Self::Repair,
            (Priority::InUse, Task::Copy | Task::Update) => Self::InUse,
        }
    }

    fn is_in_use(self) -> bool {
        self != Self::Asked
    }
}

impl Places {
    pub(super) fn new(all: NonZeroUsize) -> Self {
        Self {
            all: all.get(),
            state: Mutex::default(),
        }
    }

    /// Waits for a place for a copy from the registry `host`.
    pub(super) async fn take<'a>(&'a self, host: &'a str, line: Line) -> Place<'a> {
        let (turn, place) = self.enter(host, line);
        // The sender stays until it is this one's turn.
        let _ = turn.await;
        place
    }

    fn enter<'a>(&'a self, host: &'a str, line: Line) -> (oneshot::Receiver<()>, Place<'a>) {
        let (wake, turn) = oneshot::channel();
        let mut state = self.state();
        let number = state.next_number;
        state.next_number += 1;
        let ticket = Ticket { line, number };
        state.is_any_in_use |= line.is_in_use();
        let entry = state.hosts.entry(host.to_owned()).or_default();
        entry.waiting.insert(ticket, wake);
        // Nobody else's turn has come by that: whoever waits does so for a place that this one cannot give.
        let limits = state.limits(self.all);
        let is_first = state.hosts.get(host).is_some_and(|entry| {
            entry.first(line.is_in_use()) == Some(ticket)
                && limits.admit(line, state.taken, entry.taken)
        });
        if is_first {
            state.admit(host, ticket);
        }
        let place = Place {
            places: self,
            host,
            ticket,
        };
        (turn, place)
    }

    /// Whether nobody has a place or waits for one.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let state = self.state();
        state.taken == Taken::default() && state.hosts.is_empty()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Lets one in.
    fn admit(&mut self, name: &str, ticket: Ticket) {
        let Some(host) = self.hosts.get_mut(name) else {
            return;
        };
        if let Some(wake) = host.waiting.remove(&ticket) {
            // If it stopped waiting, dropping its place gives it back.
            let _ = wake.send(());
            host.taken.add(ticket.line);
            self.taken.add(ticket.line);
            self.was_in_use = ticket.line.is_in_use();
        }
    }

    /// Who is next of all that may have a place now.
    fn next(&self, all: usize) -> Option<(String, Ticket)> {
        let limits = self.limits(all);
        let first = |is_in_use| {
            let first = self.hosts.iter().filter_map(|(name, host)| {
                let ticket = host.first(is_in_use)?;
                let may_enter = limits.admit(ticket.line, self.taken, host.taken);
                may_enter.then_some((ticket, name))
            });
            first.min()
        };
        let is_their_turn = !self.was_in_use;
        let (ticket, name) = first(is_their_turn).or_else(|| first(!is_their_turn))?;
        Some((name.clone(), ticket))
    }

    fn limits(&self, all: usize) -> Limits {
        let kept = if self.is_any_in_use {
            all / KEPT_ONE_IN
        } else {
            0
        };
        let reserved = usize::from(all > 1);
        let half = all.div_ceil(2);
        let of_host = (all - reserved).max(1);
        Limits {
            all,
            in_use: all - reserved,
            asked: all - kept,
            of_host,
            // Also of one registry there is a place for each sort, if it may have two.
            in_use_of_host: (half + kept).min(of_host.saturating_sub(reserved)).max(1),
            asked_of_host: half,
        }
    }
}

impl Host {
    /// The first in line of a sort.
    fn first(&self, is_in_use: bool) -> Option<Ticket> {
        let from = |line| Ticket { line, number: 0 };
        let mut line = if is_in_use {
            self.waiting.range(..from(Line::Asked))
        } else {
            self.waiting.range(from(Line::Asked)..)
        };
        line.next().map(|(ticket, _)| *ticket)
    }
}

impl Taken {
    fn add(&mut self, line: Line) {
        *self.of(line) += 1;
    }

    fn give_back(&mut self, line: Line) {
        let taken = self.of(line);
        *taken = taken.saturating_sub(1);
    }

    fn of(&mut self, line: Line) -> &mut usize {
        if line.is_in_use() {
            &mut self.in_use
        } else {
            &mut self.asked
        }
    }

    fn sum(self) -> usize {
        self.in_use + self.asked
    }
}

/// How many places may be taken: in all, of each sort, of one registry.
#[derive(Clone, Copy)]
struct Limits {
    all: usize,
    in_use: usize,
    asked: usize,
    of_host: usize,
    in_use_of_host: usize,
    asked_of_host: usize,
}

impl Limits {
    /// Whether one of this line may enter, if so many places are taken in all and of its registry.
    fn admit(self, line: Line, taken: Taken, of_host: Taken) -> bool {
        let is_any_free = taken.sum() < self.all && of_host.sum() < self.of_host;
        is_any_free
            && if line.is_in_use() {
                taken.in_use < self.in_use && of_host.in_use < self.in_use_of_host
            } else {
                taken.asked < self.asked && of_host.asked < self.asked_of_host
            }
    }
}

impl Place<'_> {
    /// Whether images of other registries wait that could have this place.
    pub(super) fn others_wait(&self) -> bool {
        let state = self.places.state();
        let limits = state.limits(self.places.all);
        let mut taken = state.taken;
        taken.give_back(self.ticket.line);
        let mut others = state.hosts.iter().filter(|(name, _)| *name != self.host);
        others.any(|(_, other)| {
            let first = [true, false].map(|is_in_use| other.first(is_in_use));
            let may_enter = |ticket: &Ticket| limits.admit(ticket.line, taken, other.taken);
            first.iter().flatten().any(may_enter)
        })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.places.state();
        let Some(host) = state.hosts.get_mut(self.host) else {
            return;
        };
        let was_waiting = host.waiting.remove(&self.ticket).is_some();
        if !was_waiting {
            host.taken.give_back(self.ticket.line);
        }
        if host.taken.sum() == 0 && host.waiting.is_empty() {
            state.hosts.remove(self.host);
        }
        if !was_waiting {
            state.taken.give_back(self.ticket.line);
            let all = self.places.all;
            while let Some((host, ticket)) = state.next(all) {
                state.admit(&host, ticket);
            }
        }
    }
}
