//! What an embedded registry holds, and the rules about it. No HTTP here.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::digest;
use crate::registry::Document;

/// Everything that is stored. Blobs are shared between repositories, but each repository has to own them first.
#[derive(Default)]
pub(super) struct Store {
    blobs: HashMap<String, Bytes>,
    repositories: BTreeMap<String, Repository>,
    uploads: HashMap<String, Upload>,
    next_upload: u64,
}

#[derive(Default)]
struct Repository {
    blobs: BTreeSet<String>,
    manifests: BTreeMap<String, Document>,
    tags: BTreeMap<String, String>,
}

struct Upload {
    repository: String,
    data: Vec<u8>,
}

/// Why a manifest or an upload was refused: an error code of the specification, and what it is about.
#[derive(Debug)]
pub(super) struct Refusal {
    pub code: &'static str,
    pub message: String,
}

/// The parts of any manifest that refer to something.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Links {
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
    #[serde(default)]
    manifests: Vec<Descriptor>,
    subject: Option<Descriptor>,
    annotations: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    digest: String,
    media_type: Option<String>,
    #[serde(default)]
    urls: Vec<String>,
}

impl Store {
    pub fn blob(&self, repository: &str, digest: &str) -> Option<Bytes> {
        let owned = self.repositories.get(repository)?.blobs.contains(digest);
        owned.then(|| self.blobs.get(digest).cloned()).flatten()
    }

    pub fn delete_blob(&mut self, repository: &str, digest: &str) -> bool {
        self.repositories
            .get_mut(repository)
            .is_some_and(|repository| repository.blobs.remove(digest))
    }

    /// Makes a blob of another repository this one's too.
    pub fn mount(&mut self, repository: &str, from: &str, digest: &str) -> bool {
        let found = self.blob(from, digest).is_some();
        if found {
            self.own(repository).blobs.insert(digest.to_owned());
        }
        found
    }

    pub fn start_upload(&mut self, repository: &str) -> String {
        self.next_upload += 1;
        let id = format!("upload-{}", self.next_upload);
        self.uploads.insert(
            id.clone(),
            Upload {
                repository: repository.to_owned(),
                data: Vec::new(),
            },
        );
        id
    }

    /// How many bytes an upload has so far.
    pub fn upload_length(&self, repository: &str, id: &str) -> Option<usize> {
        let upload = self.uploads.get(id)?;
        (upload.repository == repository).then_some(upload.data.len())
    }

    pub fn cancel_upload(&mut self, id: &str) {
        self.uploads.remove(id);
    }

    /// Adds to an upload and gives the new length.
    pub fn append(&mut self, id: &str, data: &[u8]) -> Option<usize> {
        let upload = self.uploads.get_mut(id)?;
        upload.data.extend_from_slice(data);
        Some(upload.data.len())
    }

    /// Turns an upload into a blob, if it has the digest that it should have.
    pub fn commit(&mut self, id: &str, wanted: &str) -> Result<(), Refusal> {
        let Some(upload) = self.uploads.remove(id) else {
            return Err(Refusal::new("BLOB_UPLOAD_UNKNOWN", id));
        };
        let found = digest::of(&upload.data);
        if found != wanted {
            return Err(Refusal::new(
                "DIGEST_INVALID",
                format!("the body has the digest {found}"),
            ));
        }
        self.blobs
            .entry(found.clone())
            .or_insert_with(|| upload.data.into());
        self.own(&upload.repository).blobs.insert(found);
        Ok(())
    }

    /// The manifest behind a tag or a digest.
    pub fn manifest(&self, repository: &str, reference: &str) -> Option<&Document> {
        let repository = self.repositories.get(repository)?;
        let digest = repository
            .tags
            .get(reference)
            .map_or(reference, String::as_str);
        repository.manifests.get(digest)
    }

    /// Stores a manifest; gives the digest of its subject, if it has one.
    pub fn put_manifest(
        &mut self,
        repository: &str,
        reference: &str,
        document: Document,
    ) -> Result<Option<String>, Refusal> {
        let digest = document.digest();
        let by_digest = reference.contains(':');
        if by_digest && digest != reference {
            return Err(Refusal::new(
                "DIGEST_INVALID",
                format!("the manifest has the digest {digest}"),
            ));
        }
        let links = Links::of(&document)?;
        self.check_links(repository, &links)?;
        let repository = self.own(repository);
        if !by_digest {
            repository.tags.insert(reference.to_owned(), digest.clone());
        }
        repository.manifests.insert(digest, document);
        Ok(links.subject.map(|subject| subject.digest))
    }

    /// Removes a tag, or a manifest and all its tags.
    pub fn delete_manifest(&mut self, repository: &str, reference: &str) -> bool {
        let Some(repository) = self.repositories.get_mut(repository) else {
            return false;
        };
        if repository.tags.remove(reference).is_some() {
            return true;
        }
        repository.tags.retain(|_, digest| digest != reference);
        repository.manifests.remove(reference).is_some()
    }

    /// The tags in lexical order; `None` when the repository is unknown.
    pub fn tags(&self, repository: &str) -> Option<Vec<String>> {
        let repository = self.repositories.get(repository)?;
        Some(repository.tags.keys().cloned().collect())
    }

    /// Descriptors of the manifests whose subject is this digest.
    pub fn referrers(&self, repository: &str, subject: &str) -> Vec<Value> {
        let manifests = self.repositories.get(repository).map(|r| &r.manifests);
        manifests
            .into_iter()
            .flatten()
            .filter_map(|(digest, document)| {
                let links = Links::of(document).ok()?;
                (links.subject?.digest == subject).then(|| {
                    let artifact = links
                        .artifact_type
                        .or_else(|| links.config.and_then(|config| config.media_type));
                    json!({
                        "mediaType": document.media_type,
                        "digest": digest,
                        "size": document.bytes.len(),
                        "artifactType": artifact,
                        "annotations": links.annotations,
                    })
                })
            })
            .collect()
    }

    fn own(&mut self, repository: &str) -> &mut Repository {
        self.repositories.entry(repository.to_owned()).or_default()
    }

    /// Blobs may be left out only if they can be had elsewhere (`urls`); a subject may be missing.
    fn check_links(&self, repository: &str, links: &Links) -> Result<(), Refusal> {
        let owned = self.repositories.get(repository);
        let has_blob =
            |digest: &String| owned.is_some_and(|repository| repository.blobs.contains(digest));
        let has_manifest = |digest: &String| {
            owned.is_some_and(|repository| repository.manifests.contains_key(digest))
        };
        let missing_blob = links
            .config
            .iter()
            .chain(&links.layers)
            .find(|blob| blob.urls.is_empty() && !has_blob(&blob.digest));
        let missing_child = links
            .manifests
            .iter()
            .find(|child| !has_manifest(&child.digest));
        match missing_blob.or(missing_child) {
            Some(missing) => Err(Refusal::new(
                "MANIFEST_BLOB_UNKNOWN",
                format!("{} is not in the repository", missing.digest),
            )),
            None => Ok(()),
        }
    }
}

impl Links {
    fn of(document: &Document) -> Result<Self, Refusal> {
        serde_json::from_slice(&document.bytes)
            .map_err(|error| Refusal::new("MANIFEST_INVALID", error.to_string()))
    }
}

impl Refusal {
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}
