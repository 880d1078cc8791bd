//! Lists of referrers: an index whose entries describe manifests (distribution-spec, "Listing Referrers" and "Referrers
//! Tag Schema").

use crate::hash::is_verifiable;
use crate::json::{self, Bounded};
use crate::manifest::Descriptor;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// Maximum number of entries of one list that are read, usable or not. An image has a handful of referrers: signatures,
/// attestations, bills of materials.
pub(crate) const MAX_REFERRERS: usize = 1000;

/// Maximum size of the entries of one list, in bytes: more than 1000 plain entries have. A list waits for the memory of its
/// copy only after it was read, and a copy reads twelve lists concurrently.
pub(crate) const MAX_BYTES: usize = 256 * 1024;

/// Maximum length of the artifact type and the annotations of an entry as JSON, in bytes, to be added to another list. The
/// manifest has them anyway.
const MAX_ARTIFACT_TYPE: usize = 512;
const MAX_ANNOTATIONS: usize = 8 * 1024;

/// A list of referrers, cut to the limits of this module.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct ReferrerList {
    pub(crate) referrers: Vec<Referrer>,
    /// Number of entries that name no manifest whose content can be verified.
    pub(crate) unusable: usize,
    /// The list has more entries.
    pub(crate) is_cut: bool,
}

/// An entry of a list. Its digest can be verified.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Referrer {
    pub(crate) descriptor: Descriptor,
    /// The entry for another list, as JSON. It has only fields that describe the manifest: none that would make clients
    /// fetch content from elsewhere, or select this manifest as an image.
    pub(crate) entry: String,
}

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
    artifact_type: Option<&'a RawValue>,
    #[serde(borrow)]
    annotations: Option<&'a RawValue>,
}

/// An index as registries return it. Other JSON has no version.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index<'a> {
    #[serde(borrow)]
    schema_version: Option<&'a RawValue>,
    /// Some registries return null for an empty list.
    manifests: Option<Bounded<Entry, MAX_REFERRERS>>,
}

struct Entry(Option<Referrer>);

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?;
        Ok(Self(Referrer::read(raw)))
    }
}

impl ReferrerList {
    /// Parses an index of the API. Returns `None` if it is no index.
    pub(crate) fn of_api(bytes: &[u8]) -> Option<Self> {
        let index: Index<'_> = json::from_slice(bytes).ok()?;
        let has_version = index.schema_version.map(RawValue::get) == Some("2");
        has_version.then(|| Self::of(index.manifests.unwrap_or_default()))
    }

    /// Parses an index that clients keep under a tag. Returns `None` if it is no index.
    pub(crate) fn of_tag(bytes: &[u8]) -> Option<Self> {
        let index: Index<'_> = json::from_slice(bytes).ok()?;
        index.manifests.map(Self::of)
    }

    fn of(listed: Bounded<Entry, MAX_REFERRERS>) -> Self {
        let read = listed.items.len();
        let entries = listed.items.into_iter();
        let referrers: Vec<_> = entries.filter_map(|entry| entry.0).collect();
        let mut list = Self {
            unusable: read - referrers.len(),
            referrers,
            is_cut: listed.is_cut,
        };
        list.cut();
        list
    }

    /// Number of entries, usable or not.
    pub(crate) fn count(&self) -> usize {
        self.referrers.len() + self.unusable
    }

    /// Appends a page, up to [`MAX_REFERRERS`].
    pub(crate) fn append(&mut self, page: Self) {
        let room = MAX_REFERRERS.saturating_sub(self.count());
        self.is_cut |= page.is_cut || page.count() > room;
        let unusable = page.unusable.min(room);
        let room = room - unusable;
        self.unusable += unusable;
        self.referrers.extend(page.referrers.into_iter().take(room));
        self.cut();
    }

    /// Drops the entries beyond [`MAX_BYTES`].
    fn cut(&mut self) {
        let mut bytes = 0;
        let fits = self.referrers.iter().take_while(|referrer| {
            bytes += referrer.entry.len();
            bytes <= MAX_BYTES
        });
        let fit = fits.count();
        if fit < self.referrers.len() {
            self.is_cut = true;
            self.referrers.truncate(fit);
            self.referrers.shrink_to_fit();
        }
    }
}

impl Referrer {
    fn read(raw: &RawValue) -> Option<Self> {
        let fields: Fields<'_> = json::object(raw)?;
        let entry = [
            ("mediaType", fields.media_type),
            ("digest", fields.digest),
            ("size", fields.size),
        ];
        let described = written(entry);
        let described: &RawValue = serde_json::from_str(&described).ok()?;
        let descriptor = Descriptor::read(described).ok()?;
        if !is_verifiable(&descriptor.digest) {
            return None;
        }
        Some(Self::new(
            descriptor,
            fields.artifact_type,
            fields.annotations,
        ))
    }

