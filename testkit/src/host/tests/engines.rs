//! The interpreter of the demo gives what wasmtime gives.

use std::time::Duration;

use rstest::rstest;
use serde_json::json;

use super::guest::{Step, guest, policy};
use crate::fixtures;
use crate::host::{Evaluation, PolicyHost, PolicyHostBuilder};

fn hosts(
    text: &str,
    configure: impl Fn(PolicyHostBuilder) -> PolicyHostBuilder,
) -> [PolicyHost; 2] {
    let builder = || configure(PolicyHost::builder(wat::parse_str(text).unwrap()));
    [builder(), builder().interpreted()].map(|builder| builder.build().unwrap())
}

fn evaluations(steps: &[Step]) -> [Evaluation; 2] {
    let hosts = hosts(&guest(steps), |builder| {
        builder
            .epoch_tick(Duration::from_millis(10))
            .replay(|_, image| match image {
                "known" => Ok(r#"{"digest":"sha256:00"}"#.to_owned()),
                _ => Err("unknown image".to_owned()),
            })
    });
    hosts.map(|host| {
        let request = fixtures::load("pod-create");
        let mut evaluation = host.evaluate(&request, &json!({})).unwrap();
        evaluation.elapsed = Duration::ZERO;
        for call in &mut evaluation.calls {
            call.elapsed = Duration::ZERO;
        }
        evaluation
    })
}

fn digest_of(image: &str) -> Step {
    Step::Call(
        "kubewarden",
        "oci",
        "v1/manifest_digest",
        json!(image).to_string(),
    )
}

#[rstest]
#[case::request(vec![Step::FailWithRequest])]
#[case::error(vec![Step::Fail("oh no")])]
#[case::verdict(vec![Step::Respond(json!({"accepted": true, "mutated_object": {"kind": "Pod"}}).to_string())])]
#[case::nothing(vec![])]
#[case::call(vec![digest_of("known"), Step::FailWithHostResponse])]
#[case::failed_call(vec![digest_of("other"), Step::FailWithHostError])]
#[case::other_binding(vec![Step::Call("other", "oci", "v1/manifest_digest", String::new()), Step::FailWithHostError])]
#[case::log(vec![Step::Call("kubewarden", "tracing", "log", json!({"level": "INFO", "message": "m"}).to_string())])]
#[case::endless(vec![Step::Loop])]
fn evaluations_are_equal(#[case] steps: Vec<Step>) {
    let [compiled, interpreted] = evaluations(&steps);
    assert_eq!(compiled, interpreted);
}

#[test]
fn a_trap_is_a_refusal_with_the_reason_of_the_engine() {
    for evaluation in evaluations(&[Step::Trap]) {
        let response = evaluation.response;
        let message = response.message();
        assert!(!response.allowed);
        let start = "internal server error: Guest call failure: ";
        assert!(message.starts_with(start), "{message}");
    }
}

#[test]
fn other_operations_are_equal() {
    let [compiled, interpreted] = hosts(&policy(&[]), |builder| builder);
    assert_eq!(
        compiled.protocol_version().unwrap(),
        interpreted.protocol_version().unwrap()
    );
    assert_eq!(
        compiled.validate_settings(&json!({})),
        interpreted.validate_settings(&json!({}))
    );
}
