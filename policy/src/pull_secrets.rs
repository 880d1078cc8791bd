//! The `imagePullSecrets` of a pod spec, and changes of that list.
//!
//! A Pod gets those of its `ServiceAccount` only if its own list is empty (the API server's admission plugin
//! `ServiceAccount`, which runs before webhooks, and once more after a webhook that has changed the Pod). So a template that
//! lists none must not get the backup's Secret while any of its images keeps its original: that image may need the others.
//! Its Pods are rewritten instead, once they have them.

use std::borrow::Cow;

use crate::json::{self, Cursor, Edited, Holder, Member, Texts};
use crate::reason::Reason;
use crate::request::{Scope, Target};

pub const KEY: &str = "imagePullSecrets";

/// The list as it is written.
pub struct ListedSecrets<'a> {
    /// The pod spec, to add the list to.
    spec: Holder,
    /// `None` if it is missing.
    member: Option<Member>,
    shape: Shape,
    entries: usize,
    /// As keys.
    names: Texts<'a>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// Missing or `null`.
    Empty,
    List,
    Other,
}

/// The pull Secrets that a pod spec lists, and what may be done to them.
pub struct PullSecrets<'a> {
    listed: &'a ListedSecrets<'a>,
    owner: Owner,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// Its list is immutable.
    RunningPod,
    /// Its list already has the Secrets of its `ServiceAccount`.
    NewPod,
    /// The Secrets that its Pods will get besides are unknown.
    Template,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SecretChange {
    #[default]
    None,
    Add {
        name: String,
        /// The Secret that the policy added before, which is removed if it is another one.
        former: Option<String>,
    },
    /// Removes the only Secret.
    Remove { name: String },
}

impl<'a> ListedSecrets<'a> {
    pub fn new(spec: Holder) -> Self {
        Self {
            spec,
            member: None,
            shape: Shape::Empty,
            entries: 0,
            names: Texts::new(),
        }
    }

    /// Reads the list, which is the value of `key`.
    pub fn read(&mut self, key: &json::Key<'_>, cursor: &mut Cursor<'a>) {
        let start = cursor.position();
        (self.shape, self.entries, self.names) = (Shape::Empty, 0, Texts::new());
        if cursor.null() {
            // The same as missing.
        } else if cursor.enter_array() {
            self.shape = Shape::List;
            while cursor.next_element() {
                self.entries += 1;
                if let Some(name) = read_name(cursor) {
                    self.names.insert(name, Cow::default());
                }
            }
        } else {
            self.shape = Shape::Other;
        }
        self.member = Some(key.member(start, cursor));
    }

    pub fn has(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// Puts `name` back, if `old` had it: a list that was read from `old_text`.
    pub fn restore(
        &self,
        name: &str,
        (old_text, old): (&str, &ListedSecrets<'_>),
        edited: &mut Edited<'_>,
    ) {
        if !old.has(name) || self.has(name) {
            return;
        }
        let is_only_difference =
            self.names.len() + 1 == old.names.len() && self.names.keys().all(|name| old.has(name));
        let old_list = old.member.as_ref().filter(|_| is_only_difference);
        let old_list = old_list.and_then(|member| old_text.get(member.value.clone()));
        match (old_list, &self.member) {
            (Some(list), None) => _ = edited.add(&self.spec, KEY, list),
            (Some(list), Some(member)) => edited.replace(member.value.clone(), list.to_owned()),
            (None, _) => SecretChange::Add {
                name: name.to_owned(),
                former: None,
            }
            .apply(self, edited),
        }
    }
}

impl<'a> PullSecrets<'a> {
    pub fn of(listed: &'a ListedSecrets<'_>, target: &Target) -> Self {
        let owner = match target.scope {
            Scope::Everything if target.is_pod => Owner::NewPod,
            Scope::Everything => Owner::Template,
            Scope::ChangedImages | Scope::NewEphemeralContainers | Scope::Nothing => {
                Owner::RunningPod
            }
        };
        Self { listed, owner }
    }

    /// Whether `name` must be added; an error if it is missing and cannot be added.
    pub fn lacks(&self, name: &str) -> Result<bool, Reason> {
        if self.listed.shape == Shape::Other {
            return Err(Reason::SecretsUnreadable);
        }
        let is_listed = self.listed.has(name);
        if is_listed || self.owner != Owner::RunningPod {
            Ok(!is_listed)
        } else {
            Err(Reason::SecretNotListed(name.to_owned()))
        }
    }

    /// Whether a template lists none, so that its Pods get those of their `ServiceAccount`.
    pub fn are_left_to_service_account(&self) -> bool {
        let is_list = self.listed.shape != Shape::Other;
        self.owner == Owner::Template && is_list && self.listed.entries == 0
    }

    pub fn are_of_running_pod(&self) -> bool {
        self.owner == Owner::RunningPod
    }

    pub fn are_of_new_pod(&self) -> bool {
        self.owner == Owner::NewPod
    }

    pub fn are_of_template(&self) -> bool {
        self.owner == Owner::Template
    }

    /// The listed Secret, if there is no other.
    pub fn only(&self) -> Option<&str> {
        let is_only = self.listed.entries == 1;
        let name = self.listed.names.keys().next().filter(|_| is_only)?;
        Some(name)
    }
}

impl SecretChange {
    pub fn apply(self, listed: &ListedSecrets<'_>, edited: &mut Edited<'_>) {
        match (self, &listed.member) {
            (Self::None, _) | (Self::Remove { .. }, None) => {}
            (Self::Remove { .. }, Some(member)) => edited.remove(member),
            (Self::Add { name, .. }, None) => {
                edited.add(&listed.spec, KEY, &format!("[{}]", entry(&name)));
            }
            (Self::Add { name, former }, Some(member)) => {
                if listed.shape != Shape::Other {
                    let list = edited.text_of(member.value.clone());
                    edited.replace(member.value.clone(), with(list, &name, former.as_deref()));
                }
            }
        }
    }
}

/// The list without `former`, and with `name` at its end.
fn with(list: &str, name: &str, former: Option<&str>) -> String {
    let mut new = String::with_capacity(list.len() + name.len() + 16);
    new.push('[');
    let mut cursor = Cursor::new(list);
    if !cursor.null() && cursor.enter_array() {
        while cursor.next_element() {
            let entry = cursor.raw();
            let is_former =
                former.is_some() && read_name(&mut Cursor::new(entry)).as_deref() == former;
            if !is_former {
                new.push_str(entry);
                new.push(',');
            }
        }
    }
    new.push_str(&entry(name));
    new.push(']');
    new
}

/// The entry for a Secret.
fn entry(name: &str) -> String {
    format!("{{\"name\":{}}}", json::quoted(name))
}

/// The name in an entry of the list.
fn read_name<'a>(cursor: &mut Cursor<'a>) -> Option<Cow<'a, str>> {
    let mut name = None;
    if cursor.enter_object() {
        while let Some(key) = cursor.next_key() {
            if key.name == "name" {
                name = cursor.string();
            } else {
                cursor.skip();
            }
        }
    }
    name
}
