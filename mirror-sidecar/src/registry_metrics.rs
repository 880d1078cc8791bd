//! Metrics of the requests to each registry.
//!
//! Users who create Pods can invent registries, so not every host gets a label value of its own: the backups do, then the
//! registries of most images in use, up to [`MAX_NAMED`]. All others share the value `other`. A host that has a value keeps
//! it, since rates cannot be derived from a counter that comes and goes.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mirror_copy::{Registries, Registry, Traffic};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use crate::metrics::Metrics;

/// Hosts with a label value of their own. Most clusters use fewer; each costs two series.
const MAX_NAMED: usize = 20;

/// The label value of all other hosts. It has neither dot nor port, so it is never the name of a registry.
const OTHER: &str = "other";

type HostLabel = [(&'static str, String); 1];

/// Returns the hosts of the images in use, the most used first.
type UsedHosts = dyn Fn() -> Vec<String> + Send + Sync;

/// The metrics of registries. Clones share them.
#[derive(Clone)]
pub struct RegistryMetrics(Arc<Inner>);

struct Inner {
    requests: Family<HostLabel, Counter>,
    pauses: Family<HostLabel, Counter>,
    hosts: Mutex<Hosts>,
}

#[derive(Default)]
struct Hosts {
    sets: Vec<Registries>,
    /// The hosts of backups, which do not count for [`MAX_NAMED`].
    backups: usize,
    named: BTreeMap<String, Named>,
    /// Of former sets.
    carried: Traffic,
    used: Option<Box<UsedHosts>>,
}

/// A host with a label value of its own.
struct Named {
    /// One of each set. They keep the counters alive.
    registries: Vec<Registry>,
    /// Counted as `other` before the host had its own value.
    before: Traffic,
    /// Of former sets.
    carried: Traffic,
}

impl RegistryMetrics {
    pub fn register(metrics: &mut Metrics) -> Self {
        let inner = Inner {
            requests: metrics.register(
                "registry_requests",
                "HTTP requests to a registry and its token service",
                Family::default(),
            ),
            pauses: metrics.register(
                "registry_pauses",
                "Pauses that a registry requested",
                Family::default(),
            ),
            hosts: Mutex::default(),
        };
        inner.show(OTHER, Traffic::default());
        let this = Self(Arc::new(inner));
        let shared = this.clone();
        metrics.before_encoding(move || shared.0.update());
        this
    }

    /// Counts the requests to the registries of `sets` instead of those of the sets before, and those to the hosts of
    /// `backups` by their names.
    pub fn follow<'b>(&self, backups: impl IntoIterator<Item = &'b str>, sets: Vec<Registries>) {
        let mut hosts = self.0.hosts();
        hosts.replace_sets(sets);
        for backup in backups {
            hosts.backups += usize::from(hosts.name(backup));
        }
    }

    /// Gives label values to the hosts that `used` returns, the most used first. It is called before each encoding.
    pub fn name_used_hosts(&self, used: impl Fn() -> Vec<String> + Send + Sync + 'static) {
        self.0.hosts().used = Some(Box::new(used));
    }
}

impl Inner {
    fn update(&self) {
        let mut hosts = self.hosts();
        hosts.name_used();
        let mut named = Traffic::default();
        for (name, host) in &hosts.named {
            let traffic = host.traffic();
            named = plus(named, traffic);
            self.show(name, traffic);
        }
        // Read after the named hosts, so that it is never less than their sum.
        let all = hosts.traffic();
        self.show(OTHER, minus(all, named));
    }

    fn show(&self, host: &str, Traffic { requests, pauses }: Traffic) {
        let label = [("host", host.to_owned())];
        for (family, value) in [(&self.requests, requests), (&self.pauses, pauses)] {
            // A counter must not decrease; requests may have been sent between two readings.
            let counter = family.get_or_create(&label);
            counter.inner().fetch_max(value, Ordering::Relaxed);
        }
    }

    fn hosts(&self) -> MutexGuard<'_, Hosts> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Named {
    fn traffic(&self) -> Traffic {
        plus(self.carried, minus(total(&self.registries), self.before))
    }
}

impl Hosts {
    fn traffic(&self) -> Traffic {
        let all = self.sets.iter().map(Registries::traffic);
        all.fold(self.carried, plus)
    }

    fn replace_sets(&mut self, sets: Vec<Registries>) {
        self.carried = self.traffic();
        self.sets = sets;
        for (name, host) in &mut self.named {
            let carried = host.traffic();
            let registries: Vec<_> = self
                .sets
                .iter()
                .filter_map(|set| set.get(name).ok())
                .collect();
            *host = Named {
                before: total(&registries),
                registries,
                carried,
            };
        }
    }

    fn is_full(&self) -> bool {
        self.named.len() >= MAX_NAMED + self.backups
    }

    fn name_used(&mut self) {
        if self.is_full() {
            return;
        }
        let used = self.used.as_ref().map(|used| used());
        for host in used.unwrap_or_default() {
            if self.is_full() {
                return;
            }
            self.name(&host);
        }
    }

    /// Returns whether the host had no value of its own before.
    fn name(&mut self, host: &str) -> bool {
        let registries = self.sets.iter().filter_map(|set| set.get(host).ok());
        let registries: Vec<_> = registries.collect();
        let Some(first) = registries.first() else {
            return false;
        };
        let name = first.host().to_owned();
        let is_new = !self.named.contains_key(&name);
        self.named.entry(name).or_insert_with(|| Named {
            before: total(&registries),
            registries,
            carried: Traffic::default(),
        });
        is_new
    }
}

fn total(registries: &[Registry]) -> Traffic {
    let traffic = registries.iter().map(Registry::traffic);
    traffic.fold(Traffic::default(), plus)
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

#[cfg(test)]
mod tests;
