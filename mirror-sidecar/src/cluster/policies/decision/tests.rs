use std::sync::Arc;

use proptest::prelude::*;
use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::cluster::index::tests::deployment;
use crate::cluster::policies::{Policies, PolicyId};

fn set(specs: &[Value]) -> Arc<PolicySet> {
    let policies = specs.iter().enumerate().map(|(index, spec)| {
        let mut spec = spec.clone();
        spec["settings"]["sidecar"] = json!("a.b:1");
        let id = PolicyId {
            name: format!("p{index}").into(),
            uid: Box::default(),
        };
        Arc::new(Policy::parse(&spec).unwrap().with_id(id))
    });
    let shared = Policies::default();
    shared.publish(policies.collect());
    shared.current()
}

/// The action and the rule of each decision about `image` in a Deployment of the namespace shop.
fn decided(set: &PolicySet, workload: &Workload, image: &str) -> Vec<String> {
    let of = Use {
        namespace: "shop",
        labels: None,
        workload: Some(workload),
    };
    let excluded = [NamespacePattern::parse("kube-*").unwrap()];
    let decisions = decide(set, &excluded, &of, &ImageRef::parse(image).unwrap());
    let text = |decision: &ImageDecision| {
        let outcome = match &decision.outcome {
            Outcome::Mirror { backup } => format!("mirror {backup}"),
            Outcome::Rewrite { image } => format!("rewrite {image}"),
            Outcome::Keep(reason) => format!("keep ({reason})"),
        };
        format!("{outcome}: {}", decision.rule())
    };
    decisions.iter().map(text).collect()
}

fn settings(settings: &Value) -> Value {
    json!({ "settings": settings })
}

#[rstest]
#[case::no_rule(json!({"settings": {}}), "mirror default: default of policy p0")]
#[case::rule(
    settings(&json!({"rules": [{"images": ["a.b/*"], "action": "keep"}, {"action": "mirror", "backup": "x"}]})),
    "mirror x: rules[1] of policy p0"
)]
#[case::kept(settings(&json!({"rules": [{"action": "keep"}]})), "keep (a rule keeps the original): rules[0] of policy p0")]
#[case::rewritten(
    settings(&json!({"rules": [{"images": ["docker.io/*"], "action": "rewrite", "target": "hub.test/d"}]})),
    "rewrite hub.test/d/library/nginx:1: rules[0] of policy p0"
)]
#[case::excluded(
    settings(&json!({"excludedNamespaces": ["sh*"]})),
    "keep (the namespace is excluded): excludedNamespaces of policy p0"
)]
#[case::older_form(
    settings(&json!({"images": {"exclude": ["docker.io/*"]}})),
    "keep (a rule keeps the original): images.exclude of policy p0"
)]
#[case::label(
    settings(&json!({"skipLabels": ["app=db"]})),
    "keep (the workload has the label app=db): skipLabels of policy p0"
)]
#[case::owner(
    settings(&json!({"skipOwners": ["example.com/Database"]})),
    "keep (its owner, a Database, compares images itself): skipOwners of policy p0"
)]
#[case::object(
    json!({"settings": {}, "objectSelector": {"matchLabels": {"app": "web"}}}),
    "keep (the labels of the workload do not match the policy): objectSelector of policy p0"
)]
#[case::namespace(
    json!({"settings": {}, "namespaceSelector": {"matchExpressions": [
        {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["shop"]}
    ]}}),
    "keep (the policy does not select the namespace): namespaceSelector of policy p0"
)]
#[case::unknown_labels(
    json!({"settings": {}, "namespaceSelector": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}}),
    "keep (the policy selects namespaces by labels, which are not known here): namespaceSelector of policy p0"
)]
fn the_deciding_setting_is_named(#[case] spec: Value, #[case] expected: &str) {
    let workload = Workload {
        owners: vec![("example.com/v1".into(), "Database".into())],
        labels: [("app".into(), "db".into())].into(),
        ..deployment("web", &[])
    };
    assert_eq!(decided(&set(&[spec]), &workload, "nginx:1"), [expected]);
}

