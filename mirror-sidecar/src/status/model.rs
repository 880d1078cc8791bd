//! The types of the status API. docs/status.schema.json describes their JSON.

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::{Deserialize, Serialize};

/// The version of the API. Fields may be added to it; none is removed, and none changes its meaning.
pub const API_VERSION: &str = "status.image-mirror.dev/v1";

/// The status of an image in use in one place: a backup, the target of a rewrite, or its own registry if it is excluded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageStatus {
    /// The canonical reference of the original. For an image in a backup whose original is unknown, its own reference.
    pub original: String,
    /// What decides about the image for the first of its users; absent if it is the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<Rule>,
    /// The name of the backup; absent if the image is excluded or rewritten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<String>,
    /// The reference that workloads use instead: the copy, or the image in the target of a rewrite.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    pub state: State,
    /// One sentence about the state.
    pub reason: String,
    /// The digest of the copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The size of the configs and layers of all platforms, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// The platforms of a multi-platform image, if they are known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub platforms: Vec<String>,
    pub users: Users,
    /// When a replica first knew the image since it started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_seen: Option<Time>,
    /// When the backup last responded about the copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_check: Option<Time>,
    /// When the copy was last created or updated since the start of the replica that did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_copy: Option<Time>,
    pub upstream: Upstream,
    /// Of a copy that is running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// There is no copy yet.
    Missing,
    /// The copy is being made, or waits for its turn.
    Copying,
    /// The backup has a complete copy.
    Mirrored,
    /// The copy could not be made.
    Failed,
    /// The rules, or the workload, exclude the image: it stays in its own registry.
    Excluded,
    /// The image is in the target of a rewrite.
    Rewritten,
}

/// The original, when its registry was last checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Upstream {
    /// It is there, with the digest of the copy if there is one.
    Current,
    /// Its tag has another digest than the copy.
    Moved,
    /// It is not there any more.
    Gone,
    /// It was not checked, or without a result.
    #[default]
    Unknown,
}

/// What decides about an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// The name of the `ClusterAdmissionPolicy`; absent for settings of a file, and for flags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// The setting, such as `rules[2]` or `excludedNamespaces`.
    pub name: String,
}

/// The users of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Users {
    /// The number of workloads. Objects of controllers count only if nothing else uses the image.
    pub total: usize,
    /// The first of them.
    pub items: Vec<User>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct User {
    pub namespace: String,
    pub kind: String,
    pub name: String,
}

/// The progress of a running copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Bytes that the backup has.
    pub bytes_done: u64,
    /// Bytes of the whole image; absent until its manifests are read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_total: Option<u64>,
    /// Bytes that were sent since the start of the copy, per second.
    pub bytes_per_second: u64,
}

/// A page of images, the response of `GET /api/v1/images` and `GET /api/v1/images/{reference}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageList {
    pub api_version: String,
    /// In the order of their references, then of their places.
    pub items: Vec<ImageStatus>,
    /// The parameter `continue` of the next page; absent on the last one.
    #[serde(rename = "continue", default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    pub replicas: Vec<ReplicaStatus>,
}

/// The response of `GET /api/v1/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Overview {
    pub api_version: String,
    /// The version of the replica that responds.
    pub version: String,
    /// The cluster was read completely. Until then, images may be absent.
    pub is_complete: bool,
    /// Images by state, those of all backups together.
    pub images: Totals,
    /// Uses of excluded images since the start that are not listed, because there are too many.
    pub excluded_not_listed: u64,
    pub backups: Vec<BackupStatus>,
    pub queue: Queue,
    pub replicas: Vec<ReplicaStatus>,
}

/// The numbers of images in each state. An image in several places counts in each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Totals {
    pub missing: usize,
    pub copying: usize,
    pub mirrored: usize,
    pub failed: usize,
    pub excluded: usize,
    pub rewritten: usize,
    /// Mirrored images that exist nowhere else: their originals are gone.
    pub last_copies: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupStatus {
    pub name: String,
    /// The registry and the repository.
    pub location: String,
    pub is_healthy: bool,
    /// Why it cannot be used, and what to do; absent if it is healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub images: Totals,
}

