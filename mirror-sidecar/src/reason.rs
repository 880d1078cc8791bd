//! Reasons of failures, for users and for the operator.

/// The reason of a failure.
///
/// Users who may create Pods name images and read the results in warnings and Events. These must not reveal which addresses
/// and ports respond. The log has the detail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// One sentence for users.
    pub public: String,
    /// One sentence for the operator, without secrets.
    pub detail: String,
}

impl From<String> for Reason {
    /// A sentence for both.
    fn from(text: String) -> Self {
        Self {
            public: text.clone(),
            detail: text,
        }
    }
}

impl From<&str> for Reason {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}
