//! The policy's settings. They are parsed by hand, so that one message lists all errors.
//!
//! The comment of a setting is its documentation: key, meaning, default. docs/policy-settings.md and the form for Rancher's
//! user interface have the same text; a test compares them.

mod patterns;
mod reader;

use std::time::Duration;

use kubewarden_policy_sdk::settings::SettingsValidationResponse;
use mirror_contract::namespace::DEFAULT_EXCLUDED;
use mirror_contract::owners::DEFAULT_SKIPPED;
use mirror_contract::response::is_secret_name;
use mirror_contract::{Backup, ImageRef, NamespacePattern, OwnerPattern, Relation, Sidecar};
use serde_json::Value;

pub use patterns::{ImagePattern, LabelPattern};
pub use reader::Fallback;
use reader::Reader;

/// The label of all objects of the Zalando operator, which compares images. Its Pods have no owner reference to it.
const DEFAULT_LABELS: [&str; 1] = ["application=spilo"];
/// The default of the sidecar.
const DEFAULT_PULL_SECRETS: [&str; 1] = ["image-mirror-pull"];

#[derive(Debug, PartialEq, Eq)]
pub struct Settings<'a> {
    /// `sidecar`: host and port of mirror-sidecar, in lower case, as the policy server reaches it.
    /// Required.
    pub sidecar: Sidecar<'a>,
    /// `excludedNamespaces`: namespaces whose workloads are left alone; a trailing `*` is a wildcard.
    /// Default: `[kube-system, local-path-storage, image-mirror, kubewarden]`
    excluded_namespaces: Vec<NamespacePattern<'a>>,
    /// `images`: which images are mirrored.
    pub images: ImageFilter<'a>,
    pub known_copies: KnownCopies<'a>,
    /// `skipOwners`: objects with such an owner, `<API group>/<kind>`, are left alone, because the owner compares
    /// images itself.
    /// Default: `[postgresql.cnpg.io/Cluster, acid.zalan.do/postgresql]`
    skip_owners: Vec<OwnerPattern<'a>>,
    /// `skipLabels`: objects with such a label, `<key>=<value>`, on themselves or on their Pod template are left alone.
    /// Default: `[application=spilo]`
    skip_labels: Vec<LabelPattern<'a>>,
    /// `whenNotMirrored`: what happens to a workload with an image that has no copy yet: `keep` the original, with a
    /// warning, or `reject` the request.
    /// Default: `keep`
    pub when_not_mirrored: Fallback,
    /// `whenUnavailable`: the same if the sidecar returns no usable response.
    /// Default: `keep`
    pub when_unavailable: Fallback,
    /// `pinDigest`: add the digest of the copy to every rewritten image, so that a moved tag cannot change what runs.
    /// Default: `false`
    pub pin_digest: bool,
    /// `timeBudgetMs`: total time for requests to the sidecar during one admission request, in milliseconds, 50 to
    /// 25000; further images count as not mirrored.
    /// Default: `800`
    pub time_budget: Duration,
}

#[derive(Debug, PartialEq, Eq)]
pub struct ImageFilter<'a> {
    /// `images.include`: only images that match one of these patterns are mirrored; an empty list matches all images.
    /// Default: `[]`
    include: Vec<ImagePattern<'a>>,
    /// `images.exclude`: images that match one of these patterns are never mirrored, even if `images.include` matches them.
    /// Default: `[]`
    exclude: Vec<ImagePattern<'a>>,
}

/// Checks the annotation with the original images, which everyone who may edit a workload can write.
#[derive(Debug, PartialEq, Eq)]
pub struct KnownCopies<'a> {
    /// `backups`: current and former locations of copies, as `registry/repository`; without this list, a container can
    /// only get back the copy that it ran before during an outage.
    /// Default: `[]`
    backups: Vec<[Backup; 2]>,
    /// `pullSecrets`: current and former names of the pull Secrets of the backups; during an outage no other Secret is
    /// added.
    /// Default: `[image-mirror-pull]`
    pull_secrets: Vec<&'a str>,
}

/// Returns the response to the `payload` of Kubewarden's function `validate_settings`.
///
/// The host is not called: it does not respond while it starts.
#[must_use]
pub fn validate_settings(payload: &[u8]) -> SettingsValidationResponse {
    let parsed = str::from_utf8(payload)
        .map_err(|error| error.to_string())
        .and_then(|text| serde_json::from_str::<Value>(text).map_err(|error| error.to_string()));
    let message = match parsed {
        Ok(value) => Settings::parse(&value)
            .err()
            .map(|errors| describe(&errors)),
        Err(error) => Some(format!("cannot parse the settings: {error}")),
    };
    SettingsValidationResponse {
        valid: message.is_none(),
        message,
    }
}

pub fn describe(errors: &[String]) -> String {
    errors.join("; ")
}

