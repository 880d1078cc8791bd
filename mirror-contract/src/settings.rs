//! The policy's settings, which the sidecar reads as well. They are parsed by hand, so that one message lists all errors.
//!
//! The comment of a setting is its documentation: key, meaning, default. docs/policy-settings.md and the form for Rancher's
//! user interface have the same text; a test compares them.

mod known_copies;
mod reader;

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use serde_json::Value;

use crate::namespace::DEFAULT_EXCLUDED;
use crate::rules::{Action, Decider, Decision, KEEP, Position, Rule, Rules};
use crate::{
    BackupName, ImagePattern, ImageRef, LabelPattern, NamespacePattern, OwnerPattern, Relation,
    RewriteTarget, Sidecar,
};
use crate::{label_pattern, owners};
use reader::Reader;

pub use known_copies::KnownCopies;

/// Milliseconds. With one last request, it stays below the host's default timeout of two seconds.
const DEFAULT_BUDGET: u64 = 800;

/// Milliseconds, the time of one request.
const MIN_BUDGET: u64 = 50;

/// Milliseconds. The longest timeout of the host is 30 seconds.
const MAX_BUDGET: u64 = 25_000;

const NAMESPACE: &str =
    "a namespace (lower-case letters, digits and `-`, a trailing `*` is a wildcard)";
const IMAGE: &str = "a full reference such as `docker.io/library/nginx` with `*` as wildcard";
const ACTION: &str = "`mirror`, `rewrite` or `keep`";
const BACKUP: &str = "the name of a backup (lower-case letters, digits and inner `-`)";
const TARGET: &str =
    "a registry with an optional path, such as `harbor.example.com/hub`, in lower case";

/// The settings of the policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings<'a> {
    /// `sidecar`: host and port of mirror-sidecar, in lower case, as the policy server reaches it.
    /// Required.
    pub sidecar: Sidecar<'a>,
    /// `excludedNamespaces`: namespaces whose workloads are left alone; a trailing `*` is a wildcard.
    /// Default: `[kube-system, local-path-storage, image-mirror, kubewarden]`
    excluded_namespaces: Vec<NamespacePattern<'a>>,
    /// `rules`: an ordered list that says which images are mirrored in which namespaces; the first rule that matches decides,
    /// and an image that no rule matches is mirrored.
    /// Default: `[]`
    pub rules: Rules<'a>,
    /// The settings about copies that are known without the sidecar.
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
    /// `whenBackupUnavailable`: what new Pods use while the backup with their copies does not respond: the `original` images
    /// with the digests of the copies, if their registries have them, or `copy` to keep the copies.
    /// Default: `original`
    pub when_backup_unavailable: Failover,
    /// `pinDigest`: add the digest of the copy to every rewritten image, so that a moved tag cannot change what runs.
    /// Default: `false`
    pub pin_digest: bool,
    /// `timeBudgetMs`: total time for requests to the sidecar during one admission request, in milliseconds, 50 to
    /// 25000; further images count as not mirrored.
    /// Default: `800`
    pub time_budget: Duration,
}

/// What happens to an object if an image cannot be replaced by its copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// The image is kept, with a warning.
    Keep,
    /// The request is rejected.
    Reject,
}

/// What new Pods use while the backup with their copies does not respond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failover {
    /// The originals with the digests of the copies.
    Original,
    /// The copies.
    Copy,
}

/// The older form of rules, for all namespaces.
struct ImageFilter<'a> {
    /// `images.include`: only images that match one of these patterns are mirrored; an empty list matches all images.
    /// Default: `[]`
    include: Vec<ImagePattern<'a>>,
    /// `images.exclude`: images that match one of these patterns are never mirrored, even if `images.include` matches them.
    /// Default: `[]`
    exclude: Vec<ImagePattern<'a>>,
}

