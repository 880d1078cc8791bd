//! The indexes of several backups.

use mirror_contract::BackupName;
use serde_json::{Value, json};

use super::*;
use crate::backups::{BackupLocations, ByBackup};
use crate::cluster::index::CopyState::{self, Mirrored, Missing, Never};
use crate::cluster::policies::{Policies, Policy};

const ORIGINAL: &str = "docker.io/library/nginx:1";
const COPY: &str = "ghcr.io/acme/docker.io-library-nginx:1";
const TEAM_COPY: &str = "ghcr.io/team-a/docker.io-library-nginx:1";
const FORMER_TEAM_COPY: &str = "old.test/team-a/docker.io-library-nginx:1";

fn team() -> BackupName<'static> {
    BackupName::parse("team-a").unwrap()
}

/// The indexes of the default backup and of `team-a`, with these rules.
struct Indexes {
    default: Index,
    team: Index,
    policies: Policies,
}

impl Indexes {
    fn new(rules: &Value) -> Self {
        let policies = Policies::default();
        let of_team = Backup::new("ghcr.io", "team-a", Naming::Flat).unwrap();
        let former = |name: &BackupName<'_>, backup: &Backup| {
            let location = if name.is_default() {
                "old.test/acme"
            } else {
                "old.test/team-a"
            };
            FormerBackups::new(backup, Backup::with_both_namings(location))
        };
        let mut backups = ByBackup::new(super::rules().backup);
        backups.insert(team(), of_team.clone());
        let backups =
            backups.map(|name, backup| BackupLocations::new(backup.clone(), former(name, backup)));
        let excluded = super::rules().excluded_namespaces;
        let amounts = SharedAmounts::default();
        let index = |name: &BackupName<'static>, backup: &Backup| {
            let rules = Rules {
                backup: backup.clone(),
                former_backups: former(name, backup),
                other_backups: OtherBackups::of(name, &backups),
                excluded_namespaces: excluded.clone().with_policies(policies.clone()),
                ..super::rules()
            };
            Index::new(rules).with_shared_amounts(&amounts)
        };
        let (default, team) = (
            index(&BackupName::DEFAULT, &super::rules().backup),
            index(&team(), &of_team),
        );
        let indexes = Self {
            default,
            team,
            policies,
        };
        indexes.publish(rules);
        indexes
    }

    fn publish(&self, rules: &Value) {
        let spec = json!({"settings": {
            "sidecar": "mirror-sidecar.svc:5000", "rules": rules, "excludedNamespaces": [],
        }});
        self.policies
            .publish(vec![Arc::new(Policy::parse(&spec).unwrap())]);
    }

    fn apply(&mut self, workload: Workload) {
        self.default.apply(seen(workload.clone()));
        self.team.apply(seen(workload));
    }

    /// The originals and the copies in each index.
    fn found(&self) -> [(Vec<String>, Vec<String>); 2] {
        let names =
            |used: Vec<ImageUse<'_>>| used.iter().map(|used| used.image.to_string()).collect();
        [&self.default, &self.team].map(|index| {
            (
                names(index.images().collect()),
                names(index.all_in_backup().collect()),
            )
        })
    }

    /// The images of the only candidate, if all copies in both backups are in these states.
    fn candidate(&self, default: CopyState, team: CopyState) -> Option<Vec<String>> {
        let states = [(&self.default, default), (&self.team, team)];
        let states = states.map(|(index, state)| (index, move |_: &ImageRef<'static>| state));
        let found: Vec<_> = candidates_in(states).collect();
        assert!(found.len() <= 1, "{found:?}");
        let images = found.first()?.images.iter();
        Some(images.map(ToString::to_string).collect())
    }
}

fn to_team() -> Value {
    json!([{"images": ["docker.io/*"], "action": "mirror", "backup": "team-a"}])
}

fn names<const N: usize>(names: [&str; N]) -> Vec<String> {
    names.map(str::to_owned).to_vec()
}

#[test]
fn an_index_has_only_the_originals_that_a_rule_sends_to_its_backup() {
    let mut indexes = Indexes::new(&to_team());
    indexes.apply(deployment("web", &[ORIGINAL, "quay.io/a/b:1"]));
    let [default, team] = indexes.found();
    assert_eq!(default, (names(["quay.io/a/b:1"]), names([])));
    assert_eq!(team, (names([ORIGINAL]), names([])));
}

/// Otherwise one team could pull what another one has copied.
#[test]
fn images_in_other_backups_are_never_originals() {
    let mut indexes = Indexes::new(&json!([
        {"images": ["ghcr.io/acme/*", "old.test/acme/*"], "action": "mirror", "backup": "team-a"},
        {"images": ["docker.io/*"], "action": "mirror", "backup": "team-a"},
    ]));
    let foreign = [
        "ghcr.io/acme/tool:1",
        "ghcr.io/team-a/tool:1",
        TEAM_COPY,
        "old.test/acme/tool:1",
        "old.test/team-a/tool:1",
    ];
    indexes.apply(deployment("web", &foreign));
    let [default, team] = indexes.found();
    let in_default = names(["ghcr.io/acme/tool:1", "old.test/acme/tool:1"]);
    assert_eq!(default, (names([]), in_default));
    let mut in_team = names(["ghcr.io/team-a/tool:1", TEAM_COPY, "old.test/team-a/tool:1"]);
    in_team.sort();
    assert_eq!(team, (names([]), in_team));
    assert_eq!(
        indexes.candidate(CopyState::Mirrored, CopyState::Mirrored),
        None
    );
}

#[test]
fn without_policies_everything_belongs_to_the_default_backup_and_no_copy_moves() {
    let mut indexes = Indexes::new(&to_team());
    indexes.policies.publish(Vec::new());
    indexes.apply(deployment("web", &[ORIGINAL, TEAM_COPY]));
    let [default, team] = indexes.found();
    assert_eq!(default, (names([ORIGINAL]), names([])));
    assert_eq!(team, (names([]), names([TEAM_COPY])));
}

fn annotated(name: &str, copy: &str, original: &str) -> Workload {
    let mut workload = deployment(name, &[copy]);
    workload.originals = vec![(copy.into(), original.into())];
    workload
}

#[rstest]
#[case::annotated(annotated("web", COPY, ORIGINAL))]
#[case::by_its_name(deployment("web", &[COPY]))]
fn a_copy_moves_when_the_rule_names_another_backup(#[case] workload: Workload) {
    let mut indexes = Indexes::new(&to_team());
    indexes.apply(workload);
    let opaque: Vec<_> = indexes.team.all_opaque().collect();
    assert_eq!(opaque.len(), 1);
    assert_eq!(
        (opaque[0].0.to_string(), opaque[0].1.to_string()),
        (COPY.into(), ORIGINAL.into())
    );
    // The copy in use is kept in order until then.
    let [default, _] = indexes.found();
    assert_eq!(default, (names([]), names([COPY])));
    assert_eq!(indexes.candidate(Mirrored, Missing), None);
    assert_eq!(
        indexes.candidate(Missing, Mirrored),
        Some(names([COPY])),
        "it waits for the new copy only"
    );
    assert!(indexes.team.has_former_names(&deployment("web", &[]).key));
    // The new copy is where it belongs.
    indexes.apply(annotated("web", TEAM_COPY, ORIGINAL));
    assert_eq!(indexes.candidate(Mirrored, Mirrored), None);
    let [default, team] = indexes.found();
    assert_eq!(default, (names([]), names([])));
    assert_eq!(team, (names([]), names([TEAM_COPY])));
    // And back again.
    indexes.publish(&json!([]));
    indexes.apply(annotated("web", TEAM_COPY, ORIGINAL));
    assert_eq!(
        indexes.candidate(Mirrored, Missing),
        Some(names([TEAM_COPY]))
    );
}

/// A copy in a former location of another backup is not one of another installation, and not an original.
#[rstest]
#[case::annotated(annotated("web", FORMER_TEAM_COPY, ORIGINAL))]
#[case::by_its_name(deployment("web", &[FORMER_TEAM_COPY]))]
fn a_copy_in_a_former_location_moves_to_the_backup_of_its_rule(#[case] workload: Workload) {
    let mut indexes = Indexes::new(&to_team());
    indexes.apply(workload.clone());
    assert!(indexes.default.of_other_installations().is_empty());
    let in_team = || (names([]), names([FORMER_TEAM_COPY]));
    assert_eq!(indexes.found(), [(names([]), names([])), in_team()]);
    let found = Some(names([FORMER_TEAM_COPY]));
    assert_eq!(indexes.candidate(Missing, Mirrored), found, "renamed");
    indexes.publish(&json!([]));
    indexes.apply(workload);
    assert_eq!(indexes.found()[1], in_team());
    assert_eq!(indexes.candidate(Missing, Mirrored), None);
    assert_eq!(indexes.candidate(Mirrored, Missing), found, "moved");
}

/// Readmission, or its absence, would show whether that backup has a copy with the current name.
#[rstest]
#[case::of_another_team(json!([
    {"namespaces": ["other"], "action": "mirror", "backup": "team-a"}, {"action": "keep"},
]))]
#[case::kept(json!([{"images": ["docker.io/*"], "action": "keep"}, {"action": "mirror", "backup": "team-a"}]))]
fn a_former_copy_is_not_replaced_in_a_backup_that_no_rule_sends_it_to(#[case] rules: Value) {
    for workload in [
        annotated("web", FORMER_TEAM_COPY, ORIGINAL),
        deployment("web", &[FORMER_TEAM_COPY]),
    ] {
        let mut indexes = Indexes::new(&rules);
        indexes.apply(workload);
        for state in [Mirrored, Missing, Never] {
            assert_eq!(indexes.candidate(Mirrored, state), None);
        }
        assert!(!indexes.team.has_former_names(&deployment("web", &[]).key));
    }
}

