//! `check`: checks an installation. Writes nothing.

mod pull_logins;
mod report;

use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use hyper::Uri;
use mirror_contract::ImageRef;
use mirror_copy::{CopyError, Registries};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::copy::{dry_run, missing};
use crate::args::image::parse_image;
use crate::args::{BackupFlags, CheckArgs, SizeLimit, UsageError};
use crate::backups::OtherBackups;
use crate::exit::FAILURE;
use crate::locations::Locations;
use report::Line;

const READY_WITHIN: Duration = Duration::from_secs(10);

/// Bytes of the response that are read: its status, and one sentence.
const MAX_RESPONSE: u64 = 4096;

/// Prints a line for each check.
pub async fn run(args: CheckArgs) -> anyhow::Result<ExitCode> {
    let image = parse_image(&args.image)
        .map_err(|reason| UsageError(format!("image {:?}: {reason}", args.image)))?;
    let config = args.config.load(&BackupFlags {
        backup: &args.backup,
        sources: &args.sources,
        cluster: None,
        max_image_size: SizeLimit(None),
        parallel_copies: NonZeroUsize::MIN,
    })?;
    let config = config.current.borrow().clone();
    let sources = args.sources.registries(args.sources.credentials()?)?;
    let mut passed = true;
    if let Some(url) = &args.ready_url {
        passed &= report("readiness", &ready(url).await);
    }
    let locations = config.locations();
    for (name, backup) in config.backups.iter() {
        let targets = args.sources.registries(backup.push.clone())?;
        let check = if name.is_default() {
            "push login".to_owned()
        } else {
            format!("push login of backup {name}")
        };
        let images = Locations::new(backup.backup.clone(), &targets, sources.clone())
            .map_err(|error| UsageError(format!("{}: {error}", backup.origin.registry())))?
            .with_former_backups(backup.locations().former().clone())
            .with_other_backups(OtherBackups::of(name, &locations));
        passed &= report(&check, &push_login(&images, &image).await);
        if name.is_default() {
            passed &= report("dry run", &planned(&images, &targets, &image).await);
        }
    }
    let lines = pull_logins::check(&config, &image, |login| args.sources.registries(login)).await?;
    for line in lines {
        passed &= line.print();
    }
    Ok(if passed {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FAILURE)
    })
}

fn report(check: &str, result: &anyhow::Result<String>) -> bool {
    let result = match result {
        Ok(text) => Ok(text.clone()),
        Err(error) => Err(format!("{error:#}")),
    };
    Line::of(check, result).print()
}

async fn ready(url: &Uri) -> anyhow::Result<String> {
    let response = tokio::time::timeout(READY_WITHIN, get(url))
        .await
        .with_context(|| format!("{url} did not respond within {READY_WITHIN:?}"))?
        .with_context(|| format!("cannot reach {url}"))?;
    let status = response.split_whitespace().nth(1).unwrap_or_default();
    if status != "200" {
        let reason = response.lines().last().unwrap_or_default();
        bail!("{url} responded {status} {reason}");
    }
    Ok(format!("{url} responded 200"))
}

async fn get(url: &Uri) -> std::io::Result<String> {
    let host = url.host().unwrap_or_default();
    let name = host.trim_start_matches('[').trim_end_matches(']');
    let mut stream = TcpStream::connect((name, url.port_u16().unwrap_or(80))).await?;
    let path = url.path();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut response = Vec::new();
    stream.take(MAX_RESPONSE).read_to_end(&mut response).await?;
    Ok(String::from_utf8_lossy(&response).into_owned())
}

async fn push_login(images: &Locations, image: &ImageRef<'_>) -> anyhow::Result<String> {
    let repository = images.backup().repository_for(image)?;
    let registry = images.backup_registry();
    let checked = registry.check_push(&repository).await;
    checked.map_err(|error| anyhow!("{}", CopyError::Target(error)))?;
    Ok(format!("may push to {}/{repository}", registry.host()))
}

async fn planned(
    images: &Locations,
    targets: &Registries,
    image: &ImageRef<'_>,
) -> anyhow::Result<String> {
    // An image in the backup has no copy; it is read with the login of the backup.
    let source = if images.contains(image) {
        crate::locations::source(targets, image)?
    } else {
        images.source(image)?
    };
    let name = image.to_string();
    let digest = match dry_run::original(&source, &name).await {
        Ok(digest) => digest,
        Err(error) => bail!("{}", missing::explain(error, &source).await),
    };
    if images.contains(image) {
        return Ok(format!("{image} is in the backup"));
    }
    let target = images.target(image)?;
    let present = dry_run::present(&target, &digest).await;
    let present = present.map_err(|error| anyhow!("{error}"))?;
    let words = match present {
        Some(present) if present == digest => "already there",
        Some(_) => "would be replaced",
        None => "would be copied",
    };
    Ok(format!("{image} ({digest}) {words}"))
}
