//! One policy: its settings and its selectors.

use mirror_contract::rules::Action;
use mirror_contract::{ImageRef, NamespacePattern, OwnerPattern, Settings};
use serde_json::{Value, json};

use super::pull_destinations::PullDestinations;
use super::selector::Selector;
use crate::backups::ByBackup;
use crate::cluster::json_fields::field;
use crate::cluster::workload::{Labels, Workload};

/// An object of the cluster with a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyId {
    pub name: Box<str>,
    pub uid: Box<str>,
}

/// A policy whose settings are valid. Its mode does not matter: in `monitor` mode images are copied as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    id: Option<PolicyId>,
    settings: Settings<'static>,
    destinations: PullDestinations,
    namespaces: Selector,
    objects: Selector,
    /// Its settings are those of the flags, since the rules are not known.
    fallback: Option<Fallback>,
}

/// What is copied of images in use while the rules for them are not known: a policy cannot be parsed, or there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// Everything that the flags do not exclude. With one backup, a copy too many does no harm.
    CopyAll,
    /// Nothing. With several backups, the rules may keep images out of the backup that others share.
    CopyNothing,
}

impl Fallback {
    /// Returns what is right for these backups.
    #[must_use]
    pub fn of<T>(backups: &ByBackup<T>) -> Self {
        match backups.named().next() {
            Some(_) => Self::CopyNothing,
            None => Self::CopyAll,
        }
    }
}

/// Why a policy does not rewrite an object of a namespace that it selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotAdmitted<'w> {
    /// The labels of the object do not match its selector.
    ObjectSelector,
    /// An owner of the object compares images itself.
    Owner { kind: &'w str },
    /// The object or its template has a label of `skipLabels`.
    Label { key: &'w str, value: &'w str },
}

impl Policy {
    /// Parses the `spec` of a `ClusterAdmissionPolicy`.
    ///
    /// # Errors
    /// All errors in one line.
    pub fn parse(spec: &Value) -> Result<Self, String> {
        let settings = parse(field(spec, "settings"))?;
        let selector = |name, parse: fn(&Value) -> Result<Selector, String>| {
            parse(field(spec, name)).map_err(|error| format!("{name}.{error}"))
        };
        Ok(Self {
            id: None,
            destinations: destinations(&settings)?,
            settings,
            // Kubewarden drops `matchLabels` of this selector.
            namespaces: selector("namespaceSelector", Selector::parse_expressions)?,
            objects: selector("objectSelector", Selector::parse)?,
            fallback: None,
        })
    }

    /// Parses settings alone, which are for all namespaces and objects.
    ///
    /// # Errors
    /// All errors in one line.
    pub fn of_settings(settings: &Value) -> Result<Self, String> {
        let settings = parse(settings)?;
        Ok(Self {
            id: None,
            destinations: destinations(&settings)?,
            settings,
            namespaces: Selector::default(),
            objects: Selector::default(),
            fallback: None,
        })
    }

    /// Returns a policy with what these flags exclude, in place of one whose rules are not known.
    #[must_use]
    pub fn of_flags<'a>(
        excluded_namespaces: impl Iterator<Item = &'a NamespacePattern<'static>>,
        skip_owners: &[OwnerPattern<'static>],
        fallback: Fallback,
    ) -> Option<Self> {
        let owners = skip_owners.iter();
        let rules = match fallback {
            Fallback::CopyAll => json!([]),
            Fallback::CopyNothing => json!([{ "action": "keep" }]),
        };
        let settings = json!({
            // Required, and not used here.
            "sidecar": "mirror-sidecar:5000",
            "excludedNamespaces": excluded_namespaces.map(NamespacePattern::as_str).collect::<Vec<_>>(),
            "skipOwners": owners.map(OwnerPattern::as_str).collect::<Vec<_>>(),
            "skipLabels": [],
            "rules": rules,
        });
        let policy = Self::of_settings(&settings).ok()?;
        Some(Self {
            fallback: Some(fallback),
            ..policy
        })
    }

    /// Returns what is copied because the rules are not known; `None` if they are.
    pub(super) fn fallback(&self) -> Option<Fallback> {
        self.fallback
    }

    /// Returns the same policy as the one of this object.
    #[must_use]
    pub(super) fn with_id(self, id: PolicyId) -> Self {
        Self {
            id: Some(id),
            ..self
        }
    }

    /// Returns the object of the policy; `None` for settings of a file or of flags.
    pub(super) fn id(&self) -> Option<&PolicyId> {
        self.id.as_ref()
    }

    pub(super) fn settings(&self) -> &Settings<'static> {
        &self.settings
    }

    pub(super) fn destinations(&self) -> &PullDestinations {
        &self.destinations
    }

    /// Returns whether it is for objects of a namespace; `None` if that depends on labels that are not known.
    pub(super) fn selects_namespace(&self, name: &str, labels: Option<&Labels>) -> Option<bool> {
        if self.settings.excludes_namespace(name) {
            return Some(false);
        }
        self.namespaces.matches_namespace(name, labels)
    }

    pub(super) fn reads_namespace_labels(&self) -> bool {
        self.namespaces.reads_more_than_name()
    }

    /// Returns whether it rewrites an object of a namespace that it selects.
    pub(super) fn admits(&self, workload: &Workload) -> bool {
        self.refusal(workload).is_none()
    }

    /// Returns why it does not rewrite an object of a namespace that it selects.
    pub(super) fn refusal<'w>(&self, workload: &'w Workload) -> Option<NotAdmitted<'w>> {
        if !self.objects.matches(&workload.labels) {
            return Some(NotAdmitted::ObjectSelector);
        }
        let mut owners = workload.owners.iter();
        let owner = owners
            .find(|(api_version, kind)| self.settings.skips_owner(api_version, kind))
            .map(|(_, kind)| NotAdmitted::Owner { kind });
        owner.or_else(|| {
            let mut labels = workload.labels.iter().chain(&workload.template_labels);
            let (key, value) = labels.find(|(key, value)| self.settings.skips_label(key, value))?;
            Some(NotAdmitted::Label { key, value })
        })
    }

    /// Returns the image in the target of a rewrite that replaces `image` in a namespace; `None` if no rule rewrites it.
    pub(super) fn rewritten(
        &self,
        namespace: &str,
        image: &ImageRef<'_>,
    ) -> Option<ImageRef<'static>> {
        match self.settings().decide(namespace, image).action {
            Action::Rewrite { target } => target.rewrite(image).ok(),
            Action::Mirror { .. } | Action::Keep => None,
        }
    }
}

fn parse(settings: &Value) -> Result<Settings<'static>, String> {
    let settings = Settings::parse(settings).map_err(|errors| errors.join("; "))?;
    Ok(settings.into_owned())
}

fn destinations(settings: &Settings<'_>) -> Result<PullDestinations, String> {
    PullDestinations::of(&settings.rules).map_err(|error| error.to_string())
}
