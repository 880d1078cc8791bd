//! The `ClusterAdmissionPolicies` of the cluster that name this service.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::ClusterResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::runtime::watcher::Event;
use mirror_contract::Sidecar;
use mirror_contract::text::on_one_line;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use tokio::sync::{Semaphore, watch};

use super::{Fallback, MAX_POLICIES, MAX_SETTINGS, Policies, Policy, PolicyId};
use crate::cluster::api_server::ApiServer;
use crate::cluster::json_fields::{field, object_meta, text};
use crate::cluster::json_filter::Keep;
use crate::cluster::watch::stream;

pub const API_VERSION: &str = "policies.kubewarden.io/v1";
pub const KIND: &str = "ClusterAdmissionPolicy";
const GROUP: &str = "policies.kubewarden.io";
const VERSION: &str = "v1";
const PLURAL: &str = "clusteradmissionpolicies";

/// Longest wait for the policies at the start. After that, flags decide until the policies are known.
pub const KNOWN_WITHIN: Duration = Duration::from_secs(30);

/// Bytes of an object that are read. Only elements of lists are left out of longer ones, which exceed [`MAX_SETTINGS`] even so
/// and are refused: a part of the rules means something else.
const MAX_BYTES: usize = 4 * MAX_SETTINGS;

/// Longest text about the errors of a policy.
const MAX_ERROR: usize = 1024;

/// Ending of the names of Services that clients may leave out.
const CLUSTER_DOMAIN: &str = ".cluster.local";

/// Which policies are followed.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Addresses of this service, of which a policy must name one; empty for policies with any address.
    pub addresses: Vec<Sidecar<'static>>,
    /// Name of the only policy that is followed.
    pub name: Option<String>,
}

/// The followed policies. Clones share them.
#[derive(Clone, Debug)]
pub struct Followed(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    filter: Filter,
    /// In force instead of each policy that was not valid since the start.
    fallback: Option<Arc<Policy>>,
    /// With the last valid rules of policies, also those that an earlier configuration followed.
    policies: Policies,
    records: Mutex<Records>,
    /// Changes when a policy becomes invalid or valid.
    invalid: watch::Sender<Vec<InvalidPolicy>>,
    is_known: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Records {
    by_name: BTreeMap<Box<str>, Record>,
    epoch: u32,
    is_listed: bool,
    exceeds_limit: bool,
}

#[derive(Debug)]
struct Record {
    id: PolicyId,
    /// The last valid one, which is in force.
    policy: Option<Arc<Policy>>,
    error: Option<String>,
    /// The last list that contained it.
    epoch: u32,
}

/// A policy that cannot be parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidPolicy {
    pub id: PolicyId,
    pub error: String,
}

/// A `ClusterAdmissionPolicy` as the API server returns it.
#[derive(Clone, Debug)]
pub(in crate::cluster) struct PolicyObject {
    metadata: ObjectMeta,
    uid: Box<str>,
    spec: Value,
}

impl Filter {
    /// Returns whether any policy can pass.
    #[must_use]
    pub fn is_set(&self) -> bool {
        !self.addresses.is_empty() || self.name.is_some()
    }

    /// Returns whether a policy names this service; `None` if it names no valid address.
    fn is_named_by(&self, spec: &Value) -> Option<bool> {
        let sidecar = Sidecar::parse(text(field(spec, "settings"), "sidecar"))?;
        let mut addresses = self.addresses.iter();
        let is_own = addresses.any(|own| canonical(own) == canonical(&sidecar));
        Some(self.addresses.is_empty() || is_own)
    }

    fn has_name(&self, name: &str) -> bool {
        self.name.as_deref().is_none_or(|wanted| wanted == name)
    }
}

/// Returns the address without the domain of the cluster, and its port.
fn canonical<'a>(address: &'a Sidecar<'_>) -> (&'a str, &'a str) {
    let address = address.as_str();
    let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
    (host.strip_suffix(CLUSTER_DOMAIN).unwrap_or(host), port)
}

impl Followed {
    #[must_use]
    pub fn new(filter: Filter, fallback: Option<Policy>, policies: Policies) -> Self {
        Self(Arc::new(Shared {
            filter,
            fallback: fallback.map(Arc::new),
            policies,
            records: Mutex::default(),
            invalid: watch::Sender::default(),
            is_known: watch::Sender::default(),
        }))
    }

