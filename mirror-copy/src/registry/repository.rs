//! One repository of a registry, for reading or for writing.

use super::Registry;
use super::token::Scopes;
use crate::error::{Operation, RegistryError, Subject};
use crate::reference::{TagOrDigest, is_repository, is_tag};
use crate::registries::metadata_budget::{BeyondLimit, Lease, Reservation};
use crate::text::clean;
use reqwest::Url;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The access that tokens are requested for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Pull,
    Push,
}

/// One repository. Its operations are in `manifests`, `blobs`, `uploads`, `tags` and `referrers`.
#[derive(Clone)]
pub(crate) struct Repository {
    pub(super) registry: Registry,
    pub(super) name: Arc<str>,
    pub(super) scopes: Scopes,
    /// Memory of the copy that this handle belongs to.
    reservation: Option<Arc<Reservation>>,
    /// One permit for each request for a manifest or a list.
    metadata_permits: Option<Arc<Semaphore>>,
}

impl Registry {
    pub(crate) fn repository(
        &self,
        name: &str,
        access: Access,
    ) -> Result<Repository, RegistryError> {
        if !is_repository(name) {
            return Err(RegistryError::Name(clean(name)));
        }
        let name: Arc<str> = if self.shared.endpoint.is_docker_hub() && !name.contains('/') {
            format!("library/{name}").into()
        } else {
            name.into()
        };
        let scopes = match access {
            Access::Pull => Scopes::pull(&name),
            Access::Push => Scopes::push(&name),
        };
        Ok(Repository {
            registry: self.clone(),
            name,
            scopes,
            reservation: None,
            metadata_permits: None,
        })
    }
}

impl Registry {
    /// Returns a handle for the list of all repositories. It has no name, so that only requests with a URL of their own can be
    /// sent.
    pub(super) fn all_repositories(&self) -> Repository {
        Repository {
            registry: self.clone(),
            name: "".into(),
            scopes: Scopes::catalog(),
            reservation: None,
            metadata_permits: None,
        }
    }
}

impl Repository {
    /// Returns a handle that uses the memory of a copy.
    pub(crate) fn of_copy(self, reservation: &Arc<Reservation>) -> Self {
        Self {
            reservation: Some(Arc::clone(reservation)),
            ..self
        }
    }

    /// Limits the concurrent requests for manifests and lists. Before its body is read, each may take as much memory as the
    /// headers of a response, which only the HTTP client bounds.
    pub(crate) fn with_metadata_requests(self, at_once: usize) -> Self {
        Self {
            metadata_permits: Some(Arc::new(Semaphore::new(at_once))),
            ..self
        }
    }

    /// Waits until another request for a manifest or a list may be sent. A holder must not wait for a second permit.
    pub(super) async fn metadata_permit(&self) -> Option<OwnedSemaphorePermit> {
        let permits = self.metadata_permits.clone()?;
        permits.acquire_owned().await.ok()
    }

    /// Waits for memory for a body that is about to be sent.
    pub(crate) async fn hold(
        &self,
        subject: &Subject,
        bytes: usize,
    ) -> Result<Lease, RegistryError> {
        let reservation = self.reservation.clone();
        let reservation = reservation.unwrap_or_else(|| self.registry.reservation());
        let mut lease = reservation.lease();
        let grown = lease.grow(bytes as u64).await;
        grown.map_err(|BeyondLimit(limit)| RegistryError::MemoryBudget {
            subject: subject.clone(),
            limit,
        })?;
        Ok(lease)
    }

    pub(super) fn reservation_of_copy(&self) -> Option<&Arc<Reservation>> {
        self.reservation.as_ref()
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Returns `host/repository` with a suffix.
    pub(crate) fn object(&self, suffix: &str) -> String {
        format!("{}/{}{suffix}", self.registry.host(), self.name)
    }

    pub(crate) fn subject(&self, operation: Operation, suffix: &str) -> Subject {
        Subject {
            operation,
            object: self.object(suffix),
        }
    }

    /// Returns a URL in this repository. `rest` must consist of tags, digests and constant path segments, which need no
    /// escaping.
    pub(super) fn url(&self, rest: &str) -> Url {
        let mut url = self.registry.shared.endpoint.base.clone();
        let path = format!("{}{}/{rest}", url.path(), self.name);
        url.set_path(&path);
        url
    }

    pub(super) fn manifest_url(&self, reference: &TagOrDigest) -> Result<Url, RegistryError> {
        match reference {
            TagOrDigest::Tag(tag) if !is_tag(tag) => Err(RegistryError::Name(clean(tag))),
            reference => Ok(self.url(&format!("manifests/{reference}"))),
        }
    }
}
