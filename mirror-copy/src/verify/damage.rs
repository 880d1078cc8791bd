//! What can be wrong with a part of an image.

use crate::error::{RegistryError, Subject};
use crate::manifest::ManifestError;
use oci_spec::image::Digest;
use std::fmt;

/// A part of an image that cannot be pulled, or not as its digest promises.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Digest of the manifest or blob.
    pub digest: Digest,
    /// Digest of the manifest that names it; `None` for the root, and for a referrer.
    pub parent: Option<Digest>,
    /// What is wrong with it.
    pub kind: DamageKind,
    /// A part of a referrer, such as a signature, and not of the image itself.
    pub is_of_referrer: bool,
}

/// What is wrong with a part of an image. The [`Display`](fmt::Display) text is the end of a sentence about the part.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DamageKind {
    /// The registry does not have the manifest.
    MissingManifest,
    /// The registry does not have the blob.
    MissingBlob,
    /// The content has another size than its descriptor states.
    WrongSize {
        /// The size in the descriptor, in bytes.
        expected: u64,
        /// The real size in bytes, or as much of it as was received.
        actual: u64,
    },
    /// The content has another digest.
    WrongDigest {
        /// Digest of the content.
        actual: String,
    },
    /// The manifest has the right digest, or is a document instead of a manifest, and cannot be used.
    UnparsableManifest {
        /// The cause.
        reason: String,
    },
    /// The registry responds, and fails to return this part.
    Unreadable {
        /// The cause.
        reason: String,
    },
}

impl DamageKind {
    /// Returns the damage that an error of a request for a part means; the error itself if it is about the registry or the
    /// login.
    pub(super) fn of(error: RegistryError, missing: Self) -> Result<Self, RegistryError> {
        match error {
            RegistryError::Digest { actual, .. } => Ok(Self::WrongDigest { actual }),
            RegistryError::Size {
                expected, actual, ..
            } => Ok(Self::WrongSize { expected, actual }),
            // The connection ended early each time, so the registry has no more.
            RegistryError::Cut { got, expected, .. } => Ok(Self::WrongSize {
                expected,
                actual: got,
            }),
            RegistryError::Manifest { source, .. } => Ok(Self::unparsable(&source)),
            RegistryError::TooLarge { .. } | RegistryError::Algorithm { .. } => {
                Ok(Self::UnparsableManifest {
                    reason: error.to_string(),
                })
            }
            // A document in place of this part, while the registry itself responds as one.
            RegistryError::Protocol { .. } => Ok(Self::Unreadable {
                reason: error.to_string(),
            }),
            error => match error.status() {
                Some(404) => Ok(missing),
                // The content ends before the byte that was requested.
                Some(416) => Ok(Self::Unreadable {
                    reason: error.to_string(),
                }),
                _ => Err(error),
            },
        }
    }

    pub(super) fn unparsable(error: &ManifestError) -> Self {
        Self::UnparsableManifest {
            reason: error.to_string(),
        }
    }

    /// Returns the damage if the registry fails with a server error only for this part.
    pub(super) fn of_failure(error: &RegistryError) -> Option<Self> {
        let is_server_error = error.status().is_some_and(|status| status >= 500);
        is_server_error.then(|| Self::Unreadable {
            reason: error.to_string(),
        })
    }
}

impl fmt::Display for DamageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MissingManifest | Self::MissingBlob => {
                f.write_str("the registry does not have it")
            }
            Self::WrongSize { expected, actual } => {
                write!(f, "it has {actual} bytes instead of {expected}")
            }
            Self::WrongDigest { actual } => write!(f, "its content has the digest {actual}"),
            Self::UnparsableManifest { reason } | Self::Unreadable { reason } => {
                f.write_str(reason)
            }
        }
    }
}

/// Returns the error for an image that exceeds a limit of the verification.
pub(super) fn beyond(subject: Subject, reason: &'static str) -> RegistryError {
    RegistryError::Protocol {
        subject,
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Operation;
    use reqwest::StatusCode;

    fn subject() -> Subject {
        Subject {
            operation: Operation::ReadBlob,
            object: "r.example/a@sha256:00".to_owned(),
        }
    }

    fn status(status: u16) -> RegistryError {
        RegistryError::Status {
            subject: subject(),
            status: StatusCode::from_u16(status).unwrap(),
            code: String::new(),
            message: String::new(),
            retry_after: None,
        }
    }

    /// An error that says nothing about the part is never damage: the registry may be down, or the login wrong.
    #[rstest::rstest]
    #[case(status(404), Some("the registry does not have it"))]
    #[case(RegistryError::Size { subject: subject(), expected: 7, actual: 5 }, Some("it has 5 bytes instead of 7"))]
    #[case(RegistryError::Cut { subject: subject(), got: 3, expected: 7 }, Some("it has 3 bytes instead of 7"))]
    #[case(
        RegistryError::Digest { subject: subject(), expected: "x".into(), actual: "y".into() },
        Some("its content has the digest y")
    )]
    #[case(status(401), None)]
    #[case(status(403), None)]
    #[case(status(429), None)]
    #[case(status(503), None)]
    #[case(
        RegistryError::LoginNeeded { host: "r.example".into(), subject: subject() },
        None
    )]
    fn errors_about_a_part_are_damage(#[case] error: RegistryError, #[case] text: Option<&str>) {
        let damage = DamageKind::of(error, DamageKind::MissingBlob);
        assert_eq!(damage.ok().map(|kind| kind.to_string()).as_deref(), text);
    }

    #[test]
    fn server_errors_about_one_part_are_damage_if_the_registry_responds() {
        assert!(DamageKind::of_failure(&status(500)).is_some());
        assert!(DamageKind::of_failure(&status(429)).is_none());
    }
}
