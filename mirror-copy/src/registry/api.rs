//! The public methods of [`Registry`] that send requests.

use super::blob_reader::BlobReader;
use super::manifests::{Manifest, Resolved};
use super::repository::Access;
use super::request::{RegistryRequest, retrying};
use super::token::Scopes;
use super::{Registry, response};
use crate::error::{Operation, RegistryError, Subject};
use crate::reference::TagOrDigest;
use crate::registries::clients::Pool;
use oci_spec::image::Digest;
use reqwest::Method;

impl Registry {
    /// Checks that this host is a registry and accepts the configured credentials: `GET /v2/` (distribution-spec,
    /// "Determining Support"), with a login if it requires one, and with retries.
    ///
    /// # Errors
    /// [`RegistryError`] if the host does not respond, refuses the login, or responds with a page.
    pub async fn ping(&self) -> Result<(), RegistryError> {
        retrying(self.retry_policy(), || async {
            let attempt = self.probe().await;
            self.shared.last_failures.record(Operation::Ping, &attempt);
            attempt
        })
        .await
    }

    /// As [`Self::ping`] without retries, for callers that repeat it anyway.
    ///
    /// # Errors
    /// As [`Self::ping`].
    pub async fn probe(&self) -> Result<(), RegistryError> {
        let subject = Subject {
            operation: Operation::Ping,
            object: format!("registry {}", self.host()),
        };
        let url = self.shared.endpoint.base.clone();
        let scopes = Scopes::default();
        let request = RegistryRequest::new(&subject, Method::GET, url, &scopes, Pool::Small);
        let response = self.attempt(&request).await?;
        response::check_registry(response, &subject, self.timeouts().idle).await
    }

    /// Resolves a tag or digest. Returns `None` if the registry has no such manifest. Sends `HEAD`, which registries with a
    /// rate limit do not count, and `GET` if the response names no usable digest, which is then computed.
    ///
    /// # Errors
    /// [`RegistryError`] if the registry does not respond, denies access, or returns no manifest.
    pub async fn resolve(
        &self,
        repository: &str,
        reference: &TagOrDigest,
    ) -> Result<Option<Resolved>, RegistryError> {
        self.resolve_with(repository, reference, Access::Pull).await
    }

    /// As [`Self::resolve`], with the right to push requested along with the right to pull: some registries hide
    /// repositories otherwise, and copies use the same tokens.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub async fn resolve_to_write(
        &self,
        repository: &str,
        reference: &TagOrDigest,
    ) -> Result<Option<Resolved>, RegistryError> {
        self.resolve_with(repository, reference, Access::Push).await
    }

    async fn resolve_with(
        &self,
        repository: &str,
        reference: &TagOrDigest,
        access: Access,
    ) -> Result<Option<Resolved>, RegistryError> {
        let located = self
            .repository(repository, access)?
            .locate(reference)
            .await?;
        Ok(located.map(|located| located.resolved))
    }

    /// Reads a manifest of at most 8 MiB. It is verified if `reference` is a digest; for a tag the digest is computed.
    ///
    /// # Errors
    /// [`RegistryError`] if the registry does not respond, denies access, has no such manifest, or returns other content.
    pub async fn manifest(
        &self,
        repository: &str,
        reference: &TagOrDigest,
    ) -> Result<Manifest, RegistryError> {
        self.repository(repository, Access::Pull)?
            .manifest(reference)
            .await
    }

    /// Adds a tag to a manifest of the repository, and reads it back by that tag; a tag that exists is moved. Returns
    /// `false`, without a change, if the repository lacks the manifest or something that it names.
    ///
    /// # Errors
    /// [`RegistryError`] if a request fails, or the registry does not return the manifest by the new tag.
    pub async fn tag(
        &self,
        repository: &str,
        digest: &Digest,
        tag: &str,
    ) -> Result<bool, RegistryError> {
        let repository = self.repository(repository, Access::Push)?;
        let reference = TagOrDigest::Digest(digest.clone());
        let manifest = match repository.manifest(&reference).await {
            Ok(manifest) => manifest,
            Err(error) if error.is_wrong_or_missing() => return Ok(false),
            Err(error) => return Err(error),
        };
        let tag = TagOrDigest::Tag(tag.to_owned());
        let media_type = manifest.media_type.as_str();
        match repository.put_manifest(&tag, media_type, &manifest).await {
            Ok(_) => {}
            Err(error) if error.is_of_incomplete_content() => return Ok(false),
            Err(error) => return Err(error),
        }
        let read_back = repository.read_back(&tag, media_type, &manifest, |_| true);
        read_back.await.map(|()| true)
    }

    /// Checks that the credentials may push to a repository: opens an upload session and cancels it.
    ///
    /// # Errors
    /// [`RegistryError`] if the registry does not respond, or refuses the upload.
    pub async fn check_push(&self, repository: &str) -> Result<(), RegistryError> {
        let repository = self.repository(repository, Access::Push)?;
        let session = repository.open_upload("").await?;
        repository.cancel(&session).await;
        Ok(())
    }

    /// Returns all tags of a repository in the order of the registry (distribution-spec, "Listing Tags").
    ///
    /// # Errors
    /// [`RegistryError`] if a page cannot be read, or there are more than 100 000 tags: the list is never a part of all
    /// tags.
    pub async fn tags(&self, repository: &str) -> Result<Vec<String>, RegistryError> {
        self.repository(repository, Access::Pull)?.tags().await
    }

    /// Opens a blob of `size` bytes for reading. The content is verified: the last bytes are returned only if size and
    /// digest are right.
    ///
    /// # Errors
    /// [`RegistryError`] if the registry does not respond, denies access, or has no such blob.
    pub async fn blob(
        &self,
        repository: &str,
        digest: &Digest,
        size: u64,
    ) -> Result<BlobReader, RegistryError> {
        BlobReader::open(
            self.repository(repository, Access::Pull)?,
            digest.clone(),
            size,
        )
        .await
    }
}
