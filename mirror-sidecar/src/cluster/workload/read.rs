//! Where the parts of an object are, and how they are read.
//!
//! The places are those of the policy (`pod_template`, `images`, `exclusions` there), so that both sides mean the same.

use mirror_contract::placeholder;
use mirror_contract::workload::{ImageList, ORIGINAL_IMAGES, PULL_NEVER, SKIP, STATIC_POD};
use serde::de::MapAccess;

use crate::cluster::lenient::{Lenient, Present, fields, skip, value};

/// A `StatefulSet` or `DaemonSet` marks each Pod with its template.
const REVISION: &str = "controller-revision-hash";

/// Returns whether fields of this name may matter in some place: all that is read below, and no more.
pub(super) fn is_wanted(name: &str) -> bool {
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

/// An object of any kind, with all that may matter.
#[derive(Clone, Debug, Default)]
pub(super) struct Raw {
    pub metadata: Metadata,
    pub spec: Spec,
    pub status: Status,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Metadata {
    pub name: String,
    pub namespace: String,
    pub uid: String,
    pub resource_version: String,
    pub created: String,
    pub deleted: Present,
    pub owners: Vec<Owner>,
    pub annotations: Marks,
    pub labels: Marks,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Owner {
    pub api_version: String,
    pub kind: String,
    pub name: String,
    pub uid: String,
    pub is_controller: bool,
}

/// The annotations or the labels that mean something here.
#[derive(Clone, Debug, Default)]
pub(super) struct Marks {
    pub skip: String,
    pub revision: String,
    pub is_static: Present,
    pub originals: Originals,
    pub requests_injection: bool,
}

/// The policy's annotation with the original images, as JSON. The text is empty if it is too long to be read.
#[derive(Clone, Debug, Default)]
pub(super) struct Originals {
    pub is_there: bool,
    pub text: String,
}

/// The specifications of all kinds in one: no field means two things.
#[derive(Clone, Debug, Default)]
pub(super) struct Spec {
    pub pod: PodSpec,
    /// Of what makes Pods.
    pub template: Template,
    /// Of a `CronJob`.
    pub job_template: JobTemplate,
    pub paused: bool,
    pub suspend: bool,
    pub replicas: Option<i64>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Template {
    pub metadata: Metadata,
    pub spec: PodSpec,
}

#[derive(Clone, Debug, Default)]
pub(super) struct JobTemplate {
    pub spec: JobSpec,
}

#[derive(Clone, Debug, Default)]
pub(super) struct JobSpec {
    pub template: Template,
}

#[derive(Clone, Debug, Default)]
pub(super) struct PodSpec {
    pub images: Vec<String>,
    pub containers: Vec<Container>,
    pub has_customised_sidecar: bool,
    pub pull_secrets: Vec<Named>,
}

/// A container or an init container; an ephemeral one is no part of a template.
#[derive(Clone, Debug)]
pub(super) struct Container {
    pub name: String,
    pub image: String,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Named {
    pub name: String,
}

/// A container, or the source of a volume that is made of an image. They write the same in different words.
#[derive(Default)]
struct Source {
    name: String,
    image: String,
    pull_policy: String,
}

#[derive(Default)]
struct Volume {
    image: Source,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Status {
    pub phase: String,
    pub conditions: Vec<Condition>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Condition {
    pub name: String,
    pub status: String,
}

impl Metadata {
    /// Whether its owner said that the policy must leave it alone.
    pub(super) fn is_opted_out(&self) -> bool {
        self.annotations.skip == "true" || self.labels.skip == "true"
    }

    /// Whether a label or annotation makes Istio inject containers.
    pub(super) fn requests_injection(&self) -> bool {
        self.annotations.requests_injection || self.labels.requests_injection
    }
}

impl PodSpec {
    fn add_containers(&mut self, sources: Vec<Source>) {
        for source in &sources {
            self.containers.push(Container {
                name: source.name.clone(),
                image: source.image.clone(),
            });
        }
        self.add(sources);
    }

    fn add(&mut self, sources: impl IntoIterator<Item = Source>) {
        for Source {
            name,
            image,
            pull_policy,
        } in sources
        {
            self.has_customised_sidecar |= placeholder::is_customised_sidecar(&name, &image);
            if !image.is_empty() && pull_policy != PULL_NEVER {
                self.images.push(image);
            }
        }
    }
}

fields!(Raw { "metadata" => metadata, "spec" => spec, "status" => status });
fields!(Metadata {
    "name" => name,
    "namespace" => namespace,
    "uid" => uid,
    "resourceVersion" => resource_version,
    "creationTimestamp" => created,
    "deletionTimestamp" => deleted,
    "ownerReferences" => owners,
    "annotations" => annotations,
    "labels" => labels,
});
fields!(Owner {
    "apiVersion" => api_version,
    "kind" => kind,
    "name" => name,
    "uid" => uid,
    "controller" => is_controller,
});
fields!(Template { "metadata" => metadata, "spec" => spec });
fields!(JobTemplate { "spec" => spec });
fields!(JobSpec { "template" => template });
fields!(Named { "name" => name });
fields!(Source { "name" => name, "image" | "reference" => image, "imagePullPolicy" | "pullPolicy" => pull_policy });
fields!(Volume { "image" => image });
fields!(Status { "phase" => phase, "conditions" => conditions });
fields!(Condition { "type" => name, "status" => status });

impl Lenient for Originals {
    fn take_flag(&mut self, _: bool) {
        self.is_there = true;
    }

    fn take_integer(&mut self, _: i64) {
        self.is_there = true;
    }

    fn take_text(&mut self, text: &str) {
        self.is_there = true;
        text.clone_into(&mut self.text);
    }
}

impl Lenient for Marks {
    fn take_field<'de, A: MapAccess<'de>>(
        &mut self,
        name: &str,
        object: &mut A,
    ) -> Result<(), A::Error> {
        match name {
            SKIP => self.skip = value(object)?,
            REVISION => self.revision = value(object)?,
            STATIC_POD => self.is_static = value(object)?,
            ORIGINAL_IMAGES => self.originals = value(object)?,
            name if placeholder::is_injection_key(name) => {
                let text: String = value(object)?;
                self.requests_injection |= placeholder::requests_injection(name, &text);
            }
            _ => skip(object)?,
        }
        Ok(())
    }
}

impl Lenient for Spec {
    fn take_field<'de, A: MapAccess<'de>>(
        &mut self,
        name: &str,
        object: &mut A,
    ) -> Result<(), A::Error> {
        match name {
            "template" => self.template = value(object)?,
            "jobTemplate" => self.job_template = value(object)?,
            "paused" => self.paused = value(object)?,
            "suspend" => self.suspend = value(object)?,
            "replicas" => self.replicas = value(object)?,
            _ => self.pod.take_field(name, object)?,
        }
        Ok(())
    }
}

impl Lenient for PodSpec {
    fn take_field<'de, A: MapAccess<'de>>(
        &mut self,
        name: &str,
        object: &mut A,
    ) -> Result<(), A::Error> {
        match name {
            "imagePullSecrets" => self.pull_secrets = value(object)?,
            _ => match ImageList::of(name) {
                Some(ImageList::Volumes) => {
                    let volumes = value::<Vec<Volume>, A>(object)?;
                    self.add(volumes.into_iter().map(|volume| volume.image));
                }
                Some(ImageList::EphemeralContainers) => {
                    self.add(value::<Vec<Source>, A>(object)?);
                }
                Some(ImageList::Containers | ImageList::InitContainers) => {
                    self.add_containers(value::<Vec<Source>, A>(object)?);
                }
                None => skip(object)?,
            },
        }
        Ok(())
    }
}