#[test]
fn a_copy_comes_before_the_reasons_of_other_policies() {
    let keep = settings(&json!({"rules": [{"action": "keep"}]}));
    let excluded = settings(&json!({"excludedNamespaces": ["shop"]}));
    let mirror = settings(&json!({"rules": [{"action": "mirror", "backup": "x"}]}));
    let web = deployment("web", &[]);
    let all = [excluded.clone(), keep.clone(), mirror.clone(), mirror];
    let expected = ["mirror x: rules[0] of policy p2"];
    assert_eq!(decided(&set(&all), &web, "nginx"), expected);
    let expected = ["keep (a rule keeps the original): rules[0] of policy p1"];
    assert_eq!(decided(&set(&[excluded, keep]), &web, "nginx"), expected);
}

#[test]
fn flags_decide_without_policies() {
    let policies = PolicySet::default();
    let excluded = [NamespacePattern::parse("kube-*").unwrap()];
    let image = ImageRef::parse("nginx").unwrap();
    let decision = |namespace| {
        let of = Use {
            namespace,
            labels: None,
            workload: None,
        };
        decide(&policies, &excluded, &of, &image).remove(0)
    };
    assert_eq!(decision("shop").outcome.action(), "mirror");
    assert_eq!(decision("shop").rule(), "default");
    assert_eq!(decision("kube-system").rule(), "--exclude-namespaces");
    let exempt = Workload {
        is_exempt: true,
        ..deployment("web", &[])
    };
    assert!(decided(&policies, &exempt, "nginx")[0].starts_with("keep (the workload has opted"));
}

fn any_rule() -> impl Strategy<Value = Value> {
    let pick = |values: &[&'static str]| prop::sample::select(values.to_vec());
    let action = pick(&["keep", "default", "a", "rewrite"]);
    (
        pick(&["shop", "sh*", "x"]),
        pick(&["quay.io/*", "docker.io/*"]),
        action,
    )
        .prop_map(|(namespace, images, action)| {
            let mut rule =
                json!({"namespaces": [namespace], "images": [images], "action": "mirror"});
            match action {
                "keep" => rule["action"] = json!("keep"),
                "rewrite" => {
                    rule["action"] = json!("rewrite");
                    rule["target"] = json!(format!("hub.test/{}", &images[..4]));
                }
                backup => rule["backup"] = json!(backup),
            }
            rule
        })
}

proptest! {
    /// What is explained is what the service does.
    #[test]
    fn decisions_agree_with_the_demand(
        rules in prop::collection::vec(prop::collection::vec(any_rule(), 0..4), 1..3),
        is_exempt: bool,
        labelled: bool,
    ) {
        let specs: Vec<_> = rules
            .iter()
            .map(|rules| settings(&json!({"rules": rules, "skipLabels": ["a=b"]})))
            .collect();
        let set = set(&specs);
        let mut workload = Workload { is_exempt, ..deployment("web", &[]) };
        if labelled {
            workload.labels.insert("a".into(), "b".into());
        }
        let demand = set.demand(set.select("shop", None), &workload);
        let of = Use { namespace: "shop", labels: None, workload: Some(&workload) };
        for image in ["nginx", "quay.io/a/b:1", "ghcr.io/a:1", "hub.test/quay/a:1"] {
            let image = ImageRef::parse(image).unwrap();
            let decisions = decide(&set, &[], &of, &image);
            for backup in ["default", "a"] {
                let backup = BackupName::parse(backup).unwrap();
                let is_mirrored = decisions.contains_outcome(&Outcome::Mirror { backup: backup.clone() });
                prop_assert_eq!(is_mirrored, !is_exempt && demand.wants(&image, &backup));
            }
            let mut rewritten = decisions.iter().map(|decision| &decision.outcome);
            let is_rewritten = rewritten.any(|outcome| matches!(outcome, Outcome::Rewrite { .. }));
            prop_assert_eq!(is_rewritten, !is_exempt && demand.rewrites(&image));
        }
    }
}

trait Outcomes {
    fn contains_outcome(&self, outcome: &Outcome) -> bool;
}

impl Outcomes for Vec<ImageDecision> {
    fn contains_outcome(&self, outcome: &Outcome) -> bool {
        self.iter().any(|decision| decision.outcome == *outcome)
    }
}
