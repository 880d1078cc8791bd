//! Media types of manifests.

use super::error::ManifestError;
use crate::json::{self, NoText};
use serde_json::value::RawValue;

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

pub(crate) const OCI_ARTIFACT: &str = "application/vnd.oci.artifact.manifest.v1+json";

pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

const SCHEMA1_PREFIX: &str = "application/vnd.docker.distribution.manifest.v1+";

/// `Accept` for manifests: all known types, then any, since some registries respond 404 for a type that is not listed.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
application/vnd.docker.distribution.manifest.list.v2+json, \
application/vnd.oci.image.manifest.v1+json, \
application/vnd.docker.distribution.manifest.v2+json, \
application/vnd.oci.artifact.manifest.v1+json, */*";

/// Maximum length of a media type, in bytes: twice the longest name that can be registered (RFC 6838, section 4.2), and a
/// slash.
const MAX_MEDIA_TYPE: usize = 255;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Index,
    Image,
    Artifact,
    Schema1,
    /// A generic type: the body decides.
    Generic,
    /// A specific type that is not known.
    Other,
}

pub(super) fn kind_of(media_type: &str) -> Kind {
    match media_type {
        OCI_INDEX | DOCKER_LIST => Kind::Index,
        OCI_MANIFEST | DOCKER_MANIFEST => Kind::Image,
        OCI_ARTIFACT => Kind::Artifact,
        "" | "text/plain" | "application/json" | "application/octet-stream" => Kind::Generic,
        other if other.starts_with(SCHEMA1_PREFIX) => Kind::Schema1,
        _ => Kind::Other,
    }
}

pub(crate) fn is_index(media_type: &str) -> bool {
    kind_of(media_type) == Kind::Index
}

/// Returns whether this media type is that of an image or artifact, which names no other manifests.
pub(crate) fn is_image(media_type: &str) -> bool {
    matches!(kind_of(media_type), Kind::Image | Kind::Artifact)
}

/// Returns a `Content-Type` without its parameters in lower case; empty, which means unknown, if it is too long.
pub(crate) fn bare_type(content_type: &str) -> String {
    let bare = content_type.split(';').next().unwrap_or_default().trim();
    if bare.len() > MAX_MEDIA_TYPE {
        return String::new();
    }
    bare.to_ascii_lowercase()
}

/// Returns whether this media type is that of a web page: a login page, the error page of a proxy, a web UI.
pub(crate) fn is_page_type(media_type: &str) -> bool {
    matches!(media_type, "text/html" | "application/xhtml+xml")
}

/// Returns whether this media type can only be that of a manifest.
pub(crate) fn is_manifest_type(media_type: &str) -> bool {
    matches!(
        kind_of(media_type),
        Kind::Index | Kind::Image | Kind::Artifact | Kind::Schema1
    )
}

pub(super) fn media_type(raw: &RawValue, field: &str) -> Result<String, ManifestError> {
    let problem = |problem| ManifestError::Field {
        field: field.to_owned(),
        problem,
    };
    match json::text(raw, MAX_MEDIA_TYPE) {
        // It is sent in a header.
        Ok(text) if text.bytes().all(|b| matches!(b, b' '..=b'~')) => Ok(text),
        Ok(_) => Err(problem("has characters that are invalid in a media type")),
        Err(NoText::OtherType) => Err(problem("is not a string")),
        Err(NoText::Long) => Err(ManifestError::TooLong {
            field: field.to_owned(),
            limit: MAX_MEDIA_TYPE,
        }),
    }
}
