//! The images in use: each with what the rules say about it, and with its users. Memory depends on the number of different images,
//! and not on that of objects.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use mirror_contract::{BackupName, ImageRef};

use super::backups::Backups;
use super::rules::Rules;
use crate::cluster::policies::decision::{self, ImageDecision, KeepReason, Outcome, Use};
use crate::cluster::workload::Workload;
use crate::cluster::{Key, Life, Object, WorkloadKind};
use crate::manifests::{Found, ImageField, ObjectName, Problem, Sink};

/// Images with different decisions. At some hundred bytes each.
const MAX_IMAGES: usize = 100_000;

/// Images in fields.
const MAX_FIELDS: usize = 10_000;

/// Users of one image that are named.
const MAX_USERS: usize = 20;

/// Problems that are told one by one.
const MAX_PROBLEMS: usize = 100;

/// What happens to an image that an object uses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    Decided(ImageDecision),
    /// Its pull policy is `Never`: it is on the nodes already.
    NeverPulled,
    /// It is not a valid reference, for this reason.
    NotAnImage(String),
    /// It is a copy whose original is not known.
    UnknownCopy(BackupName<'static>),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct UsedImage {
    /// The canonical reference; the text for one that is not valid.
    pub(super) image: String,
    pub(super) verdict: Verdict,
}

#[derive(Debug, Default)]
pub(super) struct Users {
    /// The first ones, without objects that belong to other ones of these.
    named: BTreeSet<ObjectName>,
    count: u64,
    /// The first ones that belong to others, such as Pods.
    owned: BTreeSet<ObjectName>,
    owned_count: u64,
}

pub(super) struct Usage {
    rules: Rules,
    backups: Arc<Backups>,
    pub(super) images: BTreeMap<UsedImage, Users>,
    pub(super) fields: BTreeSet<(ImageField, ObjectName)>,
    pub(super) problems: BTreeSet<Problem>,
    /// Problems beyond the limit.
    pub(super) more_problems: u64,
    /// Images and fields beyond the limits.
    pub(super) left_out: u64,
    /// Workloads whose owner compares images itself, with their Pods. Lists of controllers come before lists of Pods.
    skipped: HashSet<Key>,
}

impl Usage {
    pub(super) fn new(rules: Rules, backups: Arc<Backups>) -> Self {
        Self {
            rules,
            backups,
            images: BTreeMap::new(),
            fields: BTreeSet::new(),
            problems: BTreeSet::new(),
            more_problems: 0,
            left_out: 0,
            skipped: HashSet::new(),
        }
    }

    /// Adds an image that no object uses.
    pub(super) fn add_image(&mut self, namespace: &str, image: &ImageRef<'static>) {
        let of = Use {
            namespace,
            labels: self.rules.namespaces.get(namespace),
            workload: None,
        };
        for used in self.decided(&of, image) {
            self.images.entry(used).or_default();
        }
    }

    /// Adds an object of a cluster.
    pub(super) fn add_object(&mut self, object: Object) {
        match object {
            Object::Namespace(namespace) => {
                self.rules
                    .namespaces
                    .insert(namespace.name, namespace.labels);
            }
            Object::Workload(workload) => {
                let key = &workload.key;
                let name = ObjectName {
                    kind: key.kind.name().into(),
                    namespace: (*key.namespace).into(),
                    name: key.name.clone(),
                };
                self.add_workload(&name, &workload);
            }
        }
    }

    fn add_workload(&mut self, object: &ObjectName, workload: &Workload) {
        if workload.life == Life::Done {
            return;
        }
        let skipped_by = self.skipped_by(workload);
        let namespace = &*workload.key.namespace;
        let of = Use {
            namespace,
            labels: self.rules.namespaces.get(namespace),
            workload: Some(workload),
        };
        let mut used = BTreeSet::new();
        for text in &workload.images {
            match ImageRef::parse(text) {
                Ok(image) => {
                    used.extend(self.used(&of, workload, text, &image, skipped_by.as_ref()));
                }
                Err(error) => {
                    used.insert(UsedImage {
                        image: text.clone(),
                        verdict: Verdict::NotAnImage(error.to_string()),
                    });
                }
            }
        }
        for text in &workload.never_pulled {
            let image =
                ImageRef::parse(text).map(|image| image.without_redundant_tag().to_string());
            used.insert(UsedImage {
                image: image.unwrap_or_else(|_| text.clone()),
                verdict: Verdict::NeverPulled,
            });
        }
        let is_owned = belongs_to_workload(workload);
        for used in used {
            if self.images.len() < MAX_IMAGES || self.images.contains_key(&used) {
                self.images.entry(used).or_default().add(object, is_owned);
            } else {
                self.left_out += 1;
            }
        }
    }

