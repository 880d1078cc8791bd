//! What a manifest names, read leniently from its bytes. Manifests are never written here: they
//! travel as the bytes they came in.

mod descriptor;

pub use descriptor::{Annotations, Descriptor};

use crate::hash::Hasher;
use crate::json::{self, Bounded, JsonError, NoText};
use crate::text::clean;
use descriptor::Entry;
use oci_spec::image::Digest;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_ARTIFACT: &str = "application/vnd.oci.artifact.manifest.v1+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

const SCHEMA1_PREFIX: &str = "application/vnd.docker.distribution.manifest.v1+";

/// What is asked for: every known type first, then anything, since some registries answer an
/// unlisted type with 404.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
application/vnd.docker.distribution.manifest.list.v2+json, \
application/vnd.oci.image.manifest.v1+json, \
application/vnd.docker.distribution.manifest.v2+json, \
application/vnd.oci.artifact.manifest.v1+json, */*";

/// Most descriptors in one manifest. Docker stops at 127 layers; build caches go to some thousands.
pub(crate) const MAX_DESCRIPTORS: usize = 10_000;

/// Longest media type, in bytes: twice the longest name that can be registered (RFC 6838, section 4.2), and a slash.
const MAX_MEDIA_TYPE: usize = 255;

/// Longest digest, in bytes. A sha512 has 135.
const MAX_DIGEST: usize = 256;

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

/// A list of descriptors. 8 MiB have room for some 100,000 of them.
type Entries = Bounded<Entry, MAX_DESCRIPTORS>;

/// The union of the fields of all known formats. A field that comes twice is an error, because
/// two readers could then see two different manifests.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields<'a> {
    #[serde(borrow)]
    schema_version: Option<&'a RawValue>,
    #[serde(borrow)]
    media_type: Option<&'a RawValue>,
    config: Option<Entry>,
    layers: Option<Entries>,
    manifests: Option<Entries>,
    blobs: Option<Entries>,
    subject: Option<Entry>,
    fs_layers: Option<IgnoredAny>,
}

impl Fields<'_> {
    fn has_version(&self, version: &str) -> bool {
        self.schema_version.is_some_and(|raw| raw.get() == version)
    }

    /// What the manifest says that it is; empty if it does not.
    fn media_type(&self) -> Result<String, ManifestError> {
        let media_type = self.media_type.map(|raw| media_type(raw, "mediaType"));
        media_type.transpose().map(Option::unwrap_or_default)
    }
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

/// Whether this media type is that of an index.
pub(crate) fn is_index(media_type: &str) -> bool {
    kind_of(media_type) == Kind::Index
}

/// Whether this media type is that of an image or artifact, which names no further manifests.
pub(crate) fn is_image(media_type: &str) -> bool {
    matches!(kind_of(media_type), Kind::Image | Kind::Artifact)
}

/// A `Content-Type` without its parameters, lower case; empty, which is to say unknown, if it is too long for one.
pub(crate) fn bare_type(content_type: &str) -> String {
    let bare = content_type.split(';').next().unwrap_or_default().trim();
    if bare.len() > MAX_MEDIA_TYPE {
        return String::new();
    }
    bare.to_ascii_lowercase()
}

/// The fields that tell whether a document can be a manifest. Their values are skipped.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape<'a> {
    #[serde(borrow)]
    schema_version: Option<&'a RawValue>,
    config: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
    manifests: Option<IgnoredAny>,
    blobs: Option<IgnoredAny>,
    fs_layers: Option<IgnoredAny>,
}

/// Returns an error if these bytes are no manifest of any format, such as the page of a login proxy. A manifest that
/// cannot be copied passes: [`read`] returns what is wrong with it. Allocates nothing.
pub(crate) fn check_shape(bytes: &[u8]) -> Result<(), ManifestError> {
    if !bytes.trim_ascii_start().starts_with(b"{") {
        return Err(ManifestError::NotAManifest);
    }
    let shape: Shape<'_> = json::from_slice(bytes)?;
    let names_something = [
        &shape.config,
        &shape.layers,
        &shape.manifests,
        &shape.blobs,
        &shape.fs_layers,
    ];
    let has_version = shape
        .schema_version
        .is_some_and(|raw| matches!(raw.get(), "1" | "2"));
    if has_version || names_something.iter().any(|field| field.is_some()) {
        Ok(())
    } else {
        Err(ManifestError::NotAManifest)
    }
}

/// Returns whether a response of this media type is meant for people: a login page, the error page of a proxy, a web UI.
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

/// Reads what a manifest names.
///
/// `content_type` is the registry's answer, without parameters. A body `mediaType` that disagrees
/// with it is refused, and so is a body with the fields of two formats.
pub(crate) fn read(bytes: &[u8], content_type: &str) -> Result<Contents, ManifestError> {
    if kind_of(content_type) == Kind::Schema1 {
        return Err(ManifestError::Schema1);
    }
    let fields: Fields<'_> = json::from_slice(bytes)?;
    if fields.fs_layers.is_some() || fields.has_version("1") {
        return Err(ManifestError::Schema1);
    }
    let names_something = fields.config.is_some()
        || fields.layers.is_some()
        || fields.manifests.is_some()
        || fields.blobs.is_some();
    // What reads the bytes takes a list for a structure, too. Nobody else does.
    let is_object = bytes.trim_ascii_start().starts_with(b"{");
    let media_type = agreed_type(&fields, content_type)?;
    if !is_object || !names_something && !fields.has_version("2") {
        return Err(ManifestError::NotAManifest);
    }
    check_fields(&fields, &media_type)?;
    let children = descriptors(fields.manifests, "manifests")?;
    let config = fields
        .config
        .map(|entry| entry.named("config"))
        .transpose()?;
    let layers = descriptors(fields.layers, "layers")?;
    let others = descriptors(fields.blobs, "blobs")?;
    let blobs: Vec<_> = config.into_iter().chain(layers).chain(others).collect();
    if children.len() + blobs.len() > MAX_DESCRIPTORS {
        return Err(ManifestError::TooManyDescriptors);
    }
    let mut named = children.iter().chain(&blobs).map(|named| &named.digest);
    if let Some(digest) = named.find(|digest| !is_verifiable(digest)) {
        return Err(ManifestError::UnknownAlgorithm(clean(digest.as_ref())));
    }
    let subject = fields.subject.map(|entry| entry.named("subject"));
    let subject = subject.transpose()?.map(|subject| subject.digest);
    Ok(Contents {
        media_type,
        subject: subject.filter(is_verifiable),
        children,
        blobs,
    })
}

/// The entries of a list of this name.
fn descriptors(list: Option<Entries>, name: &str) -> Result<Vec<Descriptor>, ManifestError> {
    let list = list.unwrap_or_default();
    if list.is_cut {
        return Err(ManifestError::TooManyDescriptors);
    }
    let entries = list.items.into_iter();
    entries.map(|entry| entry.named(name)).collect()
}

/// Reads the media type in this field.
fn media_type(raw: &RawValue, field: &str) -> Result<String, ManifestError> {
    let problem = |problem| ManifestError::Field {
        field: field.to_owned(),
        problem,
    };
    match json::text(raw, MAX_MEDIA_TYPE) {
        // It is sent in a header again.
        Ok(text) if text.bytes().all(|b| matches!(b, b' '..=b'~')) => Ok(text),
        Ok(_) => Err(problem("has characters that no media type can have")),
        Err(NoText::OtherType) => Err(problem("is not a text")),
        Err(NoText::Long) => Err(ManifestError::TooLong {
            field: field.to_owned(),
            limit: MAX_MEDIA_TYPE,
        }),
    }
}

/// Reads a digest that a registry sent, of any algorithm. Its characters are those of the OCI image specification
/// (descriptor.md, "Digests"), so that it can be part of addresses and messages.
pub(crate) fn parse_digest(text: &str) -> Option<Digest> {
    if text.len() > MAX_DIGEST {
        return None;
    }
    text.parse().ok()
}

/// Whether content can be checked against this digest. The grammar of digests alone allows for much:
/// `1.27:alpine` is one. With a known algorithm the rest has that algorithm's length.
pub(crate) fn is_verifiable(digest: &Digest) -> bool {
    Hasher::for_digest(digest).is_some()
}

fn agreed_type(fields: &Fields<'_>, content_type: &str) -> Result<String, ManifestError> {
    let said = fields.media_type()?;
    match (kind_of(content_type), said.as_str()) {
        (Kind::Generic, "") if fields.manifests.is_some() => Ok(OCI_INDEX.to_owned()),
        (Kind::Generic, "") if fields.layers.is_some() => Ok(OCI_MANIFEST.to_owned()),
        (Kind::Generic, "") => Err(ManifestError::Ambiguous(
            "neither the registry nor the manifest says what it is".to_owned(),
        )),
        (Kind::Generic, said) => Ok(said.to_owned()),
        (_, "") => Ok(content_type.to_owned()),
        (_, said) if said == content_type => Ok(said.to_owned()),
        (_, said) => Err(ManifestError::Ambiguous(format!(
            "the registry says {}, the manifest itself {}",
            clean(content_type),
            clean(said),
        ))),
    }
}

fn check_fields(raw: &Fields<'_>, media_type: &str) -> Result<(), ManifestError> {
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
