//! Objects as the API server returns them, and what they mean once their kind is known.
//!
//! Images, opt-outs and placeholders are read from the same fields as by the policy (`pod_template`, `images` and `exclusions`
//! there).

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::core::DynamicResourceScope;
use mirror_contract::placeholder;
use mirror_contract::workload::{
    ImageList, ORIGINAL_IMAGES, PULL_NEVER, SKIP, STATIC_POD, pod_template_path,
};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::{Key, Labels, Life, NamespaceObject, Object, Owner, Workload};
use crate::cluster::api_response::is_envelope;
use crate::cluster::json_fields::{field, flag, list, object_meta, text};
use crate::cluster::json_filter::Keep;
use crate::cluster::workload_kind::{Kind, WorkloadKind};

/// Longest string of an object that is read: an image reference has up to about 600 bytes, a token that continues a list
/// about 1,000, the annotation with the originals and digests of 50 copies 20,000.
const MAX_STRING: usize = 24 * 1024;

/// Elements of a list within an object that are read, such as containers or owners.
const MAX_ELEMENTS: usize = 1024;

/// Bytes of an object that are read.
const MAX_BYTES: usize = 256 * 1024;

/// Label with which a `StatefulSet` or `DaemonSet` marks the template of each Pod.
const REVISION: &str = "controller-revision-hash";

/// An object from a watch or a response. The items of a list do not name their kind.
#[derive(Clone, Debug)]
pub struct Watched {
    metadata: ObjectMeta,
    object: Value,
}

impl Watched {
    /// The part of an object that is read.
    pub(in crate::cluster) const KEEP: Keep = Keep {
        is_wanted: |name| is_envelope(name) || is_wanted(name),
        whole: Some("labels"),
        string: MAX_STRING,
        elements: MAX_ELEMENTS,
        bytes: MAX_BYTES,
    };

    /// Returns the object of this kind; `None` without a name, and for a workload without a namespace.
    #[must_use]
    pub fn into_object(self, kind: Kind) -> Option<Object> {
        let name = self.metadata.name.as_deref()?;
        match kind {
            Kind::Namespace => Some(Object::Namespace(namespace(name, &self.object))),
            Kind::Workload(kind) => {
                let key = Key {
                    kind,
                    namespace: self.metadata.namespace.as_deref()?.into(),
                    name: name.into(),
                };
                Some(Object::Workload(Box::new(workload(key, &self.object))))
            }
        }
    }
}

/// Returns whether this file reads fields of this name, at any depth.
fn is_wanted(name: &str) -> bool {
    let is_read = matches!(
        name,
        "metadata"
            | "spec"
            | "status"
            | "name"
            | "namespace"
            | "uid"
            | "resourceVersion"
            | "creationTimestamp"
            | "deletionTimestamp"
            | "ownerReferences"
            | "annotations"
            | "labels"
            | "apiVersion"
            | "kind"
            | "controller"
            | SKIP
            | REVISION
            | STATIC_POD
            | ORIGINAL_IMAGES
            | "template"
            | "jobTemplate"
            | "paused"
            | "suspend"
            | "replicas"
            | "imagePullSecrets"
            | "image"
            | "reference"
            | "imagePullPolicy"
            | "pullPolicy"
            | "phase"
            | "conditions"
            | "type"
    );
    is_read || ImageList::of(name).is_some() || placeholder::is_injection_key(name)
}

fn namespace(name: &str, object: &Value) -> NamespaceObject {
    let metadata = field(object, "metadata");
    NamespaceObject {
        name: name.into(),
        labels: labels(metadata),
        created: text(metadata, "creationTimestamp").parse().ok(),
        is_terminating: is_deleted(metadata)
            || text(field(object, "status"), "phase") == "Terminating",
    }
}

fn workload(key: Key, object: &Value) -> Workload {
    let kind = key.kind;
    let metadata = field(object, "metadata");
    let path = pod_template_path(kind.group(), kind.name()).iter();
    let template = path.fold(object, |object, name| field(object, name));
    let template_metadata = field(template, "metadata");
    let pod_spec = field(template, "spec");

    let mut owners = list(metadata, "ownerReferences").iter();
    let controller = owners.find(|owner| flag(owner, "controller"));
    let is_owned = controller.is_some();
    let is_deleted = is_deleted(metadata);
    let has_ended = has_ended(kind, is_owned, object);
    let annotations = field(metadata, "annotations");

    let sources = sources(pod_spec);
    let is_injected = requests_injection(template_metadata)
        || sources
            .iter()
            .any(|source| placeholder::is_customised_sidecar(source.container, source.image));
    let is_image = |source: &&Source<'_>| !placeholder::is_placeholder(source.image, is_injected);
    // An injector sets the image of a placeholder, so its container counts as injected.
    let containers = sources.iter().filter(is_image).filter(|source| {
        matches!(
            source.list,
            ImageList::Containers | ImageList::InitContainers
        )
    });
    let (images, never_pulled): (Vec<_>, Vec<_>) = sources
        .iter()
        .filter(is_image)
        .partition(|source| source.pull_policy != PULL_NEVER);
    let texts = |sources: Vec<&Source<'_>>| -> Vec<String> {
        let texts = sources.into_iter().map(|source| source.image.to_owned());
        texts.collect()
    };
    let (images, never_pulled) = (texts(images), texts(never_pulled));
    let secrets = list(pod_spec, "imagePullSecrets").iter();
    Workload {
        uid: text(metadata, "uid").into(),
        created: text(metadata, "creationTimestamp").parse().ok(),
        life: if is_deleted || has_ended {
            Life::Done
        } else if is_paused(kind, field(object, "spec")) {
            Life::Paused
        } else {
            Life::Active
        },
        is_owned,
        controller: controller.and_then(owner),
        owners: list(metadata, "ownerReferences")
            .iter()
            .map(|owner| {
                (
                    text(owner, "apiVersion").to_owned(),
                    text(owner, "kind").to_owned(),
                )
            })
            .collect(),
        labels: labels(metadata),
        template_labels: labels(template_metadata),
        is_deleted,
        has_ended,
        revision: text(field(metadata, "labels"), REVISION).into(),
        is_exempt: is_opted_out(metadata)
            || is_opted_out(template_metadata)
            || field(annotations, STATIC_POD).is_string(),
        is_annotated: field(annotations, ORIGINAL_IMAGES).is_string(),
        originals: originals(
            &images,
            text(field(template_metadata, "annotations"), ORIGINAL_IMAGES),
        ),
        containers: containers
            .map(|source| (source.container.to_owned(), source.image.to_owned()))
            .collect(),
        images,
        never_pulled,
        pull_secrets: secrets
            .map(|secret| text(secret, "name").to_owned())
            .collect(),
        key,
    }
}