/// The Pod was created while the backup was unavailable, and its rule names another one since then.
#[test]
fn an_original_instead_of_a_copy_in_another_backup_is_not_copied() {
    let mut indexes = Indexes::new(&json!([]));
    let original = format!("{ORIGINAL}@sha256:{}", "1".repeat(64));
    let mut pod = pod("one", &[&original]);
    pod.originals = vec![(original, TEAM_COPY.into())];
    indexes.apply(pod);
    assert_eq!(indexes.found(), [(); 2].map(|()| (names([]), names([]))));
}

#[test]
fn a_copy_that_a_rule_keeps_stays_where_it_is() {
    let mut indexes = Indexes::new(&json!([{"action": "keep"}]));
    indexes.apply(annotated("web", TEAM_COPY, ORIGINAL));
    assert_eq!(
        indexes.candidate(CopyState::Mirrored, CopyState::Mirrored),
        None
    );
    assert_eq!(indexes.default.all_opaque().count(), 0);
}

/// Two policies that want different backups must not send a workload to and fro.
#[test]
fn a_copy_stays_if_a_policy_wants_it_there() {
    let mut indexes = Indexes::new(&to_team());
    let policy = |rules: Value| {
        let spec = json!({"settings": {"sidecar": "mirror-sidecar.svc:5000", "rules": rules}});
        Arc::new(Policy::parse(&spec).unwrap())
    };
    indexes
        .policies
        .publish(vec![policy(to_team()), policy(json!([]))]);
    for copy in [COPY, TEAM_COPY] {
        indexes.apply(annotated("web", copy, ORIGINAL));
        assert_eq!(
            indexes.candidate(CopyState::Mirrored, CopyState::Mirrored),
            None
        );
    }
}

