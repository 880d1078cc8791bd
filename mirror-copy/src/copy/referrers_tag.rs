//! The referrers tag, for registries without the referrers API (distribution-spec, "Referrers Tag Schema"): an index under a
//! tag made of the digest of the subject, kept by clients.

use crate::error::{Operation, RegistryError};
use crate::hash::{Hasher, parse_digest};
use crate::json::{self, Bounded};
use crate::manifest::{Annotations, Descriptor, OCI_INDEX};
use crate::reference::TagOrDigest;
use crate::registry::{Manifest, Referrer, ReferrerList, Repository};
use backon::BackoffBuilder as _;
use oci_spec::image::Digest;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use std::collections::HashSet;
use tokio::time::sleep;

/// Maximum number of entries of a list that is written: ten times as many as are read of one image.
const MAX_ENTRIES: usize = 10_000;

const NO_INDEX: &str = "the list of referrers is not an index; delete this tag if it is not in use";

/// The digests in a list. Entries that are no descriptors are skipped.
#[derive(Deserialize)]
struct Listed {
    manifests: Bounded<ListedDigest, MAX_ENTRIES>,
}

struct ListedDigest(Option<Digest>);

impl<'de> Deserialize<'de> for ListedDigest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Entry<'a> {
            #[serde(borrow)]
            digest: Option<&'a RawValue>,
        }
        let raw = <&RawValue>::deserialize(deserializer)?;
        let entry: Option<Entry<'_>> = json::object(raw);
        let digest = entry.and_then(|entry| json::optional_text(entry.digest, 256));
        Ok(Self(digest.as_deref().and_then(parse_digest)))
    }
}

pub(super) fn tag(subject: &Digest) -> String {
    // A digest that is too long for a tag is cut (distribution-spec, "Referrers Tag Schema").
    let hex: String = subject.digest().chars().take(64).collect();
    format!("{}-{hex}", subject.algorithm())
}

/// Reads the list of `subject`. Returns `None` if there is none, also if its tag stands for the subject itself.
pub(super) async fn read(
    repository: &Repository,
    subject: &Digest,
) -> Result<Option<ReferrerList>, RegistryError> {
    let tag = &tag(subject);
    let index = index(repository, tag).await?;
    let Some(index) = index.filter(|index| index.digest != *subject) else {
        return Ok(None);
    };
    match ReferrerList::of_tag(&index.bytes) {
        Some(list) => Ok(Some(list)),
        None => Err(no_list(repository, tag, NO_INDEX)),
    }
}

/// Reads the index under this tag. Anything else under it is an error, so that it is not overwritten by a list.
async fn index(repository: &Repository, tag: &str) -> Result<Option<Manifest>, RegistryError> {
    let reference = TagOrDigest::Tag(tag.to_owned());
    let located = repository.read(&reference).await?;
    match located.and_then(|located| located.manifest) {
        Some(manifest) if manifest.media_type != OCI_INDEX => {
            Err(no_list(repository, tag, NO_INDEX))
        }
        found => Ok(found),
    }
}

fn no_list(repository: &Repository, tag: &str, reason: &str) -> RegistryError {
    let subject = repository.subject(Operation::ReadManifest, &format!(":{tag}"));
    RegistryError::protocol(&subject, reason)
}

fn listed(
    repository: &Repository,
    tag: &str,
    index: Option<&Manifest>,
) -> Result<HashSet<Digest>, RegistryError> {
    let Some(index) = index else {
        return Ok(HashSet::new());
    };
    match json::from_slice::<Listed>(&index.bytes) {
        Ok(listed) if listed.manifests.is_cut => {
            let reason = format!("its list of referrers has more than {MAX_ENTRIES} entries");
            Err(no_list(repository, tag, &reason))
        }
        Ok(listed) => {
            let digests = listed.manifests.items.into_iter();
            Ok(digests.filter_map(|digest| digest.0).collect())
        }
        Err(_) => Err(no_list(repository, tag, NO_INDEX)),
    }
}

/// Returns the referrers that are missing in the list of `subject`.
pub(super) async fn missing(
    repository: &Repository,
    subject: &Digest,
    referrers: Vec<Digest>,
) -> Result<Vec<Digest>, RegistryError> {
    let tag = tag(subject);
    let index = index(repository, &tag).await?;
    let listed = listed(repository, &tag, index.as_ref())?;
    let missing = referrers.into_iter().filter(|one| !listed.contains(one));
    Ok(missing.collect())
}