impl<'a> Settings<'a> {
    /// Parses the settings.
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
            NAMESPACE,
            &DEFAULT_EXCLUDED,
            NamespacePattern::parse,
        );
        let rules = read_rules(&mut reader);
        let known_copies = KnownCopies::read(&mut reader);
        let skip_owners = reader.list(
            "skipOwners",
            "`<API group>/<kind>`",
            &owners::DEFAULT_SKIPPED,
            OwnerPattern::parse,
        );
        let skip_labels = reader.list(
            "skipLabels",
            "`<key>=<value>`",
            &label_pattern::DEFAULT_SKIPPED,
            LabelPattern::parse,
        );
        let when_not_mirrored = read_fallback(&mut reader, "whenNotMirrored");
        let when_unavailable = read_fallback(&mut reader, "whenUnavailable");
        let when_backup_unavailable = read_failover(&mut reader);
        let pin_digest = reader.optional("pinDigest", "true or false", false, Value::as_bool);
        let time_budget = read_time_budget(&mut reader);
        let errors = reader.finish();
        match sidecar {
            Some(sidecar) if errors.is_empty() => Ok(Self {
                sidecar,
                excluded_namespaces,
                rules,
                known_copies,
                skip_owners,
                skip_labels,
                when_not_mirrored,
                when_unavailable,
                when_backup_unavailable,
                pin_digest,
                time_budget,
            }),
            _ => Err(errors),
        }
    }

    /// Returns all errors of [`Self::parse`], and those that take longer to find: rules that can never match, and targets of
    /// rewrites that overlap.
    #[must_use]
    pub fn check(value: &'a Value) -> Vec<String> {
        match Self::parse(value) {
            Err(errors) => errors,
            Ok(settings) => {
                let rules = settings.rules.unreachable(&settings.excluded_namespaces);
                let mut errors: Vec<_> = rules.iter().map(ToString::to_string).collect();
                let overlaps_backup =
                    |target: &RewriteTarget<'_>| settings.known_copies.overlap(target);
                errors.extend(settings.rules.conflicts(&overlaps_backup));
                errors
            }
        }
    }

    /// Returns the decision about `image` in `namespace`. An excluded namespace keeps all images, whatever the rules say.
    #[must_use]
    pub fn decide(&self, namespace: &str, image: &ImageRef<'_>) -> Decision<'_> {
        if self.excludes_namespace(namespace) {
            return Decision {
                action: KEEP,
                decider: Some(Decider::ExcludedNamespaces),
            };
        }
        self.rules.decide(namespace, image)
    }

    /// Returns whether some image in `namespace` may be copied. `false` is always right.
    #[must_use]
    pub fn may_copy(&self, namespace: &str) -> bool {
        !self.excludes_namespace(namespace) && self.rules.may_copy(namespace)
    }

    /// Returns how `copy`, in a backup or in the target of a rewrite, relates to `original`; `None` if it is not a copy of it.
    #[must_use]
    pub fn relation(&self, copy: &str, original: &str) -> Option<Relation> {
        let relation = self.known_copies.relation(copy, original);
        relation.or_else(|| self.rules.relation(copy, original))
    }

    /// Returns whether the workloads of `namespace` are left alone.
    #[must_use]
    pub fn excludes_namespace(&self, namespace: &str) -> bool {
        self.excluded_namespaces
            .iter()
            .any(|pattern| pattern.matches(namespace))
    }

    /// Returns whether objects with an owner are left alone; `api_version` is `<group>/<version>`.
    #[must_use]
    pub fn skips_owner(&self, api_version: &str, kind: &str) -> bool {
        self.skip_owners
            .iter()
            .any(|pattern| pattern.matches(api_version, kind))
    }

    /// Returns whether objects with a label are left alone.
    #[must_use]
    pub fn skips_label(&self, key: &str, value: &str) -> bool {
        self.skip_labels
            .iter()
            .any(|pattern| pattern.matches(key, value))
    }

    /// Returns the same settings with owned text.
    #[must_use]
    pub fn into_owned(self) -> Settings<'static> {
        let namespaces = self.excluded_namespaces.into_iter();
        let owners = self.skip_owners.into_iter();
        let labels = self.skip_labels.into_iter();
        Settings {
            sidecar: self.sidecar.into_owned(),
            excluded_namespaces: namespaces.map(NamespacePattern::into_owned).collect(),
            rules: self.rules.into_owned(),
            known_copies: self.known_copies.into_owned(),
            skip_owners: owners.map(OwnerPattern::into_owned).collect(),
            skip_labels: labels.map(LabelPattern::into_owned).collect(),
            when_not_mirrored: self.when_not_mirrored,
            when_unavailable: self.when_unavailable,
            when_backup_unavailable: self.when_backup_unavailable,
            pin_digest: self.pin_digest,
            time_budget: self.time_budget,
        }
    }
}

