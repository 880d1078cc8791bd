//! The endpoint that looks like an OCI registry to Kubewarden's host.
//!
//! It responds only to the queries of the contract: there are no blobs and no pushes. Responses that stay valid for a minute
//! are manifests. Everything else is an OCI error, because the host caches successful responses.

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
use mirror_contract::{BackupName, ImageRef, ImageStatus, Mode, Place, Query, Refusal, owners};
use tokio::sync::watch;

use crate::backup_health::BackupHealth;
use crate::backups::ByBackup;
use crate::cluster::{PullSecrets, SharedIndex};
use crate::lookup::Lookup;
use crate::original_lookup::OriginalLookup;
use crate::server::Connection;
use crate::target_lookup::TargetLookup;
pub use auth::FacadeAuth;
pub use metrics::FacadeMetrics;
use metrics::FacadeStatus;
use reply::{Code, Reply};
use route::Route;

pub struct Facade {
    pub backups: ByBackup<Lookup>,
    pub targets: TargetLookup,
    pub originals: OriginalLookup,
    /// `None` if requests need no authentication.
    pub auth: Option<FacadeAuth>,
    pub pull_secrets: PullSecrets,
    /// `None` without a cluster.
    pub cluster: Option<Arc<SharedIndex>>,
    pub metrics: FacadeMetrics,
}

/// Serves the last value of `facade`.
pub fn router(facade: watch::Receiver<Arc<Facade>>) -> Router {
    Router::new().fallback(handle).with_state(facade)
}

async fn handle(
    State(facade): State<watch::Receiver<Arc<Facade>>>,
    request: Request,
) -> Response<Body> {
    let facade = Arc::clone(&facade.borrow());
    // The body is not read: queries have none, and a peer could send it slowly.
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
                // The first request of the host is always without credentials.
                let is_first = authorization.is_none() && request.uri.path() == "/v2/";
                let reply = Reply::unauthorized();
                let reply = reply.counted_as((!is_first).then_some(FacadeStatus::RefusedRequest));
                let is_last = connection.is_some_and(Connection::unauthorized);
                return if is_last { reply.closing() } else { reply };
            }
            connection.inspect(|connection| connection.authenticated());
        }
        if !matches!(request.method, Method::GET | Method::HEAD) {
            return Reply::error(Code::Unsupported, "only GET and HEAD are supported");
        }
        match Route::parse(request.uri.path()) {
            Some(Route::Base) => Reply::base(),
            Some(Route::Manifest { name, reference }) => {
                self.manifest(name, reference, connection).await
            }
            None => Reply::error(Code::NameUnknown, "only /v2/ and manifests are served here"),
        }
    }

    /// The annotation with the owners of Pods that are ignored.
    fn skipped_owners(&self, namespace: &str) -> Option<(&'static str, String)> {
        let list = self.cluster.as_ref()?.skipped_owners(namespace);
        (!list.is_empty()).then_some((owners::SKIPPED_OWNERS, list))
    }

    /// Returns the pull Secret, if images in `place` are pulled with it.
    fn secret(&self, place: &Place<'_>, image: &ImageRef<'_>) -> Option<&str> {
        let is_needed = self.pull_secrets.needs_secret(place, image);
        self.pull_secrets.name().filter(|_| is_needed)
    }

    /// Returns the status of `image` for the backup `name`. If the image is a copy, its own backup has its pull Secret and its
    /// health, whatever backup the rule names.
    async fn image(
        &self,
        image: &ImageRef<'static>,
        name: &BackupName<'_>,
        mode: Mode,
    ) -> Result<ImageStatus<'_>, Refusal<'static>> {
        let lookup = self.backups.get(name).ok_or_else(|| unknown_backup(name))?;
        let mut status = lookup.image(image, mode).await?;
        let mut backups = self.backups.iter();
        let holder = backups.find(|(_, lookup)| lookup.locations().holds(image));
        if let ImageStatus::InBackup { is_unavailable, .. } = &mut status {
            *is_unavailable = self.is_unavailable(image, holder.map(|(_, lookup)| lookup));
        }
        let holder = holder.map_or(name, |(holder, _)| holder);
        let place = Place::Backup(holder.clone());
        Ok(status.naming_secret(self.secret(&place, image)))
    }

    /// Returns whether the registry of a copy is unavailable. Its backup knows that of its current location; of a former
    /// location, another backup in the same registry may know it.
    fn is_unavailable(&self, copy: &ImageRef<'_>, holder: Option<&Lookup>) -> bool {
        let mut known = holder.into_iter().chain(self.backups.values());
        let health = known.find_map(|lookup| lookup.health_at(copy.host()));
        health.is_some_and(BackupHealth::is_unavailable)
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
        // Without authentication, a valid query distinguishes a policy server from other peers.
        connection.inspect(|connection| connection.authenticated());
        let response = match &query {
            Query::Image { image, place, mode } => {
                let status = match place {
                    Place::Backup(name) => self.image(image, name, *mode).await,
                    Place::Original(name) => match self.backups.get(name) {
                        Some(_) => self.originals.image(image, *mode).await,
                        None => Err(unknown_backup(name)),
                    },
                    Place::Target => {
                        let status = self.targets.image(image, *mode).await;
                        status.map(|status| status.naming_secret(self.secret(place, image)))
                    }
                };
                status.map(|status| (FacadeStatus::from(&status), status.annotations()))
            }
            Query::PullSecret { namespace, mode } => {
                let status = self.pull_secrets.request(namespace, *mode).await;
                status.map(|status| {
                    let mut annotations = status.annotations();
                    annotations.extend(self.skipped_owners(namespace));
                    (FacadeStatus::from(&status), annotations)
                })
            }
        };
        tracing::debug!(name, reference, refused = response.is_err(), "responded");
        match response {
            Ok((status, annotations)) => Reply::manifest(annotations).counted_as(Some(status)),
            Err(refusal) => Reply::error(Code::ManifestUnknown, &refusal.to_string())
                .counted_as(Some(refusal.kind.into())),
        }
    }
}

fn unknown_backup(name: &BackupName<'_>) -> Refusal<'static> {
    // Not the names of the others: users see this text, and backups may belong to other teams.
    let reason = format!(
        "a rule names the backup {name}, which is not defined; define it in the file of --config of mirror-sidecar, or correct \
         the rule"
    );
    Refusal::failed(&reason)
}
