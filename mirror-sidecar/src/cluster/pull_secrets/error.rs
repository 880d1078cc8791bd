//! The reason why a namespace has no usable pull Secret.

use std::fmt;

use mirror_contract::{Refusal, RefusalKind};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SecretId {
    pub name: String,
    pub namespace: String,
}

/// The author of the admission request reads the messages.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PullSecretError {
    #[error("namespace {namespace} does not exist")]
    NoNamespace { namespace: String },
    #[error("namespace {namespace} is being deleted")]
    Terminating { namespace: String },
    #[error("the {0} is not managed by image-mirror; delete it")]
    Foreign(SecretId),
    #[error("the old {0} is still being deleted; wait for its finalizers")]
    Leaving(SecretId),
    /// The Secret was created, changed or deleted meanwhile, and must be read again.
    #[error("the {0} is being changed by another program")]
    Contended(SecretId),
    #[error("cannot {operation} the {secret}: the API server refuses it: {reason}")]
    Refused {
        operation: &'static str,
        secret: SecretId,
        reason: String,
    },
    #[error(
        "mirror-sidecar may not {operation} the {secret}; its roles must name this Secret: {reason}"
    )]
    NoRights {
        operation: &'static str,
        secret: SecretId,
        reason: String,
    },
    #[error("cannot {operation} the {secret}: {reason}")]
    Unreachable {
        operation: &'static str,
        secret: SecretId,
        reason: String,
    },
    #[error("cannot read the credentials for pulling; see the log of mirror-sidecar")]
    NoCredentials,
    #[error("too many namespaces wait for their pull Secret")]
    Busy,
    #[error("creating the pull Secret was aborted")]
    Aborted,
}

impl fmt::Display for SecretId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret {} in namespace {}", self.name, self.namespace)
    }
}

impl PullSecretError {
    /// The response to the policy.
    pub(super) fn refusal(&self) -> Refusal<'static> {
        let kind = match self {
            Self::NoNamespace { .. }
            | Self::Terminating { .. }
            | Self::Foreign(_)
            | Self::Refused { .. } => RefusalKind::Failed,
            // Not "unavailable": a flood of requests must not decide which of the policy's rules applies.
            Self::Busy | Self::Leaving(_) | Self::Contended(_) => RefusalKind::Pending,
            // Another replica may have the rights.
            Self::NoRights { .. }
            | Self::Unreachable { .. }
            | Self::NoCredentials
            | Self::Aborted => RefusalKind::Unavailable,
        };
        Refusal::new(kind, &self.to_string())
    }
}
