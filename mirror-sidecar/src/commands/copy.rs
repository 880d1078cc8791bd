//! `copy`: images, now.

use std::process::ExitCode;

use futures_util::StreamExt as _;
use mirror_contract::ImageRef;
use mirror_copy::{CopyOptions, CopyReport, Event, Progress, Source, Target};
use serde::Serialize;

use crate::FAILURE;
use crate::args::{CopyArgs, UsageError};
use crate::images::{self, Images};
use crate::output::{self, OutputFormat, human_bytes};

/// One copy to make.
struct Plan {
    image: String,
    copy: String,
    source: Source,
    target: Target,
}

/// The result of one copy, as JSON shows it.
#[derive(Serialize)]
struct Copied<'a> {
    image: &'a str,
    target: &'a str,
    #[serde(flatten)]
    report: &'a CopyReport,
}

/// Copies all images, several at a time, and prints the results in the order they were given.
///
/// # Errors
/// [`UsageError`] before anything is copied, when an image or a flag is wrong.
pub async fn run(args: CopyArgs) -> anyhow::Result<ExitCode> {
    let plans = plan(&args)?;
    let copies = plans.into_iter().map(|plan| async move {
        let result = copy(&plan).await;
        (plan, result)
    });
    let mut copies =
        std::pin::pin!(futures_util::stream::iter(copies).buffered(args.parallel_copies.get()));
    let mut exit = ExitCode::SUCCESS;
    let mut interrupted = std::pin::pin!(super::serve::stop_signal());
    loop {
        let next = tokio::select! {
            next = copies.next() => next,
            () = &mut interrupted => {
                output::error("interrupted; nothing incomplete has a tag, run it again to go on");
                return Ok(ExitCode::from(FAILURE));
            }
        };
        match next {
            None => return Ok(exit),
            Some((plan, Ok(report))) => plan.print(&report, args.output),
            Some((plan, Err(reason))) => {
                output::error(&format!("{} was not copied: {reason}", plan.image));
                exit = ExitCode::from(FAILURE);
            }
        }
    }
}

async fn copy(plan: &Plan) -> Result<CopyReport, String> {
    let progress = Log { image: &plan.image };
    mirror_copy::copy(
        &plan.source,
        &plan.target,
        &CopyOptions::default(),
        &progress,
    )
    .await
    .map_err(|error| error.to_string())
}

/// Everything that can be wrong with the command line is found before the first byte moves.
fn plan(args: &CopyArgs) -> Result<Vec<Plan>, UsageError> {
    let images = args.images.iter().map(|text| {
        let parsed = text.parse::<ImageRef<'static>>();
        parsed.map_err(|error| UsageError(format!("image {text:?}: {error}")))
    });
    let images = images.collect::<Result<Vec<_>, _>>()?;
    match (&args.to, images.as_slice()) {
        (None, _) => {
            let backup = args.backup.backup()?;
            let sources = args.sources.credentials()?;
            let targets = args.backup.add_login(sources.clone(), backup.registry())?;
            let targets = args.sources.registries(targets)?;
            let sources = args.sources.registries(sources)?;
            let plans = Images::new(backup, &targets, sources)
                .map_err(|error| UsageError(error.to_string()))?;
            images
                .iter()
                .map(|image| backup_plan(&plans, image))
                .collect()
        }
        (Some(to), [image]) => Ok(vec![named_plan(args, image, to)?]),
        (Some(_), _) => Err(UsageError("--to takes exactly one image".into())),
    }
}

fn backup_plan(images: &Images, image: &ImageRef<'static>) -> Result<Plan, UsageError> {
    let wrong =
        |reason: &dyn ToString| UsageError(format!("image {image}: {}", reason.to_string()));
    let copy = images
        .backup()
        .target(image)
        .map_err(|error| wrong(&error))?;
    Ok(Plan {
        image: image.to_string(),
        copy: copy.to_string(),
        source: images.source(image).map_err(|error| wrong(&error))?,
        target: images.target(image).map_err(|error| wrong(&error))?,
    })
}

fn named_plan(args: &CopyArgs, image: &ImageRef<'static>, to: &str) -> Result<Plan, UsageError> {
    let copy = ImageRef::parse(to).map_err(|error| UsageError(format!("--to {to:?}: {error}")))?;
    if copy.digest().is_some() {
        return Err(UsageError(format!(
            "--to {to:?}: the copy has the digest of the original, give it a tag only"
        )));
    }
    // The login is that of --registry; where none is named it can only be meant for the copy's.
    let login_host = args.backup.registry().unwrap_or(copy.host());
    let sources = args.sources.credentials()?;
    let targets = args.backup.add_login(sources.clone(), login_host)?;
    let targets = args.sources.registries(targets)?;
    let sources = args.sources.registries(sources)?;
    Ok(Plan {
        image: image.to_string(),
        copy: copy.to_string(),
        source: images::source(&sources, image).map_err(|error| UsageError(error.to_string()))?,
        target: images::named_target(&targets, &copy)
            .map_err(|error| UsageError(error.to_string()))?,
    })
}

impl Plan {
    fn print(&self, report: &CopyReport, format: OutputFormat) {
        let (image, target) = (self.image.as_str(), self.copy.as_str());
        match format {
            OutputFormat::Json => output::json(&Copied {
                image,
                target,
                report,
            }),
            OutputFormat::Text => output::line(&format!(
                "{image} -> {target}\n  {}\n  {} in {} blobs copied, {} mounted, {} already there, {} requests, {:.1} s",
                report.digest,
                human_bytes(report.bytes),
                report.blobs_copied,
                report.blobs_mounted,
                report.blobs_skipped,
                report.requests,
                report.elapsed.as_secs_f64()
            )),
        }
    }
}

/// Progress as log lines.
struct Log<'a> {
    image: &'a str,
}

impl Progress for Log<'_> {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Bytes { .. } => {}
            event => tracing::debug!(image = self.image, ?event),
        }
    }
}
