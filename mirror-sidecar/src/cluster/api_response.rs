//! Responses of the API server, read as they arrive and never kept as a whole.
//!
//! The client's own methods collect a body, copy it twice, and log the text if it cannot be parsed: of a tenant's object
//! that is several times its size, and the size is the tenant's to choose.

use axum::body::{Body, BodyDataStream, Bytes};
use axum::http::Request;
use futures_util::StreamExt as _;
use kube::core::Status;
use kube::{Client, Error};
use serde::de::DeserializeOwned;

use super::api_server::ApiServer;
use super::json_filter::{JsonFilter, Keep, Part};

/// Longest body of a refusal that is read. The message in it is for people.
const MAX_REFUSAL: usize = 64 * 1024;

/// Returns whether a field of this name belongs to a list, to a watch event or to a refusal in one.
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

/// The parts of a response, as they arrive.
pub(super) struct Parts {
    body: BodyDataStream,
    chunk: Bytes,
    /// Bytes of `chunk` that are used.
    used: usize,
    filter: JsonFilter,
    bytes: u64,
}

/// Sends a request.
///
/// # Errors
/// [`Error::Api`] if the API server refuses it.
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
    // A refusal without a body that can be read is one all the same.
    let body = axum::body::to_bytes(body, MAX_REFUSAL).await;
    let said = body
        .ok()
        .and_then(|body| serde_json::from_slice::<Status>(&body).ok());
    let said = said.unwrap_or_else(|| {
        let reason = status.canonical_reason().unwrap_or("unknown");
        Status::failure(reason, reason)
    });
    Err(Error::Api(said.with_code(status.as_u16()).boxed()))
}

/// Sends a request and returns the object in the response, of which only what is to be kept is ever in memory.
///
/// # Errors
/// [`Error::Api`] if the API server refuses it; [`Error::SerdeError`] if the response is no such object.
pub(super) async fn object<T: DeserializeOwned>(
    server: &ApiServer,
    request: Request<Vec<u8>>,
    keep: Keep,
) -> Result<T, Error> {
    let text = text(server, request, keep).await?;
    serde_json::from_slice(&text).map_err(Error::SerdeError)
}

/// Sends a request and returns what is to be kept of the value in the response, as JSON; nothing if there is none.
///
/// # Errors
/// [`Error::Api`] if the API server refuses it.
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
    /// Sends a request, whose response is a sequence of values. The elements of their field `cut` come one by one.
    ///
    /// # Errors
    /// [`Error::Api`] if the API server refuses it.
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

    /// Bytes of the response so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next part; `None` at the end. May be cancelled and called again.
    ///
    /// # Errors
    /// If the response is cut short.
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
