//! Namespaces that are left alone.

use std::sync::Arc;

use mirror_contract::NamespacePattern;

use super::policies::Policies;

/// The namespaces that the policies exclude, or those of the flags if there are no policies. Clones share the list.
#[derive(Clone, Debug, Default)]
pub struct ExcludedNamespaces {
    flags: Arc<[NamespacePattern<'static>]>,
    policies: Policies,
}

impl ExcludedNamespaces {
    #[must_use]
    pub fn with_policies(self, policies: Policies) -> Self {
        Self { policies, ..self }
    }

    #[must_use]
    pub fn contains(&self, namespace: &str) -> bool {
        let policies = self.policies.current();
        if policies.is_empty() {
            self.flags.iter().any(|pattern| pattern.matches(namespace))
        } else {
            policies.excludes_namespace(namespace)
        }
    }

    #[must_use]
    pub fn policies(&self) -> &Policies {
        &self.policies
    }

    /// Returns the patterns of the flags in their order.
    pub fn patterns(&self) -> impl Iterator<Item = &NamespacePattern<'static>> {
        self.flags.iter()
    }
}

impl FromIterator<NamespacePattern<'static>> for ExcludedNamespaces {
    fn from_iter<I: IntoIterator<Item = NamespacePattern<'static>>>(patterns: I) -> Self {
        Self {
            flags: patterns.into_iter().collect(),
            policies: Policies::default(),
        }
    }
}
