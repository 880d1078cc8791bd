//! The policy's settings. They are read by hand, so that every error is found at once and named in plain words.
//!
//! The comment of a setting is its documentation: its key, what it means, its default. docs/policy-settings.md and the form
//! for Rancher's user interface have the same text; a test compares them.

mod image_filter;
mod known_copies;
mod patterns;
mod reader;

use std::time::Duration;

use kubewarden_policy_sdk::settings::SettingsValidationResponse;
use mirror_contract::namespace::DEFAULT_EXCLUDED;
use mirror_contract::owners::DEFAULT_SKIPPED;
use mirror_contract::response::is_secret_name;
use mirror_contract::{Backup, NamespacePattern, OwnerPattern, Sidecar};
use serde_json::Value;

pub use patterns::{ImagePattern, LabelPattern};
pub use reader::Otherwise;
use reader::Reader;

/// The Zalando operator compares images, and its Pods do not name it as an owner: it marks all that is its own like this.
const DEFAULT_LABELS: [&str; 1] = ["application=spilo"];
/// The name that the sidecar gives it, unless it is told another.
const DEFAULT_PULL_SECRETS: [&str; 1] = ["image-mirror-pull"];

/// The settings, checked.
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
    /// Where copies are and which pull Secrets they need, if the sidecar does not tell.
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
    pub when_not_mirrored: Otherwise,
    /// `whenUnavailable`: the same if the sidecar returns no usable response.
    /// Default: `keep`
    pub when_unavailable: Otherwise,
    /// `pinDigest`: add the digest of the copy to every rewritten image, so that a moved tag cannot change what runs.
    /// Default: `false`
    pub pin_digest: bool,
    /// `timeBudgetMs`: total time for requests to the sidecar during one admission request, in milliseconds, 50 to
    /// 25000; further images count as not mirrored.
    /// Default: `800`
    pub time_budget: Duration,
}

/// Which images are mirrored.
#[derive(Debug, PartialEq, Eq)]
pub struct ImageFilter<'a> {
    /// `images.include`: only images that match one of these patterns are mirrored; an empty list matches all images.
    /// Default: `[]`
    include: Vec<ImagePattern<'a>>,
    /// `images.exclude`: images that match one of these patterns are never mirrored, even if `images.include` matches them.
    /// Default: `[]`
    exclude: Vec<ImagePattern<'a>>,
}

/// What an annotation with original images is checked against: whoever may edit a workload may write it.
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
            "a list of names of Secrets",
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
        let when_not_mirrored = reader.otherwise("whenNotMirrored");
        let when_unavailable = reader.otherwise("whenUnavailable");
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

    /// Whether objects in `namespace` are left alone.
    pub fn excludes(&self, namespace: &str) -> bool {
        self.excluded_namespaces
            .iter()
            .any(|pattern| pattern.matches(namespace))
    }

    /// Whether what an owner of this type owns is left alone; `api_version` is `<group>/<version>`.
    pub fn skips_owner(&self, api_version: &str, kind: &str) -> bool {
        self.skip_owners
            .iter()
            .any(|pattern| pattern.matches(api_version, kind))
    }

    /// Whether what has this label is left alone.
    pub fn skips_label(&self, key: &str, value: &str) -> bool {
        self.skip_labels
            .iter()
            .any(|pattern| (pattern.key, pattern.value) == (key, value))
    }
}
