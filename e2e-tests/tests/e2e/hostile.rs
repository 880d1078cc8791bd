//! Objects and answers that are hard to digest: the policy's wasm gets through them in time, lets every workload pass, and
//! leaves alone what it cannot understand.

mod shapes;

use std::sync::LazyLock;
use std::thread;
use std::time::Duration;

use crate::support::{assert_untouched, policy_builder, warnings};
use e2e_tests::session::manifest;
use mirror_contract::{
    Backup, Digest, ImageStatus, Naming, PullSecretStatus, Query, Refusal, RefusalKind,
};
use rstest::rstest;
use serde_json::{Value, json};
use testkit::fixtures::images_of;
use testkit::host::{Evaluation, PolicyHost};

const SIDECAR: &str = "sidecar.test:5000";
const MIB: usize = 1 << 20;

/// Seconds, of which the last may be anything from none to a whole one. A policy server's default is 2; but here the host's
/// own part counts too, it is not optimised, and others keep the machine busy.
const DEADLINE: u64 = if cfg!(debug_assertions) { 4 } else { 2 };

/// One for all, since compiling the module takes longest. What its sidecar says depends on the image's name.
static HOST: LazyLock<PolicyHost> = LazyLock::new(|| {
    let host = policy_builder().epoch_ticks(DEADLINE);
    host.replay(|_, reference| answer(reference))
        .build()
        .unwrap()
});

fn answer(reference: &str) -> Result<String, String> {
    let question = reference.strip_prefix(SIDECAR).unwrap();
    let (repository, tag) = question.trim_start_matches('/').rsplit_once(':').unwrap();
    let image = match Query::decode(repository, tag).unwrap() {
        Query::PullSecret { .. } => {
            return Ok(manifest(&PullSecretStatus::NotNeeded.annotations()).unwrap());
        }
        Query::Image { image, .. } => image,
    };
    let digest = Digest::parse(&format!("sha256:{}", "1".repeat(64))).map(Digest::into_owned);
    let digest = image.digest().cloned().or(digest).unwrap();
    let backup = Backup::new("backup.test", "acme", Naming::Flat).unwrap();
    let copy = backup.target(&image).unwrap();
    let mirrored = ImageStatus::Mirrored {
        image: copy,
        digest,
        secret: None,
    };
    let mut annotations = mirrored.annotations();
    let name = image.path().rsplit('/').next().unwrap_or_default();
    match name {
        "long-manifest" => annotations.push(("more", "x".repeat(MIB))),
        "long-error" => return Err("nothing ".repeat(MIB / 8)),
        "long-reason" => {
            let refusal = Refusal::new(RefusalKind::Failed, "").to_string();
            return Err(format!("{refusal}{}", "reasons ".repeat(MIB / 8)));
        }
        "slow" => thread::sleep(Duration::from_millis(30)),
        _ => {}
    }
    Ok(manifest(&annotations).unwrap())
}

/// A request to create a Pod.
fn create(object: Value) -> Value {
    let mut request = json!({
        "uid": "1",
        "kind": { "group": "", "version": "v1", "kind": "Pod" },
        "resource": { "group": "", "version": "v1", "resource": "pods" },
        "operation": "CREATE",
        "namespace": "shop",
        "userInfo": {}
    });
    request["object"] = object;
    request
}

fn admit_with(object: Value, settings: &Value) -> Evaluation {
    let mut settings = settings.clone();
    settings["sidecar"] = json!(SIDECAR);
    let evaluation = HOST.evaluate(&create(object), &settings).unwrap();
    assert!(evaluation.response.allowed, "{:?}", evaluation.response);
    for warning in warnings(&evaluation) {
        assert!(warning.chars().count() <= 120, "{warning}");
    }
    evaluation
}

fn admit(object: Value) -> Evaluation {
    admit_with(object, &json!({}))
}

fn pod(images: impl IntoIterator<Item = impl AsRef<str>>) -> Value {
    let containers: Vec<_> = images
        .into_iter()
        .map(|image| json!({ "image": image.as_ref() }))
        .collect();
    json!({ "metadata": { "name": "hard" }, "spec": { "containers": containers } })
}

fn forty() -> Value {
    pod((0..40).map(|index| format!("ghcr.io/acme/image{index}:v1")))
}

