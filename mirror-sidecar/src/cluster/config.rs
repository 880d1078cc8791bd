//! How the service works with the cluster, whatever the flags are called.

use std::num::NonZeroU32;
use std::time::Duration;

use clap::ValueEnum;
use mirror_contract::OwnerPattern;
use mirror_copy::Credentials;

use super::readmission::Readmit;

/// The settings of the parts that work with the cluster.
#[derive(Debug)]
pub struct ClusterConfig {
    /// What the service does there.
    pub mode: Kubernetes,
    /// The pull Secret that Pods need for the copies.
    pub pull_plan: PullPlan,
    /// Names that the pull Secret had before.
    pub former_pull_secrets: Vec<String>,
    /// Owners whose Pods are left alone.
    pub skip_owners: Vec<OwnerPattern<'static>>,
    /// Workloads that are sent through admission again.
    pub readmit: Readmit,
    /// Workloads of all replicas that are sent through admission again in a minute.
    pub readmit_per_minute: NonZeroU32,
    /// Policy whose webhook is called once more for new Pods.
    pub reinvoke_policy: Option<String>,
    /// Time in which each image in use is re-checked.
    pub recheck_interval: Duration,
    /// What becomes of the copy when a tag moved.
    pub on_moved_tag: OnMovedTag,
    /// Workloads that are watched.
    pub max_workloads: u32,
    /// Name of this replica.
    pub replica: Option<String>,
    /// Namespace of this replica.
    pub own_namespace: Option<String>,
}

/// Whether the service works with a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kubernetes {
    /// No cluster
    Off,
    /// Watches workloads and namespaces, and writes nothing
    Watch,
    /// Watches, and writes pull Secrets, annotations, Events and Leases
    On,
}

impl Kubernetes {
    /// The value of the flag.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Watch => "watch",
            Self::On => "on",
        }
    }
}

/// What becomes of the copy when the tag of its original moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnMovedTag {
    /// Update the copy; the older image keeps its anchor tag
    Update,
    /// Keep the copy
    Keep,
}

/// Where the pull Secret comes from.
#[derive(Clone, Debug)]
pub enum PullPlan {
    /// Copies are pulled without one.
    NotNeeded,
    /// Somebody else puts it into every namespace.
    Existing {
        /// Its name.
        name: String,
    },
    /// It is made here, where it is needed.
    Managed {
        /// Its name.
        name: String,
        /// What is put into it, looked up again and again. They hold a login for the backup registry only.
        credentials: Credentials,
    },
}

impl PullPlan {
    /// The name of the Secret, if one is needed.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::NotNeeded => None,
            Self::Existing { name } | Self::Managed { name, .. } => Some(name),
        }
    }
}
