use std::collections::BTreeSet;

use mirror_contract::{BackupName, ImageRef};

use super::*;
use crate::cluster::index::Image;
use crate::cluster::mirrored_images::name::Installation;
use crate::status::query::Place;

pub(in crate::cluster::mirrored_images) fn installation() -> Installation {
    Installation {
        namespace: "image-mirror".to_owned(),
        name: "image-mirror".to_owned(),
    }
}

pub(in crate::cluster::mirrored_images) fn key() -> RowKey {
    RowKey {
        image: Image::new(ImageRef::parse("nginx:1.27").unwrap().into_owned()),
        place: Place::Backup(BackupName::parse("default").unwrap().into_owned()),
    }
}

/// The status of an image without anything optional.
pub(in crate::cluster::mirrored_images) fn status(state: State) -> ImageStatus {
    ImageStatus {
        original: key().image.to_string(),
        rule: None,
        backup: None,
        target: None,
        state,
        reason: "there is no copy yet".to_owned(),
        digest: None,
        bytes: None,
        platforms: Vec::new(),
        users: Users {
            total: 3,
            items: vec![User {
                namespace: "shop".to_owned(),
                kind: "Deployment".to_owned(),
                name: "web".to_owned(),
            }],
        },
        first_seen: None,
        last_check: None,
        last_copy: None,
        upstream: Upstream::Unknown,
        progress: None,
    }
}

pub(in crate::cluster::mirrored_images) fn time(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

/// The status of a copy, with all that can be known about it.
pub(in crate::cluster::mirrored_images) fn mirrored() -> ImageStatus {
    ImageStatus {
        rule: Some(Rule {
            policy: Some("image-mirror".to_owned()),
            name: "rules[2]".to_owned(),
        }),
        backup: Some("default".to_owned()),
        target: Some("registry.example.com/acme/docker.io-library-nginx:1.27".to_owned()),
        reason: "the backup has a complete copy".to_owned(),
        digest: Some(format!("sha256:{}", "0".repeat(64))),
        bytes: Some(71_470_000),
        platforms: vec!["linux/amd64".to_owned(), "linux/arm64".to_owned()],
        last_check: Some(Time(time(0))),
        last_copy: Some(Time(time(-60))),
        upstream: Upstream::Current,
        ..status(State::Mirrored)
    }
}

pub(in crate::cluster::mirrored_images) fn object(status: ImageStatus) -> MirroredImage {
    MirroredImage::new(&installation(), &key(), status, time(0))
}

fn definition() -> Value {
    let file = "../charts/image-mirror/files/mirroredimages.yaml";
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    yaml_serde::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The paths of all fields of a schema, and of those that are required.
fn fields_of_schema(
    schema: &Value,
    path: &str,
    all: &mut BTreeSet<String>,
    required: &mut BTreeSet<String>,
) {
    let names = schema["required"].as_array().into_iter().flatten();
    required.extend(names.map(|name| format!("{path}.{}", name.as_str().unwrap())));
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        all.insert(path.clone());
        fields_of_schema(field, &path, all, required);
    }
    if schema.get("items").is_some() {
        fields_of_schema(&schema["items"], path, all, required);
    }
}

fn fields_of_value(value: &Value, path: &str, all: &mut BTreeSet<String>) {
    for (name, field) in value.as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        all.insert(path.clone());
        fields_of_value(field, &path, all);
    }
    for element in value.as_array().into_iter().flatten() {
        fields_of_value(element, path, all);
    }
}

fn fields_of_object(status: ImageStatus) -> BTreeSet<String> {
    let body = object(status).creation("name");
    let mut fields = BTreeSet::new();
    for part in ["spec", "status"] {
        fields.insert(format!(".{part}"));
        fields_of_value(&body[part], &format!(".{part}"), &mut fields);
    }
    fields
}

#[test]
fn the_definition_has_the_fields_of_the_types() {
    let definition = definition();
    let spec = &definition["spec"];
    let names = [
        &spec["group"],
        &spec["names"]["kind"],
        &spec["names"]["plural"],
    ];
    assert_eq!(names, [GROUP, KIND, PLURAL]);
    assert_eq!(definition["metadata"]["name"], format!("{PLURAL}.{GROUP}"));
    let version = &spec["versions"][0];
    assert_eq!(version["name"], VERSION);
    let schema = &version["schema"]["openAPIV3Schema"];
    let (mut all, mut required) = (BTreeSet::new(), BTreeSet::new());
    fields_of_schema(schema, "", &mut all, &mut required);
    assert_eq!(fields_of_object(mirrored()), all);
    assert_eq!(fields_of_object(status(State::Missing)), required);
    let properties = &schema["properties"]["status"]["properties"];
    let states: Vec<_> = State::ALL.map(State::as_str).into();
    assert_eq!(properties["state"]["enum"], json!(states));
    let upstreams = [
        Upstream::Current,
        Upstream::Moved,
        Upstream::Gone,
        Upstream::Unknown,
    ];
    assert_eq!(properties["upstream"]["enum"], json!(upstreams));
}

#[test]
fn each_column_is_a_field() {
    let definition = definition();
    let columns = definition["spec"]["versions"][0]["additionalPrinterColumns"].clone();
    let mut fields = fields_of_object(mirrored());
    fields.insert(".metadata.creationTimestamp".to_owned());
    let columns = columns.as_array().unwrap();
    assert_eq!(columns.len(), 10);
    for column in columns {
        let path = column["jsonPath"].as_str().unwrap();
        assert!(fields.contains(path), "{path}");
    }
}

#[test]
fn a_patch_removes_what_is_not_known_any_more() {
    let bare = object(status(State::Missing));
    let patch = bare.patch();
    let mut stored = object(mirrored()).creation("name");
    for part in ["spec", "status"] {
        for (name, value) in patch[part].as_object().unwrap() {
            let fields = stored[part].as_object_mut().unwrap();
            if value.is_null() {
                fields.remove(name);
            } else {
                fields.insert(name.clone(), value.clone());
            }
        }
        assert_eq!(stored[part], bare.creation("name")[part], "{part}");
    }
}

#[test]
fn what_is_stored_is_read_back_without_labels_of_others() {
    let object = object(mirrored());
    let mut stored = object.creation("name");
    stored["metadata"]["labels"]["example.com/team"] = json!("shop");
    let stored: StoredObject = serde_json::from_value(stored).unwrap();
    assert_eq!(stored.content.as_ref(), Some(&object));
    let broken = json!({ "metadata": { "name": "name" }, "spec": { "image": 7 } });
    let broken: StoredObject = serde_json::from_value(broken).unwrap();
    assert_eq!(broken.content, None);
}

#[test]
fn conditions_are_those_that_people_wait_for() {
    let statuses = |state| -> Vec<String> {
        let object = object(status(state));
        let conditions = object.status.conditions.iter();
        conditions
            .map(|condition| {
                format!(
                    "{}={} {}",
                    condition.type_, condition.status, condition.reason
                )
            })
            .collect()
    };
    assert_eq!(
        statuses(State::Mirrored),
        ["Mirrored=True Mirrored", "Ready=True Mirrored"]
    );
    assert_eq!(
        statuses(State::Excluded),
        ["Mirrored=False Excluded", "Ready=True Excluded"]
    );
    assert_eq!(
        statuses(State::Failed),
        ["Mirrored=False Failed", "Ready=False Failed"]
    );
    assert_eq!(object(mirrored()).status.used_by, "shop/Deployment/web +2");
    assert_eq!(object(mirrored()).status.size.unwrap(), "68.1 MiB");
}
