//! The policy's settings. They are read by hand, so that every error is found at once and named in plain words.

use std::time::Duration;

use kubewarden_policy_sdk::settings::SettingsValidationResponse;
use mirror_contract::namespace::DEFAULT_EXCLUDED;
use mirror_contract::{NamespacePattern, Sidecar};
use serde_json::{Map, Value};

use crate::text::shorten;

const SIDECAR: &str = "sidecar";
const EXCLUDED_NAMESPACES: &str = "excludedNamespaces";
const WHEN_NOT_MIRRORED: &str = "whenNotMirrored";
const WHEN_UNAVAILABLE: &str = "whenUnavailable";
const PIN_DIGEST: &str = "pinDigest";
const TIME_BUDGET_MS: &str = "timeBudgetMs";
const KEYS: [&str; 6] = [
    SIDECAR,
    EXCLUDED_NAMESPACES,
    WHEN_NOT_MIRRORED,
    WHEN_UNAVAILABLE,
    PIN_DIGEST,
    TIME_BUDGET_MS,
];

/// Milliseconds. Together with one last call it stays below the host's default limit of two seconds.
const DEFAULT_BUDGET: u64 = 800;
/// Milliseconds: less than one call takes is no time at all.
const MIN_BUDGET: u64 = 50;
/// Milliseconds: the longest that the host can be told to wait is 30 seconds.
const MAX_BUDGET: u64 = 25_000;
/// Characters of a wrong value that are repeated.
const MAX_ECHO: usize = 60;

/// The settings, checked.
pub struct Settings<'a> {
    /// Where the sidecar listens. Required.
    pub sidecar: Sidecar<'a>,
    /// Names of namespaces whose objects are left alone; a `*` at the end stands for any rest.
    excluded_namespaces: Vec<NamespacePattern<'a>>,
    /// What to do with an object when one of its images has no copy (yet).
    pub when_not_mirrored: Otherwise,
    /// What to do with an object when the sidecar gives no usable answer.
    pub when_unavailable: Otherwise,
    /// Whether every rewritten image gets its digest.
    pub pin_digest: bool,
    /// How long to go on asking, since the evaluation began.
    pub time_budget: Duration,
}

/// What to do with an object when an image cannot be replaced by its copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Otherwise {
    /// The upstream image stays.
    Keep,
    /// The object is denied.
    Reject,
}

/// Checks the settings: `payload` is the JSON that Kubewarden hands to the function `validate_settings`.
///
/// The message names every error. The host is not called: it cannot answer while it starts.
#[must_use]
pub fn validate_settings(payload: &[u8]) -> SettingsValidationResponse {
    let parsed = str::from_utf8(payload)
        .map_err(|error| error.to_string())
        .and_then(|text| serde_json::from_str::<Value>(text).map_err(|error| error.to_string()));
    let message = match parsed {
        Ok(value) => Settings::parse(&value)
            .err()
            .map(|errors| describe(&errors)),
        Err(error) => Some(format!("the settings are not JSON: {error}")),
    };
    SettingsValidationResponse {
        valid: message.is_none(),
        message,
    }
}

/// All errors in one message.
pub fn describe(errors: &[String]) -> String {
    errors.join("; ")
}

impl<'a> Settings<'a> {
    /// Reads the settings.
    ///
    /// # Errors
    /// All errors, one sentence each.
    pub fn parse(value: &'a Value) -> Result<Self, Vec<String>> {
        let Value::Object(map) = value else {
            return Err(vec!["the settings must be an object".into()]);
        };
        let mut reader = Reader {
            map,
            errors: unknown_keys(map),
        };
        let sidecar = reader.sidecar();
        let excluded_namespaces = reader.excluded_namespaces();
        let when_not_mirrored = reader.otherwise(WHEN_NOT_MIRRORED);
        let when_unavailable = reader.otherwise(WHEN_UNAVAILABLE);
        let pin_digest = reader.optional(PIN_DIGEST, "true or false", false, Value::as_bool);
        let time_budget = reader.time_budget();
        match sidecar {
            Some(sidecar) if reader.errors.is_empty() => Ok(Self {
                sidecar,
                excluded_namespaces,
                when_not_mirrored,
                when_unavailable,
                pin_digest,
                time_budget,
            }),
            _ => Err(reader.errors),
        }
    }

