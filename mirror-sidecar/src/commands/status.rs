//! `status`: shows the status of a running installation.

mod client;
mod one_image;
mod report;
mod table;
mod watch;

use std::process::ExitCode;

use anyhow::bail;
use mirror_contract::ImageRef;

use crate::args::{StatusArgs, StatusFormat, UsageError};
use crate::exit::USAGE;
use crate::output;
use client::Client;
use report::{Report, document};

/// Some image is not protected.
const UNPROTECTED: u8 = USAGE;

pub async fn run(args: StatusArgs) -> anyhow::Result<ExitCode> {
    let client = Client::new(&args).await?;
    if let Some(image) = &args.image {
        let reference = ImageRef::parse(image)
            .map_err(|error| UsageError(format!("cannot parse image {image}: {error}")))?;
        return one_image(&client, &reference, args.output).await;
    }
    if args.watch {
        return watch::run(&client, &args).await;
    }
    let report = Report::read(&client, &args).await?;
    match args.output {
        StatusFormat::Table => output::raw(&table::summary_with_attention(&report)),
        StatusFormat::Wide => output::raw(&table::wide(&report)),
        StatusFormat::Json | StatusFormat::Yaml => document(&report, args.output)?,
    }
    Ok(exit_code(report.is_protected()))
}

async fn one_image(
    client: &Client,
    image: &ImageRef<'_>,
    format: StatusFormat,
) -> anyhow::Result<ExitCode> {
    let Some(list) = client.image(image).await? else {
        bail!("no workload uses {image}, as far as mirror-sidecar knows");
    };
    match format {
        StatusFormat::Table | StatusFormat::Wide => output::raw(&one_image::text(&list)),
        StatusFormat::Json | StatusFormat::Yaml => document(&list, format)?,
    }
    let is_protected = list.items.iter().all(|item| item.state.is_protected());
    Ok(exit_code(is_protected))
}

fn exit_code(is_protected: bool) -> ExitCode {
    if is_protected {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(UNPROTECTED)
    }
}
