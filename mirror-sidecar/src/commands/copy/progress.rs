//! The progress of a run on standard error.
//!
//! Events of the engine update the [`Board`] and queue lines, which does not block. The run itself writes them without
//! holding the lock that events need, so a slow terminal does not block copies.

mod bars;
mod board;
mod events;
mod lines;
mod picture;

use std::io::IsTerminal as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use mirror_copy::Event;
use tracing::level_filters::LevelFilter;

use super::result::Copied;
use super::tags::Listed;
use crate::args::ProgressArg;
use crate::commands::list::RepositoryName;
use crate::output;
use bars::Bars;
use board::Board;
use events::Events;
use lines::Lines;
use picture::Picture;

const INTERRUPTED: &str = "interrupted; run the command again to continue";

/// The progress of one run.
pub(super) struct Progress {
    view: View,
    news: Mutex<News>,
}

/// Receives the events of one image.
pub(super) struct Watch {
    progress: Arc<Progress>,
    number: usize,
    image: String,
}

/// The state that events update. Never locked during writes.
struct News {
    board: Board,
    /// Lines for the next tick.
    pending: Vec<String>,
}

/// The format of the progress. Only the run locks it, so it may hold the lock during writes.
enum View {
    Bars(Box<Mutex<Bars>>),
    Lines(Mutex<Lines>),
    Json(Mutex<Events>),
    Nothing,
}

impl View {
    fn new(form: ProgressArg) -> Self {
        match form {
            ProgressArg::Auto if bars_fit() => Self::bars(),
            ProgressArg::Bars => Self::bars(),
            ProgressArg::Auto | ProgressArg::Lines => Self::Lines(Mutex::default()),
            ProgressArg::Json => Self::Json(Mutex::default()),
            ProgressArg::None => Self::Nothing,
        }
    }

    fn bars() -> Self {
        let bars = Bars::new(output::bars(), output::columns());
        Self::Bars(Box::new(Mutex::new(bars)))
    }
}

/// Returns whether standard error is a terminal that can move its cursor, and debug messages would not interrupt bars.
fn bars_fit() -> bool {
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    std::io::stderr().is_terminal() && !is_dumb && LevelFilter::current() < LevelFilter::DEBUG
}

impl Progress {
    pub(super) fn new(form: ProgressArg) -> Self {
        Self::shown_by(View::new(form))
    }

    fn shown_by(view: View) -> Self {
        let news = News {
            board: Board::new(Instant::now()),
            pending: Vec::new(),
        };
        Self {
            view,
            news: Mutex::new(news),
        }
    }

    pub(super) fn listed(&self, repository: &RepositoryName, tags: &Listed) {
        match &self.view {
            View::Nothing => {}
            View::Json(_) => output::note(&events::listed(repository, tags)),
            View::Bars(_) | View::Lines(_) => {
                output::note(&lines::listed(repository, tags));
            }
        }
    }

    pub(super) fn not_listed(&self, repository: &RepositoryName, reason: &str) {
        self.news().board.failed_repositories += 1;
        match &self.view {
            View::Json(_) => output::note(&events::not_listed(repository, reason)),
            _ => output::error(&format!("tags of {repository} were not copied: {reason}")),
        }
    }

    /// Sets the number of images.
    pub(super) fn start(&self, images: usize) {
        self.news().board.total = images;
    }

    /// Writes the progress. Blocks while the terminal does.
    pub(super) fn tick(&self) {
        let mut news = self.news();
        let News { board, pending } = &mut *news;
        let now = Instant::now();
        board.tick(now);
        match &self.view {
            View::Bars(bars) => {
                let picture = Picture::of(board);
                drop(news);
                lock(bars).draw(&picture);
                return;
            }
            View::Lines(lines) => lock(lines).tick(board, now, pending),
            View::Json(events) => lock(events).tick(board, now, pending),
            View::Nothing => {}
        }
        let lines = std::mem::take(pending);
        drop(news);
        for line in lines {
            output::note(&line);
        }
    }

    pub(super) fn ended(&self, copied: &Copied) {
        let is_json = matches!(self.view, View::Json(_));
        let mut news = self.news();
        news.board.end(copied.number, copied.result.as_ref().ok());
        if is_json {
            news.pending.push(events::ended(copied));
        }
        drop(news);
        self.tick();
        if let Err(error) = &copied.result
            && !is_json
        {
            output::error(&format!("{} was not copied: {error}", copied.plan.image));
        }
    }

    pub(super) fn finish(&self) {
        self.tick();
        if let View::Bars(bars) = &self.view {
            lock(bars).clear();
        }
        if let Some(line) = self.last_line() {
            output::note(&line);
        }
    }

    fn last_line(&self) -> Option<String> {
        let board = &self.news().board;
        match &self.view {
            View::Json(_) => Some(events::finished(board)),
            // The result of a single image is enough.
            View::Bars(_) | View::Lines(_) if board.total > 1 || board.failed_repositories > 0 => {
                Some(board.summary())
            }
            _ => None,
        }
    }

    pub(super) fn interrupted(&self) {
        match &self.view {
            View::Json(_) => output::note(&events::interrupted()),
            View::Bars(bars) => {
                lock(bars).clear();
                output::error(INTERRUPTED);
            }
            View::Lines(_) | View::Nothing => output::error(INTERRUPTED),
        }
    }

    fn news(&self) -> MutexGuard<'_, News> {
        lock(&self.news)
    }
}

/// After a panic, the next tick draws everything again.
fn lock<T>(shown: &Mutex<T>) -> MutexGuard<'_, T> {
    shown.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Follows the copy of `image`, which starts now.
pub(super) fn watch(progress: Arc<Progress>, number: usize, image: &str) -> Watch {
    progress.news().board.begin(number, image, Instant::now());
    Watch {
        progress,
        number,
        image: image.to_owned(),
    }
}

impl mirror_copy::Progress for Watch {
    fn event(&self, event: Event<'_>) {
        let mut news = self.progress.news();
        let News { board, pending } = &mut *news;
        let is_news = board.apply(self.number, &event, Instant::now());
        let few = board.is_few();
        let Some(image) = board.running.get(&self.number) else {
            return;
        };
        match &self.progress.view {
            View::Lines(_) if few => pending.extend(lines::line(image, &event)),
            View::Json(_) if is_news => pending.extend(events::line(&image.name, &event)),
            _ => {}
        }
        drop(news);
        if !matches!(event, Event::Bytes { .. }) {
            tracing::debug!(image = self.image, ?event);
        }
    }
}

#[cfg(test)]
mod tests;