    /// Puts the fallback into force where rules are not known, also in place of that of an earlier configuration.
    pub fn begin(&self) {
        let Some(fallback) = &self.0.fallback else {
            return;
        };
        self.0.policies.publish_fallback(fallback);
        if self.copies_nothing() && !self.is_any() && self.0.policies.current().has_fallback() {
            tracing::warn!(
                "several backups are configured and no rules are known, so images are copied only when the policy requests them; \
                 set --facade-address or --policy to follow a policy, or --policy-settings"
            );
        }
    }

    /// Returns whether images whose rules are not known are copied only on request.
    #[must_use]
    pub fn copies_nothing(&self) -> bool {
        self.0.fallback() == Fallback::CopyNothing
    }

    /// Returns whether any policy can be followed.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.0.filter.is_set()
    }

    /// Follows the policies until it is dropped.
    pub async fn run(self, server: impl Into<ApiServer>) {
        stream::watch(server, self, Arc::new(Semaphore::new(1))).await;
    }

    /// Waits until the policies were listed, or cannot exist.
    pub async fn known(&self) {
        let mut known = self.0.is_known.subscribe();
        // The sender lives as long as this.
        let _ = known.wait_for(|is_known| *is_known).await;
    }

    /// Returns whether the policies were listed, or cannot exist.
    #[must_use]
    pub fn is_known(&self) -> bool {
        *self.0.is_known.borrow()
    }

    /// Returns a receiver of the policies that cannot be parsed.
    #[must_use]
    pub fn invalid(&self) -> watch::Receiver<Vec<InvalidPolicy>> {
        self.0.invalid.subscribe()
    }

    pub(in crate::cluster) fn apply(&self, event: Event<PolicyObject>) {
        let mut records = self.records();
        match event {
            Event::Init => records.epoch = records.epoch.wrapping_add(1),
            Event::InitDone => {
                let epoch = records.epoch;
                records.by_name.retain(|name, record| {
                    let is_listed = record.epoch == epoch;
                    if !is_listed {
                        log_end(name);
                    }
                    is_listed
                });
                records.is_listed = true;
            }
            Event::InitApply(object) | Event::Apply(object) => {
                if let Some(name) = &object.metadata.name {
                    records.apply(&self.0, name, &object);
                }
            }
            Event::Delete(object) => {
                let name = object.metadata.name.unwrap_or_default();
                if records.by_name.remove(&*name).is_some() {
                    log_end(&name);
                }
            }
        }
        if records.is_listed {
            self.publish(&records);
        }
    }

    fn publish(&self, records: &Records) {
        let policies = records.by_name.values();
        let mut policies = policies
            .filter_map(|record| record.policy.clone().or_else(|| self.0.fallback.clone()))
            .collect::<Vec<_>>();
        let has_none = policies.is_empty();
        if has_none && self.copies_nothing() {
            policies.extend(self.0.fallback.clone());
        }
        let is_known = *self.0.is_known.borrow();
        if has_none && !(is_known && self.0.policies.current().policies == policies) {
            if self.copies_nothing() {
                tracing::warn!(
                    "no policy names this service, so images are copied only when a policy requests them: with several backups, \
                     rules decide which one they may be copied to; create a policy, or set --policy-settings"
                );
            } else {
                tracing::info!(
                    "no policy names this service, --exclude-namespaces and --skip-owner apply"
                );
            }
        }
        self.0.policies.publish(policies);
        let invalid = records.by_name.values().filter_map(|record| {
            Some(InvalidPolicy {
                id: record.id.clone(),
                error: record.error.clone()?,
            })
        });
        let invalid: Vec<_> = invalid.collect();
        self.0.invalid.send_if_modified(|current| {
            let is_new = *current != invalid;
            *current = invalid;
            is_new
        });
        self.0.is_known.send_replace(true);
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        self.0
            .records
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn fallback(&self) -> Fallback {
        let fallback = self.fallback.as_ref();
        let fallback = fallback.and_then(|policy| policy.fallback());
        fallback.unwrap_or(Fallback::CopyAll)
    }
}

