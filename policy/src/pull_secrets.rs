//! The `imagePullSecrets` of a pod spec.

use serde_json::{Value, json};

use crate::pod_template::Scope;
use crate::why::Why;

const KEY: &str = "imagePullSecrets";

/// The pull Secrets that a pod spec lists, and whether one may be added.
pub struct PullSecrets<'a> {
    /// `None` if the list is not one.
    entries: Option<&'a [Value]>,
    is_open: bool,
}

impl<'a> PullSecrets<'a> {
    /// Those of `spec`. The list of a Pod that exists is immutable.
    pub fn of(spec: &'a Value, scope: Scope) -> Self {
        let entries = match spec.get(KEY) {
            None | Some(Value::Null) => Some(&[][..]),
            Some(Value::Array(entries)) => Some(entries.as_slice()),
            Some(_) => None,
        };
        Self {
            entries,
            is_open: scope == Scope::Everything,
        }
    }

    /// Whether `name` must be added: `false` if it is listed already.
    ///
    /// # Errors
    /// Why it cannot be added though it is missing.
    pub fn lack(&self, name: &str) -> Result<bool, Why> {
        let entries = self.entries.ok_or(Why::SecretsUnreadable)?;
        let is_listed = entries
            .iter()
            .any(|entry| entry.get("name").and_then(Value::as_str) == Some(name));
        if is_listed || self.is_open {
            Ok(!is_listed)
        } else {
            Err(Why::SecretNotListed(name.to_owned()))
        }
    }
}

/// Adds `name` at the end of the pull Secrets of `spec`.
pub fn add(spec: &mut Value, name: &str) {
    let Value::Object(spec) = spec else { return };
    let list = spec.entry(KEY).or_insert(Value::Null);
    if list.is_null() {
        *list = json!([]);
    }
    if let Value::Array(list) = list {
        list.push(json!({ "name": name }));
    }
}
