//! Figures about what each registry was asked for.
//!
//! Whoever creates a Pod can invent a registry, so not every host gets a label of its own: the backup does, then those from
//! which most of the images in use come, up to [`MAX_NAMED`], and all others are one, `other`. A host that was named once
//! stays named, since a counter that comes and goes tells nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mirror_copy::{Registries, Registry as Host, Traffic};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::Metrics;

/// Hosts with a label of their own. Most clusters use fewer; each costs two lines.
const MAX_NAMED: usize = 20;

/// The label of all other hosts; never a registry's name, since it has neither dot nor port.
const OTHER: &str = "other";

type HostLabel = [(&'static str, String); 1];

/// Gives the hosts of the images in use, the most used first.
type UsedHosts = dyn Fn() -> Vec<String> + Send + Sync;

#[derive(Default)]
pub(super) struct Hosts {
    requests: Family<HostLabel, Counter>,
    pauses: Family<HostLabel, Counter>,
    followed: Mutex<Followed>,
}

#[derive(Default)]
struct Followed {
    sets: Vec<Registries>,
    named: BTreeMap<String, Named>,
    used: Option<Box<UsedHosts>>,
}

/// A host with a label of its own.
struct Named {
    /// One of each set. Holding them keeps their counters.
    hosts: Vec<Host>,
    /// What was counted as `other` before it was named.
    before: Traffic,
}

impl Metrics {
    /// Shows what the registries of `sets` are asked for, that of the backup at `backup` by its name.
    pub fn follow_registries(&self, backup: &str, sets: Vec<Registries>) {
        let mut followed = self.0.hosts.followed();
        followed.sets = sets;
        followed.name(backup);
    }

    /// Shows registries by name that `used` gives, the most used first. It is asked whenever the figures are.
    pub fn name_used_hosts(&self, used: impl Fn() -> Vec<String> + Send + Sync + 'static) {
        self.0.hosts.followed().used = Some(Box::new(used));
    }
}

impl Hosts {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let hosts = Self::default();
        registry.register(
            "registry_requests",
            "HTTP requests to a registry, with those to its token service",
            hosts.requests.clone(),
        );
        registry.register(
            "registry_pauses",
            "Pauses that a registry asked for",
            hosts.pauses.clone(),
        );
        hosts.show(OTHER, Traffic::default());
        hosts
    }

    /// Brings the figures up to date.
    pub(super) fn update(&self) {
        let mut followed = self.followed();
        followed.name_used();
        let mut others = Traffic::default();
        let mut named = Traffic::default();
        for (name, host) in &followed.named {
            let traffic = minus(host.total(), host.before);
            named = plus(named, traffic);
            self.show(name, traffic);
        }
        // After the parts, so that it is never less than they are together.
        for set in &followed.sets {
            others = plus(others, set.traffic());
        }
        self.show(OTHER, minus(others, named));
    }

    fn show(&self, host: &str, Traffic { requests, pauses }: Traffic) {
        let label = [("host", host.to_owned())];
        for (family, value) in [(&self.requests, requests), (&self.pauses, pauses)] {
            // Requests go on between two looks; a counter must not go back.
            let counter = family.get_or_create(&label);
            counter.inner().fetch_max(value, Ordering::Relaxed);
        }
    }

    fn followed(&self) -> MutexGuard<'_, Followed> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Followed {
    fn name_used(&mut self) {
        // The backup has a place besides.
        if self.named.len() > MAX_NAMED {
            return;
        }
        let used = self.used.as_ref().map(|used| used());
        for host in used.unwrap_or_default() {
            if self.named.len() > MAX_NAMED {
                return;
            }
            self.name(&host);
        }
    }

    fn name(&mut self, host: &str) {
        let hosts: Vec<_> = self
            .sets
            .iter()
            .filter_map(|set| set.get(host).ok())
            .collect();
        let Some(first) = hosts.first() else {
            return;
        };
        let name = first.host().to_owned();
        self.named.entry(name).or_insert_with(|| {
            let mut named = Named {
                hosts,
                before: Traffic::default(),
            };
            named.before = named.total();
            named
        });
    }
}

impl Named {
    fn total(&self) -> Traffic {
        let traffic = self.hosts.iter().map(Host::traffic);
        traffic.fold(Traffic::default(), plus)
    }
}

impl fmt::Debug for Hosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hosts").finish_non_exhaustive()
    }
}

fn plus(a: Traffic, b: Traffic) -> Traffic {
    Traffic {
        requests: a.requests.saturating_add(b.requests),
        pauses: a.pauses.saturating_add(b.pauses),
    }
}

fn minus(a: Traffic, b: Traffic) -> Traffic {
    Traffic {
        requests: a.requests.saturating_sub(b.requests),
        pauses: a.pauses.saturating_sub(b.pauses),
    }
}
