//! `copy`: copies images.

pub(super) mod dry_run;
pub(super) mod missing;
mod plan;
mod progress;
mod result;
mod tags;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use mirror_copy::CopyOptions;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::list;
use crate::args::{CopyArgs, TagFilters};
use crate::exit::{FAILURE, SIGNAL, StopSignal, stop_signal};
use crate::output;
use plan::{Plan, Planner};
use progress::Progress;
use result::Copied;

/// Timeout of the report of an interrupted run. Only a write to a pipe that nobody reads takes longer.
const STOP_WITHIN: Duration = Duration::from_millis(500);

/// Interval between updates of the progress.
const TICK: Duration = Duration::from_millis(100);

/// Copies all images, several at a time, and prints each result when the copy ends.
pub async fn run(args: CopyArgs) -> anyhow::Result<ExitCode> {
    let options = Arc::new(args.options()?);
    let work = if args.all_tags {
        let repositories = list::repositories(&args.images)?;
        let planner = Planner::new(&args, repositories.len())?;
        Work::Repositories(planner.repositories(repositories)?)
    } else {
        let images = list::images(&args.images)?;
        let planner = Planner::new(&args, images.len())?;
        Work::Images(planner.images(images)?)
    };
    // From here on, a signal must clear the progress bars.
    let mut interrupted = std::pin::pin!(stop_signal());
    tokio::spawn(stop_in_any_case());
    let progress = Progress::new(args.progress);
    let mut run = Run {
        args,
        options,
        progress: Arc::new(progress),
        running: JoinSet::new(),
        failed: false,
    };
    let exit = tokio::select! {
        biased; // a signal has priority
        signal = &mut interrupted => {
            run.progress.interrupted();
            ExitCode::from(exit_code(signal))
        }
        exit = run.work(work) => exit,
    };
    // Dropping the run stops its copies.
    Ok(exit)
}

/// Ends the program soon after a signal, even if the reader of its output blocks it.
async fn stop_in_any_case() {
    let signal = stop_signal().await;
    tokio::time::sleep(STOP_WITHIN).await;
    #[expect(clippy::exit, reason = "the task that could return may be blocked")]
    std::process::exit(i32::from(exit_code(signal)));
}

/// Returns the exit code that shells use for a signal.
fn exit_code(signal: StopSignal) -> u8 {
    SIGNAL
        + match signal {
            StopSignal::Interrupt => 2,
            StopSignal::Terminate => 15,
        }
}

enum Work {
    Images(Vec<Plan>),
    /// Copies of all their tags.
    Repositories(Vec<plan::Repository>),
}

/// One run of the command. Dropping it stops its copies.
struct Run {
    args: CopyArgs,
    options: Arc<CopyOptions>,
    progress: Arc<Progress>,
    running: JoinSet<Copied>,
    failed: bool,
}

impl Run {
    async fn work(&mut self, work: Work) -> ExitCode {
        let plans = match work {
            Work::Images(plans) => plans,
            Work::Repositories(repositories) => self.list_tags(repositories).await,
        };
        if self.args.dry_run {
            self.failed |= dry_run::run(plans, &self.args).await;
        } else {
            self.copy_all(plans).await;
            self.progress.finish();
        }
        if self.failed {
            ExitCode::from(FAILURE)
        } else {
            ExitCode::SUCCESS
        }
    }

    async fn list_tags(&mut self, repositories: Vec<plan::Repository>) -> Vec<Plan> {
        let mut plans = Vec::new();
        let limit = self.args.parallel_copies.get();
        let mut lists = std::pin::pin!(tags::list_all(repositories, limit));
        while let Some((repository, tags)) = futures_util::StreamExt::next(&mut lists).await {
            let filters = TagFilters(&self.args.tags);
            let listed = tags
                .map_err(|error| missing::of_list(&error, &repository.source))
                .and_then(|tags| tags::plans(&repository, tags, filters));
            match listed {
                Ok(listed) => {
                    self.progress.listed(&repository.name, &listed);
                    plans.extend(listed.plans);
                }
                Err(reason) => {
                    self.failed = true;
                    self.progress.not_listed(&repository.name, &reason);
                    result::print_unlisted(&repository.name, &reason, self.args.output);
                }
            }
        }
        plans
    }

    async fn copy_all(&mut self, plans: Vec<Plan>) {
        self.progress.start(plans.len());
        let mut waiting = plans.into_iter().enumerate();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            while self.running.len() < self.args.parallel_copies.get()
                && let Some((number, plan)) = waiting.next()
            {
                self.start(number, plan);
            }
            tokio::select! {
                ended = self.running.join_next() => match ended {
                    None => return,
                    Some(Ok(copied)) => self.ended(&copied),
                    Some(Err(defect)) => {
                        self.failed = true;
                        output::error(&format!("a copy was aborted: {defect}"));
                    }
                },
                _ = tick.tick() => self.progress.tick(),
            }
        }
    }

    /// Starts a task, so that copies use all cores.
    fn start(&mut self, number: usize, plan: Plan) {
        let (options, progress) = (Arc::clone(&self.options), Arc::clone(&self.progress));
        let watch = progress::watch(progress, number, &plan.image);
        self.running.spawn(async move {
            let result = mirror_copy::copy(&plan.source, &plan.target, &options, &watch).await;
            let result = match result {
                Ok(report) => Ok(report),
                Err(error) => Err(missing::explain(error, &plan.source).await),
            };
            Copied {
                number,
                plan,
                result,
            }
        });
    }

    fn ended(&mut self, copied: &Copied) {
        self.failed |= copied.result.is_err();
        // Progress lines come before the result.
        self.progress.ended(copied);
        result::print(&copied.plan, copied.result.as_ref(), self.args.output);
    }
}
