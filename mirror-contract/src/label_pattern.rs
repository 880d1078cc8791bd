//! Labels of objects that are not rewritten.

use alloc::borrow::Cow;

/// The label of all objects of the Zalando operator, which compares images. Its Pods have no owner reference to it.
pub const DEFAULT_SKIPPED: [&str; 1] = ["application=spilo"];

/// A label: `<key>=<value>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelPattern<'a> {
    key: Cow<'a, str>,
    value: Cow<'a, str>,
}

impl<'a> LabelPattern<'a> {
    /// Parses a label; returns `None` if no object can have it.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        let is_label = |part: &str, more: &[u8]| {
            part.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || more.contains(&byte))
        };
        let (key, value) = text.split_once('=')?;
        let is_possible = !key.is_empty() && is_label(key, b"._-/") && is_label(value, b"._-");
        is_possible.then_some(Self {
            key: Cow::Borrowed(key),
            value: Cow::Borrowed(value),
        })
    }

    /// Returns whether this is the label `key` with the value `value`.
    #[must_use]
    pub fn matches(&self, key: &str, value: &str) -> bool {
        self.key == key && self.value == value
    }

    /// Returns the same pattern with owned text.
    #[must_use]
    pub fn into_owned(self) -> LabelPattern<'static> {
        LabelPattern {
            key: Cow::Owned(self.key.into_owned()),
            value: Cow::Owned(self.value.into_owned()),
        }
    }
}
