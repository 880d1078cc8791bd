//! Single tags that are made of digests.

use super::Registry;
use super::repository::{Access, Repository};
use crate::error::{Operation, RegistryError};
use crate::reference::TagOrDigest;
use oci_spec::image::Digest;
use tokio::time::timeout;

impl Repository {
    /// Returns the digest of what has this tag, or `None` if there is no such tag. This is one `HEAD`, and a `GET` if that
    /// names no digest. A failure is not retried.
    pub(crate) async fn digest_tag(&self, tag: &str) -> Result<Option<Digest>, RegistryError> {
        let reference = TagOrDigest::Tag(tag.to_owned());
        let located = self
            .within_patience(tag, self.locate_once(&reference))
            .await?;
        Ok(located.map(|located| located.resolved.digest))
    }

    /// Waits for the response to a request for a tag of a digest as long as for a list. After a host that did not respond in
    /// time, none is sent to it for a while: nobody waits for that twice.
    pub(crate) async fn within_patience<T>(
        &self,
        tag: &str,
        request: impl Future<Output = Result<T, RegistryError>>,
    ) -> Result<T, RegistryError> {
        let subject = self.subject(Operation::ReadManifest, &format!(":{tag}"));
        let capabilities = &self.registry.shared.capabilities;
        // A pause that the host asked for is no failure of its.
        self.registry.shared.gates.pass(subject.operation).await;
        let after = self.registry.timeouts().list;
        if capabilities.shows_digest_tags() {
            if let Ok(done) = timeout(after, request).await {
                return done;
            }
            if !self.registry.is_paused() {
                capabilities.digest_tags_hang();
            }
        }
        Err(RegistryError::Timeout { subject, after })
    }
}

impl Registry {
    /// Forgets which tags of digests a repository has, so that the next copy from it lists them. Use it after a tag was seen
    /// that copies are to bring.
    pub fn forget_digest_tags(&self, repository: &str) {
        if let Ok(repository) = self.repository(repository, Access::Pull) {
            let lists = &self.shared.common.digest_tags;
            lists.lock().remove(&repository.object(""));
        }
    }
}
