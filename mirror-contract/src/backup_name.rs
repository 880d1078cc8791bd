//! Names of backups.

use alloc::borrow::Cow;
use core::borrow::Borrow;
use core::fmt;

use crate::grammar;

/// The name of a backup: an RFC 1123 label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackupName<'a>(Cow<'a, str>);

impl<'a> BackupName<'a> {
    /// The backup of rules and requests that name none.
    pub const DEFAULT: Self = Self(Cow::Borrowed("default"));

    /// Parses a name; returns `None` if it is not an RFC 1123 label.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        grammar::is_namespace(text).then_some(Self(Cow::Borrowed(text)))
    }

    /// Returns whether this is [`Self::DEFAULT`].
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::DEFAULT
    }

    /// Returns the name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the same name with owned text.
    #[must_use]
    pub fn into_owned(self) -> BackupName<'static> {
        BackupName(Cow::Owned(self.0.into_owned()))
    }
}

/// Maps with names as keys can be searched with the text of a name.
impl Borrow<str> for BackupName<'_> {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BackupName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
