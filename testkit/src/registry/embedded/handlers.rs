//! HTTP of the embedded registry: what each method on each route answers.

mod answer;
mod content;
mod uploads;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, Method, Request as HttpRequest, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::route::Route;
use super::store::Store;
use crate::registry::{Credential, Request};
use answer::{Answer, envelope, error, finish, start};
use content::{deleted, list_referrers, list_tags, put_manifest, serve_blob, serve_manifest};
use uploads::{begin_upload, commit_upload, receive, unknown_upload, upload_progress};

/// State of one registry; it outlives the server, so that a restart finds everything.
pub(super) struct Shared {
    store: Mutex<Store>,
    log: Mutex<Vec<Request>>,
    credential: Option<Credential>,
    /// The values of the header that are let in, if it asks for one.
    authorization: Option<Mutex<Vec<String>>>,
}

impl Shared {
    pub fn new(credential: Option<Credential>) -> Self {
        let authorization = credential
            .as_ref()
            .map(|credential| Mutex::new(vec![basic(credential)]));
        Self {
            store: Mutex::default(),
            log: Mutex::default(),
            credential,
            authorization,
        }
    }

    pub fn credential(&self) -> Option<&Credential> {
        self.credential.as_ref()
    }

    /// `false` when no credential is asked for.
    pub fn set_other_users(&self, users: &[Credential]) -> bool {
        let (Some(credential), Some(authorization)) = (&self.credential, &self.authorization)
        else {
            return users.is_empty();
        };
        *lock(authorization) = users.iter().chain([credential]).map(basic).collect();
        true
    }

    pub fn requests(&self) -> Vec<Request> {
        lock(&self.log).clone()
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        lock(&self.store)
    }

    fn admits(&self, headers: &HeaderMap) -> bool {
        self.authorization.as_ref().is_none_or(|wanted| {
            headers.get(AUTHORIZATION).is_some_and(|given| {
                let wanted = lock(wanted);
                wanted
                    .iter()
                    .any(|wanted| given.as_bytes() == wanted.as_bytes())
            })
        })
    }
}

/// The header's value (RFC 7617).
fn basic(Credential { user, password }: &Credential) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// Answers one request and notes it.
pub(super) async fn handle(
    State(shared): State<Arc<Shared>>,
    request: HttpRequest<Body>,
) -> Answer {
    let method = request.method().to_string();
    let path = request
        .uri()
        .path_and_query()
        .map_or_else(String::new, ToString::to_string);
    let answer = respond(&shared, request).await;
    lock(&shared.log).push(Request {
        method,
        path,
        status: answer.status().as_u16(),
    });
    answer
}

async fn respond(shared: &Shared, request: HttpRequest<Body>) -> Answer {
    let (parts, body) = request.into_parts();
    if !shared.admits(&parts.headers) {
        let builder = start(StatusCode::UNAUTHORIZED)
            .header(WWW_AUTHENTICATE, "Basic realm=\"embedded registry\"");
        return envelope(builder, "UNAUTHORIZED", "authentication required");
    }
    let Some(route) = Route::parse(parts.uri.path()) else {
        return error(StatusCode::NOT_FOUND, "NAME_INVALID", "no such path");
    };
    let query: HashMap<String, String> =
        url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes())
            .into_owned()
            .collect();
    let (method, headers) = (parts.method, parts.headers);
    match (method, route) {
        (Method::GET | Method::HEAD, Route::Base) => {
            finish(start(StatusCode::OK), Bytes::from_static(b"{}"))
        }
        (Method::POST, Route::Uploads(name)) => begin_upload(shared, name, &query),
        (Method::GET, Route::Upload(name, id)) => match shared.store().upload_length(name, id) {
            Some(length) => upload_progress(StatusCode::NO_CONTENT, name, id, length),
            None => unknown_upload(),
        },
        (Method::PATCH, Route::Upload(name, id)) => {
            match receive(shared, name, id, &headers, body).await {
                Ok(length) => upload_progress(StatusCode::ACCEPTED, name, id, length),
                Err(answer) => answer,
            }
        }
        (Method::PUT, Route::Upload(name, id)) => {
            match receive(shared, name, id, &headers, body).await {
                Ok(_) => commit_upload(shared, name, id, &query),
                Err(answer) => answer,
            }
        }
        (Method::DELETE, Route::Upload(_, id)) => {
            shared.store().cancel_upload(id);
            finish(start(StatusCode::NO_CONTENT), Bytes::new())
        }
        (Method::GET | Method::HEAD, Route::Blob(name, digest)) => {
            match shared.store().blob(name, digest) {
                Some(blob) => serve_blob(digest, &blob, &headers),
                None => error(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", digest),
            }
        }
        (Method::DELETE, Route::Blob(name, digest)) => {
            let found = shared.store().delete_blob(name, digest);
            deleted(found, "BLOB_UNKNOWN", digest)
        }
        (Method::GET | Method::HEAD, Route::Manifest(name, reference)) => {
            match shared.store().manifest(name, reference) {
                Some(document) => serve_manifest(document),
                None => error(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", reference),
            }
        }
        (Method::PUT, Route::Manifest(name, reference)) => {
            put_manifest(shared, name, reference, &headers, body).await
        }
        (Method::DELETE, Route::Manifest(name, reference)) => {
            let found = shared.store().delete_manifest(name, reference);
            deleted(found, "MANIFEST_UNKNOWN", reference)
        }
        (Method::GET, Route::Tags(name)) => list_tags(shared, name, &query),
        (Method::GET, Route::Referrers(name, digest)) => list_referrers(shared, name, digest),
        _ => error(
            StatusCode::METHOD_NOT_ALLOWED,
            "UNSUPPORTED",
            "no such method",
        ),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
