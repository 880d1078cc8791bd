//! The endpoint that Kubewarden's host takes for an OCI registry.
//!
//! It knows the queries of the contract and nothing else: it serves no blob and takes no push. Answers that stay true
//! for a minute are manifests; everything else is an OCI error, because the host caches what succeeds.

mod auth;
mod reply;
mod route;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{Method, header};
use axum::response::Response;
use mirror_contract::{NamespacePattern, Query, Refusal, RefusalKind, SecretAnswer};

use crate::catalog::Catalog;
pub use auth::FacadeAuth;
use reply::{Code, Reply};
use route::Route;

/// What the facade answers from.
pub struct Facade {
    /// What is mirrored.
    pub catalog: Catalog,
    /// Who may ask; `None` lets everybody.
    pub auth: Option<FacadeAuth>,
    /// What to say about pull Secrets.
    pub pull_secrets: PullSecrets,
}

/// What is known about pull Secrets without a cluster.
pub struct PullSecrets {
    /// The Secret that is in every namespace; without it none is needed.
    pub name: Option<String>,
    /// Namespaces for which none is named.
    pub excluded_namespaces: Vec<NamespacePattern<'static>>,
}

/// The facade as a service.
pub fn router(facade: Facade) -> Router {
    Router::new().fallback(handle).with_state(Arc::new(facade))
}

async fn handle(State(facade): State<Arc<Facade>>, request: Request) -> Response<Body> {
    let (head, _) = request.into_parts();
    let reply = facade.reply(&head).await;
    reply.into_response(head.method == Method::HEAD)
}

impl Facade {
    async fn reply(&self, request: &Parts) -> Reply {
        let authorization = request.headers.get(header::AUTHORIZATION);
        if let Some(auth) = &self.auth
            && !auth.allows(authorization)
        {
            return Reply::unauthorized();
        }
        if !matches!(request.method, Method::GET | Method::HEAD) {
            return Reply::error(
                Code::Unsupported,
                "only GET and HEAD, this is no registry to push to",
            );
        }
        match Route::parse(request.uri.path()) {
            Some(Route::Base) => Reply::base(),
            Some(Route::Manifest { name, reference }) => self.manifest(name, reference).await,
            None => Reply::error(Code::NameUnknown, "only /v2/ and manifests are served here"),
        }
    }

    async fn manifest(&self, name: &str, reference: &str) -> Reply {
        let query = match Query::decode(name, reference) {
            Ok(query) => query,
            Err(error) => return Reply::error(Code::NameInvalid, &error.to_string()),
        };
        let answer = match &query {
            Query::Image { image, mode } => {
                let secret = self.pull_secrets.name.as_deref();
                let answer = self.catalog.image(image, *mode).await;
                answer.map(|answer| answer.naming_secret(secret).annotations())
            }
            // Without a cluster nothing is created, so looking and making sure are the same.
            Query::PullSecret { namespace, mode: _ } => {
                let answer = self.pull_secrets.answer(namespace);
                answer.map(|answer| answer.annotations())
            }
        };
        tracing::debug!(name, reference, refused = answer.is_err(), "answered");
        match answer {
            Ok(annotations) => Reply::manifest(annotations),
            Err(refusal) => Reply::error(Code::ManifestUnknown, &refusal.to_string()),
        }
    }
}

impl PullSecrets {
    fn answer(&self, namespace: &str) -> Result<SecretAnswer<'_>, Refusal<'static>> {
        let Some(name) = &self.name else {
            return Ok(SecretAnswer::NotNeeded);
        };
        if self
            .excluded_namespaces
            .iter()
            .any(|excluded| excluded.matches(namespace))
        {
            let reason = format!("namespace {namespace} is excluded");
            return Err(Refusal::new(RefusalKind::Failed, &reason));
        }
        Ok(SecretAnswer::Ready { name: name.into() })
    }
}
