//! A Secret, as far as it matters here: whose it is, and whether it is as it should be. What is in it is not kept.

use std::borrow::Cow;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::{Deserialize, Deserializer};

use super::dockerconfigjson::Held;
use crate::cluster::api_response::is_envelope;
use crate::cluster::json_filter::Keep;
use crate::cluster::lenient::{self, Lenient, Present, fields};

/// The label of all Secrets that are made here. One without it is somebody else's.
pub(super) const LABEL: &str = "app.kubernetes.io/managed-by";
/// Its value.
pub(super) const MANAGER: &str = "image-mirror";
/// The type that kubelets read logins from.
pub(super) const TYPE: &str = "kubernetes.io/dockerconfigjson";
/// Where such a Secret keeps them.
pub(super) const KEY: &str = ".dockerconfigjson";

/// A Secret as the API server shows it.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    metadata: ObjectMeta,
    seen: Seen,
}

/// What is kept of a Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub version: Version,
    pub state: State,
}

/// Which Secret, and which of its versions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Version {
    pub uid: Box<str>,
    pub resource_version: Box<str>,
}

/// Whose it is, and how it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Somebody else's.
    Foreign,
    /// Ours, and it goes as soon as somebody else lets it.
    Leaving,
    /// Ours, and of a type that kubelets do not read; the type of a Secret cannot change.
    WrongType,
    /// Ours.
    Ours {
        /// What is in it.
        held: Held,
        /// Whether that can never change.
        is_immutable: bool,
    },
}

/// Longest content of a Secret that is read, in Base64: a few logins, whose tokens have some thousand bytes. One with more
/// counts as holding nothing.
const MAX_CONTENT: usize = 512 * 1024;

impl Shown {
    /// What is read of a Secret.
    pub(super) const KEEP: Keep = Keep {
        is_wanted: |name| {
            is_envelope(name)
                || matches!(
                    name,
                    "name"
                        | "namespace"
                        | "uid"
                        | "deletionTimestamp"
                        | "labels"
                        | "immutable"
                        | "data"
                        | LABEL
                        | KEY
                )
        },
        string: MAX_CONTENT,
        elements: 16,
        bytes: 2 * MAX_CONTENT,
    };

    /// The namespace, and what is kept; `None` without a name or a namespace.
    pub(super) fn into_seen(self) -> Option<(Arc<str>, Seen)> {
        self.metadata.name?;
        Some((self.metadata.namespace?.into(), self.seen))
    }
}

impl Seen {
    pub(super) fn is_ours(&self) -> bool {
        self.state != State::Foreign
    }

    /// What is in it, if it is ours and of the right type.
    pub(super) fn held(&self) -> Option<&Held> {
        match &self.state {
            State::Ours { held, .. } => Some(held),
            State::Foreign | State::Leaving | State::WrongType => None,
        }
    }
}

#[derive(Default)]
struct Raw {
    metadata: Metadata,
    kind: String,
    immutable: bool,
    data: Data,
}

#[derive(Default)]
struct Metadata {
    name: String,
    namespace: String,
    uid: String,
    resource_version: String,
    deleted: Present,
    labels: Labels,
}

#[derive(Default)]
struct Labels {
    managed_by: String,
}

#[derive(Default)]
struct Data {
    config: Held,
}

fields!(Raw { "metadata" => metadata, "type" => kind, "immutable" => immutable, "data" => data });
fields!(Metadata {
    "name" => name,
    "namespace" => namespace,
    "uid" => uid,
    "resourceVersion" => resource_version,
    "deletionTimestamp" => deleted,
    "labels" => labels,
});
fields!(Labels { LABEL => managed_by });
fields!(Data { KEY => config });

impl Lenient for Held {
    fn take_text(&mut self, text: &str) {
        *self = STANDARD
            .decode(text)
            .map_or_else(|_| Self::default(), |config| Self::of(&config));
    }
}

impl Raw {
    fn state(&self) -> State {
        if self.metadata.labels.managed_by != MANAGER {
            State::Foreign
        } else if self.metadata.deleted.0 {
            State::Leaving
        } else if self.kind == TYPE {
            State::Ours {
                held: self.data.config.clone(),
                is_immutable: self.immutable,
            }
        } else {
            State::WrongType
        }
    }
}

/// The docker configuration in a Secret; empty if there is none.
pub(super) fn content(secret: &[u8]) -> Vec<u8> {
    #[derive(Default)]
    struct DesiredLogin {
        data: ContentData,
    }

    #[derive(Default)]
    struct ContentData {
        config: String,
    }

    fields!(DesiredLogin { "data" => data });
    fields!(ContentData { KEY => config });

    let mut deserializer = serde_json::Deserializer::from_slice(secret);
    let content: DesiredLogin = lenient::read(&mut deserializer).unwrap_or_default();
    STANDARD.decode(content.data.config).unwrap_or_default()
}

impl<'de> Deserialize<'de> for Shown {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw: Raw = lenient::read(deserializer)?;
        let state = raw.state();
        let present = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        let metadata = raw.metadata;
        Ok(Self {
            metadata: ObjectMeta {
                name: present(&metadata.name),
                namespace: present(&metadata.namespace),
                resource_version: present(&metadata.resource_version),
                ..ObjectMeta::default()
            },
            seen: Seen {
                version: Version {
                    uid: metadata.uid.into(),
                    resource_version: metadata.resource_version.into(),
                },
                state,
            },
        })
    }
}

impl Resource for Shown {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "Secret".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "secrets".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn seen(mut object: Value) -> Option<(Arc<str>, Seen)> {
        object["metadata"]["name"] = json!("image-mirror-pull");
        let shown: Shown = serde_json::from_value(object).unwrap();
        shown.into_seen()
    }

    const CONFIG: &str = r#"{"auths":{"a.example":{"username":"u","password":"p","auth":"dTpw"}}}"#;

    fn ours(config: &str, is_immutable: bool) -> State {
        State::Ours {
            held: Held::of(config.as_bytes()),
            is_immutable,
        }
    }

    #[rstest]
    #[case::as_made(json!({}), ours(CONFIG, false))]
    #[case::immutable(json!({"immutable": true}), ours(CONFIG, true))]
    #[case::not_base64(json!({"data": {KEY: "%"}}), ours("", false))]
    #[case::odd_data(json!({"data": ["e30="]}), ours("", false))]
    #[case::empty(json!({"data": null}), ours("", false))]
    #[case::other_type(json!({"type": "Opaque"}), State::WrongType)]
    #[case::no_label(json!({"metadata": {"namespace": "shop", "labels": null}}), State::Foreign)]
    #[case::other_label(json!({"metadata": {"namespace": "shop", "labels": {LABEL: "Helm"}}}), State::Foreign)]
    fn states(#[case] changes: Value, #[case] state: State) {
        let mut object = json!({
            "metadata": { "namespace": "shop", "uid": "u", "resourceVersion": "7", "labels": { LABEL: MANAGER } },
            "type": TYPE,
            "data": { KEY: STANDARD.encode(CONFIG) },
        });
        for (name, value) in changes.as_object().unwrap() {
            object[name] = value.clone();
        }
        let (namespace, seen) = seen(object).unwrap();
        assert_eq!((&*namespace, seen.state), ("shop", state));
    }

    #[test]
    fn one_that_is_being_deleted_is_known_by_its_time() {
        let object = json!({
            "metadata": { "namespace": "shop", "labels": { LABEL: MANAGER }, "deletionTimestamp": "2026-01-01T00:00:00Z" },
            "type": TYPE,
        });
        assert_eq!(seen(object).unwrap().1.state, State::Leaving);
    }
}
