//! Which namespaces are left alone, by the policy and by the sidecar alike.

use alloc::borrow::Cow;

/// The namespaces that are left alone unless somebody says otherwise: those that must start when nothing else works.
pub const DEFAULT_EXCLUDED: [&str; 4] = [
    "kube-system",
    "local-path-storage",
    "image-mirror",
    "kubewarden",
];

/// A namespace's name, or the beginning of names before a final `*`. Never part of a name: `system` is not `kube-system`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamespacePattern<'a>(Cow<'a, str>);

impl<'a> NamespacePattern<'a> {
    /// Reads a pattern; `None` if no namespace can have such a name (RFC 1123 label).
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

    /// Whether `namespace` is meant.
    #[must_use]
    pub fn matches(&self, namespace: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(prefix) => namespace.starts_with(prefix),
            None => namespace == self.0,
        }
    }

    /// The same pattern, borrowing nothing.
    #[must_use]
    pub fn into_owned(self) -> NamespacePattern<'static> {
        NamespacePattern(Cow::Owned(self.0.into_owned()))
    }
}
