//! What kind of registry a fake is.

use super::fault::Action;
use axum::body::Body;
use axum::http::{Method, Response};
use bytes::Bytes;
use std::sync::Arc;

/// The responses of another HTTP server to method, path, query and body.
pub type Other = Arc<dyn Fn(&Method, &str, &str, &Bytes) -> Response<Body> + Send + Sync>;

/// What is asked of clients.
#[derive(Clone, Default)]
pub enum Auth {
    /// Nothing.
    #[default]
    Open,
    /// A password with each request.
    Basic {
        /// The user.
        user: String,
        /// The password.
        password: String,
    },
    /// A token service in the same process; anonymous tokens unless a user is given.
    Bearer {
        /// User and password that the token service wants to see.
        user: Option<(String, String)>,
        /// The JSON value of `expires_in`.
        expires_in: &'static str,
    },
}

/// What `Location` of an upload looks like.
#[derive(Clone, Default)]
pub enum LocationStyle {
    /// A path.
    #[default]
    Relative,
    /// An `http` URL of this server, also when it is behind TLS.
    Absolute,
    /// A path with a query that must come back as it was.
    WithQuery,
    /// A path with a query that is another one after each step; only the newest is taken.
    Rotating,
    /// On this other server (`host:port`), by plain HTTP.
    Elsewhere(String),
    /// This scheme and authority in front of the path, such as `https://127.0.0.1:443`.
    Base(String),
}

/// What becomes of chunks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PatchStyle {
    /// They are appended (distribution-spec, "Pushing a blob in chunks").
    #[default]
    Appended,
    /// Only the first one counts, although every answer is a friendly 201: ECR does that.
    FirstOnly,
    /// They are refused with this status.
    Refused(u16),
}

/// What kind of registry it is. The default is one that follows the specification.
#[allow(
    clippy::struct_excessive_bools,
    reason = "registries differ in many ways that do not depend on each other"
)]
pub struct Knobs {
    /// What is asked of clients.
    pub auth: Auth,
    /// Users and passwords that [`Auth::Basic`] accepts as well.
    pub other_users: Vec<(String, String)>,
    /// `WWW-Authenticate` headers instead of the real one; `$REALM` stands for the token service's URL.
    pub challenges: Option<Vec<String>>,
    /// The token service's answer instead of the usual one; `$TOKEN` stands for the token.
    pub token_answer: Option<&'static str>,
    /// What a password or token that is not valid is answered with: 401, or 403 as ECR does.
    pub expired_status: u16,
    /// What `Location` of an upload looks like.
    pub location: LocationStyle,
    /// Whether blobs are mounted from other repositories.
    pub mount: bool,
    /// Whether `Range` is obeyed.
    pub ranges: bool,
    /// Whether pushed content is compared with its digest and manifests with what is there.
    pub verify: bool,
    /// Whether an index may name manifests that are not there.
    pub sparse: bool,
    /// What becomes of chunks.
    pub patch: PatchStyle,
    /// Largest body of a blob's PUT or PATCH in bytes; what is larger is answered with 413.
    pub max_body: usize,
    /// What `OCI-Chunk-Min-Length` says; a smaller chunk that is not the last one is refused.
    pub min_chunk: Option<usize>,
    /// Whether a request that could have a body must say its length; 411 otherwise.
    pub needs_length: bool,
    /// Status of a blob's closing PUT: 201, or another success as some registries give.
    pub put_status: u16,
    /// Whether there is a referrers API; without it no `OCI-Subject` either.
    pub referrers: bool,
    /// Entries on one page of tags or referrers.
    pub page: usize,
    /// Blobs are answered by a redirect to this server (`host:port`), with a signature that is good for one use.
    pub redirect_blobs: Option<String>,
    /// What requests to read from repositories without blobs are answered with, instead of 404.
    pub hides: Option<u16>,
    /// It is no registry: this makes the responses. Faults are the same.
    pub other: Option<Other>,
    /// Chooses the fault of each request that no other fault is for.
    pub fault: Option<Arc<dyn Fn() -> Option<Action> + Send + Sync>>,
    /// It is a store behind signed URLs: a request that carries `Authorization` is answered with 400, and one whose
    /// signature was used before with 403.
    pub signed: bool,
}

impl Default for Knobs {
    fn default() -> Self {
        Self {
            auth: Auth::default(),
            other_users: Vec::new(),
            challenges: None,
            token_answer: None,
            expired_status: 401,
            location: LocationStyle::default(),
            mount: true,
            ranges: true,
            verify: true,
            sparse: false,
            patch: PatchStyle::default(),
            max_body: usize::MAX,
            min_chunk: None,
            needs_length: false,
            put_status: 201,
            referrers: true,
            page: usize::MAX,
            redirect_blobs: None,
            hides: None,
            other: None,
            fault: None,
            signed: false,
        }
    }
}
