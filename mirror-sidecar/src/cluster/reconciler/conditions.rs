//! What is reported about an image, and to which objects.

use crate::cluster::events::About;
use crate::cluster::index::{Image, Index, User};

/// Users of an image that are considered. Top-level kinds come first.
const MAX_USERS: usize = 64;

/// Users of an image that get an Event.
const MAX_REPORTED: usize = 10;

/// A condition that an operator must know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// There is no copy; with the reason.
    NotMirrored(String),
    /// The original is gone; there is only the copy.
    LastCopy,
    /// Both the original and the copy are gone.
    Lost,
}

/// The users of an image by any of its names: objects that people manage or, if there are none, those of controllers.
pub(super) fn top_level<'a>(index: &Index, names: impl Iterator<Item = &'a Image>) -> Vec<About> {
    let mut own = Vec::new();
    let mut made = Vec::new();
    for name in names {
        for User { key, uid, is_owned } in index.users(name, MAX_USERS) {
            let list = if is_owned { &mut made } else { &mut own };
            let about = About::workload(key, uid);
            if list.len() < MAX_REPORTED && !list.contains(&about) {
                list.push(about);
            }
        }
    }
    if own.is_empty() { made } else { own }
}
