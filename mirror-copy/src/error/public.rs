//! Error texts for the user who named the image.
//!
//! Everyone who may create a Pod names images. If refused, reset and silent connections had different texts, users could
//! scan networks with this process.

use super::{Operation, RegistryError};

impl RegistryError {
    /// Returns one sentence for the user who named the image, about `registry` (such as "the registry"). All failures to get
    /// a response have the same text, and text of the registry is left out.
    ///
    /// Only for registries whose errors are public, see [`Registry::has_public_errors`](crate::Registry::has_public_errors).
    #[must_use]
    pub fn public_text(&self, registry: &str) -> String {
        match self {
            Self::LoginNeeded { .. } => denied(registry),
            Self::Credentials { .. } => format!("{registry} refused the credentials"),
            Self::Quota { .. } => limited(registry),
            Self::NotKept { .. } => format!("{registry} does not keep what it accepts"),
            // Properties of the content, in words of this crate.
            Self::TooLarge { .. }
            | Self::Digest { .. }
            | Self::Size { .. }
            | Self::Algorithm { .. }
            | Self::Manifest { .. } => self.to_string(),
            // Such as a login page.
            Self::Protocol { subject, .. } if subject.operation == Operation::ReadManifest => {
                format!("{registry} did not return a manifest")
            }
            _ => match self.status() {
                Some(404) => missing(registry),
                Some(401 | 403) => denied(registry),
                Some(429) => limited(registry),
                Some(status) => format!("{registry} returned HTTP {status}"),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Subject;
    use reqwest::StatusCode;
    use std::time::Duration;

    fn subject() -> Subject {
        Subject {
            operation: Operation::ReadManifest,
            object: "10.0.0.7:6379/app:1".to_owned(),
        }
    }

    #[rstest::rstest]
    #[case(404, "it has no such image")]
    #[case(401, "it denies access to the image, or has no such image")]
    #[case(403, "it denies access to the image, or has no such image")]
    #[case(429, "it allows no more requests for now")]
    #[case(502, "it returned HTTP 502")]
    fn statuses_have_no_foreign_text(#[case] status: u16, #[case] text: &str) {
        let error = RegistryError::Status {
            subject: subject(),
            status: StatusCode::from_u16(status).unwrap(),
            code: "S3CRET".to_owned(),
            message: "s3cret".to_owned(),
            retry_after: None,
        };
        assert_eq!(error.public_text("it"), text);
    }

    #[test]
    fn pages_and_refused_logins_have_texts_of_their_own() {
        let page = RegistryError::protocol(&subject(), "10.0.0.7");
        assert_eq!(page.public_text("it"), "it did not return a manifest");
        let refused = RegistryError::Credentials {
            host: "10.0.0.7".to_owned(),
            user: "s3cret".to_owned(),
        };
        assert_eq!(refused.public_text("it"), "it refused the credentials");
    }

    #[test]
    fn all_failures_to_get_a_response_have_the_same_text() {
        let reason = || "10.0.0.7".to_owned();
        let errors = [
            RegistryError::Timeout {
                subject: subject(),
                after: Duration::from_secs(1),
            },
            RegistryError::Address {
                subject: subject(),
                reason: reason(),
            },
            RegistryError::Redirect {
                subject: subject(),
                reason: reason(),
            },
            RegistryError::Protocol {
                subject: Subject {
                    operation: Operation::ReadBlob,
                    ..subject()
                },
                reason: reason(),
            },
            RegistryError::Challenge {
                host: reason(),
                reason: reason(),
            },
            RegistryError::Cut {
                subject: subject(),
                got: 1,
                expected: 2,
            },
        ];
        for error in errors {
            assert_eq!(error.public_text("it"), "it cannot be reached", "{error}");
        }
    }
}