    /// Returns the image, or the original of a copy in a backup, with its decisions.
    fn used(
        &self,
        of: &Use<'_>,
        workload: &Workload,
        text: &str,
        image: &ImageRef<'_>,
        skipped_by: Option<&ImageDecision>,
    ) -> Vec<UsedImage> {
        let copy = self.backups.used_copy(image, text, workload);
        match (copy, skipped_by) {
            (Some(copy), _) => match copy.original {
                // Copies in use are maintained, even for workloads that have opted out since.
                Some(original) => {
                    let of = Use {
                        workload: None,
                        ..*of
                    };
                    self.decided(&of, &original)
                }
                None => vec![UsedImage {
                    image: image.to_string(),
                    verdict: Verdict::UnknownCopy(copy.backup),
                }],
            },
            (None, Some(decision)) => vec![used(image, decision.clone())],
            (None, None) => self.decided(of, image),
        }
    }

    fn decided(&self, of: &Use<'_>, image: &ImageRef<'_>) -> Vec<UsedImage> {
        let image = image.clone().without_redundant_tag();
        let Rules {
            policies, excluded, ..
        } = &self.rules;
        let decisions = decision::decide(policies, excluded, of, &image).into_iter();
        decisions.map(|decision| used(&image, decision)).collect()
    }

    /// Returns the decision for a workload that belongs to one whose owner is skipped, and records those that are.
    fn skipped_by(&mut self, workload: &Workload) -> Option<ImageDecision> {
        let owner = workload.controller.as_ref()?;
        let policies = &self.rules.policies;
        let owner_key = owner.workload_kind().map(|kind| Key {
            kind,
            name: owner.name.clone(),
            ..workload.key.clone()
        });
        let is_of_skipped = owner_key.is_some_and(|key| self.skipped.contains(&key));
        if (is_of_skipped || policies.skips_owner(&owner.api_version, &owner.kind))
            && workload.key.kind != WorkloadKind::Pod
        {
            self.skipped.insert(workload.key.clone());
        }
        is_of_skipped.then(|| ImageDecision {
            outcome: Outcome::Keep(KeepReason::Owner {
                kind: owner.kind.clone(),
            }),
            policy: None,
            setting: "skipOwners".to_owned(),
        })
    }
}

fn used(image: &ImageRef<'_>, decision: ImageDecision) -> UsedImage {
    UsedImage {
        image: image.to_string(),
        verdict: Verdict::Decided(decision),
    }
}

/// Returns whether a controller of a known kind created the object, which is a user itself.
fn belongs_to_workload(workload: &Workload) -> bool {
    let owner = workload.controller.as_ref();
    owner.is_some_and(|owner| owner.workload_kind().is_some())
}

impl Users {
    fn add(&mut self, object: &ObjectName, is_owned: bool) {
        let (named, count) = if is_owned {
            (&mut self.owned, &mut self.owned_count)
        } else {
            (&mut self.named, &mut self.count)
        };
        *count += 1;
        if named.len() < MAX_USERS {
            named.insert(object.clone());
        } else if named.last().is_some_and(|last| object < last) && named.insert(object.clone()) {
            named.pop_last();
        }
    }

    /// Returns the first users, and the number of all.
    pub(super) fn into_named(self) -> (Vec<ObjectName>, u64) {
        let (named, count) = if self.count > 0 {
            (self.named, self.count)
        } else {
            (self.owned, self.owned_count)
        };
        (named.into_iter().collect(), count)
    }
}

impl Sink for Usage {
    fn found(&mut self, found: Found) {
        match found {
            Found::Workload { object, workload } => self.add_workload(&object, &workload),
            Found::Namespace(namespace) => self.add_object(Object::Namespace(namespace)),
            Found::Field { object, field } => {
                if self.fields.len() < MAX_FIELDS {
                    self.fields.insert((field, object));
                } else {
                    self.left_out += 1;
                }
            }
        }
    }

    fn problem(&mut self, problem: Problem) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.insert(problem);
        } else {
            self.more_problems += 1;
        }
    }
}
