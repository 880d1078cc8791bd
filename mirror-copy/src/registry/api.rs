//! What a registry is asked for: the methods of [`Registry`] that send requests.

use super::blob_reader::BlobReader;
use super::manifests::{Manifest, Resolved};
use super::pool::Pool;
use super::repository::Access;
use super::request::{RegistryRequest, retrying};
use super::token::Scopes;
use super::{Registry, response};
use crate::error::{Operation, RegistryError, Subject};
use crate::reference::TagOrDigest;
use oci_spec::image::Digest;
use reqwest::Method;

impl Registry {
    /// Whether this host speaks the registry protocol and accepts the configured credentials:
    /// `GET /v2/` (distribution-spec, "Determining Support"), with a login if it asks for one. A login page is no registry.
    pub async fn ping(&self) -> Result<(), RegistryError> {
        retrying(self.retry_policy(), || async {
            let attempt = self.probe().await;
            self.shared.last_failures.record(Operation::Ping, &attempt);
            attempt
        })
        .await
    }

    /// The same with a single attempt, for those who ask again anyway.
    pub async fn probe(&self) -> Result<(), RegistryError> {
        let subject = Subject {
            operation: Operation::Ping,
            object: format!("registry {}", self.host()),
        };
        let url = self.shared.endpoint.base.clone();
        let scopes = Scopes::default();
        let call = RegistryRequest::new(&subject, Method::GET, url, &scopes, Pool::Small);
        let response = self.attempt(&call).await?;
        response::check_registry(response, &subject, self.timeouts().idle).await
    }

    /// What a tag or digest stands for now, or `None` where the registry has no such manifest. By
    /// `HEAD`, which registries with a pull quota do not count; by `GET` and the content's own hash
    /// where the answer names no digest.
    pub async fn resolve(
        &self,
        repository: &str,
        reference: &TagOrDigest,
    ) -> Result<Option<Resolved>, RegistryError> {
        let repository = self.repository(repository, Access::Pull)?;
        let located = repository.locate(reference).await?;
        Ok(located.map(|located| located.resolved))
    }

    /// As [`Self::resolve`], with the right to push requested along with the right to pull. What may be pushed to may be
    /// read by registries that hide everything else, and copies use the same tokens.
    pub async fn resolve_to_write(
        &self,
        repository: &str,
        reference: &TagOrDigest,
    ) -> Result<Option<Resolved>, RegistryError> {
        let repository = self.repository(repository, Access::Push)?;
        let located = repository.locate(reference).await?;
        Ok(located.map(|located| located.resolved))
    }

    /// A manifest as the bytes that the registry keeps: at most 8 MiB, verified when asked for by
    /// digest; a tag's digest is the hash of what came.
    pub async fn manifest(
        &self,
        repository: &str,
        reference: &TagOrDigest,
    ) -> Result<Manifest, RegistryError> {
        self.repository(repository, Access::Pull)?
            .manifest(reference)
            .await
    }

    /// Gives one more tag to a manifest that is in the repository, byte for byte, and reads it back by that tag; the tag
    /// may stand for another one so far. `false` if there is no such manifest, or not all of what it names; then nothing
    /// was changed.
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

    /// Checks that the credentials may push to a repository: opens an upload, and cancels it. Writes nothing.
    pub async fn check_push(&self, repository: &str) -> Result<(), RegistryError> {
        let repository = self.repository(repository, Access::Push)?;
        let session = repository.open_upload("").await?;
        repository.cancel(&session).await;
        Ok(())
    }

    /// All tags of a repository, in the registry's order (distribution-spec, "Listing Tags"), page by page;
    /// at most 100 000.
    pub async fn tags(&self, repository: &str) -> Result<Vec<String>, RegistryError> {
        self.repository(repository, Access::Pull)?.tags().await
    }

    /// Opens a blob for reading. What comes is verified: the last bytes are only handed out when
    /// size and digest are right.
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
