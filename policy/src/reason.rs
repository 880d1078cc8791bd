//! Why an image keeps its upstream.

use std::fmt;

use mirror_contract::reference::ParseError;
use mirror_contract::{Refusal, RefusalKind, Unsupported};

use crate::sidecar_client::MAX_IMAGES;
use crate::truncate::cut;

/// Characters, as many as the sidecar's own reasons have. Other texts that its marker got into may go on for pages.
const MAX_REASON: usize = 200;

/// Why an image keeps its upstream. Displayed, it continues a sentence that begins with the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The copy is being made.
    Pending(String),
    /// The copy could not be made.
    Failed(String),
    /// The text is not an image reference.
    Unparseable(ParseError),
    /// The contract has no words for this image.
    Unsupported(Unsupported),
    /// The time budget was used up.
    NoTime,
    /// The request names more images than it may ask about.
    TooMany,
    /// The sidecar cannot tell.
    Unavailable(String),
    /// The sidecar could not be reached.
    Silent,
    /// The sidecar's answer is not one, or not about what was asked.
    Unusable,
    /// The object is in no namespace that could have a pull Secret.
    NoNamespace,
    /// The copy cannot be pulled, since it is not certain that there is a pull Secret.
    NoSecret(Box<Reason>),
    /// The copy cannot be pulled, since the Secret of this name cannot be added to a Pod that exists.
    SecretNotListed(String),
    /// The copy cannot be pulled, since the pod spec's `imagePullSecrets` is not a list.
    SecretsUnreadable,
}

impl Reason {
    /// Whether this is a failure of the sidecar (`whenUnavailable`), and not the state of the image (`whenNotMirrored`).
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::Silent | Self::Unusable => true,
            Self::NoSecret(reason) => reason.is_unavailable(),
            _ => false,
        }
    }

    /// Whether nobody said anything about the image: it may have a copy.
    pub fn is_silence(&self) -> bool {
        match self {
            Self::NoSecret(reason) => reason.is_silence(),
            reason => reason.is_unavailable() || *reason == Self::NoTime,
        }
    }

    /// The reason alone.
    pub fn reason(&self) -> String {
        match self {
            Self::Pending(reason) | Self::Failed(reason) | Self::Unavailable(reason) => {
                reason.clone()
            }
            Self::Unparseable(error) => error.to_string(),
            Self::Unsupported(reason) => reason.to_string(),
            Self::NoTime => "no time left to ask".into(),
            Self::TooMany => {
                format!("an object is asked about {MAX_IMAGES} different images at most")
            }
            Self::Silent => "the sidecar does not answer".into(),
            Self::Unusable => "the sidecar's answer makes no sense".into(),
            Self::NoNamespace => "the object is in no namespace".into(),
            Self::NoSecret(reason) => reason.reason(),
            Self::SecretNotListed(name) => {
                format!("{name} cannot be added to a Pod that exists")
            }
            Self::SecretsUnreadable => "imagePullSecrets is not a list".into(),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pending(_) => "is not mirrored yet: ",
            Self::NoSecret(_) | Self::SecretNotListed(_) | Self::SecretsUnreadable => {
                "has a copy, but no pull Secret for it: "
            }
            _ if self.is_silence() => "cannot be looked up: ",
            _ => "is not mirrored: ",
        })?;
        f.write_str(&self.reason())
    }
}

impl From<Refusal<'_>> for Reason {
    fn from(refusal: Refusal<'_>) -> Self {
        let reason = cut(&refusal.reason, MAX_REASON);
        match refusal.kind {
            RefusalKind::Pending => Self::Pending(reason),
            RefusalKind::Failed => Self::Failed(reason),
            RefusalKind::Unavailable => Self::Unavailable(reason),
        }
    }
}
