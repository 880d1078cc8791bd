//! Which Secrets are there, and what of each is kept.

use rstest::rstest;
use serde_json::{Value, json};

use super::*;

fn seen(mut object: Value) -> Option<(Arc<str>, StoredSecret)> {
    object["metadata"]["name"] = json!("image-mirror-pull");
    let object: SecretObject = serde_json::from_value(object).unwrap();
    object.into_stored()
}

const CONFIG: &str = r#"{"auths":{"a.example":{"username":"u","password":"p","auth":"dTpw"}}}"#;

fn ours(config: &str, is_immutable: bool) -> State {
    State::Ours {
        held: HeldLogins::of(config.as_bytes()),
        is_immutable,
    }
}

#[rstest]
#[case::as_made(json!({}), ours(CONFIG, false))]
#[case::immutable(json!({"immutable": true}), ours(CONFIG, true))]
#[case::not_base64(json!({"data": {KEY: "%"}}), ours("", false))]
#[case::odd_data(json!({"data": ["e30="]}), ours("", false))]
#[case::empty(json!({"data": null}), ours("", false))]
#[case::other_type(json!({"type": "Opaque"}), State::WrongType)]
#[case::no_label(json!({"metadata": {"namespace": "shop", "labels": null}}), State::Foreign)]
#[case::other_label(json!({"metadata": {"namespace": "shop", "labels": {LABEL: "Helm"}}}), State::Foreign)]
fn states(#[case] changes: Value, #[case] state: State) {
    let mut object = json!({
        "metadata": { "namespace": "shop", "uid": "u", "resourceVersion": "7", "labels": { LABEL: MANAGER } },
        "type": TYPE,
        "data": { KEY: STANDARD.encode(CONFIG) },
    });
    for (name, value) in changes.as_object().unwrap() {
        object[name] = value.clone();
    }
    let (namespace, seen) = seen(object).unwrap();
    assert_eq!((&*namespace, seen.state), ("shop", state));
}

#[test]
fn one_that_is_being_deleted_is_known_by_its_time() {
    let object = json!({
        "metadata": { "namespace": "shop", "labels": { LABEL: MANAGER }, "deletionTimestamp": "2026-01-01T00:00:00Z" },
        "type": TYPE,
    });
    assert_eq!(seen(object).unwrap().1.state, State::Leaving);
}

fn named(uid: &str) -> StoredSecret {
    StoredSecret {
        version: Version {
            uid: uid.into(),
            resource_version: "7".into(),
        },
        state: State::Foreign,
    }
}

#[test]
fn a_list_forgets_what_it_does_not_tell_but_not_what_was_made_meanwhile() {
    let mut cache = Cache::default();
    cache.begin();
    cache.insert("gone".into(), named("a"));
    cache.insert("stays".into(), named("b"));
    cache.end();
    assert!(cache.is_listed());
    cache.begin();
    cache.insert("made".into(), named("c"));
    cache.insert("stays".into(), named("b"));
    assert_eq!(cache.namespaces().count(), 3);
    cache.end();
    assert_eq!(
        cache.namespaces().map(|name| &**name).collect::<Vec<_>>(),
        ["made", "stays"]
    );
}

#[test]
fn the_time_without_a_need_begins_when_nothing_can_be_missed() {
    let (mut cache, start) = (Cache::default(), Instant::now());
    cache.insert("shop".into(), named("a"));
    let expires = |cache: &Cache| cache.get("shop").unwrap().expires();
    cache.record_needs(&BTreeSet::new(), start);
    let later = start + Duration::from_mins(30);
    cache.record_needs(&BTreeSet::new(), later);
    assert_eq!(expires(&cache), Some(start + IDLE_FOR));
    cache.doubt_needs();
    assert_eq!(expires(&cache), None);
    cache.record_needs(&BTreeSet::new(), later);
    assert_eq!(expires(&cache), Some(later + IDLE_FOR));
    cache.record_needs(&BTreeSet::from(["shop".into()]), later);
    assert_eq!(expires(&cache), None);
}

#[test]
fn the_end_of_a_predecessor_is_not_the_end_of_its_successor() {
    let mut cache = Cache::default();
    cache.insert("shop".into(), named("new"));
    cache.remove("shop", "old");
    assert!(cache.get("shop").is_some());
    cache.remove("shop", "new");
    assert!(cache.get("shop").is_none());
}
