//! What sets of policies want, and which policies are followed.

use std::sync::atomic::{AtomicUsize, Ordering};

use kube::runtime::watcher::Event;
use mirror_contract::{ImageRef, NamespacePattern, Sidecar};
use proptest::prelude::*;
use rstest::rstest;
use serde_json::{Value, json};

use super::follow::{Filter, Followed};
use super::*;
use crate::cluster::index::tests::{deployment, pod};
use crate::cluster::testing::{api_server, found, refusal};

const SIDECAR: &str = "mirror-sidecar.image-mirror.svc:5000";

fn spec(mut settings: Value) -> Value {
    settings["sidecar"] = json!(SIDECAR);
    json!({ "settings": settings, "mode": "monitor" })
}

fn policy(settings: Value) -> Policy {
    Policy::parse(&spec(settings)).unwrap()
}

fn set(policies: Vec<Policy>) -> Arc<PolicySet> {
    let shared = Policies::default();
    shared.publish(policies.into_iter().map(Arc::new).collect());
    shared.current()
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    let pairs = pairs.iter();
    pairs
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

/// Whether an image is copied for a workload in a namespace with these labels.
fn is_wanted(
    set: &PolicySet,
    workload: &Workload,
    namespace: Option<&Labels>,
    image: &str,
) -> bool {
    let selection = set.select(&workload.key.namespace, namespace);
    let image = ImageRef::parse(image).unwrap();
    let demand = set.demand(selection, workload);
    let wants = demand.wants(&image, &BackupName::DEFAULT);
    assert!(!(wants && demand.is_nothing()));
    wants
}

#[rstest]
#[case::all_by_default(json!({}), true)]
#[case::kept(json!({"rules": [{"images": ["docker.io/*"], "action": "keep"}]}), false)]
#[case::another_namespace(json!({"rules": [{"namespaces": ["team"], "action": "keep"}]}), true)]
#[case::excluded_image(json!({"images": {"exclude": ["*nginx*"]}}), false)]
#[case::excluded_namespace(json!({"excludedNamespaces": ["sho*"]}), false)]
#[case::skipped_owner(json!({"skipOwners": ["example.com/Database"]}), false)]
#[case::another_owner(json!({"skipOwners": ["example.com/Other"]}), true)]
#[case::skipped_label(json!({"skipLabels": ["app=db"]}), false)]
#[case::skipped_label_of_the_template(json!({"skipLabels": ["tier=inner"]}), false)]
#[case::another_value(json!({"skipLabels": ["app=web"]}), true)]
fn settings_decide(#[case] settings: Value, #[case] expected: bool) {
    let workload = Workload {
        owners: vec![("example.com/v1".into(), "Database".into())],
        labels: labels(&[("app", "db")]),
        template_labels: labels(&[("tier", "inner")]),
        ..deployment("web", &["nginx"])
    };
    let set = set(vec![policy(settings)]);
    assert_eq!(is_wanted(&set, &workload, None, "nginx"), expected);
}

#[rstest]
#[case::label(json!({"objectSelector": {"matchLabels": {"app": "db"}}}), true)]
#[case::another_value(json!({"objectSelector": {"matchLabels": {"app": "web"}}}), false)]
#[case::not_in(json!({"objectSelector": {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["db"]}]}}), false)]
#[case::not_in_without_the_label(json!({"objectSelector": {"matchExpressions": [{"key": "x", "operator": "NotIn", "values": ["db"]}]}}), true)]
#[case::exists(json!({"objectSelector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]}}), true)]
#[case::does_not_exist(json!({"objectSelector": {"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}}), false)]
#[case::name_of_the_namespace(json!({"namespaceSelector": {"matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["shop"]}]}}), false)]
#[case::label_of_the_namespace(json!({"namespaceSelector": {"matchExpressions": [{"key": "env", "operator": "In", "values": ["production"]}]}}), true)]
#[case::another_label_of_the_namespace(json!({"namespaceSelector": {"matchExpressions": [{"key": "env", "operator": "In", "values": ["test"]}]}}), false)]
#[case::kubewarden_drops_these(json!({"namespaceSelector": {"matchLabels": {"env": "test"}}}), true)]
fn selectors_decide(#[case] selectors: Value, #[case] expected: bool) {
    let mut spec = spec(json!({}));
    spec.as_object_mut()
        .unwrap()
        .extend(selectors.as_object().unwrap().clone());
    let set = set(vec![Policy::parse(&spec).unwrap()]);
    let workload = Workload {
        labels: labels(&[("app", "db")]),
        ..pod("web", &["nginx"])
    };
    let namespace = labels(&[("env", "production")]);
    assert_eq!(
        is_wanted(&set, &workload, Some(&namespace), "nginx"),
        expected
    );
}

#[test]
fn without_its_labels_a_namespace_is_selected_by_its_name_only() {
    let selecting = |key: &str| {
        let mut spec = spec(json!({}));
        spec["namespaceSelector"] =
            json!({"matchExpressions": [{"key": key, "operator": "NotIn", "values": ["test"]}]});
        set(vec![Policy::parse(&spec).unwrap()])
    };
    let by_label = selecting("env");
    assert!(by_label.reads_namespace_labels());
    assert!(!by_label.select("shop", None).is_certain());
    assert!(!is_wanted(&by_label, &pod("web", &[]), None, "nginx"));
    let by_name = selecting("kubernetes.io/metadata.name");
    assert!(!by_name.reads_namespace_labels());
    assert!(by_name.select("shop", None).is_certain());
    assert!(is_wanted(&by_name, &pod("web", &[]), None, "nginx"));
}

#[test]
fn without_policies_everything_is_wanted() {
    let set = PolicySet::default();
    assert!(is_wanted(&set, &pod("web", &[]), None, "nginx"));
    assert!(!set.excludes_namespace("shop") && set.may_copy("shop", None));
}

#[test]
fn a_namespace_whose_images_are_all_kept_needs_no_secret() {
    let keeps = json!({"rules": [
        {"namespaces": ["shop"], "images": ["quay.io/*"], "action": "keep"},
        {"namespaces": ["shop", "preview-*"], "action": "keep"},
        {"namespaces": ["preview-*"], "action": "mirror"},
    ]});
    let one = set(vec![policy(keeps.clone())]);
    for (namespace, expected) in [
        ("shop", false),
        ("preview-1", false),
        ("team", true),
        ("kube-system", false),
    ] {
        assert_eq!(one.may_copy(namespace, None), expected, "{namespace}");
        let selection = one.select(namespace, None);
        assert_eq!(
            one.may_copy(namespace, Some(selection)),
            expected,
            "{namespace}"
        );
    }
    let two = set(vec![policy(keeps), policy(json!({}))]);
    assert!(two.may_copy("shop", None));
    // A selection of other policies is none.
    assert!(!two.may_copy("shop", Some(one.select("shop", None))));
}

fn any_settings() -> impl Strategy<Value = Value> {
    let pattern = prop::sample::select(vec!["docker.io/*", "quay.io/*", "*:dev", "*"]);
    let namespace = prop::sample::select(vec!["shop", "sho*", "team", "*"]);
    let action = prop::sample::select(vec!["mirror", "keep"]);
    let rule = (pattern, namespace.clone(), action).prop_map(|(image, namespace, action)| {
        json!({"images": [image], "namespaces": [namespace], "action": action})
    });
    let excluded = prop::collection::vec(namespace, 0..2);
    (prop::collection::vec(rule, 0..4), excluded)
        .prop_map(|(rules, excluded)| json!({"rules": rules, "excludedNamespaces": excluded}))
}

proptest! {
    /// Several policies want what one of them wants, in any order; and what is copied has a pull Secret.
    #[test]
    fn one_policy_is_enough(all in prop::collection::vec(any_settings(), 1..5)) {
        let policies: Vec<_> = all.iter().cloned().map(policy).collect();
        let together = set(policies.clone());
        let workload = pod("web", &[]);
        for image in ["nginx:dev", "quay.io/a/b:1", "ghcr.io/a/b"] {
            let one = policies.iter().any(|policy| {
                is_wanted(&set(vec![policy.clone()]), &workload, None, image)
            });
            prop_assert_eq!(is_wanted(&together, &workload, None, image), one);
            if one {
                prop_assert!(together.may_copy("shop", Some(together.select("shop", None))));
                prop_assert!(!together.excludes_namespace("shop"));
            }
        }
    }

    /// Anything may be in an object that somebody else wrote.
    #[test]
    fn any_selector_is_read_or_refused(
        key in "[a-z./]{0,8}", operator in "(In|NotIn|Exists|Gt|)", values in prop::collection::vec("[a-z]{0,3}", 0..3),
    ) {
        let mut spec = spec(json!({}));
        spec["objectSelector"] = json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        let is_known = ["In", "NotIn", "Exists"].contains(&operator.as_str());
        prop_assert_eq!(Policy::parse(&spec).is_ok(), is_known);
    }
}

fn followed(addresses: &[&str], name: Option<&str>) -> (Followed, Policies) {
    let policies = Policies::default();
    let followed = following(addresses, name, &policies, Fallback::CopyAll);
    (followed, policies)
}

/// What a configuration follows.
fn following(
    addresses: &[&str],
    name: Option<&str>,
    policies: &Policies,
    fallback: Fallback,
) -> Followed {
    let addresses = addresses.iter();
    let filter = Filter {
        addresses: addresses
            .map(|address| Sidecar::parse(address).unwrap().into_owned())
            .collect(),
        name: name.map(str::to_owned),
    };
    let excluded = [NamespacePattern::parse("by-flag").unwrap()];
    let fallback = Policy::of_flags(excluded.iter(), &[], fallback);
    let followed = Followed::new(filter, fallback, policies.clone());
    followed.begin();
    followed
}

fn event(kind: &str, name: &str, spec: &Value) -> Event<follow::PolicyObject> {
    let object =
        json!({ "metadata": { "name": name, "uid": format!("uid of {name}") }, "spec": spec });
    let object = serde_json::from_value(object).unwrap();
    match kind {
        "listed" => Event::InitApply(object),
        "deleted" => Event::Delete(object),
        _ => Event::Apply(object),
    }
}

fn list(followed: &Followed, listed: &[(&str, Value)]) {
    followed.apply(Event::Init);
    for (name, spec) in listed {
        followed.apply(event("listed", name, spec));
    }
    followed.apply(Event::InitDone);
}

#[rstest]
#[case::own_address(&[SIDECAR], None, SIDECAR, true)]
#[case::with_the_domain(&[SIDECAR], None, "mirror-sidecar.image-mirror.svc.cluster.local:5000", true)]
#[case::another_port(&[SIDECAR], None, "mirror-sidecar.image-mirror.svc:5001", false)]
#[case::another_service(&[SIDECAR], None, "mirror-sidecar.other.svc:5000", false)]
#[case::one_of_two(&["a.svc:1", SIDECAR], None, SIDECAR, true)]
#[case::this_name(&[SIDECAR], Some("image-mirror"), SIDECAR, true)]
#[case::another_name(&[SIDECAR], Some("other"), SIDECAR, false)]
#[case::by_name_alone(&[], Some("image-mirror"), "any.svc:5000", true)]
fn policies_that_name_the_service_are_followed(
    #[case] addresses: &[&str],
    #[case] name: Option<&str>,
    #[case] sidecar: &str,
    #[case] expected: bool,
) {
    let (followed, policies) = followed(addresses, name);
    list(
        &followed,
        &[("image-mirror", json!({"settings": {"sidecar": sidecar}}))],
    );
    assert_eq!(!policies.current().is_empty(), expected);
}

#[test]
fn the_last_valid_rules_stay_in_force() {
    let (followed, policies) = followed(&[SIDECAR], None);
    let keeps = spec(json!({"excludedNamespaces": ["shop"]}));
    list(&followed, &[("image-mirror", keeps)]);
    let excludes = || policies.current().excludes_namespace("shop");
    assert!(excludes());

    // Also an edit that breaks the address.
    for broken in [spec(json!({"rules": 1})), json!({"settings": {}}), json!(7)] {
        followed.apply(event("changed", "image-mirror", &broken));
        assert!(excludes());
        let invalid = followed.invalid().borrow().clone();
        assert_eq!(
            (&*invalid[0].id.name, &*invalid[0].id.uid),
            ("image-mirror", "uid of image-mirror")
        );
    }
    list(&followed, &[("image-mirror", json!({"settings": {}}))]);
    assert!(excludes());

    followed.apply(event(
        "changed",
        "image-mirror",
        &spec(json!({"excludedNamespaces": []})),
    ));
    assert!(!excludes());
    assert_eq!(*followed.invalid().borrow(), []);

    // The other address is valid.
    followed.apply(event(
        "changed",
        "image-mirror",
        &json!({"settings": {"sidecar": "other.svc:1"}}),
    ));
    assert!(policies.current().is_empty());
}

/// The flags decide for it, and the other policy for itself.
#[test]
fn a_policy_that_was_never_valid_mirrors_what_the_flags_do_not_exclude() {
    let (followed, policies) = followed(&[SIDECAR], None);
    let keeps = spec(json!({"rules": [{"action": "keep"}]}));
    let broken = spec(json!({"rules": 1}));
    list(&followed, &[("a", keeps), ("b", broken.clone())]);
    let set = policies.current();
    assert!(is_wanted(&set, &pod("web", &[]), None, "nginx"));
    assert!(!set.may_copy("by-flag", None) && set.may_copy("shop", None));

    // A successor of the same name does not inherit the rules.
    let successor = |spec: &Value| {
        let mut object = json!({ "metadata": { "name": "a", "uid": "another" } });
        object["spec"] = spec.clone();
        Event::Apply(serde_json::from_value(object).unwrap())
    };
    followed.apply(event("deleted", "b", &broken));
    assert!(!is_wanted(
        &policies.current(),
        &pod("web", &[]),
        None,
        "nginx"
    ));
    followed.apply(successor(&broken));
    assert!(is_wanted(
        &policies.current(),
        &pod("web", &[]),
        None,
        "nginx"
    ));
    assert_eq!(&*followed.invalid().borrow()[0].id.uid, "another");
    // An invalid one that is deleted is forgotten.
    followed.apply(event("deleted", "a", &broken));
    assert!(policies.current().is_empty() && followed.invalid().borrow().is_empty());
}

#[test]
fn the_last_valid_rules_survive_a_new_configuration() {
    let (first, policies) = followed(&[SIDECAR], None);
    let keeps = spec(json!({"rules": [{"action": "keep"}]}));
    let broken = spec(json!({"rules": 1}));
    list(&first, &[("a", keeps)]);
    first.apply(event("changed", "a", &broken));
    for fallback in [Fallback::CopyAll, Fallback::CopyNothing] {
        let next = following(&[SIDECAR], None, &policies, fallback);
        list(&next, &[("a", broken.clone())]);
        let set = policies.current();
        assert!(!set.has_fallback() && !set.is_empty());
        assert!(!is_wanted(&set, &pod("web", &[]), None, "nginx"));
        assert_eq!(next.invalid().borrow().len(), 1);
    }
    // Another object of the same name is another policy.
    let object = json!({ "metadata": { "name": "a", "uid": "another" }, "spec": broken });
    let next = following(&[SIDECAR], None, &policies, Fallback::CopyAll);
    next.apply(Event::Init);
    next.apply(Event::InitApply(serde_json::from_value(object).unwrap()));
    next.apply(Event::InitDone);
    assert!(policies.current().has_fallback());
}

/// The rules that are missing may send the private images of a team to its own backup.
#[test]
fn with_several_backups_nothing_is_copied_without_rules() {
    let policies = Policies::default();
    let copies = || is_wanted(&policies.current(), &pod("web", &[]), None, "nginx");
    assert!(copies());
    let followed = following(&[SIDECAR], None, &policies, Fallback::CopyNothing);
    assert!(!copies(), "the policies are not known");
    list(&followed, &[]);
    assert!(!copies(), "there are none");
    assert!(policies.current().excludes_namespace("by-flag"));
    let broken = spec(json!({"rules": 1}));
    list(&followed, &[("a", broken)]);
    assert!(!copies(), "none is valid");
    followed.apply(event("changed", "a", &spec(json!({}))));
    assert!(copies());
    followed.apply(event("deleted", "a", &spec(json!({}))));
    assert!(!copies());
    // Another configuration has one backup.
    let one = following(&[SIDECAR], None, &policies, Fallback::CopyAll);
    list(&one, &[]);
    assert!(copies() && policies.current().is_empty());
}

#[test]
fn settings_that_are_too_long_are_refused() {
    let (followed, policies) = followed(&[SIDECAR], None);
    let rule = json!({"images": ["quay.io/*"], "action": "keep"});
    let rules = vec![rule; MAX_SETTINGS / 40];
    list(&followed, &[("a", spec(json!({ "rules": rules })))]);
    assert!(
        followed.invalid().borrow()[0]
            .error
            .contains("at most 262144")
    );
    assert!(is_wanted(
        &policies.current(),
        &pod("web", &[]),
        None,
        "quay.io/a/b"
    ));
}

#[test]
fn policies_that_are_gone_are_forgotten() {
    let (followed, policies) = followed(&[SIDECAR], None);
    let all = || policies.current().policies.len();
    list(
        &followed,
        &[
            ("a", spec(json!({}))),
            ("b", spec(json!({"excludedNamespaces": []}))),
        ],
    );
    assert_eq!(all(), 2);
    list(&followed, &[("b", spec(json!({})))]);
    assert_eq!(all(), 1);
    followed.apply(event("deleted", "b", &spec(json!({}))));
    assert_eq!(all(), 0);
}

#[test]
fn the_number_of_policies_is_bounded() {
    let (followed, policies) = followed(&[SIDECAR], None);
    let names: Vec<_> = (0..MAX_POLICIES + 5)
        .map(|number| format!("p{number:03}"))
        .collect();
    let listed: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), spec(json!({}))))
        .collect();
    list(&followed, &listed);
    assert_eq!(policies.current().policies.len(), MAX_POLICIES);
    assert!(is_wanted(
        &policies.current(),
        &pod("web", &[]),
        None,
        "nginx"
    ));
}

