//! Which workloads another admission would help.

use rstest::rstest;

use super::*;

/// `mirrored` is, `denied` never will be, everything else is awaited.
fn state(image: &ImageRef<'_>) -> CopyState {
    match image.path() {
        "library/mirrored" | "library/mirrored2" => CopyState::Mirrored,
        "library/denied" => CopyState::Never,
        "library/withheld" => CopyState::Withheld,
        _ => CopyState::Missing,
    }
}

fn due(index: &Index) -> Vec<Candidate> {
    index.candidates(state).collect()
}

fn is_due(workload: Workload) -> bool {
    !due(&index([workload])).is_empty()
}

#[rstest]
#[case(&["mirrored"], true)]
#[case(&["mirrored", "mirrored2"], true)]
#[case(&["mirrored", "missing"], false)]
#[case(&["missing"], false)]
#[case(&["mirrored", "Not An Image"], true)]
#[case(&["denied"], false)]
#[case(&["withheld"], false)]
#[case(&["mirrored", "withheld"], false)]
#[case(&[], false)]
#[case(&["ghcr.io/acme/docker.io-library-mirrored:latest"], false)]
#[case(&["ghcr.io/acme/docker.io-library-mirrored:latest", "mirrored2"], true)]
#[case(&["ghcr.io/acme/docker.io-library-mirrored:latest", "missing"], false)]
#[case::a_former_naming(&["ghcr.io/acme/docker.io/library/mirrored:latest"], true)]
#[case(&["ghcr.io/acme/docker.io/library/missing:latest"], false)]
#[case(&["ghcr.io/acme/docker.io/library/denied:latest"], false)]
fn it_depends_on_all_images(#[case] images: &[&str], #[case] expected: bool) {
    assert_eq!(is_due(deployment("web", images)), expected);
}

/// A copy at a former place is known by the annotation.
#[rstest]
#[case("old.test/acme/docker.io-library-mirrored:latest", "mirrored", true)]
#[case::still_missing("old.test/acme/docker.io-library-missing:latest", "missing", false)]
#[case::invented("old.test/acme/tool:latest", "mirrored", false)]
#[case::of_another("old.test/acme/docker.io-library-missing:latest", "mirrored", false)]
fn an_annotated_copy_is_replaced_by_the_present_one(
    #[case] copy: &str,
    #[case] original: &str,
    #[case] expected: bool,
) {
    let mut workload = deployment("web", &[copy]);
    workload.originals = vec![(copy.to_owned(), original.to_owned())];
    let former = Backup::with_both_namings("old.test/acme").unwrap();
    let mut index = Index::new(Rules {
        former_backups: FormerBackups::new(&rules().backup, [former]),
        ..rules()
    });
    index.apply(seen(workload.clone()));
    let due = due(&index);
    assert_eq!(!due.is_empty(), expected);
    for due in due {
        assert_eq!(due.remaining(&workload).len(), 1);
        let present = "ghcr.io/acme/docker.io-library-mirrored:latest";
        assert!(due.remaining(&deployment("web", &[present])).is_empty());
    }
    let known = index.all_opaque().count();
    assert_eq!(known, usize::from(!copy.contains("tool")));
    assert_eq!(index.images().count(), 0, "it is no original");
}

/// The policy leaves the pull Secrets of such a template to the `ServiceAccount`.
#[rstest]
#[case(&[], Some(SECRET), false)]
#[case(&["team"], Some(SECRET), true)]
#[case(&[], None, true)]
fn a_template_without_secrets_of_its_own_is_rewritten_as_a_whole_or_not_at_all(
    #[case] listed: &[&str],
    #[case] ours: Option<&str>,
    #[case] expected: bool,
) {
    let mut index = Index::new(Rules {
        pull_secret: ours.map(ToOwned::to_owned),
        ..rules()
    });
    index.apply(seen(Workload {
        pull_secrets: listed.iter().map(ToString::to_string).collect(),
        ..deployment("web", &["mirrored", "denied"])
    }));
    assert_eq!(due(&index).len(), usize::from(expected));
}

const COPY: &str = "ghcr.io/acme/docker.io-library-mirrored:latest";

#[rstest]
#[case::former(&[COPY], &["former"], true)]
#[case::beside_others(&[COPY], &["team", "former"], true)]
#[case::with_what_stays_upstream(&[COPY, "denied"], &["former"], true)]
#[case::both(&[COPY], &["former", SECRET], false)]
#[case::too_early(&[COPY, "missing"], &["former"], false)]
#[case::without_copies(&["denied"], &["former"], false)]
fn a_template_with_a_former_secret_is_moved_to_the_present_one(
    #[case] images: &[&str],
    #[case] listed: &[&str],
    #[case] expected: bool,
) {
    let mut index = Index::new(Rules {
        former_pull_secrets: vec!["older".into(), "former".into()],
        skip_owners: Vec::new(),
        ..rules()
    });
    let workload = |is_exempt| Workload {
        pull_secrets: listed.iter().map(ToString::to_string).collect(),
        is_exempt,
        ..deployment("web", images)
    };
    index.apply(seen(workload(false)));
    let found = due(&index);
    let missing: Vec<_> = found
        .iter()
        .map(|due| due.missing_secret.as_deref())
        .collect();
    assert_eq!(missing, vec![Some(SECRET); usize::from(expected)]);
    assert_eq!(index.namespaces_naming(2).count(), 1);
    assert_eq!(index.namespaces_naming(1).count(), 0);
    for due in found {
        assert!(!due.is_helped(&workload(false)));
        let moved = Workload {
            pull_secrets: vec![SECRET.into()],
            ..workload(false)
        };
        assert!(due.is_helped(&moved));
    }
    index.apply(seen(workload(true)));
    assert!(due(&index).is_empty());
    index.apply(gone(workload(true)));
    assert_eq!(index.namespaces_naming(2).count(), 0);
}

