//! The `imagePullSecrets` of a pod spec, and what becomes of them.
//!
//! A Pod gets those of its `ServiceAccount` only if its own list is empty (the API server's admission plugin
//! `ServiceAccount`, which runs before webhooks). So a template that lists none must not get the backup's Secret while any
//! of its images stays upstream: that image might need the others. Its Pods are rewritten instead, once they have them.

use serde_json::json;

use crate::json::{Cursor, Edited};
use crate::listed_secrets::{KEY, ListedSecrets, Shape, read_name};
use crate::object::PodSpec;
use crate::pod_template::{Scope, Target};
use crate::reason::Reason;

/// The pull Secrets that a pod spec lists, and what may be done to them.
pub struct PullSecrets<'a> {
    listed: &'a ListedSecrets<'a>,
    owner: Owner,
}

/// Whose list it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
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
        name: String,
        /// The one that the policy gave before goes, if it is another.
        given: Option<String>,
    },
    /// The only one goes.
    Remove { name: String },
}

impl<'a> PullSecrets<'a> {
    pub fn of(spec: &'a PodSpec<'_>, target: &Target) -> Self {
        let owner = match target.scope {
            Scope::Everything if target.is_pod => Owner::NewPod,
            Scope::Everything => Owner::Template,
            Scope::ChangedImages | Scope::NewEphemeralContainers | Scope::Nothing => {
                Owner::RunningPod
            }
        };
        Self {
            listed: &spec.secrets,
            owner,
        }
    }

    /// Whether `name` must be added: `false` if it is listed already.
    ///
    /// # Errors
    /// Why it cannot be added though it is missing.
    pub fn lack(&self, name: &str) -> Result<bool, Reason> {
        if self.listed.shape == Shape::Other {
            return Err(Reason::SecretsUnreadable);
        }
        let is_listed = self.listed.names.contains_key(name);
        if is_listed || self.owner != Owner::RunningPod {
            Ok(!is_listed)
        } else {
            Err(Reason::SecretNotListed(name.to_owned()))
        }
    }

    /// Whether nobody listed any, so that Pods of this template have those of their `ServiceAccount`.
    pub fn are_left_to_service_account(&self) -> bool {
        let is_list = self.listed.shape != Shape::Other;
        self.owner == Owner::Template && is_list && self.listed.entries == 0
    }

    /// Whether they are those of a Pod that exists.
    pub fn are_of_running_pod(&self) -> bool {
        self.owner == Owner::RunningPod
    }

    /// Whether they are those of a template, not of a Pod.
    pub fn are_of_template(&self) -> bool {
        self.owner == Owner::Template
    }

    /// The only Secret of a template.
    pub fn sole(&self) -> Option<&str> {
        let is_sole = self.owner == Owner::Template && self.listed.entries == 1;
        let name = self.listed.names.keys().next().filter(|_| is_sole)?;
        Some(name)
    }
}

impl SecretChange {
    /// Carries out the change on `spec`.
    pub fn apply(self, spec: &PodSpec<'_>, edited: &mut Edited<'_>) {
        let member = spec.secrets.member.as_ref();
        match (self, member) {
            (Self::None, _) | (Self::Remove { .. }, None) => {}
            (Self::Remove { .. }, Some(member)) => edited.remove(member),
            (Self::Add { name, .. }, None) => {
                let list = json!([{ "name": name }]).to_string();
                edited.add(&spec.holder, KEY, &list);
            }
            (Self::Add { name, given }, Some(member)) => {
                if spec.secrets.shape != Shape::Other {
                    let list = edited.text_of(member.value.clone());
                    edited.replace(member.value.clone(), with(list, &name, given.as_deref()));
                }
            }
        }
    }
}

/// Puts `name` back into the list of `spec`, if the list of `old` had it: `old` is a text with a spec that was read from it.
pub fn put_back(
    name: &str,
    (old_text, old): (&str, &PodSpec<'_>),
    spec: &PodSpec<'_>,
    edited: &mut Edited<'_>,
) {
    let (old, new) = (&old.secrets, &spec.secrets);
    if !old.names.contains_key(name) || new.names.contains_key(name) {
        return;
    }
    let is_all_that_differs = new.names.len() + 1 == old.names.len()
        && new.names.keys().all(|name| old.names.contains_key(name));
    let old_list = old.member.as_ref().filter(|_| is_all_that_differs);
    let old_list = old_list.and_then(|member| old_text.get(member.value.clone()));
    match (old_list, &new.member) {
        (Some(list), None) => _ = edited.add(&spec.holder, KEY, list),
        (Some(list), Some(member)) => edited.replace(member.value.clone(), list.to_owned()),
        (None, _) => SecretChange::Add {
            name: name.to_owned(),
            given: None,
        }
        .apply(spec, edited),
    }
}

/// The list, without `given` and with `name` at its end.
fn with(list: &str, name: &str, given: Option<&str>) -> String {
    let mut new = String::with_capacity(list.len() + name.len() + 16);
    new.push('[');
    let mut cursor = Cursor::new(list);
    if !cursor.null() && cursor.enter_array() {
        while cursor.next_element() {
            let entry = cursor.raw();
            let is_given =
                given.is_some() && read_name(&mut Cursor::new(entry)).as_deref() == given;
            if !is_given {
                new.push_str(entry);
                new.push(',');
            }
        }
    }
    new.push_str(&json!({ "name": name }).to_string());
    new.push(']');
    new
}
