//! Platforms of images.

use std::fmt;
use std::str::FromStr;

/// An operating system and an architecture, as in `linux/arm64` or `linux/arm/v7` (OCI image-spec,
/// image-index.md, `platform`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Platform {
    /// Operating system, such as `linux`.
    pub os: String,
    /// CPU architecture, such as `amd64`.
    pub architecture: String,
    /// Variant of the CPU, such as `v7`. A wanted platform without one matches all variants.
    pub variant: Option<String>,
}

impl Platform {
    /// Returns whether an image for `offered` matches this platform.
    pub(crate) fn accepts(&self, offered: &Self) -> bool {
        self.os == offered.os
            && self.architecture == offered.architecture
            && (self.variant.is_none() || self.variant == offered.variant)
    }
}

/// The error of parsing a [`Platform`].
#[derive(Debug, thiserror::Error)]
#[error("must be os/architecture or os/architecture/variant, such as linux/arm64")]
pub struct PlatformError;

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let word = |part: &str| {
            let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
            (!part.is_empty() && part.bytes().all(fits)).then(|| part.to_owned())
        };
        let mut parts = text.split('/');
        let mut next = || parts.next().map(|part| word(part).ok_or(PlatformError));
        let (os, architecture) = (next(), next());
        let variant = next().transpose()?;
        match (os, architecture, parts.next()) {
            (Some(os), Some(architecture), None) => Ok(Self {
                os: os?,
                architecture: architecture?,
                variant,
            }),
            _ => Err(PlatformError),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    #[case("linux/amd64", "linux/amd64", true)]
    #[case("linux/arm", "linux/arm/v7", true)]
    #[case("linux/arm/v6", "linux/arm/v7", false)]
    #[case("linux/arm/v7", "linux/arm", false)]
    #[case("windows/amd64", "linux/amd64", false)]
    fn what_a_platform_accepts(#[case] wanted: &str, #[case] offered: &str, #[case] accepts: bool) {
        let [wanted, offered] = [wanted, offered].map(|text| text.parse::<Platform>().unwrap());
        assert_eq!(wanted.accepts(&offered), accepts);
    }

    #[rstest::rstest]
    #[case("")]
    #[case("linux")]
    #[case("linux/")]
    #[case("linux/arm/v7/x")]
    #[case("linux/a b")]
    fn what_is_no_platform(#[case] text: &str) {
        assert!(text.parse::<Platform>().is_err());
    }

    #[test]
    fn it_is_written_as_it_is_read() {
        for text in ["linux/amd64", "linux/arm/v7"] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), text);
        }
    }
}
