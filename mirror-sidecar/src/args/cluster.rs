//! Flags of the Kubernetes cluster.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::TypedValueParser as _;
use mirror_contract::Backup;
use secrecy::SecretString;

use super::sources::{SizeLimit, size_limit};
use super::values::{duration, positive, secret_name};
use super::workload_selection::{WorkloadSelectionArgs, policy_name};
use crate::cluster::Readmit;
use crate::cluster::config::{ClusterConfig, Kubernetes, OnMovedTag, PullPlan};
use crate::cluster::index::Limits;
use crate::namespace_budget::DailyBudget;

/// Shortest re-check interval: registries limit the rate of requests.
const MIN_RECHECK: Duration = Duration::from_secs(1);

/// Longest name of a replica: the name of its Lease has a prefix, and at most 253 characters.
const MAX_REPLICA: usize = 238;

#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Kubernetes")]
pub struct ClusterArgs {
    /// Integration with the cluster that this Pod runs in, or that of KUBECONFIG. `watch`: copy all images that
    /// the cluster uses. `on`: also create pull Secrets, send workloads through admission again when their images are
    /// mirrored, and write Events. `off`: only respond to requests, and copy the requested images
    #[arg(long, env = "KUBERNETES", value_enum, default_value = "off")]
    pub kubernetes: Kubernetes,
    #[command(flatten)]
    pub selection: WorkloadSelectionArgs,
    /// Name of the pull Secret that Pods need for copies. With pull credentials, it is created where it is needed, and its
    /// default name is image-mirror-pull; without them, it must exist in every namespace
    #[arg(long, env = "PULL_SECRET", value_name = "NAME", value_parser = secret_name)]
    pub pull_secret: Option<String>,
    /// Former location of copies, as registry/repository (repeatable, or comma-separated). Workloads whose annotation names
    /// copies in any other location belong to another installation and are ignored
    #[arg(
        long = "former-backup",
        env = "FORMER_BACKUPS",
        value_delimiter = ',',
        value_name = "PLACE,…",
        value_parser = place
    )]
    pub former_backups: Vec<[Backup; 2]>,
    /// Former name of the pull Secret (repeatable, or comma-separated). While workloads list it, the Secret is kept up to
    /// date. They are sent through admission again to list the current name, and then the Secret is removed
    #[arg(
        long = "former-pull-secret",
        env = "FORMER_PULL_SECRETS",
        value_delimiter = ',',
        value_name = "NAME,…",
        value_parser = secret_name
    )]
    pub former_pull_secrets: Vec<String>,
    /// User that Pods pull copies as; it needs only read permission
    #[arg(long, env = "PULL_USERNAME", value_name = "NAME")]
    pub pull_username: Option<String>,
    /// Password of --pull-username; prefer the file, since other processes can see flags
    #[arg(
        long,
        env = "PULL_PASSWORD",
        hide_env_values = true,
        value_name = "PASSWORD",
        value_parser = clap::builder::StringValueParser::new().map(SecretString::from),
        conflicts_with = "pull_password_file"
    )]
    pub pull_password: Option<SecretString>,
    /// File with the password of --pull-username; reloaded when it changes
    #[arg(long, env = "PULL_PASSWORD_FILE", value_name = "FILE")]
    pub pull_password_file: Option<PathBuf>,
    /// Docker config with the pull credentials, including credential helpers; instead of --pull-username
    #[arg(long, env = "PULL_DOCKER_CONFIG_FILE", value_name = "FILE", conflicts_with_all = ["pull_username", "pull_password", "pull_password_file"])]
    pub pull_docker_config: Option<PathBuf>,
    /// Workloads that are sent through admission again when their images are mirrored (with --kubernetes=on)
    #[arg(long, env = "READMIT", value_enum, default_value = "on")]
    pub readmit: Readmit,
    /// Maximum number of workloads that all replicas together send through admission again in a minute; each starts a rollout
    #[arg(
        long,
        env = "READMIT_PER_MINUTE",
        default_value = "10",
        value_name = "NUMBER",
        value_parser = positive::<NonZeroU32>
    )]
    pub readmit_per_minute: NonZeroU32,
    /// Name of the `ClusterAdmissionPolicy` whose webhook is called again for new Pods, after all other webhooks, so that
    /// images of injected containers are rewritten too (with --kubernetes=on). The `MutatingWebhookConfiguration`
    /// zz-NAME-reinvocation must exist, and is kept in sync with that of the policy. The chart sets this up with
    /// policy.reinvocation
    #[arg(long, env = "REINVOKE_POLICY", value_name = "NAME", value_parser = policy_name)]
    pub reinvoke_policy: Option<String>,
    /// How often each image in use is re-checked, such as 30m, 1h30m or 1d: its copy, its tag, and its original
    #[arg(long, env = "RECHECK_INTERVAL", default_value = "1h", value_name = "TIME", value_parser = recheck_interval)]
    pub recheck_interval: Duration,
    /// Action when a tag moved to another image after it was copied
    #[arg(long, env = "ON_MOVED_TAG", value_enum, default_value = "update")]
    pub on_moved_tag: OnMovedTag,
    /// Maximum number of watched workloads, including Pods, at up to 1 KiB of memory each; a namespace may have a tenth of
    /// it. The maximum number of images is a fifth of it; a namespace may have a fifth of these
    #[arg(
        long,
        env = "MAX_WORKLOADS",
        default_value_t = Limits::DEFAULT_WORKLOADS,
        value_name = "NUMBER",
        value_parser = max_workloads
    )]
    pub max_workloads: u32,
    /// Maximum number of new images of a namespace that are copied in a day; 0: no limit. Images that the policy requests
    /// have no namespace, and share ten times as many
    #[arg(
        long,
        env = "MAX_NEW_IMAGES_PER_NAMESPACE",
        default_value = "2000",
        value_name = "NUMBER"
    )]
    pub max_new_images_per_namespace: u64,
    /// Maximum number of bytes of new images of a namespace that are copied in a day; 0 or none: no limit. Images that the
    /// policy requests share ten times as many
    #[arg(
        long,
        env = "MAX_NEW_BYTES_PER_NAMESPACE",
        default_value = "1T",
        value_name = "BYTES",
        value_parser = size_limit
    )]
    pub max_new_bytes_per_namespace: SizeLimit,
    /// Unique name of this replica; without it, replicas do not share the work (with --kubernetes=on)
    #[arg(long, env = "POD_NAME", value_name = "NAME", value_parser = replica_name)]
    pub replica: Option<String>,
    /// Namespace of this replica. Replicas find each other by Leases there, and --readmit=new ignores workloads that are older
    /// than it
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAME", value_parser = namespace_name)]
    pub own_namespace: Option<String>,
    /// IP address at which the other replicas reach the admin port of this one, to show the status of all. It is stored in the
    /// Lease of this replica
    #[arg(long, env = "POD_IP", value_name = "ADDRESS")]
    pub pod_ip: Option<IpAddr>,
}

