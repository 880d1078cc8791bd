//! Reads fields of JSON objects that anybody may have written.
//!
//! A watch that fails at an object fails at it again after each restart, and an object that is skipped would look deleted. So
//! a field of another type than expected counts as absent, and nothing here can fail. The objects have passed
//! [`JsonFilter`](super::json_filter::JsonFilter), which bounds their size.

use std::sync::{Mutex, MutexGuard, PoisonError};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;

/// Waits for the only permit to parse an object, which is held until the values are dropped: those of one object take up to
/// 10 MiB, whatever its author does. For synchronous code without another permit only.
pub(super) fn parse_permit() -> MutexGuard<'static, ()> {
    static PERMIT: Mutex<()> = Mutex::new(());
    PERMIT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the value of a field, `null` if there is none.
pub(super) fn field<'a>(object: &'a Value, name: &str) -> &'a Value {
    object.get(name).unwrap_or(&Value::Null)
}

/// Returns the string in a field, empty if there is none.
pub(super) fn text<'a>(object: &'a Value, name: &str) -> &'a str {
    field(object, name).as_str().unwrap_or_default()
}

/// Returns whether a field is `true`.
pub(super) fn flag(object: &Value, name: &str) -> bool {
    field(object, name) == &Value::Bool(true)
}

/// Returns the elements of the list in a field, none if there is no list.
pub(super) fn list<'a>(object: &'a Value, name: &str) -> &'a [Value] {
    let list = field(object, name).as_array();
    list.map(Vec::as_slice).unwrap_or_default()
}

/// Returns the part of an object's metadata that watches need.
pub(super) fn object_meta(object: &Value) -> ObjectMeta {
    let metadata = field(object, "metadata");
    let present = |name| Some(text(metadata, name).to_owned()).filter(|text| !text.is_empty());
    ObjectMeta {
        name: present("name"),
        namespace: present("namespace"),
        resource_version: present("resourceVersion"),
        ..ObjectMeta::default()
    }
}
