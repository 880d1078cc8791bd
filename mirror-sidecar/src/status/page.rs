//! The status page on the admin port: rendered here, readable without a script, and read-only.
//!
//! - `words`: numbers, times and sentences;
//! - `views`: the templates with their values;
//! - `mirror-sidecar/templates/`: the templates, the stylesheet, and the script that refreshes the page.

mod views;
mod words;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use mirror_contract::ImageRef;
use moka::future::Cache;

use super::api::{Api, Problem};
use super::model::{State as ImageState, Upstream};
use super::namespaces::Namespaces;
use super::query::ImageQuery;
use views::{Data, ErrorPage, ImagePage, ImagesPage, OverviewPage};

/// How long a page is reused for other requests.
const FRESH_FOR: Duration = Duration::from_secs(1);

/// The same for the totals of namespaces, for which all images are scanned.
const NAMESPACES_FRESH_FOR: Duration = Duration::from_secs(5);

/// Bytes of all pages that are kept.
const MAX_KEPT: u64 = 4 * 1024 * 1024;

/// Images on a page. Responses to clients that do not read are held in memory, so it is smaller than that of the API.
const IMAGES: usize = 50;

/// Images, or namespaces, in one section of the overview.
const IN_SECTION: usize = 10;

/// Nothing but the own stylesheet, script and icon.
const CONTENT_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; \
                              form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

const HEADERS: [(HeaderName, &str); 6] = [
    (CONTENT_SECURITY_POLICY, CONTENT_POLICY),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    // For browsers without frame-ancestors.
    (X_FRAME_OPTIONS, "DENY"),
    (REFERRER_POLICY, "no-referrer"),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
    (CACHE_CONTROL, "no-store"),
];

const STYLESHEET: &str = include_str!("../../templates/page.css");
const SCRIPT: &str = include_str!("../../templates/page.js");
const ICON: &str = include_str!("../../templates/icon.svg");

#[derive(Clone)]
struct Pages {
    api: Api,
    /// By path and query.
    rendered: Cache<String, Rendered>,
    namespaces: Cache<(), Namespaces>,
}

#[derive(Clone)]
struct Rendered {
    status: StatusCode,
    body: Bytes,
}

/// Serves the page of the status that `api` has.
pub(super) fn router(api: Api) -> Router {
    let rendered = Cache::builder()
        .time_to_live(FRESH_FOR)
        .max_capacity(MAX_KEPT)
        .weigher(|key: &String, page: &Rendered| {
            u32::try_from(key.len() + page.body.len()).unwrap_or(u32::MAX)
        });
    let namespaces = Cache::builder()
        .time_to_live(NAMESPACES_FRESH_FOR)
        .max_capacity(1);
    Router::new()
        .route("/", get(overview))
        .route("/images", get(images))
        .route("/images/{*reference}", get(image))
        .route("/assets/page.css", asset("text/css", STYLESHEET))
        .route("/assets/page.js", asset("text/javascript", SCRIPT))
        .route("/assets/icon.svg", asset("image/svg+xml", ICON))
        .with_state(Pages {
            api,
            rendered: rendered.build(),
            namespaces: namespaces.build(),
        })
}

fn asset(media_type: &'static str, content: &'static str) -> axum::routing::MethodRouter<Pages> {
    get(move || async move { respond(StatusCode::OK, media_type, content.into()) })
}

async fn overview(State(pages): State<Pages>) -> Response {
    let key = "/".to_owned();
    pages.respond(key, 0, Box::pin(pages.overview())).await
}

async fn images(State(pages): State<Pages>, RawQuery(query): RawQuery) -> Response {
    let parsed = ImageQuery::parse(&query.unwrap_or_default());
    let query = match parsed {
        // Only replicas send it.
        Ok(query) if !query.is_local => ImageQuery {
            limit: IMAGES,
            ..query
        },
        Ok(_) => return invalid("parameter local: is for the API", 0),
        Err(error) => return invalid(&error, 0),
    };
    let key = format!("/images?{}", query.for_replica());
    pages.respond(key, 0, Box::pin(pages.images(query))).await
}

