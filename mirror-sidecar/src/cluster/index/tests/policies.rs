//! What the index keeps if policies decide.

use mirror_contract::{BackupName, RewriteTarget};
use serde_json::{Value, json};

use super::*;
use crate::cluster::policies::{Policies, Policy};
use crate::cluster::pull_locations::LoginOwner;

fn publish(policies: &Policies, spec: &Value) {
    publish_all(policies, &[spec]);
}

fn publish_all(policies: &Policies, specs: &[&Value]) {
    let specs = specs.iter().map(|spec| {
        let mut spec = Value::clone(spec);
        spec["settings"]["sidecar"] = json!("mirror-sidecar.svc:5000");
        Arc::new(Policy::parse(&spec).unwrap())
    });
    policies.publish(specs.collect());
}

fn index_with(spec: &Value) -> (Index, Policies) {
    let policies = Policies::default();
    publish(&policies, spec);
    let rules = Rules {
        excluded_namespaces: rules().excluded_namespaces.with_policies(policies.clone()),
        ..rules()
    };
    (Index::new(rules), policies)
}

fn originals(index: &Index) -> Vec<String> {
    index
        .images()
        .map(|usage| usage.image.to_string())
        .collect()
}

fn namespace_with(labels: &[(&str, &str)]) -> Change {
    let labels = labels.iter();
    Change::Apply(Object::Namespace(NamespaceObject {
        name: "shop".into(),
        labels: labels
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        created: None,
        is_terminating: false,
    }))
}

#[test]
fn kept_images_are_not_in_the_index_but_copies_in_use_are() {
    const COPY: &str = "ghcr.io/acme/docker.io-library-nginx:1";
    let (mut index, _) = index_with(&json!({"settings": {
        "rules": [{"images": ["docker.io/*"], "action": "keep"}], "excludedNamespaces": [],
    }}));
    index.apply(seen(deployment("web", &["nginx:1", "quay.io/a/b:1", COPY])));
    assert_eq!(originals(&index), ["quay.io/a/b:1"]);
    assert_eq!(index.all_in_backup().count(), 1);
    // The flags exclude it, and the policy does not.
    let mut system = deployment("dns", &["quay.io/dns:1"]);
    system.key.namespace = "kube-system".into();
    index.apply(seen(system));
    assert_eq!(originals(&index).len(), 2);
}

#[test]
fn a_workload_that_no_policy_rewrites_is_no_candidate() {
    let (mut index, _) = index_with(&json!({
        "settings": {}, "objectSelector": {"matchLabels": {"app": "web"}},
    }));
    index.apply(seen(deployment("web", &["nginx:1"])));
    assert!(originals(&index).is_empty() && index.candidates.is_empty());
    let labels = [("app".to_owned(), "web".to_owned())].into();
    index.apply(seen(Workload {
        labels,
        ..deployment("web", &["nginx:1"])
    }));
    assert_eq!((originals(&index).len(), index.candidates.len()), (1, 1));
}

#[test]
fn workloads_of_skipped_owners_are_listed_although_nothing_is_copied() {
    let (mut index, _) = index_with(&json!({"settings": {"skipOwners": ["example.com/Db"]}}));
    let owner = |api_version: &str, kind: &str| Owner {
        api_version: api_version.into(),
        kind: kind.into(),
        name: "db".into(),
        uid: "db".into(),
    };
    index.apply(seen(Workload {
        owners: vec![("example.com/v1".into(), "Db".into())],
        controller: Some(owner("example.com/v1", "Db")),
        is_owned: true,
        ..workload(WorkloadKind::StatefulSet, "db", &["postgres:1"])
    }));
    assert!(originals(&index).is_empty());
    assert_eq!(index.skipped_owners("shop"), "StatefulSet/db");

    // Their Pods, and the objects between them and their Pods.
    let part = |kind, owner_kind: &str, name: &str| Workload {
        controller: Some(Owner {
            api_version: "apps/v1".into(),
            kind: owner_kind.into(),
            name: name.into(),
            uid: name.into(),
        }),
        is_owned: true,
        ..workload(kind, &format!("{name}-0"), &["postgres:1"])
    };
    index.apply(seen(part(WorkloadKind::Pod, "StatefulSet", "db")));
    assert!(originals(&index).is_empty());
    let deployment = Workload {
        controller: Some(owner("example.com/v1", "Db")),
        owners: vec![("example.com/v1".into(), "Db".into())],
        is_owned: true,
        ..deployment("web", &["postgres:1"])
    };
    index.apply(seen(deployment));
    index.apply(seen(part(WorkloadKind::ReplicaSet, "Deployment", "web")));
    index.apply(seen(part(WorkloadKind::Pod, "ReplicaSet", "web-5d")));
    assert!(originals(&index).is_empty());
    index.apply(seen(part(WorkloadKind::Pod, "ReplicaSet", "web2-5d")));
    assert_eq!(originals(&index).len(), 1);
}

