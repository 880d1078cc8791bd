//! The endpoint that Kubewarden's host takes for an OCI registry.
//!
//! It knows the queries of the contract and nothing else: it serves no blob and takes no push. Answers that stay true
//! for a minute are manifests; everything else is an OCI error, because the host caches what succeeds.

mod auth;
mod metrics;
mod reply;
mod route;

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{Method, header};
use axum::response::Response;
use mirror_contract::{Query, owners};

use crate::cluster::{PullSecrets, SharedIndex};
use crate::lookup::Lookup;
use crate::server::Connection;
pub use auth::FacadeAuth;
pub use metrics::FacadeMetrics;
use metrics::FacadeStatus;
use reply::{Code, Reply};
use route::Route;

/// What the facade answers from.
pub struct Facade {
    /// What is mirrored.
    pub lookup: Lookup,
    /// Who may ask; `None` lets everybody.
    pub auth: Option<FacadeAuth>,
    /// What to say about pull Secrets.
    pub pull_secrets: PullSecrets,
    /// What the cluster runs, if there is one.
    pub cluster: Option<Arc<SharedIndex>>,
    pub metrics: FacadeMetrics,
}

/// The facade as a service.
pub fn router(facade: Facade) -> Router {
    Router::new().fallback(handle).with_state(Arc::new(facade))
}

async fn handle(State(facade): State<Arc<Facade>>, request: Request) -> Response<Body> {
    // The body is not read: no query has one, and a peer could send it slowly.
    let (head, _) = request.into_parts();
    let began = Instant::now();
    let connection = head.extensions.get::<Arc<Connection>>();
    let reply = facade.reply(&head, connection.map(Arc::as_ref)).await;
    if let Some(status) = reply.counts_as() {
        facade.metrics.responded(status, began.elapsed());
    }
    reply.into_response(head.method == Method::HEAD)
}

impl Facade {
    async fn reply(&self, request: &Parts, connection: Option<&Connection>) -> Reply {
        let authorization = request.headers.get(header::AUTHORIZATION);
        if let Some(auth) = &self.auth {
            if !auth.allows(authorization) {
                // The host always asks for the challenge first; that is no failure.
                let is_first = authorization.is_none() && request.uri.path() == "/v2/";
                let reply = Reply::unauthorized();
                let reply = reply.counted_as((!is_first).then_some(FacadeStatus::RefusedRequest));
                let is_last = connection.is_some_and(Connection::unauthorized);
                return if is_last { reply.closing() } else { reply };
            }
            connection.inspect(|connection| connection.authenticated());
        }
        if !matches!(request.method, Method::GET | Method::HEAD) {
            return Reply::error(
                Code::Unsupported,
                "only GET and HEAD, this is no registry to push to",
            );
        }
        match Route::parse(request.uri.path()) {
            Some(Route::Base) => Reply::base(),
            Some(Route::Manifest { name, reference }) => {
                self.manifest(name, reference, connection).await
            }
            None => Reply::error(Code::NameUnknown, "only /v2/ and manifests are served here"),
        }
    }

    /// The annotation with the workloads whose Pods are left alone.
    fn skipped_owners(&self, namespace: &str) -> Option<(&'static str, String)> {
        let list = self.cluster.as_ref()?.skipped_owners(namespace);
        (!list.is_empty()).then_some((owners::SKIPPED_OWNERS, list))
    }

    async fn manifest(
        &self,
        name: &str,
        reference: &str,
        connection: Option<&Connection>,
    ) -> Reply {
        let query = match Query::decode(name, reference) {
            Ok(query) => query,
            Err(error) => return Reply::error(Code::NameInvalid, &error.to_string()),
        };
        // Where nobody needs a password, a query is what tells a policy server from others.
        connection.inspect(|connection| connection.authenticated());
        let answer = match &query {
            Query::Image { image, mode } => {
                let secret = self.pull_secrets.name();
                let answer = self.lookup.image(image, *mode).await;
                answer.map(|answer| {
                    let kind = FacadeStatus::from(&answer);
                    (kind, answer.naming_secret(secret).annotations())
                })
            }
            Query::PullSecret { namespace, mode } => {
                let answer = self.pull_secrets.answer(namespace, *mode).await;
                answer.map(|answer| {
                    let mut annotations = answer.annotations();
                    annotations.extend(self.skipped_owners(namespace));
                    (FacadeStatus::from(&answer), annotations)
                })
            }
        };
        tracing::debug!(name, reference, refused = answer.is_err(), "answered");
        match answer {
            Ok((kind, annotations)) => Reply::manifest(annotations).counted_as(Some(kind)),
            Err(refusal) => Reply::error(Code::ManifestUnknown, &refusal.to_string())
                .counted_as(Some(refusal.kind.into())),
        }
    }
}
