//! What a manifest names, read leniently from its bytes. Manifests are never written here: they
//! travel as the bytes they came in.

use crate::bounded::Bounded;
use crate::hash::Hasher;
use crate::platform::Platform;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use oci_spec::image::Digest;
use serde::Deserialize;

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_ARTIFACT: &str = "application/vnd.oci.artifact.manifest.v1+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// Layers that registries neither hold nor check (image-spec, layer.md, "Non-Distributable Layers", and
/// Docker's foreign layers). Registries go by exactly these types, so a push breaks if more are left out.
const FOREIGN: [&str; 4] = [
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
];
const SCHEMA1_PREFIX: &str = "application/vnd.docker.distribution.manifest.v1+";

/// What is asked for: every known type first, then anything, since some registries answer an
/// unlisted type with 404.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
application/vnd.docker.distribution.manifest.list.v2+json, \
application/vnd.oci.image.manifest.v1+json, \
application/vnd.docker.distribution.manifest.v2+json, \
application/vnd.oci.artifact.manifest.v1+json, */*";

/// The empty descriptor's content `{}` (image-spec, manifest.md, "Guidance for an Empty Descriptor").
const EMPTY_JSON: &str = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";

/// Most descriptors in one manifest. Docker stops at 127 layers; build caches go to some thousands.
const MAX_DESCRIPTORS: usize = 10_000;

/// The part of a descriptor that copying needs (OCI image-spec, descriptor.md).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type of the content; empty where the manifest gives none.
    #[serde(default)]
    pub media_type: String,
    /// Digest of the content.
    pub digest: Digest,
    /// Size of the content in bytes.
    pub size: u64,
    /// Where foreign content can be fetched from.
    #[serde(default, deserialize_with = "lenient")]
    pub urls: Vec<String>,
    /// The content itself in base64, for small blobs.
    #[serde(default, deserialize_with = "lenient")]
    pub data: Option<String>,
    /// In an index: what the image runs on.
    #[serde(default, deserialize_with = "lenient")]
    pub platform: Option<Platform>,
    /// The annotations that matter here.
    #[serde(default, deserialize_with = "lenient")]
    pub annotations: Annotations,
}

/// Annotations of a descriptor that copying looks at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Annotations {
    /// Which image of the same index an attestation of Docker's build tool is about.
    #[serde(default, rename = "vnd.docker.reference.digest")]
    pub describes: Option<String>,
}

/// What copying can do without must not make a manifest unreadable: anything odd counts as absent.
fn lenient<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: serde::de::DeserializeOwned + Default,
{
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).unwrap_or_default())
}

impl Descriptor {
    /// Whether the content is to be fetched from elsewhere. A layer that says no place for that is like any
    /// other: it can only be at the registry.
    pub(crate) fn is_foreign(&self) -> bool {
        FOREIGN.contains(&self.media_type.as_str()) && !self.urls.is_empty()
    }

    /// The content, if the descriptor carries it or everybody knows it. Nobody has to be asked for it then;
    /// it is verified like any other.
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

    /// Whether an index entry of this type is surely a manifest.
    pub(crate) fn is_manifest(&self) -> bool {
        matches!(
            kind_of(&self.media_type),
            Kind::Index | Kind::Image | Kind::Artifact
        )
    }
}

/// Why a manifest is not usable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// Not JSON, or not the shape of a manifest.
    #[error("it is not a well-formed manifest (line {line}, column {column})")]
    Malformed {
        /// Where the reader stopped.
        line: usize,
        /// Where the reader stopped.
        column: usize,
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
    #[error("it names more than {MAX_DESCRIPTORS} objects")]
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

/// What a manifest names.
#[derive(Debug)]
pub(crate) struct Contents {
    /// The media type to push it with.
    pub(crate) media_type: String,
    /// The manifest that this one is about, if there can be one. It need not be there.
    pub(crate) subject: Option<Digest>,
    /// Manifests that must be at the target before this one.
    pub(crate) children: Vec<Descriptor>,
    /// Blobs that must be at the target before this one, foreign ones included.
    pub(crate) blobs: Vec<Descriptor>,
}

/// A list that is as long as can be used: 8 MiB have room for some 100 000 descriptors.
type Descriptors = Bounded<Descriptor, MAX_DESCRIPTORS>;

/// The union of the fields of all known formats. A field that comes twice is an error, because
/// two readers could then see two different manifests.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: Option<serde_json::Value>,
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Descriptors>,
    manifests: Option<Descriptors>,
    blobs: Option<Descriptors>,
    subject: Option<Descriptor>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Index,
    Image,
    Artifact,
    Schema1,
    /// A type that says nothing: the body decides.
    Generic,
    /// A specific type that is not known here.
    Other,
}

fn kind_of(media_type: &str) -> Kind {
    match media_type {
        OCI_INDEX | DOCKER_LIST => Kind::Index,
        OCI_MANIFEST | DOCKER_MANIFEST => Kind::Image,
        OCI_ARTIFACT => Kind::Artifact,
        "" | "text/plain" | "application/json" | "application/octet-stream" => Kind::Generic,
        other if other.starts_with(SCHEMA1_PREFIX) => Kind::Schema1,
        _ => Kind::Other,
    }
}

/// A `Content-Type` without its parameters, lower case.
pub(crate) fn bare_type(content_type: &str) -> String {
    let bare = content_type.split(';').next().unwrap_or_default();
    bare.trim().to_ascii_lowercase()
}

/// Reads what a manifest names.
///
/// `content_type` is the registry's answer, without parameters. A body `mediaType` that disagrees
/// with it is refused, and so is a body with the fields of two formats.
pub(crate) fn read(bytes: &[u8], content_type: &str) -> Result<Contents, ManifestError> {
    if kind_of(content_type) == Kind::Schema1 {
        return Err(ManifestError::Schema1);
    }
    let raw: Raw = match serde_json::from_slice(bytes) {
        Ok(raw) => raw,
        Err(error) => {
            let (line, column) = (error.line(), error.column());
            return Err(ManifestError::Malformed { line, column });
        }
    };
    if raw.fs_layers.is_some() || raw.schema_version == Some(1.into()) {
        return Err(ManifestError::Schema1);
    }
    let names_something = raw.config.is_some()
        || raw.layers.is_some()
        || raw.manifests.is_some()
        || raw.blobs.is_some();
    // What reads the bytes takes a list for a structure, too. Nobody else does.
    let is_object = bytes.trim_ascii_start().starts_with(b"{");
    let media_type = agreed_type(&raw, content_type)?;
    if !is_object || !names_something && raw.schema_version != Some(2.into()) {
        return Err(ManifestError::NotAManifest);
    }
    check_fields(&raw, &media_type)?;
    let mut is_cut = false;
    let mut items = |list: Option<Descriptors>| {
        let list = list.unwrap_or_default();
        is_cut |= list.is_cut;
        list.items
    };
    let children = items(raw.manifests);
    let layers = [items(raw.layers), items(raw.blobs)];
    let blobs: Vec<_> = raw
        .config
        .into_iter()
        .chain(layers.into_iter().flatten())
        .collect();
    if is_cut || children.len() + blobs.len() > MAX_DESCRIPTORS {
        return Err(ManifestError::TooManyDescriptors);
    }
    let mut named = children.iter().chain(&blobs).map(|named| &named.digest);
    if let Some(digest) = named.find(|digest| !is_verifiable(digest)) {
        let digest = crate::text::clean(digest.as_ref());
        return Err(ManifestError::UnknownAlgorithm(digest));
    }
    let subject = raw.subject.map(|subject| subject.digest);
    Ok(Contents {
        media_type,
        subject: subject.filter(is_verifiable),
        children,
        blobs,
    })
}

/// Whether content can be checked against this digest. The grammar of digests alone allows for much:
/// `1.27:alpine` is one. With a known algorithm the rest has that algorithm's length.
pub(crate) fn is_verifiable(digest: &Digest) -> bool {
    Hasher::for_digest(digest).is_some()
}

fn agreed_type(raw: &Raw, content_type: &str) -> Result<String, ManifestError> {
    let said = raw.media_type.as_deref().unwrap_or_default();
    match (kind_of(content_type), said) {
        (Kind::Generic, "") if raw.manifests.is_some() => Ok(OCI_INDEX.to_owned()),
        (Kind::Generic, "") if raw.layers.is_some() => Ok(OCI_MANIFEST.to_owned()),
        (Kind::Generic, "") => Err(ManifestError::Ambiguous(
            "neither the registry nor the manifest says what it is".to_owned(),
        )),
        (Kind::Generic, said) => Ok(said.to_owned()),
        (_, "") => Ok(content_type.to_owned()),
        (_, said) if said == content_type => Ok(said.to_owned()),
        (_, said) => Err(ManifestError::Ambiguous(format!(
            "the registry says {}, the manifest itself {}",
            crate::text::clean(content_type),
            crate::text::clean(said),
        ))),
    }
}

fn check_fields(raw: &Raw, media_type: &str) -> Result<(), ManifestError> {
    let mixed = |what: &str| Err(ManifestError::Ambiguous(what.to_owned()));
    let image_fields = raw.layers.is_some() || raw.config.is_some();
    if raw.manifests.is_some() && (image_fields || raw.blobs.is_some()) {
        return mixed("it has the fields of an index and of an image");
    }
    match kind_of(media_type) {
        Kind::Schema1 => Err(ManifestError::Schema1),
        Kind::Index if image_fields || raw.blobs.is_some() => {
            mixed("an index with the fields of an image")
        }
        Kind::Image | Kind::Artifact if raw.manifests.is_some() => {
            mixed("an image with the fields of an index")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
