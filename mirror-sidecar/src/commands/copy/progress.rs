//! What people and programs see of a run while it goes on, on standard error.
//!
//! The engine's events change the [`Board`] and leave lines to be written, which is quick and does not block. What is
//! slow, writing, happens in [`Progress::tick`] and only there: a terminal that stands still does not hold up copies.

mod bars;
mod board;
mod events;
mod lines;

use std::io::IsTerminal as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use mirror_copy::Event;
use tracing::level_filters::LevelFilter;

use super::Copied;
use super::list::RepositoryName;
use crate::args::ProgressArg;
use crate::output;
use bars::Bars;
use board::Board;
use events::Events;
use lines::Lines;

/// What everybody is told when a run is cut short.
const INTERRUPTED: &str = "interrupted; nothing incomplete has a tag, run it again to go on";

/// The progress of one run.
pub(super) struct Progress {
    shown: Mutex<Shown>,
}

/// Hears what happens to one image.
pub(super) struct Watch {
    progress: Arc<Progress>,
    number: usize,
    image: String,
}

struct Shown {
    board: Board,
    view: View,
    /// Lines for the next tick.
    pending: Vec<String>,
}

/// How progress is shown.
enum View {
    Bars(Box<Bars>),
    Lines(Lines),
    Json(Events),
    Nothing,
}

impl View {
    fn new(form: ProgressArg) -> Self {
        match form {
            ProgressArg::Auto if bars_fit() => Self::Bars(Box::new(Bars::new())),
            ProgressArg::Bars => Self::Bars(Box::new(Bars::new())),
            ProgressArg::Auto | ProgressArg::Lines => Self::Lines(Lines::default()),
            ProgressArg::Json => Self::Json(Events::default()),
            ProgressArg::None => Self::Nothing,
        }
    }
}

/// Whether standard error is a terminal that can move its cursor, without messages that would come between all the time.
fn bars_fit() -> bool {
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    std::io::stderr().is_terminal() && !is_dumb && LevelFilter::current() < LevelFilter::DEBUG
}

impl Progress {
    pub(super) fn new(form: ProgressArg) -> Self {
        let shown = Shown {
            board: Board::new(Instant::now()),
            view: View::new(form),
            pending: Vec::new(),
        };
        Self {
            shown: Mutex::new(shown),
        }
    }

    /// The tags of a repository are known: so many to copy, so many that belong to others.
    pub(super) fn listed(&self, repository: &RepositoryName, tags: usize, left_out: usize) {
        match &self.shown().view {
            View::Nothing => {}
            View::Json(_) => output::note(&events::listed(repository, tags, left_out)),
            View::Bars(_) | View::Lines(_) => {
                output::note(&lines::listed(repository, tags, left_out));
            }
        }
    }

    /// The tags of a repository cannot be had.
    pub(super) fn not_listed(&self, repository: &RepositoryName, reason: &str) {
        match &self.shown().view {
            View::Json(_) => output::note(&events::not_listed(repository, reason)),
            _ => output::error(&format!("the tags of {repository} are not known: {reason}")),
        }
    }

    /// So many images are going to be copied.
    pub(super) fn start(&self, images: usize) {
        self.shown().board.total = images;
    }

    /// Brings the screen up to date.
    pub(super) fn tick(&self) {
        let mut shown = self.shown();
        let Shown {
            board,
            view,
            pending,
        } = &mut *shown;
        let now = Instant::now();
        board.tick(now);
        match view {
            View::Bars(bars) => bars.draw(board),
            View::Lines(lines) => lines.tick(board, now, pending),
            View::Json(events) => events.tick(board, now, pending),
            View::Nothing => {}
        }
        let lines = std::mem::take(pending);
        drop(shown);
        for line in lines {
            output::note(&line);
        }
    }

    /// A copy has come to its end.
    pub(super) fn ended(&self, copied: &Copied) {
        let mut shown = self.shown();
        shown.board.end(copied.number, copied.result.as_ref().ok());
        let is_json = matches!(shown.view, View::Json(_));
        if is_json {
            shown.pending.push(events::ended(copied));
        }
        drop(shown);
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
        let shown = self.shown();
        if let View::Bars(bars) = &shown.view {
            bars.clear();
        }
        match &shown.view {
            View::Json(_) => output::note(&events::finished(&shown.board)),
            // The result of a single image says it all.
            View::Bars(_) | View::Lines(_) if shown.board.total > 1 => {
                output::note(&shown.board.summary());
            }
            _ => {}
        }
    }

    /// The run was cut short.
    pub(super) fn interrupted(&self) {
        let shown = self.shown();
        match &shown.view {
            View::Json(_) => output::note(&events::interrupted()),
            View::Bars(bars) => {
                bars.clear();
                output::error(INTERRUPTED);
            }
            View::Lines(_) | View::Nothing => output::error(INTERRUPTED),
        }
    }

    fn shown(&self) -> MutexGuard<'_, Shown> {
        // A display that is half drawn is drawn again by the next tick.
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Follows the copy of `image`, which begins now.
pub(super) fn watch(progress: Arc<Progress>, number: usize, image: &str) -> Watch {
    let mut shown = progress.shown();
    shown.board.begin(number, image, Instant::now());
    drop(shown);
    Watch {
        progress,
        number,
        image: image.to_owned(),
    }
}

impl mirror_copy::Progress for Watch {
    fn event(&self, event: Event<'_>) {
        let mut shown = self.progress.shown();
        let Shown {
            board,
            view,
            pending,
        } = &mut *shown;
        board.apply(self.number, &event, Instant::now());
        let few = board.is_few();
        let Some(image) = board.running.get(&self.number) else {
            return;
        };
        match view {
            View::Lines(_) if few => pending.extend(lines::line(image, &event)),
            View::Json(_) => pending.extend(events::line(&image.name, &event)),
            _ => {}
        }
        drop(shown);
        if !matches!(event, Event::Bytes { .. }) {
            tracing::debug!(image = self.image, ?event);
        }
    }
}
