//! The requests that are measured.

use std::collections::HashMap;

use anyhow::{Context as _, ensure};
use mirror_contract::{
    Backup, Digest, ImageRef, ImageStatus, Mode, Naming, PullSecretStatus, Query, Sidecar,
};
use serde_json::{Map, Value, json};

use crate::session::manifest;
use testkit::fixtures;
use testkit::host::AdmissionRequest;

/// The sidecar that the settings of all cases name.
pub const SIDECAR: &str = "mirror-sidecar.image-mirror.svc:5000";
/// The registry of the copies.
const BACKUP: &str = "backup.example.com";
/// What every tag stands for.
const DIGEST: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";
/// Left alone by default.
const EXCLUDED: &str = "kube-system";

/// Bytes. The API server takes no more annotations than 256 KiB in an object.
const ANNOTATIONS: usize = 250 << 10;
/// Bytes. Together with the annotations 1 MiB, of 1.5 MiB that etcd takes.
const ENVIRONMENT: usize = 774 << 10;

/// A call of a policy, and the host's answers to its questions.
pub struct Case {
    /// A short name, fit for files.
    pub name: &'static str,
    /// The waPC operation.
    pub operation: &'static str,
    /// Its payload.
    pub payload: Vec<u8>,
    /// What image-mirror's policy makes of it.
    pub expected: Expected,
    /// Manifests, by the payload of the question.
    answers: HashMap<Vec<u8>, Vec<u8>>,
}

/// What image-mirror's policy makes of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// It says which protocol it speaks.
    Version,
    /// The object stays as it is, and the host is asked nothing.
    Untouched,
    /// This many images become copies.
    Rewritten(usize),
}

impl Case {
    /// What a fresh instance takes before it does anything: the other cases contain this.
    #[must_use]
    pub fn instantiation() -> Self {
        Self {
            name: "instantiation",
            operation: "protocol_version",
            payload: Vec::new(),
            expected: Expected::Version,
            answers: HashMap::new(),
        }
    }

    /// All cases, with these settings or those of image-mirror's policy.
    ///
    /// # Panics
    /// When a fixture is not what it was.
    #[must_use]
    pub fn all(settings: Option<&Value>) -> Vec<Self> {
        let own = json!({ "sidecar": SIDECAR });
        let settings = settings.unwrap_or(&own);
        let case = |name, expected, review: &Value| Self::of(name, expected, review, settings);
        let ten = pod(10);
        let large = enlarged(pod(10));
        vec![
            Self::instantiation(),
            case(
                "excluded-namespace",
                Expected::Untouched,
                &moved(pod(1), EXCLUDED),
            ),
            case("pod-1", Expected::Rewritten(1), &pod(1)),
            case("pod-10", Expected::Rewritten(10), &ten),
            case("pod-10-opted-out", Expected::Untouched, &opted_out(ten)),
            case(
                "deployment",
                Expected::Rewritten(5),
                &fixtures::load("deployment-create"),
            ),
            case(
                "1mib-excluded-namespace",
                Expected::Untouched,
                &moved(large.clone(), EXCLUDED),
            ),
            case("1mib-pod-10", Expected::Rewritten(10), &large),
        ]
    }

    /// A review of any shape, with the settings of image-mirror's policy.
    ///
    /// # Panics
    /// When it is no request.
    #[must_use]
    pub fn of_review(name: &'static str, expected: Expected, review: &Value) -> Self {
        Self::of(name, expected, review, &json!({ "sidecar": SIDECAR }))
    }

    fn of(name: &'static str, expected: Expected, review: &Value, settings: &Value) -> Self {
        let request = AdmissionRequest::from_json(review).expect("a fixture is a request");
        let namespace = request.namespace.clone().unwrap_or_default();
        let answers = answers(&fixtures::images(review), &namespace);
        let payload = json!({ "request": request, "settings": settings });
        Self {
            name,
            operation: "validate",
            payload: payload.to_string().into_bytes(),
            expected,
            answers: answers.expect("the images of a fixture can be mirrored"),
        }
    }

    /// A request in the namespace `shop`, as text. The sidecar has copies of these images and answers nothing else.
    ///
    /// # Panics
    /// When an image cannot be mirrored.
    #[must_use]
    pub fn raw(name: &'static str, payload: String, images: &[&str]) -> Self {
        let images: Vec<_> = images.iter().map(ToString::to_string).collect();
        Self {
            name,
            operation: "validate",
            payload: payload.into_bytes(),
            expected: Expected::Untouched,
            answers: answers(&images, "shop").expect("the images can be mirrored"),
        }
    }

    /// What the host says to a call of the policy; `None` if nobody expected it.
    #[must_use]
    pub fn answer(&self, namespace: &str, operation: &str, payload: &[u8]) -> Option<&[u8]> {
        match (namespace, operation) {
            ("tracing", "log") => Some(&[]),
            ("oci", "v1/oci_manifest") => self.answers.get(payload).map(Vec::as_slice),
            _ => None,
        }
    }

