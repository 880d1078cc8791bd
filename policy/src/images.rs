//! The images that a pod spec names: containers of three sorts, and volumes made of images.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::before::Before;
use crate::pod_template::Scope;

/// Images with this pull policy are expected on the node; a copy in a registry is of no use to them.
const NEVER: &str = "Never";

/// The lists of a pod spec whose entries name images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum List {
    Containers,
    InitContainers,
    EphemeralContainers,
    Volumes,
}

/// Where in a pod spec an image is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    list: List,
    index: usize,
}

/// What an entry with an image is called: entries may change their places, names stay.
pub type Key<'a> = (List, &'a str);

/// An image that a pod spec names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot<'a> {
    /// Where.
    pub place: Place,
    /// The image as it is written there.
    pub image: &'a str,
    name: &'a str,
    never_pulled: bool,
}

/// What was found in a pod spec.
#[derive(Debug, Default)]
pub struct Images<'a> {
    /// The images.
    pub slots: Vec<Slot<'a>>,
    /// What could not be understood, one short sentence each.
    pub oddities: Vec<String>,
}

impl List {
    const ALL: [Self; 4] = [
        Self::Containers,
        Self::InitContainers,
        Self::EphemeralContainers,
        Self::Volumes,
    ];

    const fn key(self) -> &'static str {
        match self {
            Self::Containers => "containers",
            Self::InitContainers => "initContainers",
            Self::EphemeralContainers => "ephemeralContainers",
            Self::Volumes => "volumes",
        }
    }

    /// The part of an entry that names the image; `None` for a volume that is not made of an image.
    fn source(self, entry: &Value) -> Option<&Value> {
        match self {
            Self::Volumes => entry.get("image").filter(|source| !source.is_null()),
            _ => Some(entry),
        }
    }

    const fn image_key(self) -> &'static str {
        match self {
            Self::Volumes => "reference",
            _ => "image",
        }
    }

    const fn policy_key(self) -> &'static str {
        match self {
            Self::Volumes => "pullPolicy",
            _ => "imagePullPolicy",
        }
    }
}

impl<'a> Images<'a> {
    /// All images of `spec`.
    pub fn of(spec: &'a Value) -> Self {
        let mut images = Self::default();
        for list in List::ALL {
            match spec.get(list.key()) {
                None | Some(Value::Null) => {}
                Some(Value::Array(entries)) => images.add(list, entries),
                Some(_) => images
                    .oddities
                    .push(format!("{} is not a list", list.key())),
            }
        }
        images
    }

    /// Their names, as they are written.
    pub fn names(&self) -> BTreeSet<&'a str> {
        self.slots.iter().map(|slot| slot.image).collect()
    }

    /// Without those that a request of this scope may not change, compared to what was there `before`, and without those
    /// that are never pulled.
    #[must_use]
    pub fn changeable(mut self, scope: Scope, before: &Before<'_>) -> Self {
        if scope != Scope::Everything {
            // The oddities of a running Pod were let in before.
            self.oddities.clear();
            if before.spec().is_none() {
                self.slots.clear();
            }
        }
        self.slots.retain(|slot| {
            let may_change = match (scope, slot.place.list) {
                (Scope::Everything, _) => true,
                // It is immutable: whoever applies the Pod once more means what is there.
                (Scope::ChangedImages, List::Volumes) => before.copy_of(slot.image).is_some(),
                (Scope::ChangedImages, List::Containers | List::InitContainers) => {
                    before.image_at(slot) != Some(slot.image)
                }
                (Scope::NewEphemeralContainers, List::EphemeralContainers) => {
                    before.image_at(slot).is_none()
                }
                _ => false,
            };
            may_change && !slot.never_pulled
        });
        self
    }

    fn add(&mut self, list: List, entries: &'a [Value]) {
        for (index, entry) in entries.iter().enumerate() {
            let place = format_args!("{}[{index}]", list.key());
            if !entry.is_object() {
                self.oddities.push(format!("{place} is not an object"));
                continue;
            }
            let Some(source) = list.source(entry) else {
                continue;
            };
            match source.get(list.image_key()) {
                // Templates may leave the image to somebody else.
                None | Some(Value::Null) => {}
                Some(Value::String(image)) if image.is_empty() => {}
                Some(Value::String(image)) => self.slots.push(Slot {
                    place: Place { list, index },
                    image,
                    name: text(entry, "name"),
                    never_pulled: text(source, list.policy_key()) == NEVER,
                }),
                Some(_) => self
                    .oddities
                    .push(format!("the image of {place} is not a string")),
            }
        }
    }
}

impl<'a> Slot<'a> {
    /// Whether it is a volume that is made of the image.
    pub fn is_volume(&self) -> bool {
        self.place.list == List::Volumes
    }

    /// What the entry is called.
    pub fn key(&self) -> Key<'a> {
        (self.place.list, self.name)
    }
}

impl Place {
    /// Writes `image` to this place of `spec`.
    pub fn put(self, spec: &mut Value, image: String) {
        let entry = spec
            .get_mut(self.list.key())
            .and_then(|list| list.get_mut(self.index));
        let source = match self.list {
            List::Volumes => entry.and_then(|volume| volume.get_mut("image")),
            _ => entry,
        };
        if let Some(text) = source.and_then(|source| source.get_mut(self.list.image_key())) {
            *text = Value::String(image);
        }
    }
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}
