//! Why the backup registry cannot be used.

/// Why the backup registry cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What sort of trouble it is.
    pub kind: TroubleKind,
    /// The error, without secrets.
    pub reason: String,
}

/// What sort of trouble there is with the backup registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TroubleKind {
    /// It does not respond, or not as a registry does.
    Unavailable,
    /// Its certificate is not accepted.
    Certificate,
    /// It refuses the login.
    Login,
    /// It accepts the login and denies uploads.
    Uploads,
}
