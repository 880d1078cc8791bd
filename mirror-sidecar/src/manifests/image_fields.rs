//! Documented fields that hold images and are no containers. The policy does not rewrite them: a controller reads them and
//! creates Pods with these images, and those are rewritten.
//!
//! Only fields whose documentation says that they hold an image are known; nothing is guessed from the look of a text.

use mirror_contract::ImageRef;
use serde_json::Value;

/// An image in such a field.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImageField {
    /// The field, such as `spec.image` or `args --acme-http01-solver-image`.
    pub field: Box<str>,
    /// The image as it is written.
    pub image: Box<str>,
}

/// Fields of custom kinds, by API group and kind.
const FIELDS: [(&str, &str, &[&str]); 9] = [
    // prometheus-operator, "API reference"
    (
        "monitoring.coreos.com",
        "Prometheus",
        &["spec.image", "spec.thanos.image"],
    ),
    ("monitoring.coreos.com", "PrometheusAgent", &["spec.image"]),
    ("monitoring.coreos.com", "Alertmanager", &["spec.image"]),
    ("monitoring.coreos.com", "ThanosRuler", &["spec.image"]),
    // CloudNativePG, "API Reference"
    ("postgresql.cnpg.io", "Cluster", &["spec.imageName"]),
    // postgres-operator of Zalando, "Cluster manifest reference"
    ("acid.zalan.do", "postgresql", &["spec.dockerImage"]),
    // Strimzi, "Custom resource API reference"
    ("kafka.strimzi.io", "Kafka", &["spec.kafka.image"]),
    // Elastic Cloud on Kubernetes, "API reference"
    (
        "elasticsearch.k8s.elastic.co",
        "Elasticsearch",
        &["spec.image"],
    ),
    ("kibana.k8s.elastic.co", "Kibana", &["spec.image"]),
];

/// Flags of controllers, as `--flag=image` or `--flag image`.
const FLAGS: [&str; 11] = [
    // cert-manager, "Controller CLI reference"
    "--acme-http01-solver-image",
    // prometheus-operator, "CLI reference"
    "--alertmanager-default-base-image",
    "--prometheus-config-reloader",
    "--prometheus-default-base-image",
    "--thanos-default-base-image",
    // longhorn-manager, "daemon"
    "--backing-image-manager-image",
    "--engine-image",
    "--instance-manager-image",
    "--manager-image",
    "--share-manager-image",
    "--support-bundle-manager-image",
];

/// Environment variables of controllers.
const VARIABLES: [&str; 6] = [
    // longhorn-driver-deployer
    "CSI_ATTACHER_IMAGE",
    "CSI_LIVENESS_PROBE_IMAGE",
    "CSI_NODE_DRIVER_REGISTRAR_IMAGE",
    "CSI_PROVISIONER_IMAGE",
    "CSI_RESIZER_IMAGE",
    "CSI_SNAPSHOTTER_IMAGE",
];

/// Prefix of variables with images of operators (Operator Framework, "Offline or disconnected support").
const RELATED_IMAGE: &str = "RELATED_IMAGE_";

/// Returns the images in the fields of a custom kind.
pub(super) fn of_object(group: &str, kind: &str, object: &Value) -> Vec<ImageField> {
    let of_kind = FIELDS
        .iter()
        .filter(|(of, name, _)| *of == group && *name == kind);
    let fields = of_kind.flat_map(|(_, _, fields)| fields.iter());
    let found = fields.filter_map(|field| {
        let value = field
            .split('.')
            .try_fold(object, |value, key| value.get(key))?;
        image_field((*field).to_owned(), value.as_str()?)
    });
    found.collect()
}

/// Returns the images in the flags and variables of the containers of a Pod.
pub(super) fn of_pod_spec(spec: &Value) -> Vec<ImageField> {
    let containers = ["initContainers", "containers"].into_iter();
    let containers = containers.flat_map(|list| elements(spec, list));
    containers
        .flat_map(|container| {
            of_flags(container)
                .into_iter()
                .chain(of_variables(container))
        })
        .collect()
}

fn of_flags(container: &Value) -> Vec<ImageField> {
    let mut found = Vec::new();
    for list in ["command", "args"] {
        let words: Vec<_> = elements(container, list)
            .iter()
            .map(Value::as_str)
            .collect();
        for (index, word) in words.iter().enumerate() {
            let Some(word) = word else { continue };
            let (flag, value) = match word.split_once('=') {
                Some((flag, value)) => (flag, Some(value)),
                None => (*word, words.get(index + 1).copied().flatten()),
            };
            if let Some(value) = value.filter(|_| FLAGS.contains(&flag)) {
                found.extend(image_field(format!("{list} {flag}"), value));
            }
        }
    }
    found
}

fn of_variables(container: &Value) -> Vec<ImageField> {
    let variables = elements(container, "env").iter();
    let found = variables.filter_map(|variable| {
        let name = variable.get("name")?.as_str()?;
        let is_known = VARIABLES.contains(&name) || name.starts_with(RELATED_IMAGE);
        let value = variable.get("value").filter(|_| is_known)?.as_str()?;
        image_field(format!("env {name}"), value)
    });
    found.collect()
}

fn elements<'v>(object: &'v Value, key: &str) -> &'v [Value] {
    let list = object.get(key).and_then(Value::as_array);
    list.map(Vec::as_slice).unwrap_or_default()
}

fn image_field(field: String, image: &str) -> Option<ImageField> {
    ImageRef::parse(image).ok()?;
    Some(ImageField {
        field: field.into(),
        image: image.into(),
    })
}
