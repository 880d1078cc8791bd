//! The admission request, as far as the policy needs it (`AdmissionRequest` of `admission.k8s.io/v1`).
//!
//! The objects stay unparsed text: most requests are decided without looking into them.

use std::cell::OnceCell;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// What the host hands to `validate`.
#[derive(Deserialize)]
pub struct Payload<'a> {
    #[serde(borrow, default)]
    pub settings: Option<&'a RawValue>,
    #[serde(borrow)]
    pub request: Request<'a>,
}

/// The request.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request<'a> {
    #[serde(default)]
    pub uid: String,
    pub kind: Kind,
    #[serde(default)]
    pub sub_resource: Option<String>,
    pub operation: Operation,
    /// `None` for what is not in a namespace.
    #[serde(default)]
    pub namespace: Option<String>,
    /// `None` for what gets its name from the API server.
    #[serde(default)]
    pub name: Option<String>,
    #[serde(default)]
    pub dry_run: Option<bool>,
    #[serde(borrow, default)]
    pub object: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub old_object: Option<&'a RawValue>,
}

/// The object that a request replaces, read when somebody asks for it.
///
/// Unreadable is as good as missing: then nothing is known to have changed.
pub struct OldObject<'a> {
    text: Option<&'a RawValue>,
    value: OnceCell<Option<Value>>,
}

impl Request<'_> {
    /// What the request replaces.
    pub fn old_object(&self) -> OldObject<'_> {
        OldObject {
            text: self.old_object,
            value: OnceCell::new(),
        }
    }
}

impl OldObject<'_> {
    /// The object, if there is one.
    pub fn get(&self) -> Option<&Value> {
        let read = || serde_json::from_str(self.text?.get()).ok();
        self.value.get_or_init(read).as_ref()
    }
}

/// The type of the object.
#[derive(Deserialize)]
pub struct Kind {
    #[serde(default)]
    pub group: String,
    pub kind: String,
}

/// What is about to happen to the object.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Operation {
    #[serde(rename = "CREATE")]
    Create,
    #[serde(rename = "UPDATE")]
    Update,
    #[serde(other)]
    Other,
}