fn read_rules<'a>(reader: &mut Reader<'a>) -> Rules<'a> {
    let rules = reader.objects("rules", read_rule);
    let filter = reader.nested("images", |reader| ImageFilter {
        include: reader.list("include", IMAGE, &[], ImagePattern::parse),
        exclude: reader.list("exclude", IMAGE, &[], ImagePattern::parse),
    });
    let ImageFilter { include, exclude } = filter;
    if rules.is_empty() {
        return Rules::of_filters(include, exclude);
    }
    if !include.is_empty() || !exclude.is_empty() {
        reader.refuse_setting(
            "images",
            "cannot be combined with `rules`: write `images.exclude` as a rule with `action: keep`, and \
             `images.include` after it as a rule with `action: mirror` and a last rule `action: keep`",
        );
    }
    Rules::new(rules)
}

fn read_rule<'a>(reader: &mut Reader<'a>, index: usize) -> Option<Rule<'a>> {
    let namespaces = reader.limit("namespaces", NAMESPACE, NamespacePattern::parse);
    let images = reader.limit("images", IMAGE, ImagePattern::parse);
    let action = reader.required("action", ACTION, |action| {
        ["mirror", "rewrite", "keep"]
            .contains(&action)
            .then_some(action)
    });
    let backup = reader.optional("backup", BACKUP, None, |name| {
        Some(Some(BackupName::parse(name.as_str()?)?))
    });
    let target = reader.optional("target", TARGET, None, |target| {
        Some(Some(RewriteTarget::parse(target.as_str()?)?))
    });
    let (is_mirror, is_rewrite) = (action? == "mirror", action? == "rewrite");
    if backup.is_some() && !is_mirror {
        reader.refuse_setting("backup", "is only for `action: mirror`");
    }
    if target.is_some() && !is_rewrite {
        reader.refuse_setting("target", "is only for `action: rewrite`");
    }
    if is_rewrite && !reader.has("target") {
        reader.refuse_setting("target", "is required for `action: rewrite`");
    }
    let rule = Rule {
        position: Position::Rules(index),
        namespaces,
        images,
        action: match target {
            Some(target) => Action::Rewrite { target },
            None if is_mirror => Action::Mirror {
                backup: backup.unwrap_or(BackupName::DEFAULT),
            },
            None => Action::Keep,
        },
    };
    if is_rewrite && rule.registry().is_none() {
        reader.refuse_setting(
            "images",
            "must be of one registry for `action: rewrite`, such as `quay.io/*`: images of two could get the same name",
        );
    }
    Some(rule)
}

fn read_fallback(reader: &mut Reader<'_>, key: &'static str) -> Fallback {
    if read_choice(reader, key, "`keep` or `reject`", ["keep", "reject"]) {
        Fallback::Reject
    } else {
        Fallback::Keep
    }
}

fn read_failover(reader: &mut Reader<'_>) -> Failover {
    let key = "whenBackupUnavailable";
    if read_choice(reader, key, "`original` or `copy`", ["original", "copy"]) {
        Failover::Copy
    } else {
        Failover::Original
    }
}

/// Returns whether a setting has the second of two values, and not the first, its default.
fn read_choice(
    reader: &mut Reader<'_>,
    key: &'static str,
    wanted: &str,
    [first, second]: [&str; 2],
) -> bool {
    reader.optional(key, wanted, false, |value| {
        let value = value.as_str()?;
        (value == first || value == second).then(|| value == second)
    })
}

fn read_time_budget(reader: &mut Reader<'_>) -> Duration {
    let wanted = format!("a whole number of milliseconds from {MIN_BUDGET} to {MAX_BUDGET}");
    let budget = reader.optional("timeBudgetMs", &wanted, DEFAULT_BUDGET, |value| {
        value
            .as_u64()
            .filter(|budget| (MIN_BUDGET..=MAX_BUDGET).contains(budget))
    });
    Duration::from_millis(budget)
}
