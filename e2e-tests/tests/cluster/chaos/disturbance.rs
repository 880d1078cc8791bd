//! What can go wrong.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use e2e_tests::drill::Estate;
use e2e_tests::drill::estate::PULL_SECRET;
use e2e_tests::drill::plan::PlannedImage;
use fastrand::Rng;
use serde_json::{Value, json};

use super::{WELL_AGAIN, something_new_comes};

/// What can go wrong. Whatever it takes away for a while is there again when it has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disturbance {
    /// A sidecar is killed and started again.
    Crash,
    /// A sidecar loses the API server without being told, and others do its work meanwhile.
    Partition,
    /// The API server is killed and started again.
    ApiServerRestarts,
    /// All watches end, and nobody may go on from where they were.
    WatchesAreTooOld,
    /// The backup registry does not answer for a while.
    BackupIsDown,
    /// Pods must pull with another password.
    PasswordChanges,
    /// Somebody deletes a copy.
    CopyIsDeleted,
    /// Somebody deletes a pull Secret.
    SecretIsDeleted,
    /// Somebody changes a pull Secret.
    SecretIsChanged,
    /// A namespace is deleted and made again with all that was in it.
    NamespaceIsMadeAgain,
}

impl Disturbance {
    pub const ALL: [Self; 10] = [
        Self::Crash,
        Self::Partition,
        Self::ApiServerRestarts,
        Self::WatchesAreTooOld,
        Self::BackupIsDown,
        Self::PasswordChanges,
        Self::CopyIsDeleted,
        Self::SecretIsDeleted,
        Self::SecretIsChanged,
        Self::NamespaceIsMadeAgain,
    ];

    /// Lets it happen, with something new in the cluster meanwhile.
    pub fn happens(self, estate: &mut Estate, random: &mut Rng) -> anyhow::Result<()> {
        match self {
            Self::Crash => crash(estate, random),
            Self::Partition => partition(estate, random),
            Self::ApiServerRestarts => {
                something_new_comes(estate, random)?;
                estate.cluster.stop();
                estate.cluster.restart()
            }
            Self::WatchesAreTooOld => watches_are_too_old(estate, random),
            Self::BackupIsDown => backup_is_down(estate, random),
            Self::PasswordChanges => {
                let password = format!("pull-{}", random.u32(..));
                estate.rotate_pull_password(&password)?;
                something_new_comes(estate, random)
            }
            Self::CopyIsDeleted => copy_is_deleted(estate, random),
            Self::SecretIsDeleted => secret_is_deleted(estate, random),
            Self::SecretIsChanged => secret_is_changed(estate, random),
            Self::NamespaceIsMadeAgain => {
                let namespace = random.usize(0..estate.namespaces.len());
                estate.make_namespace_again(namespace)?;
                something_new_comes(estate, random)
            }
        }
    }
}

fn crash(estate: &mut Estate, random: &mut Rng) -> anyhow::Result<()> {
    let number = random.usize(0..estate.replicas.len());
    something_new_comes(estate, random)?;
    estate.kill(number)?;
    something_new_comes(estate, random)?;
    estate.revive(number)
}

/// The facade of the lonely one still answers, from what it knows and from the registry.
fn partition(estate: &mut Estate, random: &mut Rng) -> anyhow::Result<()> {
    let number = random.usize(0..estate.replicas.len());
    let lonely = estate.replicas.get(number).context("no such replica")?;
    lonely.api.freeze();
    something_new_comes(estate, random)?;
    something_new_comes(estate, random)?;
    estate
        .settle(WELL_AGAIN)
        .context("while one replica is alone")?;
    if let Some(lonely) = estate.replicas.get(number) {
        lonely.api.heal();
    }
    Ok(())
}

/// An API server that starts knows nothing from before.
fn watches_are_too_old(estate: &mut Estate, random: &mut Rng) -> anyhow::Result<()> {
    let version = estate.resource_version()?;
    for replica in &estate.replicas {
        replica.api.cut();
    }
    something_new_comes(estate, random)?;
    estate.cluster.restart()?;
    ensure!(
        estate.is_too_old(&version)?,
        "a watch from {version} goes on: it is not too old"
    );
    for replica in &estate.replicas {
        replica.api.heal();
    }
    Ok(())
}

fn backup_is_down(estate: &mut Estate, random: &mut Rng) -> anyhow::Result<()> {
    estate.backup.stop();
    something_new_comes(estate, random)?;
    // The replicas must have noticed: then they have had the time to do something wrong.
    estate.wait(WELL_AGAIN, |estate| {
        let mut content = Vec::new();
        for sidecar in estate
            .replicas
            .iter()
            .filter_map(|replica| replica.sidecar())
        {
            let (status, body) = sidecar.admin_get("/readyz")?;
            if status == 200 {
                content.push(format!("/readyz says {body}"));
            }
        }
        Ok(content)
    })?;
    std::thread::sleep(OUTAGE);
    estate.backup.restart()
}

/// How long the backup stays away once everybody knows: a round of re-checks and more.
const OUTAGE: Duration = Duration::from_secs(6);

/// Only copies that exist can be deleted; what has none yet is on its way.
fn copy_is_deleted(estate: &mut Estate, random: &mut Rng) -> anyhow::Result<()> {
    let copied = estate.copied()?;
    let images = estate.plan.images.iter().zip(copied);
    let there: Vec<&PlannedImage> = images
        .filter(|(_, is_copied)| *is_copied)
        .map(|(image, _)| image)
        .collect();
    if let Some(image) = random.choice(there) {
        let repository = estate.copy_repository(image)?;
        let digest = image.content.digest();
        estate
            .backup
            .client()
            .delete_manifest(&repository, &digest)?;
    }
    something_new_comes(estate, random)
}

fn secret() -> Value {
    json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": PULL_SECRET } })
}

fn secret_is_deleted(estate: &mut Estate, random: &mut Rng) -> anyhow::Result<()> {
    let number = random.usize(0..estate.namespaces.len());
    let namespace = estate.namespaces.get(number).context("no such namespace")?;
    match namespace.delete(&secret()) {
        Err(kube::Error::Api(status)) if status.is_not_found() => {}
        result => result?,
    }
    something_new_comes(estate, random)
}

fn secret_is_changed(estate: &mut Estate, random: &mut Rng) -> anyhow::Result<()> {
    let number = random.usize(0..estate.namespaces.len());
    let namespace = estate.namespaces.get(number).context("no such namespace")?;
    // {"auths":{}}
    let change = json!({ "data": { ".dockerconfigjson": "eyJhdXRocyI6e319" } });
    match namespace.merge(&secret(), &change) {
        Err(kube::Error::Api(status)) if status.is_not_found() => {}
        result => drop(result?),
    }
    something_new_comes(estate, random)
}
