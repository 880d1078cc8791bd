//! The kinds of images that a mirror meets.

use serde_json::{Value, json};

use super::layer::{BigLayer, layer};
use super::random::Random;
use super::{Blob, Content, Image};
use crate::digest;
use crate::registry::Document;

/// Media types of the OCI image specification 1.1 and of docker's image manifest version 2, schema 2.
pub mod media_type {
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    pub const OCI_EMPTY: &str = "application/vnd.oci.empty.v1+json";
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    pub const IN_TOTO: &str = "application/vnd.in-toto+json";
}
use media_type::{
    DOCKER_CONFIG, DOCKER_LAYER, DOCKER_LIST, DOCKER_MANIFEST, IN_TOTO, OCI_CONFIG, OCI_EMPTY,
    OCI_INDEX, OCI_LAYER, OCI_MANIFEST,
};

/// Bytes of pseudo-random data in the layer that all platforms share.
const BASE_LAYER: usize = 96 << 10;
/// Bytes of pseudo-random data in the layer of one platform.
const APP_LAYER: usize = 32 << 10;
/// Architecture and variant of the platforms of a multi-platform image.
const PLATFORMS: [(&str, Option<&str>); 3] =
    [("amd64", None), ("arm64", None), ("arm", Some("v7"))];

/// The media types that one image uses.
#[derive(Clone, Copy)]
pub(super) struct Family {
    pub(super) list: &'static str,
    manifest: &'static str,
    config: &'static str,
    layer: &'static str,
}

pub(super) const OCI: Family = Family {
    list: OCI_INDEX,
    manifest: OCI_MANIFEST,
    config: OCI_CONFIG,
    layer: OCI_LAYER,
};
const DOCKER: Family = Family {
    list: DOCKER_LIST,
    manifest: DOCKER_MANIFEST,
    config: DOCKER_CONFIG,
    layer: DOCKER_LAYER,
};

impl Image {
    /// A multi-platform image as an OCI index: amd64, arm64 and arm/v7 on one shared base layer.
    #[must_use]
    pub fn index(seed: u64) -> Self {
        Self::multi_platform(seed, OCI, false)
    }

    /// A single OCI image manifest for amd64.
    #[must_use]
    pub fn single(seed: u64) -> Self {
        let mut image = Self::empty();
        image.platform(seed, OCI, PLATFORMS[0]);
        image
    }

    /// A single docker image manifest (schema 2) for amd64.
    #[must_use]
    pub fn docker(seed: u64) -> Self {
        let mut image = Self::empty();
        image.platform(seed, DOCKER, PLATFORMS[0]);
        image
    }

    /// A multi-platform image as a docker manifest list.
    #[must_use]
    pub fn docker_list(seed: u64) -> Self {
        Self::multi_platform(seed, DOCKER, false)
    }

    /// A multi-platform OCI index with an attestation manifest for each platform, as buildkit makes them.
    #[must_use]
    pub fn with_attestations(seed: u64) -> Self {
        Self::multi_platform(seed, OCI, true)
    }

    /// A single OCI image with a layer of this many MiB, which is never in memory as a whole.
    #[must_use]
    pub fn with_big_layer(seed: u64, mebibytes: u64) -> Self {
        let big = BigLayer {
            seed,
            length: mebibytes << 20,
        };
        let (digest, size) = big.measure();
        let mut image = Self::empty();
        let blob = Blob {
            digest,
            size,
            content: Content::Big(big),
        };
        image.manifest(OCI, PLATFORMS[0], vec![(blob, big.diff_id())]);
        image
    }

    /// An artifact (such as a signature or an SBOM) that has another manifest as its subject.
    #[must_use]
    pub fn referrer(subject: &Document, artifact_type: &str, content: &[u8]) -> Self {
        let mut image = Self::empty();
        let config = image.blob(OCI_EMPTY, Blob::new(&b"{}"[..]));
        let layer = image.blob("application/octet-stream", Blob::new(content.to_vec()));
        image.document(
            OCI_MANIFEST,
            &json!({
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "artifactType": artifact_type,
                "config": config,
                "layers": [layer],
                "subject": descriptor(subject),
            }),
        );
        image
    }

    pub(super) fn empty() -> Self {
        Self {
            blobs: Vec::new(),
            manifests: Vec::new(),
        }
    }

    fn multi_platform(seed: u64, family: Family, attested: bool) -> Self {
        let mut image = Self::empty();
        let mut entries = Vec::new();
        let mut attestations = Vec::new();
        for platform in PLATFORMS {
            let child = image.platform(seed, family, platform);
            if attested {
                attestations.push(image.attestation(&child));
            }
            let mut entry = descriptor(&child);
            entry["platform"] = platform_json(platform);
            entries.push(entry);
        }
        entries.extend(attestations);
        image.document(
            family.list,
            &json!({"schemaVersion": 2, "mediaType": family.list, "manifests": entries}),
        );
        image
    }

