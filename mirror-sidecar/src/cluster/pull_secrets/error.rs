//! Why there is no pull Secret in a namespace.

use mirror_contract::{Refusal, RefusalKind};

/// Why there is none, in words for who made the request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PullSecretError {
    #[error("namespace {namespace} does not exist")]
    NoNamespace { namespace: String },
    #[error("namespace {namespace} is being deleted")]
    Terminating { namespace: String },
    #[error("the Secret {name} in namespace {namespace} is not managed by image-mirror; delete it")]
    Foreign { name: String, namespace: String },
    #[error("the old Secret {name} in namespace {namespace} is still being deleted")]
    Leaving { name: String, namespace: String },
    /// It exists already, was changed since, or is gone: look again.
    #[error("the Secret {name} in namespace {namespace} is being changed by others")]
    Contended { name: String, namespace: String },
    #[error(
        "the API server does not let it {operation} the Secret {name} in namespace {namespace}: {reason}"
    )]
    Refused {
        operation: &'static str,
        name: String,
        namespace: String,
        reason: String,
    },
    #[error(
        "mirror-sidecar may not {operation} the Secret {name} in namespace {namespace}; its roles must name this Secret: {reason}"
    )]
    NoRights {
        operation: &'static str,
        name: String,
        namespace: String,
        reason: String,
    },
    #[error("cannot {operation} the Secret {name} in namespace {namespace}: {reason}")]
    Away {
        operation: &'static str,
        name: String,
        namespace: String,
        reason: String,
    },
    #[error("the credentials for pulling cannot be read")]
    NoCredentials,
    #[error("many namespaces wait for their pull Secret")]
    Busy,
    #[error("the making of the pull Secret broke off")]
    BrokeOff,
}

impl PullSecretError {
    /// The answer to the policy.
    pub(super) fn refusal(&self) -> Refusal<'static> {
        Refusal::new(self.kind(), &self.to_string())
    }

    fn kind(&self) -> RefusalKind {
        match self {
            Self::NoNamespace { .. }
            | Self::Terminating { .. }
            | Self::Foreign { .. }
            | Self::Refused { .. } => RefusalKind::Failed,
            // Not "unavailable": somebody who floods us must not choose which of the policy's rules applies.
            Self::Busy | Self::Leaving { .. } | Self::Contended { .. } => RefusalKind::Pending,
            // Another replica may have the rights.
            Self::NoRights { .. } | Self::Away { .. } | Self::NoCredentials | Self::BrokeOff => {
                RefusalKind::Unavailable
            }
        }
    }
}
