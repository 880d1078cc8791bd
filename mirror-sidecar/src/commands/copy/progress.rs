//! What people and programs see of a run while it goes on, on standard error.
//!
//! The engine's events change the [`Board`] and leave lines to be written, which is quick and does not block. What is
//! slow, writing, is up to the run itself, which holds nothing then that an event waits for: a terminal that stands still
//! does not hold up copies.

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

use super::copied::Copied;
use super::tags::Listed;
use crate::args::ProgressArg;
use crate::commands::list::RepositoryName;
use crate::output;
use bars::Bars;
use board::Board;
use events::Events;
use lines::Lines;
use picture::Picture;

/// What everybody is told when a run is cut short.
const INTERRUPTED: &str = "interrupted; run the command again to continue";

/// The progress of one run.
pub(super) struct Progress {
    view: View,
    news: Mutex<News>,
}

/// Hears what happens to one image.
pub(super) struct Watch {
    progress: Arc<Progress>,
    number: usize,
    image: String,
}

/// What copies tell. Never locked while something is written.
struct News {
    board: Board,
    /// Lines for the next tick.
    pending: Vec<String>,
}

/// How progress is shown. Only the run locks what is in here, so it may keep it while it writes.
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

/// Whether standard error is a terminal that can move its cursor, without messages that would come between all the time.
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

    /// The tags of a repository are known.
    pub(super) fn listed(&self, repository: &RepositoryName, tags: &Listed) {
        match &self.view {
            View::Nothing => {}
            View::Json(_) => output::note(&events::listed(repository, tags)),
            View::Bars(_) | View::Lines(_) => {
                output::note(&lines::listed(repository, tags));
            }
        }
    }

    /// The tags of a repository cannot be had.
    pub(super) fn not_listed(&self, repository: &RepositoryName, reason: &str) {
        self.news().board.failed_repositories += 1;
        match &self.view {
            View::Json(_) => output::note(&events::not_listed(repository, reason)),
            _ => output::error(&format!("tags of {repository} were not copied: {reason}")),
        }
    }

    /// So many images are going to be copied.
    pub(super) fn start(&self, images: usize) {
        self.news().board.total = images;
    }

    /// Brings the screen up to date. Takes as long as the terminal does.
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

    /// A copy has come to its end.
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

    /// The run has come to its end.
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
            // The result of a single image says it all.
            View::Bars(_) | View::Lines(_) if board.total > 1 || board.failed_repositories > 0 => {
                Some(board.summary())
            }
            _ => None,
        }
    }

    /// The run was cut short.
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

/// A display that is half drawn is drawn again by the next tick.
fn lock<T>(shown: &Mutex<T>) -> MutexGuard<'_, T> {
    shown.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Follows the copy of `image`, which begins now.
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
