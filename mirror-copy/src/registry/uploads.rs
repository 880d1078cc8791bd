//! Upload sessions of a repository: opening, mounting instead, filling and cancelling (distribution-spec, "Pushing Blobs").

use super::blob_reader::Content;
use super::repository::Repository;
use super::request::RegistryRequest;
use super::response::check_stored_digest;
use super::streaming_upload::Streamed;
use crate::error::{Operation, RegistryError, Subject};
use crate::lock::lock;
use crate::registries::clients::Pool;
use bytes::Bytes;
use oci_spec::image::{Digest, DigestAlgorithm};
use reqwest::header::{HeaderMap, LOCATION};
use reqwest::{Body, Method, Response, StatusCode, Url};
use std::sync::Mutex;

/// Header with the minimum size of a chunk in bytes (distribution-spec, "Pushing a blob in chunks").
const CHUNK_MIN_LENGTH: &str = "oci-chunk-min-length";

pub(crate) struct Session {
    /// The URL of the next request. Every response may name a new one.
    url: Mutex<Url>,
    /// Minimum size of a chunk in bytes; 0 if the registry names none.
    pub(super) min_chunk: u64,
}

impl Session {
    pub(super) fn url(&self) -> Url {
        lock(&self.url).clone()
    }

    fn moved(&self, url: Url) {
        *lock(&self.url) = url;
    }
}

/// The response to a request to mount a blob.
pub(crate) enum MountResponse {
    Mounted,
    /// The blob was not mounted; the registry opened a session instead.
    Session(Session),
}

impl Repository {
    /// Opens an upload session (distribution-spec, "POST then PUT").
    pub(crate) async fn start_upload(&self, digest: &Digest) -> Result<Session, RegistryError> {
        self.open_upload(&format!("@{digest}")).await
    }

    /// Opens an upload session. `object` is the name of the blob in errors.
    pub(crate) async fn open_upload(&self, object: &str) -> Result<Session, RegistryError> {
        let subject = self.subject(Operation::StartUpload, object);
        let url = self.url("blobs/uploads/");
        let request = RegistryRequest::new(&subject, Method::POST, url, &self.scopes, Pool::Small);
        let response = self.registry.send(&request).await?;
        self.session(&subject, &response)
    }

    /// Mounts a blob of another repository of this registry (distribution-spec, "Mounting a blob from another repository").
    pub(crate) async fn mount(
        &self,
        digest: &Digest,
        from: &str,
    ) -> Result<MountResponse, RegistryError> {
        let subject = self.subject(Operation::StartUpload, &format!("@{digest}"));
        let mut url = self.url("blobs/uploads/");
        url.query_pairs_mut()
            .append_pair("mount", digest.as_ref())
            .append_pair("from", from);
        // The right to write a repository includes reading it.
        let scopes = if from == self.name.as_ref() {
            self.scopes.clone()
        } else {
            self.scopes.and_pull(from)
        };
        let request = RegistryRequest::new(&subject, Method::POST, url, &scopes, Pool::Small);
        let response = self.registry.send(&request).await?;
        if response.status() == 201 {
            return Ok(MountResponse::Mounted);
        }
        self.session(&subject, &response)
            .map(MountResponse::Session)
    }

    /// Fills a session with exactly `size` bytes and closes it: in one request, or in chunks if the registry is known to
    /// refuse that. The first refusal is a transient error.
    pub(crate) async fn put_blob(
        &self,
        session: &Session,
        digest: &Digest,
        size: u64,
        content: Content,
    ) -> Result<(), RegistryError> {
        let sent = if self.registry.shared.capabilities.takes_whole(size) {
            self.put_whole(session, digest, size, content).await
        } else {
            self.put_in_chunks(session, digest, size, content).await
        };
        sent.map_err(|error| match digest.algorithm() {
            DigestAlgorithm::Sha256 => error,
            _ => error.of_unusual("DIGEST_INVALID"),
        })
    }

    async fn put_whole(
        &self,
        session: &Session,
        digest: &Digest,
        size: u64,
        content: Content,
    ) -> Result<(), RegistryError> {
        let subject = self.subject(Operation::WriteBlob, &format!("@{digest}"));
        let body = match size {
            0 => Body::from(Bytes::new()),
            _ => Body::wrap_stream(content),
        };
        let request = Streamed {
            subject: &subject,
            method: Method::PUT,
            url: closing_url(&session.url(), digest),
            scopes: &self.scopes,
            length: size,
            chunk_at: None,
            body,
        };
        match self.registry.send_stream(request).await {
            Ok(response) => self.committed(&subject, digest, &response, true).await,
            Err(RegistryError::Status {
                status,
                ref code,
                ref message,
                ..
            }) if size > 0 && is_about_wholeness(status, code, message) => {
                self.registry
                    .shared
                    .capabilities
                    .refused_whole(size, status);
                tracing::info!(host = self.registry.host(), %status, size, "the registry refuses large blobs in one request; sending them in chunks from now on");
                Err(RegistryError::Whole { subject, status })
            }
            Err(error) => Err(error),
        }
    }

