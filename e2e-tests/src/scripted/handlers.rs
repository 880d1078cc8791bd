//! The fake registry's answers (OCI distribution specification 1.1, push and pull).

use super::fake::{Action, Auth, Entry, Fake, LocationStyle};
use super::images::digest_of;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderValue, Method, Response, header};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use std::collections::HashMap;
use std::time::Instant;

type Answer = Response<Body>;

pub fn router(fake: Fake) -> Router {
    Router::new().fallback(move |request: Request| {
        let fake = fake.clone();
        async move { answer(fake, request).await }
    })
}

async fn answer(fake: Fake, request: Request) -> Answer {
    let (parts, body) = request.into_parts();
    let text = |name| {
        parts
            .headers
            .get(name)
            .map(|v| v.to_str().unwrap().to_owned())
    };
    let path = parts.uri.path().to_owned();
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let place = {
        let mut state = fake.state();
        state.log.push(Entry {
            method: parts.method.clone(),
            path: path.clone(),
            query: query.clone(),
            authorization: text(header::AUTHORIZATION),
            range: text(header::RANGE),
            body: String::new(),
            status: 0,
            at: Instant::now(),
        });
        state.log.len() - 1
    };
    let fault = fake
        .state()
        .fault(&parts.method, &format!("{path}?{query}"));
    let answer = match fault {
        Some(Action::Status(status, headers, text)) => {
            // Read the body first, so that the answer is not lost with the connection.
            let _ = to_bytes(body, usize::MAX).await;
            let mut answer = plain(status, text);
            for (name, value) in headers {
                answer
                    .headers_mut()
                    .insert(name, HeaderValue::from_str(&value).unwrap());
            }
            answer
        }
        Some(Action::Early(status)) => plain(status, r#"{"errors":[{"code":"DENIED"}]}"#),
        Some(Action::Hang) => std::future::pending().await,
        fault => {
            let Ok(body) = to_bytes(body, usize::MAX).await else {
                return plain(400, "cut");
            };
            if path == "/token"
                && let Some(entry) = fake.state().log.get_mut(place)
            {
                entry.body = String::from_utf8_lossy(&body).into_owned();
            }
            let real = real(&fake, &parts, &path, &query, body);
            match fault {
                Some(action) => spoiled(real, action).await,
                None => real,
            }
        }
    };
    if let Some(entry) = fake.state().log.get_mut(place) {
        entry.status = answer.status().as_u16();
    }
    answer
}

async fn spoiled(answer: Answer, action: Action) -> Answer {
    let (mut parts, body) = answer.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    let body = match action {
        Action::Without(name) => {
            parts.headers.remove(name);
            Body::from(body)
        }
        Action::With(name, value) => {
            parts
                .headers
                .insert(name, HeaderValue::from_str(&value).unwrap());
            Body::from(body)
        }
        Action::Corrupt => {
            let mut body = body.to_vec();
            body[0] ^= 1;
            Body::from(body)
        }
        Action::Resize(by) => {
            parts.headers.remove(header::CONTENT_LENGTH);
            let mut body = body.to_vec();
            body.resize(body.len().strict_add_signed(by), b'x');
            Body::from_stream(stream::iter([Ok::<_, std::io::Error>(Bytes::from(body))]))
        }
        Action::Cut(after) => {
            let first = stream::iter([Ok(body.slice(..after))]);
            let broken = stream::once(async {
                // A body that waits lets the server flush what it has.
                tokio::task::yield_now().await;
                Err(std::io::Error::other("cut"))
            });
            Body::from_stream(first.chain(broken))
        }
        Action::Status(..) | Action::Early(_) | Action::Hang => unreachable!("handled before"),
    };
    Response::from_parts(parts, body)
}

fn plain(status: u16, text: &'static str) -> Answer {
    Response::builder()
        .status(status)
        .body(Body::from(text))
        .unwrap()
}

fn error(status: u16, code: &str) -> Answer {
    let body = format!(r#"{{"errors":[{{"code":"{code}","message":"fake says {code}"}}]}}"#);
    Response::builder()
        .status(status)
        .body(Body::from(body))
        .unwrap()
}

fn parameters(query: &str) -> HashMap<String, String> {
    url::form_urlencoded::parse(query.as_bytes())
        .into_owned()
        .collect()
}

fn real(
    fake: &Fake,
    parts: &axum::http::request::Parts,
    path: &str,
    query: &str,
    body: Bytes,
) -> Answer {
    let query = parameters(query);
    let authorization = parts
        .headers
        .get(header::AUTHORIZATION)
        .map(|v| v.to_str().unwrap().to_owned());
    if path == "/token" {
        return token(
            fake,
            authorization.as_deref(),
            parts.uri.query().unwrap_or_default(),
            &body,
        );
    }
    let Some(rest) = path.strip_prefix("/v2/") else {
        return error(404, "NOT_FOUND");
    };
    let (repository, kind, name) = split(rest);
    if let Some(refusal) = refused(
        fake,
        &parts.method,
        authorization.as_deref(),
        repository,
        &query,
    ) {
        return refusal;
    }
    match (&parts.method, kind) {
        (_, "") => plain(200, "{}"),
        (&Method::HEAD | &Method::GET, "manifests") => read_manifest(fake, parts, repository, name),
        (&Method::PUT, "manifests") => write_manifest(fake, parts, repository, name, body),
        (&Method::HEAD | &Method::GET, "blobs") => read_blob(fake, parts, repository, name),
        (&Method::POST, "uploads") => start_upload(fake, repository, &query),
        (&Method::PUT, "uploads") => write_blob(fake, repository, name, &query, body),
        (&Method::DELETE, "uploads") => {
            fake.state().sessions.remove(name);
            plain(204, "")
        }
        _ => error(405, "UNSUPPORTED"),
    }
}

/// Repository, kind and last part of a path; repositories contain slashes.
fn split(rest: &str) -> (&str, &str, &str) {
    for (marker, kind) in [
        ("/blobs/uploads/", "uploads"),
        ("/blobs/", "blobs"),
        ("/manifests/", "manifests"),
    ] {
        if let Some((repository, name)) = rest.rsplit_once(marker) {
            return (repository, kind, name);
        }
    }
    ("", "", "")
}

fn token(fake: &Fake, authorization: Option<&str>, query: &str, body: &[u8]) -> Answer {
    let mut state = fake.state();
    let Auth::Bearer { user, expires_in } = state.knobs.auth.clone() else {
        return error(404, "NOT_FOUND");
    };
    let form: Vec<(String, String)> = url::form_urlencoded::parse(body).into_owned().collect();
    let refresh = form
        .iter()
        .find(|(key, _)| key == "refresh_token")
        .map(|(_, value)| value);
    if let Some((name, password)) = user {
        let by_password = authorization == Some(basic(&name, &password).as_str());
        if !by_password && refresh != Some(&password) {
            return error(401, "UNAUTHORIZED");
        }
    }
    let scopes = url::form_urlencoded::parse(query.as_bytes())
        .into_owned()
        .chain(form)
        .filter(|(key, _)| key == "scope")
        .flat_map(|(_, value)| value.split(' ').map(str::to_owned).collect::<Vec<_>>())
        .collect();
    state.tokens_made += 1;
    let token = format!("token-{}", state.tokens_made);
    state.tokens.insert(token.clone(), scopes);
    let body = format!(r#"{{"token":"{token}","expires_in":{expires_in}}}"#);
    Response::builder().body(Body::from(body)).unwrap()
}

pub fn basic(user: &str, password: &str) -> String {
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    format!("Basic {encoded}")
}

/// The 401 that this request deserves, if any.
fn refused(
    fake: &Fake,
    method: &Method,
    authorization: Option<&str>,
    repository: &str,
    query: &HashMap<String, String>,
) -> Option<Answer> {
    let state = fake.state();
    let write = !matches!(*method, Method::GET | Method::HEAD);
    let actions = if write { "pull,push" } else { "pull" };
    let challenge = match &state.knobs.auth {
        Auth::Open => return None,
        Auth::Basic { user, password } => {
            if authorization == Some(basic(user, password).as_str()) {
                return None;
            }
            r#"Basic realm="fake, really""#.to_owned()
        }
        Auth::Bearer { .. } => {
            let token = authorization.and_then(|value| value.strip_prefix("Bearer "));
            let grants = |repository: &str, action: &str| {
                token
                    .and_then(|token| state.tokens.get(token))
                    .is_some_and(|scopes| {
                        let wanted = format!("repository:{repository}:");
                        scopes.iter().any(|scope| {
                            scope
                                .strip_prefix(&wanted)
                                .is_some_and(|got| got.contains(action))
                        })
                    })
            };
            let mount_allowed = query.get("from").is_none_or(|from| grants(from, "pull"));
            let known = token.is_some_and(|token| state.tokens.contains_key(token));
            let allowed = repository.is_empty() && known
                || grants(repository, if write { "push" } else { "pull" });
            if allowed && mount_allowed {
                return None;
            }
            format!(
                r#"Bearer realm="http://{}/token",service="fake",scope="repository:{repository}:{actions}""#,
                fake.address
            )
        }
    };
    let mut answer = error(401, "UNAUTHORIZED");
    let headers = answer.headers_mut();
    headers.insert(
        header::WWW_AUTHENTICATE,
        HeaderValue::from_str(&challenge).unwrap(),
    );
    Some(answer)
}

fn read_manifest(
    fake: &Fake,
    parts: &axum::http::request::Parts,
    repository: &str,
    name: &str,
) -> Answer {
    let state = fake.state();
    let by_tag = state.tags.get(&(repository.to_owned(), name.to_owned()));
    let digest = by_tag.cloned().unwrap_or_else(|| name.to_owned());
    let Some((media_type, bytes)) = state
        .manifests
        .get(&(repository.to_owned(), digest.clone()))
    else {
        return error(404, "MANIFEST_UNKNOWN");
    };
    let answer = Response::builder()
        .header(header::CONTENT_TYPE, media_type)
        .header("Docker-Content-Digest", digest)
        .header(header::CONTENT_LENGTH, bytes.len());
    let body = if parts.method == Method::HEAD {
        Body::empty()
    } else {
        bytes.clone().into()
    };
    answer.body(body).unwrap()
}

fn write_manifest(
    fake: &Fake,
    parts: &axum::http::request::Parts,
    repository: &str,
    name: &str,
    body: Bytes,
) -> Answer {
    let mut state = fake.state();
    let digest = digest_of(&body).to_string();
    if name.contains(':') && name != digest {
        return error(400, "DIGEST_INVALID");
    }
    if state.knobs.verify
        && let Some(code) = incomplete(&state, repository, &body)
    {
        return error(400, code);
    }
    let media_type = parts.headers[header::CONTENT_TYPE]
        .to_str()
        .unwrap()
        .to_owned();
    if !name.contains(':') {
        state
            .tags
            .insert((repository.to_owned(), name.to_owned()), digest.clone());
    }
    state
        .manifests
        .insert((repository.to_owned(), digest.clone()), (media_type, body));
    Response::builder()
        .status(201)
        .header("Docker-Content-Digest", digest)
        .body(Body::empty())
        .unwrap()
}

/// The code for a manifest that names something that is not there.
fn incomplete(state: &super::fake::State, repository: &str, body: &[u8]) -> Option<&'static str> {
    let value: serde_json::Value = serde_json::from_slice(body).ok()?;
    let digests = |field: &str| -> Vec<String> {
        let items = value[field].as_array().cloned().unwrap_or_default();
        items
            .iter()
            .chain(value.get(field).filter(|v| v.is_object()))
            .filter(|item| {
                !item["mediaType"]
                    .as_str()
                    .unwrap_or_default()
                    .contains("foreign")
            })
            .filter_map(|item| item["digest"].as_str().map(str::to_owned))
            .collect()
    };
    let key = |digest: String| (repository.to_owned(), digest);
    let blobs = ["config", "layers", "blobs"].into_iter().flat_map(digests);
    for digest in blobs {
        if !state.blobs.contains_key(&key(digest)) {
            return Some("MANIFEST_BLOB_UNKNOWN");
        }
    }
    for digest in digests("manifests") {
        let key = key(digest);
        if !state.manifests.contains_key(&key) && !state.blobs.contains_key(&key) {
            return Some("MANIFEST_UNKNOWN");
        }
    }
    None
}

fn read_blob(
    fake: &Fake,
    parts: &axum::http::request::Parts,
    repository: &str,
    name: &str,
) -> Answer {
    let state = fake.state();
    let Some(content) = state.blobs.get(&(repository.to_owned(), name.to_owned())) else {
        return error(404, "BLOB_UNKNOWN");
    };
    let range = parts
        .headers
        .get(header::RANGE)
        .filter(|_| state.knobs.ranges);
    let first: usize = range
        .and_then(|range| {
            range
                .to_str()
                .ok()?
                .strip_prefix("bytes=")?
                .strip_suffix('-')
        })
        .map_or(0, |first| first.parse().unwrap());
    let rest = content.slice(first..);
    let mut answer = Response::builder().header(header::CONTENT_LENGTH, rest.len());
    if range.is_some() {
        let range = format!("bytes {first}-{}/{}", content.len() - 1, content.len());
        answer = answer.status(206).header(header::CONTENT_RANGE, range);
    }
    let body = if parts.method == Method::HEAD {
        Body::empty()
    } else {
        Body::from(rest)
    };
    answer.body(body).unwrap()
}

fn start_upload(fake: &Fake, repository: &str, query: &HashMap<String, String>) -> Answer {
    let mut state = fake.state();
    if let (Some(digest), Some(from), true) =
        (query.get("mount"), query.get("from"), state.knobs.mount)
        && let Some(content) = state.blobs.get(&(from.clone(), digest.clone())).cloned()
    {
        state
            .blobs
            .insert((repository.to_owned(), digest.clone()), content);
        return plain(201, "");
    }
    state.next_session += 1;
    let session = format!("session-{}", state.next_session);
    state.sessions.insert(session.clone());
    let path = format!("/v2/{repository}/blobs/uploads/{session}");
    let location = match &state.knobs.location {
        LocationStyle::Relative => path,
        LocationStyle::Absolute => format!("http://{}{path}", fake.address),
        LocationStyle::WithQuery => format!("{path}?_state=a%2Fb%3D%3D&nonce=1"),
        LocationStyle::Elsewhere(host) => format!("http://{host}{path}"),
    };
    Response::builder()
        .status(202)
        .header(header::LOCATION, location)
        .body(Body::empty())
        .unwrap()
}

fn write_blob(
    fake: &Fake,
    repository: &str,
    session: &str,
    query: &HashMap<String, String>,
    body: Bytes,
) -> Answer {
    let mut state = fake.state();
    let elsewhere = matches!(state.knobs.location, LocationStyle::Elsewhere(_));
    if !state.sessions.remove(session) && !elsewhere && state.next_session > 0 {
        return error(404, "BLOB_UPLOAD_UNKNOWN");
    }
    if matches!(state.knobs.location, LocationStyle::WithQuery)
        && query.get("_state").map(String::as_str) != Some("a/b==")
    {
        return error(400, "BLOB_UPLOAD_INVALID");
    }
    let digest = query["digest"].clone();
    if state.knobs.verify && digest != digest_of(&body).to_string() && digest.starts_with("sha256")
    {
        return error(400, "DIGEST_INVALID");
    }
    state.blobs.insert((repository.to_owned(), digest), body);
    plain(201, "")
}