/// A container, or a volume that is an image.
struct Source<'a> {
    list: ImageList,
    /// The name of the container.
    container: &'a str,
    image: &'a str,
    pull_policy: &'a str,
}

fn sources(pod_spec: &Value) -> Vec<Source<'_>> {
    let sources = ImageList::ALL.into_iter().flat_map(|images| {
        list(pod_spec, images.key()).iter().map(move |entry| {
            let object = match images {
                ImageList::Volumes => field(entry, "image"),
                _ => entry,
            };
            Source {
                list: images,
                container: text(object, "name"),
                image: text(object, images.image_key()),
                pull_policy: text(object, images.pull_policy_key()),
            }
        })
    });
    sources.collect()
}

fn labels(metadata: &Value) -> Labels {
    let labels = field(metadata, "labels").as_object().into_iter().flatten();
    let labels = labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
    labels.collect()
}

/// The labels and annotations, each of which can opt out or request injection.
fn marks(metadata: &Value) -> impl Iterator<Item = &Value> {
    ["annotations", "labels"]
        .map(|name| field(metadata, name))
        .into_iter()
}

fn is_opted_out(metadata: &Value) -> bool {
    marks(metadata).any(|marks| text(marks, SKIP) == "true")
}

/// Returns whether a label or annotation makes Istio inject containers.
fn requests_injection(metadata: &Value) -> bool {
    let mut marks = marks(metadata).filter_map(Value::as_object).flatten();
    marks.any(|(name, value)| {
        placeholder::requests_injection(name, value.as_str().unwrap_or_default())
    })
}

fn is_deleted(metadata: &Value) -> bool {
    field(metadata, "deletionTimestamp").is_string()
}

/// Returns `None` if a field is missing that the API server requires.
fn owner(reference: &Value) -> Option<Owner> {
    let part = |name| {
        let part = text(reference, name);
        (!part.is_empty()).then(|| part.into())
    };
    Some(Owner {
        api_version: part("apiVersion")?,
        kind: part("kind")?,
        name: part("name")?,
        uid: part("uid")?,
    })
}

/// Returns the images that the annotation names as copies, each with its original.
fn originals(images: &[String], annotation: &str) -> Vec<(String, String)> {
    let entries: BTreeMap<String, String> = serde_json::from_str(annotation).unwrap_or_default();
    let annotated = images.iter().filter_map(|image| {
        let original = entries.get(image)?;
        Some((image.clone(), original.clone()))
    });
    annotated.collect()
}

/// An owned `ReplicaSet` without replicas is the history of a Deployment. If it counted as running, the first start in a
/// cluster would copy ten old versions of everything.
fn has_ended(kind: WorkloadKind, is_owned: bool, object: &Value) -> bool {
    let status = field(object, "status");
    match kind {
        WorkloadKind::Pod => matches!(text(status, "phase"), "Succeeded" | "Failed"),
        WorkloadKind::Job => list(status, "conditions").iter().any(|condition| {
            matches!(text(condition, "type"), "Complete" | "Failed")
                && text(condition, "status") == "True"
        }),
        WorkloadKind::ReplicaSet => is_owned && field(field(object, "spec"), "replicas") == 0,
        _ => false,
    }
}

fn is_paused(kind: WorkloadKind, spec: &Value) -> bool {
    match kind {
        WorkloadKind::Deployment => flag(spec, "paused"),
        WorkloadKind::CronJob => flag(spec, "suspend"),
        _ => false,
    }
}

impl<'de> Deserialize<'de> for Watched {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = Value::deserialize(deserializer)?;
        Ok(Self {
            metadata: object_meta(&object),
            object,
        })
    }
}

impl Resource for Watched {
    type DynamicType = Kind;
    type Scope = DynamicResourceScope;

    fn kind(kind: &Kind) -> Cow<'_, str> {
        kind.name().into()
    }

    fn group(kind: &Kind) -> Cow<'_, str> {
        kind.group().into()
    }

    fn version(_: &Kind) -> Cow<'_, str> {
        Kind::VERSION.into()
    }

    fn plural(kind: &Kind) -> Cow<'_, str> {
        kind.plural().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
