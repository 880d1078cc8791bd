//! After any changes, the queries say what they would if only what is left had been told.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const NOTED: &str = "old.test/acme/docker.io-library-redis:7";
const IMAGES: [&str; 8] = [
    "ghcr.io/acme/docker.io/library/nginx:latest",
    NOTED,
    "nginx",
    "nginx:latest",
    "redis:7",
    "ghcr.io/acme/docker.io-library-nginx:latest",
    "quay.io/x/y:1",
    "Not An Image",
];

pub fn any_workload() -> impl Strategy<Value = Workload> {
    let kind = prop_oneof![Just(WorkloadKind::Deployment), Just(WorkloadKind::Pod)];
    let life = prop_oneof![
        4 => Just(Life::Active),
        1 => Just(Life::Paused),
        1 => Just(Life::Done),
    ];
    (
        kind,
        prop_oneof![Just("shop"), Just("bank"), Just("kube-system")],
        prop_oneof![Just("a"), Just("b"), Just("\u{1f600}")],
        0..2u8,
        life,
        any::<bool>(),
        prop::collection::vec(prop::sample::select(&IMAGES[..]), 0..4),
        any::<bool>(),
    )
        .prop_map(
            |(kind, namespace, name, uid, life, flag, images, has_secret)| {
                let mut workload = workload(kind, name, &images);
                workload.key.namespace = namespace.into();
                workload.uid = uid.to_string().into();
                workload.life = life;
                workload.is_owned = flag;
                if has_secret {
                    workload.pull_secrets = vec![SECRET.into()];
                    workload.originals = vec![(NOTED.into(), "redis:7".into())];
                }
                workload
            },
        )
}

pub fn any_change() -> impl Strategy<Value = Change> {
    let kind = prop_oneof![
        Just(POD),
        Just(Kind::Workload(WorkloadKind::Deployment)),
        Just(Kind::Namespace)
    ];
    let name = prop_oneof![Just("shop"), Just("bank")];
    prop_oneof![
        8 => any_workload().prop_map(seen),
        3 => any_workload().prop_map(gone),
        1 => (name.clone(), any::<bool>()).prop_map(|(name, flag)| Change::Apply(namespace(name, flag))),
        1 => name.prop_map(|name| Change::Delete(namespace(name, false))),
        1 => kind.clone().prop_map(Change::Init),
        1 => kind.prop_map(Change::InitDone),
    ]
}

/// What exists, kept in the simplest way.
#[derive(Default)]
struct Naive {
    workloads: BTreeMap<Key, (Workload, u32)>,
    namespaces: BTreeMap<Arc<str>, (bool, u32)>,
    lists: BTreeMap<Kind, u32>,
    is_complete: bool,
}

impl Naive {
    fn list(&self, kind: Kind) -> u32 {
        self.lists.get(&kind).copied().unwrap_or_default()
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Init(kind) => *self.lists.entry(kind).or_default() += 1,
            Change::InitDone(Kind::Namespace) => {
                let list = self.list(Kind::Namespace);
                self.namespaces.retain(|_, (_, told)| *told == list);
                self.is_complete = true;
            }
            Change::InitDone(kind) => {
                let list = self.list(kind);
                self.workloads
                    .retain(|key, (_, told)| Kind::Workload(key.kind) != kind || *told == list);
            }
            Change::ListAgain | Change::NotServed(_) | Change::Failing(..) => {}
            Change::Apply(Object::Workload(workload)) => {
                let list = self.list(Kind::Workload(workload.key.kind));
                self.workloads
                    .insert(workload.key.clone(), (*workload, list));
            }
            Change::Delete(Object::Workload(workload)) => {
                let old = self.workloads.get(&workload.key);
                if old.is_some_and(|(old, _)| old.uid == workload.uid) {
                    self.workloads.remove(&workload.key);
                }
            }
            Change::Apply(Object::Namespace(namespace)) => {
                let list = self.list(Kind::Namespace);
                self.namespaces
                    .insert(namespace.name, (namespace.is_terminating, list));
            }
            Change::Delete(Object::Namespace(namespace)) => {
                self.namespaces.remove(&namespace.name);
            }
        }
    }

    fn rebuilt(&self) -> Index {
        let mut index = index(
            self.workloads
                .values()
                .map(|(workload, _)| workload.clone()),
        );
        if self.is_complete {
            index.apply(Change::Init(Kind::Namespace));
        }
        for (name, (is_terminating, _)) in &self.namespaces {
            index.apply(Change::Apply(namespace(name, *is_terminating)));
        }
        if self.is_complete {
            index.apply(Change::InitDone(Kind::Namespace));
        }
        index
    }

    /// The users of each image, counted without the index.
    fn users(&self) -> BTreeMap<String, usize> {
        let mut users = BTreeMap::new();
        for (workload, _) in self.workloads.values() {
            if workload.key.namespace.starts_with("kube-") || workload.life == Life::Done {
                continue;
            }
            let images = workload.images.iter();
            let images: BTreeSet<_> = images
                .filter_map(|image| Some(ImageRef::parse(image).ok()?.to_string()))
                .filter(|image| !image.starts_with("ghcr.io/acme/") && *image != NOTED)
                .collect();
            for image in images {
                *users.entry(image).or_default() += 1;
            }
        }
        users
    }
}

/// Everything that the queries say.
#[derive(Debug, PartialEq)]
struct Answers {
    images: Vec<(String, usize, String)>,
    in_backup: Vec<String>,
    noted: Vec<String>,
    namespaces: Vec<String>,
    due: Vec<Candidate>,
    len: usize,
}

fn answers(index: &Index) -> Answers {
    let in_backup = index.all_in_backup();
    let in_backup =
        in_backup.map(|usage| format!("{} {} {}", usage.image, usage.users, usage.example));
    let namespaces = index.namespaces_with_pull_secret();
    Answers {
        images: images(index),
        in_backup: in_backup.collect(),
        noted: index.all_opaque().map(|pair| format!("{pair:?}")).collect(),
        namespaces: namespaces.map(str::to_owned).collect(),
        due: index
            .candidates(|image| match image.host() {
                "quay.io" => CopyState::Never,
                _ => CopyState::Mirrored,
            })
            .collect(),
        len: index.len(),
    }
}

proptest! {
    #[test]
    fn queries_depend_on_what_exists_only(changes in prop::collection::vec(any_change(), 0..60)) {
        let mut index = Index::new(rules());
        let mut naive = Naive::default();
        for change in changes {
            let before = answers(&index);
            let has_news = index.apply(change.clone());
            naive.apply(change);
            let after = answers(&index);
            prop_assert!(has_news || before == after, "a change was not told");
            prop_assert_eq!(&after, &answers(&naive.rebuilt()));
            let users: BTreeMap<_, _> = after.images.into_iter().map(|(image, users, _)| (image, users)).collect();
            prop_assert_eq!(users, naive.users());
        }
    }

    /// Nothing is left behind when everything is gone.
    #[test]
    fn nothing_leaks(changes in prop::collection::vec(any_change(), 0..60)) {
        let mut index = Index::new(rules());
        for change in changes {
            index.apply(change);
        }
        for kind in Kind::ALL {
            index.apply(Change::Init(kind));
            index.apply(Change::InitDone(kind));
        }
        prop_assert!(index.is_empty() && index.candidates.is_empty() && index.all_opaque().next().is_none());
        prop_assert_eq!(index.images().count() + index.all_in_backup().count(), 0);
        prop_assert_eq!(format!("{:?}", index.namespaces), "Namespaces({})");
    }
}
