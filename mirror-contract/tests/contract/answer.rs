//! Answers survive their way through annotations, refusals through the texts of the host.

use std::collections::BTreeMap;

use mirror_contract::{Digest, ImageRef, ImageStatus, PullSecretStatus, Refusal, RefusalKind};
use proptest::prelude::*;
use rstest::rstest;

const SHA256: &str = "sha256:4cb2b9019f1757be8482419002cb7afe028fdba35d47958829e4cfeaf6246d80";

fn image_round_trip(answer: &ImageStatus<'_>) {
    let annotations: BTreeMap<_, _> = answer.annotations().into_iter().collect();
    let read = ImageStatus::from_annotations(|key| annotations.get(key).map(String::as_str));
    assert_eq!(read.as_ref(), Some(answer));
}

#[rstest]
#[case::tag("localhost:5000/acme/docker.io-library-nginx:1.27".to_owned())]
#[case::digest(format!("ghcr.io/acme/docker.io-library-nginx@{SHA256}"))]
#[case::digest_with_port(format!("localhost:5000/nginx@{SHA256}"))]
fn mirrored_survives(
    #[case] copy: String,
    #[values(None, Some("image-mirror-pull"))] secret: Option<&str>,
) {
    image_round_trip(&ImageStatus::Mirrored {
        image: ImageRef::parse(&copy).unwrap(),
        digest: Digest::parse(SHA256).unwrap(),
        secret: secret.map(Into::into),
    });
}

#[test]
fn the_other_answers_survive() {
    image_round_trip(&ImageStatus::Excluded {
        reason: "not wanted".into(),
    });
    let secrets: [Option<std::borrow::Cow<'static, str>>; 2] =
        [None, Some("image-mirror-pull".into())];
    for secret in secrets {
        for (is_former, is_unavailable) in [(false, false), (true, false), (false, true)] {
            image_round_trip(&ImageStatus::InBackup {
                secret: secret.clone(),
                is_former,
                is_unavailable,
            });
        }
    }
    image_round_trip(&ImageStatus::Original {
        digest: Digest::parse(SHA256).unwrap(),
    });
    for answer in [
        PullSecretStatus::NotNeeded,
        PullSecretStatus::Ready {
            name: "image-mirror-pull".into(),
        },
    ] {
        let annotations: BTreeMap<_, _> = answer.annotations().into_iter().collect();
        let read =
            PullSecretStatus::from_annotations(|key| annotations.get(key).map(String::as_str));
        assert_eq!(read, Some(answer));
    }
}

#[rstest]
#[case::no_state(&[])]
#[case::unknown_state(&[("state", "maybe")])]
#[case::no_digest(&[("state", "mirrored"), ("image", "ghcr.io/a:1")])]
#[case::bad_digest(&[("state", "mirrored"), ("image", "ghcr.io/a:1"), ("digest", "sha256:1")])]
#[case::original_without_digest(&[("state", "original")])]
#[case::no_image(&[("state", "mirrored"), ("digest", SHA256)])]
#[case::bad_image(&[("state", "mirrored"), ("image", "UPPER"), ("digest", SHA256)])]
#[case::the_other_kind(&[("state", "ready"), ("secret", "x")])]
fn nonsense_is_no_answer(#[case] annotations: &[(&str, &'static str)]) {
    let get = |key: &str| {
        annotations
            .iter()
            .find(|(name, _)| key == format!("image-mirror.dev/{name}"))
            .map(|&(_, value)| value)
    };
    assert_eq!(ImageStatus::from_annotations(get), None);
}

/// The policy writes the name into workloads, warnings and audit logs.
#[rstest]
#[case::a_label("image-mirror-pull", true)]
#[case::labels("pull.image-mirror.2", true)]
#[case::longest(&"a".repeat(253), true)]
#[case::too_long(&"a".repeat(254), false)]
#[case::empty("", false)]
#[case::upper_case("Pull", false)]
#[case::several_lines("pull\nsecret", false)]
#[case::steering_a_terminal("\u{1b}[31m", false)]
fn a_secret_has_the_name_of_one(#[case] name: &str, #[case] is_answer: bool) {
    let get = |key: &str| match key {
        "image-mirror.dev/state" => Some("ready"),
        "image-mirror.dev/secret" => Some(name),
        _ => None,
    };
    assert_eq!(PullSecretStatus::from_annotations(get).is_some(), is_answer);
}

/// The texts in which the host wraps an OCI error's message.
#[rstest]
#[case::envelope(
    "Host error: Callback evaluation failure: Fail to interact with OCI registry: Registry error: url https://localhost:5701/v2/tag/docker.io/library/nginx/manifests/1, envelope: OCI API errors: [OCI API error: {}]\n\nCaused by:\n    Registry error: url https://localhost:5701/, envelope: OCI API errors: [OCI API error: {}]\n\nStack backtrace:\n   0: anyhow::error"
)]
#[case::raw_body(
    "Server error: url https://h/v2/, code: 429, message: {\"errors\":[{\"code\":\"TOOMANYREQUESTS\",\"message\":\"{}\"}]}"
)]
#[case::bare("{}")]
fn a_refusal_is_found_in_any_wrapping(#[case] wrapping: &str) {
    for kind in [
        RefusalKind::Pending,
        RefusalKind::Failed,
        RefusalKind::Unavailable,
    ] {
        let refusal = Refusal::new(kind, "copying, 3 of 7 blobs");
        let text = wrapping.replace("{}", &refusal.to_string());
        assert_eq!(Refusal::find(&text), Some(refusal));
    }
}

#[test]
fn other_errors_are_no_refusal() {
    assert_eq!(
        Refusal::find("client error (Connect): Connection refused"),
        None
    );
}

#[test]
fn a_reason_is_one_short_line() {
    let refusal = Refusal::new(
        RefusalKind::Failed,
        &format!("a \"b\" [c]\nd {}", "x".repeat(1000)),
    );
    assert!(refusal.reason.starts_with("a 'b' (c) d xxx"));
    assert_eq!(refusal.reason.chars().count(), 200);
    let words = Refusal::new(RefusalKind::Failed, &"word ".repeat(100));
    assert!(words.reason.ends_with("word …"), "{words}");
    assert!(words.reason.chars().count() <= 200, "{words}");
}

proptest! {
    #[test]
    fn any_reason_survives_as_written(reason in any::<String>()) {
        let refusal = Refusal::new(RefusalKind::Failed, &reason);
        let text = format!("x: [OCI API error: {refusal}]\n\nCaused by: y");
        let found = Refusal::find(&text).unwrap();
        prop_assert_eq!(found.kind, RefusalKind::Failed);
        prop_assert_eq!(found.reason, refusal.reason.trim());
    }

    #[test]
    fn no_error_text_panics(text in any::<String>()) {
        let _ = Refusal::find(&text);
        let _ = Refusal::find(&format!("image-mirror/failed:{text}"));
    }
}