/// Adds these referrers to the list of `subject`. Two clients may write concurrently and the protocol has no lock, so the
/// list is read and written again until everything is in it.
pub(super) async fn list(
    repository: &Repository,
    subject: &Digest,
    referrers: &[Referrer],
) -> Result<(), RegistryError> {
    let tag = tag(subject);
    let reference = TagOrDigest::Tag(tag.clone());
    // Copies of this process write one after the other.
    let _turn = repository.registry().blob_locations().turn(subject).await;
    let mut waits = repository.registry().retry_policy().backoff().build();
    loop {
        let old = index(repository, &tag).await?;
        if old.as_ref().is_some_and(|old| old.digest == *subject) {
            let reason =
                "the tag of its list of referrers stands for the image itself; delete this tag";
            return Err(no_list(repository, &tag, reason));
        }
        let new = unlisted(&listed(repository, &tag, old.as_ref())?, referrers);
        if new.is_empty() {
            return Ok(());
        }
        let subject = repository.subject(Operation::WriteManifest, &reference.suffix());
        let size = old.as_ref().map_or(0, |old| old.bytes.len());
        let size = size + new.iter().map(|entry| entry.len()).sum::<usize>();
        let _held = repository.hold(&subject, size).await?;
        let bytes = with(old.as_ref(), &new);
        let bytes =
            bytes.ok_or_else(|| no_list(repository, &tag, "its list of referrers cannot grow"))?;
        drop(old);
        let digest = Hasher::sha256().of(&bytes).parse();
        let digest = digest.map_err(|_| RegistryError::Name(tag.clone()))?;
        let grown = Manifest {
            bytes: bytes.into(),
            media_type: OCI_INDEX.to_owned(),
            digest,
        };
        repository
            .put_manifest(&reference, OCI_INDEX, &grown)
            .await?;
        drop(grown);
        // The first check is immediate. Later ones leave time to other writers, and to a registry that shows a written list
        // only a moment later.
        let now = index(repository, &tag).await?;
        if unlisted(&listed(repository, &tag, now.as_ref())?, referrers).is_empty() {
            return Ok(());
        }
        let Some(wait) = waits.next() else {
            return Err(RegistryError::Contended { subject });
        };
        sleep(wait).await;
    }
}

fn unlisted<'a>(listed: &HashSet<Digest>, referrers: &'a [Referrer]) -> Vec<&'a str> {
    let is_new = |new: &&Referrer| !listed.contains(&new.descriptor.digest);
    let new = referrers.iter().filter(is_new);
    new.map(|new| new.entry.as_str()).collect()
}

/// Returns the list entry of a referrer (distribution-spec, "Listing Referrers"): with its artifact type, which is the media
/// type of its config if it has none, and its annotations.
pub(super) fn describe(manifest: &Manifest, media_type: &str) -> Option<Referrer> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Content<'a> {
        #[serde(borrow)]
        artifact_type: Option<&'a RawValue>,
        #[serde(borrow)]
        config: Option<&'a RawValue>,
        #[serde(borrow)]
        annotations: Option<&'a RawValue>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Config<'a> {
        #[serde(borrow)]
        media_type: Option<&'a RawValue>,
    }
    let content: Content<'_> = json::from_slice(&manifest.bytes).ok()?;
    let own = content.artifact_type.filter(|raw| raw.get() != "\"\"");
    let artifact_type = own.or_else(|| json::object::<Config<'_>>(content.config?)?.media_type);
    let descriptor = Descriptor {
        media_type: media_type.to_owned(),
        digest: manifest.digest.clone(),
        size: manifest.bytes.len() as u64,
        urls: Vec::new(),
        data: None,
        platform: None,
        annotations: Annotations::default(),
    };
    Some(Referrer::new(
        descriptor,
        artifact_type,
        content.annotations,
    ))
}

/// Returns the old index, or an empty one, with more manifests. All other fields stay.
fn with(old: Option<&Manifest>, new: &[&str]) -> Option<Vec<u8>> {
    let empty = format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[]}}"#);
    let old = old.map_or(empty.as_bytes(), |old| old.bytes.as_ref());
    json::with_list::<MAX_ENTRIES>(old, "manifests", |_| true, new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_grows_and_keeps_its_other_fields() {
        let first = with(None, &[r#"{"digest":"a"}"#]).unwrap();
        let first = String::from_utf8(first).unwrap();
        let old = Manifest {
            bytes: first.replace("2,", r#"2,"annotations":{"x": 1.0},"#).into(),
            media_type: OCI_INDEX.into(),
            digest: format!("sha256:{}", "0".repeat(64)).parse().unwrap(),
        };
        let second = with(Some(&old), &[r#"{"digest":"b"}"#]).unwrap();
        let expected = format!(
            r#"{{"schemaVersion":2,"annotations":{{"x": 1.0}},"mediaType":"{OCI_INDEX}","manifests":[{{"digest":"a"}},{{"digest":"b"}}]}}"#
        );
        assert_eq!(String::from_utf8(second).unwrap(), expected);
    }

    #[test]
    fn long_digests_are_cut_to_what_a_tag_holds() {
        let digest: Digest = format!("sha512:{}", "a".repeat(128)).parse().unwrap();
        assert_eq!(tag(&digest), format!("sha512-{}", "a".repeat(64)));
    }
}