/// The copies in the queue of all replicas that responded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Queue {
    pub waiting: usize,
    pub running: usize,
    /// Failed, and to be retried after a wait.
    pub backing_off: usize,
}

/// A replica, as the one that responds sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaStatus {
    pub name: String,
    /// Its part of this response is in it. Otherwise, its images are shown as this replica knows them.
    pub has_responded: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The body of a response with an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorBody {
    pub api_version: String,
    /// One sentence.
    pub error: String,
}

impl State {
    pub const ALL: [Self; 6] = [
        Self::Missing,
        Self::Copying,
        Self::Mirrored,
        Self::Failed,
        Self::Excluded,
        Self::Rewritten,
    ];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Copying => "copying",
            Self::Mirrored => "mirrored",
            Self::Failed => "failed",
            Self::Excluded => "excluded",
            Self::Rewritten => "rewritten",
        }
    }

    /// Returns the state with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name)
    }

    /// The image has a copy that it should have, or should have none.
    #[must_use]
    pub const fn is_protected(self) -> bool {
        matches!(self, Self::Mirrored | Self::Excluded | Self::Rewritten)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Upstream {
    pub const ALL: [Self; 4] = [Self::Current, Self::Moved, Self::Gone, Self::Unknown];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Moved => "moved",
            Self::Gone => "gone",
            Self::Unknown => "unknown",
        }
    }
}

impl Rule {
    /// Returns the rule with the policy, for sentences.
    #[must_use]
    pub fn describe(&self) -> String {
        match &self.policy {
            Some(policy) => format!("{} of the policy {policy}", self.name),
            None => self.name.clone(),
        }
    }
}

impl Totals {
    /// Adds the numbers of other images.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            missing: self.missing + other.missing,
            copying: self.copying + other.copying,
            mirrored: self.mirrored + other.mirrored,
            failed: self.failed + other.failed,
            excluded: self.excluded + other.excluded,
            rewritten: self.rewritten + other.rewritten,
            last_copies: self.last_copies + other.last_copies,
        }
    }

    /// Returns the number of images that should have a copy and have none.
    #[must_use]
    pub const fn unprotected(self) -> usize {
        self.missing + self.copying + self.failed
    }

    /// Returns the number of images that have a copy, or are in the target of a rewrite.
    #[must_use]
    pub const fn protected(self) -> usize {
        self.mirrored + self.rewritten
    }

    #[must_use]
    pub const fn count(self, state: State) -> usize {
        match state {
            State::Missing => self.missing,
            State::Copying => self.copying,
            State::Mirrored => self.mirrored,
            State::Failed => self.failed,
            State::Excluded => self.excluded,
            State::Rewritten => self.rewritten,
        }
    }

    pub fn of_mut(&mut self, state: State) -> &mut usize {
        match state {
            State::Missing => &mut self.missing,
            State::Copying => &mut self.copying,
            State::Mirrored => &mut self.mirrored,
            State::Failed => &mut self.failed,
            State::Excluded => &mut self.excluded,
            State::Rewritten => &mut self.rewritten,
        }
    }
}

impl Queue {
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            waiting: self.waiting + other.waiting,
            running: self.running + other.running,
            backing_off: self.backing_off + other.backing_off,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeSet;

    use k8s_openapi::jiff::Timestamp;
    use serde_json::Value;

    use super::*;