impl<'a> Settings<'a> {
    /// Returns all errors, one sentence each.
    pub fn parse(value: &'a Value) -> Result<Self, Vec<String>> {
        let Value::Object(map) = value else {
            return Err(vec!["the settings must be an object".into()]);
        };
        let mut reader = Reader::new(map);
        let sidecar = reader.required(
            "sidecar",
            "the `host:port` of mirror-sidecar, in lower case",
            Sidecar::parse,
        );
        let excluded_namespaces = reader.list(
            "excludedNamespaces",
            "a list of namespaces (lower-case letters, digits and `-`, a trailing `*` is a wildcard)",
            &DEFAULT_EXCLUDED,
            NamespacePattern::parse,
        );
        let mut filters = reader.nested("images");
        let images = ImageFilter {
            include: filters.patterns("include"),
            exclude: filters.patterns("exclude"),
        };
        reader.adopt(filters);
        let backups = reader.list(
            "backups",
            "a list of `registry/repository`, in lower case",
            &[],
            Backup::with_both_namings,
        );
        let pull_secrets = reader.list(
            "pullSecrets",
            "a list of Secret names",
            &DEFAULT_PULL_SECRETS,
            |name| is_secret_name(name).then_some(name),
        );
        let skip_owners = reader.list(
            "skipOwners",
            "a list of `<API group>/<kind>`",
            &DEFAULT_SKIPPED,
            OwnerPattern::parse,
        );
        let skip_labels = reader.list(
            "skipLabels",
            "a list of `<key>=<value>`",
            &DEFAULT_LABELS,
            LabelPattern::parse,
        );
        let when_not_mirrored = reader.fallback("whenNotMirrored");
        let when_unavailable = reader.fallback("whenUnavailable");
        let pin_digest = reader.optional("pinDigest", "true or false", false, Value::as_bool);
        let time_budget = reader.time_budget("timeBudgetMs");
        let errors = reader.finish();
        match sidecar {
            Some(sidecar) if errors.is_empty() => Ok(Self {
                sidecar,
                excluded_namespaces,
                images,
                known_copies: KnownCopies {
                    backups,
                    pull_secrets,
                },
                skip_owners,
                skip_labels,
                when_not_mirrored,
                when_unavailable,
                pin_digest,
                time_budget,
            }),
            _ => Err(errors),
        }
    }

    pub fn excludes_namespace(&self, namespace: &str) -> bool {
        self.excluded_namespaces
            .iter()
            .any(|pattern| pattern.matches(namespace))
    }

    /// `api_version` is `<group>/<version>`.
    pub fn skips_owner(&self, api_version: &str, kind: &str) -> bool {
        self.skip_owners
            .iter()
            .any(|pattern| pattern.matches(api_version, kind))
    }

    pub fn skips_label(&self, key: &str, value: &str) -> bool {
        self.skip_labels
            .iter()
            .any(|pattern| (pattern.key, pattern.value) == (key, value))
    }
}

impl ImageFilter<'_> {
    pub fn includes(&self, image: &ImageRef<'_>) -> bool {
        if self.include.is_empty() && self.exclude.is_empty() {
            return true;
        }
        let canonical = image.to_string();
        let any = |patterns: &[ImagePattern<'_>]| {
            let mut patterns = patterns.iter();
            patterns.any(|pattern| pattern.matches(image, &canonical))
        };
        (self.include.is_empty() || any(&self.include)) && !any(&self.exclude)
    }
}

impl KnownCopies<'_> {
    /// Without backups, a copy is recognised by its name in any registry, which proves little.
    pub fn has_backups(&self) -> bool {
        !self.backups.is_empty()
    }

    /// Whether `image` is in one of the backups.
    pub fn contain(&self, image: &ImageRef<'_>) -> bool {
        let mut backups = self.backups.iter().flatten();
        backups.any(|backup| backup.contains(image))
    }

    /// How `copy` relates to `original`; `None` if it is not a copy of it.
    pub fn relation(&self, copy: &str, original: &str) -> Option<Relation> {
        let copy = ImageRef::parse(copy).ok()?;
        let original = ImageRef::parse(original).ok()?;
        if self.backups.is_empty() {
            return Backup::any_relation(&copy, &original);
        }
        let relation = |original: &ImageRef<'_>| {
            let mut backups = self.backups.iter().flatten();
            backups.find_map(|backup| backup.relation(&copy, original))
        };
        // The copy of a copy in another backup is a copy of the first original.
        relation(&original).or_else(|| {
            let copies = self.backups.iter().flatten();
            let mut copies = copies.filter_map(|backup| backup.target(&original).ok());
            copies.find_map(|first_copy| relation(&first_copy))
        })
    }

    pub fn is_pull_secret(&self, name: &str) -> bool {
        self.pull_secrets.contains(&name)
    }
}
