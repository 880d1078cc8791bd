//! One document of a stream, with its place.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use crate::yaml;

/// Longest document in bytes. The API server accepts requests of at most 3 MiB.
pub(super) const MAX_DOCUMENT: usize = 4 * 1024 * 1024;

/// Where a document is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The name of the file, as the user gave it.
    pub file: Arc<str>,
    /// From 1; 0 for the whole file.
    pub document: u32,
    /// The first line, from 1; 0 if it is not known.
    pub line: u64,
}

#[derive(Debug)]
pub struct Document {
    pub place: Place,
    pub content: Content,
}

#[derive(Debug)]
pub enum Content {
    Yaml(String),
    Json(Vec<u8>),
    /// It cannot be read, for this reason.
    Unreadable(String),
}

impl Content {
    pub(super) fn too_long() -> Self {
        let limit = MAX_DOCUMENT >> 20;
        Self::Unreadable(format!(
            "is longer than {limit} MiB, which no API server accepts; split it"
        ))
    }
}

impl Document {
    pub(super) fn parse(self) -> Result<Value, Problem> {
        let value = match &self.content {
            Content::Yaml(text) => yaml::parse_part(text, self.place.line.saturating_sub(1)),
            Content::Json(text) => serde_json::from_slice(text).map_err(|error| {
                let reason = error.to_string();
                // The position is that in one value.
                let reason = reason.split(" at line ").next().unwrap_or_default();
                format!("not JSON: {reason}")
            }),
            Content::Unreadable(reason) => Err(reason.clone()),
        };
        value.map_err(|reason| Problem {
            place: self.place,
            reason,
        })
    }
}

/// `file, document 3 (line 41)`
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.document > 0 {
            write!(f, ", document {}", self.document)?;
        }
        if self.line > 0 {
            write!(f, " (line {})", self.line)?;
        }
        Ok(())
    }
}

/// A document or a file that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    pub place: Place,
    /// A sentence without its end.
    pub reason: String,
}

/// A place with its cause.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.reason)
    }
}
