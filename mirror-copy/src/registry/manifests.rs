//! Manifests of a repository: resolving references, reading and pushing.

use super::repository::Repository;
use super::request::RegistryRequest;
use super::response::{
    bounded_body, check_stored_digest, content_length, content_type, header_digest, wrong_size,
};
use crate::error::{Operation, RegistryError, Subject};
use crate::hash::{Hasher, is_verifiable};
use crate::manifest::{
    self, DOCKER_LIST, DOCKER_MANIFEST, Descriptor, ManifestError, OCI_INDEX, OCI_MANIFEST,
};
use crate::reference::TagOrDigest;
use crate::registries::clients::Pool;
use crate::text::clean;
use bytes::Bytes;
use oci_spec::image::{Digest, DigestAlgorithm};
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Method, Response};
use std::sync::atomic::Ordering;

/// Maximum size of a manifest, in bytes. The specification requires at least 4 MiB; larger ones exist, and most registries
/// refuse them.
const MAX_MANIFEST: u64 = 8 * 1024 * 1024;

/// The manifest that a tag or digest stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Digest of the manifest.
    pub digest: Digest,
    /// Media type that the registry reports, without parameters; may be empty.
    pub media_type: String,
    /// Size in bytes, if the registry reports it, else 0.
    pub size: u64,
}

/// A manifest as the registry stores it.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// The content that the digest is of.
    pub bytes: Bytes,
    /// Media type of the response, without parameters.
    pub media_type: String,
    /// The verified digest.
    pub digest: Digest,
}

/// A resolved reference, with the manifest if it had to be read for that.
pub(crate) struct Located {
    pub(crate) resolved: Resolved,
    pub(crate) manifest: Option<Manifest>,
}

impl Located {
    pub(crate) fn of(manifest: Manifest) -> Self {
        let resolved = Resolved {
            digest: manifest.digest.clone(),
            media_type: manifest.media_type.clone(),
            size: manifest.bytes.len() as u64,
        };
        Self {
            resolved,
            manifest: Some(manifest),
        }
    }

    /// A digest for which no request was sent.
    pub(crate) fn unseen(digest: Digest) -> Self {
        let resolved = Resolved {
            digest,
            media_type: String::new(),
            size: 0,
        };
        Self {
            resolved,
            manifest: None,
        }
    }
}

/// The response to a manifest that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pushed {
    /// The registry lists the manifest as a referrer of its `subject` (distribution-spec, "Pushing Manifests with Subject").
    /// Otherwise the client must update the referrers tag of the subject.
    pub(crate) subject_known: bool,
}

#[derive(Clone, Copy)]
enum Attempts {
    One,
    OfPolicy,
}

impl Repository {
    /// Resolves a reference by `HEAD`, or by reading the manifest if the response is not sufficient.
    pub(crate) async fn locate(
        &self,
        reference: &TagOrDigest,
    ) -> Result<Option<Located>, RegistryError> {
        self.locate_with(reference, Attempts::OfPolicy).await
    }

    /// Resolves a reference without retries.
    pub(super) async fn locate_once(
        &self,
        reference: &TagOrDigest,
    ) -> Result<Option<Located>, RegistryError> {
        self.locate_with(reference, Attempts::One).await
    }

    async fn locate_with(
        &self,
        reference: &TagOrDigest,
        attempts: Attempts,
    ) -> Result<Option<Located>, RegistryError> {
        let subject = self.subject(Operation::ReadManifest, &reference.suffix());
        let url = self.manifest_url(reference)?;
        // 400: only the body, which a response to HEAD does not have, has the cause. 405: a few proxies do not support HEAD.
        let request = RegistryRequest::new(&subject, Method::HEAD, url, &self.scopes, Pool::Small)
            .header(ACCEPT, manifest::ACCEPT)
            .accept(&[400, 404, 405]);
        let permit = self.metadata_permit().await;
        let response = match attempts {
            Attempts::One => self.registry.attempt(&request).await?,
            Attempts::OfPolicy => self.registry.send(&request).await?,
        };
        drop(permit);
        if response.status() == 404 {
            return Ok(None);
        }
        match self.resolved_by_head(reference, &response) {
            Some(resolved) => Ok(Some(Located {
                resolved,
                manifest: None,
            })),
            None => self.read(reference).await,
        }
    }

