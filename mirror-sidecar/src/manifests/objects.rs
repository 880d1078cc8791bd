//! What an object of a manifest uses: a workload, the Pod templates in a custom kind, or the objects of a list.

use std::fmt;

use mirror_contract::workload::pod_template_path;
use serde_json::{Map, Value, json};

use super::image_fields::{self, ImageField};
use crate::cluster::workload::NamespaceObject;
use crate::cluster::{Kind, Object, Watched, Workload, WorkloadKind};

/// Pod templates of one object that are read. An Argo Workflow or a `JobSet` has some dozens.
const MAX_TEMPLATES: usize = 1000;

/// The name of an object that has none, as with `generateName`.
const UNNAMED: &str = "(unnamed)";

/// An object that uses images, as users know it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectName {
    pub kind: Box<str>,
    pub namespace: Box<str>,
    pub name: Box<str>,
}

/// What an object contains.
#[derive(Debug)]
pub enum Found {
    /// An object with a Pod template, or the Pod of a template in a custom kind.
    Workload {
        object: ObjectName,
        workload: Box<Workload>,
    },
    Namespace(NamespaceObject),
    /// An image in a field that is no container.
    Field {
        object: ObjectName,
        field: ImageField,
    },
}

/// Passes everything in an object, or in the objects of a list, to `found`. Objects without a namespace are in `namespace`.
pub(super) fn read(value: Value, namespace: &str, found: &mut dyn FnMut(Found)) {
    match value {
        Value::Array(objects) => objects
            .into_iter()
            .for_each(|object| read(object, namespace, found)),
        Value::Object(object) => read_object(object, namespace, found),
        _ => {}
    }
}

fn read_object(mut object: Map<String, Value>, namespace: &str, found: &mut dyn FnMut(Found)) {
    let (api_version, kind) = (text(&object, "apiVersion"), text(&object, "kind"));
    if let Some(of_items) = kind.strip_suffix("List")
        && let Some(Value::Array(items)) = object.remove("items")
    {
        for mut item in items {
            // The items of `kind: DeploymentList` do not repeat their kind.
            if let Value::Object(item) = &mut item
                && !of_items.is_empty()
            {
                for (key, value) in [("apiVersion", &*api_version), ("kind", of_items)] {
                    item.entry(key).or_insert_with(|| json!(value));
                }
            }
            read(item, namespace, found);
        }
        return;
    }
    if kind.is_empty() || kind == "CustomResourceDefinition" {
        return;
    }
    name(&mut object, namespace, kind == "Namespace");
    let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
    let known = match WorkloadKind::named(&kind) {
        Some(known) if known.group() == group => Some(Kind::Workload(known)),
        _ if kind == "Namespace" && group.is_empty() => Some(Kind::Namespace),
        _ => None,
    };
    let named = object_name(&object, &kind);
    let object = Value::Object(object);
    for field in image_fields::of_object(group, &kind, &object) {
        let object = named.clone();
        found(Found::Field { object, field });
    }
    if let Some(known) = known {
        if let Kind::Workload(kind) = known {
            let path = pod_template_path(kind.group(), kind.name()).iter();
            let template = path.fold(&object, |object, key| object.get(key).unwrap_or(&NOTHING));
            for field in image_fields::of_pod_spec(template.get("spec").unwrap_or(&NOTHING)) {
                let object = named.clone();
                found(Found::Field { object, field });
            }
        }
        if let Some(one) = watched(object, known, named) {
            found(one);
        }
        return;
    }
    let mut templates = Vec::new();
    find_templates(&object, true, &mut templates);
    for template in templates {
        for field in image_fields::of_pod_spec(template.spec) {
            let object = named.clone();
            found(Found::Field { object, field });
        }
        let pod = pod(&template, &api_version, &named);
        let kind = Kind::Workload(WorkloadKind::Pod);
        if let Some(one) = watched(pod, kind, named.clone()) {
            found(one);
        }
    }
}

