//! How the service works with a Kubernetes cluster.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::TypedValueParser as _;
use mirror_contract::namespace::DEFAULT_EXCLUDED;
use mirror_contract::owners::DEFAULT_SKIPPED;
use mirror_contract::{Backup, NamespacePattern, OwnerPattern};
use secrecy::SecretString;

use super::sources::{SizeLimit, size_limit};
use super::values::{duration, namespace_pattern, positive, secret_name};
use crate::cluster::Readmit;
use crate::cluster::config::{ClusterConfig, Kubernetes, OnMovedTag, PullPlan};
use crate::cluster::index::Limits;
use crate::namespace_budget::DailyBudget;

/// Shortest time between two looks at an image: registries count what they are asked.
const MIN_RECHECK: Duration = Duration::from_secs(1);

/// Longest name of a replica: what is before it in the name of its Lease leaves this much of 253.
const MAX_REPLICA: usize = 238;

/// Longest name of a policy: what is added to it in the names of webhook configurations leaves this much of 253.
const MAX_POLICY: usize = 237;

/// How the service works with a Kubernetes cluster.
#[derive(Debug, Args)]
#[command(next_help_heading = "Kubernetes")]
pub struct ClusterArgs {
    /// Whether to work with a cluster (the one around it, or that of KUBECONFIG). `watch`: copy the images that it uses,
    /// without being asked for them. `on`: also create pull Secrets, send workloads through admission again when their
    /// copies are there, and tell by Events. `off`: only answer, and copy what is asked for
    #[arg(long, env = "KUBERNETES", value_enum, default_value = "off")]
    pub kubernetes: Kubernetes,
    /// Namespaces that are left alone: nothing is copied for them, no pull Secret is made or named there; a trailing *
    /// is a wildcard
    #[arg(
        long,
        env = "EXCLUDE_NAMESPACES",
        value_delimiter = ',',
        value_name = "NAME,…",
        default_values = DEFAULT_EXCLUDED,
        value_parser = namespace_pattern
    )]
    pub exclude_namespaces: Vec<NamespacePattern<'static>>,
    /// Name of the pull Secret that Pods need for the copies. With credentials for pulling it is made where it is needed,
    /// and called image-mirror-pull by default; without them it must already be in every namespace
    #[arg(long, env = "PULL_SECRET", value_name = "NAME", value_parser = secret_name)]
    pub pull_secret: Option<String>,
    /// Where copies were before, as registry/repository (repeatable, or separated by commas). Workloads with copies in any other
    /// place, as their annotation says, belong to another installation and are left alone
    #[arg(
        long = "former-backup",
        env = "FORMER_BACKUPS",
        value_delimiter = ',',
        value_name = "PLACE,…",
        value_parser = place
    )]
    pub former_backups: Vec<[Backup; 2]>,
    /// Name that the pull Secret had before (repeatable, or separated by commas): where workloads list it, it is kept as valid as
    /// the present one; they are sent through admission again to list that instead, and then it is removed
    #[arg(
        long = "former-pull-secret",
        env = "FORMER_PULL_SECRETS",
        value_delimiter = ',',
        value_name = "NAME,…",
        value_parser = secret_name
    )]
    pub former_pull_secrets: Vec<String>,
    /// Owner that compares images itself, as API group and kind (repeatable, or separated by commas): the Pods of its
    /// workloads are left alone. The `skipOwners` of the policy are for the direct owners of Pods
    #[arg(
        long = "skip-owner",
        env = "SKIP_OWNERS",
        value_delimiter = ',',
        value_name = "GROUP/KIND,…",
        default_values = DEFAULT_SKIPPED,
        value_parser = owner_pattern
    )]
    pub skip_owners: Vec<Option<OwnerPattern<'static>>>,
    /// User that Pods pull copies as; needs no right but to read
    #[arg(long, env = "PULL_USERNAME", value_name = "NAME")]
    pub pull_username: Option<String>,
    /// Password of that user; prefer the file, since other processes can see flags
    #[arg(
        long,
        env = "PULL_PASSWORD",
        hide_env_values = true,
        value_name = "PASSWORD",
        value_parser = clap::builder::StringValueParser::new().map(SecretString::from),
        conflicts_with = "pull_password_file"
    )]
    pub pull_password: Option<SecretString>,
    /// File that holds the password of that user; read again when it changes
    #[arg(long, env = "PULL_PASSWORD_FILE", value_name = "FILE")]
    pub pull_password_file: Option<PathBuf>,
    /// Docker config with the credentials that Pods pull copies with, credential helpers included; instead of a user
    #[arg(long, env = "PULL_DOCKER_CONFIG_FILE", value_name = "FILE", conflicts_with_all = ["pull_username", "pull_password", "pull_password_file"])]
    pub pull_docker_config: Option<PathBuf>,
    /// Which workloads are sent through admission again when their images are mirrored (with --kubernetes=on)
    #[arg(long, env = "READMIT", value_enum, default_value = "on")]
    pub readmit: Readmit,
    /// How many workloads all replicas together send through admission again in a minute; each starts a rollout
    #[arg(
        long,
        env = "READMIT_PER_MINUTE",
        default_value = "10",
        value_name = "NUMBER",
        value_parser = positive::<NonZeroU32>
    )]
    pub readmit_per_minute: NonZeroU32,
    /// Name of the `ClusterAdmissionPolicy` whose webhook is called once more for new Pods, after all other webhooks, so that
    /// images of containers that these inject are rewritten too (with --kubernetes=on). The `MutatingWebhookConfiguration`
    /// zz-NAME-reinvocation must exist, and is kept in step with the policy's own. The chart's policy.reinvocation does all
    /// that
    #[arg(long, env = "REINVOKE_POLICY", value_name = "NAME", value_parser = policy_name)]
    pub reinvoke_policy: Option<String>,
    /// How often each image in use is re-checked, such as 30m, 1h30m or 1d: is its copy there, did its tag move, does the
    /// original still exist
    #[arg(long, env = "RECHECK_INTERVAL", default_value = "1h", value_name = "TIME", value_parser = recheck_interval)]
    pub recheck_interval: Duration,
    /// What to do when a tag stands for another image than when it was copied
    #[arg(long, env = "ON_MOVED_TAG", value_enum, default_value = "update")]
    pub on_moved_tag: OnMovedTag,
    /// Workloads that are watched, Pods included, each of which takes up to 1 KiB of memory; of one namespace a tenth. The
    /// number of images follows: a fifth of it, and of one namespace a fifth of these
    #[arg(
        long,
        env = "MAX_WORKLOADS",
        default_value_t = Limits::DEFAULT_WORKLOADS,
        value_name = "NUMBER",
        value_parser = max_workloads
    )]
    pub max_workloads: u32,
    /// How many new images of one namespace are copied in a day; 0: any number. What the policy asks for has no namespace and
    /// shares ten times as many
    #[arg(
        long,
        env = "MAX_NEW_IMAGES_PER_NAMESPACE",
        default_value = "2000",
        value_name = "NUMBER"
    )]
    pub max_new_images_per_namespace: u64,
    /// How many bytes of new images of one namespace are copied in a day; 0 or none for any number. What the policy asks for shares ten
    /// times as many
    #[arg(
        long,
        env = "MAX_NEW_BYTES_PER_NAMESPACE",
        default_value = "1T",
        value_name = "BYTES",
        value_parser = size_limit
    )]
    pub max_new_bytes_per_namespace: SizeLimit,
    /// Name of this replica, unlike that of all others; without it the work is not shared (with --kubernetes=on)
    #[arg(long, env = "POD_NAME", value_name = "NAME", value_parser = replica_name)]
    pub replica: Option<String>,
    /// Namespace of this replica: the replicas find each other by Leases there, and --readmit=new counts from its creation at
    /// the earliest
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME", value_parser = namespace_name)]
    pub own_namespace: Option<String>,
}

