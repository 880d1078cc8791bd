//! Reads settings one by one and collects all errors.

use alloc::borrow::{Cow, ToOwned as _};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use serde_json::{Map, Value};

use crate::text::shorten;

/// Characters of an invalid value that an error repeats.
const MAX_ECHO: usize = 60;

/// The settings of one level, and the errors so far.
pub struct Reader<'a> {
    /// `None` if missing or not an object.
    map: Option<&'a Map<String, Value>>,
    /// Before keys in messages.
    prefix: Cow<'static, str>,
    known: Vec<&'static str>,
    errors: Vec<String>,
}

impl<'a> Reader<'a> {
    pub fn new(map: &'a Map<String, Value>) -> Self {
        Self::with_prefix(Some(map), "".into())
    }

    fn with_prefix(map: Option<&'a Map<String, Value>>, prefix: Cow<'static, str>) -> Self {
        Self {
            map,
            prefix,
            known: Vec::new(),
            errors: Vec::new(),
        }
    }

    /// Reads the settings below `key`.
    pub fn nested<T>(&mut self, key: &'static str, read: impl FnOnce(&mut Self) -> T) -> T {
        let map = self.optional(key, "an object", None, |value| {
            Some(Some(value.as_object()?))
        });
        let mut nested = Self::with_prefix(map, self.full(key).into());
        let read = read(&mut nested);
        self.errors.extend(nested.finish());
        read
    }

    /// Reads a list of objects, each with its index. Those that `read` refuses are left out.
    pub fn objects<T>(
        &mut self,
        key: &'static str,
        read: impl Fn(&mut Self, usize) -> Option<T>,
    ) -> Vec<T> {
        let mut list = Vec::new();
        self.entries(key, "an object", &mut |reader, entry, index| {
            let map = entry.as_object()?;
            let prefix = format!("{}[{index}]", reader.full(key));
            let mut nested = Self::with_prefix(Some(map), prefix.into());
            list.extend(read(&mut nested, index));
            reader.errors.extend(nested.finish());
            Some(())
        });
        list
    }

    /// Returns all errors, unknown keys first.
    pub fn finish(mut self) -> Vec<String> {
        let keys = self.map.into_iter().flat_map(Map::keys);
        let mut unknown = Vec::new();
        for key in keys.filter(|key| !self.known.contains(&key.as_str())) {
            let known: Vec<_> = self.known.iter().map(|key| self.full(key)).collect();
            unknown.push(format!(
                "unknown setting `{}` (known settings: {})",
                self.full(&shorten(key, MAX_ECHO)),
                known.join(", ")
            ));
        }
        unknown.append(&mut self.errors);
        unknown
    }

    pub fn required<T>(
        &mut self,
        key: &'static str,
        wanted: &str,
        read: impl Fn(&'a str) -> Option<T>,
    ) -> Option<T> {
        let mut result = None;
        let is_set = self.read(key, wanted, &mut |value| {
            result = value.as_str().and_then(&read);
            result.is_some()
        });
        if !is_set {
            self.refuse_setting(key, &format!("is required: {wanted}"));
        }
        result
    }

    pub fn optional<T>(
        &mut self,
        key: &'static str,
        wanted: &str,
        default: T,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> T {
        let mut result = None;
        self.read(key, wanted, &mut |value| {
            result = read(value);
            result.is_some()
        });
        result.unwrap_or(default)
    }

    /// Reads a list of strings; `wanted` describes one of them.
    pub fn list<T>(
        &mut self,
        key: &'static str,
        wanted: &str,
        default: &[&'static str],
        read: impl Fn(&'a str) -> Option<T>,
    ) -> Vec<T> {
        let mut list = Vec::new();
        let is_set = self.entries(key, wanted, &mut |_, entry, _| {
            list.push(read(entry.as_str()?)?);
            Some(())
        });
        if !is_set {
            list.extend(default.iter().filter_map(|text| read(text)));
        }
        list
    }

    /// Reads a list of strings that is missing, for no limit, or has entries.
    pub fn limit<T>(
        &mut self,
        key: &'static str,
        wanted: &str,
        read: impl Fn(&'a str) -> Option<T>,
    ) -> Vec<T> {
        if let Some(Value::Array(entries)) = self.map.and_then(|map| map.get(key))
            && entries.is_empty()
        {
            self.refuse_setting(key, "must not be empty: without it, the rule matches all");
        }
        self.list(key, wanted, &[], read)
    }

    /// Adds an error: a sentence that starts with the name of the setting.
    pub fn refuse_setting(&mut self, key: &str, error: &str) {
        let key = self.full(key);
        self.errors.push(format!("`{key}` {error}"));
    }

    /// Returns whether a setting is there, even an invalid one.
    pub fn has(&self, key: &str) -> bool {
        self.map.is_some_and(|map| map.contains_key(key))
    }

    /// Calls `read` with the value of a setting, and reports the value if `read` refuses it. Returns `false` if it is missing.
    fn read(
        &mut self,
        key: &'static str,
        wanted: &str,
        // Not generic, as in `entries`.
        read: &mut dyn FnMut(&'a Value) -> bool,
    ) -> bool {
        let Some(value) = self.value(key) else {
            return false;
        };
        if !read(value) {
            self.refuse(key, wanted, value);
        }
        true
    }

    /// Calls `read` with every entry of a list, and reports the entries that it refuses. Returns `false` if there is no list.
    fn entries(
        &mut self,
        key: &'static str,
        wanted: &str,
        // Not generic: it would be in the wasm many times.
        read: &mut dyn FnMut(&mut Self, &'a Value, usize) -> Option<()>,
    ) -> bool {
        match self.value(key) {
            None => return false,
            Some(Value::Array(entries)) => {
                for (index, entry) in entries.iter().enumerate() {
                    if read(self, entry, index).is_none() {
                        self.refuse(&format!("{key}[{index}]"), wanted, entry);
                    }
                }
            }
            Some(value) => self.refuse(key, &format!("a list, each entry {wanted}"), value),
        }
        true
    }

    fn value(&mut self, key: &'static str) -> Option<&'a Value> {
        self.known.push(key);
        self.map?.get(key)
    }

    fn refuse(&mut self, key: &str, wanted: &str, value: &Value) {
        // Not its `Display`, which has code for indented text as well.
        let value = serde_json::to_string(value).unwrap_or_default();
        let value = shorten(&value, MAX_ECHO);
        self.refuse_setting(key, &format!("must be {wanted}, not {value}"));
    }

    fn full(&self, key: &str) -> String {
        match &*self.prefix {
            "" => key.to_owned(),
            prefix => format!("{prefix}.{key}"),
        }
    }
}
