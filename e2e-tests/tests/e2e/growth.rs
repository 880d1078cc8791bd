//! Requests in which everything that a tenant sizes grows together: what an evaluation takes grows no faster than they do.
//!
//! Instructions and linear memory are counted, so the figures are the same on every machine.

use std::sync::{Arc, LazyLock};

use e2e_tests::fuel::{Case, Meter, SIDECAR};
use rstest::rstest;
use testkit::artifacts;

/// Bytes of the largest request; the API server takes no more.
const LARGEST: usize = 3_000_000;
/// Percent, for twice the request. Sorted maps add a little.
const MAX_GROWTH: u64 = 220;
/// Bytes of an instance that has done nothing.
const BASE: usize = 2 << 20;

static METER: LazyLock<Meter> = LazyLock::new(|| {
    Meter::new(&std::fs::read(artifacts::policy_module().unwrap()).unwrap()).unwrap()
});

/// A request, from the kind and operation, the object and the old one.
struct Shape {
    kind: (&'static str, &'static str),
    operation: &'static str,
    sub_resource: &'static str,
    object: String,
    old_object: String,
}

impl Shape {
    fn create(object: String) -> Self {
        Self {
            kind: ("", "Pod"),
            operation: "CREATE",
            sub_resource: "",
            object,
            old_object: "null".into(),
        }
    }

    fn update(kind: (&'static str, &'static str), object: String, old_object: String) -> Self {
        Self {
            kind,
            operation: "UPDATE",
            object,
            old_object,
            ..Self::create(String::new())
        }
    }

    fn payload(&self) -> String {
        let Self {
            kind: (group, kind),
            operation,
            sub_resource,
            object,
            old_object,
        } = self;
        format!(
            r#"{{"request":{{"uid":"1","kind":{{"group":"{group}","version":"v1","kind":"{kind}"}},"subResource":"{sub_resource}","operation":"{operation}","namespace":"shop","object":{object},"oldObject":{old_object}}},"settings":{{"sidecar":"{SIDECAR}","backups":["backup.example.com/acme/mirror","old.example.com"],"images":{{"exclude":["*a*b*c*d*e*f*z","*x*y*z"]}},"skipLabels":["a=b","c=d"],"whenNotMirrored":"keep","whenUnavailable":"reject"}}}}"#
        )
    }
}

/// `item` so many times, separated by commas; `%` in it becomes its number, or that number modulo `distinct`.
fn items(count: usize, distinct: usize, item: &str) -> String {
    let items = (0..count).map(|index| item.replace('%', &(index % distinct).to_string()));
    items.collect::<Vec<_>>().join(",")
}

fn deployment(spec: &str, annotations: &str) -> String {
    format!(
        r#"{{"spec":{{"template":{{"metadata":{{"annotations":{{{annotations}}}}},"spec":{{{spec}}}}}}}}}"#
    )
}