/// A former name in a backup that the rules left is not renamed there first.
#[test]
fn a_copy_with_a_former_name_moves_only_once() {
    const FORMER: &str = "ghcr.io/acme/docker.io/library/nginx:1";
    let mut indexes = Indexes::new(&to_team());
    indexes.apply(annotated("web", FORMER, ORIGINAL));
    assert_eq!(indexes.candidate(Mirrored, Missing), None);
    assert_eq!(indexes.candidate(Missing, Mirrored), Some(names([FORMER])));
}

#[test]
fn a_workload_waits_for_its_copies_in_all_backups() {
    let mut indexes = Indexes::new(&to_team());
    indexes.apply(deployment("web", &[ORIGINAL, "quay.io/a/b:1"]));
    assert_eq!(indexes.candidate(Mirrored, Missing), None);
    assert_eq!(indexes.candidate(Missing, Mirrored), None);
    assert_eq!(
        indexes.candidate(Mirrored, Mirrored),
        Some(names(["quay.io/a/b:1", ORIGINAL]))
    );
    // The image that stays upstream may need the Secrets of the ServiceAccount.
    assert_eq!(indexes.candidate(Mirrored, Never), None);
}

/// Facts that concern no backup take their memory once.
#[test]
fn only_the_default_index_keeps_what_concerns_no_backup() {
    let mut indexes = Indexes::new(&json!([
        {"action": "mirror", "backup": "team-a"},
    ]));
    let mut workload = deployment("web", &[ORIGINAL]);
    workload.pull_secrets = vec![SECRET.into()];
    indexes.apply(workload);
    let naming = |index: &Index| index.namespaces_naming(CURRENT_NAME).count();
    assert_eq!((naming(&indexes.default), naming(&indexes.team)), (1, 0));
    let mut foreign = annotated("other", "theirs.test/x/docker.io-library-nginx:1", ORIGINAL);
    foreign.images = vec!["theirs.test/x/docker.io-library-nginx:1".into()];
    indexes.apply(foreign);
    assert_eq!(indexes.default.of_other_installations().len(), 1);
    assert!(indexes.team.of_other_installations().is_empty());
    assert_eq!(indexes.team.amounts().workloads, 1);
}

