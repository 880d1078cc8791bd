//! Content digests (OCI image specification, "Descriptor", section "Digests").

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::String;
use core::fmt;

/// The hash functions of digests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256, which all registries use.
    Sha256,
    /// SHA-384, which the grammar of references allows.
    Sha384,
    /// SHA-512, which the OCI image specification registers.
    Sha512,
}

/// A digest: an algorithm, and its value in as many lower-case hexadecimal digits as the algorithm requires.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest<'a> {
    algorithm: Algorithm,
    hex: Cow<'a, str>,
}

impl Algorithm {
    const ALL: [Self; 3] = [Self::Sha256, Self::Sha384, Self::Sha512];

    /// Returns the name before the colon: `sha256`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    const fn hex_length(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha384 => 96,
            Self::Sha512 => 128,
        }
    }
}

impl<'a> Digest<'a> {
    /// Parses `sha256:<64 hexadecimal digits>`, or the longer forms of SHA-384 and SHA-512; returns `None` for anything else.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        Self::split_at_separator(text, ':')
    }

    /// Parses the form for tags, `sha256-<64 hexadecimal digits>`, with the same limits as [`Self::parse`].
    #[must_use]
    pub fn parse_tag_form(text: &'a str) -> Option<Self> {
        Self::split_at_separator(text, '-')
    }

    fn split_at_separator(text: &'a str, separator: char) -> Option<Self> {
        let (name, hex) = text.split_once(separator)?;
        let algorithm = Algorithm::ALL
            .into_iter()
            .find(|algorithm| algorithm.name() == name)?;
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (hex.len() == algorithm.hex_length() && hex.bytes().all(is_hex)).then_some(Self {
            algorithm,
            hex: Cow::Borrowed(hex),
        })
    }

    /// Returns the hash function.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Returns the value in lower-case hexadecimal.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.hex
    }

    /// Returns the form for tags, `sha256-<hex>`. For SHA-512, it is longer than a tag may be ([`Self::fits_into_tag`]).
    #[must_use]
    pub fn to_tag_form(&self) -> String {
        format!("{}-{}", self.algorithm.name(), self.hex)
    }

    /// Returns whether [`Self::to_tag_form`] and the suffix of an anchor fit into a tag ([`crate::MAX_TAG`]).
    #[must_use]
    pub fn fits_into_tag(&self) -> bool {
        matches!(self.algorithm, Algorithm::Sha256 | Algorithm::Sha384)
    }

    /// Returns the same digest with owned text.
    #[must_use]
    pub fn into_owned(self) -> Digest<'static> {
        Digest {
            algorithm: self.algorithm,
            hex: Cow::Owned(self.hex.into_owned()),
        }
    }
}

impl fmt::Display for Digest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex)
    }
}