static NOTHING: Value = Value::Null;

fn text(object: &Map<String, Value>, key: &str) -> String {
    let text = object.get(key).and_then(Value::as_str);
    text.unwrap_or_default().to_owned()
}

/// Adds the name and the namespace that the object gets when it is created.
fn name(object: &mut Map<String, Value>, namespace: &str, is_cluster_wide: bool) {
    let metadata = object.entry("metadata").or_insert_with(|| json!({}));
    if !metadata.is_object() {
        *metadata = json!({});
    }
    let Value::Object(metadata) = metadata else {
        return;
    };
    let is_empty = |metadata: &Map<String, Value>, key| text(metadata, key).is_empty();
    if is_empty(metadata, "name") {
        let prefix = text(metadata, "generateName");
        let name = if prefix.is_empty() {
            UNNAMED.to_owned()
        } else {
            format!("{prefix}*")
        };
        metadata.insert("name".to_owned(), json!(name));
    }
    if is_empty(metadata, "namespace") && !is_cluster_wide {
        metadata.insert("namespace".to_owned(), json!(namespace));
    }
}

fn object_name(object: &Map<String, Value>, kind: &str) -> ObjectName {
    let part = |key| {
        let metadata = object.get("metadata").and_then(|it| it.get(key));
        metadata.and_then(Value::as_str).unwrap_or_default().into()
    };
    ObjectName {
        kind: kind.into(),
        namespace: part("namespace"),
        name: part("name"),
    }
}

fn watched(object: Value, kind: Kind, named: ObjectName) -> Option<Found> {
    let watched: Watched = serde_json::from_value(object).ok()?;
    Some(match watched.into_object(kind)? {
        Object::Namespace(namespace) => Found::Namespace(namespace),
        Object::Workload(workload) => Found::Workload {
            object: named,
            workload,
        },
    })
}

/// Finds the Pod templates in a custom kind: objects with a Pod's spec that has containers. The object itself may have one, as a
/// `Prometheus` has, whose labels are not those of its Pods.
fn find_templates<'v>(value: &'v Value, is_root: bool, found: &mut Vec<Template<'v>>) {
    if found.len() >= MAX_TEMPLATES {
        return;
    }
    match value {
        Value::Object(fields) => {
            if let Some(spec) = fields.get("spec").filter(|spec| has_containers(spec)) {
                let metadata = fields.get("metadata").filter(|_| !is_root);
                found.push(Template { metadata, spec });
                return;
            }
            for field in fields.values() {
                find_templates(field, false, found);
            }
        }
        Value::Array(elements) => {
            for element in elements {
                find_templates(element, false, found);
            }
        }
        _ => {}
    }
}

/// A Pod template in a custom kind.
struct Template<'v> {
    metadata: Option<&'v Value>,
    spec: &'v Value,
}

fn has_containers(spec: &Value) -> bool {
    let containers = spec.get("containers").and_then(Value::as_array);
    let mut containers = containers.into_iter().flatten();
    containers.any(|container| {
        let is_text = |key| container.get(key).is_some_and(Value::is_string);
        is_text("name") && is_text("image")
    })
}

/// The Pod that a controller of a custom kind creates from a template.
fn pod(template: &Template<'_>, api_version: &str, owner: &ObjectName) -> Value {
    let metadata = template.metadata.and_then(Value::as_object);
    let mut metadata = metadata.cloned().unwrap_or_default();
    metadata.insert("name".to_owned(), json!(owner.name));
    metadata.insert("namespace".to_owned(), json!(owner.namespace));
    let owners = json!([{
        "apiVersion": api_version, "kind": owner.kind, "name": owner.name, "uid": UNNAMED, "controller": true,
    }]);
    metadata.insert("ownerReferences".to_owned(), owners);
    json!({ "metadata": metadata, "spec": template.spec })
}

/// `Deployment shop/web`
impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}