impl ClusterArgs {
    /// The settings of the parts that work with the cluster.
    #[must_use]
    pub fn config(self, pull_plan: PullPlan) -> ClusterConfig {
        ClusterConfig {
            mode: self.kubernetes,
            former_pull_secrets: self.former_pull_secrets(pull_plan.name()),
            pull_plan,
            skip_owners: self.skip_owners.into_iter().flatten().collect(),
            readmit: self.readmit,
            readmit_per_minute: self.readmit_per_minute,
            reinvoke_policy: self.reinvoke_policy,
            recheck_interval: self.recheck_interval,
            on_moved_tag: self.on_moved_tag,
            max_workloads: self.max_workloads,
            replica: self.replica,
            own_namespace: self.own_namespace,
        }
    }

    /// The former names of the pull Secret whose name is now `present`.
    fn former_pull_secrets(&self, present: Option<&str>) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for name in &self.former_pull_secrets {
            if present != Some(name.as_str()) && !names.contains(name) {
                names.push(name.clone());
            }
        }
        names
    }

    /// How much that is new is copied in a day.
    #[must_use]
    pub fn daily_budget(&self) -> DailyBudget {
        DailyBudget {
            images: self.max_new_images_per_namespace,
            bytes: self.max_new_bytes_per_namespace.0.unwrap_or(0),
        }
    }
}

/// A backup may have been filled with either naming. Spaces around a comma are forgiven.
fn place(text: &str) -> Result<[Backup; 2], &'static str> {
    Backup::with_both_namings(text.trim()).ok_or("must be registry/repository, in lower case")
}

/// `None` for an empty text, which a list without entries is in a variable.
fn owner_pattern(text: &str) -> Result<Option<OwnerPattern<'static>>, &'static str> {
    match (text.trim(), OwnerPattern::parse(text.trim())) {
        ("", _) => Ok(None),
        (_, Some(pattern)) => Ok(Some(pattern.into_owned())),
        (_, None) => Err("must be an API group and a kind, such as postgresql.cnpg.io/Cluster"),
    }
}

/// The name of a Lease is made of it.
fn replica_name(text: &str) -> Result<String, &'static str> {
    let name = secret_name(text)
        .ok()
        .filter(|name| name.len() <= MAX_REPLICA);
    name.ok_or("must be lower-case letters, digits, hyphens and dots, as names of Pods are")
}

/// Names of webhook configurations are made of it, which may have 253 characters.
fn policy_name(text: &str) -> Result<String, &'static str> {
    let name = secret_name(text)
        .ok()
        .filter(|name| name.len() <= MAX_POLICY);
    name.ok_or("must be lower-case letters, digits, hyphens and dots, as names of policies are")
}

/// The rule for names of namespaces (RFC 1123 label): it becomes part of a URL.
fn namespace_name(text: &str) -> Result<String, &'static str> {
    let name = secret_name(text).ok();
    let name = name.filter(|name| name.len() <= 63 && !name.contains('.'));
    name.ok_or("must be lower-case letters, digits and hyphens, as names of namespaces are")
}

/// Below that, the limits of a namespace would be too small for any.
fn max_workloads(text: &str) -> Result<u32, &'static str> {
    let number = text.parse().ok();
    number
        .filter(|number| *number >= 1_000)
        .ok_or("must be a whole number, 1000 or more")
}

/// Not so short that registries are flooded.
fn recheck_interval(text: &str) -> Result<Duration, String> {
    let duration = duration(text)?;
    if duration < MIN_RECHECK {
        return Err("must be at least 1s".into());
    }
    Ok(duration)
}