#[test]
fn labels_of_a_namespace_are_waited_for() {
    let selecting = json!({"settings": {}, "namespaceSelector": {"matchExpressions": [
        {"key": "env", "operator": "NotIn", "values": ["test"]},
    ]}});
    let (mut index, policies) = index_with(&selecting);
    let web = || seen(deployment("web", &["nginx:1"]));
    index.apply(web());
    assert!(originals(&index).is_empty() && !index.take_outdated());
    assert!(index.may_copy_for("shop"), "it may be new");
    index.apply(namespace_with(&[("env", "production")]));
    assert!(index.take_outdated() && !index.take_outdated());
    index.apply(web());
    assert_eq!(originals(&index).len(), 1);

    index.apply(namespace_with(&[("env", "production"), ("team", "a")]));
    assert!(!index.take_outdated());
    index.apply(namespace_with(&[("env", "test")]));
    assert!(index.take_outdated() && !index.may_copy_for("shop"));
    index.apply(web());
    assert!(originals(&index).is_empty());

    // Another policy: what was selected by the old one does not count.
    publish(&policies, &json!({"settings": {"pinDigest": true}}));
    index.apply(web());
    assert_eq!(originals(&index).len(), 1);
}

fn rewriting(images: &str) -> Value {
    let rule = json!({"images": [images], "action": "rewrite", "target": "harbor.test/hub"});
    json!({"settings": {"rules": [rule]}})
}

#[test]
fn a_rewritten_image_is_not_copied_and_makes_a_candidate_once_the_target_has_it() {
    let (mut index, policies) = index_with(&rewriting("docker.io/*"));
    index.apply(seen(deployment("web", &["nginx:1"])));
    // Its Pods follow.
    index.apply(seen(pod("web-1", &["nginx:1"])));
    assert_eq!((originals(&index).len(), index.len()), (0, 1));
    let target: ImageRef<'static> = "harbor.test/hub/library/nginx:1".parse().unwrap();
    let rewritten = index.rewritten(|uid| uid == "web");
    assert_eq!(
        rewritten.into_iter().collect::<Vec<_>>(),
        [(Image::new(target.clone()), ["shop".into()].into())]
    );
    assert!(index.rewritten(|uid| uid != "web").is_empty());
    let due = |state| -> Vec<_> {
        let state = |image: &ImageRef<'_>| {
            assert_eq!(*image, target);
            state
        };
        index.candidates(state).collect()
    };
    assert!(due(CopyState::Missing).is_empty() && due(CopyState::Never).is_empty());
    let found = due(CopyState::Mirrored);
    assert_eq!(found[0].images[0].to_string(), "docker.io/library/nginx:1");
    assert_eq!(
        (found.len(), &*found[0].targets),
        (1, &[target.clone()][..])
    );

    publish(&policies, &json!({"settings": {}}));
    assert!(index.rewritten(|_| true).is_empty());
    index.apply(gone(deployment("web", &[])));
    assert!(index.is_empty());
    assert_eq!(index.amounts(), Amounts::default());
}

