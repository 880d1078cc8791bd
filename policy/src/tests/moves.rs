//! What holds while naming, repository, host and pull Secret change, copies and originals are lost, and annotations are
//! dropped, in any order: nothing that can be pulled is replaced by something that cannot.

use std::collections::BTreeSet;
use std::time::Duration;

use mirror_contract::{
    Backup, Digest, ImageRef, ImageStatus, Mode, PullSecretStatus, Query, Refusal, RefusalKind,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::fixtures::{answer_with, create, pod_of};
use super::script::{SIDECAR, TAG_DIGEST, manifest};
use crate::fuzzing::response;
use crate::{Host, HostError};

/// Where copies are or were, each with both namings.
const PLACES: [&str; 3] = ["backup.test/acme", "backup.test/mirror", "new.test/acme"];
const SECRETS: [&str; 2] = ["image-mirror-pull", "mirror-pull-2"];
const NOTE: &str = "image-mirror.dev/original-images";

/// What somebody does to the workload, or what becomes of the world around it.
#[derive(Clone, Debug)]
enum Act {
    /// `kubectl apply` of these images.
    Apply(Vec<usize>),
    /// `kubectl replace`: no annotation and no pull Secret is left.
    Replace(Vec<usize>),
    /// `kubectl set image`.
    SetImage(usize, usize),
    /// A change of the template that is not about images.
    Restart,
    /// A change beside the template.
    Touch,
    /// Something sets all annotations of the template.
    DropAnnotations,
    /// Back to a template of before.
    RollBack(usize),
    /// The sidecar sends the workload through admission again.
    Readmit,
    /// The sidecar is told another backup: one of the places, with one of the namings.
    MoveTo(usize),
    /// The pull Secret gets another name.
    NameSecret(usize),
    /// The sidecar has made all copies that it can make.
    CopyAll,
    /// Copies of this image are lost, in one of the backups.
    LoseCopy(usize, usize),
    /// Originals of this image are lost.
    LoseOriginal(usize),
    /// The sidecar responds, or not.
    SetUp(bool),
    /// All images are excluded by a pattern, or none.
    Exclude(bool),
    /// The pull Secret can be created, or not.
    AllowSecret(bool),
}

/// The registries and the sidecar, which is the host of the policy as well.
#[derive(Clone)]
struct World {
    originals: BTreeSet<String>,
    copies: BTreeSet<String>,
    backups: Vec<Backup>,
    current: usize,
    secret: &'static str,
    is_up: bool,
    is_excluded: bool,
    has_secret: bool,
}

fn any_act() -> impl Strategy<Value = Act> {
    let image = 0..3_usize;
    let images = || prop::collection::vec(0..3_usize, 1..3);
    prop_oneof![
        4 => images().prop_map(Act::Apply),
        1 => images().prop_map(Act::Replace),
        2 => (0..2_usize, image.clone()).prop_map(|(index, image)| Act::SetImage(index, image)),
        1 => Just(Act::Restart),
        1 => Just(Act::Touch),
        2 => Just(Act::DropAnnotations),
        1 => (1..5_usize).prop_map(Act::RollBack),
        3 => Just(Act::Readmit),
        3 => (0..6_usize).prop_map(Act::MoveTo),
        1 => (0..2_usize).prop_map(Act::NameSecret),
        3 => Just(Act::CopyAll),
        1 => (image.clone(), 0..6_usize).prop_map(|(image, backup)| Act::LoseCopy(image, backup)),
        2 => image.prop_map(Act::LoseOriginal),
        2 => any::<bool>().prop_map(Act::SetUp),
        1 => any::<bool>().prop_map(Act::Exclude),
        1 => any::<bool>().prop_map(Act::AllowSecret),
    ]
}

fn original(image: usize) -> String {
    format!("docker.io/library/app{image}:1")
}

fn containers(images: &[usize]) -> Value {
    let containers = images.iter().enumerate();
    containers
        .map(
            |(index, image)| json!({"name": format!("c{index}"), "image": format!("app{image}:1")}),
        )
        .collect()
}

impl World {
    fn new() -> Self {
        let backups = PLACES.into_iter().filter_map(Backup::with_both_namings);
        Self {
            originals: (0..3).map(original).collect(),
            copies: BTreeSet::new(),
            backups: backups.flatten().collect(),
            current: 0,
            secret: SECRETS[0],
            is_up: true,
            is_excluded: false,
            has_secret: true,
        }
    }

    fn copy(&self, image: &ImageRef<'_>) -> String {
        let copy = self.backups[self.current].target(image).unwrap();
        copy.to_string()
    }

    /// The sidecar copies from upstream, or from the copy in another backup.
    fn make_copy(&mut self, image: &ImageRef<'_>) {
        let has_source = self.originals.contains(&image.to_string())
            || self.backups.iter().any(|backup| {
                let copy = backup.target(image).unwrap().to_string();
                self.copies.contains(&copy)
            });
        if has_source {
            self.copies.insert(self.copy(image));
        }
    }

    fn can_be_pulled(&self, image: &str) -> bool {
        let image = ImageRef::parse(image).unwrap().to_string();
        self.originals.contains(&image) || self.copies.contains(&image)
    }

    /// The original that an image stands for, by its name.
    fn original_of(&self, image: &str) -> String {
        let image = ImageRef::parse(image).unwrap();
        let mut backups = self.backups.iter();
        let original = backups.find_map(|backup| backup.original(&image));
        original.unwrap_or(image.into_owned()).to_string()
    }

    fn is_copy(&self, image: &str) -> bool {
        self.original_of(image) != ImageRef::parse(image).unwrap().to_string()
    }

    fn settings() -> Value {
        json!({"backups": PLACES, "pullSecrets": SECRETS})
    }

    fn admit(&mut self, request: &mut Value) -> Value {
        let mut settings = Self::settings();
        settings["sidecar"] = SIDECAR.into();
        if self.is_excluded {
            settings["images"] = json!({"exclude": ["*"]});
        }
        let payload = json!({"request": &*request, "settings": settings}).to_string();
        let answer = response(payload.as_bytes(), self);
        assert!(answer.accepted);
        answer
            .mutated_object
            .unwrap_or_else(|| request["object"].take())
    }
}

impl Host for World {
    fn manifest(&mut self, reference: &str) -> Result<String, HostError> {
        let refuse = |kind, reason| Err(HostError(Refusal::new(kind, reason).to_string()));
        if !self.is_up {
            return Err(HostError("connection refused".to_owned()));
        }
        let query = reference.strip_prefix(SIDECAR).unwrap();
        let (repository, tag) = query[1..].rsplit_once(':').unwrap();
        let image = match Query::decode(repository, tag).unwrap() {
            Query::Image { image, mode, .. } => {
                assert_eq!(mode, Mode::Ensure);
                image
            }
            Query::PullSecret { .. } if !self.has_secret => {
                return refuse(RefusalKind::Failed, "exceeded quota");
            }
            Query::PullSecret { .. } => {
                let name = self.secret.into();
                return Ok(manifest(&PullSecretStatus::Ready { name }.annotations()));
            }
        };
        let answer = if self.backups.iter().any(|backup| backup.contains(&image)) {
            let is_former = self.backups[self.current].original(&image).is_none();
            ImageStatus::InBackup {
                secret: Some(self.secret.into()),
                is_former,
                is_unavailable: false,
            }
        } else if self.copies.contains(&self.copy(&image)) {
            let digest = Digest::parse(TAG_DIGEST).unwrap();
            ImageStatus::Mirrored {
                image: self.backups[self.current].target(&image).unwrap(),
                digest,
                secret: Some(self.secret.into()),
            }
        } else if self.originals.contains(&image.to_string()) {
            return refuse(RefusalKind::Pending, "copying");
        } else {
            return refuse(RefusalKind::Failed, "no such image");
        };
        Ok(manifest(&answer.annotations()))
    }

    fn log(&mut self, _: &[u8]) {}

    fn elapsed(&self) -> Duration {
        Duration::ZERO
    }
}

/// A workload in that world, all its templates, and whether its kind drops annotations.
struct Workload {
    kind: &'static str,
    history: Vec<Value>,
}

impl Workload {
    fn new(kind: &'static str, world: &mut World) -> Self {
        let mut workload = Self {
            kind,
            history: Vec::new(),
        };
        let object = workload.manifest(&[0]);
        let stored = world.admit(&mut create(object));
        workload.store(stored);
        workload
    }

    fn manifest(&self, images: &[usize]) -> Value {
        json!({
            "apiVersion": if self.kind == "Deployment" { "apps/v1" } else { "example.com/v1" },
            "kind": self.kind,
            "metadata": {"name": "web", "annotations": {}},
            "spec": {"template": {"metadata": {}, "spec": {"containers": containers(images)}}},
        })
    }

    fn live(&self) -> &Value {
        self.history.last().unwrap()
    }

    fn store(&mut self, mut stored: Value) {
        if self.kind != "Deployment" {
            stored["spec"]["template"]["metadata"] = json!({});
        }
        self.history.push(stored);
    }

    /// The object that somebody sends; `None` if the act is not about the workload.
    fn request(&self, act: &Act) -> Option<Value> {
        let mut object = self.live().clone();
        let template = &mut object["spec"]["template"];
        match act {
            Act::Apply(images) => template["spec"]["containers"] = containers(images),
            Act::Replace(images) => object = self.manifest(images),
            Act::SetImage(index, image) => {
                let place = format!("/spec/containers/{index}/image");
                *template.pointer_mut(&place)? = format!("app{image}:1").into();
            }
            Act::Restart => {
                template["spec"]["hostname"] = format!("h{}", self.history.len()).into();
            }
            Act::DropAnnotations => template["metadata"] = json!({"annotations": {}}),
            Act::RollBack(steps) => {
                let revision = self.history.len().checked_sub(1 + steps)?;
                *template = self.history.get(revision)?["spec"]["template"].clone();
            }
            Act::Touch => {
                object["metadata"]["labels"] = json!({"n": self.history.len().to_string()});
            }
            Act::Readmit => {
                object["metadata"]["annotations"]["image-mirror.dev/readmitted"] =
                    self.history.len().to_string().into();
            }
            _ => return None,
        }
        Some(object)
    }
}

fn images(object: &Value) -> Vec<(&str, &str)> {
    let containers = object["spec"]["template"]["spec"]["containers"].as_array();
    let containers = containers.into_iter().flatten();
    containers
        .map(|entry| {
            (
                entry["name"].as_str().unwrap(),
                entry["image"].as_str().unwrap(),
            )
        })
        .collect()
}

fn image_of<'a>(object: &'a Value, container: &str) -> Option<&'a str> {
    let mut images = images(object).into_iter();
    images.find_map(|(name, image)| (name == container).then_some(image))
}

