//! Requests with a streamed body, which exists only once: they are sent once, and without a timeout.

use super::Registry;
use super::blobs::SMALL;
use super::challenge;
use super::request::RegistryResponse;
use super::token::Scopes;
use crate::error::{RegistryError, Subject};
use crate::registries::clients::Pool;
use reqwest::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue,
};
use reqwest::{Body, Method, Response, StatusCode, Url};

/// A request with a streamed body of exactly `length` bytes.
pub(super) struct Streamed<'a> {
    pub(super) subject: &'a Subject,
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) scopes: &'a Scopes,
    pub(super) length: u64,
    /// Offset of the chunk in the blob, if this is a chunk.
    pub(super) chunk_at: Option<u64>,
    pub(super) body: Body,
}

impl Streamed<'_> {
    /// `Content-Range` of a chunk has no unit, unlike in HTTP (distribution-spec, "Pushing a blob in chunks").
    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_LENGTH, self.length.into());
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/octet-stream"),
        );
        if let Some(first) = self.chunk_at {
            let range = format!("{first}-{}", (first + self.length).saturating_sub(1));
            if let Ok(range) = HeaderValue::try_from(range) {
                headers.insert(CONTENT_RANGE, range);
            }
        }
        headers
    }
}

impl Registry {
    /// Sends such a request and returns a response with 2xx. The caller watches the progress of the body.
    pub(super) async fn send_stream(
        &self,
        request: Streamed<'_>,
    ) -> Result<Response, RegistryError> {
        self.shared
            .limits
            .pauses
            .wait(request.subject.operation)
            .await;
        let Streamed {
            subject, scopes, ..
        } = request;
        let own = self.shared.endpoint.owns(&request.url);
        let proof = if own {
            self.proof(subject, scopes).await?
        } else {
            None
        };
        let mut headers = request.headers();
        if let Some(proof) = &proof {
            headers.insert(AUTHORIZATION, proof.header.clone());
        }
        self.count_request();
        let url = request.url;
        let pool = if request.length < SMALL {
            Pool::Small
        } else {
            Pool::Bulk
        };
        let allowance = self.allowance_for(&url);
        let response = self
            .client_for(subject, &url, pool, allowance)?
            .request(request.method, url.clone())
            .headers(headers)
            .body(request.body)
            .send()
            .await
            .map_err(|error| self.transport_error(subject, &url, error))?;
        self.record_peer(&url, &response);
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        if own
            && status == StatusCode::UNAUTHORIZED
            && let Some(challenge) = challenge::choose(response.headers())
        {
            // The body is used up, but the next attempt finds a new proof.
            self.renewed(subject, scopes, challenge, proof.as_ref())
                .await?;
        }
        let error = self
            .failure(subject, RegistryResponse { response, own }, None)
            .await;
        if status == StatusCode::FORBIDDEN
            && let Some(proof) = &proof
            && self
                .replaced(subject, scopes, &error, proof)
                .await?
                .is_some()
        {
            return Err(RegistryError::Expired {
                host: self.host().to_owned(),
                subject: subject.clone(),
            });
        }
        Err(error)
    }
}
