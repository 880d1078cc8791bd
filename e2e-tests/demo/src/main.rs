//! Shows the whole job on this machine: two registries, the real sidecar, the real policy, and a lost upstream.
//!
//! Usage: `demo MANIFEST.yaml [--kwctl PROGRAM]`. Without kwctl the policy runs in the tests' host.

mod admission;
mod show;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use mirror_contract::ImageRef;
use serde_json::Value;
use testkit::fixtures;
use testkit::host::AdmissionResponse;
use testkit::image::{Image, Pulled, pull_all};
use testkit::registry::{Credential, EmbeddedOptions, EmbeddedRegistry, Registry};
use testkit::sidecar::Sidecar;

use admission::{Admission, admission_request};
use show::{bullet, patch, say, step, yaml_images};

/// What the example calls its registry; here it is a port of this machine.
const PRETENDED: &str = "registry.example.com";
const REPOSITORY: &str = "acme/mirror";
const COPY_DEADLINE: Duration = Duration::from_mins(1);

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let result = match arguments.as_slice() {
        [manifest] => demo(Path::new(manifest), None),
        [manifest, "--kwctl", kwctl] => demo(Path::new(manifest), Some(kwctl)),
        _ => Err(anyhow::anyhow!(
            "usage: demo MANIFEST.yaml [--kwctl PROGRAM]"
        )),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            show::fail(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn demo(manifest: &Path, kwctl: Option<&str>) -> anyhow::Result<()> {
    say("image-mirror: a workload survives the loss of its registry.");

    step("Two registries start on this machine");
    let mut upstream = EmbeddedRegistry::start(EmbeddedOptions::default())?;
    let backup = EmbeddedRegistry::start(EmbeddedOptions {
        credential: Some(Credential::new("pusher", "demo password")),
        ..EmbeddedOptions::default()
    })?;
    bullet(&format!(
        "upstream at {}: plays {PRETENDED}, the public registry",
        upstream.localhost()
    ));
    bullet(&format!(
        "backup   at {}: yours, with a password",
        backup.address()
    ));

    step(&format!(
        "The images of {} are put upstream",
        manifest.display()
    ));
    let mut object = read(manifest)?;
    let images = stock(&mut object, &upstream)?;

    step("mirror-sidecar starts, with TLS and credentials");
    let sidecar = Sidecar::builder()
        .registry(&backup, REPOSITORY)
        .insecure_registry(&upstream.localhost())
        .argument("--pull-secret")
        .argument("image-mirror-pull")
        .start()?;
    bullet(&format!(
        "it listens on {} and looks like an OCI registry",
        sidecar.facade()
    ));
    let copies = format!("{}/{REPOSITORY}", backup.address());
    let policy = Admission::new(&sidecar, &copies, kwctl)?;
    bullet(&format!("the policy runs in {}", policy.name()));
    let request = admission_request(&object)?;

    step("The Deployment is created: its images are not mirrored yet");
    yaml_images(&object);
    let first = policy.admit(&request)?;
    ensure!(first.allowed, "the first admission was denied: {first:?}");
    ensure!(
        first.patch.is_none(),
        "the first admission changed the object before there was a copy"
    );
    bullet("answer: allowed, unchanged");
    for warning in first.warnings.iter().flatten() {
        bullet(&format!("warning: {warning}"));
    }

    step("The sidecar copies them, all platforms, byte for byte");
    for (image, _) in &images {
        let event = sidecar.wait_for(COPY_DEADLINE, |event| {
            event["message"] == "copied image" && event["image"] == image.as_str()
        })?;
        bullet(&format!(
            "{image}: {} bytes in {} requests, {} ms",
            event["bytes"], event["requests"], event["elapsed_ms"]
        ));
    }

    step("The Deployment is created again: now it uses the copies");
    let second = policy.admit(&request)?;
    let copies = rewritten(&object, &second)?;

    step("The upstream registry disappears");
    upstream.stop();
    ensure!(
        pull_all(&upstream.client(), "library/web", "1.27").is_err(),
        "the upstream registry still answers"
    );
    bullet("pulling from it fails");
    for ((image, expected), copy) in images.iter().zip(&copies) {
        let pulled = pull(&backup, copy)?;
        ensure!(pulled == *expected, "{copy} is not what {image} was");
        bullet(&format!(
            "{copy} pulls: {} manifests and {} blobs, the same as upstream, byte for byte",
            pulled.manifests.len(),
            pulled.blobs.len()
        ));
    }
    ensure!(
        sidecar.stop()?.success(),
        "the sidecar did not stop properly"
    );
    say(&format!(
        "\nProven: {} images were copied with all platforms, the workload was rewritten to the copies, and they still pull without the upstream registry.",
        images.len()
    ));
    Ok(())
}

fn read(manifest: &Path) -> anyhow::Result<Value> {
    let text = std::fs::read_to_string(manifest)
        .with_context(|| format!("cannot read {}", manifest.display()))?;
    yaml_serde::from_str(&text).with_context(|| format!("{} is not YAML", manifest.display()))
}

/// Makes an image for every reference of the object, which then names the real port; sorted by name.
fn stock(object: &mut Value, upstream: &EmbeddedRegistry) -> anyhow::Result<Vec<(String, Pulled)>> {
    let mut images = std::collections::BTreeMap::new();
    fixtures::replace_images(object, &mut |image| {
        let moved = image.replacen(PRETENDED, &upstream.localhost(), 1);
        let seed = images.len() as u64;
        images
            .entry(moved.clone())
            .or_insert_with(|| Image::index(seed));
        Some(moved)
    });
    let mut stock = Vec::new();
    for (name, content) in images {
        let image =
            ImageRef::parse(&name).with_context(|| format!("{name} is no image reference"))?;
        content.push(
            &upstream.client(),
            image.path(),
            image.tag().unwrap_or("latest"),
        )?;
        bullet(&format!(
            "{name}: {} platforms, {} bytes, {}",
            content.manifests().len() - 1,
            content.size(),
            content.digest()
        ));
        stock.push((name, content.expected()));
    }
    Ok(stock)
}

/// Shows the patch; the copies, sorted like their originals.
fn rewritten(object: &Value, response: &AdmissionResponse) -> anyhow::Result<Vec<String>> {
    ensure!(
        response.allowed,
        "the second admission was denied: {response:?}"
    );
    let Some(encoded) = &response.patch else {
        bail!(
            "the second admission changed nothing: {:?}",
            response.warnings
        );
    };
    let mutated = patch(object, encoded)?;
    let mut pairs = std::collections::BTreeMap::new();
    for (original, copy) in fixtures::images_of(object)
        .into_iter()
        .zip(fixtures::images_of(&mutated))
    {
        ensure!(copy.contains(REPOSITORY), "{original} was not rewritten");
        pairs.insert(original, copy);
    }
    Ok(pairs.into_values().collect())
}

fn pull(backup: &EmbeddedRegistry, copy: &str) -> anyhow::Result<Pulled> {
    let image = ImageRef::parse(copy).with_context(|| format!("{copy} is no image reference"))?;
    ensure!(
        image.host() == backup.address(),
        "{copy} is not in the backup registry"
    );
    pull_all(
        &backup.client(),
        image.path(),
        image.tag().context("a copy without a tag")?,
    )
}