impl Records {
    fn apply(&mut self, shared: &Shared, name: &str, object: &PolicyObject) {
        let filter = &shared.filter;
        // The name may belong to a successor.
        let record = self.by_name.get(name);
        let record = record.filter(|record| record.id.uid == object.uid);
        let is_followed = record.is_some();
        let is_ours = match filter.is_named_by(&object.spec) {
            Some(is_named) => is_named,
            // An edit that breaks the address does not end it.
            None => is_followed || filter.name.is_some(),
        };
        if !is_ours || !filter.has_name(name) {
            if self.by_name.remove(name).is_some() {
                log_end(name);
            }
            return;
        }
        if !self.by_name.contains_key(name) && self.by_name.len() >= MAX_POLICIES {
            if !std::mem::replace(&mut self.exceeds_limit, true) {
                tracing::warn!(
                    policy = name,
                    limit = MAX_POLICIES,
                    "ignoring further policies; merge the rules of some into one policy"
                );
            }
            return;
        }
        if !is_followed {
            self.by_name.remove(name);
        }
        let epoch = self.epoch;
        let record = self.by_name.entry(name.into()).or_insert_with(|| {
            let id = PolicyId {
                name: name.into(),
                uid: object.uid.clone(),
            };
            Record {
                policy: shared.policies.current().of_object(&id).cloned(),
                id,
                error: None,
                epoch,
            }
        });
        record.epoch = epoch;
        record.update(object, shared.fallback());
    }
}

impl Record {
    fn update(&mut self, object: &PolicyObject, fallback: Fallback) {
        let name = &*self.id.name;
        match object.policy() {
            Ok(policy) => {
                let policy = policy.with_id(self.id.clone());
                self.error = None;
                if self.policy.as_deref() != Some(&policy) {
                    tracing::info!(policy = name, "following the rules of the policy");
                    self.policy = Some(Arc::new(policy));
                }
            }
            Err(error) => {
                let error: String = error.chars().map(on_one_line).take(MAX_ERROR).collect();
                if self.error.as_ref() == Some(&error) {
                    return;
                }
                if self.policy.is_some() {
                    tracing::warn!(
                        policy = name,
                        error,
                        "cannot parse the policy, its last valid rules stay in force; correct its spec.settings, or upgrade \
                         mirror-sidecar if the policy is newer"
                    );
                } else if fallback == Fallback::CopyNothing {
                    tracing::warn!(
                        policy = name,
                        error,
                        "cannot parse the policy, so its images are copied only when it requests them; correct its spec.settings, \
                         or upgrade mirror-sidecar if the policy is newer"
                    );
                } else {
                    tracing::warn!(
                        policy = name,
                        error,
                        "cannot parse the policy, so all images in use are copied except those of --exclude-namespaces and \
                         --skip-owner; correct its spec.settings, or upgrade mirror-sidecar if the policy is newer"
                    );
                }
                self.error = Some(error);
            }
        }
    }
}

impl PolicyObject {
    fn policy(&self) -> Result<Policy, String> {
        let length = self.spec.to_string().len();
        if length > MAX_SETTINGS {
            return Err(format!(
                "spec has {length} bytes, and at most {MAX_SETTINGS} are allowed: write fewer or shorter rules"
            ));
        }
        Policy::parse(&self.spec)
    }
}

fn log_end(name: &str) {
    tracing::info!(policy = name, "no longer following the policy");
}

impl stream::Subject for Followed {
    type Object = PolicyObject;

    fn kind(&self) -> &'static str {
        KIND
    }

    fn path(&self) -> String {
        format!("/apis/{API_VERSION}/{PLURAL}")
    }

    fn keep(&self) -> Keep {
        Keep {
            // Annotations often have another copy of the whole object.
            is_wanted: |name| !matches!(name, "managedFields" | "annotations" | "status"),
            whole: None,
            string: MAX_BYTES,
            elements: usize::MAX,
            bytes: MAX_BYTES,
        }
    }

    fn take(&self, event: Event<PolicyObject>) {
        self.apply(event);
    }

    /// Kubewarden is not installed.
    fn set_not_served(&self) -> bool {
        self.0.is_known.send_replace(true);
        true
    }
}

impl<'de> Deserialize<'de> for PolicyObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut object = Value::deserialize(deserializer)?;
        Ok(Self {
            metadata: object_meta(&object),
            uid: text(field(&object, "metadata"), "uid").into(),
            spec: object.get_mut("spec").map(Value::take).unwrap_or_default(),
        })
    }
}

impl Resource for PolicyObject {
    type DynamicType = ();
    type Scope = ClusterResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        KIND.into()
    }

    fn group((): &()) -> Cow<'_, str> {
        GROUP.into()
    }

    fn version((): &()) -> Cow<'_, str> {
        VERSION.into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        PLURAL.into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
