//! Owners whose objects are not rewritten, because they compare images and would undo the rewrite.
//!
//! The policy sees the direct owner of an object only. The sidecar knows the whole chain, and the workloads whose Pods are
//! re-created repeatedly after a rewrite. It lists the workloads of a namespace whose Pods must not be rewritten in an
//! annotation of the response about the pull Secret. That request names a namespace and no workload, and the 60 seconds for
//! which the host caches the response do no harm.

use alloc::borrow::Cow;
use alloc::string::String;

use crate::grammar;

/// Annotation of the response about a pull Secret: a list of workloads whose Pods are not rewritten, as `<kind>/<name>`,
/// separated by commas, at most [`MAX_LIST`] bytes.
pub const SKIPPED_OWNERS: &str = "image-mirror.dev/skipped-owners";

/// Longest list of [`SKIPPED_OWNERS`], in bytes.
pub const MAX_LIST: usize = 16 * 1024;

/// The default owners: operators that compare the image of a Pod with their own resource, and replace the Pod if they differ.
pub const DEFAULT_SKIPPED: [&str; 2] = ["postgresql.cnpg.io/Cluster", "acid.zalan.do/postgresql"];

/// The type of an owner: `<API group>/<kind>`, or `<kind>` in the core group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnerPattern<'a>(Cow<'a, str>);

impl<'a> OwnerPattern<'a> {
    /// Parses a pattern; returns `None` if there can be no such type.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        let (group, kind) = text.split_once('/').unwrap_or(("", text));
        let is_group = group.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte)
        });
        let is_type = is_group && is_kind(kind) && (!group.is_empty() || !text.starts_with('/'));
        is_type.then_some(Self(Cow::Borrowed(text)))
    }

    /// Returns the pattern as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns whether the pattern matches an owner; `api_version` is `<group>/<version>`, or `<version>` in the core group.
    #[must_use]
    pub fn matches(&self, api_version: &str, kind: &str) -> bool {
        let group = api_version
            .split_once('/')
            .map_or("", |(group, _version)| group);
        self.0.split_once('/').unwrap_or(("", &self.0)) == (group, kind)
    }

    /// Returns the same pattern with owned text.
    #[must_use]
    pub fn into_owned(self) -> OwnerPattern<'static> {
        OwnerPattern(Cow::Owned(self.0.into_owned()))
    }
}

/// Adds a workload to a list. Returns `false` if the list is full ([`MAX_LIST`]), or if kind or name are invalid.
pub fn add(list: &mut String, kind: &str, name: &str) -> bool {
    let length = list.len() + ",/".len() + kind.len() + name.len();
    if !is_kind(kind) || !grammar::is_object_name(name) || length > MAX_LIST {
        return false;
    }
    if !list.is_empty() {
        list.push(',');
    }
    list.extend([kind, "/", name]);
    true
}

/// Returns whether a list has the controller of a Pod, or the Deployment or `CronJob` of that controller: the name of a
/// `ReplicaSet` or Job is the name of its owner, a hyphen, and a suffix without hyphens.
#[must_use]
pub fn lists(list: &str, kind: &str, name: &str) -> bool {
    let owner = match kind {
        "ReplicaSet" => Some("Deployment"),
        "Job" => Some("CronJob"),
        _ => None,
    };
    let owner = owner.and_then(|owner| Some((owner, name.rsplit_once('-')?.0)));
    let mut listed = list.split(',').filter_map(|entry| entry.split_once('/'));
    listed.any(|entry| entry == (kind, name) || Some(entry) == owner)
}

fn is_kind(kind: &str) -> bool {
    !kind.is_empty() && kind.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_known_by_its_controller_or_by_what_made_that() {
        let mut list = String::new();
        for (kind, name) in [
            ("StatefulSet", "db"),
            ("Deployment", "web-a"),
            ("CronJob", "c"),
        ] {
            assert!(add(&mut list, kind, name));
        }
        assert_eq!(list, "StatefulSet/db,Deployment/web-a,CronJob/c");
        for (kind, name) in [
            ("StatefulSet", "db"),
            ("ReplicaSet", "web-a-5d4f"),
            ("Job", "c-29"),
        ] {
            assert!(lists(&list, kind, name), "{kind}/{name}");
        }
        for (kind, name) in [
            ("StatefulSet", "db-2"),
            ("ReplicaSet", "web-b-5d4f"),
            ("ReplicaSet", "web-5d4f"),
            ("DaemonSet", "db"),
            ("Job", "web-a-5d4f"),
        ] {
            assert!(!lists(&list, kind, name), "{kind}/{name}");
        }
        assert!(!lists("", "", "") && !lists("", "Pod", "a"));
    }

    #[test]
    fn a_list_is_bounded_and_holds_names_only() {
        let mut list = String::new();
        for (kind, name) in [
            ("", "a"),
            ("A", ""),
            ("A/B", "a"),
            ("A", "a,B/b"),
            ("A,B", "a"),
        ] {
            assert!(!add(&mut list, kind, name), "{kind}/{name}");
        }
        while add(&mut list, "StatefulSet", "a-name-of-some-length") {}
        assert!(list.len() <= MAX_LIST && list.len() > MAX_LIST - 40);
    }
}