async fn image(State(pages): State<Pages>, Path(reference): Path<String>) -> Response {
    // Links are relative, so they depend on the number of segments.
    let depth = reference.matches('/').count() + 1;
    let image = match ImageRef::parse(&reference) {
        Ok(image) => image.into_owned(),
        Err(error) => {
            let error = format!("the image reference is not valid: {error}");
            return invalid(&error, depth);
        }
    };
    let key = format!("/images/{image} {depth}");
    let page = Box::pin(pages.image(image, depth));
    pages.respond(key, depth, page).await
}

fn invalid(error: &str, depth: usize) -> Response {
    let problem = Problem(StatusCode::BAD_REQUEST, error.to_owned());
    respond(problem.0, HTML, error_page(&problem, depth))
}

fn error_page(problem: &Problem, depth: usize) -> Bytes {
    let page = views::render(&ErrorPage::new(problem, depth));
    page.unwrap_or_default().into()
}

const HTML: &str = "text/html; charset=utf-8";

fn respond(status: StatusCode, media_type: &'static str, body: Bytes) -> Response {
    let mut response = (status, body).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

impl Pages {
    /// Renders a page once for all requests of the same moment.
    async fn respond(
        &self,
        key: String,
        depth: usize,
        render: impl Future<Output = Result<String, Problem>>,
    ) -> Response {
        let render = async {
            let (status, body) = match render.await {
                Ok(page) => (StatusCode::OK, page.into()),
                Err(problem) => (problem.0, error_page(&problem, depth)),
            };
            Rendered { status, body }
        };
        let rendered = self.rendered.get_with(key, render).await;
        respond(rendered.status, HTML, rendered.body)
    }

    async fn overview(&self) -> Result<String, Problem> {
        let of = |states: &[ImageState]| ImageQuery {
            states: states.to_vec(),
            limit: IN_SECTION,
            ..ImageQuery::default()
        };
        let running = ImageQuery {
            is_running: true,
            ..of(&[])
        };
        let last_copies = ImageQuery {
            upstream: Some(Upstream::Gone),
            ..of(&[ImageState::Mirrored])
        };
        // One after another would add up the time for a replica that does not respond.
        let (overview, failed, running, last_copies, namespaces) = tokio::try_join!(
            self.api.overview(false),
            self.api.list(of(&[ImageState::Failed]), None),
            self.api.list(running, None),
            self.api.list(last_copies, None),
            self.namespaces(),
        )?;
        let data = Data {
            overview,
            failed,
            running,
            last_copies,
            namespaces,
        };
        let has_cluster = self.api.sources().cluster.is_some();
        views::render(&OverviewPage::new(&data, has_cluster))
    }

    async fn namespaces(&self) -> Result<Namespaces, Problem> {
        let namespaces = async {
            let sources = self.api.sources();
            self.api
                .render(move || sources.namespaces(IN_SECTION))
                .await
        };
        let namespaces = self.namespaces.try_get_with((), namespaces).await;
        namespaces.map_err(|problem: Arc<Problem>| Problem(problem.0, problem.1.clone()))
    }

    async fn images(&self, query: ImageQuery) -> Result<String, Problem> {
        let list = self.api.list(query.clone(), None).await?;
        let backups = self.api.sources().backups;
        let backups = backups.iter().map(|(name, _)| name.to_string()).collect();
        views::render(&ImagesPage::new(&query, &list, backups))
    }

    async fn image(&self, image: ImageRef<'static>, depth: usize) -> Result<String, Problem> {
        let name = image.to_string();
        let list = self.api.list(ImageQuery::default(), Some(image)).await?;
        if list.items.is_empty() {
            let error = format!("no workload uses the image {name}, as far as is known");
            return Err(Problem(StatusCode::NOT_FOUND, error));
        }
        views::render(&ImagePage::new(&name, &list, depth))
    }
}
