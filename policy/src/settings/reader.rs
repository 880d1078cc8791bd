//! Reads settings one by one and collects all errors.

use std::time::Duration;

use serde_json::{Map, Value};

use super::patterns::ImagePattern;
use crate::truncate::shorten;

/// Milliseconds. With one last request, it stays below the host's default timeout of two seconds.
const DEFAULT_BUDGET: u64 = 800;

/// Milliseconds, the time of one request.
const MIN_BUDGET: u64 = 50;

/// Milliseconds. The longest timeout of the host is 30 seconds.
const MAX_BUDGET: u64 = 25_000;

/// What happens to an object if an image cannot be replaced by its copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    Keep,
    Reject,
}

/// Characters of an invalid value that an error repeats.
const MAX_ECHO: usize = 60;

/// The settings of one level, and the errors so far.
pub struct Reader<'a> {
    /// `None` if missing or not an object.
    map: Option<&'a Map<String, Value>>,
    /// Before keys in messages.
    prefix: &'static str,
    known: Vec<&'static str>,
    errors: Vec<String>,
}

impl<'a> Reader<'a> {
    pub fn new(map: &'a Map<String, Value>) -> Self {
        Self {
            map: Some(map),
            prefix: "",
            known: Vec::new(),
            errors: Vec::new(),
        }
    }

    /// A reader of the settings below `key`. Its errors are added by [`Self::adopt`].
    pub fn nested(&mut self, key: &'static str) -> Self {
        let wanted = "an object";
        Self {
            map: self.optional(key, wanted, None, |value| Some(Some(value.as_object()?))),
            prefix: key,
            known: Vec::new(),
            errors: Vec::new(),
        }
    }

    pub fn adopt(&mut self, nested: Self) {
        self.errors.extend(nested.finish());
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
        read: impl FnOnce(&'a str) -> Option<T>,
    ) -> Option<T> {
        let Some(value) = self.value(key) else {
            self.errors.push(format!("`{key}` is required: {wanted}"));
            return None;
        };
        let read = value.as_str().and_then(read);
        if read.is_none() {
            self.refuse(key, wanted, value);
        }
        read
    }

    pub fn optional<T>(
        &mut self,
        key: &'static str,
        wanted: &str,
        default: T,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> T {
        let Some(value) = self.value(key) else {
            return default;
        };
        read(value).unwrap_or_else(|| {
            self.refuse(key, wanted, value);
            default
        })
    }

    pub fn list<T>(
        &mut self,
        key: &'static str,
        wanted: &str,
        default: &[&'static str],
        read: impl Fn(&'a str) -> Option<T>,
    ) -> Vec<T> {
        match self.value(key) {
            None => default.iter().filter_map(|text| read(text)).collect(),
            Some(Value::Array(entries)) => {
                let mut list = Vec::with_capacity(entries.len());
                for entry in entries {
                    match entry.as_str().and_then(&read) {
                        Some(item) => list.push(item),
                        None => self.refuse(key, wanted, entry),
                    }
                }
                list
            }
            Some(value) => {
                self.refuse(key, wanted, value);
                Vec::new()
            }
        }
    }

    pub fn patterns(&mut self, key: &'static str) -> Vec<ImagePattern<'a>> {
        let wanted =
            "a list of full references such as `docker.io/library/nginx` with `*` as wildcard";
        self.list(key, wanted, &[], ImagePattern::parse)
    }

    pub fn fallback(&mut self, key: &'static str) -> Fallback {
        self.optional(
            key,
            "`keep` or `reject`",
            Fallback::Keep,
            |value| match value.as_str()? {
                "keep" => Some(Fallback::Keep),
                "reject" => Some(Fallback::Reject),
                _ => None,
            },
        )
    }

    pub fn time_budget(&mut self, key: &'static str) -> Duration {
        let wanted = format!("a whole number of milliseconds from {MIN_BUDGET} to {MAX_BUDGET}");
        let budget = self.optional(key, &wanted, DEFAULT_BUDGET, |value| {
            value
                .as_u64()
                .filter(|budget| (MIN_BUDGET..=MAX_BUDGET).contains(budget))
        });
        Duration::from_millis(budget)
    }

    fn value(&mut self, key: &'static str) -> Option<&'a Value> {
        self.known.push(key);
        self.map?.get(key)
    }

    fn refuse(&mut self, key: &str, wanted: &str, value: &Value) {
        let value = shorten(&value.to_string(), MAX_ECHO);
        let key = self.full(key);
        self.errors
            .push(format!("`{key}` must be {wanted}, not {value}"));
    }

    fn full(&self, key: &str) -> String {
        match self.prefix {
            "" => key.to_owned(),
            prefix => format!("{prefix}.{key}"),
        }
    }
}
