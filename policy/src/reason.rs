//! Why an image keeps its original.

use std::fmt;

use mirror_contract::reference::ParseError;
use mirror_contract::rules::Decider;
use mirror_contract::{Refusal, RefusalKind, Unsupported};

use crate::images::MAX_IMAGES;
use crate::truncate::cut;

/// Characters, as in the reasons of the sidecar. Other texts that contain its marker may have several pages.
const MAX_REASON: usize = 200;

/// Why an image keeps its original. Displayed, it continues a sentence that starts with the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The copy is being made.
    Pending(String),
    /// The copy could not be made.
    Failed(String),
    Unparseable(ParseError),
    Unsupported(Unsupported),
    /// The time budget is used up.
    OutOfTime,
    /// The object has more than [`MAX_IMAGES`] images.
    TooManyImages,
    /// The sidecar does not know the status.
    Unavailable(String),
    /// The sidecar could not be reached.
    NoResponse,
    /// The response cannot be parsed, or does not match the request.
    InvalidResponse,
    NoNamespace,
    /// The copy cannot be pulled, since its pull Secret may not exist.
    NoSecret(Box<Reason>),
    /// The copy cannot be pulled, since this Secret cannot be added to an existing Pod.
    SecretNotListed(String),
    /// The copy cannot be pulled, since the pod spec's `imagePullSecrets` is not a list.
    SecretsUnreadable,
}

impl Reason {
    /// Whether `whenUnavailable` applies, and not `whenNotMirrored`.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Unavailable(_) | Self::NoResponse | Self::InvalidResponse => true,
            Self::NoSecret(reason) => reason.is_unavailable(),
            _ => false,
        }
    }

    /// Whether the status of the image is unknown: it may have a copy.
    pub fn is_unknown(&self) -> bool {
        match self {
            Self::NoSecret(reason) => reason.is_unknown(),
            reason => reason.is_unavailable() || *reason == Self::OutOfTime,
        }
    }

    /// The same with the rule that decides, if the sidecar gave the reason.
    pub fn of_rule(mut self, rule: Decider) -> Self {
        if let Self::Pending(reason) | Self::Failed(reason) | Self::Unavailable(reason) = &mut self
        {
            *reason = format!("{reason} ({rule})");
        }
        self
    }

    pub fn reason(&self) -> String {
        match self {
            Self::Pending(reason) | Self::Failed(reason) | Self::Unavailable(reason) => {
                reason.clone()
            }
            Self::Unparseable(error) => error.to_string(),
            Self::Unsupported(reason) => reason.to_string(),
            Self::OutOfTime => "timeBudgetMs is used up".into(),
            Self::TooManyImages => {
                format!("at most {MAX_IMAGES} different images of an object are looked up")
            }
            Self::NoResponse => "the sidecar does not respond".into(),
            Self::InvalidResponse => "the sidecar sent an invalid response".into(),
            Self::NoNamespace => "the object has no namespace".into(),
            Self::NoSecret(reason) => reason.reason(),
            Self::SecretNotListed(name) => {
                format!("{name} cannot be added to an existing Pod")
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
            _ if self.is_unknown() => "cannot be looked up: ",
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
