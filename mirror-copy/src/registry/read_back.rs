//! Reads back manifests that were written. A success response to a write is only a claim: proxies respond 200 to everything,
//! registries show writes seconds later, store other bytes, or store nothing.

use super::manifests::Manifest;
use super::repository::Repository;
use super::request::RegistryRequest;
use super::response::has_body;
use super::response::{content_type, header_digest};
use crate::error::{Operation, RegistryError};
use crate::manifest;
use crate::reference::TagOrDigest;
use crate::registries::RetryPolicy;
use crate::registries::clients::Pool;
use oci_spec::image::Digest;
use reqwest::Method;
use reqwest::header::ACCEPT;
use std::time::Duration;
use tokio::time::sleep;

/// The response of a registry for a reference.
#[derive(Debug, PartialEq, Eq)]
enum Shown {
    Expected,
    Missing,
    /// Other content, with the digest and the media type of the response.
    Other(Option<Digest>, String),
}

/// Returns the waits between requests for something that was just written: they double, and are together at most
/// [`RetryPolicy::visible_within`].
pub(crate) fn visibility_pauses(policy: &RetryPolicy) -> impl Iterator<Item = Duration> + use<> {
    let (mut next, mut left) = (
        policy.first_delay.max(Duration::from_millis(1)),
        policy.visible_within,
    );
    std::iter::from_fn(move || {
        let pause = next.min(left);
        left = left.saturating_sub(pause);
        next = next.saturating_mul(2);
        (!pause.is_zero()).then_some(pause)
    })
}

impl Repository {
    /// Waits until the registry returns the manifest that it accepted: the same bytes, with a media type that a runtime
    /// accepts for them. This is one request in the normal case, and more with exponential backoff while the reference does
    /// not exist or still stands for the previous manifest (`is_older`).
    ///
    /// The body is compared as it arrives, so that it takes no memory. Of registries that limit how many manifests are read
    /// (Docker Hub) only the digest is requested.
    pub(crate) async fn read_back(
        &self,
        reference: &TagOrDigest,
        media_type: &str,
        written: &Manifest,
        is_older: impl Fn(&Digest) -> bool,
    ) -> Result<(), RegistryError> {
        let policy = self.registry.retry_policy();
        let mut pauses = visibility_pauses(policy);
        loop {
            let shown = self.shown(reference, media_type, written).await?;
            let is_older = match &shown {
                Shown::Expected => return Ok(()),
                Shown::Missing => false,
                Shown::Other(digest, _) => digest.as_ref().is_some_and(&is_older),
            };
            let may_change = is_older || shown == Shown::Missing;
            match pauses.next().filter(|_| may_change) {
                Some(pause) => {
                    tracing::debug!(object = %self.object(&reference.suffix()), ?shown, ?pause, "the registry does not show the manifest yet; requesting it again");
                    sleep(pause).await;
                }
                None => return Err(self.not_kept(reference, written, shown, is_older)),
            }
        }
    }

    async fn shown(
        &self,
        reference: &TagOrDigest,
        expected_type: &str,
        expected: &Manifest,
    ) -> Result<Shown, RegistryError> {
        if self.registry.counts_reads() {
            let located = self.locate(reference).await?;
            return Ok(match located.map(|located| located.resolved) {
                None => Shown::Missing,
                Some(found) if found.digest == expected.digest => Shown::Expected,
                Some(found) => Shown::Other(Some(found.digest), found.media_type),
            });
        }
        let subject = self.subject(Operation::ReadManifest, &reference.suffix());
        let url = self.manifest_url(reference)?;
        let request = RegistryRequest::new(&subject, Method::GET, url, &self.scopes, Pool::Small)
            .header(ACCEPT, manifest::ACCEPT)
            .accept(&[404]);
        let idle = self.registry.timeouts().idle;
        super::retrying(self.registry.retry_policy(), || async {
            let response = self.registry.attempt(&request).await?;
            if response.status() == 404 {
                return Ok(Shown::Missing);
            }
            let media_type = content_type(&response);
            let reported = header_digest(response.headers());
            // A runtime uses the type in the header.
            let is_usable = media_type == manifest::bare_type(expected_type)
                || !manifest::is_page_type(&media_type) && !manifest::is_manifest_type(&media_type);
            let is_same = has_body(response, &expected.bytes, &subject, idle).await?;
            Ok(if is_same && is_usable {
                Shown::Expected
            } else {
                Shown::Other(reported, media_type)
            })
        })
        .await
    }

    fn not_kept(
        &self,
        reference: &TagOrDigest,
        written: &Manifest,
        shown: Shown,
        is_older: bool,
    ) -> RegistryError {
        let subject = self.subject(Operation::ReadManifest, &reference.suffix());
        let shown = match shown {
            Shown::Other(_, media_type) if manifest::is_page_type(&media_type) => {
                return super::manifests::page(&subject, &media_type);
            }
            Shown::Other(Some(digest), _) if is_older => format!("still returns {digest}"),
            Shown::Other(Some(digest), _) if digest != written.digest => {
                return RegistryError::Digest {
                    subject,
                    expected: written.digest.to_string(),
                    actual: digest.to_string(),
                };
            }
            Shown::Other(..) => {
                let reason = "the registry returns other content than it accepted, or another media type; check any proxy before the registry";
                return RegistryError::protocol(&subject, reason);
            }
            Shown::Missing | Shown::Expected => "has no such manifest".to_owned(),
        };
        RegistryError::NotKept {
            subject,
            within: self.registry.retry_policy().visible_within,
            shown,
        }
    }
}

#[cfg(test)]
mod tests;
