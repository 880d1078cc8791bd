//! Findings about one image: what is wrong with its copy, and what an operator should know.

use mirror_copy::{Damage, DamageKind, Digest};
use serde::Serialize;

use super::inspection::{Anchor, CopyState, Inspection, Original};
use super::items::Item;
use crate::locations::anchor;

const REPAIR: &str = "run again with --repair";

/// A finding. It is a problem unless its kind is a notice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) kind: Kind,
    /// The digest or the tag that it is about.
    pub(super) object: String,
    /// What was found, as the end of a sentence about the object.
    pub(super) detail: String,
    pub(super) next_step: String,
    /// The result of --repair.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) repaired: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    MissingCopy,
    MissingManifest,
    MissingBlob,
    WrongSize,
    WrongDigest,
    UnparsableManifest,
    Unreadable,
    MissingAnchor,
    /// The tag stands for another digest than its anchor.
    MovedTag,
    /// Notice: the tag of the original stands for another image by now.
    Drift,
    /// Notice: the original is gone.
    LastCopy,
    /// Notice: the original lacks this part as well.
    IncompleteOriginal,
}

impl Kind {
    pub(super) const fn is_notice(self) -> bool {
        matches!(
            self,
            Self::Drift | Self::LastCopy | Self::IncompleteOriginal
        )
    }

    /// The words of the table.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::MissingCopy => "missing copy",
            Self::MissingManifest => "missing manifest",
            Self::MissingBlob => "missing blob",
            Self::WrongSize => "wrong size",
            Self::WrongDigest => "wrong digest",
            Self::UnparsableManifest => "unparsable manifest",
            Self::Unreadable => "unreadable",
            Self::MissingAnchor => "missing anchor",
            Self::MovedTag => "moved tag",
            Self::Drift => "drift",
            Self::LastCopy => "last copy",
            Self::IncompleteOriginal => "incomplete original",
        }
    }

    const fn of(damage: &DamageKind) -> Self {
        match damage {
            DamageKind::MissingManifest => Self::MissingManifest,
            DamageKind::MissingBlob => Self::MissingBlob,
            DamageKind::WrongSize { .. } => Self::WrongSize,
            DamageKind::WrongDigest { .. } => Self::WrongDigest,
            DamageKind::UnparsableManifest { .. } => Self::UnparsableManifest,
            _ => Self::Unreadable,
        }
    }
}

impl Finding {
    fn new(kind: Kind, object: String, detail: String, next_step: impl Into<String>) -> Self {
        Self {
            kind,
            object,
            detail,
            next_step: next_step.into(),
            repaired: None,
        }
    }

    pub(super) fn is_open_problem(&self) -> bool {
        !self.kind.is_notice() && self.repaired != Some(true)
    }

    /// Returns whether two findings are about the same problem, before and after a repair.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        (self.kind, &self.object) == (other.kind, &other.object)
    }
}

/// Returns everything that was found, problems first.
pub(super) fn findings(item: &Item, inspection: &Inspection) -> Vec<Finding> {
    let original = &inspection.original;
    let mut findings = Vec::new();
    match &inspection.copy {
        CopyState::Missing => findings.push(missing(item, original)),
        CopyState::Unusable(reason) => findings.push(Finding::new(
            Kind::UnparsableManifest,
            tag_of(item),
            reason.clone(),
            step(original),
        )),
        CopyState::Found {
            root,
            anchor,
            verified,
        } => {
            let damage = verified.damage.iter();
            findings.extend(damage.map(|damage| of_damage(damage, inspection)));
            findings.extend(of_anchor(item, root, anchor, inspection));
        }
    }
    findings.extend(notice(item, inspection));
    findings.sort_by_key(|finding| finding.kind.is_notice());
    findings
}

fn missing(item: &Item, original: &Original) -> Finding {
    let next_step = match original {
        Original::Gone(_) => {
            "the original is gone as well: push the image again, or deploy another one"
        }
        _ => REPAIR,
    };
    let detail = "the backup has no copy".to_owned();
    Finding::new(Kind::MissingCopy, tag_of(item), detail, next_step)
}

fn of_damage(damage: &Damage, inspection: &Inspection) -> Finding {
    let object = damage.digest.to_string();
    if inspection.lacked_by_original.contains(&damage.digest) {
        let detail = "the original lacks it as well".to_owned();
        return Finding::new(Kind::IncompleteOriginal, object, detail, "none");
    }
    let detail = match &damage.parent {
        _ if damage.is_of_referrer => format!("{} (of a referrer)", damage.kind),
        Some(parent) => format!("{} (named by {parent})", damage.kind),
        None => damage.kind.to_string(),
    };
    let next_step = step(&inspection.original);
    Finding::new(Kind::of(&damage.kind), object, detail, next_step)
}

