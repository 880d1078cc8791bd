//! What there is to say about pull Secrets, wherever they come from.

use mirror_contract::{Mode, PullSecretStatus, Refusal, RefusalKind};

use super::ManagedSecrets;
use crate::cluster::excluded::ExcludedNamespaces;

/// What Pods need to pull copies, and where.
pub struct PullSecrets {
    /// Where the Secret comes from.
    pub provision: Provision,
    /// Namespaces for which none is named.
    pub excluded_namespaces: ExcludedNamespaces,
}

/// Where the pull Secret comes from.
#[derive(Clone)]
pub enum Provision {
    /// Nobody needs one.
    NotNeeded,
    /// The Secret of this name is in every namespace.
    Existing(String),
    /// It is made where it is needed.
    Managed(ManagedSecrets),
}

impl Provision {
    /// Of what nobody makes here: the Secret of this name, if one is needed.
    #[must_use]
    pub fn given(name: Option<&str>) -> Self {
        name.map_or(Self::NotNeeded, |name| Self::Existing(name.to_owned()))
    }
}

impl PullSecrets {
    /// The name of the Secret, if one is needed.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match &self.provision {
            Provision::NotNeeded => None,
            Provision::Existing(name) => Some(name),
            Provision::Managed(secrets) => Some(secrets.name()),
        }
    }

    /// What Pods in a namespace need. A Secret that is made here is made for that, as [`ManagedSecrets::answer`] says.
    ///
    /// # Errors
    /// [`Refusal`] is the answer for now.
    pub async fn answer(
        &self,
        namespace: &str,
        mode: Mode,
    ) -> Result<PullSecretStatus<'_>, Refusal<'static>> {
        let Some(name) = self.name() else {
            return Ok(PullSecretStatus::NotNeeded);
        };
        if self.excluded_namespaces.contains(namespace) {
            let reason = format!("namespace {namespace} is excluded");
            return Err(Refusal::new(RefusalKind::Failed, &reason));
        }
        if let Provision::Managed(secrets) = &self.provision {
            secrets.answer(namespace, mode).await?;
        }
        Ok(PullSecretStatus::Ready { name: name.into() })
    }
}
