//! Responses in the format of the distribution specification.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

use super::metrics::FacadeStatus;

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const ANSWER_TYPE: &str = "application/vnd.image-mirror.answer.v1+json";
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
/// The digest of `{}` (OCI image specification, "Guidance for an Empty Descriptor").
const EMPTY_DIGEST: &str =
    "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// Error codes (distribution specification, "Error Codes"). The host rejects others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    Unauthorized,
    Unsupported,
}

/// A response, and how the metrics count it.
pub(super) struct Reply {
    status: StatusCode,
    body: Vec<u8>,
    headers: Vec<(HeaderName, HeaderValue)>,
    counts_as: Option<FacadeStatus>,
}

impl Reply {
    /// The response to `/v2/`.
    pub(super) fn base() -> Self {
        Self::json(StatusCode::OK, "application/json", &json!({}))
    }

    /// An empty image manifest with these annotations.
    pub(super) fn manifest(annotations: Vec<(&'static str, String)>) -> Self {
        let annotations: BTreeMap<_, _> = annotations.into_iter().collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "artifactType": ANSWER_TYPE,
            "config": { "mediaType": EMPTY_TYPE, "digest": EMPTY_DIGEST, "size": 2 },
            "layers": [],
            "annotations": annotations,
        });
        let mut reply = Self::json(StatusCode::OK, MANIFEST_TYPE, &manifest);
        if let Ok(digest) = HeaderValue::from_str(&mirror_copy::sha256(&reply.body)) {
            reply.headers.push((DOCKER_CONTENT_DIGEST, digest));
        }
        reply
    }

    pub(super) fn error(code: Code, message: &str) -> Self {
        let envelope = json!({ "errors": [{ "code": code.name(), "message": message }] });
        Self::json(code.status(), "application/json", &envelope)
            .counted_as(Some(FacadeStatus::RefusedRequest))
    }

    pub(super) fn counted_as(mut self, status: Option<FacadeStatus>) -> Self {
        self.counts_as = status;
        self
    }

    /// The status in the metrics. Errors count as refused requests by default.
    pub(super) fn counts_as(&self) -> Option<FacadeStatus> {
        self.counts_as
    }

    /// 401 with the challenge. The host sends no credentials without it.
    pub(super) fn unauthorized() -> Self {
        let mut reply = Self::error(Code::Unauthorized, "credentials are missing or wrong");
        let challenge = HeaderValue::from_static("Basic realm=\"image-mirror\", charset=\"UTF-8\"");
        reply.headers.push((header::WWW_AUTHENTICATE, challenge));
        reply
    }

    /// Closes the connection after this response.
    pub(super) fn closing(mut self) -> Self {
        let close = HeaderValue::from_static("close");
        self.headers.push((header::CONNECTION, close));
        self
    }

    fn json(status: StatusCode, content_type: &'static str, body: &Value) -> Self {
        let content_type = HeaderValue::from_static(content_type);
        let version = HeaderValue::from_static("registry/2.0");
        Self {
            status,
            body: body.to_string().into_bytes(),
            headers: vec![
                (header::CONTENT_TYPE, content_type),
                // Older clients require it.
                (
                    HeaderName::from_static("docker-distribution-api-version"),
                    version,
                ),
            ],
            counts_as: None,
        }
    }

    /// For `HEAD`, the response has the length of the body but not the body.
    pub(super) fn into_response(self, head: bool) -> Response<Body> {
        let length = HeaderValue::from(self.body.len());
        let body = if head {
            Body::empty()
        } else {
            Body::from(self.body)
        };
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        response.headers_mut().extend(self.headers);
        response
            .headers_mut()
            .insert(header::CONTENT_LENGTH, length);
        response
    }
}

impl Code {
    fn name(self) -> &'static str {
        match self {
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Unsupported => "UNSUPPORTED",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Self::ManifestUnknown | Self::NameUnknown => StatusCode::NOT_FOUND,
            Self::NameInvalid => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Unsupported => StatusCode::METHOD_NOT_ALLOWED,
        }
    }
}
