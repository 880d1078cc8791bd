//! A scripted API server, reached without a connection, so that tests can pause the clock.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use kube::Client;
use mirror_contract::{Backup, Naming};
use mirror_copy::{Registries, RegistryOptions};
use serde_json::{Value, json};

use super::{ExcludedNamespaces, Policies, Rules};
use crate::backups::OtherBackups;
use crate::former_backups::FormerBackups;
use crate::locations::Locations;
use crate::target_lookup::{TargetLookup, TargetRegistries};

/// A request, with the path and query in one text, and the body as JSON.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: Method,
    pub path: String,
    pub headers: HeaderMap,
    pub body: Value,
}

/// All requests so far, in order.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<Asked>>>);

impl Log {
    pub fn all(&self) -> Vec<Asked> {
        self.0.lock().unwrap().clone()
    }

    /// The requests with this method.
    pub fn of(&self, method: &Method) -> Vec<Asked> {
        let mut asked = self.all();
        asked.retain(|asked| asked.method == *method);
        asked
    }

    /// The number of requests for this path, with any query.
    pub fn count(&self, path: &str) -> usize {
        let asked = self.all();
        let paths = asked.iter().map(|asked| asked.path.split('?').next());
        paths.filter(|asked| *asked == Some(path)).count()
    }
}

/// A client of an API server that returns the response of `script`; `None` is no response at all.
pub fn api_server(
    script: impl Fn(&Asked) -> Option<Response> + Send + Sync + 'static,
) -> (Client, Log) {
    let log = Log::default();
    let (kept, script) = (log.clone(), Arc::new(script));
    let router = Router::new().fallback(move |request: Request| {
        let (kept, script) = (kept.clone(), Arc::clone(&script));
        async move {
            let (head, body) = request.into_parts();
            let body = to_bytes(body, usize::MAX).await.unwrap();
            let asked = Asked {
                method: head.method,
                path: head.uri.to_string(),
                headers: head.headers,
                body: serde_json::from_slice(&body).unwrap_or_default(),
            };
            kept.0.lock().unwrap().push(asked.clone());
            match script(&asked) {
                Some(response) => response,
                None => std::future::pending().await,
            }
        }
    });
    (Client::new(router, "default"), log)
}

/// A response with this object.
pub fn found(object: &Value) -> Response {
    object.to_string().into_response()
}

/// Rules without a pull Secret and without exclusions.
pub fn rules(backup: Backup) -> Rules {
    Rules {
        backup,
        former_backups: FormerBackups::default(),
        other_backups: OtherBackups::default(),
        excluded_namespaces: ExcludedNamespaces::default(),
        pull_secret: None,
        former_pull_secrets: Vec::new(),
        skip_owners: Vec::new(),
    }
}

/// A lookup in targets of rewrites that finds nothing.
pub fn target_lookup() -> TargetLookup {
    let backup = Backup::new("backup.test:5000", "acme", Naming::Flat).unwrap();
    let registries = Registries::new(RegistryOptions::default()).unwrap();
    let images = Locations::new(backup, &registries, registries.clone()).unwrap();
    TargetLookup::new(
        TargetRegistries::new(registries, []),
        Arc::new(images),
        Policies::default(),
    )
}

/// The `Status` of an API server that refuses something, with this code and reason, and a cause for programs.
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
