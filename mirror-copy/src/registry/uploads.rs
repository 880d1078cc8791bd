//! Upload sessions of a repository: opening, mounting instead, filling, cancelling.

use super::call::{Call, Lane};
use super::content::Content;
use super::repository::Repository;
use crate::error::{Operation, RegistryError, Subject};
use bytes::Bytes;
use oci_spec::image::Digest;
use reqwest::header::LOCATION;
use reqwest::{Body, Method, Response, Url};

/// An open upload session: the address that takes the content.
pub(crate) struct Session {
    url: Url,
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
        let subject = self.subject(Operation::StartUpload, &format!("@{digest}"));
        let url = self.url("blobs/uploads/");
        let call = Call::new(&subject, Method::POST, url, &self.scopes, Lane::Small);
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
        let call = Call::new(&subject, Method::POST, url, &scopes, Lane::Small);
        let response = self.registry.send(&call).await?;
        if response.status() == 201 {
            return Ok(MountAnswer::Mounted);
        }
        self.session(&subject, &response).map(MountAnswer::Session)
    }

    /// Fills a session with one monolithic PUT of exactly `size` bytes and closes it. The sender
    /// must close the channel early, or send an error, if the content turns out wrong: the registry
    /// then never gets all bytes, so it cannot commit.
    pub(crate) async fn put_blob(
        &self,
        session: &Session,
        digest: &Digest,
        size: u64,
        content: Content,
    ) -> Result<(), RegistryError> {
        let subject = self.subject(Operation::WriteBlob, &format!("@{digest}"));
        let url = closing_url(&session.url, digest);
        let body = if size == 0 {
            Body::from(Bytes::new())
        } else {
            Body::wrap_stream(content)
        };
        let response = self
            .registry
            .send_stream(&subject, url, &self.scopes, size, body)
            .await?;
        let said = response
            .headers()
            .get("docker-content-digest")
            .and_then(|v| v.to_str().ok());
        if let Some(said) = said.and_then(|said| said.parse::<Digest>().ok())
            && said.algorithm() == digest.algorithm()
            && said != *digest
        {
            let (expected, actual) = (digest.to_string(), said.to_string());
            return Err(RegistryError::Digest {
                subject,
                expected,
                actual,
            });
        }
        // 201 is a promise; other successes are in use and are believed only after a look.
        if response.status() != 201 && !self.has_blob(digest).await? {
            let reason = format!(
                "the registry answered {} and has no blob",
                response.status()
            );
            return Err(RegistryError::protocol(&subject, reason));
        }
        Ok(())
    }

    /// Closes a session without content, as well as it goes: registries expire sessions anyway.
    pub(crate) async fn cancel(&self, session: &Session) {
        let subject = self.subject(Operation::CancelUpload, "");
        let url = session.url.clone();
        let call = Call::new(&subject, Method::DELETE, url, &self.scopes, Lane::Small);
        if let Err(error) = self.registry.attempt(&call).await {
            tracing::debug!(%error, "upload session left to expire");
        }
    }

    /// Where an answer's `Location` points to: absolute or relative, its query kept as it is.
    fn session(&self, subject: &Subject, response: &Response) -> Result<Session, RegistryError> {
        let bad = |reason: &str| RegistryError::protocol(subject, reason);
        let location = response
            .headers()
            .get(LOCATION)
            .and_then(|value| value.to_str().ok());
        let location = location.ok_or_else(|| bad("the answer has no upload location"))?;
        let mut url = response
            .url()
            .join(location)
            .map_err(|_| bad("the upload location is not a URL"))?;
        let base = &self.registry.shared.endpoint.base;
        if base.scheme() == "https" && url.scheme() == "http" {
            // A registry behind a proxy that ends TLS may not know that it is spoken to by HTTPS.
            if url.host_str() != base.host_str() || url.set_scheme("https").is_err() {
                return Err(bad("the upload location would leave HTTPS"));
            }
        }
        match url.scheme() {
            "https" | "http" => Ok(Session { url }),
            _ => Err(bad("the upload location is neither HTTPS nor HTTP")),
        }
    }
}

/// The session's address with `digest=` appended to whatever query it has.
fn closing_url(session: &Url, digest: &Digest) -> Url {
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
