//! The Leases of replicas: their names and labels, and creating, renewing and deleting the own one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{DeleteParams, ListParams, ObjectMeta, PostParams};
use mirror_contract::workload::GROUP;
use mirror_contract::{ImageRef, Sidecar};
use sha2::{Digest as _, Sha256};
use tokio::time::timeout;

use super::membership::DURATION;
use crate::cluster::api_server::is_unreachable;
use crate::cluster::index::Rules;
use crate::cluster::policies::follow::Filter;
use crate::copy_queue::CrashRecord;

/// Interval between renewals. Two of them may fail without consequences.
pub(super) const RENEW_INTERVAL: Duration = Duration::from_secs(5);

/// Timeout for a renewal, with all its requests: the next one must not be late.
const RENEW_TIMEOUT: Duration = Duration::from_secs(4);

/// Timeout for the deletion, at the end of the process.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Requests that may find the Lease in another state than the one before. Two are needed after a restart under the same
/// name, a third when somebody deletes it at that moment.
const ATTEMPTS: usize = 3;

/// Prefix of the names of all Leases of replicas.
pub(super) const PREFIX: &str = "mirror-sidecar-";

/// Annotation of a Lease with the images that its replica is copying, and those that it copies in isolation.
const RECORD_ANNOTATION: &str = "image-mirror.dev/copies";

/// Annotation of a Lease with the IP address and the port at which the other replicas reach the admin port of this one.
const ADDRESS_ANNOTATION: &str = "image-mirror.dev/admin-address";

/// The image whose copy's name tells backups apart. Any image would do.
const SAMPLE: &str = "docker.io/library/sample:1";

/// Replicas that share work: those with the same rules. Two installations in one namespace may have different backups, or
/// exclude different namespaces; neither does the other's work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group(String);

pub(super) struct OwnLease {
    api: Api<Lease>,
    name: String,
    holder: String,
    labels: BTreeMap<String, String>,
    acquired: Timestamp,
    crash_record: CrashRecord,
    /// The stored resource version, if it is known.
    version: Option<String>,
}

/// The next renewal is the retry.
#[derive(Debug, thiserror::Error)]
pub(super) enum LeaseError {
    #[error("cannot {operation} the Lease {lease}: {source}")]
    Refused {
        operation: &'static str,
        lease: String,
        source: Box<kube::Error>,
    },
    #[error("cannot {operation} the Lease {lease}: no response from the API server in time")]
    TooSlow {
        operation: &'static str,
        lease: String,
    },
    #[error(
        "cannot renew the Lease {lease}: another process keeps changing it; set a --replica of its own for each replica"
    )]
    Contended { lease: String },
}

impl Group {
    /// The group of all replicas with these rules of the default backup and the same other backups, that follow the same
    /// policies.
    #[must_use]
    pub fn of(rules: &Rules, followed: &Filter) -> Self {
        let sample = ImageRef::parse(SAMPLE)
            .ok()
            .and_then(|image| rules.backup.target(&image).ok());
        let mut excluded: Vec<String> = rules
            .excluded_namespaces
            .patterns()
            // If this form changes in a later version, old and new replicas do not share work during that update.
            .map(|pattern| format!("{pattern:?}"))
            .collect();
        excluded.sort_unstable();
        let mut hash = Sha256::new();
        hash.update(sample.map(|copy| copy.to_string()).unwrap_or_default());
        for pattern in excluded {
            hash.update(" ");
            hash.update(pattern);
        }
        hash.update("\n");
        hash.update(rules.pull_secret.as_deref().unwrap_or_default());
        if followed.is_set() {
            let Filter { addresses, name } = followed;
            let addresses: BTreeSet<_> = addresses.iter().map(Sidecar::as_str).collect();
            hash.update(format!("\n{addresses:?}{name:?}"));
        }
        for (name, backup) in rules.other_backups.iter() {
            let sample = ImageRef::parse(SAMPLE)
                .ok()
                .and_then(|image| backup.target(&image).ok());
            let sample = sample.map(|copy| copy.to_string()).unwrap_or_default();
            hash.update(format!("\n{name} {sample}"));
        }
        // 64 bits are plenty to tell the few installations of a namespace from each other.
        let hash = hash.finalize();
        let first = hash.iter().take(8);
        let number = first.fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        Self(format!("{number:016x}"))
    }

    /// The value of the label.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn selector(&self) -> String {
        format!("{GROUP}={}", self.0)
    }
}

impl LeaseError {
    /// Returns whether no API server responded.
    pub(super) fn is_unreachable(&self) -> bool {
        match self {
            Self::Refused { source, .. } => is_unreachable(source),
            Self::TooSlow { .. } => true,
            Self::Contended { .. } => false,
        }
    }
}