/// The images that were replaced by their copies.
fn copies(evaluation: &Evaluation) -> usize {
    let images = evaluation.mutated.as_ref().map(images_of);
    let images = images.unwrap_or_default();
    let copies = images
        .iter()
        .filter(|image| image.starts_with("backup.test/"));
    copies.count()
}

#[test]
fn forty_images_are_asked_for_one_by_one() {
    let evaluation = admit(forty());
    assert_eq!(copies(&evaluation), 40);
    // The pull Secret is asked for too.
    assert_eq!(evaluation.calls.len(), 41);
}

#[test]
fn evaluations_at_the_same_time_do_not_disturb_each_other() {
    thread::scope(|scope| {
        let evaluations: Vec<_> = (0..8).map(|_| scope.spawn(|| admit(forty()))).collect();
        for evaluation in evaluations {
            assert_eq!(copies(&evaluation.join().unwrap()), 40);
        }
    });
}

/// A policy server takes no body of more than 2 MiB, so the last one is more than ever comes.
#[rstest]
#[case(MIB)]
#[case(3 * MIB)]
fn a_large_object_is_rewritten(#[case] size: usize) {
    let mut object = pod(["nginx"]);
    let variable = |index| json!({ "name": format!("VARIABLE_{index}"), "value": "x".repeat(64) });
    let variables: Vec<_> = (0..size / 95).map(variable).collect();
    object["spec"]["containers"][0]["env"] = json!(variables);
    assert!(object.to_string().len() >= size);
    assert_eq!(copies(&admit(object)), 1);
}

#[test]
fn ten_thousand_containers_are_rewritten() {
    let images = (0..10_000).map(|index| format!("image{}", index % 40));
    assert_eq!(copies(&admit(pod(images))), 10_000);
}

/// A few more than fit into what a policy server takes. To compare each with all of the old object takes over four seconds,
/// and else a fifth of one.
#[test]
fn an_update_of_tens_of_thousands_of_images_that_are_kept_is_no_denial() {
    let object =
        json!({ "spec": { "template": pod((0..60_000).map(|index| format!("A{index}"))) } });
    let mut request = create(object.clone());
    request["kind"] = json!({ "group": "apps", "version": "v1", "kind": "Deployment" });
    request["operation"] = json!("UPDATE");
    request["oldObject"] = object;
    let settings = json!({ "sidecar": SIDECAR, "whenNotMirrored": "reject" });
    let evaluation = HOST.evaluate(&request, &settings).unwrap();
    assert_untouched(&evaluation);
    assert_eq!(warnings(&evaluation).len(), 6);
}

/// More images than there is time for: those that were asked for in time use their copies.
#[test]
fn more_images_than_there_is_time_for() {
    let images: Vec<_> = (0..40).map(|index| format!("acme{index}/slow")).collect();
    let evaluation = admit_with(pod(images), &json!({ "timeBudgetMs": 50 }));
    let calls = evaluation.calls.len();
    assert!((1..=3).contains(&calls), "{calls} calls");
    assert_eq!(copies(&evaluation), calls - 1);
    assert_eq!(warnings(&evaluation).len(), 6);
}

#[test]
fn an_image_name_of_a_mebibyte_stays() {
    let evaluation = admit(pod(["x".repeat(MIB)]));
    assert_untouched(&evaluation);
    assert_eq!(evaluation.calls, []);
    assert_eq!(warnings(&evaluation).len(), 1);
    let audit = evaluation.response.audit_annotations.unwrap();
    assert!(audit.values().all(|text| text.len() < 1000));
}

#[test]
fn a_manifest_of_a_mebibyte_is_read() {
    assert_eq!(copies(&admit(pod(["long-manifest"]))), 1);
}

#[rstest]
#[case::text("long-error", "the sidecar does not respond")]
#[case::reason("long-reason", "reasons reasons")]
fn an_error_of_a_mebibyte_is_cut(#[case] image: &str, #[case] words: &str) {
    let evaluation = admit(pod([image]));
    assert_untouched(&evaluation);
    assert!(warnings(&evaluation)[0].contains(words));
    let audit = evaluation.response.audit_annotations.unwrap();
    assert!(audit.values().all(|text| text.len() < 1000));
    let logs = evaluation.logs.iter().map(|line| line.event.to_string());
    assert!(logs.map(|event| event.len()).sum::<usize>() < 2000);
}