/// What was asked for, or what was there before, can be pulled: then what is stored can be, too.
fn check_pulls(world: &World, before: &Value, asked: &Value, stored: &Value) {
    let in_use: BTreeSet<_> = images(before).into_iter().map(|(_, image)| image).collect();
    for (container, image) in images(stored) {
        let asked = image_of(asked, container).unwrap();
        let before = image_of(before, container);
        let same = before.filter(|before| world.original_of(before) == world.original_of(asked));
        // A copy in use stays; its registry is to be repaired, and its Pods get another copy.
        let must_work = match same {
            Some(before) => world.can_be_pulled(before),
            // Nobody knows more than the annotation.
            None if !world.is_up => false,
            None => world.can_be_pulled(asked) && !in_use.contains(image),
        };
        assert!(
            !must_work || world.can_be_pulled(image),
            "{container} was {before:?}, is to be {asked} and became {image}"
        );
        assert_eq!(world.original_of(image), world.original_of(asked));
    }
}

/// Nothing restarts for a copy of another name, unless it is its turn.
fn check_pace(world: &World, act: &Act, before: &Value, stored: &Value) {
    if !matches!(act, Act::Apply(_) | Act::Touch | Act::DropAnnotations) {
        return;
    }
    let originals = |object: &Value| -> Vec<_> {
        let images = images(object).into_iter();
        images.map(|(_, image)| world.original_of(image)).collect()
    };
    let are_copies = images(before)
        .into_iter()
        .all(|(_, image)| world.is_copy(image));
    if are_copies && originals(before) == originals(stored) {
        assert_eq!(before["spec"]["template"], stored["spec"]["template"]);
    }
}

