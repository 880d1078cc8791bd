//! What the watch streams are read into, and what it means once its kind is known.

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::core::DynamicResourceScope;
use mirror_contract::placeholder;
use mirror_contract::workload::pod_template_path;
use serde::{Deserialize, Deserializer};

use super::read::{self, Container, Originals, Raw, Spec, Status, Template};
use super::{Key, Life, NamespaceObject, Object, Owner, Workload};
use crate::cluster::api_response::is_envelope;
use crate::cluster::json_filter::Keep;
use crate::cluster::lenient;
use crate::cluster::workload_kind::{Kind, WorkloadKind};

/// Longest string of an object that is read: an image reference has at most some 600 bytes, a token that continues a list
/// about a thousand, the annotation with the originals of fifty copies ten thousand.
const MAX_STRING: usize = 16 * 1024;

/// Elements of a list within an object that are read, such as containers or owners.
const MAX_ELEMENTS: usize = 1024;

/// Bytes of an object that are read.
const MAX_BYTES: usize = 256 * 1024;

/// An object as a watch stream gives it: items of a list do not say of which kind they are.
#[derive(Clone, Debug)]
pub struct Watched {
    /// The name and the resource version only, which is what the watcher works with.
    metadata: ObjectMeta,
    raw: Raw,
}

impl Watched {
    /// What is read of an object.
    pub(in crate::cluster) const KEEP: Keep = Keep {
        is_wanted: |name| is_envelope(name) || read::is_wanted(name),
        string: MAX_STRING,
        elements: MAX_ELEMENTS,
        bytes: MAX_BYTES,
    };

    /// What it means as an object of this kind; `None` without a name, and for a workload without a namespace.
    #[must_use]
    pub fn into_object(self, kind: Kind) -> Option<Object> {
        if self.raw.metadata.name.is_empty() {
            return None;
        }
        match kind {
            Kind::Namespace => Some(Object::Namespace(namespace(self.raw))),
            Kind::Workload(_) if self.raw.metadata.namespace.is_empty() => None,
            Kind::Workload(kind) => Some(Object::Workload(Box::new(workload(self.raw, kind)))),
        }
    }
}

fn namespace(raw: Raw) -> NamespaceObject {
    NamespaceObject {
        created: raw.metadata.created.parse().ok(),
        is_terminating: raw.metadata.deleted.0 || raw.status.phase == "Terminating",
        name: raw.metadata.name.into(),
    }
}

fn workload(raw: Raw, kind: WorkloadKind) -> Workload {
    let Raw {
        mut metadata,
        spec,
        status,
    } = raw;
    let mut owners = std::mem::take(&mut metadata.owners).into_iter();
    let controller = owners.find(|owner| owner.is_controller);
    let is_owned = controller.is_some();
    let is_deleted = metadata.deleted.0;
    let has_ended = is_done(kind, is_owned, &spec, &status);
    let life = if is_deleted || has_ended {
        Life::Done
    } else if is_paused(kind, &spec) {
        Life::Paused
    } else {
        Life::Active
    };
    let Template {
        metadata: template,
        spec: mut pod,
    } = match pod_template_path(kind.group(), kind.name()) {
        [] => Template {
            spec: spec.pod,
            ..Template::default()
        },
        ["spec", "jobTemplate", ..] => spec.job_template.spec.template,
        _ => spec.template,
    };
    let marked = match kind {
        WorkloadKind::Pod => &metadata,
        _ => &template,
    };
    let annotation = &marked.annotations.originals;
    let is_injected = marked.requests_injection() || pod.has_customised_sidecar;
    let is_image = |image: &str| !placeholder::is_placeholder(image, is_injected);
    pod.images.retain(|image| is_image(image));
    // What replaces a placeholder is not in the template.
    pod.containers
        .retain(|container| is_image(&container.image));
    let secrets = pod.pull_secrets.into_iter();
    Workload {
        life,
        is_deleted,
        has_ended,
        revision: metadata.labels.revision.as_str().into(),
        is_owned,
        controller: controller.and_then(owner),
        is_exempt: metadata.is_opted_out()
            || template.is_opted_out()
            || metadata.annotations.is_static.0,
        is_noted: metadata.annotations.originals.is_there,
        originals: originals_of(&pod.images, annotation),
        images: pod.images,
        containers: pod
            .containers
            .into_iter()
            .map(|Container { name, image }| (name, image))
            .collect(),
        pull_secrets: secrets.map(|secret| secret.name).collect(),
        uid: metadata.uid.into(),
        created: metadata.created.parse().ok(),
        key: Key {
            kind,
            namespace: metadata.namespace.into(),
            name: metadata.name.into(),
        },
    }
}

/// Returns `None` if something is missing that the API server asks for.
fn owner(raw: read::Owner) -> Option<Owner> {
    let is_complete = [&raw.api_version, &raw.kind, &raw.name, &raw.uid]
        .iter()
        .all(|part| !part.is_empty());
    is_complete.then(|| Owner {
        api_version: raw.api_version.into(),
        kind: raw.kind.into(),
        name: raw.name.into(),
        uid: raw.uid.into(),
    })
}

/// The images that the annotation names as copies, each with its original.
fn originals_of(images: &[String], annotation: &Originals) -> Vec<(String, String)> {
    let entries: BTreeMap<String, String> =
        serde_json::from_str(&annotation.text).unwrap_or_default();
    let annotated = images.iter().filter_map(|image| {
        let original = entries.get(image)?;
        Some((image.clone(), original.clone()))
    });
    annotated.collect()
}

/// A `ReplicaSet` without replicas that belongs to something is the history of a Deployment. Were it in use, the first
/// start in a cluster would copy ten old versions of everything.
fn is_done(kind: WorkloadKind, is_owned: bool, spec: &Spec, status: &Status) -> bool {
    match kind {
        WorkloadKind::Pod => matches!(status.phase.as_str(), "Succeeded" | "Failed"),
        WorkloadKind::Job => status.conditions.iter().any(|condition| {
            matches!(condition.name.as_str(), "Complete" | "Failed") && condition.status == "True"
        }),
        WorkloadKind::ReplicaSet => is_owned && spec.replicas == Some(0),
        _ => false,
    }
}

fn is_paused(kind: WorkloadKind, spec: &Spec) -> bool {
    match kind {
        WorkloadKind::Deployment => spec.paused,
        WorkloadKind::CronJob => spec.suspend,
        _ => false,
    }
}

impl<'de> Deserialize<'de> for Watched {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw: Raw = lenient::read(deserializer)?;
        let present = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        Ok(Self {
            metadata: ObjectMeta {
                name: present(&raw.metadata.name),
                namespace: present(&raw.metadata.namespace),
                resource_version: present(&raw.metadata.resource_version),
                ..ObjectMeta::default()
            },
            raw,
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
