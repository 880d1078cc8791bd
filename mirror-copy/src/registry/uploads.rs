//! Upload sessions of a repository: opening, mounting instead, filling, cancelling.

use super::content::Content;
use super::pool::Pool;
use super::repository::Repository;
use super::request::RegistryRequest;
use super::streaming_upload::Streamed;
use crate::error::{Operation, RegistryError, Subject};
use crate::manifest::parse_digest;
use bytes::Bytes;
use oci_spec::image::{Digest, DigestAlgorithm};
use reqwest::header::{HeaderMap, LOCATION};
use reqwest::{Body, Method, Response, StatusCode, Url};
use std::sync::{Mutex, PoisonError};

/// The least that a registry takes as a chunk, in bytes (distribution-spec, "Pushing a blob in chunks").
const CHUNK_MIN_LENGTH: &str = "oci-chunk-min-length";

/// An open upload session.
pub(crate) struct Session {
    /// The address that takes what comes next. Every answer may name a new one.
    url: Mutex<Url>,
    /// The least that the registry takes as a chunk, in bytes; 0 if it does not mind.
    pub(super) min_chunk: u64,
}

impl Session {
    pub(super) fn url(&self) -> Url {
        self.url
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn moved(&self, url: Url) {
        *self.url.lock().unwrap_or_else(PoisonError::into_inner) = url;
    }
}

/// What a registry makes of the wish to mount.
pub(crate) enum MountAnswer {
    /// The blob is in the repository now; nothing is to be sent.
    Mounted,
    /// It is not; the answer opened a session, which is to be used.
    Session(Session),
}

impl Repository {
    /// Opens an upload session (distribution-spec, "POST then PUT").
    pub(crate) async fn start_upload(&self, digest: &Digest) -> Result<Session, RegistryError> {
        self.open_upload(&format!("@{digest}")).await
    }

    /// Opens an upload session for what is not known yet.
    pub(crate) async fn open_upload(&self, object: &str) -> Result<Session, RegistryError> {
        let subject = self.subject(Operation::StartUpload, object);
        let url = self.url("blobs/uploads/");
        let call = RegistryRequest::new(&subject, Method::POST, url, &self.scopes, Pool::Small);
        let response = self.registry.send(&call).await?;
        self.session(&subject, &response)
    }

    /// Asks for a blob of another repository of this registry (distribution-spec, "Mounting a blob
    /// from another repository").
    pub(crate) async fn mount(
        &self,
        digest: &Digest,
        from: &str,
    ) -> Result<MountAnswer, RegistryError> {
        let subject = self.subject(Operation::StartUpload, &format!("@{digest}"));
        let mut url = self.url("blobs/uploads/");
        url.query_pairs_mut()
            .append_pair("mount", digest.as_ref())
            .append_pair("from", from);
        // Reading of one's own repository is part of the right to write it.
        let scopes = if from == self.name.as_ref() {
            self.scopes.clone()
        } else {
            self.scopes.and_pull(from)
        };
        let call = RegistryRequest::new(&subject, Method::POST, url, &scopes, Pool::Small);
        let response = self.registry.send(&call).await?;
        if response.status() == 201 {
            return Ok(MountAnswer::Mounted);
        }
        self.session(&subject, &response).map(MountAnswer::Session)
    }

    /// Fills a session with exactly `size` bytes and closes it: in one request, or in chunks where the
    /// registry was found to refuse that. The first refusal is an error that is worth a retry.
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
                tracing::info!(host = self.registry.host(), %status, size, "sending large blobs in chunks from now on");
                Err(RegistryError::Whole { subject, status })
            }
            Err(error) => Err(error),
        }
    }

    /// Checks the answer that closes a session. `certain`: everything before it was answered as the
    /// specification has it.
    pub(super) async fn committed(
        &self,
        subject: &Subject,
        digest: &Digest,
        response: &Response,
        certain: bool,
    ) -> Result<(), RegistryError> {
        let said = header(response.headers(), "docker-content-digest");
        if let Some(said) = said.and_then(parse_digest)
            && said.algorithm() == digest.algorithm()
            && said != *digest
        {
            return Err(RegistryError::Digest {
                subject: subject.clone(),
                expected: digest.to_string(),
                actual: said.to_string(),
            });
        }
        // 201 is a promise; other successes are in use and are believed only after a look.
        let promised = certain && response.status() == StatusCode::CREATED;
        if !promised && !self.has_blob(digest).await? {
            let reason = format!(
                "the registry answered {} and has no blob",
                response.status()
            );
            return Err(RegistryError::protocol(subject, reason));
        }
        Ok(())
    }

    /// Closes a session without content, as well as it goes: registries expire sessions anyway.
    pub(crate) async fn cancel(&self, session: &Session) {
        let subject = self.subject(Operation::CancelUpload, "");
        let url = session.url();
        let call = RegistryRequest::new(&subject, Method::DELETE, url, &self.scopes, Pool::Small);
        if let Err(error) = self.registry.attempt(&call).await {
            tracing::debug!(%error, "upload session left to expire");
        }
    }

    /// The session that an answer opened.
    fn session(&self, subject: &Subject, response: &Response) -> Result<Session, RegistryError> {
        let url = self
            .location(subject, response.url(), response.headers())?
            .ok_or_else(|| {
                let reason = "the response has no upload location; check that the address is that of a registry, and what \
                     responds in its place (a web page, a proxy)";
                RegistryError::protocol(subject, reason)
            })?;
        Ok(Session {
            url: Mutex::new(url),
            min_chunk: min_chunk(response.headers()).unwrap_or_default(),
        })
    }

    /// Goes on where an answer within a session says; without that the address stays.
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

    /// Where the `Location` of an answer from this address points to: absolute or relative, its query kept as it is.
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

/// Whether a refusal may be about the size or the form of the request, not about the blob. A used-up
/// quota is told by 413, too, and no chunk gets around it.
pub(super) fn is_about_wholeness(status: StatusCode, code: &str, message: &str) -> bool {
    let is_quota = [code, message]
        .iter()
        .any(|text| text.to_ascii_lowercase().contains("quota"));
    !is_quota && matches!(status.as_u16(), 405 | 413 | 416 | 501)
}

/// The session's address with `digest=` appended to whatever query it has.
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
