//! From request to response, with every way in which a guest can end.

use std::time::Duration;

use rstest::rstest;
use serde_json::{Value, json};

use super::guest::{Step, accepting, guest};
use crate::fixtures;
use crate::host::{Evaluation, HostError, Mode, PolicyHost};

fn host(wasm: String) -> PolicyHost {
    PolicyHost::builder(wasm).build().unwrap()
}

fn evaluate(steps: &[Step], request: &Value) -> Evaluation {
    host(guest(steps)).evaluate(request, &json!({})).unwrap()
}

fn respond(verdict: &Value) -> Vec<Step> {
    vec![Step::Respond(verdict.to_string())]
}

/// The request as the guest got it, from a guest that fails with it.
fn echoed(evaluation: &Evaluation) -> Value {
    let message = evaluation.response.message();
    let json = message
        .strip_prefix("internal server error: Guest call failure: ")
        .unwrap_or_else(|| panic!("unexpected message {message}"));
    serde_json::from_str(json).unwrap()
}

#[test]
fn the_guest_sees_only_what_the_host_knows() {
    let mut review = fixtures::load("pod-create");
    review["request"]["unknown"] = json!("key");
    review["request"]["oldObject"] = Value::Null;
    review["request"]["userInfo"]["unknown"] = json!("key");
    let host = host(guest(&[Step::FailWithRequest]));
    let settings = json!({"repository": "acme"});
    let evaluation = host.evaluate(&review, &settings).unwrap();
    let payload = echoed(&evaluation);
    let request = &payload["request"];
    assert_eq!(payload["settings"], settings);
    assert_eq!(request["object"], review["request"]["object"]);
    assert_eq!(request["requestKind"]["kind"], "Pod");
    assert_eq!(request["userInfo"]["username"], "admin");
    for absent in ["unknown", "oldObject", "subResource"] {
        assert!(request.get(absent).is_none(), "{absent} must be absent");
    }
    assert!(request["userInfo"].get("unknown").is_none());
    assert_eq!(evaluation.response.status.unwrap().code, Some(500));
}

#[test]
fn the_bare_request_is_as_good_as_the_review() {
    let review = fixtures::load("pod-create");
    let evaluation = evaluate(&respond(&json!({"accepted": true})), &review["request"]);
    assert!(evaluation.response.allowed);
    assert_eq!(evaluation.response.uid, review["request"]["uid"]);
}

#[rstest]
#[case("uid")]
#[case("kind")]
#[case("resource")]
#[case("operation")]
#[case("userInfo")]
fn a_request_without_a_required_field_is_the_tests_fault(#[case] field: &str) {
    let mut review = fixtures::load("pod-create");
    review["request"].as_object_mut().unwrap().remove(field);
    let error = host(accepting()).evaluate(&review, &json!({})).unwrap_err();
    assert!(matches!(error, HostError::Request(_)), "{error}");
}

#[test]
fn a_mutation_becomes_a_patch() {
    let review = fixtures::load("pod-create");
    let mut wanted = review["request"]["object"].clone();
    wanted["spec"]["containers"][0]["image"] = json!("backup/alpine:3.20");
    wanted["spec"]["imagePullSecrets"] = json!([{"name": "pull"}]);
    let verdict = json!({
        "accepted": true,
        "mutated_object": wanted,
        "warnings": ["a warning"],
        "audit_annotations": {"key": "value"},
    });
    let evaluation = evaluate(&respond(&verdict), &review);
    let response = &evaluation.response;
    assert!(response.allowed);
    assert_eq!(response.patch_type.as_deref(), Some("JSONPatch"));
    assert_eq!(response.json_patch().unwrap().0.len(), 2);
    assert_eq!(evaluation.mutated, Some(wanted));
    assert_eq!(response.warnings, Some(vec!["a warning".to_owned()]));
    assert_eq!(response.audit_annotations.as_ref().unwrap()["key"], "value");
    assert_eq!(response.status, None);
}

#[test]
fn an_equal_object_is_no_mutation() {
    let review = fixtures::load("pod-create");
    let verdict = json!({"accepted": true, "mutated_object": review["request"]["object"]});
    let evaluation = evaluate(&respond(&verdict), &review);
    assert!(evaluation.response.allowed);
    assert_eq!(evaluation.response.patch, None);
    assert_eq!(evaluation.response.patch_type, None);
    assert_eq!(evaluation.mutated, None);
}

#[test]
fn a_deletion_cannot_be_mutated() {
    let review = fixtures::load("pod-delete");
    let verdict = json!({"accepted": true, "mutated_object": {"kind": "Pod"}});
    let response = evaluate(&respond(&verdict), &review).response;
    assert!(!response.allowed);
    assert!(response.message().starts_with("Incoming object is null"));
}

