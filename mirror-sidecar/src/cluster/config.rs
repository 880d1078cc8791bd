//! The settings of the cluster tasks, without the names of flags.

use std::num::NonZeroU32;
use std::time::Duration;

use clap::ValueEnum;
use mirror_contract::OwnerPattern;

use super::policies::follow::Filter;
use super::pull_secrets::PullLogin;
use super::readmission::Readmit;

#[derive(Debug)]
pub struct ClusterConfig {
    pub mode: Kubernetes,
    pub pull_plan: PullPlan,
    /// Names that the pull Secret had before.
    pub former_pull_secrets: Vec<String>,
    /// The policies that are followed; none with a file of settings.
    pub followed_policies: Filter,
    /// Owners whose Pods are left alone.
    pub skip_owners: Vec<OwnerPattern<'static>>,
    pub readmit: Readmit,
    /// Of all replicas together.
    pub readmit_per_minute: NonZeroU32,
    /// Policy whose webhook is registered a second time, for new Pods.
    pub reinvoke_policy: Option<String>,
    /// Interval in which each image in use is re-checked.
    pub recheck_interval: Duration,
    pub on_moved_tag: OnMovedTag,
    /// Workloads in the index.
    pub max_workloads: u32,
    /// Name of this replica's Pod.
    pub replica: Option<String>,
    pub own_namespace: Option<String>,
}

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
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Watch => "watch",
            Self::On => "on",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnMovedTag {
    /// Update the copy; the older image keeps its anchor tag
    Update,
    /// Keep the copy
    Keep,
}

/// Where the pull Secret for copies comes from.
#[derive(Clone, Debug)]
pub enum PullPlan {
    /// Copies are pulled without one.
    NotNeeded,
    /// Somebody else creates it in every namespace.
    Existing { name: String },
    /// This service creates it where it is needed.
    Managed {
        name: String,
        /// Its content, which depends on the rules for the namespace.
        logins: Vec<PullLogin>,
    },
}

impl PullPlan {
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::NotNeeded => None,
            Self::Existing { name } | Self::Managed { name, .. } => Some(name),
        }
    }
}