    /// Whether any object can be denied.
    pub fn may_reject(&self) -> bool {
        [self.when_not_mirrored, self.when_unavailable].contains(&Otherwise::Reject)
    }

    /// Whether objects in `namespace` are left alone.
    pub fn excludes(&self, namespace: &str) -> bool {
        self.excluded_namespaces
            .iter()
            .any(|pattern| pattern.matches(namespace))
    }
}

struct Reader<'a> {
    map: &'a Map<String, Value>,
    errors: Vec<String>,
}

impl<'a> Reader<'a> {
    fn sidecar(&mut self) -> Option<Sidecar<'a>> {
        const WANTED: &str = "the `host:port` of mirror-sidecar, in lower case";
        let Some(value) = self.map.get(SIDECAR) else {
            self.errors
                .push(format!("`{SIDECAR}` is missing: {WANTED}"));
            return None;
        };
        let sidecar = value.as_str().and_then(Sidecar::parse);
        if sidecar.is_none() {
            self.refuse(SIDECAR, WANTED, value);
        }
        sidecar
    }

    fn excluded_namespaces(&mut self) -> Vec<NamespacePattern<'a>> {
        const WANTED: &str = "a list of namespaces (lower-case letters, digits and `-`, a `*` at the end stands for any rest)";
        let default = DEFAULT_EXCLUDED
            .into_iter()
            .filter_map(NamespacePattern::parse)
            .collect();
        let Some(value) = self.map.get(EXCLUDED_NAMESPACES) else {
            return default;
        };
        let Value::Array(entries) = value else {
            self.refuse(EXCLUDED_NAMESPACES, WANTED, value);
            return default;
        };
        let mut patterns = Vec::with_capacity(entries.len());
        for entry in entries {
            match entry.as_str().and_then(NamespacePattern::parse) {
                Some(pattern) => patterns.push(pattern),
                None => self.refuse(EXCLUDED_NAMESPACES, WANTED, entry),
            }
        }
        patterns
    }

    fn otherwise(&mut self, key: &'static str) -> Otherwise {
        self.optional(
            key,
            "`keep` or `reject`",
            Otherwise::Keep,
            |value| match value.as_str()? {
                "keep" => Some(Otherwise::Keep),
                "reject" => Some(Otherwise::Reject),
                _ => None,
            },
        )
    }

    fn time_budget(&mut self) -> Duration {
        let wanted = format!("a whole number of milliseconds from {MIN_BUDGET} to {MAX_BUDGET}");
        let budget = self.optional(TIME_BUDGET_MS, &wanted, DEFAULT_BUDGET, |value| {
            value
                .as_u64()
                .filter(|budget| (MIN_BUDGET..=MAX_BUDGET).contains(budget))
        });
        Duration::from_millis(budget)
    }

    fn optional<T>(
        &mut self,
        key: &'static str,
        wanted: &str,
        default: T,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> T {
        let Some(value) = self.map.get(key) else {
            return default;
        };
        read(value).unwrap_or_else(|| {
            self.refuse(key, wanted, value);
            default
        })
    }

    fn refuse(&mut self, key: &str, wanted: &str, value: &Value) {
        let value = shorten(&value.to_string(), MAX_ECHO);
        self.errors
            .push(format!("`{key}` must be {wanted}, not {value}"));
    }
}

fn unknown_keys(map: &Map<String, Value>) -> Vec<String> {
    map.keys()
        .filter(|key| !KEYS.contains(&key.as_str()))
        .map(|key| {
            let known = KEYS.join(", ");
            format!(
                "`{}` is not a setting (there are {known})",
                shorten(key, MAX_ECHO)
            )
        })
        .collect()
}
