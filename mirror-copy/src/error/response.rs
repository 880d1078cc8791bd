//! Maps an error status to a variant of [`RegistryError`].

use super::{Operation, RegistryError, Subject};
use oci_spec::image::Digest;
use reqwest::StatusCode;
use std::time::Duration;

impl RegistryError {
    /// Returns the error for a response. `code` and `message` are those of the registry, cleaned.
    pub(crate) fn of_response(
        subject: Subject,
        status: StatusCode,
        code: String,
        message: String,
        retry_after: Option<Duration>,
    ) -> Self {
        let is_push = subject.operation == Operation::WriteManifest;
        if is_push && is_immutable(status, &code, &message) {
            return Self::ImmutableTag {
                subject,
                status,
                code,
                message,
            };
        }
        if is_push && is_unsupported(status, &code, &message) {
            return Self::Unsupported {
                subject,
                status,
                code,
                message,
            };
        }
        Self::Status {
            subject,
            status,
            code,
            message,
            retry_after,
        }
    }

    /// Refines the error for content that not every registry supports, by its media type or its digest algorithm. It was
    /// valid at its source, so the code `invalid` means that its kind is unsupported.
    pub(crate) fn of_unusual(self, invalid: &str) -> Self {
        match self {
            Self::Status {
                subject,
                status: status @ StatusCode::BAD_REQUEST,
                code,
                message,
                ..
            } if code == invalid => Self::Unsupported {
                subject,
                status,
                code,
                message,
            },
            other => other,
        }
    }

    /// Refines the error for a manifest with foreign layers. Distribution has no code for addresses that it does not allow.
    pub(crate) fn of_foreign_layers(self, layers: &[Digest]) -> Self {
        match self {
            Self::Status {
                subject,
                status: status @ StatusCode::INTERNAL_SERVER_ERROR,
                code,
                ..
            } if code == "UNKNOWN" => {
                let layers: Vec<_> = layers.iter().map(Digest::to_string).collect();
                Self::ForeignLayers {
                    subject,
                    status,
                    layers: layers.join(", "),
                }
            }
            other => other,
        }
    }

    /// Refines the error for a tag that exists, or whose manifest was accepted under another reference: then "method not
    /// allowed" can be only about the tag.
    pub(crate) fn of_locked_tag(self) -> Self {
        match self {
            Self::Status {
                subject,
                status: status @ StatusCode::METHOD_NOT_ALLOWED,
                code,
                message,
                ..
            }
            | Self::Unsupported {
                subject,
                status: status @ StatusCode::METHOD_NOT_ALLOWED,
                code,
                message,
            } => Self::ImmutableTag {
                subject,
                status,
                code,
                message,
            },
            other => other,
        }
    }
}

/// Returns whether the tag exists and is locked. The specification has no code for that.
fn is_immutable(status: StatusCode, code: &str, message: &str) -> bool {
    let says = |text: &str, what: &str| text.to_ascii_lowercase().contains(what);
    let words = ["imagetagalreadyexists", "immutable", "immutability"];
    matches!(status.as_u16(), 400 | 403 | 405 | 409 | 412)
        && (code == "TAG_INVALID"
            || words
                .iter()
                .any(|word| says(code, word) || says(message, word)))
}

/// Returns whether the registry does not support manifests of this kind. For `MANIFEST_INVALID` the cause is only in the
/// message, if anywhere.
fn is_unsupported(status: StatusCode, code: &str, message: &str) -> bool {
    let words = [
        "media type",
        "mediatype",
        "unsupported",
        "not supported",
        "schema",
    ];
    match (status.as_u16(), code) {
        (405 | 415 | 501, _) | (400..=499, "UNSUPPORTED") => true,
        (400, "MANIFEST_INVALID") => {
            let message = message.to_ascii_lowercase();
            words.iter().any(|word| message.contains(word))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(operation: Operation, status: u16, code: &str, message: &str) -> &'static str {
        let subject = Subject {
            operation,
            object: "r.example/a:1".to_owned(),
        };
        let status = StatusCode::from_u16(status).unwrap();
        let error = RegistryError::of_response(subject, status, code.into(), message.into(), None);
        assert_eq!(error.status(), Some(status.as_u16()));
        match error {
            RegistryError::ImmutableTag { .. } => "immutable",
            RegistryError::Unsupported { .. } => "unsupported",
            _ => "other",
        }
    }

    #[rstest::rstest]
    #[case(400, "TAG_INVALID", "The image tag '1' already exists", "immutable")]
    #[case(409, "ImageTagAlreadyExistsException", "", "immutable")]
    #[case(403, "DENIED", "Tag is Immutable", "immutable")]
    #[case(412, "PRECONDITION", "'a:1' configured as immutable.", "immutable")]
    #[case(405, "DENIED", "Tag is immutable", "immutable")]
    #[case(403, "DENIED", "no", "other")]
    #[case(409, "CONFLICT", "", "other")]
    #[case(500, "", "immutable", "other")]
    #[case(405, "UNSUPPORTED", "", "unsupported")]
    #[case(415, "", "", "unsupported")]
    #[case(
        400,
        "MANIFEST_INVALID",
        "unknown media type application/x",
        "unsupported"
    )]
    #[case(400, "MANIFEST_INVALID", "schema1 is not supported", "unsupported")]
    #[case(400, "MANIFEST_INVALID", "missing blob", "other")]
    #[case(400, "MANIFEST_BLOB_UNKNOWN", "", "other")]
    fn responses_to_a_manifest(
        #[case] status: u16,
        #[case] code: &str,
        #[case] message: &str,
        #[case] expected: &str,
    ) {
        assert_eq!(
            kind(Operation::WriteManifest, status, code, message),
            expected
        );
        assert_eq!(kind(Operation::WriteBlob, status, code, message), "other");
    }
}
