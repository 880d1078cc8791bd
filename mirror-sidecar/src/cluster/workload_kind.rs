//! The kinds that are watched, and where the API server serves them.

use std::fmt;

/// A kind of object that runs containers, or makes others that do.
///
/// They are in the order in which users of an image are named: what a person wrote before what was made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WorkloadKind {
    /// `apps/v1` Deployment.
    Deployment,
    /// `apps/v1` `StatefulSet`.
    StatefulSet,
    /// `apps/v1` `DaemonSet`.
    DaemonSet,
    /// `batch/v1` `CronJob`, served since Kubernetes 1.21.
    CronJob,
    /// `v1` `ReplicationController`.
    ReplicationController,
    /// `apps/v1` `ReplicaSet`.
    ReplicaSet,
    /// `batch/v1` Job.
    Job,
    /// `v1` Pod.
    Pod,
}

/// A kind of object that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `v1` Namespace.
    Namespace,
    /// What uses images.
    Workload(WorkloadKind),
}

impl WorkloadKind {
    pub const ALL: [Self; 8] = [
        Self::Deployment,
        Self::StatefulSet,
        Self::DaemonSet,
        Self::CronJob,
        Self::ReplicationController,
        Self::ReplicaSet,
        Self::Job,
        Self::Pod,
    ];

    /// Whether the Pod template of such an object can change, so that another admission can rewrite it.
    #[must_use]
    pub const fn is_mutable(self) -> bool {
        !matches!(self, Self::Job | Self::Pod)
    }

    /// The kind of this name; all watched names are unique among the groups of Kubernetes.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Kind::ALL.into_iter().find_map(|kind| match kind {
            Kind::Workload(kind) => Some(kind).filter(|kind| kind.name() == name),
            Kind::Namespace => None,
        })
    }

    /// The group, empty for the core group.
    #[must_use]
    pub const fn group(self) -> &'static str {
        match self {
            Self::Pod | Self::ReplicationController => "",
            Self::CronJob | Self::Job => "batch",
            Self::Deployment | Self::StatefulSet | Self::DaemonSet | Self::ReplicaSet => "apps",
        }
    }

    /// The name of the kind, as in `kind: Deployment`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deployment => "Deployment",
            Self::StatefulSet => "StatefulSet",
            Self::DaemonSet => "DaemonSet",
            Self::CronJob => "CronJob",
            Self::ReplicationController => "ReplicationController",
            Self::ReplicaSet => "ReplicaSet",
            Self::Job => "Job",
            Self::Pod => "Pod",
        }
    }

    /// The name in URLs, as in `/apis/apps/v1/deployments`.
    #[must_use]
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Deployment => "deployments",
            Self::StatefulSet => "statefulsets",
            Self::DaemonSet => "daemonsets",
            Self::CronJob => "cronjobs",
            Self::ReplicationController => "replicationcontrollers",
            Self::ReplicaSet => "replicasets",
            Self::Job => "jobs",
            Self::Pod => "pods",
        }
    }
}

impl Kind {
    /// All that are watched.
    pub const ALL: [Self; 9] = [
        Self::Namespace,
        Self::Workload(WorkloadKind::Deployment),
        Self::Workload(WorkloadKind::StatefulSet),
        Self::Workload(WorkloadKind::DaemonSet),
        Self::Workload(WorkloadKind::CronJob),
        Self::Workload(WorkloadKind::ReplicationController),
        Self::Workload(WorkloadKind::ReplicaSet),
        Self::Workload(WorkloadKind::Job),
        Self::Workload(WorkloadKind::Pod),
    ];

    /// The version of every kind here.
    pub const VERSION: &'static str = "v1";

    /// The group, empty for the core group.
    #[must_use]
    pub const fn group(self) -> &'static str {
        match self {
            Self::Namespace => "",
            Self::Workload(kind) => kind.group(),
        }
    }

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Workload(kind) => kind.name(),
        }
    }

    /// The name in URLs.
    #[must_use]
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Namespace => "namespaces",
            Self::Workload(kind) => kind.plural(),
        }
    }
}

impl fmt::Display for WorkloadKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
