//! Responses of the API server, filtered as they arrive and never kept as a whole.
//!
//! The client's own methods collect a body, copy it twice, and log the text if it cannot be parsed. That takes several times
//! the size of an object, and tenants choose the size.

use axum::body::{Body, BodyDataStream, Bytes};
use axum::http::Request;
use futures_util::StreamExt as _;
use kube::core::Status;
use kube::{Client, Error};
use serde::de::DeserializeOwned;

use super::api_server::ApiServer;
use super::json_fields::parse_permit;
use super::json_filter::{JsonFilter, Keep, Part};

/// Longest body of an error response that is read. Only its message is used.
const MAX_REFUSAL: usize = 64 * 1024;

/// Returns whether a field of this name belongs to a list, a watch event or an error in one.
pub(super) fn is_envelope(name: &str) -> bool {
    matches!(
        name,
        "apiVersion"
            | "kind"
            | "metadata"
            | "resourceVersion"
            | "continue"
            | "items"
            | "type"
            | "object"
            | "code"
            | "reason"
            | "message"
    )
}

/// A response, part by part.
pub(super) struct Parts {
    body: BodyDataStream,
    chunk: Bytes,
    /// Bytes of `chunk` that were read.
    used: usize,
    filter: JsonFilter,
    bytes: u64,
}

async fn send(server: &ApiServer, request: Request<Vec<u8>>) -> Result<BodyDataStream, Error> {
    let result = send_unobserved(server.client(), request).await;
    server.observe(&result);
    result
}

async fn send_unobserved(
    client: &Client,
    request: Request<Vec<u8>>,
) -> Result<BodyDataStream, Error> {
    let response = client.send(request.map(Into::into)).await?;
    let status = response.status();
    let body = Body::new(response.into_body());
    if !status.is_client_error() && !status.is_server_error() {
        return Ok(body.into_data_stream());
    }
    // The body may be missing, or a proxy's.
    let body = axum::body::to_bytes(body, MAX_REFUSAL).await;
    let refusal = body
        .ok()
        .and_then(|body| serde_json::from_slice::<Status>(&body).ok());
    let refusal = refusal.unwrap_or_else(|| {
        let reason = status.canonical_reason().unwrap_or("unknown");
        Status::failure(reason, reason)
    });
    Err(Error::Api(refusal.with_code(status.as_u16()).boxed()))
}

/// Sends a request and parses the part of the response that `keep` selects.
///
/// # Errors
/// [`Error::Api`] if the API server refuses the request; [`Error::SerdeError`] if the response is no such object.
pub(super) async fn object<T: DeserializeOwned>(
    server: &ApiServer,
    request: Request<Vec<u8>>,
    keep: Keep,
) -> Result<T, Error> {
    let text = text(server, request, keep).await?;
    let _permit = parse_permit();
    serde_json::from_slice(&text).map_err(Error::SerdeError)
}

/// Sends a request and returns the part of the response that `keep` selects as JSON, empty if there is none.
///
/// # Errors
/// [`Error::Api`] if the API server refuses the request.
pub(super) async fn text(
    server: &ApiServer,
    request: Request<Vec<u8>>,
    keep: Keep,
) -> Result<Vec<u8>, Error> {
    let mut parts = Parts::request(server, request, keep, None).await?;
    Ok(match parts.next().await? {
        Some(Part::Value(value) | Part::Element(value)) => value,
        None => Vec::new(),
    })
}

impl Parts {
    /// Sends a request whose response is a sequence of values. The elements of their field `cut` are returned one by one.
    ///
    /// # Errors
    /// [`Error::Api`] if the API server refuses the request.
    pub(super) async fn request(
        server: &ApiServer,
        request: Request<Vec<u8>>,
        keep: Keep,
        cut: Option<&'static str>,
    ) -> Result<Self, Error> {
        Ok(Self {
            body: send(server, request).await?,
            chunk: Bytes::new(),
            used: 0,
            filter: JsonFilter::new(keep, cut),
            bytes: 0,
        })
    }

    /// Returns the bytes of the response so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the next part; `None` at the end. Cancel safe.
    ///
    /// # Errors
    /// [`Error::Service`] if the response is cut short.
    pub(super) async fn next(&mut self) -> Result<Option<Part>, Error> {
        loop {
            let mut rest = self.chunk.get(self.used..).unwrap_or_default();
            let part = self.filter.next(&mut rest);
            self.used = self.chunk.len().saturating_sub(rest.len());
            if part.is_some() {
                return Ok(part);
            }
            let Some(chunk) = self.body.next().await else {
                return Ok(None);
            };
            self.chunk = chunk.map_err(|error| Error::Service(Box::new(error)))?;
            self.used = 0;
            self.bytes = self.bytes.saturating_add(self.chunk.len() as u64);
        }
    }
}