#[test]
fn the_indexes_share_the_limits_of_the_cluster() {
    let mut indexes = Indexes::new(&to_team());
    let limits = Limits::of(1000);
    indexes.default.limits = limits;
    indexes.team.limits = limits;
    for number in 0..200 {
        let images = [
            format!("docker.io/library/a:{number}"),
            format!("quay.io/a/b:{number}"),
        ];
        let images: Vec<_> = images.iter().map(String::as_str).collect();
        let mut workload = deployment(&format!("web-{number}"), &images);
        workload.key.namespace = format!("shop-{}", number / 10).into();
        indexes.apply(workload);
    }
    let all = indexes.default.amounts().plus(indexes.team.amounts());
    assert!(all.images <= limits.cluster.images, "{all:?}");
    assert!(indexes.team.amounts().images > 50, "{all:?}");
}

/// A workload of another backup is in the index of the default one, too.
#[test]
fn a_workload_of_another_backup_counts_once() {
    let mut indexes = Indexes::new(&to_team());
    let limits = Limits::of(1000);
    indexes.default.limits = limits;
    indexes.team.limits = limits;
    let images = [ORIGINAL, "quay.io/a/b:1"];
    let object = |namespace: usize, number: usize| {
        let mut workload = deployment(&format!("web-{number}"), &images);
        workload.key.namespace = format!("shop-{namespace}").into();
        workload
    };
    let most = limits.namespace.workloads;
    for namespace in 0..7 {
        for number in 0..=most {
            indexes.apply(object(namespace, number));
        }
    }
    for index in [&indexes.default, &indexes.team] {
        assert_eq!(index.amounts().workloads, most * 7);
        assert_eq!(index.left_out().len(), 7);
    }
    for namespace in 0..7 {
        for number in 0..=most {
            let workload = object(namespace, number);
            indexes.default.apply(gone(workload.clone()));
            indexes.team.apply(gone(workload));
        }
    }
    let rest = |index: &Index| index.shared_amounts.total_with(index.amounts(), None);
    assert_eq!(rest(&indexes.team), Amounts::default());
}

