//! The Secrets of one name in all namespaces, from the watch and our own writes.
//!
//! Of each Secret, only its owner, its version and the hashes of its logins are kept.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use tokio::time::Instant;

use super::dockerconfigjson::HeldLogins;
use crate::cluster::api_response::is_envelope;
use crate::cluster::json_fields::{field, flag, object_meta, text};
use crate::cluster::json_filter::Keep;
use crate::cluster::login_access::LoginSet;

/// The label of all Secrets that are managed here, and its value.
pub(super) const LABEL: &str = "app.kubernetes.io/managed-by";
pub(super) const MANAGER: &str = "image-mirror";
/// The type that kubelets read logins from.
pub(super) const TYPE: &str = "kubernetes.io/dockerconfigjson";
/// The key of the logins in such a Secret.
pub(super) const KEY: &str = ".dockerconfigjson";

/// Longest content of a Secret that is read, in Base64: a few logins, whose tokens have some thousand bytes. Longer content
/// counts as empty.
const MAX_CONTENT: usize = 512 * 1024;
/// How long a Secret that no workload names is kept. A tool that deletes a workload and creates it again takes minutes,
/// short-lived Pods need not wait for it each time, and a workload that is being admitted may name it in a moment.
pub(super) const IDLE_FOR: Duration = Duration::from_hours(1);

/// How long a login stays after the rules allowed it last and a workload needed it last. After an edit of a policy, policy
/// servers follow the older rules until all of them have restarted.
pub(super) const BARRED_FOR: Duration = Duration::from_mins(10);

