//! The connections to one host.

/// Which connections a request uses.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Pool {
    /// Metadata: HTTP/2 where possible.
    Small,
    /// Blob content: HTTP/1.1, a connection each.
    Bulk,
}
