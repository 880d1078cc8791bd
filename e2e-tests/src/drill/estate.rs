//! Everything that the drill needs, running.

mod changes;
mod replicas;
mod watching;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use mirror_contract::{Backup, ImageRef, Naming};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::plan::{Plan, PlannedImage, PlannedWorkload};
use crate::cluster::{self, Account, Cluster, Namespace, Webhook};
use crate::manifests::Kind;
use testkit::artifacts;
use testkit::host::PolicyHost;
use testkit::proxy::Proxy;
use testkit::registry::{Credential, Registry, start_registry, start_registry_with};
use testkit::tls::Tls;

pub use replicas::Replica;

/// The repository in the backup registry.
pub const REPOSITORY: &str = "acme/mirror";
/// The Secret that Pods pull with.
pub const PULL_SECRET: &str = "image-mirror-pull";
/// The user in it, which is not the one that pushes.
const PULLER: &str = "puller";

/// How it runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many sidecars there are.
    pub replicas: usize,
    /// More flags for each of them.
    pub arguments: Vec<String>,
}

/// A cluster with the workloads of a plan, an upstream and a backup registry, and after [`Estate::start`] the policy and
/// the sidecars.
pub struct Estate {
    // Dropped in this order: who uses something goes before it.
    webhook: Option<Webhook>,
    /// The sidecars.
    pub replicas: Vec<Replica>,
    service: Proxy,
    tls: Arc<Tls>,
    /// The API server.
    pub cluster: Cluster,
    /// Where the images come from.
    pub upstream: Box<dyn Registry>,
    /// Where the copies go. It asks for a password.
    pub backup: Box<dyn Registry>,
    /// What there shall be.
    pub plan: Plan,
    /// The namespaces of the plan.
    pub namespaces: Vec<Namespace>,
    account: Account,
    home: Namespace,
    options: Options,
    puller: Credential,
    /// In which API version `CronJob` is served.
    pub batch: &'static str,
    folder: TempDir,
    /// Of each namespace, how often it was made again.
    made_again: Vec<usize>,
}

impl Estate {
    /// Starts the API server and the registries, and puts the images of the plan upstream. `None` means that there is no
    /// API server to be had, which was said.
    ///
    /// # Errors
    /// When something does not start.
    pub fn prepare(plan: Plan, options: Options) -> anyhow::Result<Option<Self>> {
        let Some(cluster) = cluster::own() else {
            return Ok(None);
        };
        let upstream = start_registry()?;
        let backup = start_registry_with(Some(Credential::new("pusher", "p4ss word")))?;
        let home = cluster.namespace("image-mirror")?;
        let has_v1 = cluster.serves("batch/v1", "CronJob")?;
        let mut namespaces = Vec::new();
        for _ in 0..plan.namespaces {
            namespaces.push(cluster.namespace("shop")?);
        }
        let estate = Self {
            webhook: None,
            replicas: Vec::new(),
            service: Proxy::start([])?,
            tls: Arc::new(Tls::generate()?),
            account: cluster.sidecar_account(&home, "mirror-sidecar")?,
            cluster,
            upstream,
            backup,
            namespaces,
            home,
            options,
            puller: Credential::new(PULLER, "pull-1"),
            batch: if has_v1 { "batch/v1" } else { "batch/v1beta1" },
            folder: TempDir::new()?,
            made_again: vec![0; plan.namespaces],
            plan,
        };
        estate.let_in(&estate.puller)?;
        for image in &estate.plan.images {
            estate.push(image)?;
        }
        Ok(Some(estate))
    }

