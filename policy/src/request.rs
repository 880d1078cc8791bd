//! The admission request, as far as the policy needs it (`AdmissionRequest` of `admission.k8s.io/v1`).
//!
//! The objects stay unparsed text: most requests are decided without looking into them.

use serde::Deserialize;
use serde_json::value::RawValue;

/// What the host hands to `validate`.
#[derive(Deserialize)]
pub struct Payload<'a> {
    #[serde(borrow, default)]
    pub settings: Option<&'a RawValue>,
    #[serde(borrow)]
    pub request: Request<'a>,
}

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
