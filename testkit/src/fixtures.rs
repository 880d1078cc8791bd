//! Admission requests exactly as an API server sent them, and the images in them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use oci_spec::distribution::Reference;
use serde_json::Value;

use crate::artifacts;

/// Keys under which a pod names an image: `containers[].image` and the like, and `volumes[].image.reference`.
const IMAGE_KEYS: [&str; 2] = ["image", "reference"];

/// Loads `e2e-tests/fixtures/admission/<name>.json`: an `AdmissionReview` of `admission.k8s.io/v1`.
///
/// # Panics
/// When there is no such fixture, with the names that there are.
#[must_use]
pub fn load(name: &str) -> Value {
    read(&folder().join(format!("{name}.json")))
        .unwrap_or_else(|error| panic!("{error:#}; there are {:?}", names()))
}

/// The names of all fixtures, sorted.
///
/// # Panics
/// When the folder cannot be read.
#[must_use]
pub fn names() -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder())
        .expect("the fixtures are part of the sources")
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let json = path.extension()? == "json";
            json.then(|| path.file_stem()?.to_str().map(str::to_owned))?
        })
        .collect();
    names.sort();
    names
}

/// The images that the pod templates in a request's object name, sorted, without repetitions.
#[must_use]
pub fn images(review: &Value) -> Vec<String> {
    let mut found = images_of(&review["request"]["object"]);
    found.sort();
    found.dedup();
    found
}

/// The images that an object names, in the order of its fields, repetitions included.
#[must_use]
pub fn images_of(object: &Value) -> Vec<String> {
    let mut found = Vec::new();
    replace_images(&mut object.clone(), &mut |image| {
        found.push(image.to_owned());
        None
    });
    found
}

/// Replaces image strings anywhere in an object or a whole review; `None` leaves one as it is.
pub fn replace_images(value: &mut Value, replace: &mut dyn FnMut(&str) -> Option<String>) {
    match value {
        Value::Array(items) => items
            .iter_mut()
            .for_each(|item| replace_images(item, replace)),
        Value::Object(fields) => {
            for (key, field) in fields {
                match field {
                    Value::String(image) if IMAGE_KEYS.contains(&key.as_str()) => {
                        if let Some(new) = replace(image) {
                            *image = new;
                        }
                    }
                    other => replace_images(other, replace),
                }
            }
        }
        _ => {}
    }
}

/// Moves every image of a review (object and old object) to the registry `host:port`, whatever its own registry is:
/// `nginx:1.27` becomes `host:port/library/nginx:1.27`. Gives the old and the new reference of each.
pub fn move_images(review: &mut Value, registry: &str) -> BTreeMap<String, String> {
    let mut moved = BTreeMap::new();
    replace_images(review, &mut |image| {
        let new = moved_to(image, registry)?;
        moved.insert(image.to_owned(), new.clone());
        Some(new)
    });
    moved
}

/// The reference of an image in another registry; tag and digest stay. `None` when it is not an image reference.
#[must_use]
pub fn moved_to(image: &str, registry: &str) -> Option<String> {
    let reference: Reference = image.parse().ok()?;
    let mut new = format!("{registry}/{}", reference.repository());
    if let Some(tag) = reference.tag() {
        new = format!("{new}:{tag}");
    }
    if let Some(digest) = reference.digest() {
        new = format!("{new}@{digest}");
    }
    Some(new)
}

fn folder() -> PathBuf {
    artifacts::workspace().join("e2e-tests/fixtures/admission")
}

fn read(path: &Path) -> anyhow::Result<Value> {
    let bytes = fs::read(path).with_context(|| format!("{} cannot be read", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("{} is not JSON", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[test]
    fn every_fixture_is_an_admission_review() {
        let names = names();
        assert!(names.len() > 20, "{names:?}");
        for name in names {
            assert_eq!(load(&name)["kind"], "AdmissionReview", "{name}");
        }
    }

    #[rstest]
    #[case("nginx:1.27", "r:5000/library/nginx:1.27")]
    #[case("busybox", "r:5000/library/busybox:latest")]
    #[case("grafana/grafana:11.2.0", "r:5000/grafana/grafana:11.2.0")]
    #[case("ghcr.io/acme/migrate:v2", "r:5000/acme/migrate:v2")]
    #[case("localhost:5000/team/old:1", "r:5000/team/old:1")]
    fn an_image_moves(#[case] image: &str, #[case] expected: &str) {
        assert_eq!(moved_to(image, "r:5000").as_deref(), Some(expected));
    }

    #[test]
    fn tag_and_digest_stay() {
        let digest = format!("sha256:{}", "a".repeat(64));
        assert_eq!(
            moved_to(&format!("postgres:16@{digest}"), "r:5000"),
            Some(format!("r:5000/library/postgres:16@{digest}"))
        );
    }

    #[test]
    fn all_images_of_a_review_move() {
        let mut review = load("deployment-create");
        let before = images(&review);
        assert!(
            before.contains(&"quay.io/crio/artifact:v1".to_owned()),
            "image volumes count"
        );
        let moved = move_images(&mut review, "r:5000");
        assert_eq!(before.len(), moved.len());
        assert!(
            images(&review)
                .iter()
                .all(|image| image.starts_with("r:5000/"))
        );
    }
}
