//! The images in use and their users, derived from the index.

use super::*;

#[test]
fn originals_are_derived_from_the_names_of_copies() {
    let backup = backup();
    let arc = |name: &str| Image::new(image(name));
    let pinned = format!("ghcr.io/acme/app@{}", digest('a'));
    let copy_of = |name: &str| Image::new(backup.target(&image(name)).unwrap());
    let anchor = format!(
        "backup.test:5000/acme/ghcr.io-acme-app:sha256-{}.mirror",
        "b".repeat(64)
    );
    let in_backup = vec![
        copy_of("docker.io/library/nginx:1"),
        copy_of("quay.io/a/b-c:2"),
        copy_of(&pinned),
        arc(&anchor),
        arc("backup.test:5000/acme/own:1"),
        // By its name it would be a copy of a copy.
        arc("backup.test:5000/acme/backup.test_5000-acme-x:1"),
    ];
    let found = images_in_use(
        vec![arc("docker.io/library/nginx:1")],
        vec![named(CopyClaim::Wanted, in_backup.clone(), Vec::new())],
        &backup,
    );
    let names: Vec<_> = found.keys().map(ToString::to_string).collect();
    let expected = [
        "backup.test:5000/acme/backup.test_5000-acme-x:1".to_owned(),
        "backup.test:5000/acme/own:1".to_owned(),
        "docker.io/library/nginx:1".to_owned(),
        pinned.clone(),
        format!("ghcr.io/acme/app@{}", digest('b')),
        "quay.io/a/b-c:2".to_owned(),
    ];
    let sorted = |mut names: Vec<String>| {
        names.sort_unstable();
        names
    };
    assert_eq!(sorted(names), sorted(expected.to_vec()));
    let claim = CopyClaim::Wanted;
    let original = |copies: Vec<Image>| Some(Use::Original { copies, claim });
    assert_eq!(
        found.get(&image("docker.io/library/nginx:1")).cloned(),
        original(vec![in_backup[0].clone()])
    );
    assert_eq!(
        found.get(&image("backup.test:5000/acme/own:1")),
        Some(&Use::Foreign)
    );
}

#[test]
fn originals_are_derived_from_annotations() {
    let arc = |name: &str| Image::new(image(name));
    let former = arc("old.test/docker.io-library-nginx:1");
    let (nginx, own) = (
        arc("docker.io/library/nginx:1"),
        arc("backup.test:5000/acme/own:1"),
    );
    let in_backup = vec![former.clone(), own.clone()];
    let noted = vec![(former.clone(), nginx.clone())];
    let claim = CopyClaim::Wanted;
    let found = images_in_use(vec![], vec![named(claim, in_backup, noted)], &backup());
    let copies = vec![former];
    let original = Use::Original { copies, claim };
    let expected = [(nginx, original), (own, Use::Foreign)];
    assert_eq!(found, expected.into_iter().collect());
}

#[test]
fn the_strongest_claim_to_an_image_counts() {
    let arc = |name: &str| Image::new(image(name));
    let copy = Image::new(backup().target(&image("quay.io/a/b:1")).unwrap());
    let own = arc("backup.test:5000/acme/own:1");
    let claims = |claims: &[CopyClaim]| {
        let claims = claims.iter();
        let named = claims.map(|claim| {
            let in_backup = vec![copy.clone(), own.clone()];
            named(*claim, in_backup, vec![(own.clone(), arc("quay.io/c:1"))])
        });
        let found = images_in_use(vec![], named.collect(), &backup());
        let found = found.into_iter().map(|(image, usage)| match usage {
            Use::Original { claim, copies } => (image.to_string(), claim, copies.len()),
            Use::Foreign => panic!("{image}"),
        });
        found.collect::<Vec<_>>()
    };
    for (all, strongest) in [
        (&[CopyClaim::Barred][..], CopyClaim::Barred),
        (&[CopyClaim::Barred, CopyClaim::Allowed], CopyClaim::Allowed),
        (&CopyClaim::ALL, CopyClaim::Wanted),
    ] {
        let expected =
            ["quay.io/a/b:1", "quay.io/c:1"].map(|image| (image.to_owned(), strongest, 1));
        assert_eq!(claims(all), expected);
    }
    let barred = named(CopyClaim::Barred, vec![own], Vec::new());
    assert!(images_in_use(vec![], vec![barred], &backup()).is_empty());
}

/// Otherwise a missing copy would count as lost because of a name that somebody else has invented.
#[test]
fn names_of_copies_count_only_where_the_rules_use_the_backup() {
    let original = Image::new(image("quay.io/a/b:1"));
    let copy = Image::new(backup().target(&original).unwrap());
    let barred = || named(CopyClaim::Barred, vec![copy.clone()], Vec::new());
    let found = images_in_use(vec![original.clone()], vec![barred()], &backup());
    let unused = Use::Original {
        copies: Vec::new(),
        claim: CopyClaim::Wanted,
    };
    assert_eq!(found.get(&original), Some(&unused));
    // A copy that only others name is repaired.
    let found = images_in_use(vec![], vec![barred()], &backup());
    let repaired = Use::Original {
        copies: vec![copy.clone()],
        claim: CopyClaim::Barred,
    };
    assert_eq!(found.get(&original), Some(&repaired));
}

fn named(claim: CopyClaim, in_backup: Vec<Image>, annotated: Vec<(Image, Image)>) -> NamedCopies {
    NamedCopies {
        claim,
        in_backup,
        annotated,
    }
}

fn used_by(kind: WorkloadKind, name: &str, is_owned: bool, image: &str) -> Change {
    seen(Workload {
        is_owned,
        ..workload(kind, name, &[image])
    })
}

#[test]
fn reports_are_about_objects_that_people_manage() {
    let mut index = Index::new(rules(backup()));
    let original = Image::new(image("quay.io/a/b:1"));
    let copy = Image::new(backup().target(&original).unwrap());
    let names = |index: &Index| {
        let users = top_level(index, [&original, &copy].into_iter());
        let names: Vec<_> = users.into_iter().map(|about| about.name).collect();
        names
    };
    index.apply(used_by(WorkloadKind::Pod, "db-0", true, "quay.io/a/b:1"));
    assert_eq!(names(&index), ["db-0"], "there is no other object");
    index.apply(used_by(
        WorkloadKind::ReplicaSet,
        "web-1",
        true,
        "quay.io/a/b:1",
    ));
    index.apply(used_by(
        WorkloadKind::Deployment,
        "web",
        false,
        &copy.to_string(),
    ));
    index.apply(used_by(WorkloadKind::Pod, "alone", false, "quay.io/a/b:1"));
    assert_eq!(names(&index), ["alone", "web"]);
    for number in 0..100 {
        let name = format!("job-{number}");
        index.apply(used_by(WorkloadKind::Job, &name, false, "quay.io/a/b:1"));
    }
    assert_eq!(names(&index).len(), 10);
}
