//! A registry for unit tests: one function handles all requests.

use super::Registry;
use crate::{Credentials, Login, Registries, RegistryOptions, RetryPolicy, Timeouts};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::request::Parts;
use axum::response::Response;
use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;

/// The log of the server: `METHOD path?query`, one line per request.
#[derive(Clone, Default)]
pub(super) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub(super) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    pub(super) fn count(&self, part: &str) -> usize {
        self.lines()
            .iter()
            .filter(|line| line.contains(part))
            .count()
    }
}

/// Starts a registry on loopback, accessed as robot/secret, whose responses this function returns.
pub(super) async fn registry<F>(answer: F) -> (Registry, Log)
where
    F: Fn(Parts, Bytes) -> Response + Clone + Send + Sync + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let log = Log::default();
    let kept = log.clone();
    let router = Router::new().fallback(move |request: Request| {
        let (answer, kept) = (answer.clone(), kept.clone());
        async move {
            let (parts, body) = request.into_parts();
            let line = format!("{} {}", parts.method, parts.uri.path_and_query().unwrap());
            kept.0.lock().unwrap().push(line);
            match to_bytes(body, usize::MAX).await {
                Ok(body) => answer(parts, body),
                Err(_) => respond(400, &[], ""),
            }
        }
    });
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let login = Login {
        username: "robot".to_owned(),
        password: "secret".to_owned().into(),
    };
    let options = RegistryOptions {
        insecure_hosts: BTreeSet::from([host.clone()]),
        credentials: Credentials::anonymous().with_login(&host, login),
        retry: RetryPolicy {
            attempts: 3,
            first_delay: Duration::from_millis(1),
            max_delay: Duration::from_millis(2),
            visible_within: Duration::from_millis(100),
            ..RetryPolicy::default()
        },
        ..RegistryOptions::default()
    };
    let registry = Registries::new(options).unwrap().get(&host).unwrap();
    (registry, log)
}

/// A registry that accepts connections and never responds, with a short timeout for lists.
pub(super) async fn silent_registry() -> (Registry, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let options = RegistryOptions {
        insecure_hosts: BTreeSet::from([host.clone()]),
        timeouts: Timeouts {
            list: Duration::from_millis(200),
            ..Timeouts::default()
        },
        ..RegistryOptions::default()
    };
    let registry = Registries::new(options).unwrap().get(&host).unwrap();
    (registry, listener)
}

pub(super) fn respond(status: u16, headers: &[(&str, &str)], body: impl Into<Body>) -> Response {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(body.into()).unwrap()
}