/// Each copy is annotated with its original, so that it is known to be one.
fn check_note(world: &World, stored: &Value) {
    let note = stored["spec"]["template"]["metadata"]["annotations"][NOTE].as_str();
    let note: Value = serde_json::from_str(note.unwrap_or("{}")).unwrap();
    for (_, image) in images(stored) {
        let original = note[image]
            .as_str()
            .map(|original| world.original_of(original));
        assert!(
            !world.is_copy(image) || original == Some(world.original_of(image)),
            "{image}: {note}"
        );
    }
}

/// A Pod of the template runs if the template can be pulled, and has the pull Secret for its copies.
fn check_pod(world: &mut World, stored: &Value) {
    let template = &stored["spec"]["template"];
    let mut pod = pod_of(&[]);
    pod["metadata"]["annotations"] = template["metadata"]["annotations"].clone();
    pod["spec"] = template["spec"].clone();
    let pod = world.admit(&mut create(pod));
    for (container, image) in images(stored) {
        let entries = pod["spec"]["containers"].as_array().unwrap();
        let entry = entries.iter().find(|entry| entry["name"] == container);
        let in_pod = entry.unwrap()["image"].as_str().unwrap();
        assert!(
            !world.can_be_pulled(image) || world.can_be_pulled(in_pod),
            "{image} became {in_pod}"
        );
        if world.is_copy(in_pod) {
            let listed = pod["spec"]["imagePullSecrets"].as_array();
            assert_ne!(listed.map_or(0, Vec::len), 0, "{pod}");
        }
    }
}

