//! JSON lists of which only so much is kept, however long they are.

use serde::de::{Deserialize, Deserializer, IgnoredAny, SeqAccess, Visitor};
use std::fmt;
use std::marker::PhantomData;

/// The first `MAX` items of a list. The others are read over: they must be JSON, and take no memory.
#[derive(Debug)]
pub(crate) struct Bounded<T, const MAX: usize> {
    pub(crate) items: Vec<T>,
    /// Whether the list has more than that.
    pub(crate) is_cut: bool,
}

impl<T, const MAX: usize> Default for Bounded<T, MAX> {
    fn default() -> Self {
        Self {
            items: Vec::new(),
            is_cut: false,
        }
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for Bounded<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Reader(PhantomData))
    }
}

struct Reader<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Reader<T, MAX> {
    type Value = Bounded<T, MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut read = Bounded::default();
        while read.items.len() < MAX {
            match list.next_element()? {
                Some(item) => read.items.push(item),
                None => return Ok(read),
            }
        }
        while list.next_element::<IgnoredAny>()?.is_some() {
            read.is_cut = true;
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[rstest::rstest]
    #[case("[]", &[], false)]
    #[case("[1,2]", &[1, 2], false)]
    #[case(r#"[1,2,3,"x",{}]"#, &[1, 2], true)]
    fn what_is_kept(#[case] json: &str, #[case] items: &[u8], #[case] is_cut: bool) {
        let read: Bounded<u8, 2> = serde_json::from_str(json).unwrap();
        assert_eq!((read.items.as_slice(), read.is_cut), (items, is_cut));
    }

    #[rstest::rstest]
    #[case(r#"[1,"x"]"#)]
    #[case("[1,2,3")]
    #[case("{}")]
    fn what_is_no_such_list(#[case] json: &str) {
        assert!(serde_json::from_str::<Bounded<u8, 2>>(json).is_err());
    }
}
