//! The HTTP API of the status, on the admin port.
//!
//! `GET /api/v1/status`, `GET /api/v1/images`, `GET /api/v1/images/{reference}`. The replica that is asked asks the others, with
//! `local=true`, for which none asks further.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use mirror_contract::ImageRef;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

use super::combine;
use super::model::{API_VERSION, ErrorBody, ImageList, Overview, ReplicaStatus};
use super::pages::Page;
use super::peers::{self, Part, Responses};
use super::query::{ImageQuery, parse_local};
use super::rows::Share;
use super::sources::Sources;
use crate::cluster::Replicas;

/// Requests that are worked on at the same time. Each may hold the responses of other replicas.
const MAX_REQUESTS: usize = 4;

/// How long a request waits for its turn.
const WAIT_FOR_TURN: Duration = Duration::from_secs(2);

/// The port has no authentication: after a page that took some time, the next one waits this many times as long, so that nobody
/// can keep a core busy.
const REST: u32 = 3;

#[derive(Clone)]
pub(super) struct Api {
    sources: Arc<dyn Fn() -> Sources + Send + Sync>,
    requests: Arc<Semaphore>,
    /// Pages are rendered one after another.
    rendering: Arc<Semaphore>,
}

/// A response with an error.
#[derive(Debug)]
pub(super) struct Problem(pub(super) StatusCode, pub(super) String);

/// Serves the API.
pub(super) fn router(api: Api) -> Router {
    Router::new()
        .route("/api/v1/status", get(status))
        .route("/api/v1/images", get(images))
        .route("/api/v1/images/{*reference}", get(image))
        .with_state(api)
}

async fn status(State(api): State<Api>, RawQuery(query): RawQuery) -> Result<Response, Problem> {
    let is_local = parse_local(&query.unwrap_or_default()).map_err(Problem::invalid)?;
    let overview = api.overview(is_local).await?;
    Ok(json(&overview))
}

async fn images(State(api): State<Api>, RawQuery(query): RawQuery) -> Result<Response, Problem> {
    let query = ImageQuery::parse(&query.unwrap_or_default()).map_err(Problem::invalid)?;
    let list = api.list(query, None).await?;
    Ok(json(&list))
}

async fn image(
    State(api): State<Api>,
    Path(reference): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let is_local = parse_local(&query.unwrap_or_default()).map_err(Problem::invalid)?;
    let image = ImageRef::parse(&reference)
        .map_err(|error| Problem::invalid(format!("the image reference is not valid: {error}")))?;
    let image = image.into_owned();
    let query = ImageQuery {
        is_local,
        ..ImageQuery::default()
    };
    let list = api.list(query, Some(image)).await?;
    if list.items.is_empty() && !is_local {
        return Err(Problem(
            StatusCode::NOT_FOUND,
            "no workload uses this image, as far as is known".to_owned(),
        ));
    }
    Ok(json(&list))
}

impl Api {
    /// The status of what `sources` returns for each request.
    pub(super) fn new(sources: impl Fn() -> Sources + Send + Sync + 'static) -> Self {
        Self {
            sources: Arc::new(sources),
            requests: Arc::new(Semaphore::new(MAX_REQUESTS)),
            rendering: Arc::new(Semaphore::new(1)),
        }
    }

    pub(super) fn sources(&self) -> Sources {
        (self.sources)()
    }

    pub(super) async fn overview(&self, is_local: bool) -> Result<Overview, Problem> {
        let sources = self.sources();
        if is_local {
            let overview = self.render(move || with_own(sources.overview(Share::Own), &sources));
            return overview.await;
        }
        let _turn = self.turn().await?;
        let others = ask::<Overview>(&sources, "/api/v1/status?local=true").await;
        let Responses {
            parts,
            replicas,
            responders,
        } = others;
        let overview = self.render(move || {
            let own = sources.overview(Share::Without(&responders));
            Overview {
                replicas,
                ..combine::overview(own, &parts)
            }
        });
        overview.await
    }

