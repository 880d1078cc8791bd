//! Namespaces: those that are excluded by default, and patterns for their names.

use alloc::borrow::Cow;

/// The namespaces that are excluded by default: their workloads must start before image-mirror and Kubewarden run.
pub const DEFAULT_EXCLUDED: [&str; 4] = [
    "kube-system",
    "local-path-storage",
    "image-mirror",
    "kubewarden",
];

/// The name of a namespace, or a prefix with a trailing `*`. It matches whole names: `system` does not match `kube-system`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespacePattern<'a>(Cow<'a, str>);

impl<'a> NamespacePattern<'a> {
    /// The pattern that matches all namespaces.
    pub const ALL: Self = Self(Cow::Borrowed("*"));

    /// Parses a pattern; returns `None` if no namespace can have such a name (RFC 1123 label, at most 63 characters).
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        let is_label_char =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let (name, is_whole) = match text.strip_suffix('*') {
            Some(prefix) => (prefix, false),
            None => (text, true),
        };
        let is_name = name.len() <= 63
            && name.bytes().all(is_label_char)
            && !name.starts_with('-')
            && !(is_whole && (name.is_empty() || name.ends_with('-')));
        is_name.then_some(Self(Cow::Borrowed(text)))
    }

    /// Returns the pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns whether the pattern matches `namespace`.
    #[must_use]
    pub fn matches(&self, namespace: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(prefix) => namespace.starts_with(prefix),
            None => namespace == self.0,
        }
    }

    /// Returns whether this pattern is known to match every namespace that `other` matches; `true` is always right.
    #[must_use]
    pub fn covers(&self, other: &NamespacePattern<'_>) -> bool {
        // The wildcard of `other` is a character that only a wildcard matches.
        self.matches(&other.0)
    }

    /// Returns the same pattern with owned text.
    #[must_use]
    pub fn into_owned(self) -> NamespacePattern<'static> {
        NamespacePattern(Cow::Owned(self.0.into_owned()))
    }
}