#[tokio::test(start_paused = true)]
async fn kubewarden_may_be_installed_later() {
    let lists = AtomicUsize::new(0);
    let (client, _) = api_server(move |request| {
        if request.path.contains("watch=true") {
            return None;
        }
        let is_first = lists.fetch_add(1, Ordering::Relaxed) == 0;
        let policy = json!({ "metadata": { "name": "a", "uid": "a" }, "spec": spec(json!({})) });
        let list = json!({
            "kind": "List", "apiVersion": "v1", "metadata": { "resourceVersion": "5" }, "items": [policy],
        });
        Some(if is_first {
            refusal(404, "NotFound", None)
        } else {
            found(&list)
        })
    });
    let (followed, policies) = followed(&[SIDECAR], None);
    let running = tokio::spawn(followed.clone().run(client));
    followed.known().await;
    assert!(policies.current().is_empty());
    let mut changes = policies.subscribe();
    changes.changed().await.unwrap();
    assert!(!policies.current().is_empty());
    running.abort();
}

#[test]
fn policies_are_in_force_after_the_first_list() {
    let (followed, policies) = followed(&[SIDECAR], None);
    followed.apply(Event::Init);
    followed.apply(event("listed", "a", &spec(json!({}))));
    assert!(policies.current().is_empty());
    followed.apply(Event::InitDone);
    assert!(!policies.current().is_empty());
}

#[test]
fn the_same_policies_again_are_no_news() {
    let (followed, policies) = followed(&[SIDECAR], None);
    let listed = [("a", spec(json!({})))];
    list(&followed, &listed);
    let changes = policies.subscribe();
    list(&followed, &listed);
    assert!(!changes.has_changed().unwrap());
    followed.apply(event(
        "changed",
        "a",
        &spec(json!({"excludedNamespaces": []})),
    ));
    assert!(changes.has_changed().unwrap());
}