fn carry_out(world: &mut World, workload: &mut Workload, act: &Act) {
    match *act {
        Act::MoveTo(backup) => world.current = backup,
        Act::NameSecret(secret) => world.secret = SECRETS[secret],
        Act::CopyAll => {
            for image in 0..3 {
                let image = original(image);
                world.make_copy(&ImageRef::parse(&image).unwrap());
            }
        }
        Act::LoseCopy(image, backup) => {
            let image = original(image);
            let copy = world.backups[backup].target(&ImageRef::parse(&image).unwrap());
            world.copies.remove(&copy.unwrap().to_string());
        }
        Act::LoseOriginal(image) => _ = world.originals.remove(&original(image)),
        Act::SetUp(is_up) => world.is_up = is_up,
        Act::Exclude(is_excluded) => world.is_excluded = is_excluded,
        Act::AllowSecret(has_secret) => world.has_secret = has_secret,
        _ => {}
    }
    let Some(asked) = workload.request(act) else {
        return;
    };
    let before = workload.live().clone();
    let mut request = create(asked.clone());
    request["operation"] = "UPDATE".into();
    request["oldObject"] = before.clone();
    let stored = world.admit(&mut request);
    workload.store(stored);
    let stored = workload.live();
    // Without annotations nothing is known of before, but to people.
    if workload.kind == "Deployment" {
        check_pulls(world, &before, &asked, stored);
        check_note(world, stored);
        check_pace(world, act, &before, stored);
        check_pod(world, stored);
    }
}

proptest! {
    #[test]
    fn nothing_that_can_be_pulled_is_replaced_by_what_cannot(acts in prop::collection::vec(any_act(), 1..25)) {
        let mut world = World::new();
        let mut workload = Workload::new("Deployment", &mut world);
        for act in &acts {
            carry_out(&mut world, &mut workload, act);
        }
        // In the end it comes to use the copies that there are, under the names that they have.
        world.is_up = true;
        world.is_excluded = false;
        world.has_secret = true;
        carry_out(&mut world, &mut workload, &Act::CopyAll);
        carry_out(&mut world, &mut workload, &Act::Readmit);
        let copies = |object: &Value| -> Vec<_> {
            let images = images(object).into_iter();
            let originals = images.map(|(_, image)| world.original_of(image));
            originals.map(|image| world.copy(&ImageRef::parse(&image).unwrap())).collect()
        };
        let copies = copies(workload.live());
        // An image that stays upstream may need the Secrets of the ServiceAccount.
        if copies.iter().all(|copy| world.copies.contains(copy)) {
            let images: Vec<_> = images(workload.live()).into_iter().map(|(_, image)| image).collect();
            prop_assert_eq!(images, copies);
            let listed = &workload.live()["spec"]["template"]["spec"]["imagePullSecrets"];
            let secret = json!({"name": world.secret});
            prop_assert!(listed.as_array().unwrap().contains(&secret));
        }
    }

    /// An operator whose schema knows no annotations is not woken by each apply.
    #[test]
    fn a_custom_kind_that_drops_annotations_is_left_alone(images in prop::collection::vec(0..3_usize, 1..3)) {
        let mut world = World::new();
        let mut workload = Workload::new("Widget", &mut world);
        carry_out(&mut world, &mut workload, &Act::CopyAll);
        carry_out(&mut world, &mut workload, &Act::Apply(images.clone()));
        let before = workload.live().clone();
        let mut request = create(workload.request(&Act::Apply(images)).unwrap());
        request["operation"] = "UPDATE".into();
        request["oldObject"] = before.clone();
        prop_assert_eq!(world.admit(&mut request), before);
    }
}

/// Without annotations, too, a custom kind whose schema keeps them is annotated.
#[test]
fn a_custom_kind_that_keeps_annotations_is_annotated() {
    let object = json!({
        "apiVersion": "example.com/v1",
        "kind": "Widget",
        "spec": {"template": {"spec": {"containers": containers(&[0])}}},
    });
    let mut request = create(object.clone());
    request["operation"] = "UPDATE".into();
    request["oldObject"] = object;
    let answer = answer_with(&request, &mut super::script::Script::new(), json!({}));
    let template = &answer.mutated_object.unwrap()["spec"]["template"];
    assert!(template["metadata"]["annotations"][NOTE].is_string());
}
