//! Why something could not be done, for two readers.

/// The reason of a failure.
///
/// Whoever may create a Pod names images and reads what became of them: in warnings of the policy and in Events. What these
/// show must not say which addresses and ports answer. The log has the detail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// For everybody, in one sentence.
    pub public: String,
    /// For the operator, in one sentence without secrets.
    pub detail: String,
}

impl From<String> for Reason {
    /// A sentence that everybody may read.
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