    /// Checks the response that closes a session. `certain`: all responses before it conformed to the specification.
    pub(super) async fn committed(
        &self,
        subject: &Subject,
        digest: &Digest,
        response: &Response,
        certain: bool,
    ) -> Result<(), RegistryError> {
        check_stored_digest(subject, digest, response.headers())?;
        // 201 means success; after other statuses, which some registries use, the blob is checked.
        let is_created = certain && response.status() == StatusCode::CREATED;
        if !is_created && !self.has_blob(digest).await? {
            let reason = format!(
                "the registry returned {} and does not have the blob",
                response.status()
            );
            return Err(RegistryError::protocol(subject, reason));
        }
        Ok(())
    }

    /// Cancels a session. Failures are ignored: registries expire sessions anyway.
    pub(crate) async fn cancel(&self, session: &Session) {
        let subject = self.subject(Operation::CancelUpload, "");
        let url = session.url();
        let request =
            RegistryRequest::new(&subject, Method::DELETE, url, &self.scopes, Pool::Small);
        if let Err(error) = self.registry.attempt(&request).await {
            tracing::debug!(%error, "cannot cancel the upload session; leaving it to expire");
        }
    }

    /// Returns the session that a response opened.
    fn session(&self, subject: &Subject, response: &Response) -> Result<Session, RegistryError> {
        let url = self
            .location(subject, response.url(), response.headers())?
            .ok_or_else(|| {
                let reason = "the response has no upload location; check that the address is that of a registry, and what \
                     responds instead (a web page, a proxy)";
                RegistryError::protocol(subject, reason)
            })?;
        Ok(Session {
            url: Mutex::new(url),
            min_chunk: min_chunk(response.headers()).unwrap_or_default(),
        })
    }

    /// Moves a session to the location of a response, if it names one.
    pub(super) fn follow(
        &self,
        session: &Session,
        subject: &Subject,
        response: &Response,
    ) -> Result<(), RegistryError> {
        if let Some(url) = self.location(subject, response.url(), response.headers())? {
            session.moved(url);
        }
        Ok(())
    }

    /// Returns the `Location` of a response from this URL: absolute or relative, with its query unchanged.
    pub(super) fn location(
        &self,
        subject: &Subject,
        from: &Url,
        headers: &HeaderMap,
    ) -> Result<Option<Url>, RegistryError> {
        let bad = |reason: &str| RegistryError::protocol(subject, reason);
        let Some(location) = header(headers, LOCATION.as_str()) else {
            return Ok(None);
        };
        let url = from
            .join(location)
            .map_err(|_| bad("the upload location is not a URL"))?;
        let url = self.registry.checked_location(subject, url)?;
        match (self.registry.shared.endpoint.base.scheme(), url.scheme()) {
            ("https", "http") => Err(bad("the upload location would leave HTTPS")),
            (_, "https" | "http") => Ok(Some(url)),
            _ => Err(bad("the upload location is neither HTTPS nor HTTP")),
        }
    }
}

pub(super) fn min_chunk(headers: &HeaderMap) -> Option<u64> {
    header(headers, CHUNK_MIN_LENGTH)?.trim().parse().ok()
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Returns whether a refusal may be about the size or the form of the request. A used-up storage quota also causes 413,
/// which chunks do not avoid.
pub(super) fn is_about_wholeness(status: StatusCode, code: &str, message: &str) -> bool {
    let is_quota = [code, message]
        .iter()
        .any(|text| text.to_ascii_lowercase().contains("quota"));
    !is_quota && matches!(status.as_u16(), 405 | 413 | 416 | 501)
}

/// Returns the URL of the session with `digest=` appended to its query.
pub(super) fn closing_url(session: &Url, digest: &Digest) -> Url {
    let mut url = session.clone();
    let digest = digest.as_ref().replacen(':', "%3A", 1);
    let query = match url.query() {
        None | Some("") => format!("digest={digest}"),
        Some(query) => format!("{query}&digest={digest}"),
    };
    url.set_query(Some(&query));
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    #[case("https://r/v2/a/blobs/uploads/1", "?digest=sha256%3A")]
    #[case(
        "https://r/u?_state=a%2Fb%3D%3D&x=1",
        "?_state=a%2Fb%3D%3D&x=1&digest=sha256%3A"
    )]
    fn a_location_keeps_its_query(#[case] location: &str, #[case] end: &str) {
        let digest = format!("sha256:{}", "0".repeat(64)).parse().unwrap();
        let url = closing_url(&Url::parse(location).unwrap(), &digest);
        assert!(url.as_str().contains(end), "{url}");
    }
}
