//! The referrers' tag, for registries that do not list referrers by themselves (distribution-spec,
//! "Referrers Tag Schema"): an index under a tag made of the subject's digest, kept by clients.

use crate::bounded::Bounded;
use crate::error::{Operation, RegistryError};
use crate::hash::Hasher;
use crate::manifest::OCI_INDEX;
use crate::reference::TagOrDigest;
use crate::registry::{Manifest, Referrer, Repository};
use backon::BackoffBuilder as _;
use oci_spec::image::Digest;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashSet;
use tokio::time::sleep;

/// Most entries that are looked at: all that a manifest of usual size can hold.
const MAX_ENTRIES: usize = 10_000;

/// The part of an index that matters here. An entry that is no descriptor is passed over.
#[derive(Deserialize)]
struct Index {
    manifests: Bounded<Value, MAX_ENTRIES>,
}

/// A list of referrers.
pub(super) struct List {
    manifest: Manifest,
    pub(super) referrers: Vec<Referrer>,
}

/// The tag that lists a manifest's referrers.
pub(super) fn tag(subject: &Digest) -> String {
    // Longer digests than a tag can hold are cut (distribution-spec, "Referrers Tag Schema").
    let hex: String = subject.digest().chars().take(64).collect();
    format!("{}-{hex}", subject.algorithm())
}

/// Reads such a list. `None` if there is none.
pub(super) async fn read(
    repository: &Repository,
    tag: &str,
) -> Result<Option<List>, RegistryError> {
    let reference = TagOrDigest::Tag(tag.to_owned());
    let located = repository.read(&reference).await?;
    let Some(manifest) = located.and_then(|located| located.manifest) else {
        return Ok(None);
    };
    let index = serde_json::from_slice::<Index>(&manifest.bytes).ok();
    // Whatever else has that tag must not be taken for a list, and even less be overwritten by one.
    let index = index.filter(|_| manifest.media_type == OCI_INDEX);
    let index = index.ok_or_else(|| {
        let subject = repository.subject(Operation::ReadManifest, &reference.suffix());
        RegistryError::protocol(&subject, "the list of referrers is not an index")
    })?;
    let referrers = index.manifests.items.into_iter().map(Referrer::try_from);
    Ok(Some(List {
        manifest,
        referrers: referrers.filter_map(Result::ok).collect(),
    }))
}

/// Puts these referrers into the list of `subject`, beside what is there. Two clients may write at the same
/// time and the protocol has no lock, so the list is read again until everything is in it.
pub(super) async fn list(
    repository: &Repository,
    subject: &Digest,
    referrers: &[Referrer],
) -> Result<(), RegistryError> {
    let tag = tag(subject);
    let reference = TagOrDigest::Tag(tag.clone());
    // Within this process one writes after the other.
    let _turn = repository.registry().seen().turn(subject).await;
    let mut waits = repository.registry().retry_policy().backoff().build();
    loop {
        let old = read(repository, &tag).await?;
        let new = unlisted(old.as_ref(), referrers);
        if new.is_empty() {
            return Ok(());
        }
        let bytes = with(old.as_ref().map(|old| &old.manifest), &new);
        let digest = Hasher::sha256().of(&bytes).parse();
        let digest = digest.map_err(|_| RegistryError::Name(tag.clone()))?;
        let index = Manifest {
            bytes: bytes.into(),
            media_type: OCI_INDEX.to_owned(),
            digest,
        };
        repository
            .put_manifest(&reference, OCI_INDEX, &index)
            .await?;
        // The first look comes at once. Later ones leave time to whoever writes too, and to a registry
        // that shows what was written a moment late.
        if unlisted(read(repository, &tag).await?.as_ref(), referrers).is_empty() {
            return Ok(());
        }
        let Some(wait) = waits.next() else {
            let subject = repository.subject(Operation::WriteManifest, &reference.suffix());
            return Err(RegistryError::Contended { subject });
        };
        sleep(wait).await;
    }
}

/// The entries that are not yet in the list.
fn unlisted<'a>(list: Option<&List>, referrers: &'a [Referrer]) -> Vec<&'a Value> {
    let listed = list.into_iter().flat_map(|list| &list.referrers);
    let listed: HashSet<&Digest> = listed.map(|old| &old.descriptor.digest).collect();
    let is_new = |new: &&Referrer| !listed.contains(&new.descriptor.digest);
    referrers
        .iter()
        .filter(is_new)
        .map(|new| &new.raw)
        .collect()
}

/// How a manifest is listed as a referrer (distribution-spec, "Listing Referrers"): with its artifact type,
/// which is its config's type if it names none, and its annotations.
pub(super) fn describe(manifest: &Manifest, media_type: &str) -> Option<Referrer> {
    let content: Value = serde_json::from_slice(&manifest.bytes).ok()?;
    let mut raw = json!({
        "mediaType": media_type,
        "digest": manifest.digest.as_ref(),
        "size": manifest.bytes.len(),
    });
    let artifact_type = content.get("artifactType").filter(|text| **text != "");
    let artifact_type = artifact_type.or_else(|| content.get("config")?.get("mediaType"));
    for (name, value) in [
        ("artifactType", artifact_type),
        ("annotations", content.get("annotations")),
    ] {
        if let Some(value) = value {
            raw[name] = value.clone();
        }
    }
    Referrer::try_from(raw).ok()
}

/// The old index, or an empty one, with more manifests. Whatever else it says stays.
fn with(old: Option<&Manifest>, new: &[&Value]) -> Vec<u8> {
    let old = old.and_then(|old| serde_json::from_slice::<Value>(&old.bytes).ok());
    let mut index = old
        .filter(Value::is_object)
        .unwrap_or_else(|| json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}));
    if !index["manifests"].is_array() {
        index["manifests"] = json!([]);
    }
    if let Some(manifests) = index["manifests"].as_array_mut() {
        manifests.extend(new.iter().map(|value| (*value).clone()));
    }
    index.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_grows_and_keeps_what_it_says() {
        let first = with(None, &[&json!({"digest": "a"})]);
        let old = Manifest {
            bytes: String::from_utf8_lossy(&first)
                .replace(
                    "\"schemaVersion\":2",
                    "\"schemaVersion\":2,\"annotations\":{\"x\":\"y\"}",
                )
                .into(),
            media_type: OCI_INDEX.into(),
            digest: format!("sha256:{}", "0".repeat(64)).parse().unwrap(),
        };
        let second: Value =
            serde_json::from_slice(&with(Some(&old), &[&json!({"digest": "b"})])).unwrap();
        assert_eq!(
            second["manifests"],
            json!([{"digest": "a"}, {"digest": "b"}])
        );
        assert_eq!(second["annotations"]["x"], "y");
    }

    #[test]
    fn long_digests_are_cut_to_what_a_tag_holds() {
        let digest: Digest = format!("sha512:{}", "a".repeat(128)).parse().unwrap();
        assert_eq!(tag(&digest), format!("sha512-{}", "a".repeat(64)));
    }
}