/// The Secrets by namespace. Their number is that of the cluster; requests do not add any.
#[derive(Debug, Default)]
pub(super) struct Cache {
    records: BTreeMap<Arc<str>, Record>,
    epoch: u32,
    is_listed: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Record {
    pub secret: StoredSecret,
    /// Since when no workload names it.
    pub idle_since: Option<Instant>,
    /// Logins that nothing allows or needs, and since when. The oldest are first.
    barred: Vec<(LoginSet, Instant)>,
    /// Logins that it has had since the rules allowed them, as far as this process has seen. Nobody else added them meanwhile.
    unbroken: LoginSet,
    /// The last list that contained it.
    epoch: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StoredSecret {
    pub version: Version,
    pub state: State,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Version {
    pub uid: Box<str>,
    pub resource_version: Box<str>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Not managed here.
    Foreign,
    /// Managed here, and deleted as soon as its finalizers are gone.
    Leaving,
    /// Managed here, and of a type that kubelets do not read; the type of a Secret cannot change.
    WrongType,
    Ours {
        held: HeldLogins,
        is_immutable: bool,
    },
}

/// A Secret as the API server returns it.
#[derive(Clone, Debug)]
pub(super) struct SecretObject {
    metadata: ObjectMeta,
    secret: StoredSecret,
}

impl Cache {
    /// Begins a list.
    pub(super) fn begin(&mut self) {
        self.epoch = self.epoch.wrapping_add(1);
    }

    /// Ends a list, and removes Secrets that were not in it.
    pub(super) fn end(&mut self) {
        let epoch = self.epoch;
        self.records.retain(|_, record| record.epoch == epoch);
        self.is_listed = true;
    }

    /// Returns whether at least one list was complete.
    pub(super) fn is_listed(&self) -> bool {
        self.is_listed
    }

    /// Records a Secret from the watch or from a response of the API server.
    pub(super) fn insert(&mut self, namespace: Arc<str>, secret: StoredSecret) {
        let epoch = self.epoch;
        let record = self.records.entry(namespace);
        let record = record.or_insert_with(|| Record::new(secret.clone(), epoch));
        record.secret = secret;
        record.epoch = epoch;
    }

    /// Removes the Secret with this uid, but no successor of its name.
    pub(super) fn remove(&mut self, namespace: &str, uid: &str) {
        let is_it = |record: &Record| uid.is_empty() || &*record.secret.version.uid == uid;
        if self.records.get(namespace).is_some_and(is_it) {
            self.records.remove(namespace);
        }
    }

    /// Records that a namespace has no Secret.
    pub(super) fn clear(&mut self, namespace: &str) {
        self.records.remove(namespace);
    }

    pub(super) fn get(&self, namespace: &str) -> Option<&Record> {
        self.records.get(namespace)
    }

    /// The uid of a Secret that is not managed here.
    pub(super) fn foreign(&self, namespace: &str) -> Option<&str> {
        let foreign = self
            .get(namespace)
            .filter(|record| !record.secret.is_ours());
        foreign.map(|record| &*record.secret.version.uid)
    }

    /// Records the namespaces in which a workload names the Secret.
    pub(super) fn record_needs(&mut self, needed: &BTreeSet<Arc<str>>, now: Instant) {
        for (namespace, record) in &mut self.records {
            if needed.contains(namespace) {
                record.idle_since = None;
            } else {
                record.idle_since.get_or_insert(now);
            }
        }
    }

    /// Restarts the idle time of all Secrets: a workload that is not known may have named any of them.
    pub(super) fn doubt_needs(&mut self) {
        for record in self.records.values_mut() {
            record.idle_since = None;
        }
    }

    pub(super) fn get_mut(&mut self, namespace: &str) -> Option<&mut Record> {
        self.records.get_mut(namespace)
    }

    /// Records that the Secret of a namespace was written with these logins, which it was granted or had without a break.
    pub(super) fn record_unbroken(&mut self, namespace: &str, logins: LoginSet) {
        if let Some(record) = self.records.get_mut(namespace) {
            record.unbroken = logins;
        }
    }

    pub(super) fn namespaces(&self) -> impl Iterator<Item = &Arc<str>> {
        self.records.keys()
    }

    pub(super) fn count_ours(&self) -> usize {
        let records = self.records.values();
        records.filter(|record| record.secret.is_ours()).count()
    }
}

impl Record {
    pub(super) fn new(secret: StoredSecret, epoch: u32) -> Self {
        Self {
            secret,
            idle_since: None,
            barred: Vec::new(),
            unbroken: LoginSet::NONE,
            epoch,
        }
    }

    /// Records the logins that the Secret has, those that the rules allow, and those that it has although nothing allows or
    /// needs them.
    pub(super) fn observe(
        &mut self,
        present: LoginSet,
        allowed: LoginSet,
        barred: LoginSet,
        now: Instant,
    ) {
        self.unbroken = self.unbroken.or(allowed).and(present);
        let mut new = barred;
        self.barred.retain_mut(|(logins, _)| {
            *logins = logins.and(barred);
            new = new.without(*logins);
            !logins.is_empty()
        });
        if !new.is_empty() {
            self.barred.push((new, now));
        }
    }

    pub(super) fn unbroken(&self) -> LoginSet {
        self.unbroken
    }

    /// When the logins that nothing needs must be removed, unless something needs them by then.
    pub(super) fn barred_until(&self) -> Option<Instant> {
        let (_, since) = self.barred.first()?;
        Some(*since + BARRED_FOR)
    }

    /// Returns the logins that must be removed.
    pub(super) fn overdue(&self, now: Instant) -> LoginSet {
        let barred = self.barred.iter();
        let overdue = barred.filter(|(_, since)| *since + BARRED_FOR <= now);
        overdue.fold(LoginSet::NONE, |all, (logins, _)| all.or(*logins))
    }

    /// When the Secret may be removed, unless a workload names it by then.
    pub(super) fn expires(&self) -> Option<Instant> {
        Some(self.idle_since? + IDLE_FOR)
    }
}

impl StoredSecret {
    pub(super) fn is_ours(&self) -> bool {
        self.state != State::Foreign
    }

    /// The logins in a managed Secret of the right type.
    pub(super) fn held(&self) -> Option<&HeldLogins> {
        match &self.state {
            State::Ours { held, .. } => Some(held),
            State::Foreign | State::Leaving | State::WrongType => None,
        }
    }
}

impl SecretObject {
    /// The fields of a Secret that are read.
    pub(super) const KEEP: Keep = Keep {
        is_wanted: |name| {
            is_envelope(name)
                || matches!(
                    name,
                    "name"
                        | "namespace"
                        | "uid"
                        | "deletionTimestamp"
                        | "labels"
                        | "immutable"
                        | "data"
                        | LABEL
                        | KEY
                )
        },
        whole: None,
        string: MAX_CONTENT,
        elements: 16,
        bytes: 2 * MAX_CONTENT,
    };

    /// Returns the namespace and the kept part; `None` without a name or a namespace.
    pub(super) fn into_stored(self) -> Option<(Arc<str>, StoredSecret)> {
        self.metadata.name?;
        Some((self.metadata.namespace?.into(), self.secret))
    }
}

/// Returns the docker configuration in a Secret, empty if there is none.
pub(super) fn dockerconfigjson(secret: &[u8]) -> Vec<u8> {
    let secret: Value = serde_json::from_slice(secret).unwrap_or_default();
    STANDARD.decode(content(&secret)).unwrap_or_default()
}

/// Returns the configuration in Base64.
fn content(secret: &Value) -> &str {
    text(field(secret, "data"), KEY)
}

fn state(secret: &Value) -> State {
    let metadata = field(secret, "metadata");
    if text(field(metadata, "labels"), LABEL) != MANAGER {
        State::Foreign
    } else if field(metadata, "deletionTimestamp").is_string() {
        State::Leaving
    } else if text(secret, "type") == TYPE {
        let config = STANDARD.decode(content(secret)).unwrap_or_default();
        State::Ours {
            held: HeldLogins::of(&config),
            is_immutable: flag(secret, "immutable"),
        }
    } else {
        State::WrongType
    }
}

impl<'de> Deserialize<'de> for SecretObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = Value::deserialize(deserializer)?;
        let metadata = field(&object, "metadata");
        Ok(Self {
            secret: StoredSecret {
                version: Version {
                    uid: text(metadata, "uid").into(),
                    resource_version: text(metadata, "resourceVersion").into(),
                },
                state: state(&object),
            },
            metadata: object_meta(&object),
        })
    }
}

impl Resource for SecretObject {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "Secret".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "secrets".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests;