    /// Returns a page of images, or everything about one.
    pub(super) async fn list(
        &self,
        query: ImageQuery,
        image: Option<ImageRef<'static>>,
    ) -> Result<ImageList, Problem> {
        let sources = self.sources();
        if query.is_local {
            let list = self.render(move || {
                let page = page(&sources, &query, image.as_ref(), Share::Own);
                list_of(page, own_replica(&sources))
            });
            return list.await;
        }
        let _turn = self.turn().await?;
        let path = match &image {
            Some(image) => format!("/api/v1/images/{image}?local=true"),
            None => format!("/api/v1/images?{}", query.for_replica()),
        };
        let Responses {
            parts,
            replicas,
            responders,
        } = ask::<ImageList>(&sources, &path).await;
        let list = self.render(move || {
            // Without such a filter, all images are there, whatever the others return.
            let share = if query.depends_on_owners() {
                Share::Without(&responders)
            } else {
                Share::All
            };
            let own = page(&sources, &query, image.as_ref(), share);
            list_of(combine::images(own, parts, query.limit), replicas)
        });
        list.await
    }

    async fn turn(&self) -> Result<tokio::sync::OwnedSemaphorePermit, Problem> {
        let turn = timeout(WAIT_FOR_TURN, Arc::clone(&self.requests).acquire_owned());
        match turn.await {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(_)) | Err(_) => Err(Problem::busy()),
        }
    }

    /// Runs `render` when no other request does.
    pub(super) async fn render<T: Send + 'static>(
        &self,
        render: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let permit = timeout(WAIT_FOR_TURN, Arc::clone(&self.rendering).acquire_owned());
        let Ok(Ok(permit)) = permit.await else {
            return Err(Problem::busy());
        };
        let rendered = tokio::task::spawn_blocking(move || {
            let started = Instant::now();
            let rendered = render();
            (rendered, started.elapsed(), permit)
        });
        let Ok((rendered, elapsed, permit)) = rendered.await else {
            return Err(Problem(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the status cannot be shown; report this defect".to_owned(),
            ));
        };
        tokio::spawn(async move {
            sleep(elapsed * REST).await;
            drop(permit);
        });
        Ok(rendered)
    }
}

async fn ask<T: Part>(sources: &Sources, path: &str) -> Responses<T> {
    let alone = Replicas::alone();
    let cluster = sources.cluster.as_ref();
    peers::ask(cluster.map_or(&alone, |cluster| &cluster.replicas), path).await
}

fn page(
    sources: &Sources,
    query: &ImageQuery,
    image: Option<&ImageRef<'static>>,
    share: Share<'_>,
) -> Page {
    match image {
        Some(image) => sources.image(image, share),
        None => sources.images(query, share),
    }
}

fn own_replica(sources: &Sources) -> Vec<ReplicaStatus> {
    let cluster = sources.cluster.as_ref();
    let own = cluster.and_then(|cluster| peers::own(&cluster.replicas, sources.is_complete()));
    own.into_iter().collect()
}

fn with_own(overview: Overview, sources: &Sources) -> Overview {
    Overview {
        replicas: own_replica(sources),
        ..overview
    }
}

fn list_of(page: Page, replicas: Vec<ReplicaStatus>) -> ImageList {
    let last = page.items.last().map(|(key, _)| key.to_string());
    ImageList {
        api_version: API_VERSION.to_owned(),
        next: last.filter(|_| page.has_more),
        items: page.items.into_iter().map(|(_, status)| status).collect(),
        replicas,
    }
}

impl Part for ImageList {
    fn is_complete(&self) -> bool {
        self.replicas.iter().all(|own| own.has_responded)
    }
}

impl Part for Overview {
    fn is_complete(&self) -> bool {
        self.replicas.iter().all(|own| own.has_responded)
    }
}

fn json(value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Err(error) => Problem(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("cannot write the response: {error}"),
        )
        .into_response(),
    }
}

impl Problem {
    fn invalid(error: String) -> Self {
        Self(StatusCode::BAD_REQUEST, error)
    }

    fn busy() -> Self {
        Self(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many requests for the status; retry later".to_owned(),
        )
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Self(status, error) = self;
        let body = ErrorBody {
            api_version: API_VERSION.to_owned(),
            error,
        };
        (status, json(&body)).into_response()
    }
}
