//! What a fake holds, and its log.

use super::fault::{Action, Fault};
use super::knobs::Knobs;
use crate::server::connection::Closing;
use axum::http::{HeaderMap, Method, Version};
use bytes::{Bytes, BytesMut};
use std::collections::{HashMap, HashSet};
use std::time::Instant;

/// What a request looked like, and what was answered.
#[derive(Clone, Debug)]
pub struct Entry {
    /// HTTP method.
    pub method: Method,
    /// HTTP version.
    pub version: Version,
    /// Path, without the query.
    pub path: String,
    /// Query, without the question mark; empty if there was none.
    pub query: String,
    /// All headers.
    pub headers: HeaderMap,
    /// The `Authorization` header.
    pub authorization: Option<String>,
    /// The `Range` header.
    pub range: Option<String>,
    /// The body of a call to the token service; empty for all others.
    pub body: String,
    /// Bytes of the body that came.
    pub length: usize,
    /// The status of the answer; 0 while there is none.
    pub status: u16,
    /// When it came.
    pub at: Instant,
}

/// An open upload session.
#[derive(Clone, Debug, Default)]
pub struct Upload {
    /// What came so far.
    pub content: BytesMut,
    /// Chunks that came so far, also those that were not kept.
    pub chunks: usize,
    /// Whether the last chunk was smaller than chunks may be: then it must have been the last one.
    pub was_small: bool,
}

/// What it holds. Keys are repository and digest, or repository and tag.
#[derive(Default)]
pub struct State {
    /// Content by repository and digest.
    pub blobs: HashMap<(String, String), Bytes>,
    /// Media type and bytes by repository and digest.
    pub manifests: HashMap<(String, String), (String, Bytes)>,
    /// Digests by repository and tag.
    pub tags: HashMap<(String, String), String>,
    /// Open upload sessions.
    pub sessions: HashMap<String, Upload>,
    /// How many sessions were opened so far.
    pub next_session: usize,
    /// Valid tokens and the scopes that they grant.
    pub tokens: HashMap<String, Vec<String>>,
    /// How many tokens were given out.
    pub tokens_made: usize,
    /// What kind of registry it is.
    pub knobs: Knobs,
    /// Every request, in order.
    pub log: Vec<Entry>,
    /// How many signatures were made for redirects.
    pub(super) signatures_made: usize,
    /// Signatures that were used.
    pub(super) signatures_used: HashSet<String>,
    pub(super) faults: Vec<Fault>,
    /// Closes the listener, where that is possible.
    pub(super) closing: Option<Closing>,
}

impl State {
    /// The fault for this request, used up by one.
    pub(super) fn fault(&mut self, method: &Method, path_and_query: &str) -> Option<Action> {
        let mut faults = self.faults.iter_mut();
        match faults.find(|fault| fault.concerns(method, path_and_query)) {
            Some(fault) => {
                fault.left -= 1;
                Some(fault.action.clone())
            }
            None => self.knobs.fault.as_ref()?(),
        }
    }
}
