//! Parses manifests leniently. Manifests are never written here: they are copied byte for byte.

mod descriptor;
mod error;
mod media_type;

pub use descriptor::{Annotations, Descriptor};

pub(crate) use error::MAX_DESCRIPTORS;
pub use error::ManifestError;
pub(crate) use media_type::{
    ACCEPT, DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, bare_type, is_image, is_index,
    is_manifest_type, is_page_type,
};

use crate::hash::is_verifiable;
use crate::json::{self, Bounded};
use crate::text::clean;
use descriptor::Entry;
use media_type::{Kind, kind_of, media_type};
use oci_spec::image::Digest;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

#[derive(Debug)]
pub(crate) struct Contents {
    pub(crate) media_type: String,
    /// The manifest that this one refers to (image-spec, manifest.md, `subject`). It may not exist.
    pub(crate) subject: Option<Digest>,
    /// Manifests that must be at the target before this one.
    pub(crate) children: Vec<Descriptor>,
    /// Blobs that must be at the target before this one, including foreign ones.
    pub(crate) blobs: Vec<Descriptor>,
}

/// A list of descriptors. 8 MiB have room for about 100,000 of them.
type Entries = Bounded<Entry, MAX_DESCRIPTORS>;

/// The fields of all known formats. A field that occurs twice is an error, because two parsers could then see two different
/// manifests.
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

    /// Returns the media type in the manifest; empty if there is none.
    fn media_type(&self) -> Result<String, ManifestError> {
        let media_type = self.media_type.map(|raw| media_type(raw, "mediaType"));
        media_type.transpose().map(Option::unwrap_or_default)
    }
}

/// The fields that distinguish a manifest from other documents. Their values are skipped.
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

/// Fails if these bytes are no manifest of any format, such as the page of a login proxy. A manifest that cannot be copied
/// passes: [`read`] returns its error. Allocates nothing.
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

/// Parses a manifest.
///
/// `content_type` is that of the response, without parameters. A different `mediaType` in the body is an error, and so are
/// the fields of two formats.
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
    // serde accepts a list for a structure as well; no other parser does.
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

fn descriptors(list: Option<Entries>, name: &str) -> Result<Vec<Descriptor>, ManifestError> {
    let list = list.unwrap_or_default();
    if list.is_cut {
        return Err(ManifestError::TooManyDescriptors);
    }
    let entries = list.items.into_iter();
    entries.map(|entry| entry.named(name)).collect()
}

fn agreed_type(fields: &Fields<'_>, content_type: &str) -> Result<String, ManifestError> {
    let said = fields.media_type()?;
    match (kind_of(content_type), said.as_str()) {
        (Kind::Generic, "") if fields.manifests.is_some() => Ok(OCI_INDEX.to_owned()),
        (Kind::Generic, "") if fields.layers.is_some() => Ok(OCI_MANIFEST.to_owned()),
        (Kind::Generic, "") => Err(ManifestError::Ambiguous(
            "neither the registry nor the manifest has a media type".to_owned(),
        )),
        (Kind::Generic, said) => Ok(said.to_owned()),
        (_, "") => Ok(content_type.to_owned()),
        (_, said) if said == content_type => Ok(said.to_owned()),
        (_, said) => Err(ManifestError::Ambiguous(format!(
            "the registry reports {}, the manifest itself {}",
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