#[test]
fn a_refusal_keeps_message_and_code() {
    let verdict = json!({"accepted": false, "message": "no", "code": 403});
    let response = evaluate(&respond(&verdict), &fixtures::load("pod-create")).response;
    assert!(!response.allowed);
    assert_eq!(response.message(), "no");
    assert_eq!(response.status.unwrap().code, Some(403));
}

#[rstest]
#[case::not_allowed(Mode::ProtectWithoutMutation, false)]
#[case::monitor(Mode::Monitor, true)]
fn other_modes_drop_the_patch(#[case] mode: Mode, #[case] allowed: bool) {
    let verdict = json!({"accepted": true, "mutated_object": {"kind": "Pod"}, "warnings": ["w"]});
    let host = PolicyHost::builder(guest(&respond(&verdict)))
        .mode(mode)
        .build()
        .unwrap();
    let evaluation = host
        .evaluate(&fixtures::load("pod-create"), &json!({}))
        .unwrap();
    assert_eq!(evaluation.response.allowed, allowed);
    assert_eq!(evaluation.response.patch, None);
    assert_eq!(evaluation.response.warnings, Some(vec!["w".to_owned()]));
    assert_eq!(
        evaluation
            .response
            .message()
            .contains("configured to not allow mutations"),
        !allowed
    );
}

#[test]
fn monitor_mode_allows_what_the_policy_refuses() {
    let host = PolicyHost::builder(guest(&respond(
        &json!({"accepted": false, "message": "no"}),
    )))
    .mode(Mode::Monitor)
    .build()
    .unwrap();
    let evaluation = host
        .evaluate(&fixtures::load("pod-create"), &json!({}))
        .unwrap();
    assert!(evaluation.response.allowed);
    assert_eq!(evaluation.response.status, None);
}

#[rstest]
#[case::error(
    Step::Fail("oh no"),
    "internal server error: Guest call failure: oh no"
)]
#[case::trap(Step::Trap, "internal server error: Guest call failure: ")]
#[case::nonsense(
    Step::Respond("nonsense".to_owned()),
    "internal server error: invalid response from policy: "
)]
fn a_guest_that_fails_is_a_refusal(#[case] step: Step, #[case] message: &str) {
    let response = evaluate(&[step], &fixtures::load("pod-create")).response;
    assert!(!response.allowed);
    assert!(
        response.message().starts_with(message),
        "{}",
        response.message()
    );
    assert_eq!(response.status.unwrap().code, Some(500));
}

#[test]
fn a_guest_that_takes_too_long_is_stopped() {
    let host = PolicyHost::builder(guest(&[Step::Loop]))
        .epoch_tick(Duration::from_millis(10))
        .epoch_ticks(2)
        .build()
        .unwrap();
    let response = host
        .evaluate(&fixtures::load("pod-create"), &json!({}))
        .unwrap()
        .response;
    assert!(!response.allowed);
    assert_eq!(
        response.message(),
        "Policy execution interrupted because it exceeded the allowed execution time"
    );
    assert_eq!(response.status.unwrap().code, Some(500));
}

#[test]
fn settings_are_validated() {
    let settings = json!({"repository": "acme"});
    let good = host(guest(&[Step::Respond(r#"{"valid":true}"#.to_owned())]));
    assert!(good.validate_settings(&settings).valid);

    let echo = host(guest(&[Step::FailWithRequest])).validate_settings(&settings);
    assert!(!echo.valid);
    let message = echo.message.unwrap();
    assert!(
        message.starts_with("Error invoking settings validation callback: GuestCallFailure("),
        "{message}"
    );
    assert!(message.contains(r#"\"repository\":\"acme\""#), "{message}");
}

#[test]
fn host_calls_fail_while_settings_are_validated() {
    let image = json!("localhost:1/a:b").to_string();
    let host = host(guest(&[
        Step::Call("kubewarden", "oci", "v1/oci_manifest", image),
        Step::FailWithHostError,
    ]));
    let message = host.validate_settings(&json!({})).message.unwrap();
    assert!(
        message.contains("callback channel not provided"),
        "{message}"
    );
}

#[test]
fn every_evaluation_has_a_fresh_instance_and_threads_share_a_host() {
    let host = host(accepting());
    let review = fixtures::load("pod-create");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let evaluation = host.evaluate(&review, &json!({})).unwrap();
                assert!(evaluation.response.allowed);
            });
        }
    });
}

#[test]
fn an_evaluation_works_inside_a_runtime() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let host = host(accepting());
    let evaluation = runtime
        .block_on(async { host.evaluate(&fixtures::load("pod-create"), &json!({})) })
        .unwrap();
    assert!(evaluation.response.allowed);
}

#[test]
fn a_module_that_is_none_is_refused() {
    let error = PolicyHost::builder("nonsense").build().err().unwrap();
    assert!(matches!(error, HostError::Module(_)), "{error}");
}
