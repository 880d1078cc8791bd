//! `plan`: what would be copied, and what would not be protected. Changes nothing.
//!
//! - `rules`: the policies and flags that decide;
//! - `backups`: the backups of the configuration;
//! - `usage`: the images in use with their users, from any input;
//! - `survey`: what registries have of them;
//! - `credentials`: names of the logins that are used;
//! - `report`: the plan as data, with totals and an estimate;
//! - `table`, `markdown`: the plan as text.

mod backups;
mod credentials;
mod markdown;
mod report;
mod rules;
mod survey;
mod table;
mod usage;

use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, anyhow};

use super::list::{self, List};
use crate::args::{PlanArgs, PlanFormat};
use crate::cluster::{Kind, listing};
use crate::exit::FAILURE;
use crate::manifests;
use crate::output;
use backups::Backups;
use report::Plan;
use rules::Rules;
use usage::Usage;

/// The exit code if an image would not be protected.
const NOT_PROTECTED: u8 = 2;

/// Prints the plan. Errors of usage exit with 1 as well: 2 is a result.
pub async fn run(args: PlanArgs) -> anyhow::Result<ExitCode> {
    // As text, so that it is no `UsageError` any more.
    let plan = plan(&args).await.map_err(|error| anyhow!("{error:#}"))?;
    print(&plan, args.output)?;
    for problem in &plan.problems {
        output::error(problem);
    }
    Ok(if !plan.problems.is_empty() {
        ExitCode::from(FAILURE)
    } else if plan.is_protected(args.allow_excluded) {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(NOT_PROTECTED)
    })
}

async fn plan(args: &PlanArgs) -> anyhow::Result<Plan> {
    let backups = Arc::new(Backups::load(args)?);
    let rules = Rules::load(args, &backups).await?;
    let warnings = rules.warnings.clone();
    let usage = usage(args, rules, &backups).await?;
    let survey = survey::Survey::of(&usage, &backups, args.offline).await;
    let credentials = credentials::Credentials::of(&usage, &backups, args).await?;
    let mut plan = Plan::new(usage, &survey, &backups, &credentials, args.bandwidth);
    plan.warnings.extend(warnings);
    Ok(plan)
}

/// Collects the images of the input.
async fn usage(args: &PlanArgs, rules: Rules, backups: &Arc<Backups>) -> anyhow::Result<Usage> {
    let server = rules.server.clone();
    let mut usage = Usage::new(rules, Arc::clone(backups));
    if !args.images.is_empty() {
        let List { entries, mistakes } = list::images(&args.images)?;
        mistakes.check()?;
        for entry in entries {
            usage.add_image(&args.namespace, &entry.value);
        }
        return Ok(usage);
    }
    if !args.files.is_empty() {
        let (files, namespace) = (args.files.clone(), args.namespace.clone());
        let read = tokio::task::spawn_blocking(move || {
            manifests::read(&files, &namespace, &mut usage);
            usage
        });
        return read.await.context("reading the manifests was aborted");
    }
    let server = server.context("the cluster is not connected")?;
    let shared = Arc::new(Mutex::new(Some(usage)));
    let filled = Arc::clone(&shared);
    let take = move |object| {
        let mut usage = filled.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(usage) = usage.as_mut() {
            usage.add_object(object);
        }
    };
    listing::objects(&server, &Kind::ALL, take).await?;
    let usage = shared.lock().unwrap_or_else(PoisonError::into_inner).take();
    usage.context("reading the cluster was aborted")
}

fn print(plan: &Plan, format: PlanFormat) -> anyhow::Result<()> {
    match format {
        PlanFormat::Table => output::raw(&table::text(plan)),
        PlanFormat::Markdown => output::raw(&markdown::text(plan)),
        PlanFormat::Json => output::json(plan),
        PlanFormat::Yaml => {
            let text = serde_saphyr::to_string(plan).context("cannot write the plan as YAML")?;
            output::raw(&text);
        }
    }
    Ok(())
}
