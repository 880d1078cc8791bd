//! The Lease of this replica: made, renewed, deleted.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{DeleteParams, ListParams, ObjectMeta, PostParams};
use mirror_contract::workload::GROUP;
use tokio::time::timeout;

use super::group::{DURATION, Group, PREFIX, RECORD_ANNOTATION};
use crate::cluster::api_server::is_unreachable;
use crate::copy_queue::CrashRecord;

/// Longest time for a renewal, with all its requests: the next one must not be late.
const RENEW_WITHIN: Duration = Duration::from_secs(4);

/// Longest time for the deletion, at the end of the process.
const REMOVE_WITHIN: Duration = Duration::from_secs(2);

/// Requests that may find the Lease in another state than the one before. Two are needed after a restart under the same
/// name, a third when somebody deletes it at that moment.
const ATTEMPTS: usize = 3;

/// The Lease of this replica.
pub(super) struct OwnLease {
    api: Api<Lease>,
    name: String,
    holder: String,
    labels: BTreeMap<String, String>,
    acquired: Timestamp,
    crash_record: CrashRecord,
    /// The resource version of what is stored, if that is known.
    version: Option<String>,
}

/// Why the Lease is not as it should be. It is tried again with the next renewal.
#[derive(Debug, thiserror::Error)]
pub(super) enum LeaseError {
    #[error("cannot {operation} the Lease {lease}: {source}")]
    Refused {
        operation: &'static str,
        lease: String,
        source: Box<kube::Error>,
    },
    #[error("the API server takes too long to {operation} the Lease {lease}")]
    TooSlow {
        operation: &'static str,
        lease: String,
    },
    #[error(
        "somebody else keeps changing the Lease {lease}: each replica needs a --replica of its own"
    )]
    Contended { lease: String },
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

    /// Gives a sign of life.
    pub(super) async fn renew(&mut self) -> Result<(), LeaseError> {
        match timeout(RENEW_WITHIN, self.try_renew()).await {
            Ok(result) => result,
            Err(_) => Err(self.too_slow("renew")),
        }
    }

    /// Deletes the Lease. One that is gone already is as good.
    pub(super) async fn remove(&self) -> Result<(), LeaseError> {
        let params = DeleteParams::default();
        match timeout(REMOVE_WITHIN, self.api.delete(&self.name, &params)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => Ok(()),
            Ok(Err(error)) => Err(self.refused("delete", error)),
            Err(_) => Err(self.too_slow("delete")),
        }
    }

    async fn try_renew(&mut self) -> Result<(), LeaseError> {
        let params = PostParams::default();
        for _ in 0..ATTEMPTS {
            // Taken: after an error or a timeout nobody knows what is stored.
            let (recorded, record) = self.crash_record.to_store();
            let (operation, stored) = if let Some(version) = self.version.take() {
                let lease = self.lease(Some(version), record);
                let stored = self.api.replace(&self.name, &params, &lease).await;
                ("renew", stored)
            } else {
                let stored = self.api.create(&params, &self.lease(None, record)).await;
                ("create", stored)
            };
            match stored {
                Ok(lease) => {
                    self.version = lease.metadata.resource_version;
                    // There was no Lease before, or it was read.
                    self.crash_record.load_nothing();
                    self.crash_record.stored(recorded);
                    return Ok(());
                }
                // It was deleted, or is there already: from this replica before a restart, or after a lost answer.
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
        // A process that ends in order deletes its Lease. Read before it is overwritten.
        self.crash_record.load(record(&lease.metadata));
        Ok(lease.metadata.resource_version)
    }

    fn lease(&self, version: Option<String>, record: String) -> Lease {
        Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                labels: Some(self.labels.clone()),
                annotations: Some([(RECORD_ANNOTATION.to_owned(), record)].into()),
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

/// The record of running copies that a Lease carries.
pub(super) fn record(lease: &ObjectMeta) -> Option<&str> {
    let annotations = lease.annotations.as_ref()?;
    annotations.get(RECORD_ANNOTATION).map(String::as_str)
}
