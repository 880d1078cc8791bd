//! Reads keys one by one, and collects all errors.
//!
//! An error is a sentence after the path of its key, such as `backups.team-a.registry: is required`. It never repeats a value:
//! a password may stand in the wrong place.

use mirror_contract::text::shorten;
use serde_json::{Map, Value};

/// Characters of a key that an error repeats.
const MAX_ECHO: usize = 60;

/// Characters that may differ between an unknown key and the one that was probably meant.
const MAX_DISTANCE: usize = 2;

/// The keys of one level.
pub(super) struct Reader<'a, 'e> {
    map: &'a Map<String, Value>,
    path: String,
    known: Vec<&'static str>,
    forbidden: Vec<&'static str>,
    errors: &'e mut Vec<String>,
}

impl<'a, 'e> Reader<'a, 'e> {
    /// Returns `None` if `value` has no keys, which is an error.
    pub fn new(value: &'a Value, path: String, errors: &'e mut Vec<String>) -> Option<Self> {
        let Value::Object(map) = value else {
            let subject = if path.is_empty() { "the file" } else { &path };
            errors.push(format!("{subject}: must be a mapping of keys to values"));
            return None;
        };
        Some(Self {
            map,
            path,
            known: Vec::new(),
            forbidden: Vec::new(),
            errors,
        })
    }

    /// Reports the keys that were not read.
    pub fn finish(self) {
        for key in self.map.keys() {
            let key = key.as_str();
            if self.known.contains(&key) || self.forbidden.contains(&key) {
                continue;
            }
            let path = join(&self.path, &shorten(key, MAX_ECHO));
            let advice = match closest(key, &self.known) {
                Some(known) => format!("use {known}"),
                None => format!("known keys: {}", self.known.join(", ")),
            };
            self.errors.push(format!("{path}: unknown key; {advice}"));
        }
    }

    /// Returns whether a key is there, even with an invalid value. The key counts as known from now on.
    pub fn has(&mut self, key: &'static str) -> bool {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        self.map.contains_key(key)
    }

    /// Refuses a key that users probably try. Returns whether it is there.
    pub fn forbid(&mut self, key: &'static str, error: &str) -> bool {
        self.forbidden.push(key);
        let is_there = self.map.contains_key(key);
        if is_there {
            self.refuse(key, error);
        }
        is_there
    }

    /// Returns the text of a key; `None` if it is absent, or no text, which is an error.
    pub fn text(&mut self, key: &'static str) -> Option<&'a str> {
        let text = self.value(key)?.as_str();
        if text.is_none() {
            self.refuse(key, "must be a string");
        }
        text
    }

    /// Like [`Self::text`]; an absent key is an error.
    pub fn required(&mut self, key: &'static str, wanted: &str) -> Option<&'a str> {
        if !self.has(key) {
            self.refuse(key, &format!("is required: {wanted}"));
        }
        self.text(key)
    }

    /// Returns the strings of a list; none if it is absent. Each has its position for [`Self::refuse_entry`].
    pub fn texts(&mut self, key: &'static str, max: usize) -> Vec<(usize, &'a str)> {
        let entries = match self.value(key) {
            None => return Vec::new(),
            Some(Value::Array(entries)) if entries.len() <= max => entries,
            Some(Value::Array(entries)) => {
                let count = entries.len();
                self.refuse(key, &format!("has {count} entries, more than {max}"));
                return Vec::new();
            }
            Some(_) => {
                self.refuse(key, "must be a list of strings");
                return Vec::new();
            }
        };
        let mut texts = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            match entry.as_str() {
                Some(text) => texts.push((index, text)),
                None => self.refuse_entry(key, index, "must be a string"),
            }
        }
        texts
    }

    /// Returns the value of a key; `None` if it is absent, or has no value, which is an error. To be called once.
    pub fn value(&mut self, key: &'static str) -> Option<&'a Value> {
        if !self.has(key) {
            return None;
        }
        let value = self.map.get(key).filter(|value| !value.is_null());
        if value.is_none() {
            self.refuse(key, "has no value; set one, or remove the key");
        }
        value
    }

    /// Reads the keys below `key`; `None` if it is absent or has no keys, which is an error.
    pub fn nested<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Reader<'a, '_>) -> T,
    ) -> Option<T> {
        let value = self.value(key)?;
        let path = self.path_of(key);
        nested(value, path, self.errors, read)
    }

