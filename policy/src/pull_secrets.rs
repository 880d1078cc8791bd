//! The `imagePullSecrets` of a pod spec, and what becomes of them.
//!
//! A Pod gets those of its `ServiceAccount` only if its own list is empty (the API server's admission plugin
//! `ServiceAccount`, which runs before webhooks). So a template that lists none must not get the backup's Secret while any
//! of its images stays upstream: that image might need the others. Its Pods are rewritten instead, once they have them.

use serde_json::{Value, json};

use crate::pod_template::{Scope, Target};
use crate::why::Why;

const KEY: &str = "imagePullSecrets";

/// The pull Secrets that a pod spec lists, and what may be done to them.
pub struct PullSecrets<'a> {
    /// `None` if the list is not one.
    entries: Option<&'a [Value]>,
    holder: Holder,
}

/// Whose list it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holder {
    /// A Pod that exists. Its list is immutable.
    RunningPod,
    /// A Pod that is being created. What its `ServiceAccount` adds is there already.
    NewPod,
    /// A template. What its Pods will get besides is unknown.
    Template,
}

/// What becomes of the list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SecretChange {
    /// It stays.
    #[default]
    None,
    /// A name joins it.
    Add {
        /// This one.
        name: String,
        /// The one that the policy gave before goes, if it is another.
        given: Option<String>,
    },
    /// The only one goes.
    Remove {
        /// Its name.
        name: String,
    },
}

impl<'a> PullSecrets<'a> {
    /// Those of `spec`.
    pub fn of(spec: &'a Value, target: &Target) -> Self {
        let entries = match spec.get(KEY) {
            None | Some(Value::Null) => Some(&[][..]),
            Some(Value::Array(entries)) => Some(entries.as_slice()),
            Some(_) => None,
        };
        let holder = match target.scope {
            Scope::Everything if target.is_pod => Holder::NewPod,
            Scope::Everything => Holder::Template,
            Scope::ChangedImages | Scope::NewEphemeralContainers | Scope::Nothing => {
                Holder::RunningPod
            }
        };
        Self { entries, holder }
    }

    /// Whether `name` must be added: `false` if it is listed already.
    ///
    /// # Errors
    /// Why it cannot be added though it is missing.
    pub fn lack(&self, name: &str) -> Result<bool, Why> {
        let entries = self.entries.ok_or(Why::SecretsUnreadable)?;
        let is_listed = entries.iter().any(|entry| name_of(entry) == Some(name));
        if is_listed || self.holder != Holder::RunningPod {
            Ok(!is_listed)
        } else {
            Err(Why::SecretNotListed(name.to_owned()))
        }
    }

    /// Whether nobody listed any, so that Pods of this template have those of their `ServiceAccount`.
    pub fn are_left_to_service_account(&self) -> bool {
        self.holder == Holder::Template && self.entries.is_some_and(<[Value]>::is_empty)
    }

    /// Whether they are those of a Pod that exists.
    pub fn are_of_running_pod(&self) -> bool {
        self.holder == Holder::RunningPod
    }

    /// Whether they are those of a template, not of a Pod.
    pub fn are_of_template(&self) -> bool {
        self.holder == Holder::Template
    }

    /// The only Secret of a template.
    pub fn sole(&self) -> Option<&'a str> {
        match self.entries {
            Some([entry]) if self.holder == Holder::Template => name_of(entry),
            _ => None,
        }
    }
}

impl SecretChange {
    /// Carries out the change on `spec`.
    pub fn apply(self, spec: &mut Value) {
        let Value::Object(spec) = spec else { return };
        match self {
            Self::None => {}
            Self::Add { name, given } => {
                let list = spec.entry(KEY).or_insert(Value::Null);
                if list.is_null() {
                    *list = json!([]);
                }
                if let Value::Array(list) = list {
                    let is_given =
                        |entry: &Value| given.is_some() && name_of(entry) == given.as_deref();
                    list.retain(|entry| !is_given(entry));
                    list.push(json!({ "name": name }));
                }
            }
            Self::Remove { .. } => {
                spec.remove(KEY);
            }
        }
    }
}

fn name_of(entry: &Value) -> Option<&str> {
    entry.get("name")?.as_str()
}
