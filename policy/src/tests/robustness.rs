//! Requests and objects that cannot be understood.

use rstest::rstest;
use serde_json::{Value, json};

use super::fixtures::{
    answer, answer_with, changes, create, first_image, fixture, pod, pod_of, warnings,
};
use super::script::{SIDECAR, Script, TAG_DIGEST, secret_not_needed};
use crate::fuzzing::response as validate;

/// A payload of which the object is given as text.
fn payload(object: &str) -> String {
    format!(
        r#"{{"request":{{"uid":"1","kind":{{"group":"","version":"v1","kind":"Pod"}},"operation":"CREATE","namespace":"shop","object":{object}}},"settings":{{"sidecar":"{SIDECAR}"}}}}"#
    )
}

fn answer_to_object(object: &str) -> kubewarden_policy_sdk::response::ValidationResponse {
    validate(payload(object).as_bytes(), &mut Script::new())
}

#[rstest]
#[case::nothing(b"")]
#[case::not_json(b"hello")]
#[case::not_utf8(b"{\"request\":\xff}")]
#[case::null(b"null")]
#[case::no_request(b"{}")]
#[case::null_request(br#"{"request":null,"settings":{}}"#)]
#[case::wrong_types(br#"{"request":{"uid":5,"kind":[]}}"#)]
#[case::twice(br#"{"request":{"operation":"CREATE","operation":"UPDATE"}}"#)]
fn an_unreadable_request_is_accepted_with_a_warning(#[case] payload: &[u8]) {
    let answer = validate(payload, &mut Script::new());
    assert!(answer.accepted && answer.mutated_object.is_none());
    assert!(
        warnings(&answer)[0]
            .starts_with("image-mirror: images not rewritten: cannot parse the request")
    );
}

#[rstest]
#[case::missing("null", "invalid policy settings: `sidecar` is required")]
#[case::unknown_key(
    r#"{"sidecar":"a:1","foo":1}"#,
    "invalid policy settings: unknown setting `foo`"
)]
#[case::not_an_object("7", "invalid policy settings: the settings must be an object")]
fn wrong_settings_do_not_stop_workloads(#[case] settings: &str, #[case] words: &str) {
    let payload = format!(
        r#"{{"request":{},"settings":{settings}}}"#,
        fixture("pod-create")
    );
    let mut script = Script::new();
    let answer = validate(payload.as_bytes(), &mut script);
    assert!(answer.accepted && answer.mutated_object.is_none());
    assert!(
        warnings(&answer)[0].contains(words),
        "{:?}",
        answer.warnings
    );
    assert_eq!(script.asked, [""; 0]);
}

#[rstest]
#[case::deep(format!("{}1{}", r#"{"a":"#.repeat(200), "}".repeat(200)))]
#[case::very_deep(format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000)))]
fn an_unreadable_object_is_accepted_with_a_warning(#[case] object: String) {
    let answer = answer_to_object(&object);
    assert!(answer.accepted && answer.mutated_object.is_none());
    assert!(warnings(&answer)[0].contains("cannot parse the object"));
}

