use std::io::{Write as _, stdout};
use std::time::Instant;

use super::*;
use crate::backups::ByBackup;
use crate::cluster::copy_status::Details;
use crate::cluster::index::Index;
use crate::cluster::index::tests::{deployment, rules};
use crate::cluster::shared_index::Indexes;
use crate::cluster::{Change, ExcludedNamespaces, Object, Replicas, SharedIndex};

/// A cluster of workloads with these images, whose copies have these states.
fn cluster(images: &[(&str, copy_status::State, Maintainer)]) -> ClusterSources {
    let statuses = CopyStatuses::new();
    let index = SharedIndex::new(Index::new(rules()));
    for (number, (image, state, maintainer)) in images.iter().enumerate() {
        let workload = deployment(&format!("w{number}"), &[image]);
        index.apply(Change::Apply(Object::Workload(Box::new(workload))));
        let record = Record {
            state: state.clone(),
            is_last_copy: false,
            is_kept: false,
            appeared_late: false,
            is_barred: false,
            details: Details {
                maintainer: *maintainer,
                ..Details::default()
            },
        };
        let image: ImageRef<'static> = ImageRef::parse(image).unwrap().into_owned();
        statuses.set(&Image::new(image), record);
    }
    let mut exempt = deployment("exempt", &["quay.io/exempt:1"]);
    exempt.is_exempt = true;
    index.apply(Change::Apply(Object::Workload(Box::new(exempt))));
    ClusterSources {
        indexes: Indexes::from(Arc::new(index)),
        copy_status: ByBackup::new(statuses),
        excluded: ExcludedNamespaces::default(),
        replicas: Replicas::alone(),
    }
}

fn names(cluster: &ClusterSources, query: &str, share: Share<'_>) -> Vec<String> {
    let query = ImageQuery::parse(query).unwrap();
    let rows = cluster.rows(&query, share, query.limit, 10);
    let name = |row: &Row| format!("{} {}", row.key.image, row.state());
    rows.iter().map(name).collect()
}

#[test]
fn filters_and_shares_select_rows() {
    let failed = copy_status::State::Failed {
        reason: "no".into(),
    };
    let cluster = cluster(&[
        ("quay.io/a:1", failed, Maintainer::Own),
        (
            "quay.io/b:1",
            copy_status::State::Missing,
            Maintainer::Other,
        ),
        ("quay.io/c:1", copy_status::State::Copying, Maintainer::None),
    ]);
    let all = [
        "quay.io/a:1 failed",
        "quay.io/b:1 missing",
        "quay.io/c:1 copying",
        "quay.io/exempt:1 excluded",
    ];
    assert_eq!(names(&cluster, "", Share::All), all);
    assert_eq!(names(&cluster, "", Share::Own), all[..1]);
    assert_eq!(names(&cluster, "q=b", Share::All), all[1..2]);
    assert_eq!(
        names(&cluster, "state=copying,excluded", Share::All),
        all[2..]
    );
    assert_eq!(names(&cluster, "namespace=shop", Share::All), all);
    assert!(names(&cluster, "namespace=other", Share::All).is_empty());
    assert_eq!(names(&cluster, "backup=default", Share::All), all[..3]);
    let totals = cluster.totals_of_backup(cluster.copy_status.of_default(), Share::All);
    assert_eq!((totals.failed, totals.missing, totals.copying), (1, 1, 1));
    let own = cluster.totals_of_backup(cluster.copy_status.of_default(), Share::Own);
    assert_eq!((own.failed, own.missing, own.copying), (1, 0, 0));
    assert_eq!(cluster.totals_beside_backups(Share::All).excluded, 1);
}

/// The time of a page is reported, not judged: the machine may be busy.
#[test]
fn pages_have_every_image_once() {
    let references: Vec<_> = (0..10_000).map(|n| format!("quay.io/app-{n}:1")).collect();
    let images = references.iter().map(|image| {
        let state = copy_status::State::Missing;
        (image.as_str(), state, Maintainer::Own)
    });
    let cluster = cluster(&images.collect::<Vec<_>>());
    let mut query = ImageQuery {
        limit: 500,
        ..ImageQuery::default()
    };
    let (mut seen, mut longest) = (BTreeSet::new(), std::time::Duration::ZERO);
    loop {
        let started = Instant::now();
        let rows = cluster.rows(&query, Share::All, query.limit, 10);
        longest = longest.max(started.elapsed());
        let Some(last) = rows.last() else { break };
        query.after = Some(last.key.clone());
        for row in rows {
            assert!(seen.insert(row.key));
        }
    }
    assert_eq!(seen.len(), 10_001);
    let sparse = ImageQuery::parse("q=app-9999").unwrap();
    let started = Instant::now();
    assert_eq!(cluster.rows(&sparse, Share::All, 100, 10).len(), 1);
    let scan = started.elapsed();
    let report = format!("slowest page of 500: {longest:?}; scan of 10,000 for one: {scan:?}\n");
    stdout().write_all(report.as_bytes()).unwrap();
}
