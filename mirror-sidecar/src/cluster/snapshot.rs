//! The images that a cluster uses, read once: the same watches and rules as in the service, until all kinds were listed.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use mirror_contract::{BackupName, ImageRef, OwnerPattern};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::api_server::ApiServer;
use super::index::{Limits, SharedAmounts};
use super::policies::follow::{Filter, Followed, KNOWN_WITHIN};
use super::policies::{Fallback, Policy};
use super::reconciler::{Use, images_in_index};
use super::shared_index::Indexes;
use super::watch::watch;
use super::workload_kind::Kind;
use super::{ExcludedNamespaces, Index, Rules, SharedIndex, SyncState};
use crate::backups::{BackupLocations, ByBackup, OtherBackups};

/// Workloads that are read, at up to 1 KiB of memory each. A namespace may have a tenth of it.
const MAX_WORKLOADS: u32 = 1_000_000;

/// Timeout of the first request: an API server that is down is reported soon.
const RESPONDS_WITHIN: Duration = Duration::from_secs(10);

/// Longest time without a change of the index while not all kinds were listed.
const IDLE: Duration = Duration::from_secs(30);

/// What selects the workloads.
#[derive(Debug)]
pub struct SnapshotRules<'a> {
    pub locations: &'a ByBackup<BackupLocations>,
    /// With the policies of a file, if there is one.
    pub excluded_namespaces: ExcludedNamespaces,
    pub followed_policies: Filter,
    pub skip_owners: Vec<OwnerPattern<'static>>,
}

/// The images of one backup that the cluster uses.
#[derive(Debug)]
pub struct Snapshot {
    /// Originals, in their order.
    pub images: Vec<ImageRef<'static>>,
    /// Images in the backup that are no copies.
    pub foreign: Vec<ImageRef<'static>>,
    /// Namespaces of which some workloads were left out, because there are too many.
    pub left_out: Vec<String>,
}

/// Connects to the cluster of this kubeconfig, by default to that of `KUBECONFIG`, or the one that this Pod runs in.
///
/// # Errors
/// There is no such cluster, or its API server does not respond.
pub async fn connect(kubeconfig: Option<&Path>) -> anyhow::Result<ApiServer> {
    let config = match kubeconfig {
        Some(file) => {
            let kubeconfig = Kubeconfig::read_from(file)
                .with_context(|| format!("cannot read --kubeconfig {}", file.display()))?;
            let options = KubeConfigOptions::default();
            let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
            config.with_context(|| format!("cannot use --kubeconfig {}", file.display()))?
        }
        None => Config::infer().await.context(
            "cannot find a cluster; set --kubeconfig or KUBECONFIG, or name the images to verify",
        )?,
    };
    let address = config.cluster_url.to_string();
    let client = Client::try_from(config).context("cannot create a client for the API server")?;
    let version = timeout(RESPONDS_WITHIN, client.apiserver_version());
    let version = version.await.map_err(|_| {
        anyhow!("the API server {address} did not respond within {RESPONDS_WITHIN:?}")
    })?;
    version.with_context(|| {
        format!("cannot reach the API server {address}; check the kubeconfig and the network")
    })?;
    Ok(ApiServer::new(client, &address))
}

/// Reads the images of `backup` that the cluster uses.
///
/// # Errors
/// The policies or a kind of workload cannot be listed.
pub async fn read(
    server: ApiServer,
    rules: SnapshotRules<'_>,
    backup: &BackupName<'static>,
) -> anyhow::Result<Snapshot> {
    let stop = CancellationToken::new();
    let _guard = stop.clone().drop_guard();
    follow_policies(&server, &rules, &stop).await?;
    let indexes = indexes(&rules);
    let of_backup = indexes.by_backup().get(backup);
    let (Some(index), Some(location)) = (of_backup, rules.locations.get(backup)) else {
        bail!("there is no backup {backup} in the configuration file");
    };
    let watches = watch(server, indexes.clone(), stop.clone());
    tokio::spawn(stop.clone().run_until_cancelled_owned(watches));
    wait_until_listed(indexes.of_default()).await?;
    let mut snapshot = Snapshot {
        images: Vec::new(),
        foreign: Vec::new(),
        left_out: index.read(|index| {
            let left_out = index.left_out().into_iter();
            left_out
                .map(|left_out| left_out.key.namespace.to_string())
                .collect()
        }),
    };
    for (image, usage) in images_in_index(index, location.current(), backup.is_default()) {
        let image = ImageRef::clone(&image);
        match usage {
            Use::Original { .. } => snapshot.images.push(image),
            Use::Foreign => snapshot.foreign.push(image),
        }
    }
    Ok(snapshot)
}

async fn follow_policies(
    server: &ApiServer,
    rules: &SnapshotRules<'_>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let excluded = &rules.excluded_namespaces;
    let fallback = Fallback::of(rules.locations);
    let fallback = Policy::of_flags(excluded.patterns(), &rules.skip_owners, fallback);
    let policies = excluded.policies().clone();
    let followed = Followed::new(rules.followed_policies.clone(), fallback, policies);
    if !followed.is_any() {
        return Ok(());
    }
    let following = followed.clone().run(server.clone());
    tokio::spawn(stop.clone().run_until_cancelled_owned(following));
    timeout(KNOWN_WITHIN, followed.known())
        .await
        .context("cannot list ClusterAdmissionPolicies; check the permissions of the kubeconfig")
}

fn indexes(rules: &SnapshotRules<'_>) -> Indexes {
    let amounts = SharedAmounts::default();
    let index = |name: &BackupName<'static>, locations: &BackupLocations| {
        let rules = Rules {
            backup: locations.current().clone(),
            former_backups: locations.former().clone(),
            other_backups: OtherBackups::of(name, rules.locations),
            excluded_namespaces: rules.excluded_namespaces.clone(),
            pull_secret: None,
            former_pull_secrets: Vec::new(),
            skip_owners: rules.skip_owners.clone(),
        };
        let index = Index::new(rules).with_limits(Limits::of(MAX_WORKLOADS));
        Arc::new(SharedIndex::new(index.with_shared_amounts(&amounts)))
    };
    Indexes::new(rules.locations.map(index))
}

/// Waits until all kinds were listed.
async fn wait_until_listed(index: &SharedIndex) -> anyhow::Result<()> {
    let mut changes = index.subscribe_any();
    loop {
        changes.mark_unchanged();
        if index.read(Index::is_complete) {
            return Ok(());
        }
        if timeout_at(Instant::now() + IDLE, changes.changed())
            .await
            .is_err()
        {
            let unlisted = index.read(|index| {
                let kinds = Kind::ALL.into_iter();
                let pending = kinds.filter(|kind| index.sync_state(*kind) == SyncState::Pending);
                pending.map(Kind::plural).collect::<Vec<_>>()
            });
            bail!(
                "cannot list {}; check the permissions of the kubeconfig",
                unlisted.join(", ")
            );
        }
    }
}