#[test]
fn an_object_nested_as_deep_as_can_be_read_is_written_back() {
    let deep = format!("{}1{}", "[".repeat(120), "]".repeat(120));
    let object = format!(r#"{{"spec":{{"containers":[{{"image":"nginx"}}]}},"deep":{deep}}}"#);
    let answer = answer_to_object(&object);
    assert_eq!(answer.mutated_object.unwrap()["deep"].to_string(), deep);
}

#[test]
fn fields_that_nobody_knows_survive() {
    let mut object = pod_of(&["nginx"]);
    object["spec"]["containers"][0]["quantumEntanglement"] =
        json!({"with": ["the", {"other": null}], "": 1.5});
    object["spec"]["schedulingGatesV7"] = json!([[], {}, "", 0, -1, true]);
    object["status"] = json!({"unicode": "\u{0000}\u{1F980}\"\\/"});
    object["x"] = json!(18_446_744_073_709_551_615_u64);
    let request = create(object);
    let answer = answer(&request, &mut Script::new());
    assert_eq!(
        changes(&request, &answer),
        [
            r#"add /metadata/annotations {"image-mirror.dev/original-images":"{\"backup.test/acme/docker.io-library-nginx:latest\":\"nginx\",\"digests\":\"sha256:1111111111111111111111111111111111111111111111111111111111111111\"}"}"#,
            "replace /spec/containers/0/image backup.test/acme/docker.io-library-nginx:latest",
            r#"add /spec/imagePullSecrets [{"name":"image-mirror-pull"}]"#,
        ]
    );
}

#[rstest]
#[case("0.1")]
#[case("1.0")]
#[case("-0.0")]
#[case("9007199254740993")]
#[case("18446744073709551615")]
#[case("-9223372036854775808")]
#[case("3.0000000000000004e-7")]
#[case("1.2345678901234568e-300")]
// One of the numbers that serde_json reads one unit too low without its feature `float_roundtrip`.
#[case("31.245270191439438")]
#[case("121.48791951161945")]
fn numbers_leave_as_they_came(#[case] number: &str) {
    let object = format!(r#"{{"spec":{{"containers":[{{"image":"nginx"}}]}},"n":{number}}}"#);
    let answer = answer_to_object(&object);
    assert_eq!(answer.mutated_object.unwrap()["n"].to_string(), number);
}

#[rstest]
#[case::containers_not_a_list(json!({"containers": "nginx"}), "containers is not a list")]
#[case::container_not_an_object(json!({"containers": ["nginx"]}), "containers[0] is not an object")]
#[case::image_not_a_string(json!({"containers": [{"image": 7}]}), "the image of containers[0] is not a string")]
#[case::reference_not_a_string(
    json!({"containers": [], "volumes": [{}, {"image": {"reference": {}}}]}),
    "the image of volumes[1] is not a string"
)]
#[case::init_containers_not_a_list(json!({"containers": [], "initContainers": {}}), "initContainers is not a list")]
fn what_is_not_understood_stays_with_a_warning(#[case] spec: Value, #[case] words: &str) {
    let answer = answer(&create(pod(spec)), &mut Script::new());
    assert!(answer.accepted && answer.mutated_object.is_none());
    assert_eq!(
        warnings(&answer),
        [format!("image-mirror: not rewritten: {words}")]
    );
}

#[rstest]
#[case::null_lists(json!({"containers": null, "initContainers": null, "volumes": null}))]
#[case::no_image(json!({"containers": [{"name": "a"}, {"image": null}, {"image": ""}]}))]
#[case::null_volume_image(json!({"containers": [], "volumes": [{"image": null}, {"image": {}}]}))]
fn what_is_missing_is_no_problem(#[case] spec: Value) {
    let answer = answer(&create(pod(spec)), &mut Script::new());
    assert!(answer.accepted && answer.mutated_object.is_none() && answer.warnings.is_none());
}

#[test]
fn oddities_do_not_keep_the_rest_from_being_rewritten() {
    let spec =
        json!({"containers": [{"image": "nginx"}, 7, {"image": []}], "initContainers": true});
    let answer = answer(&create(pod(spec)), &mut Script::new());
    assert!(first_image(&answer).is_some());
    assert_eq!(warnings(&answer).len(), 3);
}

#[test]
fn pull_secrets_that_are_not_a_list_keep_all_images() {
    let mut object = pod_of(&["nginx"]);
    object["spec"]["imagePullSecrets"] = "regcred".into();
    let answer = answer(&create(object), &mut Script::new());
    assert!(answer.accepted && answer.mutated_object.is_none());
    assert!(warnings(&answer)[0].ends_with("imagePullSecrets is not a list"));
}

#[test]
fn metadata_that_is_not_an_object_is_left_alone() {
    let mut object = pod_of(&["nginx"]);
    object["metadata"] = "odd".into();
    let answer = answer(&create(object), &mut Script::new());
    assert!(first_image(&answer).is_some());
    assert_eq!(answer.mutated_object.unwrap()["metadata"], "odd");
}

#[test]
fn a_huge_object_with_many_images_and_huge_strings_is_answered() {
    let names: Vec<_> = (0..5_000).map(|index| format!("image{index}")).collect();
    let mut images: Vec<_> = names.iter().map(String::as_str).collect();
    let huge = "x".repeat(1 << 20);
    images.push(&huge);
    let answer = answer(&create(pod_of(&images)), &mut Script::new());
    assert!(answer.mutated_object.is_some());
    let audit = answer.audit_annotations.unwrap();
    assert!(audit.values().all(|text| text.len() < 20_000));
}

