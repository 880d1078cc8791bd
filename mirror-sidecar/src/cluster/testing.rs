//! What several tests need of an API server that is scripted.

use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde_json::json;

/// What an API server answers that refuses something: a `Status` with this code and reason, and a cause for programs.
pub fn refusal(code: u16, reason: &str, cause: Option<&str>) -> Response {
    let causes: Vec<_> = cause
        .iter()
        .map(|cause| json!({ "reason": cause }))
        .collect();
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": reason,
        "details": { "causes": causes },
    });
    (StatusCode::from_u16(code).unwrap(), status.to_string()).into_response()
}
