//! What of an error may be shown to whoever named the image.
//!
//! Everybody who may create a Pod names images. If refused, reset and unanswered connections could be told apart, this
//! process would scan networks for them.

use super::RegistryError;

impl RegistryError {
    /// Returns one sentence for whoever named the image, about `registry` (such as "the registry"). All that keeps a
    /// connection from an answer has the same words, and foreign text is left out.
    ///
    /// Only for registries whose errors are public, see [`Registry::has_public_errors`](crate::Registry::has_public_errors).
    #[must_use]
    pub fn public_text(&self, registry: &str) -> String {
        match self {
            Self::LoginNeeded { .. } | Self::Credentials { .. } => denied(registry),
            Self::Quota { .. } => limited(registry),
            // Properties of the content, in words of our own.
            Self::TooLarge { .. }
            | Self::Digest { .. }
            | Self::Size { .. }
            | Self::Algorithm { .. }
            | Self::Manifest { .. } => self.to_string(),
            _ => match self.status() {
                Some(404) => missing(registry),
                Some(401 | 403) => denied(registry),
                Some(429) => limited(registry),
                Some(status) => format!("{registry} answered with HTTP status {status}"),
                None => unreachable(registry),
            },
        }
    }
}

pub(crate) fn unreachable(registry: &str) -> String {
    format!("{registry} cannot be reached")
}

pub(crate) fn missing(registry: &str) -> String {
    format!("{registry} has no such image")
}

fn denied(registry: &str) -> String {
    format!("{registry} denies access to the image, or has no such image")
}

fn limited(registry: &str) -> String {
    format!("{registry} allows no more requests for now")
}
