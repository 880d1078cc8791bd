//! The images that a pod spec names: containers of three sorts, and volumes made of images.

use std::borrow::Cow;
use std::ops::Range;

use mirror_contract::workload::{ImageList, PULL_NEVER};

use crate::json::Cursor;

/// More are only counted: a list of a million numbers is not worth a million sentences.
const MAX_ODDITIES: usize = 5;

/// An image that a pod spec names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot<'a> {
    /// The image as it is written there.
    pub image: Cow<'a, str>,
    /// Where in the object's text it is written, with its quotes.
    pub range: Range<usize>,
    pub list: ImageList,
    /// What the entry is called: entries may change their positions, names stay.
    pub name: Cow<'a, str>,
    pub(crate) never_pulled: bool,
}

/// What was found in a pod spec.
#[derive(Debug, Default)]
pub struct Images<'a> {
    pub slots: Vec<Slot<'a>>,
    /// What could not be understood.
    pub oddities: Oddities,
    /// By list, until [`Self::sort`].
    unsorted: [Vec<Slot<'a>>; 4],
}

/// What could not be understood.
#[derive(Debug, Default)]
pub struct Oddities {
    /// The first of them, one short sentence each.
    pub shown: Vec<String>,
    /// How many there are besides.
    pub more: usize,
}

impl Oddities {
    fn add(&mut self, describe: impl FnOnce() -> String) {
        if self.shown.len() < MAX_ODDITIES {
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
            // As good as missing.
        } else if cursor.enter_array() {
            let mut index = 0;
            while cursor.next_element() {
                self.read_entry(list, index, cursor, &mut slots);
                index += 1;
            }
        } else {
            self.oddities
                .add(|| format!("{} is not a list", list.key()));
        }
        // Of lists with the same key the last counts.
        if let Some(unsorted) = self.unsorted.get_mut(list as usize) {
            *unsorted = slots;
        }
    }

    /// Brings the lists into their order, however the object orders them: what is asked first may be the only one that there
    /// is time for.
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
            self.oddities
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
        let mut is_odd = false;
        while let Some(key) = cursor.next_key() {
            match &*key.name {
                "name" => entry.name = cursor.string().unwrap_or_default(),
                "image" if list == ImageList::Volumes => {
                    // Of volumes, this is the object that names the image.
                    entry.image = Cow::default();
                    entry.never_pulled = false;
                    is_odd = false;
                    if cursor.enter_object() {
                        while let Some(key) = cursor.next_key() {
                            is_odd |= entry.read_member(&key.name, cursor);
                        }
                    }
                }
                _ if list == ImageList::Volumes => cursor.skip(),
                name => is_odd |= entry.read_member(name, cursor),
            }
        }
        if is_odd {
            self.oddities
                .add(|| format!("the image of {}[{index}] is not a string", list.key()));
        } else if !entry.image.is_empty() {
            slots.push(entry);
        }
    }
}

impl<'a> Slot<'a> {
    /// Whether it is a volume that is made of the image.
    pub fn is_volume(&self) -> bool {
        self.list == ImageList::Volumes
    }

    /// Reads a member of what names the image; `true` if it is an image that is not a string. Templates may leave the image
    /// to somebody else: `null` is as good as missing.
    fn read_member(&mut self, key: &str, cursor: &mut Cursor<'a>) -> bool {
        if key == self.list.image_key() {
            let start = cursor.position();
            if cursor.null() {
                self.image = Cow::default();
                return false;
            }
            let image = cursor.string();
            self.range = cursor.since(start);
            let is_odd = image.is_none();
            self.image = image.unwrap_or_default();
            return is_odd;
        }
        if key == self.list.pull_policy_key() {
            self.never_pulled = cursor.string().as_deref() == Some(PULL_NEVER);
        } else {
            cursor.skip();
        }
        false
    }
}
