//! What is to be told about an image, and to whom.

use crate::cluster::events::About;
use crate::cluster::index::{Image, Index, User};

/// Users of an image that are looked at. The interesting kinds come first, so that none of them is beyond.
const MAX_USERS: usize = 64;

/// Users of an image that are told. More would not help anybody more.
const MAX_TOLD: usize = 10;

/// What is wrong with an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// There is no copy, for this reason.
    NotMirrored(String),
    /// The copy is the last one.
    LastCopy,
    /// Neither the original nor the copy is there any more.
    Lost,
}

/// The users of an image, by any of its names, whom people look at: what controllers made only if there is nothing else.
pub(super) fn top_level<'a>(index: &Index, names: impl Iterator<Item = &'a Image>) -> Vec<About> {
    let mut own = Vec::new();
    let mut made = Vec::new();
    for name in names {
        for User { key, uid, is_owned } in index.users(name, MAX_USERS) {
            let list = if is_owned { &mut made } else { &mut own };
            let about = About::workload(key, uid);
            if list.len() < MAX_TOLD && !list.contains(&about) {
                list.push(about);
            }
        }
    }
    if own.is_empty() { made } else { own }
}
