//! The list of pull Secrets of a pod spec, as it is written.

use std::borrow::Cow;

use crate::json::{self, Cursor, Member, Texts};

pub const KEY: &str = "imagePullSecrets";

/// The list as it is written.
#[derive(Default)]
pub struct ListedSecrets<'a> {
    /// `None` if it is missing.
    pub(crate) member: Option<Member>,
    pub(crate) shape: Shape,
    pub(crate) entries: usize,
    /// As keys.
    pub(crate) names: Texts<'a>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Shape {
    /// It is missing or `null`.
    #[default]
    Empty,
    List,
    Other,
}

impl<'a> ListedSecrets<'a> {
    /// Reads the list, which is the value of `key`.
    pub fn read(key: &json::Key<'_>, cursor: &mut Cursor<'a>) -> Self {
        let start = cursor.position();
        let mut listed = Self::default();
        if cursor.null() {
            // As good as missing.
        } else if cursor.enter_array() {
            listed.shape = Shape::List;
            while cursor.next_element() {
                listed.entries += 1;
                if let Some(name) = read_name(cursor) {
                    listed.names.insert(name, Cow::default());
                }
            }
        } else {
            listed.shape = Shape::Other;
        }
        listed.member = Some(key.member(start, cursor));
        listed
    }

    pub fn has(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }
}

/// The name in an entry of the list.
pub(crate) fn read_name<'a>(cursor: &mut Cursor<'a>) -> Option<Cow<'a, str>> {
    let mut name = None;
    if cursor.enter_object() {
        while let Some(key) = cursor.next_key() {
            if key.name == "name" {
                name = cursor.string();
            } else {
                cursor.skip();
            }
        }
    }
    name
}