    /// An image with all fields.
    pub(crate) fn image() -> ImageStatus {
        let time = || Some(Time(Timestamp::UNIX_EPOCH));
        ImageStatus {
            original: "docker.io/library/nginx:1".to_owned(),
            rule: Some(Rule {
                policy: Some("image-mirror".to_owned()),
                name: "rules[0]".to_owned(),
            }),
            backup: Some("default".to_owned()),
            target: Some("hub.test/nginx:1".to_owned()),
            state: State::Mirrored,
            reason: "the backup has a complete copy".to_owned(),
            digest: Some(format!("sha256:{}", "a".repeat(64))),
            bytes: Some(3 << 20),
            platforms: vec!["linux/amd64".to_owned()],
            users: Users {
                total: 3,
                items: vec![User {
                    namespace: "shop".to_owned(),
                    kind: "Deployment".to_owned(),
                    name: "web".to_owned(),
                }],
            },
            first_seen: time(),
            last_check: time(),
            last_copy: time(),
            upstream: Upstream::Current,
            progress: Some(Progress {
                bytes_done: 1,
                bytes_total: Some(2),
                bytes_per_second: 3,
            }),
        }
    }

    /// An overview with all fields.
    pub(crate) fn overview() -> Overview {
        let reason = Some("broken".to_owned());
        Overview {
            api_version: API_VERSION.to_owned(),
            version: "1.2.3".to_owned(),
            is_complete: true,
            images: Totals::default(),
            excluded_not_listed: 0,
            backups: vec![BackupStatus {
                name: "default".to_owned(),
                location: "hub.test/mirror".to_owned(),
                is_healthy: false,
                reason: reason.clone(),
                images: Totals::default(),
            }],
            queue: Queue::default(),
            replicas: vec![ReplicaStatus {
                name: "b".to_owned(),
                has_responded: false,
                reason,
            }],
        }
    }

    /// Checks that a value has all properties of a definition and no others, and so do the objects in it.
    fn agree(schema: &Value, definition: &Value, value: &Value) {
        let definition = match definition["$ref"].as_str() {
            Some(path) => schema.pointer(path.trim_start_matches('#')).unwrap(),
            None => definition,
        };
        match value {
            Value::Object(fields) => {
                let properties = definition["properties"].as_object().unwrap();
                let keys: BTreeSet<_> = fields.keys().collect();
                assert_eq!(keys, properties.keys().collect(), "{definition}");
                for (key, value) in fields {
                    agree(schema, &properties[key], value);
                }
            }
            Value::Array(items) => {
                assert_eq!(definition["type"], "array");
                for item in items {
                    agree(schema, &definition["items"], item);
                }
            }
            Value::String(text) => {
                assert_eq!(definition["type"], "string");
                if let Some(fixed) = definition["const"].as_str() {
                    assert_eq!(text, fixed);
                }
            }
            Value::Number(_) => assert_eq!(definition["type"], "integer"),
            Value::Bool(_) => assert_eq!(definition["type"], "boolean"),
            Value::Null => panic!("fields without a value are absent"),
        }
    }

    #[test]
    fn the_published_schema_describes_all_fields() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/status.schema.json");
        let schema: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        let list = ImageList {
            api_version: API_VERSION.to_owned(),
            items: vec![image()],
            next: Some("next".to_owned()),
            replicas: overview().replicas,
        };
        let error = ErrorBody {
            api_version: API_VERSION.to_owned(),
            error: "no".to_owned(),
        };
        for (name, value) in [
            ("overview", serde_json::to_value(overview()).unwrap()),
            ("imageList", serde_json::to_value(&list).unwrap()),
            ("error", serde_json::to_value(error).unwrap()),
        ] {
            agree(&schema, &schema["definitions"][name], &value);
        }
        let words = |names: &[&str]| serde_json::json!(names);
        let fields = &schema["definitions"]["imageStatus"]["properties"];
        assert_eq!(
            fields["state"]["enum"],
            words(&State::ALL.map(State::as_str))
        );
        assert_eq!(
            fields["upstream"]["enum"],
            words(&Upstream::ALL.map(Upstream::as_str))
        );
        let states = State::ALL.map(|state| serde_json::to_value(state).unwrap());
        assert_eq!(fields["state"]["enum"], Value::from(states.to_vec()));
        let parsed: ImageList =
            serde_json::from_value(serde_json::to_value(&list).unwrap()).unwrap();
        assert_eq!(parsed, list);
    }
}
