//! The kinds that are watched, and their names in the API.

use std::fmt;

/// A kind of object with containers.
///
/// The order is that of the users of an image: kinds that people write before those that controllers create.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WorkloadKind {
    Deployment,
    StatefulSet,
    DaemonSet,
    /// Served in `batch/v1` since Kubernetes 1.21.
    CronJob,
    ReplicationController,
    ReplicaSet,
    Job,
    Pod,
}

/// A kind of object that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Namespace,
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

    /// Returns whether the Pod template of such an object can change, so that another admission can rewrite it.
    #[must_use]
    pub const fn is_mutable(self) -> bool {
        !matches!(self, Self::Job | Self::Pod)
    }

    /// Returns the kind with this name. No other group of Kubernetes has a kind with a name of these.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Returns the group, empty for the core group.
    #[must_use]
    pub const fn group(self) -> &'static str {
        match self {
            Self::Pod | Self::ReplicationController => "",
            Self::CronJob | Self::Job => "batch",
            Self::Deployment | Self::StatefulSet | Self::DaemonSet | Self::ReplicaSet => "apps",
        }
    }

    /// Returns the name as in `kind: Deployment`.
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

    /// Returns the name as in `/apis/apps/v1/deployments`.
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

    pub const VERSION: &'static str = "v1";

    /// Returns the group, empty for the core group.
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
