//! Namespaces that are left alone.

use std::sync::Arc;

use mirror_contract::NamespacePattern;

/// Clones share the list.
#[derive(Clone, Debug, Default)]
pub struct ExcludedNamespaces(Arc<[NamespacePattern<'static>]>);

impl ExcludedNamespaces {
    #[must_use]
    pub fn contains(&self, namespace: &str) -> bool {
        self.0.iter().any(|pattern| pattern.matches(namespace))
    }

    /// Returns the patterns in the order of the flags.
    pub fn patterns(&self) -> impl Iterator<Item = &NamespacePattern<'static>> {
        self.0.iter()
    }
}

impl FromIterator<NamespacePattern<'static>> for ExcludedNamespaces {
    fn from_iter<I: IntoIterator<Item = NamespacePattern<'static>>>(patterns: I) -> Self {
        Self(patterns.into_iter().collect())
    }
}