/// The API server refuses an object of which the annotations, keys and values together, have more than 256 KiB.
#[rstest]
#[case::fits(0, true)]
#[case::one_byte_too_many(1, false)]
fn the_note_never_makes_the_annotations_too_long(#[case] more: usize, #[case] is_noted: bool) {
    const NOTE: &str = "image-mirror.dev/original-images";
    let noted = |object: &Value| object["metadata"]["annotations"][NOTE].clone();
    let mut object = pod_of(&["nginx"]);
    let usual = answer(&create(object.clone()), &mut Script::new());
    let note = noted(&usual.mutated_object.unwrap());
    let left = 256 * 1024 - NOTE.len() - note.as_str().unwrap().len();
    object["metadata"]["annotations"] = json!({ "x": "y".repeat(left - 1 + more) });

    let answer = answer(&create(object), &mut Script::new());
    assert!(first_image(&answer).unwrap().starts_with("backup.test/"));
    let found = noted(&answer.mutated_object.unwrap());
    assert_eq!(found, if is_noted { note } else { Value::Null });
}

/// Numbers that do not fit, spellings, the order of keys, and keys that occur twice.
#[rstest]
#[case::more_than_64_bit("340282366920938463463374607431768211455")]
#[case::out_of_range("1e400")]
#[case::spelling("[1.0,1.00,10E-1,-0,0.1e+1]")]
#[case::order(r#"{"b":1,"a":{"d":2,"c":3}}"#)]
#[case::twice(r#"{"a":1,"a":2}"#)]
#[case::escapes(r#""\u0041\/\ud83e\udd80""#)]
#[case::space("[ 1 ,\t2\n]")]
fn what_is_not_edited_stays_byte_for_byte(#[case] rest: &str) {
    let object = |image: &str, more: &str| {
        format!(
            r#"{{{more}"spec":{{"x":{rest},"containers":[{{"y":{rest},"image":"{image}"}}]}},"z":{rest}}}"#
        )
    };
    let payload = payload(&object("nginx", ""));
    let mut script = Script::new()
        .without_hints()
        .reply("pull-secret/shop:latest", secret_not_needed());
    let response = crate::evaluate(payload.as_bytes(), &mut script)
        .to_json()
        .unwrap();
    let copy = "backup.test/acme/docker.io-library-nginx:latest";
    let note = format!(
        r#""metadata":{{"annotations":{{"image-mirror.dev/original-images":"{{\"{copy}\":\"nginx\",\"digests\":\"{TAG_DIGEST}\"}}"}}}},"#
    );
    let expected = format!(r#","mutated_object":{}}}"#, object(copy, &note));
    let response = String::from_utf8(response).unwrap();
    assert!(response.ends_with(&expected), "{response}\n{expected}");
}

#[test]
fn an_object_is_asked_about_a_hundred_images_at_most() {
    let names: Vec<_> = (0..150).map(|index| format!("image{index}")).collect();
    let mut images: Vec<_> = names.iter().map(String::as_str).collect();
    // The same image again is no other.
    images.extend(["image0", "docker.io/library/image0:latest", "image149"]);
    let request = create(pod_of(&images));
    let mut script = Script::new();
    let answer = answer(&request, &mut script);
    let asked = script
        .asked
        .iter()
        .filter(|question| question.starts_with("tag/"));
    assert_eq!(asked.count(), 100);
    let object = answer.mutated_object.as_ref().unwrap();
    let image = |index: usize| {
        object["spec"]["containers"][index]["image"]
            .as_str()
            .unwrap()
    };
    assert!(image(99).starts_with("backup.test/") && image(151).starts_with("backup.test/"));
    assert_eq!((image(100), image(152)), ("image100", "image149"));
    let limit = "50 images: at most 100 different images of an object are looked up";
    assert_eq!(
        warnings(&answer),
        [format!("image-mirror: not mirrored, {limit}")]
    );
    assert_eq!(answer.audit_annotations.unwrap()["not-mirrored"], limit);

    let strict = json!({"whenNotMirrored": "reject"});
    let rejected = answer_with(&request, &mut Script::new(), strict.clone());
    assert_eq!(
        rejected.message.unwrap(),
        "image-mirror: 50 images: at most 100 different images of an object are looked up"
    );
    // What runs already is no reason.
    let mut deployment = create(
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"template": pod_of(&images)}}),
    );
    deployment["operation"] = "UPDATE".into();
    deployment["oldObject"] = deployment["object"].clone();
    assert!(answer_with(&deployment, &mut Script::new(), strict).accepted);
}

#[test]
fn of_a_million_oddities_a_few_are_told() {
    let answer = answer(
        &create(pod(json!({"containers": vec![0; 1_000_000]}))),
        &mut Script::new(),
    );
    let warnings = warnings(&answer);
    assert_eq!(warnings.len(), 6);
    assert_eq!(warnings[5], "image-mirror: and 999995 more");
}
