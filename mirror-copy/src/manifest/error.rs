//! Why a manifest is not usable.

use crate::json::JsonError;

/// Most descriptors in one manifest. Docker stops at 127 layers; build caches go to some thousands.
pub(crate) const MAX_DESCRIPTORS: usize = 10_000;

/// Why a manifest is not usable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// Not JSON, or not the structure of a manifest.
    #[error("it is not a well-formed manifest (line {line}, column {column})")]
    Malformed {
        /// Line of the first fault, from 1.
        line: usize,
        /// Column of the first fault, from 1.
        column: usize,
    },
    /// Nested deeper, or with longer names of fields, than anything sane.
    #[error("it is not a well-formed manifest: {0}")]
    Structure(
        /// The limit.
        String,
    ),
    /// A field that copying needs has a value that it cannot have.
    #[error("it is not a well-formed manifest: its field {field} {problem}")]
    Field {
        /// The name of the field; of an entry of a list with the name of the list, such as `layers.digest`.
        field: String,
        /// What is wrong with the value.
        problem: &'static str,
    },
    /// The value of a field is longer than anything sane.
    #[error("its field {field} is longer than {limit} bytes")]
    TooLong {
        /// The name of the field, as in [`Self::Field`].
        field: String,
        /// The limit in bytes.
        limit: usize,
    },
    /// JSON, but nothing that could be a manifest of any format: a login page's cousin.
    #[error("it is not a manifest: it has neither a schemaVersion of 2 nor names anything")]
    NotAManifest,
    /// Docker schema 1.
    #[error(
        "it is a Docker schema 1 manifest, a format that current registries refuse; \
         rebuild the image or push it again with a current tool"
    )]
    Schema1,
    /// The type in the answer's header is not the one in the body, or the body mixes the fields of
    /// an index and of an image (CVE-2021-41190).
    #[error("it is ambiguous: {0}")]
    Ambiguous(String),
    /// More descriptors than anything sane has.
    #[error("it names more than {MAX_DESCRIPTORS} objects in config, layers, blobs and manifests")]
    TooManyDescriptors,
    /// It names something that could not be verified.
    #[error(
        "it names {0}, a digest whose algorithm is not known here (sha256, sha384 and sha512 are), so that \
         its content could not be verified"
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
