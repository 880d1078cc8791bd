//! The templates with their values.

use askama::Template;
use axum::http::StatusCode;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::words;
use crate::output::escape::{Escaped, must_escape};
use crate::status::api::Problem;
use crate::status::model::{
    BackupStatus, ImageList, ImageStatus, Overview, ReplicaStatus, State, Totals,
};
use crate::status::namespaces::Namespaces;
use crate::status::query::{ImageQuery, RowKey};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The states in the order of the coverage bar.
const BAR: [State; 6] = [
    State::Mirrored,
    State::Rewritten,
    State::Copying,
    State::Missing,
    State::Failed,
    State::Excluded,
];

/// Renders a page. The template escapes HTML; control characters and invisible ones, such as those that change the direction of
/// the text, are replaced here, wherever they come from.
pub(super) fn render(page: &impl Template) -> Result<String, Problem> {
    let mut html = String::new();
    let mut escaped = Escaped::only(&mut html, usize::MAX, |character| {
        character != '\n' && must_escape(character)
    });
    page.render_into(&mut escaped).map_err(|error| {
        Problem(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("cannot render the page: {error}"),
        )
    })?;
    Ok(html)
}

/// The data of the overview.
pub(super) struct Data {
    pub(super) overview: Overview,
    pub(super) failed: ImageList,
    pub(super) running: ImageList,
    pub(super) last_copies: ImageList,
    pub(super) namespaces: Namespaces,
}

/// What all pages show.
struct Frame {
    /// The path to `/`, relative: a proxy may serve the page below another path.
    root: String,
    version: &'static str,
    now: Time,
}

#[derive(Template)]
#[template(path = "overview.html")]
pub(super) struct OverviewPage<'a> {
    frame: Frame,
    overview: &'a Overview,
    has_cluster: bool,
    headline: String,
    /// Percent of the images that should have a copy.
    coverage: u64,
    bar: Vec<Segment>,
    failed: &'a ImageList,
    running: &'a ImageList,
    last_copies: &'a ImageList,
    namespaces: &'a Namespaces,
}

#[derive(Template)]
#[template(path = "images.html")]
pub(super) struct ImagesPage<'a> {
    frame: Frame,
    query: &'a ImageQuery,
    list: &'a ImageList,
    states: Vec<StateChoice>,
    backups: Vec<String>,
    /// The query string of the next page.
    next: Option<String>,
}

#[derive(Template)]
#[template(path = "image.html")]
pub(super) struct ImagePage<'a> {
    frame: Frame,
    name: &'a str,
    list: &'a ImageList,
}

#[derive(Template)]
#[template(path = "error.html")]
pub(super) struct ErrorPage<'a> {
    frame: Frame,
    title: &'static str,
    error: &'a str,
}

/// A part of the coverage bar, in percent of its length.
struct Segment {
    state: State,
    count: usize,
    start: f64,
    length: f64,
}

/// An option of the filter by state.
struct StateChoice {
    /// The value of the parameter `state`.
    value: String,
    label: String,
    is_chosen: bool,
}

impl Frame {
    /// `depth` is the number of segments of the path before the last.
    fn new(depth: usize) -> Self {
        Self {
            root: "../".repeat(depth),
            version: VERSION,
            now: Time(Timestamp::now()),
        }
    }

    fn time(&self) -> String {
        words::time(&self.now)
    }
}

impl<'a> OverviewPage<'a> {
    pub(super) fn new(data: &'a Data, has_cluster: bool) -> Self {
        let images = data.overview.images;
        let protected = images.protected();
        Self {
            frame: Frame::new(0),
            overview: &data.overview,
            has_cluster,
            headline: words::headline(images),
            coverage: words::percent(protected as u64, (protected + images.unprotected()) as u64),
            bar: bar(images),
            failed: &data.failed,
            running: &data.running,
            last_copies: &data.last_copies,
            namespaces: &data.namespaces,
        }
    }

    fn unhealthy(&self) -> impl Iterator<Item = (&BackupStatus, &str)> {
        let backups = self.overview.backups.iter();
        backups.filter_map(|backup| Some((backup, backup.reason.as_deref()?)))
    }

    fn silent(&self) -> impl Iterator<Item = &ReplicaStatus> {
        let replicas = self.overview.replicas.iter();
        replicas.filter(|replica| !replica.has_responded)
    }

    fn needs_attention(&self) -> bool {
        self.unhealthy().next().is_some()
            || self.silent().next().is_some()
            || !self.failed.items.is_empty()
            || self.overview.images.missing > 0
            || self.overview.images.last_copies > 0
    }
}

impl<'a> ImagesPage<'a> {
    pub(super) fn new(query: &'a ImageQuery, list: &'a ImageList, backups: Vec<String>) -> Self {
        let next = list.next.as_ref().and_then(|last| RowKey::parse(last));
        let next = next.map(|last| query_string(query, Some(last)));
        Self {
            frame: Frame::new(0),
            query,
            list,
            states: choices(&query.states),
            backups,
            next,
        }
    }

    fn first_page(&self) -> String {
        query_string(self.query, None)
    }

    fn is_chosen(&self, backup: &str) -> bool {
        let chosen = self.query.backup.as_ref();
        chosen.is_some_and(|chosen| chosen.as_str() == backup)
    }
}

impl<'a> ImagePage<'a> {
    pub(super) fn new(name: &'a str, list: &'a ImageList, depth: usize) -> Self {
        Self {
            frame: Frame::new(depth),
            name,
            list,
        }
    }

    fn sentences(&self, image: &ImageStatus) -> Vec<String> {
        words::sentences(image, self.frame.now.0)
    }
}

impl<'a> ErrorPage<'a> {
    pub(super) fn new(problem: &'a Problem, depth: usize) -> Self {
        Self {
            frame: Frame::new(depth),
            title: problem.0.canonical_reason().unwrap_or("Error"),
            error: &problem.1,
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a bar needs three digits")]
fn bar(images: Totals) -> Vec<Segment> {
    let total: usize = BAR.iter().map(|state| images.count(*state)).sum();
    let percent = |count: usize| 100.0 * count as f64 / total.max(1) as f64;
    let mut before = 0;
    let mut segment = |state| {
        let count = images.count(state);
        let start = percent(before);
        before += count;
        Segment {
            state,
            count,
            start,
            length: percent(count),
        }
    };
    BAR.into_iter().map(&mut segment).collect()
}

fn query_string(query: &ImageQuery, after: Option<RowKey>) -> String {
    let query = ImageQuery {
        after,
        ..query.clone()
    };
    query.to_query_string()
}

fn choices(chosen: &[State]) -> Vec<StateChoice> {
    let choice = |states: &[State], label: &str| {
        let names: Vec<_> = states.iter().map(|state| state.as_str()).collect();
        StateChoice {
            value: names.join(","),
            label: label.to_owned(),
            is_chosen: chosen == states,
        }
    };
    let unprotected = [State::Missing, State::Copying, State::Failed];
    let mut choices = vec![choice(&[], "any"), choice(&unprotected, "not protected")];
    choices.extend(State::ALL.map(|state| choice(&[state], state.as_str())));
    if !choices.iter().any(|choice| choice.is_chosen) {
        let names: Vec<_> = chosen.iter().map(|state| state.as_str()).collect();
        choices.push(choice(chosen, &names.join(", ")));
    }
    choices
}

#[cfg(test)]
mod tests;
