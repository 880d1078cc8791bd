//! References to a manifest within a repository.

use oci_spec::image::Digest;
use std::fmt;

/// A tag or a digest, the `<reference>` of the OCI distribution specification.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TagOrDigest {
    /// A tag, such as `1.27`. It may be moved to another manifest.
    Tag(String),
    /// A digest.
    Digest(Digest),
}

impl TagOrDigest {
    /// Parses `algorithm:hex` as a digest and everything else as a tag. The grammar of a tag is checked when it is used
    /// ([`RegistryError::Name`](crate::RegistryError::Name)).
    #[must_use]
    pub fn parse(text: &str) -> Self {
        text.parse()
            .map_or_else(|_| Self::Tag(text.to_owned()), Self::Digest)
    }

    /// Returns the suffix of a repository: `:tag` or `@digest`.
    pub(crate) fn suffix(&self) -> String {
        match self {
            Self::Tag(tag) => format!(":{tag}"),
            Self::Digest(digest) => format!("@{digest}"),
        }
    }
}

impl fmt::Display for TagOrDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => write!(f, "{digest}"),
        }
    }
}

impl From<Digest> for TagOrDigest {
    fn from(digest: Digest) -> Self {
        Self::Digest(digest)
    }
}

/// Maximum length of a tag, in bytes.
pub(crate) const MAX_TAG: usize = 128;

/// Returns whether this is a tag (distribution-spec, "Pulling manifests": `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`).
pub(crate) fn is_tag(text: &str) -> bool {
    let mut bytes = text.bytes();
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= MAX_TAG
        && bytes.next().is_some_and(word)
        && bytes.all(|b| word(b) || b == b'.' || b == b'-')
}

/// Returns whether this can be a repository: slash-separated components of letters, digits, `.`, `_` and `-` that begin with
/// a letter or digit. Less strict than the specification (upper case passes), and strict enough for a path segment of a URL.
pub(crate) fn is_repository(text: &str) -> bool {
    let component = |part: &str| {
        part.bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
            && part.starts_with(|c: char| c.is_ascii_alphanumeric())
    };
    text.len() <= 255 && text.split('/').all(component)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    #[case("1.27", true)]
    #[case("sha256-ab.sig", true)]
    #[case("_x", true)]
    #[case("", false)]
    #[case(".x", false)]
    #[case("a/b", false)]
    #[case("a?b", false)]
    fn tags(#[case] text: &str, #[case] good: bool) {
        assert_eq!(is_tag(text), good);
    }

    #[rstest::rstest]
    #[case("library/nginx", true)]
    #[case("a-b/c__d/e.f", true)]
    #[case("", false)]
    #[case("a//b", false)]
    #[case("../a", false)]
    #[case("a/..", false)]
    #[case("a?x=1", false)]
    #[case("a%2fb", false)]
    fn repositories(#[case] text: &str, #[case] good: bool) {
        assert_eq!(is_repository(text), good);
    }

    #[test]
    fn digests_are_distinguished_from_tags() {
        let digest = format!("sha256:{}", "0".repeat(64));
        assert!(matches!(
            TagOrDigest::parse(&digest),
            TagOrDigest::Digest(_)
        ));
        assert_eq!(TagOrDigest::parse("1.27"), TagOrDigest::Tag("1.27".into()));
    }
}
