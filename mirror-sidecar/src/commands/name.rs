//! `name`: what images are called.

use std::process::ExitCode;

use anyhow::Context as _;
use mirror_contract::{Backup, ImageRef, Mode, Query, Sidecar};
use serde::Serialize;

use crate::USAGE;
use crate::args::NameArgs;
use crate::output::{self, OutputFormat};

/// The names of one image.
#[derive(Debug, Serialize)]
struct Names<'a> {
    image: &'a str,
    canonical: String,
    target: String,
    query: String,
}

/// Prints the names of each image; one that is wrong is complained about and costs the exit code.
///
/// # Errors
/// When the backup is not named properly.
pub fn run(args: &NameArgs) -> anyhow::Result<ExitCode> {
    let backup = args.backup.backup()?;
    let sidecar = Sidecar::parse(&args.sidecar).context("--sidecar is not a host and port")?;
    let mut exit = ExitCode::SUCCESS;
    for image in &args.images {
        match names(image, &backup, &sidecar) {
            Ok(names) => names.print(args.output),
            Err(reason) => {
                output::error(&format!("image {image:?}: {reason}"));
                exit = ExitCode::from(USAGE);
            }
        }
    }
    Ok(exit)
}

fn names<'a>(text: &'a str, backup: &Backup, sidecar: &Sidecar<'_>) -> Result<Names<'a>, String> {
    let image = ImageRef::parse(text).map_err(|error| error.to_string())?;
    let target = backup.target(&image).map_err(|error| error.to_string())?;
    let query = Query::image(image.clone(), Mode::Ensure)
        .encode(sidecar)
        .map_err(|error| error.to_string())?;
    Ok(Names {
        image: text,
        canonical: image.to_string(),
        target: target.to_string(),
        query,
    })
}

impl Names<'_> {
    fn print(&self, format: OutputFormat) {
        match format {
            OutputFormat::Json => output::json(self),
            OutputFormat::Text => {
                output::line(self.image);
                output::line(&format!("  canonical  {}", self.canonical));
                output::line(&format!("  target     {}", self.target));
                output::line(&format!("  query      {}", self.query));
            }
        }
    }
}
