//! The limits of a port, and its share of the file descriptors.

use std::time::Duration;

/// Timeout of the TLS handshake, the first headers and the authentication together. Kubewarden's host needs three round
/// trips.
const AUTHENTICATE_WITHIN: Duration = Duration::from_secs(2);

/// Timeout for a peer that does not read.
const WRITE_STALL: Duration = Duration::from_secs(2);

/// Bytes that a peer may send before it has authenticated, including TLS. The host's handshake and its two requests have
/// less than 4 KiB; rustls alone would buffer up to 64 KiB of a handshake.
const UNAUTHENTICATED_BYTES: usize = 16 * 1024;

/// Responses with status 401 in a row after which a connection is closed. The host gets one before each query.
const UNAUTHORIZED_RESPONSES: usize = 4;

/// File descriptors reserved for copies, watches of the API server, and files.
const RESERVED_DESCRIPTORS: usize = 320;

/// The usual soft limit, for systems where it cannot be read.
const DEFAULT_DESCRIPTORS: usize = 1024;

/// The limits of a port.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open connections.
    pub(super) connections: usize,
    /// Open connections of one peer that have not authenticated.
    pub(super) unauthenticated_per_peer: usize,
    /// Time from the accept to the first authenticated request. `None` on a port without authentication.
    pub(super) authenticate_within: Option<Duration>,
    /// Bytes read before authentication.
    pub(super) unauthenticated_bytes: usize,
    /// Responses with status 401 in a row.
    pub(super) unauthorized_responses: usize,
    /// Time for the headers of a request; also ends idle connections.
    pub(super) headers: Duration,
    /// Time without progress in sending a response.
    pub(super) write_stall: Duration,
    /// Age at which a connection is closed.
    pub(super) age: Duration,
    pub(super) keep_alive: bool,
}

impl Limits {
    /// The limits of the facade. Each replica of the policy server needs a few connections: it opens one for each query and
    /// sends one query at a time. The rest is room for peers that never authenticate.
    pub fn facade() -> Self {
        let connections = for_connections(open_files()).min(1024);
        Self {
            connections,
            unauthenticated_per_peer: (connections / 2).max(1),
            authenticate_within: Some(AUTHENTICATE_WITHIN),
            unauthenticated_bytes: UNAUTHENTICATED_BYTES,
            unauthorized_responses: UNAUTHORIZED_RESPONSES,
            headers: Duration::from_secs(10),
            write_stall: WRITE_STALL,
            age: Duration::from_secs(30),
            keep_alive: true,
        }
    }

    /// The limits of the admin port, which has no authentication. A connection serves one short request, so the oldest one,
    /// which is evicted first, is never that of a probe.
    pub fn admin() -> Self {
        Self {
            connections: MAX_ADMIN_CONNECTIONS,
            unauthenticated_per_peer: MAX_ADMIN_CONNECTIONS / 2,
            authenticate_within: None,
            unauthenticated_bytes: UNAUTHENTICATED_BYTES,
            unauthorized_responses: UNAUTHORIZED_RESPONSES,
            headers: Duration::from_secs(2),
            write_stall: WRITE_STALL,
            age: Duration::from_secs(10),
            keep_alive: false,
        }
    }
}

/// Open connections of the admin port: probes, scrapers, and room for peers that never send a request.
const MAX_ADMIN_CONNECTIONS: usize = 128;

/// Returns the file descriptors for the facade.
fn for_connections(descriptors: usize) -> usize {
    descriptors
        .saturating_sub(RESERVED_DESCRIPTORS + MAX_ADMIN_CONNECTIONS)
        .max(16)
}

/// The soft limit of open files of this process (proc(5), `/proc/pid/limits`).
fn open_files() -> usize {
    std::fs::read_to_string("/proc/self/limits")
        .ok()
        .and_then(|limits| soft_limit(&limits))
        .unwrap_or(DEFAULT_DESCRIPTORS)
}

fn soft_limit(limits: &str) -> Option<usize> {
    let values = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    match values.split_whitespace().next()? {
        "unlimited" => Some(usize::MAX),
        number => number.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(
        "Limit  Soft Limit  Hard Limit  Units\nMax processes  5  5  processes\nMax open files            1024                 524288               files\n",
        Some(1024)
    )]
    #[case(
        "Max open files            unlimited            unlimited            files",
        Some(usize::MAX)
    )]
    #[case("Max open files", None)]
    #[case("", None)]
    fn the_soft_limit_is_read(#[case] limits: &str, #[case] limit: Option<usize>) {
        assert_eq!(soft_limit(limits), limit);
    }

    #[test]
    fn connections_leave_descriptors_for_everything_else() {
        assert_eq!(for_connections(1024), 576);
        assert_eq!(for_connections(64), 16);
    }
}
