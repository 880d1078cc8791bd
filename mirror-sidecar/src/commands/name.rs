//! `name`: shows the names of images and of their copies.

use std::process::ExitCode;

use anyhow::Context as _;
use mirror_contract::{Backup, ImageRef, Mode, Query, Sidecar};
use serde::Serialize;

use super::list::{self, Entry, List};
use crate::args::NameArgs;
use crate::args::image::parse_image;
use crate::output::{self, OutputFormat};

/// The names of one image.
#[derive(Debug, Serialize)]
struct Names<'a> {
    image: &'a str,
    canonical: String,
    /// `None` without a backup.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    query: String,
}

/// The original of a copy.
#[derive(Debug, Serialize)]
struct Original<'a> {
    image: &'a str,
    original: String,
}

/// Prints the names of each image.
pub fn run(args: &NameArgs) -> anyhow::Result<ExitCode> {
    let backup = match args.backup.registry() {
        None if !args.reverse && !args.backup.has_repository() => None,
        _ => Some(args.backup.backup()?),
    };
    let sidecar = Sidecar::parse(&args.sidecar).context("--sidecar is not a host and port")?;
    let List {
        entries,
        mut mistakes,
    } = list::parsed(&args.images, |text| match parse_image(text) {
        Ok(image) => Ok((text.to_owned(), image)),
        Err(reason) => Err(format!("image {text:?}: {reason}")),
    })?;
    for Entry { origin, value } in entries {
        let (text, image) = value;
        let printed = match &backup {
            Some(backup) if args.reverse => original(&image, backup).map(|original| {
                let image = text.as_str();
                Original { image, original }.print(args.output);
            }),
            backup => {
                names(&text, image, backup.as_ref(), &sidecar).map(|names| names.print(args.output))
            }
        };
        if let Err(reason) = printed {
            mistakes.add(origin, &format!("image {text:?}: {reason}"));
        }
    }
    mistakes.check()?;
    Ok(ExitCode::SUCCESS)
}

fn names<'a>(
    text: &'a str,
    image: ImageRef<'static>,
    backup: Option<&Backup>,
    sidecar: &Sidecar<'_>,
) -> Result<Names<'a>, String> {
    let target = backup.map(|backup| target(&image, backup)).transpose()?;
    let canonical = image.to_string();
    let query = Query::image(image, Mode::Ensure)
        .encode(sidecar)
        .map_err(|error| error.to_string())?;
    Ok(Names {
        image: text,
        canonical,
        target,
        query,
    })
}

fn target(image: &ImageRef<'_>, backup: &Backup) -> Result<String, String> {
    if backup.contains(image) {
        return Err(match backup.source(image) {
            Some(original) => format!(
                "it is in the backup, as the copy of {original}; --reverse shows the originals of copies"
            ),
            None => "it is in the repository of the backup".into(),
        });
    }
    let target = backup.target(image).map_err(|error| error.to_string())?;
    Ok(target.to_string())
}

fn original(copy: &ImageRef<'_>, backup: &Backup) -> Result<String, String> {
    if !backup.contains(copy) {
        return Err(
            "it is not in the repository of the backup; check --registry and --repository".into(),
        );
    }
    let original = backup.source(copy).ok_or(
        "it is not a copy with this --naming, or its name was shortened and cannot be decoded",
    )?;
    Ok(original.to_string())
}

impl Original<'_> {
    fn print(&self, format: OutputFormat) {
        match format {
            OutputFormat::Json => output::json(self),
            OutputFormat::Text => {
                output::line(&format!("{}\n  original   {}", self.image, self.original));
            }
        }
    }
}

impl Names<'_> {
    fn print(&self, format: OutputFormat) {
        match format {
            OutputFormat::Json => output::json(self),
            OutputFormat::Text => {
                output::line(self.image);
                output::line(&format!("  canonical  {}", self.canonical));
                if let Some(target) = &self.target {
                    output::line(&format!("  target     {target}"));
                }
                output::line(&format!("  query      {}", self.query));
            }
        }
    }
}