    /// Starts the sidecars, and then lets the API server ask the policy.
    ///
    /// # Errors
    /// When something does not start.
    pub fn start(&mut self) -> anyhow::Result<()> {
        for number in 0..self.options.replicas {
            let api = Proxy::start([self.cluster.address()])?;
            let replica = Replica::new(format!("sidecar-{number}"), api);
            self.replicas.push(replica);
            self.revive(number)?;
        }
        let facade = format!("localhost:{}", self.service.address().port());
        let wasm = fs::read(artifacts::policy_module()?)?;
        let host = PolicyHost::builder(wasm)
            .allow_capabilities(["oci/v1/oci_manifest"])
            .epoch_ticks(60);
        let first = self.replicas.iter().find_map(Replica::sidecar);
        let host = first
            .context("no sidecar")?
            .trusted_at(facade.clone(), host)
            .build()?;
        // A policy server's own limits have tests of their own.
        let backup = format!("{}/{REPOSITORY}", self.backup.address());
        let settings = json!({ "sidecar": facade, "backups": [backup], "timeBudgetMs": 10_000 });
        let mut webhook = Webhook::builder(host, settings);
        if self.batch != "batch/v1" {
            webhook = webhook.also("batch", "v1beta1", "cronjobs");
        }
        let [first, rest @ ..] = self.namespaces.as_slice() else {
            bail!("no namespaces");
        };
        for namespace in rest {
            webhook = webhook.also_in(namespace);
        }
        self.webhook = Some(webhook.start(first, self.cluster.admin())?);
        Ok(())
    }

    /// Lets the policy server forget what it cached, as it does after a minute.
    pub fn clear_cache(&self) {
        if let Some(webhook) = &self.webhook {
            webhook.clear_cache();
        }
    }

    /// Which workloads are there before the sidecar, and which come later. A `CronJob` that the sidecar cannot watch comes
    /// later: its images are known from its admission.
    #[must_use]
    pub fn halves(&self) -> (Vec<usize>, Vec<usize>) {
        let workloads = self.plan.workloads.iter().enumerate();
        let (early, late): (Vec<_>, Vec<_>) = workloads.partition(|(number, workload)| {
            // Every kind in both halves.
            let is_even = (number + number / Kind::ALL.len()).is_multiple_of(2);
            let is_watched = workload.kind != Kind::CronJob || self.batch == "batch/v1";
            is_even && is_watched
        });
        let numbers = |half: Vec<(usize, _)>| half.into_iter().map(|(number, _)| number).collect();
        (numbers(early), numbers(late))
    }

    /// What Pods shall pull with.
    #[must_use]
    pub fn puller(&self) -> &Credential {
        &self.puller
    }

    /// A workload of the plan.
    ///
    /// # Errors
    /// When there is none of this number.
    pub fn workload(&self, number: usize) -> anyhow::Result<&PlannedWorkload> {
        self.plan.workloads.get(number).context("no such workload")
    }

    /// The original references of all images of the plan.
    #[must_use]
    pub fn references(&self) -> Vec<String> {
        let host = self.upstream.localhost();
        let images = self.plan.images.iter();
        images.map(|image| image.reference(&host)).collect()
    }

    /// The repository of an image's copy in the backup.
    ///
    /// # Errors
    /// When there is no name for it.
    pub fn copy_repository(&self, image: &PlannedImage) -> anyhow::Result<String> {
        let place = Backup::new(&self.backup.address(), REPOSITORY, Naming::Flat)
            .map_err(|error| anyhow::anyhow!("{error}"))?;
        let reference = image.reference(&self.upstream.localhost());
        let reference = ImageRef::parse(&reference).map_err(|error| anyhow::anyhow!("{error}"))?;
        place
            .repository_for(&reference)
            .map_err(|error| anyhow::anyhow!("{error:?}"))
    }

    fn password_file(&self) -> PathBuf {
        self.folder.path().join("pull-password")
    }

    /// All objects of a kind in the namespaces of the plan.
    pub(super) fn list(&self, api_version: &str, kind: &str) -> anyhow::Result<Vec<Value>> {
        let mut objects = self.cluster.list(api_version, kind)?;
        objects.retain(|object| {
            let mut namespaces = self.namespaces.iter();
            namespaces.any(|namespace| object["metadata"]["namespace"] == namespace.name())
        });
        Ok(objects)
    }
}
