//! Blobs of a repository: existence, and content from a byte offset (distribution-spec, "Pulling blobs").

use super::repository::Repository;
use super::request::RegistryRequest;
use super::response::{
    compressed, compression, content_length, content_type, header_digest, wrong_size,
};
use crate::error::{Operation, RegistryError};
use crate::manifest;
use crate::registries::clients::Pool;
use oci_spec::image::Digest;
use reqwest::header::{CONTENT_RANGE, HeaderMap, RANGE};
use reqwest::{Method, Response, Url};

/// Blobs below this size, in bytes, use the connection of the metadata: a connection of their own would cost more, and
/// together they do not fill its flow-control window.
pub(super) const SMALL: u64 = 32 * 1024;

/// Maximum number of addresses that are tried for one foreign layer.
const MAX_FOREIGN_URLS: usize = 4;

/// A blob that a registry reports to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FoundBlob {
    /// In bytes; `None` if the response does not contain it.
    pub(crate) size: Option<u64>,
}

pub(super) struct OpenBlob {
    pub(super) response: Response,
    /// Bytes at the beginning of this body to skip, because the registry ignored the range.
    pub(super) skip: u64,
    /// The content coding, which some storages declare for content that is not encoded.
    pub(super) compression: Option<String>,
}

impl Repository {
    pub(crate) async fn has_blob(&self, digest: &Digest) -> Result<bool, RegistryError> {
        Ok(self.head_blob(digest).await?.is_some())
    }

    /// Requests a blob by `HEAD`. Returns `None` if the registry does not have it.
    pub(crate) async fn head_blob(
        &self,
        digest: &Digest,
    ) -> Result<Option<FoundBlob>, RegistryError> {
        let subject = self.subject(Operation::FindBlob, &format!("@{digest}"));
        let url = self.url(&format!("blobs/{digest}"));
        // A redirect to the content means as much as 200, and signed URLs may refuse a HEAD.
        let mut request =
            RegistryRequest::new(&subject, Method::HEAD, url, &self.scopes, Pool::Small)
                .accept(&[301, 302, 303, 307, 308, 404]);
        request.follow = false;
        let response = self.registry.send(&request).await?;
        // A response with another digest, or a page, is not this blob.
        let is_other = header_digest(response.headers()).is_some_and(|other| other != *digest)
            || manifest::is_page_type(&content_type(&response));
        let is_success = response.status().is_success();
        if response.status() == 404 || is_success && is_other {
            return Ok(None);
        }
        // A redirect has a body of its own, and an encoded body another length.
        let is_plain = is_success && compression(response.headers()).is_none();
        let size = is_plain.then(|| content_length(response.headers()));
        Ok(Some(FoundBlob {
            size: size.flatten(),
        }))
    }

    /// Opens the content of a blob from byte `offset` on (RFC 9110 section 14). Always sends the request to the registry,
    /// because redirect targets expire.
    pub(super) async fn open_blob(
        &self,
        digest: &Digest,
        size: u64,
        offset: u64,
    ) -> Result<OpenBlob, RegistryError> {
        let url = self.url(&format!("blobs/{digest}"));
        self.open_url(&url, digest, size, offset).await
    }

    /// Opens a foreign layer at the first of its addresses that has it.
    pub(super) async fn open_foreign(
        &self,
        digest: &Digest,
        size: u64,
        urls: &[String],
    ) -> Result<(Url, OpenBlob), RegistryError> {
        let subject = self.subject(Operation::ReadBlob, &format!("@{digest}"));
        let mut last = RegistryError::protocol(&subject, "its descriptor has no usable address");
        for url in urls.iter().take(MAX_FOREIGN_URLS) {
            let Ok(url) = Url::parse(url) else { continue };
            if let Err(error) = self.registry.check_foreign(&subject, &url) {
                last = error;
                continue;
            }
            match self.open_url(&url, digest, size, 0).await {
                Ok(open) => return Ok((url, open)),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    pub(super) async fn open_url(
        &self,
        url: &Url,
        digest: &Digest,
        size: u64,
        offset: u64,
    ) -> Result<OpenBlob, RegistryError> {
        let subject = self.subject(Operation::ReadBlob, &format!("@{digest}"));
        let pool = if size < SMALL {
            Pool::Small
        } else {
            Pool::Bulk
        };
        let mut request =
            RegistryRequest::new(&subject, Method::GET, url.clone(), &self.scopes, pool);
        if offset > 0 {
            request = request.header(RANGE, &format!("bytes={offset}-"));
        }
        let response = self.registry.send(&request).await?;
        let skip = match response.status().as_u16() {
            206 if offset > 0 && first_byte(response.headers()) == Some(offset) => 0,
            206 => {
                return Err(RegistryError::protocol(
                    &subject,
                    "the registry returned the wrong range; check any proxy before the registry",
                ));
            }
            _ => offset,
        };
        let rest = size - (offset - skip);
        let compression = compression(response.headers());
        match content_length(response.headers()) {
            Some(actual) if actual != rest => Err(match compression {
                Some(compression) => compressed(&subject, &compression),
                None => wrong_size(&subject, size, actual.saturating_add(size - rest)),
            }),
            _ => Ok(OpenBlob {
                response,
                skip,
                compression,
            }),
        }
    }
}

/// Returns the first byte of `Content-Range: bytes <first>-<last>/<size>` (RFC 9110 section 14.4).
pub(super) fn first_byte(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    let range = range.trim().strip_prefix("bytes")?;
    range.trim().split('-').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::Access;
    use super::super::BlobReader;
    use super::super::testing::{registry, respond};
    use crate::hash::Hasher;
    use crate::reference::TagOrDigest;
    use oci_spec::image::Digest;

    const CONTENT: &[u8] = br#"{"schemaVersion":2}"#;
    /// As long as the content, so that only the digest differs.
    const GZIPPED: &[u8] = b"\x1f\x8b\x08\x00pretends to be ";

    /// Reads a manifest and a blob, both with this body.
    async fn errors(body: &'static [u8], coding: &'static str) -> [Option<String>; 2] {
        let (registry, _) =
            registry(move |_, _| respond(200, &[("content-encoding", coding)], body)).await;
        let repository = registry.repository("a/b", Access::Pull).unwrap();
        let any: Digest = format!("sha256:{:064x}", 1).parse().unwrap();
        let mut hasher = Hasher::for_digest(&any).unwrap();
        hasher.update(CONTENT);
        let digest: Digest = hasher.finish().parse().unwrap();
        let reference = TagOrDigest::Digest(digest.clone());
        let manifest = repository.manifest(&reference).await.err();
        let size = CONTENT.len() as u64;
        let blob = match BlobReader::open(repository, digest, size).await {
            Ok(mut reader) => reader.next().await.err(),
            Err(error) => Some(error),
        };
        [manifest, blob].map(|error| error.map(|error| error.to_string()))
    }

    #[tokio::test]
    async fn a_compressed_response_is_not_called_wrong_content() {
        for body in [GZIPPED, b"\x1f\x8b\x08short"] {
            for error in errors(body, "gzip").await {
                let error = error.unwrap();
                assert!(error.contains("(Content-Encoding: gzip)"), "{error}");
            }
        }
        for error in errors(GZIPPED, "identity").await {
            let error = error.unwrap();
            assert!(!error.contains("compressed"), "{error}");
        }
    }

    /// Storages declare a coding for layers that they serve unchanged.
    #[tokio::test]
    async fn content_that_verifies_may_have_a_content_encoding() {
        let [_, blob] = errors(CONTENT, "gzip").await;
        assert_eq!(blob, None);
    }
}