/// As an annotation: entries that have the form of copies.
fn originals(count: usize) -> String {
    let entries = items(
        count,
        usize::MAX,
        r#"\"backup.example.com/acme/mirror/docker.io-library-c%:1\":\"c%:1\""#,
    );
    format!(r#""image-mirror.dev/original-images":"{{{entries}}}""#)
}

fn containers_and_secrets(n: usize) -> Shape {
    let (containers, secrets) = (
        items(n, usize::MAX, r#"{"image":"a:1"}"#),
        items(n, usize::MAX, "{}"),
    );
    let secrets = format!(r#"{secrets},{{"name":"image-mirror-pull"}}"#);
    Shape::create(format!(
        r#"{{"spec":{{"containers":[{containers}],"imagePullSecrets":[{secrets}]}}}}"#
    ))
}

fn containers_and_named_secrets(n: usize) -> Shape {
    let (containers, secrets) = (
        items(n, usize::MAX, r#"{"image":"c%:1"}"#),
        items(n, usize::MAX, r#"{"name":"s%"}"#),
    );
    Shape::create(format!(
        r#"{{"spec":{{"containers":[{containers}],"imagePullSecrets":[{secrets}]}}}}"#
    ))
}

fn containers_and_old_ones(n: usize) -> Shape {
    let old = items(n, usize::MAX, r#"{"name":"c%","image":"a%:1"}"#);
    let new = items(n, usize::MAX, r#"{"name":"c%","image":"b%:1"}"#);
    let spec = |list| deployment(&format!(r#""containers":[{list}]"#), "");
    Shape::update(("apps", "Deployment"), spec(new), spec(old))
}

fn containers_of_a_running_pod(n: usize) -> Shape {
    let old = items(n, usize::MAX, r#"{"name":"c%","image":"a:1"}"#);
    let new = items(n, usize::MAX, r#"{"name":"c%","image":"b:1"}"#);
    let pod = |list| {
        format!(
            r#"{{"spec":{{"containers":[{list}],"initContainers":[{list}],"imagePullSecrets":[]}}}}"#
        )
    };
    Shape::update(("", "Pod"), pod(new), pod(old))
}

fn ephemeral_containers(n: usize) -> Shape {
    let old = items(n, usize::MAX, r#"{"name":"c%","image":"a:1"}"#);
    let new = items(n, usize::MAX, r#"{"name":"d%","image":"c%:1"}"#);
    let pod =
        |list: &str| format!(r#"{{"spec":{{"containers":[],"ephemeralContainers":[{list}]}}}}"#);
    let mut shape = Shape::update(("", "Pod"), pod(&format!("{old},{new}")), pod(&old));
    shape.sub_resource = "ephemeralcontainers";
    shape
}

fn metadata(n: usize) -> Shape {
    let annotations = items(n, usize::MAX, r#""a%":"x""#);
    let labels = items(n, usize::MAX, r#""l%":"d""#);
    let owners = items(n, usize::MAX, r#"{"apiVersion":"a/v%","kind":"B"}"#);
    Shape::create(format!(
        r#"{{"metadata":{{"annotations":{{{annotations}}},"labels":{{{labels}}},"ownerReferences":[{owners}]}},"spec":{{"containers":[{{"image":"a:1"}}]}}}}"#
    ))
}

fn volumes(n: usize) -> Shape {
    let volumes = items(
        n,
        usize::MAX,
        r#"{"name":"v%","image":{"reference":"c%:1"}}"#,
    );
    Shape::create(format!(
        r#"{{"spec":{{"containers":[],"volumes":[{volumes}]}}}}"#
    ))
}

fn annotated_originals(n: usize) -> Shape {
    let containers = items(n, usize::MAX, r#"{"name":"c%","image":"c%:1"}"#);
    let copies = items(
        n,
        usize::MAX,
        r#"{"name":"c%","image":"backup.example.com/acme/mirror/docker.io-library-c%:1"}"#,
    );
    let annotation = originals(n / 12);
    let object = |list| deployment(&format!(r#""containers":[{list}]"#), &annotation);
    Shape::update(("apps", "Deployment"), object(containers), object(copies))
}

fn job(n: usize) -> Shape {
    let containers = items(n, 500, r#"{"name":"c%","image":"c%:1"}"#);
    let copies = items(
        n,
        500,
        r#"{"name":"c%","image":"backup.example.com/acme/mirror/docker.io-library-c%:1"}"#,
    );
    let annotation = originals(500);
    let object = |list| deployment(&format!(r#""containers":[{list}]"#), &annotation);
    Shape::update(("batch", "Job"), object(containers), object(copies))
}

fn variables(n: usize) -> Shape {
    let variables = items(n, usize::MAX, r#"{"name":"%"}"#);
    Shape::create(format!(
        r#"{{"spec":{{"containers":[{{"image":"a:1","env":[{variables}]}}]}}}}"#
    ))
}

fn oddities(n: usize) -> Shape {
    let (numbers, images) = (
        items(n, usize::MAX, "%"),
        items(n, usize::MAX, r#"{"image":"A%"}"#),
    );
    Shape::create(format!(
        r#"{{"spec":{{"containers":[{numbers},{images}],"volumes":[{numbers}]}}}}"#
    ))
}

fn repeated_keys(n: usize) -> Shape {
    let lists = items(
        n,
        usize::MAX,
        r#""containers":[{"image":"c%"}],"imagePullSecrets":[{"name":"%"}]"#,
    );
    Shape::create(format!(r#"{{"spec":{{{lists}}}}}"#))
}

/// Names that the settings' patterns nearly fit.
fn long_names(n: usize) -> Shape {
    let name = "abcdefxy".repeat(28);
    let containers = items(
        n,
        usize::MAX,
        &r#"{"image":"NAME/%"}"#.replace("NAME", &name),
    );
    let long = "abcdef".repeat(n * 10);
    Shape::create(format!(
        r#"{{"spec":{{"containers":[{containers},{{"image":"{long}"}}]}}}}"#
    ))
}

#[rstest]
#[case::containers_and_secrets(containers_and_secrets, 16)]
#[case::containers_and_named_secrets(containers_and_named_secrets, 24)]
#[case::containers_and_old_ones(containers_and_old_ones, 16)]
#[case::containers_of_a_running_pod(containers_of_a_running_pod, 8)]
#[case::ephemeral_containers(ephemeral_containers, 16)]
#[case::metadata(metadata, 4)]
#[case::volumes(volumes, 16)]
#[case::annotated_originals(annotated_originals, 16)]
#[case::job(job, 8)]
#[case::variables(variables, 4)]
#[case::oddities(oddities, 16)]
#[case::repeated_keys(repeated_keys, 4)]
#[case::long_names(long_names, 4)]
fn what_an_evaluation_takes_is_linear(
    #[case] shape: fn(usize) -> Shape,
    #[case] max_memory: usize,
) {
    let unit = shape(1_000).payload().len();
    let largest = LARGEST * 1_000 / unit;
    let mut before: Option<u64> = None;
    for count in [largest / 4, largest / 2, largest] {
        let payload = shape(count).payload();
        let size = payload.len();
        let images = ["a:1", "b:1"];
        let spent = METER
            .run(&Arc::new(Case::raw("growth", payload, &images)), 0)
            .unwrap();
        assert!(spent.answer.starts_with(br#"{"accepted":"#));
        assert!(
            spent.memory <= BASE + max_memory * size,
            "{count}: {size} bytes take {} bytes of memory",
            spent.memory
        );
        if let Some(before) = before {
            assert!(
                spent.call * 100 <= before * MAX_GROWTH,
                "{count}: {} instructions, {before} for half the request",
                spent.call
            );
        }
        before = Some(spent.call);
    }
}

/// A tree of JSON values would take forty times the text.
#[test]
fn three_hundred_thousand_variables_take_a_few_times_their_size() {
    let payload = variables(300_000).payload();
    let size = payload.len();
    let spent = METER
        .run(&Arc::new(Case::raw("variables", payload, &["a:1"])), 0)
        .unwrap();
    assert!(spent.answer.len() > size);
    assert!(
        spent.memory < BASE + 3 * size,
        "{size} bytes take {} bytes of memory",
        spent.memory
    );
}