    /// Reads the entries of a mapping whose keys the user chooses, at most `max`. `read` gets the key and the reader of its
    /// value.
    pub fn entries(
        &mut self,
        key: &'static str,
        max: usize,
        mut read: impl FnMut(&'a str, &mut Reader<'a, '_>),
    ) {
        let Some(value) = self.value(key) else {
            return;
        };
        let path = self.path_of(key);
        let Some(map) = value.as_object() else {
            self.refuse(key, "must be a mapping of names to values");
            return;
        };
        if map.len() > max {
            let count = map.len();
            self.refuse(key, &format!("has {count} entries, more than {max}"));
            return;
        }
        for (name, value) in map {
            let path = join(&path, &shorten(name, MAX_ECHO));
            nested(value, path, self.errors, |reader| read(name, reader));
        }
    }

    /// Returns all keys and values of this level, with their order.
    pub fn json(&self) -> String {
        // A map of JSON values can always be serialised.
        serde_json::to_string(self.map).unwrap_or_default()
    }

    /// Adds an error of a key.
    pub fn refuse(&mut self, key: &str, error: &str) {
        let path = self.path_of(key);
        self.errors.push(format!("{path}: {error}"));
    }

    /// Adds an error of an entry of a list.
    pub fn refuse_entry(&mut self, key: &str, index: usize, error: &str) {
        self.refuse(&format!("{key}[{index}]"), error);
    }

    /// Adds an error of this level as a whole.
    pub fn refuse_all(&mut self, error: &str) {
        self.errors.push(format!("{}: {error}", self.path));
    }

    /// Adds an error that begins with the path of its key already.
    pub fn push(&mut self, error: String) {
        self.errors.push(error);
    }

    pub fn path_of(&self, key: &str) -> String {
        join(&self.path, key)
    }
}

fn nested<'a, T>(
    value: &'a Value,
    path: String,
    errors: &mut Vec<String>,
    read: impl FnOnce(&mut Reader<'a, '_>) -> T,
) -> Option<T> {
    let mut reader = Reader::new(value, path, errors)?;
    let result = read(&mut reader);
    reader.finish();
    Some(result)
}

/// Keys with dots are in brackets, as in field paths of the Kubernetes API.
fn join(path: &str, key: &str) -> String {
    match path {
        "" => key.to_owned(),
        path if key.contains(['.', '/', ':']) => format!("{path}[{key}]"),
        path => format!("{path}.{key}"),
    }
}

/// The known key that was probably meant: it differs in case, separators, or a few characters.
fn closest(key: &str, known: &[&'static str]) -> Option<&'static str> {
    let normal = |text: &str| -> String {
        let letters = text.chars().filter(char::is_ascii_alphanumeric);
        letters.map(|letter| letter.to_ascii_lowercase()).collect()
    };
    if key.len() > MAX_ECHO {
        return None;
    }
    let key = normal(key);
    let distances = known
        .iter()
        .map(|known| (distance(&key, &normal(known)), known));
    let (distance, known) = distances.min()?;
    (distance <= MAX_DISTANCE && distance < known.len() / 2).then_some(known)
}

/// The Levenshtein distance of two texts.
fn distance(first: &str, second: &str) -> usize {
    let mut row: Vec<usize> = (0..=second.len()).collect();
    for (index, left) in first.bytes().enumerate() {
        let mut diagonal = index;
        let mut last = index + 1;
        for (cell, right) in row.iter_mut().skip(1).zip(second.bytes()) {
            let above = *cell;
            let replaced = diagonal + usize::from(left != right);
            last = replaced.min(above + 1).min(last + 1);
            diagonal = above;
            *cell = last;
        }
        if let Some(cell) = row.first_mut() {
            *cell = index + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("passwordfile", Some("passwordFile"))]
    #[case("password_file", Some("passwordFile"))]
    #[case("pasword-file", Some("passwordFile"))]
    #[case("regsitry", Some("registry"))]
    #[case("repo", None)]
    #[case("pul", Some("pull"))]
    #[case("", None)]
    #[case("ünïcode", None)]
    fn a_close_key_is_suggested(#[case] key: &str, #[case] expected: Option<&str>) {
        let known = ["registry", "repository", "pull", "push", "passwordFile"];
        assert_eq!(closest(key, &known), expected);
    }
}
