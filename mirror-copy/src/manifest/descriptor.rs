//! Descriptors, parsed from a slice of their document.

use super::error::ManifestError;
use super::media_type::{Kind, kind_of, media_type};
use crate::hash::{MAX_DIGEST, parse_digest};
use crate::json::{self, Bounded, NoText};
use crate::platform::Platform;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use oci_spec::image::Digest;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// Media types of layers that registries neither store nor check (image-spec, layer.md, "Non-Distributable Layers", and the
/// foreign layers of Docker). Registries use exactly these types, so a push fails if layers of other types are left out.
const FOREIGN: [&str; 4] = [
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
];
/// Digest of `{}`, the content of the empty descriptor (image-spec, manifest.md, "Guidance for an Empty Descriptor").
pub(super) const EMPTY_JSON: &str =
    "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";

/// Maximum number of addresses of one foreign layer. At most 4 of them are tried.
const MAX_URLS: usize = 8;

/// Maximum length of an address of a foreign layer, in bytes.
const MAX_URL: usize = 2048;

/// Maximum length of inline content in base64, in bytes. Longer content is read like any blob.
const MAX_DATA: usize = 64 * 1024;

/// Maximum length of an operating system, architecture or variant, in bytes.
const MAX_PLATFORM: usize = 64;

/// The fields of a descriptor that copying needs (OCI image-spec, descriptor.md).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Media type of the content; empty if there is none.
    pub media_type: String,
    /// Digest of the content.
    pub digest: Digest,
    /// Size of the content in bytes.
    pub size: u64,
    /// Addresses of content that registries do not store; empty for all other media types.
    pub urls: Vec<String>,
    /// Inline content in base64, for small blobs.
    pub data: Option<String>,
    /// In an index: the platform of the image.
    pub platform: Option<Platform>,
    /// The annotations that copying uses.
    pub annotations: Annotations,
}

/// The annotations of a descriptor that copying uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Annotations {
    /// Digest of the image in the same index that an attestation of `BuildKit` describes (`vnd.docker.reference.digest`).
    pub describes: Option<String>,
}

/// A field that occurs twice is an error.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields<'a> {
    #[serde(borrow)]
    media_type: Option<&'a RawValue>,
    #[serde(borrow)]
    digest: Option<&'a RawValue>,
    #[serde(borrow)]
    size: Option<&'a RawValue>,
    #[serde(borrow)]
    urls: Option<&'a RawValue>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    platform: Option<&'a RawValue>,
    #[serde(borrow)]
    annotations: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct PlatformFields<'a> {
    #[serde(borrow)]
    os: Option<&'a RawValue>,
    #[serde(borrow)]
    architecture: Option<&'a RawValue>,
    #[serde(borrow)]
    variant: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct AnnotationFields<'a> {
    #[serde(borrow, rename = "vnd.docker.reference.digest")]
    describes: Option<&'a RawValue>,
}

/// An entry of a document that should be a descriptor. The document is well-formed even if it is not a usable one.
pub(super) struct Entry(Result<Descriptor, ManifestError>);

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?;
        Ok(Self(Descriptor::read(raw)))
    }
}

impl Entry {
    /// Returns the descriptor. `name` is the field of the entry in errors.
    pub(super) fn named(self, name: &str) -> Result<Descriptor, ManifestError> {
        let within = |field: String| match field.as_str() {
            "" => name.to_owned(),
            field => format!("{name}.{field}"),
        };
        self.0.map_err(|error| match error {
            ManifestError::Field { field, problem } => ManifestError::Field {
                field: within(field),
                problem,
            },
            ManifestError::TooLong { field, limit } => ManifestError::TooLong {
                field: within(field),
                limit,
            },
            other => other,
        })
    }
}

impl Descriptor {
    /// Parses a descriptor. Only media type, digest and size must be valid: optional fields with invalid values count as
    /// absent.
    pub(crate) fn read(raw: &RawValue) -> Result<Self, ManifestError> {
        let problem = |field: &str, problem| ManifestError::Field {
            field: field.to_owned(),
            problem,
        };
        let fields: Fields<'_> =
            json::object(raw).ok_or_else(|| problem("", "is not an object"))?;
        let media_type = fields.media_type.map(|raw| media_type(raw, "mediaType"));
        let media_type = media_type.transpose()?.unwrap_or_default();
        let digest = fields
            .digest
            .ok_or_else(|| problem("digest", "is missing"))?;
        let digest = digest_of(digest)?;
        let size = fields.size.ok_or_else(|| problem("size", "is missing"))?;
        let size = size.get().parse();
        let size = size.map_err(|_| problem("size", "is not a number of bytes"))?;
        let urls = if FOREIGN.contains(&media_type.as_str()) {
            urls(fields.urls)
        } else {
            Vec::new()
        };
        Ok(Self {
            media_type,
            digest,
            size,
            urls,
            data: json::optional_text(fields.data, MAX_DATA),
            platform: platform(fields.platform),
            annotations: Annotations {
                describes: describes(fields.annotations),
            },
        })
    }

    /// Returns whether the content is stored elsewhere. A foreign layer without addresses can only be at the registry.
    pub(crate) fn is_foreign(&self) -> bool {
        !self.urls.is_empty()
    }

    /// Returns the content, if the descriptor contains it or it is a well-known one. It needs no request; it is verified
    /// like any other.
    pub(crate) fn inline(&self) -> Option<Bytes> {
        if self.size == 0 {
            return Some(Bytes::new());
        }
        if self.digest.as_ref() == EMPTY_JSON && self.size == 2 {
            return Some(Bytes::from_static(b"{}"));
        }
        let content = STANDARD.decode(self.data.as_ref()?).ok()?;
        (content.len() as u64 == self.size).then(|| content.into())
    }

    /// Returns whether an index entry of this type can be only a manifest.
    pub(crate) fn is_manifest(&self) -> bool {
        matches!(
            kind_of(&self.media_type),
            Kind::Index | Kind::Image | Kind::Artifact
        )
    }
}

fn digest_of(raw: &RawValue) -> Result<Digest, ManifestError> {
    let field = || "digest".to_owned();
    match json::text(raw, MAX_DIGEST) {
        Ok(text) => parse_digest(&text).ok_or_else(|| ManifestError::Field {
            field: field(),
            problem: "is not a digest",
        }),
        Err(NoText::OtherType) => Err(ManifestError::Field {
            field: field(),
            problem: "is not a string",
        }),
        Err(NoText::Long) => Err(ManifestError::TooLong {
            field: field(),
            limit: MAX_DIGEST,
        }),
    }
}

fn urls(raw: Option<&RawValue>) -> Vec<String> {
    let listed: Bounded<&RawValue, MAX_URLS> = json::optional(raw).unwrap_or_default();
    let listed = listed.items.into_iter();
    listed
        .filter_map(|url| json::text(url, MAX_URL).ok())
        .collect()
}

fn platform(raw: Option<&RawValue>) -> Option<Platform> {
    let fields: PlatformFields<'_> = json::object(raw?)?;
    let variant = fields.variant.map(|raw| json::text(raw, MAX_PLATFORM));
    Some(Platform {
        os: json::optional_text(fields.os, MAX_PLATFORM)?,
        architecture: json::optional_text(fields.architecture, MAX_PLATFORM)?,
        variant: variant.transpose().ok()?,
    })
}

fn describes(raw: Option<&RawValue>) -> Option<String> {
    let fields: AnnotationFields<'_> = json::object(raw?)?;
    json::optional_text(fields.describes, MAX_DIGEST)
}