impl OwnLease {
    pub(super) fn new(
        api: Api<Lease>,
        replica: &str,
        group: &Group,
        crash_record: CrashRecord,
    ) -> Self {
        let labels = [
            ("app.kubernetes.io/name", "mirror-sidecar"),
            (GROUP, group.as_str()),
        ];
        Self {
            api,
            name: format!("{PREFIX}{replica}"),
            holder: replica.to_owned(),
            labels: labels
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            acquired: Timestamp::now(),
            crash_record,
            version: None,
        }
    }

    /// Renews the Lease, with the address of the admin port of this replica, if it has one for the others.
    pub(super) async fn renew(&mut self, address: Option<SocketAddr>) -> Result<(), LeaseError> {
        match timeout(RENEW_TIMEOUT, self.try_renew(address)).await {
            Ok(result) => result,
            Err(_) => Err(self.too_slow("renew")),
        }
    }

    /// Deletes the Lease. It is no error if it does not exist.
    pub(super) async fn remove(&self) -> Result<(), LeaseError> {
        let params = DeleteParams::default();
        match timeout(REMOVE_TIMEOUT, self.api.delete(&self.name, &params)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => Ok(()),
            Ok(Err(error)) => Err(self.refused("delete", error)),
            Err(_) => Err(self.too_slow("delete")),
        }
    }

    async fn try_renew(&mut self, address: Option<SocketAddr>) -> Result<(), LeaseError> {
        let params = PostParams::default();
        for _ in 0..ATTEMPTS {
            // Taken: after an error or a timeout the stored version is not known.
            let (recorded, record) = self.crash_record.to_store();
            let (operation, stored) = if let Some(version) = self.version.take() {
                let lease = self.lease(Some(version), record, address);
                let stored = self.api.replace(&self.name, &params, &lease).await;
                ("renew", stored)
            } else {
                let lease = self.lease(None, record, address);
                ("create", self.api.create(&params, &lease).await)
            };
            match stored {
                Ok(lease) => {
                    self.version = lease.metadata.resource_version;
                    // There was no Lease before, or it was read.
                    self.crash_record.load_nothing();
                    self.crash_record.stored(recorded);
                    return Ok(());
                }
                // It was deleted, or exists already: from this replica before a restart, or after a lost response.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                    self.version = self.stored_version().await?;
                }
                Err(error) => return Err(self.refused(operation, error)),
            }
        }
        Err(LeaseError::Contended {
            lease: self.name.clone(),
        })
    }

    async fn stored_version(&self) -> Result<Option<String>, LeaseError> {
        let params = ListParams::default()
            .fields(&format!("metadata.name={}", self.name))
            .limit(1);
        let list = self
            .api
            .list_metadata(&params)
            .await
            .map_err(|error| self.refused("find", error))?;
        let Some(lease) = list.items.into_iter().next() else {
            return Ok(None);
        };
        // A process that ends properly deletes its Lease. Read before it is overwritten.
        self.crash_record.load(record(&lease.metadata));
        Ok(lease.metadata.resource_version)
    }

    fn lease(&self, version: Option<String>, record: String, address: Option<SocketAddr>) -> Lease {
        let address = address.map(|address| (ADDRESS_ANNOTATION.to_owned(), address.to_string()));
        let annotations = [(RECORD_ANNOTATION.to_owned(), record)].into_iter();
        Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                labels: Some(self.labels.clone()),
                annotations: Some(annotations.chain(address).collect()),
                resource_version: version,
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.holder.clone()),
                lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
                acquire_time: Some(MicroTime(self.acquired)),
                renew_time: Some(MicroTime(Timestamp::now())),
                ..LeaseSpec::default()
            }),
        }
    }

    fn refused(&self, operation: &'static str, error: kube::Error) -> LeaseError {
        LeaseError::Refused {
            operation,
            lease: self.name.clone(),
            source: Box::new(error),
        }
    }

    fn too_slow(&self, operation: &'static str) -> LeaseError {
        LeaseError::TooSlow {
            operation,
            lease: self.name.clone(),
        }
    }
}

/// The address of the admin port that a Lease carries. A name is none: who connects does not resolve it.
pub(super) fn admin_address(lease: &ObjectMeta) -> Option<SocketAddr> {
    let address = lease.annotations.as_ref()?.get(ADDRESS_ANNOTATION)?;
    let address: SocketAddr = address.parse().ok()?;
    let ip = address.ip();
    (address.port() != 0 && !ip.is_unspecified() && !ip.is_multicast()).then_some(address)
}

/// The record of running copies that a Lease carries.
pub(super) fn record(lease: &ObjectMeta) -> Option<&str> {
    let annotations = lease.annotations.as_ref()?;
    annotations.get(RECORD_ANNOTATION).map(String::as_str)
}