impl ClusterArgs {
    pub fn config(self, pull_plan: PullPlan) -> ClusterConfig {
        let former_pull_secrets = self.former_pull_secrets(pull_plan.name());
        ClusterConfig {
            mode: self.kubernetes,
            former_pull_secrets,
            pull_plan,
            followed_policies: self.selection.followed_policies(),
            skip_owners: self.selection.skip_owners(),
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

    /// The former names, each once, without the current one.
    fn former_pull_secrets(&self, present: Option<&str>) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for name in &self.former_pull_secrets {
            if present != Some(name.as_str()) && !names.contains(name) {
                names.push(name.clone());
            }
        }
        names
    }

    pub fn daily_budget(&self) -> DailyBudget {
        DailyBudget {
            images: self.max_new_images_per_namespace,
            bytes: self.max_new_bytes_per_namespace.0.unwrap_or(0),
        }
    }
}

/// The naming of a former backup is unknown. Spaces around a comma are ignored.
fn place(text: &str) -> Result<[Backup; 2], &'static str> {
    Backup::with_both_namings(text.trim()).ok_or("must be registry/repository, in lower case")
}

fn replica_name(text: &str) -> Result<String, &'static str> {
    let name = secret_name(text)
        .ok()
        .filter(|name| name.len() <= MAX_REPLICA);
    name.ok_or("must be lower-case letters, digits, hyphens and dots, as names of Pods are")
}

/// Parses an RFC 1123 label.
fn namespace_name(text: &str) -> Result<String, &'static str> {
    let name = secret_name(text).ok();
    let name = name.filter(|name| name.len() <= 63 && !name.contains('.'));
    name.ok_or("must be lower-case letters, digits and hyphens, as names of namespaces are")
}

/// With fewer, the limits of a namespace would be too small.
fn max_workloads(text: &str) -> Result<u32, &'static str> {
    let number = text.parse().ok();
    number
        .filter(|number| *number >= 1_000)
        .ok_or("must be a whole number, 1000 or more")
}

fn recheck_interval(text: &str) -> Result<Duration, String> {
    let duration = duration(text)?;
    if duration < MIN_RECHECK {
        return Err("must be at least 1s".into());
    }
    Ok(duration)
}