    /// The image of one platform: the base layer and a layer of its own.
    fn platform(&mut self, seed: u64, family: Family, platform: (&str, Option<&str>)) -> Document {
        let (architecture, _) = platform;
        let base = layer(&[
            ("etc/os-release", b"ID=test\n".to_vec()),
            (
                "usr/lib/base.bin",
                Random::new(seed, "base").bytes(BASE_LAYER),
            ),
        ]);
        let app = layer(&[(
            "usr/bin/app",
            Random::new(seed, architecture).bytes(APP_LAYER),
        )]);
        let layers = [base, app]
            .map(|layer| (Blob::new(layer.gzip), layer.diff_id))
            .into();
        self.manifest(family, platform, layers)
    }

    /// A manifest of layers, each with its diff id.
    pub(super) fn manifest(
        &mut self,
        family: Family,
        platform: (&str, Option<&str>),
        layers: Vec<(Blob, String)>,
    ) -> Document {
        let mut config = json!({
            "created": "2024-01-01T00:00:00Z",
            "os": "linux",
            "config": {"Cmd": ["/usr/bin/app"]},
            "rootfs": {
                "type": "layers",
                "diff_ids": layers.iter().map(|(_, diff_id)| diff_id).collect::<Vec<_>>(),
            },
            "history": layers.iter().map(|_| json!({"created_by": "test"})).collect::<Vec<_>>(),
        });
        if let (Some(config), Some(platform)) =
            (config.as_object_mut(), platform_json(platform).as_object())
        {
            config.extend(platform.clone());
        }
        let config = self.blob(family.config, Blob::new(config.to_string()));
        let layers: Vec<_> = layers
            .into_iter()
            .map(|(blob, _)| self.blob(family.layer, blob))
            .collect();
        self.document(
            family.manifest,
            &json!({
                "schemaVersion": 2,
                "mediaType": family.manifest,
                "config": config,
                "layers": layers,
            }),
        )
    }

    /// An attestation manifest in the form of buildkit (docs/attestations/attestation-storage.md there).
    fn attestation(&mut self, subject: &Document) -> Value {
        let digest = subject.digest();
        let statement = json!({
            "_type": "https://in-toto.io/Statement/v0.1",
            "predicateType": "https://slsa.dev/provenance/v0.2",
            "subject": [{"name": "test", "digest": {"sha256": digest.trim_start_matches("sha256:")}}],
            "predicate": {},
        })
        .to_string();
        let config = json!({
            "architecture": "unknown",
            "os": "unknown",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [digest::of(statement.as_bytes())]},
        });
        let config = self.blob(OCI_CONFIG, Blob::new(config.to_string()));
        let mut layer = self.blob(IN_TOTO, Blob::new(statement));
        layer["annotations"] =
            json!({"in-toto.io/predicate-type": "https://slsa.dev/provenance/v0.2"});
        let document = self.document(
            OCI_MANIFEST,
            &json!({
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": config,
                "layers": [layer],
            }),
        );
        let mut entry = descriptor(&document);
        entry["platform"] = json!({"architecture": "unknown", "os": "unknown"});
        entry["annotations"] = json!({
            "vnd.docker.reference.digest": digest,
            "vnd.docker.reference.type": "attestation-manifest",
        });
        entry
    }

    /// Adds a blob and gives its descriptor.
    fn blob(&mut self, media_type: &str, blob: Blob) -> Value {
        let descriptor = json!({"mediaType": media_type, "digest": blob.digest, "size": blob.size});
        self.add_blob(blob);
        descriptor
    }

    /// Adds a manifest, indented as docker writes it: a copy that parses and prints it would show.
    pub(super) fn document(&mut self, media_type: &str, content: &Value) -> Document {
        let document = Document {
            media_type: media_type.to_owned(),
            bytes: format!("{content:#}\n").into(),
        };
        self.manifests.push(document.clone());
        document
    }
}

pub(super) fn descriptor(document: &Document) -> Value {
    json!({
        "mediaType": document.media_type,
        "digest": document.digest(),
        "size": document.bytes.len(),
    })
}

pub(super) fn platform_json((architecture, variant): (&str, Option<&str>)) -> Value {
    let mut platform = json!({"os": "linux", "architecture": architecture});
    if let Some(variant) = variant {
        platform["variant"] = json!(variant);
    }
    platform
}