    /// Whether image-mirror's policy did what it should: a figure for anything else would be worthless.
    ///
    /// # Errors
    /// When it did not.
    pub fn check(&self, answer: &[u8]) -> anyhow::Result<()> {
        let answer: Value = serde_json::from_slice(answer).context("the answer is not JSON")?;
        let copies = fixtures::images_of(&answer["mutated_object"])
            .into_iter()
            .filter(|image| image.starts_with(BACKUP))
            .count();
        let is_right = match self.expected {
            Expected::Version => answer == "v1",
            Expected::Untouched => answer["accepted"] == true && answer["mutated_object"].is_null(),
            Expected::Rewritten(images) => answer["accepted"] == true && copies == images,
        };
        ensure!(
            is_right,
            "{}: expected {:?}, the policy said {answer}",
            self.name,
            self.expected
        );
        Ok(())
    }
}

/// A Pod of so many containers, each with an image of its own, and with what an API server adds.
fn pod(containers: usize) -> Value {
    let mut review = fixtures::load("pod-create");
    let template = fixtures::load("deployment-create");
    let container = &template["request"]["object"]["spec"]["template"]["spec"]["containers"][0];
    let containers = (0..containers).map(|number| {
        let mut container = container.clone();
        container["name"] = format!("container-{number}").into();
        container["image"] =
            format!("registry.example.com/team/service-{number}:1.{number}.0").into();
        container
    });
    review["request"]["object"]["spec"]["containers"] = containers.collect();
    review
}

fn moved(mut review: Value, namespace: &str) -> Value {
    review["request"]["namespace"] = namespace.into();
    review["request"]["object"]["metadata"]["namespace"] = namespace.into();
    review
}

fn opted_out(mut review: Value) -> Value {
    review["request"]["object"]["metadata"]["annotations"]["image-mirror.dev/skip"] = "true".into();
    review
}

/// With as many annotations and variables as make it 1 MiB large: many small values, since they are most to read.
fn enlarged(mut review: Value) -> Value {
    let object = &mut review["request"]["object"];
    let annotations: Map<_, _> = (0..ANNOTATIONS / 100)
        .map(|number| {
            (
                format!("example.com/annotation-{number:05}"),
                filler(number, 66),
            )
        })
        .collect();
    object["metadata"]["annotations"] = annotations.into();
    if let Value::Array(containers) = &mut object["spec"]["containers"] {
        let variables = ENVIRONMENT / 100 / containers.len();
        for container in containers {
            container["env"] = (0..variables)
                .map(|number| json!({ "name": format!("VARIABLE_{number:05}"), "value": filler(number, 64) }))
                .collect();
        }
    }
    review
}

/// Text of so many characters, some of which JSON escapes.
fn filler(number: usize, length: usize) -> Value {
    let text = format!("value {number} of \"many\" ");
    text.chars().cycle().take(length).collect::<String>().into()
}

/// The sidecar's answers, as the host hands them on: everything is mirrored and there is a pull Secret.
fn answers(images: &[String], namespace: &str) -> anyhow::Result<HashMap<Vec<u8>, Vec<u8>>> {
    let sidecar = Sidecar::parse(SIDECAR).context("the sidecar's address")?;
    let backup = Backup::new(BACKUP, "acme/mirror", Naming::Flat)?;
    let mut answers = HashMap::new();
    let mut insert = |query: &Query<'_>, annotations: Vec<_>| {
        let question = serde_json::to_vec(&query.encode(&sidecar)?)?;
        answers.insert(question, manifest(&annotations)?.into_bytes());
        anyhow::Ok(())
    };
    for image in images {
        let image = ImageRef::parse(image)?;
        let digest = image.digest().cloned();
        let digest = digest.or(Digest::parse(DIGEST)).context("a digest")?;
        let copy = backup.target(&image)?;
        let answer = ImageStatus::Mirrored {
            image: copy,
            digest,
            secret: None,
        };
        insert(
            &Query::image(image.clone(), Mode::Ensure),
            answer.annotations(),
        )?;
    }
    let secret = PullSecretStatus::Ready {
        name: "image-mirror-pull".into(),
    };
    let query = Query::pull_secret(namespace, Mode::Ensure).context("a namespace")?;
    insert(&query, secret.annotations())?;
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_large_object_has_a_mebibyte() {
        let cases = Case::all(None);
        let large = cases
            .iter()
            .find(|case| case.name == "1mib-pod-10")
            .unwrap();
        let size = large.payload.len();
        assert!((1 << 20..1_200_000).contains(&size), "{size} bytes");
    }

    #[test]
    fn only_what_is_expected_passes() {
        let version = Case::instantiation();
        assert!(version.check(br#""v1""#).is_ok());
        assert!(version.check(br#""v2""#).is_err());
        let cases = Case::all(None);
        let one = cases.iter().find(|case| case.name == "pod-1").unwrap();
        let answer =
            |image| json!({ "accepted": true, "mutated_object": { "image": image } }).to_string();
        assert!(
            one.check(answer("backup.example.com/a:1").as_bytes())
                .is_ok()
        );
        assert!(one.check(answer("nginx").as_bytes()).is_err());
        assert!(one.check(br#"{"accepted":true}"#).is_err());
    }
}
