//! The kind `MirroredImage`. The schema is in charts/image-mirror/files/mirroredimages.yaml, and a test holds it to these types.

use std::borrow::Cow;

use k8s_openapi::ClusterResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::Resource;
use mirror_contract::text::shorten;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use super::name::{INSTALLATION, Installation, Labels, MANAGED_BY, NAMESPACE};
use crate::cluster::json_fields::{field, object_meta};
use crate::output::human_bytes;
use crate::status::model::{ImageStatus, Rule, State, Upstream, User, Users};
use crate::status::query::RowKey;

pub const GROUP: &str = "image-mirror.dev";
pub const VERSION: &str = "v1alpha1";
pub const KIND: &str = "MirroredImage";
pub const PLURAL: &str = "mirroredimages";

/// Label with the state, for selectors.
pub const STATE: &str = "image-mirror.dev/state";

/// The condition that the backup has a complete copy.
pub const MIRRORED: &str = "Mirrored";
/// The condition that there is nothing to do: the image has a copy, or should have none.
pub const READY: &str = "Ready";

/// Longest sentence, in characters.
const MAX_REASON: usize = 1000;
/// Platforms that are listed.
const MAX_PLATFORMS: usize = 32;

/// An object without the metadata that the API server sets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MirroredImage {
    /// Those of this service; others are left alone.
    pub labels: Labels,
    pub spec: Spec,
    pub status: Status,
}

/// The identity of the image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    /// The canonical reference of the original.
    pub image: String,
    /// The name of the backup; absent if the image is excluded or rewritten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub state: State,
    /// One sentence about the state.
    pub reason: String,
    /// The reference that workloads use instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The digest of the copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// `bytes` in binary units.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
    /// The size of the configs and layers of all platforms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// The platforms of a multi-platform image, the first ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platforms: Option<Vec<String>>,
    /// The setting that decides about the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    pub upstream: Upstream,
    /// The first user, and the number of the others.
    pub used_by: String,
    pub users: Users,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_check_time: Option<Time>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_copy_time: Option<Time>,
    pub conditions: Vec<Condition>,
}

/// Fields of `spec` and of `status` that may be absent. A patch must name them, or they stay.
const OPTIONAL_SPEC: [&str; 1] = ["backup"];
const OPTIONAL_STATUS: [&str; 8] = [
    "target",
    "digest",
    "size",
    "bytes",
    "platforms",
    "rule",
    "lastCheckTime",
    "lastCopyTime",
];

/// An object as the API server returns it.
#[derive(Clone, Debug)]
pub(super) struct StoredObject {
    pub metadata: ObjectMeta,
    /// `None` if somebody wrote what cannot be parsed.
    pub content: Option<MirroredImage>,
}

impl MirroredImage {
    /// Returns the object of an image in one place. Its conditions became what they are at `now`.
    #[must_use]
    pub fn new(
        installation: &Installation,
        key: &RowKey,
        status: ImageStatus,
        now: Timestamp,
    ) -> Self {
        let mut labels = installation.labels();
        labels.insert(STATE.to_owned(), status.state.to_string());
        Self {
            labels,
            spec: Spec {
                image: key.image.to_string(),
                backup: status.backup.clone(),
            },
            status: Status::new(status, now),
        }
    }

    /// Returns the body of a request that creates it.
    pub(super) fn creation(&self, name: &str) -> Value {
        json!({
            "apiVersion": format!("{GROUP}/{VERSION}"),
            "kind": KIND,
            "metadata": { "name": name, "labels": self.labels },
            "spec": self.spec,
            "status": self.status,
        })
    }

    /// Returns a merge patch (RFC 7386) after which an object has this content.
    pub(super) fn patch(&self) -> Value {
        let mut patch = json!({
            "metadata": { "labels": self.labels },
            "spec": self.spec,
            "status": self.status,
        });
        let optional = [
            ("spec", &OPTIONAL_SPEC[..]),
            ("status", &OPTIONAL_STATUS[..]),
        ];
        for (part, names) in optional {
            if let Some(Value::Object(fields)) = patch.get_mut(part) {
                for name in names {
                    fields.entry(*name).or_insert(Value::Null);
                }
            }
        }
        patch
    }
}

impl Status {
    fn new(status: ImageStatus, now: Timestamp) -> Self {
        let time = |time: Time| Time(to_seconds(time.0));
        let platforms = status.platforms.into_iter().take(MAX_PLATFORMS);
        let platforms: Vec<_> = platforms.collect();
        let reason = shorten(&status.reason, MAX_REASON);
        Self {
            conditions: conditions(status.state, &reason, &Time(to_seconds(now))),
            state: status.state,
            reason,
            target: status.target,
            digest: status.digest,
            size: status.bytes.map(human_bytes),
            bytes: status.bytes,
            platforms: (!platforms.is_empty()).then_some(platforms),
            rule: status.rule.as_ref().map(Rule::describe),
            upstream: status.upstream,
            used_by: used_by(&status.users),
            users: status.users,
            last_check_time: status.last_check.map(time),
            last_copy_time: status.last_copy.map(time),
        }
    }
}

/// Times of objects have no fractions of seconds.
pub(super) fn to_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

fn conditions(state: State, message: &str, since: &Time) -> Vec<Condition> {
    let reason = match state {
        State::Missing => "Missing",
        State::Copying => "Copying",
        State::Mirrored => "Mirrored",
        State::Failed => "Failed",
        State::Excluded => "Excluded",
        State::Rewritten => "Rewritten",
    };
    let condition = |type_: &str, is_true| Condition {
        type_: type_.to_owned(),
        status: if is_true { "True" } else { "False" }.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        last_transition_time: since.clone(),
        observed_generation: None,
    };
    vec![
        condition(MIRRORED, state == State::Mirrored),
        condition(READY, state.is_protected()),
    ]
}

fn used_by(users: &Users) -> String {
    let Some(User {
        namespace,
        kind,
        name,
    }) = users.items.first()
    else {
        return users.total.to_string();
    };
    let first = format!("{namespace}/{kind}/{name}");
    match users.total.saturating_sub(1) {
        0 => first,
        others => format!("{first} +{others}"),
    }
}

impl<'de> Deserialize<'de> for StoredObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = Value::deserialize(deserializer)?;
        let own = [MANAGED_BY, NAMESPACE, INSTALLATION, STATE];
        let labels = field(field(&object, "metadata"), "labels");
        let labels = own.iter().filter_map(|key| {
            let value = field(labels, key).as_str()?;
            Some(((*key).to_owned(), value.to_owned()))
        });
        let labels: Labels = labels.collect();
        let content = json!({
            "labels": labels,
            "spec": field(&object, "spec"),
            "status": field(&object, "status"),
        });
        Ok(Self {
            metadata: object_meta(&object),
            content: serde_json::from_value(content).ok(),
        })
    }
}

impl Resource for StoredObject {
    type DynamicType = ();
    type Scope = ClusterResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        KIND.into()
    }

    fn group((): &()) -> Cow<'_, str> {
        GROUP.into()
    }

    fn version((): &()) -> Cow<'_, str> {
        VERSION.into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        PLURAL.into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
pub(super) mod tests;