    /// Creates a referrer. An artifact type or annotations that are too long are left out.
    pub(crate) fn new(
        descriptor: Descriptor,
        artifact_type: Option<&RawValue>,
        annotations: Option<&RawValue>,
    ) -> Self {
        let text = |text: &str| serde_json::value::to_raw_value(text).ok();
        let media_type = text(&descriptor.media_type).filter(|_| !descriptor.media_type.is_empty());
        let digest = text(descriptor.digest.as_ref());
        let size = serde_json::value::to_raw_value(&descriptor.size).ok();
        let entry = written([
            ("mediaType", media_type.as_deref()),
            ("digest", digest.as_deref()),
            ("size", size.as_deref()),
            ("artifactType", no_longer(artifact_type, MAX_ARTIFACT_TYPE)),
            ("annotations", no_longer(annotations, MAX_ANNOTATIONS)),
        ]);
        Self { descriptor, entry }
    }
}

fn no_longer(raw: Option<&RawValue>, most: usize) -> Option<&RawValue> {
    raw.filter(|raw| raw.get().len() <= most)
}

/// Formats an object of the fields that are present.
fn written<const N: usize>(fields: [(&str, Option<&RawValue>); N]) -> String {
    let fields = fields.into_iter();
    let present = fields.filter_map(|(name, raw)| Some(format!("\"{name}\":{}", raw?.get())));
    format!("{{{}}}", present.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn read(entry: &str) -> ReferrerList {
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{entry}]}}"#);
        ReferrerList::of_api(index.as_bytes()).unwrap()
    }

    #[test]
    fn only_descriptive_fields_are_copied_to_another_list() {
        let kept = format!(
            r#""mediaType":"x/y","digest":"{DIGEST}","size":7,"artifactType":"a/b","annotations":{{"a": "b"}}"#
        );
        let more = r#""platform":{"os":"linux","architecture":"amd64"},"urls":["https://a/"],"data":"e30=""#;
        let list = read(&format!("{{{more},{kept}}}"));
        let [referrer] = list.referrers.as_slice() else {
            panic!("{list:?}")
        };
        assert_eq!(referrer.entry, format!("{{{kept}}}"));
        assert_eq!(referrer.descriptor.platform, None);
        assert!(referrer.descriptor.urls.is_empty() && referrer.descriptor.data.is_none());
    }

    #[test]
    fn a_list_is_cut_at_its_maximum_size() {
        let annotation = "x".repeat(MAX_ANNOTATIONS - 20);
        let entry =
            format!(r#"{{"digest":"{DIGEST}","size":7,"annotations":{{"a":"{annotation}"}}}}"#);
        let page = || read(&vec![entry.as_str(); 20].join(","));
        let mut list = page();
        assert_eq!((list.count(), list.is_cut), (20, false));
        list.append(page());
        let kept: usize = list.referrers.iter().map(|one| one.entry.len()).sum();
        assert!(list.is_cut && kept <= MAX_BYTES && list.count() > 20);
    }

    #[test]
    fn fields_that_are_too_long_are_left_out() {
        let long = "x".repeat(MAX_ANNOTATIONS);
        let list = read(&format!(
            r#"{{"digest":"{DIGEST}","size":7,"artifactType":"{long}","annotations":{{"a":"{long}"}}}}"#
        ));
        let expected = format!(r#"{{"digest":"{DIGEST}","size":7}}"#);
        assert_eq!(list.referrers.first().unwrap().entry, expected);
    }

    /// A list without usable entries takes no more memory than one with them.
    #[rstest::rstest]
    #[case("{}", MAX_REFERRERS, 0)]
    #[case("7", MAX_REFERRERS, 0)]
    #[case(r#"{"annotations":[{"":0},{"":0}]}"#, MAX_REFERRERS, 0)]
    #[case(r#"{"digest":"1.27:alpine","size":7}"#, MAX_REFERRERS, 0)]
    #[case(&format!(r#"{{"digest":"{DIGEST}","size":7}}"#), 0, MAX_REFERRERS)]
    fn unusable_entries_count(#[case] entry: &str, #[case] unusable: usize, #[case] usable: usize) {
        let list = read(&vec![entry; MAX_REFERRERS + 1].join(","));
        let counts = (list.unusable, list.referrers.len(), list.is_cut);
        assert_eq!(counts, (unusable, usable, true));
        let mut pages = ReferrerList::default();
        for _ in 0..3 {
            pages.append(read(&vec![entry; 400].join(",")));
        }
        assert_eq!((pages.count(), pages.is_cut), (MAX_REFERRERS, true));
    }
}
