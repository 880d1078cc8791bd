//! What a guest hears from the host: the order of the checks, the texts, the log.

use rstest::rstest;
use serde_json::json;

use super::guest::{Step, guest};
use crate::fixtures;
use crate::host::{Evaluation, PolicyHost, PolicyHostBuilder};

/// Calls the host once and fails with its error.
fn call(namespace: &'static str, operation: &'static str, payload: &str) -> Vec<Step> {
    call_with_binding("kubewarden", namespace, operation, payload)
}

fn call_with_binding(
    binding: &'static str,
    namespace: &'static str,
    operation: &'static str,
    payload: &str,
) -> Vec<Step> {
    vec![
        Step::Call(binding, namespace, operation, payload.to_owned()),
        Step::FailWithHostError,
    ]
}

fn run(
    steps: &[Step],
    configure: impl FnOnce(PolicyHostBuilder) -> PolicyHostBuilder,
) -> Evaluation {
    configure(PolicyHost::builder(guest(steps)))
        .build()
        .unwrap()
        .evaluate(&fixtures::load("pod-create"), &json!({}))
        .unwrap()
}

/// The host's error text as the guest got it.
fn heard(evaluation: &Evaluation) -> &str {
    evaluation
        .response
        .message()
        .trim_start_matches("internal server error: Guest call failure: ")
}

#[rstest]
#[case::namespace("http", "v1/get", "unknown namespace: http")]
#[case::operation("oci", "v9/pull", "unknown operation: v9/pull")]
#[case::log_operation("tracing", "shout", "unknown operation: shout")]
fn unknown_calls(
    #[case] namespace: &'static str,
    #[case] operation: &'static str,
    #[case] text: &str,
) {
    let evaluation = run(&call(namespace, operation, "{}"), |host| host);
    assert_eq!(heard(&evaluation), text);
}

#[test]
fn the_binding_is_checked_before_the_allow_list() {
    let steps = call_with_binding("other", "oci", "v1/oci_manifest", "5");
    let evaluation = run(&steps, |host| host.allow_capabilities([""; 0]));
    assert_eq!(heard(&evaluation), "unknown binding: other");
}

#[test]
fn the_allow_list_is_checked_before_the_payload() {
    let steps = call("oci", "v1/oci_manifest", "5");
    let evaluation = run(&steps, |host| host.allow_capabilities(["oci/v1/verify"]));
    assert_eq!(
        heard(&evaluation),
        "Policy has not been granted access to the 'oci/v1/oci_manifest' host capability. \
         The violation has been reported."
    );
    let call = &evaluation.calls[0];
    assert_eq!(call.operation, "oci/v1/oci_manifest");
    assert!(call.outcome.is_err());
}

#[test]
fn a_payload_of_another_type_gives_the_bare_message() {
    let evaluation = run(&call("oci", "v1/oci_manifest", "5"), |host| host);
    assert_eq!(
        heard(&evaluation),
        "invalid type: integer `5`, expected a string at line 1 column 1"
    );
}

#[test]
fn kubernetes_reads_are_not_granted() {
    let payload = r#"{"api_version":"v1","kind":"Secret","name":"x"}"#;
    let evaluation = run(&call("kubernetes", "get_resource", payload), |host| host);
    assert_eq!(
        heard(&evaluation),
        "Policy has not been granted access to Kubernetes v1/Secret resources. \
         The violation has been reported."
    );
}

#[test]
fn what_the_test_host_lacks_is_said() {
    let evaluation = run(&call("oci", "v2/verify", "{}"), |host| host);
    let text = heard(&evaluation);
    assert!(
        text.starts_with(
            "Callback evaluation failure: the test host does not implement oci/v2/verify"
        ),
        "{text}"
    );
}

#[test]
fn the_log_is_kept_and_never_fails() {
    let log = |payload: &str| Step::Call("kubewarden", "tracing", "log", payload.to_owned());
    let steps = [
        log(r#"{"level":"warning","message":"careful","image":"nginx"}"#),
        log("not json"),
        Step::FailWithHostResponse,
    ];
    let evaluation = run(&steps, |host| host.allow_capabilities([""; 0]));
    assert_eq!(heard(&evaluation), "", "the answer is empty");
    assert_eq!(evaluation.logs[0].level, "WARNING");
    assert_eq!(evaluation.logs[0].message, "careful");
    assert_eq!(evaluation.logs[0].event["image"], "nginx");
    assert_eq!(evaluation.logs[1].event, json!("not json"));
    assert!(evaluation.calls.is_empty(), "logging is no call");
}

#[rstest]
#[case::grammar("localhost:5000/UPPER/case:1", "invalid reference format")]
#[case::port_in_path("localhost:5000/reg.example.com:5000/foo", "invalid reference format")]
#[case::empty("", "repository name")]
fn a_bad_reference_never_reaches_the_network(#[case] image: &str, #[case] text: &str) {
    let steps = call("oci", "v1/oci_manifest", &json!(image).to_string());
    let evaluation = run(&steps, |host| host);
    let message = heard(&evaluation);
    assert!(
        message.starts_with("Callback evaluation failure: ") && message.contains(text),
        "{message}"
    );
    assert_eq!(evaluation.calls[0].argument, image);
}

#[test]
fn a_refused_connection_is_told_with_all_its_causes() {
    // Nothing listens on port 1 of loopback.
    let steps = call("oci", "v1/oci_manifest", r#""localhost:1/a/b:1""#);
    let evaluation = run(&steps, |host| host);
    let text = heard(&evaluation);
    assert!(
        text.starts_with(
            "Callback evaluation failure: Fail to interact with OCI registry: \
             error sending request for url (https://localhost:1/v2/a/b/manifests/1)\n\nCaused by:\n    0: "
        ),
        "{text}"
    );
    assert!(text.contains("Connection refused"), "{text}");
}