/// A pull-through cache would get the image from its own upstream registry, with a login that the namespace may not use.
#[rstest]
#[case::name_of_the_namespace(json!({"namespaceSelector": {"matchExpressions": [
    {"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["team"]},
]}}))]
#[case::label_of_the_namespace(json!({"namespaceSelector": {"matchExpressions": [
    {"key": "env", "operator": "In", "values": ["test"]},
]}}))]
#[case::label_of_the_object(json!({"objectSelector": {"matchLabels": {"app": "db"}}}))]
#[case::namespaces_of_the_rule(json!({"settings": {"rules": [
    {"images": ["docker.io/*"], "namespaces": ["team"], "action": "rewrite", "target": "harbor.test/team"}, {"action": "keep"},
]}}))]
fn images_are_looked_up_only_in_targets_of_policies_for_their_workload(#[case] fields: Value) {
    let mut of_team = rewriting("docker.io/*");
    of_team["settings"]["rules"][0]["target"] = json!("harbor.test/team");
    let fields = fields.as_object().unwrap().clone();
    of_team.as_object_mut().unwrap().extend(fields);
    let (mut index, policies) = index_with(&of_team);
    index.apply(namespace_with(&[("env", "production")]));
    let both = |later: &Value| publish_all(&policies, &[&of_team, later]);
    let found = |index: &Index| -> Vec<_> {
        let found = index.rewritten(|_| true).into_keys();
        found.map(|image| image.to_string()).collect()
    };
    index.apply(seen(deployment("web", &["nginx:1"])));
    assert_eq!(found(&index), [""; 0]);

    both(&rewriting("docker.io/*"));
    index.apply(namespace_with(&[("env", "production")]));
    index.apply(seen(deployment("web", &["nginx:1"])));
    assert_eq!(found(&index), ["harbor.test/hub/library/nginx:1"]);
    let candidates = index.candidates(|_| CopyState::Mirrored);
    let targets: Vec<_> = candidates.map(|found| found.targets).collect();
    assert_eq!(targets[0][0].to_string(), "harbor.test/hub/library/nginx:1");

    // Another target of the same image is news when the workload is listed again.
    let mut moved = rewriting("docker.io/*");
    moved["settings"]["rules"][0]["target"] = json!("harbor.test/moved");
    both(&moved);
    assert!(index.apply(seen(deployment("web", &["nginx:1"]))));
    assert!(!index.apply(seen(deployment("web", &["nginx:1"]))));
}

/// Copies in a template need the pull Secret, which an image that stays upstream does not allow.
#[rstest]
#[case(CopyState::Mirrored, CopyState::Mirrored, 2)]
#[case(CopyState::Mirrored, CopyState::Never, 1)]
#[case(CopyState::Mirrored, CopyState::Missing, 0)]
#[case(CopyState::Missing, CopyState::Mirrored, 0)]
#[case(CopyState::Never, CopyState::Mirrored, 0)]
fn copies_and_rewrites_are_replaced_together(
    #[case] of_target: CopyState,
    #[case] of_copy: CopyState,
    #[case] images: usize,
) {
    let (mut index, _) = index_with(&rewriting("docker.io/*"));
    index.apply(seen(deployment("web", &["nginx:1", "quay.io/a/b:1"])));
    let candidates = index.candidates(|image| match image.host() {
        "harbor.test" => of_target,
        _ => of_copy,
    });
    let replaced: usize = candidates.map(|candidate| candidate.images.len()).sum();
    assert_eq!(replaced, images);
}

/// The policy adds the pull Secret to a template for replacements with a login only, and a template without pull Secrets must
/// not get it while an image stays upstream.
#[rstest]
#[case::copies_without_a_login("quay.io/*", "hub.test", 1)]
#[case::copies_with_a_login("quay.io/*", "ghcr.io/acme", 0)]
#[case::a_target_without_a_login("docker.io/*", "hub.test", 1)]
#[case::a_target_with_a_login("docker.io/*", "harbor.test", 0)]
fn a_mixed_template_is_left_to_its_pods_only_if_it_needs_the_pull_secret(
    #[case] rewritten: &str,
    #[case] login: &'static str,
    #[case] expected: usize,
) {
    let (mut index, _) = index_with(&rewriting(rewritten));
    let location = RewriteTarget::parse(login).unwrap();
    let owner = if login == "ghcr.io/acme" {
        LoginOwner::Backup(BackupName::DEFAULT)
    } else {
        LoginOwner::Target(location.clone())
    };
    index.set_pull_locations(PullLocations::new([(owner, vec![location])]));
    complete(&mut index);
    let web = deployment("web", &["nginx:1", "redis:1"]);
    let state = |image: &ImageRef<'_>| {
        if image.path().ends_with("redis") {
            CopyState::Never
        } else {
            CopyState::Mirrored
        }
    };
    index.apply(seen(web.clone()));
    assert_eq!(index.candidates(state).count(), expected);
    // A list with other Secrets can get this one.
    index.apply(seen(Workload {
        pull_secrets: vec!["team".into()],
        ..web
    }));
    assert_eq!(index.candidates(state).count(), 1);
}
