//! Images made from seeded noise.

use bytes::Bytes;
use oci_spec::image::Digest;

/// Media type of an OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an OCI index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A manifest and the blobs that it names directly.
#[derive(Clone, Debug)]
pub struct Image {
    /// Media type that it is pushed with and answered with.
    pub media_type: String,
    /// The manifest, byte for byte.
    pub manifest: Bytes,
    /// The blobs that it names, in any order.
    pub blobs: Vec<Bytes>,
}

impl Image {
    /// The manifest's digest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        digest_of(&self.manifest)
    }

    /// The JSON that an index has for it.
    #[must_use]
    pub fn descriptor(&self) -> String {
        descriptor(&self.media_type, &self.manifest)
    }
}

/// The sha256 digest of some bytes.
#[must_use]
pub fn digest_of(bytes: &[u8]) -> Digest {
    crate::digest::of(bytes)
        .parse()
        .expect("a digest of ours is well-formed")
}

/// Reproducible bytes that do not repeat (xorshift64).
#[must_use]
pub fn noise(seed: u64, size: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes.into()
}

/// A blob with this text.
#[must_use]
pub fn blob(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// The JSON of a descriptor of this content.
#[must_use]
pub fn descriptor(media_type: &str, content: &[u8]) -> String {
    format!(
        r#"{{"mediaType":"{media_type}","digest":"{}","size":{}}}"#,
        digest_of(content),
        content.len()
    )
}

/// An image with a config of its own and these layers.
#[must_use]
pub fn image(seed: u64, layers: &[Bytes]) -> Image {
    let config = blob(&format!(
        r#"{{"architecture":"amd64","os":"linux","seed":{seed}}}"#
    ));
    let layer =
        |content: &Bytes| descriptor("application/vnd.oci.image.layer.v1.tar+gzip", content);
    // Odd spacing on purpose: whoever re-serialises this changes its digest.
    let manifest = format!(
        "{{ \"schemaVersion\": 2,\n\t\"mediaType\":\"{OCI_MANIFEST}\", \"config\":{},\"layers\":[{}]}}\n",
        descriptor("application/vnd.oci.image.config.v1+json", &config),
        layers.iter().map(layer).collect::<Vec<_>>().join(", "),
    );
    let mut blobs = vec![config];
    blobs.extend_from_slice(layers);
    Image {
        media_type: OCI_MANIFEST.into(),
        manifest: manifest.into(),
        blobs,
    }
}

/// An index of these.
#[must_use]
pub fn index(children: &[&Image]) -> Image {
    let children: Vec<_> = children.iter().map(|child| child.descriptor()).collect();
    let manifest = format!(
        "{{\"schemaVersion\":2, \"mediaType\":\"{OCI_INDEX}\",\n \"manifests\":[{}] }}",
        children.join(",")
    );
    Image {
        media_type: OCI_INDEX.into(),
        manifest: manifest.into(),
        blobs: Vec::new(),
    }
}

/// An artifact with this content that refers to `subject`, of the given type.
#[must_use]
pub fn referrer(subject: &Image, artifact_type: &str, content: &Bytes) -> Image {
    let config = blob("{}");
    let manifest = format!(
        "{{\"schemaVersion\":2, \"mediaType\":\"{OCI_MANIFEST}\",\"artifactType\":\"{artifact_type}\", \"config\":{},\
         \"layers\":[{}],\"subject\":{},\"annotations\":{{\"made.by\":\"a test\"}}}}",
        descriptor("application/vnd.oci.empty.v1+json", &config),
        descriptor("application/octet-stream", content),
        subject.descriptor(),
    );
    Image {
        media_type: OCI_MANIFEST.into(),
        manifest: manifest.into(),
        blobs: vec![config, content.clone()],
    }
}
