//! Flags that select the workloads whose images are copied.

use std::path::PathBuf;

use clap::Args;
use mirror_contract::namespace::DEFAULT_EXCLUDED;
use mirror_contract::owners::DEFAULT_SKIPPED;
use mirror_contract::{NamespacePattern, OwnerPattern, Sidecar};

use super::values::{namespace_pattern, secret_name};
use crate::cluster::policies::follow::Filter;

/// Longest name of a policy: names of webhook configurations add to it, and have at most 253 characters.
const MAX_POLICY: usize = 237;

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Kubernetes")]
pub struct WorkloadSelectionArgs {
    /// Namespaces that are ignored: no images are copied for them, and no pull Secrets are created or listed there; a
    /// trailing * is a wildcard. If a policy is followed, its `excludedNamespaces` apply instead
    #[arg(
        long,
        env = "EXCLUDE_NAMESPACES",
        value_delimiter = ',',
        value_name = "NAME,…",
        default_values = DEFAULT_EXCLUDED,
        value_parser = namespace_pattern
    )]
    pub exclude_namespaces: Vec<NamespacePattern<'static>>,
    /// Address of the facade as policies name it in `sidecar`, such as mirror-sidecar.image-mirror.svc:5000 (repeatable, or
    /// comma-separated). The `ClusterAdmissionPolicies` that name it decide which images are copied for which workloads, instead
    /// of --exclude-namespaces and --skip-owner. Without it and without --policy, no policy is followed
    #[arg(
        long = "facade-address",
        env = "FACADE_ADDRESS",
        value_delimiter = ',',
        value_name = "HOST:PORT,…",
        value_parser = facade_address
    )]
    pub facade_addresses: Vec<Sidecar<'static>>,
    /// Name of the only `ClusterAdmissionPolicy` that is followed. Without --facade-address, its `sidecar` may be any
    #[arg(long, env = "POLICY", value_name = "NAME", value_parser = policy_name)]
    pub policy: Option<String>,
    /// File with the settings of the policy, in YAML or JSON, which decides instead of the policies in the cluster; reloaded
    /// when it changes
    #[arg(
        long,
        env = "POLICY_SETTINGS",
        value_name = "FILE",
        conflicts_with = "policy"
    )]
    pub policy_settings: Option<PathBuf>,
    /// Owner that compares images itself, as API group and kind (repeatable, or comma-separated). The Pods of its workloads
    /// are ignored. If a policy is followed, its `skipOwners` apply instead
    #[arg(
        long = "skip-owner",
        env = "SKIP_OWNERS",
        value_delimiter = ',',
        value_name = "GROUP/KIND,…",
        default_values = DEFAULT_SKIPPED,
        value_parser = owner_pattern
    )]
    skip_owners: Vec<Option<OwnerPattern<'static>>>,
}

impl WorkloadSelectionArgs {
    /// The policies that are followed; none with a file of settings.
    pub fn followed_policies(&self) -> Filter {
        if self.policy_settings.is_some() {
            return Filter::default();
        }
        Filter {
            addresses: self.facade_addresses.clone(),
            name: self.policy.clone(),
        }
    }

    pub fn skip_owners(&self) -> Vec<OwnerPattern<'static>> {
        self.skip_owners.iter().flatten().cloned().collect()
    }
}

/// Returns `None` for an empty text, which is the variable of an empty list.
fn owner_pattern(text: &str) -> Result<Option<OwnerPattern<'static>>, &'static str> {
    match (text.trim(), OwnerPattern::parse(text.trim())) {
        ("", _) => Ok(None),
        (_, Some(pattern)) => Ok(Some(pattern.into_owned())),
        (_, None) => Err("must be an API group and a kind, such as postgresql.cnpg.io/Cluster"),
    }
}

fn facade_address(text: &str) -> Result<Sidecar<'static>, &'static str> {
    let address = Sidecar::parse(text.trim()).map(Sidecar::into_owned);
    address.ok_or("must be host:port, in lower case")
}

pub(super) fn policy_name(text: &str) -> Result<String, &'static str> {
    let name = secret_name(text)
        .ok()
        .filter(|name| name.len() <= MAX_POLICY);
    name.ok_or("must be lower-case letters, digits, hyphens and dots, as names of policies are")
}