/// What an annotation says of copies elsewhere is believed if their names fit, and only for the images of its own workload.
#[rstest]
#[case::of_another("other.example/x/docker.io-library-mirrored:1", "mirrored:1", true)]
#[case::former("former.example/x/docker.io-library-mirrored:1", "mirrored:1", false)]
#[case::own("ghcr.io/acme/docker.io-library-mirrored:1", "mirrored:1", false)]
#[case::no_copy("other.example/x/docker.io-library-mirrored:1", "redis:1", false)]
#[case::not_used("other.example/x/docker.io-library-redis:1", "redis:1", false)]
fn what_another_installation_rewrote_is_left_alone(
    #[case] copy: &str,
    #[case] original: &str,
    #[case] expected: bool,
) {
    let former = Backup::with_both_namings("former.example/x").unwrap();
    let mut index = Index::new(Rules {
        former_backups: FormerBackups::new(&rules().backup, [former]),
        ..rules()
    });
    let used = if copy.contains("redis") {
        "nginx"
    } else {
        copy
    };
    let images = [used, "mirrored"];
    let originals = [(copy.to_owned(), original.to_owned())];
    index.apply(seen(Workload {
        originals: originals
            .into_iter()
            .filter(|(copy, _)| images.contains(&copy.as_str()))
            .collect(),
        ..deployment("web", &images)
    }));
    let others = index.of_other_installations();
    assert_eq!(others.len(), usize::from(expected));
    assert_eq!(index.images().count() == 0, expected);
    index.apply(gone(deployment("web", &[])));
    assert!(index.of_other_installations().is_empty());
}

#[rstest]
#[case(WorkloadKind::Deployment, true)]
#[case(WorkloadKind::StatefulSet, true)]
#[case(WorkloadKind::DaemonSet, true)]
#[case(WorkloadKind::CronJob, true)]
#[case(WorkloadKind::ReplicaSet, true)]
#[case(WorkloadKind::ReplicationController, true)]
#[case(WorkloadKind::Job, false)]
#[case(WorkloadKind::Pod, false)]
fn it_depends_on_the_kind(#[case] kind: WorkloadKind, #[case] expected: bool) {
    assert_eq!(is_due(workload(kind, "web", &["mirrored"])), expected);
    assert!(!is_due(Workload {
        is_owned: true,
        ..workload(kind, "web", &["mirrored"])
    }));
}

#[rstest]
#[case(Workload { life: Life::Paused, ..deployment("web", &["mirrored"]) })]
#[case(Workload { life: Life::Done, ..deployment("web", &["mirrored"]) })]
#[case(Workload { is_exempt: true, ..deployment("web", &["mirrored"]) })]
#[case({
    let mut workload = deployment("web", &["mirrored"]);
    workload.key.namespace = "kube-system".into();
    workload
})]
fn what_must_not_be_touched_is_not_due(#[case] workload: Workload) {
    assert!(!is_due(workload));
}

#[test]
fn nothing_is_due_where_everything_is_being_deleted() {
    let mut index = index([deployment("web", &["mirrored"])]);
    index.apply(Change::Apply(namespace("shop", true)));
    assert!(due(&index).is_empty());
}

#[test]
fn a_rewritten_workload_is_due_no_more() {
    let mut index = index([deployment("web", &["mirrored"])]);
    assert_eq!(due(&index).len(), 1);
    let rewritten = deployment("web", &["ghcr.io/acme/docker.io-library-mirrored:latest"]);
    index.apply(seen(rewritten));
    assert!(due(&index).is_empty());
}

#[test]
fn images_are_named_in_their_normal_form_and_order() {
    let index = index([deployment(
        "web",
        &["mirrored2", "mirrored:latest", "mirrored"],
    )]);
    let due = due(&index);
    let images: Vec<_> = due[0].images.iter().map(ToString::to_string).collect();
    assert_eq!(
        images,
        [
            "docker.io/library/mirrored:latest",
            "docker.io/library/mirrored2:latest"
        ]
    );
    assert_eq!(&*due[0].uid, "web");
}

#[test]
fn each_image_is_asked_for_once() {
    let asked = std::cell::Cell::new(0);
    let index = index((0..100).map(|number| deployment(&format!("web-{number}"), &["mirrored"])));
    let due = index.candidates(|image| {
        asked.set(asked.get() + 1);
        state(image)
    });
    assert_eq!((due.count(), asked.get()), (100, 1));
}

#[test]
fn what_remains_is_compared_in_the_normal_form() {
    let index = index([deployment("web", &["mirrored", "mirrored2"])]);
    let due = due(&index);
    let remaining = |images: &[&str]| {
        let remaining = due[0].remaining(&deployment("web", images));
        remaining
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        remaining(&["docker.io/library/mirrored:latest", "ghcr.io/acme/copy:1"]),
        ["docker.io/library/mirrored:latest"]
    );
    assert_eq!(remaining(&["ghcr.io/acme/copy:1"]), [""; 0]);
}