/// Otherwise a namespace with images for many backups would use up what others need.
#[test]
fn the_indexes_share_the_limits_of_a_namespace() {
    let mut indexes = Indexes::new(&to_team());
    let limits = Limits::of(1000);
    indexes.default.limits = limits;
    indexes.team.limits = limits;
    for number in 0..100 {
        let images = [
            format!("docker.io/library/a:{number}"),
            format!("quay.io/a/b:{number}"),
        ];
        let images: Vec<_> = images.iter().map(String::as_str).collect();
        indexes.apply(deployment(&format!("web-{number}"), &images));
    }
    let all = indexes.default.amounts().plus(indexes.team.amounts());
    assert_eq!(all.images, limits.namespace.images);
    assert!(
        all.uses <= limits.namespace.uses && all.bytes <= limits.namespace.bytes,
        "{all:?}"
    );
    for number in 0..100 {
        let name = format!("web-{number}");
        indexes.default.apply(gone(deployment(&name, &[])));
        indexes.team.apply(gone(deployment(&name, &[])));
    }
    indexes.apply(deployment("web", &[ORIGINAL, "quay.io/a/b:1"]));
    let all = indexes.default.amounts().plus(indexes.team.amounts());
    assert_eq!(all.images, 2);
}

#[rstest]
// Each with the claims to copies in the default backup and in that of the team: of an image that a rule wants there or not, and
// of an image that is no copy.
#[case::all_to_the_team(json!([{"action": "mirror", "backup": "team-a"}]), "BBB", "WWA")]
#[case::some_to_the_team(to_team(), "AWA", "WAA")]
#[case::of_another_team(
    json!([{"namespaces": ["other"], "action": "mirror", "backup": "team-a"}]), "WWA", "BBB"
)]
#[case::kept(json!([{"action": "keep"}]), "BBB", "BBB")]
#[case::some_kept(json!([{"images": ["docker.io/*"], "action": "keep"}]), "AWA", "BBB")]
fn claims_to_copies_follow_from_the_rules(
    #[case] rules: Value,
    #[case] in_default: &str,
    #[case] in_team: &str,
) {
    for (position, expected) in [in_default, in_team].into_iter().enumerate() {
        let repository = ["acme", "team-a"][position];
        for (image, expected) in ["docker.io-library-nginx:1", "quay.io-a-b:1", "tool:1"]
            .into_iter()
            .zip(expected.chars())
        {
            let image = format!("ghcr.io/{repository}/{image}");
            let mut indexes = Indexes::new(&rules);
            // What is left alone itself does not matter.
            let workload = Workload {
                is_exempt: true,
                ..deployment("web", &[&image])
            };
            indexes.apply(workload);
            let index = [&indexes.default, &indexes.team][position];
            let claims = CopyClaim::ALL.into_iter();
            let found = claims.filter(|claim| index.images_in_backup(*claim).next().is_some());
            let found: Vec<_> = found.collect();
            let expected_claim = match expected {
                'W' => CopyClaim::Wanted,
                'A' => CopyClaim::Allowed,
                _ => CopyClaim::Barred,
            };
            assert_eq!(found, [expected_claim], "{image}");
            let image = image.parse().unwrap();
            let users = index.users(&image, 10).count();
            assert_eq!(users, usize::from(expected != 'B'), "{image}");
        }
    }
}

/// The template is in the index of the default backup, and the injected image belongs to another one.
#[test]
fn injected_images_are_found_whatever_their_backup_is() {
    let mut indexes = Indexes::new(&json!([
        {"images": ["docker.io/*"], "action": "mirror", "backup": "team-a"},
    ]));
    let (mut template, mut pod) = (
        workload(
            WorkloadKind::DaemonSet,
            "log",
            &["ghcr.io/acme/quay.io-a-b:1"],
        ),
        workload(
            WorkloadKind::Pod,
            "log-1",
            &["ghcr.io/acme/quay.io-a-b:1", ORIGINAL],
        ),
    );
    template.is_annotated = true;
    pod.is_annotated = true;
    pod.is_owned = true;
    pod.controller = Some(Owner {
        api_version: "apps/v1".into(),
        kind: "DaemonSet".into(),
        name: "log".into(),
        uid: "log".into(),
    });
    indexes.apply(template);
    indexes.apply(pod);
    let injected = indexes.team.injected_into(&indexes.default);
    assert_eq!(injected.len(), 1);
    assert_eq!(&*injected[0].key.name, "log");
    assert!(indexes.default.injected().is_empty());
}
