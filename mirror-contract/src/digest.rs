//! Content digests (OCI image specification, "Descriptor", section "Digests").

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::String;
use core::fmt;

/// The hash functions that a digest may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256, what registries use.
    Sha256,
    /// SHA-384, which the reference grammar allows.
    Sha384,
    /// SHA-512, registered by the OCI image specification.
    Sha512,
}

/// A digest: an algorithm and its value in lower-case hexadecimal of exactly the algorithm's length.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest<'a> {
    algorithm: Algorithm,
    hex: Cow<'a, str>,
}

impl Algorithm {
    const ALL: [Self; 3] = [Self::Sha256, Self::Sha384, Self::Sha512];

    /// The name before the colon of a digest.
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
    /// Parses `sha256:<64 hexadecimal digits>` and its longer relatives; `None` for anything else.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        Self::split_at_separator(text, ':')
    }

    /// Parses the form that fits into a tag: `sha256-<64 hexadecimal digits>`.
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

    /// The hash function.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The value in lower-case hexadecimal.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.hex
    }

    /// The form that fits into a tag: `sha256-<hex>`. Longer than a tag may be for SHA-512.
    #[must_use]
    pub fn to_tag_form(&self) -> String {
        format!("{}-{}", self.algorithm.name(), self.hex)
    }

    /// Whether [`Self::to_tag_form`] is short enough to be a tag, with room for the suffix of an anchor.
    #[must_use]
    pub fn fits_into_tag(&self) -> bool {
        matches!(self.algorithm, Algorithm::Sha256 | Algorithm::Sha384)
    }

    /// The same digest, borrowing nothing.
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