fn of_anchor(
    item: &Item,
    root: &Digest,
    anchor_state: &Anchor,
    inspection: &Inspection,
) -> Option<Finding> {
    let anchor_tag = anchor(root);
    match (anchor_state, &inspection.original) {
        (Anchor::Right | Anchor::NotExpected, _) => None,
        (Anchor::Other(digest), _) => Some(Finding::new(
            Kind::MovedTag,
            anchor_tag,
            format!("the anchor tag stands for {digest}"),
            format!("{REPAIR}, and find out what writes to this repository besides mirror-sidecar"),
        )),
        (Anchor::Missing, Original::Is(original)) if inspection.original_is_anchored => {
            let tag = tag_of(item);
            Some(Finding::new(
                Kind::MovedTag,
                tag.clone(),
                format!(
                    "the tag stands for {root}, which has no anchor; that of {original} has one"
                ),
                format!(
                    "find out what moved the tag {tag}; delete the tag, and run again with --repair"
                ),
            ))
        }
        (Anchor::Missing, _) => Some(Finding::new(
            Kind::MissingAnchor,
            anchor_tag,
            format!("nothing but the tag protects {root} from clean-up rules"),
            REPAIR,
        )),
    }
}

fn notice(item: &Item, inspection: &Inspection) -> Option<Finding> {
    let CopyState::Found { root, verified, .. } = &inspection.copy else {
        return None;
    };
    // A damaged copy is nothing to keep.
    let is_whole = verified.damage.iter().all(|damage| damage.is_of_referrer);
    match &inspection.original {
        Original::Is(original) if original != root && !inspection.original_is_anchored => {
            Some(Finding::new(
                Kind::Drift,
                root.to_string(),
                format!("the tag of the original stands for {original} by now"),
                "none: mirror-sidecar updates the copy with its next re-check, unless --on-moved-tag is keep",
            ))
        }
        Original::Gone(reason) if is_whole => Some(Finding::new(
            Kind::LastCopy,
            root.to_string(),
            format!("{}: {reason}", item.name()),
            "keep this copy, and plan to replace the image",
        )),
        _ => None,
    }
}

fn step(original: &Original) -> &'static str {
    match original {
        Original::Gone(_) => "the original is gone: push the image again, or deploy another one",
        _ => REPAIR,
    }
}

/// The tag of the copy, or its digest.
fn tag_of(item: &Item) -> String {
    match item.digest() {
        Some(digest) => digest.to_string(),
        None => item.tag().unwrap_or_default().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use mirror_copy::Verified;
    use rstest::rstest;

    use super::*;

    fn digest(number: u8) -> Digest {
        format!("sha256:{number:064x}").parse().unwrap()
    }

    fn damage(kind: DamageKind) -> Damage {
        Damage {
            digest: digest(7),
            parent: Some(digest(1)),
            kind,
            is_of_referrer: false,
        }
    }

    fn kinds(anchor: Anchor, damage: Vec<Damage>, original: Original) -> Vec<Kind> {
        let item = Item {
            original: Some("nginx:1".parse().unwrap()),
            copy: "registry.example/acme/docker.io-library-nginx:1"
                .parse()
                .unwrap(),
            is_copy: true,
        };
        let original_is_anchored = original == Original::Is(digest(3));
        let inspection = Inspection {
            copy: CopyState::Found {
                root: digest(1),
                anchor,
                verified: Verified {
                    damage,
                    ..Verified::default()
                },
            },
            original,
            original_is_anchored,
            lacked_by_original: [digest(9)].into(),
        };
        let findings = findings(&item, &inspection);
        assert!(findings.iter().all(|finding| !finding.next_step.is_empty()));
        findings.iter().map(|finding| finding.kind).collect()
    }

    /// The digest 1 is that of the copy; the backup has an anchor for 3.
    #[rstest]
    #[case::good(Anchor::Right, Original::Is(digest(1)), &[])]
    #[case::offline(Anchor::Right, Original::NotChecked, &[])]
    #[case::drift(Anchor::Right, Original::Is(digest(2)), &[Kind::Drift])]
    #[case::last(Anchor::Right, Original::Gone("404".into()), &[Kind::LastCopy])]
    #[case::unreachable(Anchor::Right, Original::Unreachable("x".into()), &[])]
    #[case::no_anchor(Anchor::Missing, Original::Is(digest(1)), &[Kind::MissingAnchor])]
    #[case::drift_without_anchor(
        Anchor::Missing,
        Original::Is(digest(2)),
        &[Kind::MissingAnchor, Kind::Drift]
    )]
    #[case::moved(Anchor::Missing, Original::Is(digest(3)), &[Kind::MovedTag])]
    #[case::moved_anchor(Anchor::Other(digest(4)), Original::Is(digest(1)), &[Kind::MovedTag])]
    #[case::no_copy_of_ours(Anchor::NotExpected, Original::NotChecked, &[])]
    fn tags_and_anchors(
        #[case] anchor: Anchor,
        #[case] original: Original,
        #[case] expected: &[Kind],
    ) {
        assert_eq!(kinds(anchor, Vec::new(), original), expected);
    }

    #[test]
    fn a_part_that_the_original_lacks_is_a_notice() {
        let lacked = Damage {
            digest: digest(9),
            ..damage(DamageKind::MissingBlob)
        };
        let missing = damage(DamageKind::MissingManifest);
        let found = kinds(
            Anchor::Right,
            vec![lacked, missing],
            Original::Is(digest(1)),
        );
        assert_eq!(found, [Kind::MissingManifest, Kind::IncompleteOriginal]);
    }
}
