//! The error of parsing a manifest.

use crate::json::JsonError;

/// Maximum number of descriptors in one manifest. Docker images have at most 127 layers; build caches have a few thousand.
pub(crate) const MAX_DESCRIPTORS: usize = 10_000;

/// The error of a manifest that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// The content is not JSON, or does not have the structure of a manifest.
    #[error("it is not a well-formed manifest (line {line}, column {column})")]
    Malformed {
        /// Line of the first fault, from 1.
        line: usize,
        /// Column of the first fault, from 1.
        column: usize,
    },
    /// The nesting is deeper, or a field name longer, than the limit.
    #[error("it is not a well-formed manifest: {0}")]
    Structure(
        /// Description of the limit.
        String,
    ),
    /// A field that is needed for copying has an invalid value.
    #[error("it is not a well-formed manifest: its field {field} {problem}")]
    Field {
        /// Name of the field, in a list with the name of the list, such as `layers.digest`.
        field: String,
        /// The fault of the value, as the end of a sentence.
        problem: &'static str,
    },
    /// The value of a field is longer than the limit.
    #[error("its field {field} is longer than {limit} bytes")]
    TooLong {
        /// Name of the field, as in [`Self::Field`].
        field: String,
        /// The limit in bytes.
        limit: usize,
    },
    /// The content is JSON, but not a manifest of any format.
    #[error("it is not a manifest: it has neither schemaVersion 2 nor any descriptor")]
    NotAManifest,
    /// The manifest has the format Docker schema 1.
    #[error(
        "it is a Docker schema 1 manifest, a format that current registries refuse; \
         rebuild the image or push it again with a current tool"
    )]
    Schema1,
    /// The media type in the header differs from that in the body, or the body has the fields of an index and of an image
    /// (CVE-2021-41190).
    #[error("it is ambiguous: {0}")]
    Ambiguous(String),
    /// The manifest has too many descriptors.
    #[error("it names more than {MAX_DESCRIPTORS} objects in config, layers, blobs and manifests")]
    TooManyDescriptors,
    /// The manifest has a digest whose content cannot be verified.
    #[error(
        "it names {0}, a digest whose algorithm is not supported (sha256, sha384 and sha512 are), so that \
         its content cannot be verified"
    )]
    UnknownAlgorithm(
        /// The digest, cleaned.
        String,
    ),
}

impl From<JsonError> for ManifestError {
    fn from(error: JsonError) -> Self {
        match error {
            JsonError::Malformed { line, column } => Self::Malformed { line, column },
            JsonError::Depth | JsonError::Name => Self::Structure(error.to_string()),
        }
    }
}
