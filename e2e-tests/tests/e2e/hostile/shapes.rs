//! Objects of odd shapes, as text: the host's parser has its say first.

use super::{admit, copies, create};
use crate::support::{assert_untouched, warnings};
use rstest::rstest;
use serde_json::{Value, json};
use testkit::host::Evaluation;

/// Admits an object that comes as text, as in the body of the API server's request.
fn admit_text(object: &str) -> Evaluation {
    admit(read(object).unwrap())
}

/// Reads an object as the host does, as a part of an `AdmissionReview`.
fn read(object: &str) -> serde_json::Result<Value> {
    let request = create(Value::Null).to_string();
    let request = request.replace(r#""object":null"#, &format!(r#""object":{object}"#));
    let review: Value = serde_json::from_str(&format!(r#"{{"request":{request}}}"#))?;
    Ok(review["request"]["object"].clone())
}

/// An object that is `depth` levels deep.
fn nested(depth: usize) -> String {
    let (open, close) = ("[".repeat(depth - 1), "]".repeat(depth - 1));
    format!(r#"{{"deep":{open}{close},"spec":{{"containers":[{{"image":"nginx"}}]}}}}"#)
}

/// The object is two levels inside the review, and the host's parser stops after 127.
#[rstest]
#[case(100)]
#[case(125)]
fn an_object_as_deep_as_the_host_can_read_is_rewritten(#[case] depth: usize) {
    assert_eq!(copies(&admit_text(&nested(depth))), 1);
}

/// The real host refuses such a request by itself, and the webhook's `failurePolicy` decides. No policy can help that.
#[rstest]
#[case(126)]
#[case(127)]
#[case(128)]
#[case(100_000)]
fn a_deeper_object_never_reaches_the_policy(#[case] depth: usize) {
    let error = read(&nested(depth)).unwrap_err();
    assert!(error.to_string().starts_with("recursion limit exceeded"));
}

/// Were the host's parser to let more through one day, the policy would not be what stops it.
#[rstest]
#[case::one_more(126, true)]
#[case::too_deep(128, false)]
#[case::far_too_deep(1_000, false)]
fn a_deeper_object_would_pass(#[case] depth: usize, #[case] is_rewritten: bool) {
    let mut object = json!({ "spec": { "containers": [{ "image": "nginx" }] } });
    object["deep"] = (2..depth).fold(json!([]), |inner, _| json!([inner]));
    let evaluation = admit(object);
    assert_eq!(copies(&evaluation), usize::from(is_rewritten));
    if !is_rewritten {
        assert_untouched(&evaluation);
        assert!(warnings(&evaluation)[0].contains("cannot parse the object"));
    }
}

#[rstest]
#[case::image_is_a_number(r#"{"spec":{"containers":[{"image":7}]}}"#, 1)]
#[case::image_is_a_list(r#"{"spec":{"containers":[{"image":["nginx"]}]}}"#, 1)]
#[case::reference_is_an_object(
    r#"{"spec":{"containers":[],"volumes":[{"image":{"reference":{}}}]}}"#,
    1
)]
#[case::image_is_null(r#"{"spec":{"containers":[{"image":null}]}}"#, 0)]
#[case::lists_are_null(
    r#"{"spec":{"containers":null,"initContainers":null,"ephemeralContainers":null,"volumes":null}}"#,
    0
)]
#[case::lists_are_none(r#"{"spec":{"containers":{},"initContainers":"","volumes":7}}"#, 3)]
#[case::containers_are_none(r#"{"spec":{"containers":[null,7,"nginx",[]]}}"#, 4)]
#[case::spec_is_a_list(r#"{"spec":[]}"#, 0)]
#[case::object_is_a_text(r#""nginx""#, 0)]
#[case::image_with_nul(r#"{"spec":{"containers":[{"image":"nginx\u0000"}]}}"#, 1)]
#[case::image_in_cyrillic(r#"{"spec":{"containers":[{"image":"ngіnx"}]}}"#, 1)]
#[case::image_turns_around(r#"{"spec":{"containers":[{"image":"\u202enginx\ud83e\udd80"}]}}"#, 1)]
fn what_is_not_understood_stays(#[case] object: &str, #[case] count: usize) {
    let evaluation = admit_text(object);
    assert_untouched(&evaluation);
    assert_eq!(evaluation.calls, []);
    let warnings = warnings(&evaluation);
    assert_eq!(warnings.len(), count, "{warnings:?}");
    let shown = warnings.iter().flat_map(|line| line.chars());
    assert!(!shown.into_iter().any(char::is_control), "{warnings:?}");
}

/// The rest of an object is as it was, however odd. The patch, applied to the request's object, gives the policy's: the
/// host checks that.
#[rstest]
#[case::numbers(
    r"[18446744073709551615,-9223372036854775808,18446744073709551616,1e308,5e-324,-0.0,1.0,0.1,31.245270191439438]"
)]
#[case::texts(r#"["\u0000","\u001b[31m","\ud83e\udd80","\u202e","\\","\"","/~0~1",""]"#)]
#[case::keys(r#"{"":{"":null},"\u0000":1,"/":[],"~":{},"image":"nginx","a.b/c~d":"x"}"#)]
#[case::empty("[[],{},\"\",null]")]
fn the_rest_is_as_it_was(#[case] rest: &str) {
    let text = format!(r#"{{"odd":{rest},"spec":{{"containers":[{{"image":"nginx"}}]}}}}"#);
    let before = read(&text).unwrap();
    let evaluation = admit_text(&text);
    let mut after = evaluation.mutated.unwrap();
    assert_eq!(
        after["spec"]["containers"][0]["image"].take(),
        "backup.test/acme/docker.io-library-nginx:latest"
    );
    after["spec"]["containers"][0]["image"] = json!("nginx");
    after.as_object_mut().unwrap().remove("metadata");
    assert_eq!(after.to_string(), before.to_string());
}

/// JSON says nothing about keys that occur twice; the host's parser takes the last, so the policy never sees the first.
#[test]
fn of_keys_that_occur_twice_the_last_remains() {
    let object = r#"{
        "spec": { "containers": [{ "image": "first" }] },
        "spec": {
            "containers": [{ "image": "second" }],
            "containers": [{ "image": "third", "image": "fourth" }]
        }
    }"#;
    let evaluation = admit_text(object);
    assert_eq!(copies(&evaluation), 1);
    let asked: Vec<_> = evaluation.calls.iter().map(|call| &call.argument).collect();
    assert_eq!(
        asked,
        [
            "sidecar.test:5000/tag/docker.io/library/fourth:latest",
            "sidecar.test:5000/pull-secret/shop:latest"
        ]
    );
}