    /// Returns the content of a response to `HEAD`, if it can be only about a manifest. A login page, a proxy without
    /// `HEAD`, and a registry that reports digests of other algorithms, or wrong ones, require reading the manifest.
    fn resolved_by_head(&self, reference: &TagOrDigest, response: &Response) -> Option<Resolved> {
        let media_type = content_type(response);
        if response.status() != 200 || manifest::is_page_type(&media_type) {
            return None;
        }
        let reported = header_digest(response.headers());
        let digest = match (reference, reported) {
            (TagOrDigest::Digest(wanted), Some(digest)) => (digest == *wanted).then_some(digest),
            (TagOrDigest::Digest(wanted), None) => {
                manifest::is_manifest_type(&media_type).then(|| wanted.clone())
            }
            (TagOrDigest::Tag(_), digest) => digest.filter(|digest| {
                *digest.algorithm() == DigestAlgorithm::Sha256
                    && is_verifiable(digest)
                    && (self.registry.counts_reads() || !self.registry.reports_wrong_digests())
            }),
        };
        Some(Resolved {
            digest: digest?,
            media_type,
            size: content_length(response.headers()).unwrap_or_default(),
        })
    }

    /// Resolves a reference by reading the manifest.
    pub(crate) async fn read(
        &self,
        reference: &TagOrDigest,
    ) -> Result<Option<Located>, RegistryError> {
        let found = match self.manifest(reference).await {
            Ok(found) => found,
            Err(error) if error.status() == Some(404) => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(Some(Located::of(found)))
    }

    pub(crate) async fn has_manifest(&self, digest: &Digest) -> Result<bool, RegistryError> {
        let reference = TagOrDigest::Digest(digest.clone());
        Ok(self.locate(&reference).await?.is_some())
    }

    /// Reads a manifest. With a digest the content must match it; with a tag the digest is computed.
    pub(crate) async fn manifest(
        &self,
        reference: &TagOrDigest,
    ) -> Result<Manifest, RegistryError> {
        self.manifest_of_size(reference, None).await
    }

    /// Reads the manifest of a descriptor. It must match its digest and size; no more than that is read.
    pub(crate) async fn manifest_of(
        &self,
        descriptor: &Descriptor,
    ) -> Result<Manifest, RegistryError> {
        let reference = TagOrDigest::Digest(descriptor.digest.clone());
        self.manifest_of_size(&reference, Some(descriptor.size))
            .await
    }

    async fn manifest_of_size(
        &self,
        reference: &TagOrDigest,
        size: Option<u64>,
    ) -> Result<Manifest, RegistryError> {
        let subject = self.subject(Operation::ReadManifest, &reference.suffix());
        let url = self.manifest_url(reference)?;
        let request = RegistryRequest::new(&subject, Method::GET, url, &self.scopes, Pool::Small)
            .header(ACCEPT, manifest::ACCEPT);
        let limit = size.unwrap_or(MAX_MANIFEST).min(MAX_MANIFEST);
        let idle = self.registry.timeouts().idle;
        // The body is part of the attempt: the connection may break within it.
        super::retrying(self.registry.retry_policy(), || async {
            let _permit = self.metadata_permit().await;
            let response = self.registry.attempt(&request).await?;
            let media_type = content_type(&response);
            let reported = header_digest(response.headers());
            let announced = content_length(response.headers()).unwrap_or_default();
            let reservation = self.reservation_of_copy().cloned();
            let is_of_copy = reservation.is_some();
            let reservation = reservation.unwrap_or_else(|| self.registry.reservation());
            let body = bounded_body(response, &subject, limit, idle, &reservation).await;
            let body = body.map_err(|error| match (error, size) {
                (RegistryError::TooLarge { limit, .. }, Some(size)) if size == limit => {
                    wrong_size(&subject, size, announced.max(size.saturating_add(1)))
                }
                (error, _) => error,
            })?;
            // For a copy the bytes hold their memory. Otherwise the caller owns them.
            let bytes = if is_of_copy {
                Bytes::from_owner(body)
            } else {
                body.0.into()
            };
            let digest = match reference {
                TagOrDigest::Digest(digest) => {
                    self.verified(&subject, digest, &bytes, &media_type)?
                }
                TagOrDigest::Tag(_) => self.computed_digest(&subject, reported.as_ref(), &bytes)?,
            };
            self.check_shape(&subject, reference, &bytes, &media_type)?;
            let actual = bytes.len() as u64;
            if let Some(size) = size.filter(|size| *size != actual) {
                return Err(wrong_size(&subject, size, actual));
            }
            Ok(Manifest {
                bytes,
                media_type,
                digest,
            })
        })
        .await
    }

    pub(crate) async fn put_manifest(
        &self,
        reference: &TagOrDigest,
        media_type: &str,
        found: &Manifest,
    ) -> Result<Pushed, RegistryError> {
        // Parts may be missing: the caller knows which it has just sent, and retries accordingly.
        self.put(reference, media_type, found, &[400, 404]).await
    }

    /// Pushes a manifest with foreign layers. Distribution refuses their addresses with 500 and the code `UNKNOWN`, which is
    /// permanent; any other 500 is transient.
    pub(crate) async fn put_foreign_manifest(
        &self,
        reference: &TagOrDigest,
        media_type: &str,
        found: &Manifest,
    ) -> Result<Pushed, RegistryError> {
        let put = self.put(reference, media_type, found, &[400, 404, 500]);
        match put.await {
            Err(error) if error.status() == Some(500) && error.code() != Some("UNKNOWN") => {
                self.put_manifest(reference, media_type, found).await
            }
            result => result,
        }
    }

    async fn put(
        &self,
        reference: &TagOrDigest,
        media_type: &str,
        found: &Manifest,
        refusals: &'static [u16],
    ) -> Result<Pushed, RegistryError> {
        let subject = self.subject(Operation::WriteManifest, &reference.suffix());
        let url = self.manifest_url(reference)?;
        let mut request =
            RegistryRequest::new(&subject, Method::PUT, url, &self.scopes, Pool::Small)
                .header(CONTENT_TYPE, media_type)
                .accept(refusals);
        request.body = found.bytes.clone();
        let sent = match self.registry.send(&request).await {
            Ok(response) if response.status().is_success() => Ok(response),
            Ok(response) => Err(self.registry.refusal(&subject, response).await),
            Err(error) => Err(error),
        };
        let response = sent.map_err(|error| match media_type {
            OCI_INDEX | OCI_MANIFEST | DOCKER_LIST | DOCKER_MANIFEST => error,
            _ => error.of_unusual("MANIFEST_INVALID"),
        })?;
        let kind = content_type(&response);
        if manifest::is_page_type(&kind) {
            return Err(page(&subject, &kind));
        }
        check_stored_digest(&subject, &found.digest, response.headers())?;
        Ok(Pushed {
            subject_known: response.headers().contains_key("oci-subject"),
        })
    }

    fn verified(
        &self,
        subject: &Subject,
        digest: &Digest,
        bytes: &[u8],
        media_type: &str,
    ) -> Result<Digest, RegistryError> {
        let hasher = Hasher::for_digest(digest).ok_or_else(|| RegistryError::Algorithm {
            subject: subject.clone(),
        })?;
        let actual = hasher.of(bytes);
        if actual == digest.as_ref() {
            return Ok(digest.clone());
        }
        let is_document = !manifest::is_manifest_type(media_type)
            && matches!(
                manifest::check_shape(bytes),
                Err(ManifestError::NotAManifest)
            );
        if manifest::is_page_type(media_type) || is_document {
            return Err(page(subject, media_type));
        }
        // A schema 1 digest excludes the signatures, so it never matches; the error names the real cause.
        if let Err(source @ ManifestError::Schema1) = manifest::read(bytes, media_type) {
            let object = self.object(&format!("@{digest}"));
            return Err(RegistryError::Manifest { object, source });
        }
        let (subject, expected) = (subject.clone(), digest.to_string());
        Err(RegistryError::Digest {
            subject,
            expected,
            actual,
        })
    }

    /// Refuses a body that is no manifest, whatever its status.
    fn check_shape(
        &self,
        subject: &Subject,
        reference: &TagOrDigest,
        bytes: &[u8],
        media_type: &str,
    ) -> Result<(), RegistryError> {
        manifest::check_shape(bytes).map_err(|source| match source {
            // With the right type it is a damaged manifest, not a page.
            ManifestError::NotAManifest if !manifest::is_manifest_type(media_type) => {
                page(subject, media_type)
            }
            source => RegistryError::Manifest {
                object: self.object(&reference.suffix()),
                source,
            },
        })
    }

    /// Returns the sha256 digest of the content, whatever algorithm the registry reports, so that digests can be compared.
    fn computed_digest(
        &self,
        subject: &Subject,
        reported: Option<&Digest>,
        bytes: &[u8],
    ) -> Result<Digest, RegistryError> {
        let computed = Hasher::sha256().of(bytes);
        let is_wrong = |digest: &Digest| {
            Hasher::for_digest(digest).is_none_or(|hasher| hasher.of(bytes) != digest.as_ref())
        };
        let wrong = reported.filter(|digest| digest.as_ref() != computed && is_wrong(digest));
        if let Some(reported) = wrong {
            let was_logged = &self.registry.shared.reported_wrong_digest;
            if was_logged.swap(true, Ordering::Relaxed) {
                tracing::debug!(%subject, %reported, computed, "registry reports a wrong digest");
            } else {
                tracing::warn!(
                    %subject, %reported, computed,
                    "registry reports a wrong digest; using the computed one, further ones of this registry are logged at debug"
                );
            }
        }
        computed
            .parse()
            .map_err(|_| RegistryError::protocol(subject, "its digest is malformed"))
    }
}

/// Returns the error for a response that is a document instead of a manifest.
pub(super) fn page(subject: &Subject, media_type: &str) -> RegistryError {
    let kind = match media_type {
        "" => "without a media type".to_owned(),
        media_type => format!("of type {}", clean(media_type)),
    };
    RegistryError::protocol(
        subject,
        format!(
            "the response is a document {kind}, not a manifest; check that the address is that of a registry, and what \
             responds instead (a login page, a proxy)"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::super::Access;
    use super::super::testing::{registry, respond};
    use super::*;

    const BODY: &str = r#"{"schemaVersion":2}"#;

    fn descriptor(digest: &str, size: u64) -> Descriptor {
        let text = format!(r#"{{"digest":"{digest}","size":{size}}}"#);
        Descriptor::read(serde_json::from_str(&text).unwrap()).unwrap()
    }

    #[rstest::rstest]
    #[case::right(BODY, BODY.len() as u64, None)]
    #[case::larger(BODY, 10, Some((10, 19)))]
    #[case::smaller(BODY, 20, Some((20, 19)))]
    #[case::much_larger(BODY, 0, Some((0, 19)))]
    #[tokio::test]
    async fn a_manifest_has_the_size_of_its_descriptor(
        #[case] body: &'static str,
        #[case] size: u64,
        #[case] wrong: Option<(u64, u64)>,
    ) {
        let (registry, log) = registry(move |_, _| respond(200, &[], body)).await;
        let repository = registry.repository("a", Access::Pull).unwrap();
        let digest = Hasher::sha256().of(body.as_bytes());
        let descriptor = descriptor(&digest, size);
        let seen = match repository.manifest_of(&descriptor).await {
            Ok(manifest) => {
                assert_eq!(manifest.bytes, body);
                None
            }
            Err(RegistryError::Size {
                expected, actual, ..
            }) => Some((expected, actual)),
            Err(error) => panic!("{error}"),
        };
        assert_eq!(seen, wrong);
        assert_eq!(log.lines().len(), 1);
    }

    #[rstest::rstest]
    #[case(true)]
    #[case(false)]
    #[tokio::test]
    async fn a_present_manifest_gets_another_tag(#[case] is_there: bool) {
        let (registry, log) = registry(move |parts, body| match parts.method {
            Method::GET if is_there => respond(200, &[("content-type", OCI_MANIFEST)], BODY),
            Method::PUT if body == BODY && parts.headers[CONTENT_TYPE] == OCI_MANIFEST => {
                respond(201, &[], "")
            }
            Method::GET => respond(404, &[], ""),
            _ => respond(400, &[], ""),
        })
        .await;
        let digest: Digest = Hasher::sha256().of(BODY.as_bytes()).parse().unwrap();
        assert_eq!(registry.tag("a", &digest, "1").await.unwrap(), is_there);
        let mut expected = vec![format!("GET /v2/a/manifests/{digest}")];
        if is_there {
            expected.push("PUT /v2/a/manifests/1".to_owned());
            expected.push("GET /v2/a/manifests/1".to_owned());
        }
        assert_eq!(log.lines(), expected);
    }

    /// Build caches put blobs into an index: for those a registry responds that it has no such manifest.
    #[rstest::rstest]
    #[case(404)]
    #[case(200)]
    #[tokio::test]
    async fn a_manifest_beyond_the_limit_is_requested_and_not_read(#[case] status: u16) {
        let body = vec![b' '; usize::try_from(MAX_MANIFEST).unwrap() + 1];
        let (registry, _) = registry(move |_, _| respond(status, &[], body.clone())).await;
        let repository = registry.repository("a", Access::Pull).unwrap();
        let digest = format!("sha256:{}", "0".repeat(64));
        let descriptor = descriptor(&digest, MAX_MANIFEST + 1);
        let error = repository.manifest_of(&descriptor).await.unwrap_err();
        let too_large =
            matches!(error, RegistryError::TooLarge { limit, .. } if limit == MAX_MANIFEST);
        assert_eq!(
            (error.status(), too_large),
            match status {
                404 => (Some(404), false),
                _ => (None, true),
            }
        );
    }

    /// The response of distribution to disallowed addresses of layers is permanent; any other 500 is transient.
    #[rstest::rstest]
    #[case(r#"{"errors":[{"code":"UNKNOWN","message":"unknown error"}]}"#, 1)]
    #[case("", 4)]
    #[tokio::test]
    async fn refused_foreign_layers_are_final(#[case] body: &'static str, #[case] attempts: usize) {
        let (registry, log) = registry(move |_, _| respond(500, &[], body)).await;
        let repository = registry.repository("a", Access::Push).unwrap();
        let digest: Digest = Hasher::sha256().of(BODY.as_bytes()).parse().unwrap();
        let manifest = Manifest {
            bytes: BODY.into(),
            media_type: OCI_MANIFEST.into(),
            digest: digest.clone(),
        };
        let reference = TagOrDigest::Digest(digest.clone());
        let put = repository.put_foreign_manifest(&reference, OCI_MANIFEST, &manifest);
        let error = put
            .await
            .unwrap_err()
            .of_foreign_layers(std::slice::from_ref(&digest));
        assert_eq!(error.retry().is_transient(), attempts > 1, "{error}");
        assert_eq!(log.lines().len(), attempts);
        let text = error.to_string();
        let is_named = text.contains(digest.as_ref()) && text.contains("manifests.urls.allow");
        assert_eq!(is_named, attempts == 1, "{text}");
    }
}
