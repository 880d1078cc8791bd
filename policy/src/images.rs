//! The images of a pod spec: those of its containers and of its image volumes.

use std::borrow::Cow;
use std::ops::Range;

use mirror_contract::workload::{ImageList, PULL_NEVER};

use crate::json::Cursor;

/// Different images of one object that are looked up. Kubewarden's host keeps every reference that it was ever asked for in
/// memory, so a Pod of a million invented names would stay there forever. Real workloads have a few images.
pub const MAX_IMAGES: usize = 100;
/// Further fields are only counted.
const MAX_INVALID_FIELDS: usize = 5;

/// A field of a pod spec that names an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot<'a> {
    /// The image as it is written.
    pub image: Cow<'a, str>,
    /// The position of the image in the object's text, with its quotes.
    pub range: Range<usize>,
    pub list: ImageList,
    /// The name of the container or volume, which stays the same when entries change their positions.
    pub name: Cow<'a, str>,
    pub(crate) never_pulled: bool,
}

#[derive(Debug, Default)]
pub struct Images<'a> {
    pub slots: Vec<Slot<'a>>,
    pub invalid_fields: InvalidFields,
    /// By list, until [`Self::sort`].
    unsorted: [Vec<Slot<'a>>; 4],
}

/// Fields that should name an image and do not.
#[derive(Debug, Default)]
pub struct InvalidFields {
    /// The first of them, described in one short sentence each.
    pub shown: Vec<String>,
    /// The number of the others.
    pub more: usize,
}

impl InvalidFields {
    fn add(&mut self, describe: impl FnOnce() -> String) {
        if self.shown.len() < MAX_INVALID_FIELDS {
            self.shown.push(describe());
        } else {
            self.more += 1;
        }
    }
}

impl<'a> Images<'a> {
    pub fn read(&mut self, list: ImageList, cursor: &mut Cursor<'a>) {
        let mut slots = Vec::new();
        if cursor.null() {
            // The same as missing.
        } else if cursor.enter_array() {
            let mut index = 0;
            while cursor.next_element() {
                self.read_entry(list, index, cursor, &mut slots);
                index += 1;
            }
        } else {
            self.invalid_fields
                .add(|| format!("{} is not a list", list.key()));
        }
        // Of lists with the same key, the last one counts.
        if let Some(unsorted) = self.unsorted.get_mut(list as usize) {
            *unsorted = slots;
        }
    }

    /// Puts containers first, whatever the order of the lists in the object: the time budget may not suffice for the rest.
    pub fn sort(&mut self) {
        let [containers, init, ephemeral, volumes] = std::mem::take(&mut self.unsorted);
        self.slots = containers;
        self.slots.extend(init);
        self.slots.extend(ephemeral);
        self.slots.extend(volumes);
    }

    fn read_entry(
        &mut self,
        list: ImageList,
        index: usize,
        cursor: &mut Cursor<'a>,
        slots: &mut Vec<Slot<'a>>,
    ) {
        let start = cursor.position();
        if !cursor.enter_object() {
            self.invalid_fields
                .add(|| format!("{}[{index}] is not an object", list.key()));
            return;
        }
        let mut entry = Slot {
            image: Cow::default(),
            range: start..start,
            list,
            name: Cow::default(),
            never_pulled: false,
        };
        let mut is_invalid = false;
        while let Some(key) = cursor.next_key() {
            match &*key.name {
                "name" => entry.name = cursor.string().unwrap_or_default(),
                "image" if list == ImageList::Volumes => {
                    // The object that names the image. Of several, the last one counts.
                    entry.image = Cow::default();
                    entry.never_pulled = false;
                    is_invalid = false;
                    if cursor.enter_object() {
                        while let Some(key) = cursor.next_key() {
                            is_invalid |= entry.read_member(&key.name, cursor);
                        }
                    }
                }
                _ if list == ImageList::Volumes => cursor.skip(),
                name => is_invalid |= entry.read_member(name, cursor),
            }
        }
        if is_invalid {
            self.invalid_fields
                .add(|| format!("the image of {}[{index}] is not a string", list.key()));
        } else if !entry.image.is_empty() {
            slots.push(entry);
        }
    }
}

impl<'a> Slot<'a> {
    pub fn is_volume(&self) -> bool {
        self.list == ImageList::Volumes
    }

    /// Reads a member of the object that names the image; `true` if it is an image that is not a string. `null` is the same
    /// as missing: something else may set the image of a template later.
    fn read_member(&mut self, key: &str, cursor: &mut Cursor<'a>) -> bool {
        if key == self.list.image_key() {
            let start = cursor.position();
            if cursor.null() {
                self.image = Cow::default();
                return false;
            }
            let image = cursor.string();
            self.range = cursor.since(start);
            let is_invalid = image.is_none();
            self.image = image.unwrap_or_default();
            return is_invalid;
        }
        if key == self.list.pull_policy_key() {
            self.never_pulled = cursor.string().as_deref() == Some(PULL_NEVER);
        } else {
            cursor.skip();
        }
        false
    }
}
