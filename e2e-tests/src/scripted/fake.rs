//! The fake registry's state, its knobs and its log.

use super::handlers;
use super::images::{Image, digest_of};
use axum::http::Method;
use bytes::Bytes;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;
use tokio::net::TcpListener;

/// What a request looked like, and what was answered.
#[derive(Clone, Debug)]
pub struct Entry {
    /// HTTP method.
    pub method: Method,
    /// Path, without the query.
    pub path: String,
    /// Query, without the question mark; empty if there was none.
    pub query: String,
    /// The `Authorization` header.
    pub authorization: Option<String>,
    /// The `Range` header.
    pub range: Option<String>,
    /// The body of a call to the token service; empty for all others.
    pub body: String,
    /// The status of the answer; 0 while there is none.
    pub status: u16,
    /// When it came.
    pub at: Instant,
}

/// How a request goes wrong.
#[derive(Clone, Debug)]
pub enum Action {
    /// This status, headers and body instead of the real answer.
    Status(u16, Vec<(&'static str, String)>, &'static str),
    /// The body breaks off after so many bytes.
    Cut(usize),
    /// The first byte of the body is another.
    Corrupt,
    /// No Content-Length, and this many bytes more (or less) at the end.
    Resize(isize),
    /// Without this header.
    Without(&'static str),
    /// With this header.
    With(&'static str, String),
    /// The request's body is not read; the status comes at once.
    Early(u16),
    /// Never answers.
    Hang,
}

struct Fault {
    method: Method,
    path_part: String,
    left: usize,
    action: Action,
}

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
    /// An `http` URL of this server.
    Absolute,
    /// A path with a query that must come back as it was.
    WithQuery,
    /// On this other server.
    Elsewhere(String),
}

/// What kind of registry it is. The default is one that follows the specification.
pub struct Knobs {
    /// What is asked of clients.
    pub auth: Auth,
    /// What `Location` of an upload looks like.
    pub location: LocationStyle,
    /// Whether blobs are mounted from other repositories.
    pub mount: bool,
    /// Whether `Range` is obeyed.
    pub ranges: bool,
    /// Whether pushed content is compared with its digest and manifests with what is there.
    pub verify: bool,
}

impl Default for Knobs {
    fn default() -> Self {
        Self {
            auth: Auth::default(),
            location: LocationStyle::default(),
            mount: true,
            ranges: true,
            verify: true,
        }
    }
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
    pub sessions: HashSet<String>,
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
    faults: Vec<Fault>,
}

impl State {
    /// The fault for this request, used up by one.
    pub(super) fn fault(&mut self, method: &Method, path_and_query: &str) -> Option<Action> {
        let fault = self.faults.iter_mut().find(|fault| {
            fault.left > 0 && fault.method == *method && path_and_query.contains(&fault.path_part)
        })?;
        fault.left -= 1;
        Some(fault.action.clone())
    }
}

/// A running registry. Stops with the test's runtime.
#[derive(Clone)]
pub struct Fake {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Fake {
    /// Starts one on a free port of loopback.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port of loopback is free");
        let fake = Self {
            address: listener.local_addr().expect("it is bound"),
            state: Arc::default(),
        };
        let router = handlers::router(fake.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        fake
    }

    /// A registry whose connections somebody else accepts.
    #[must_use]
    pub fn unserved(address: SocketAddr) -> (Self, axum::Router) {
        let fake = Self {
            address,
            state: Arc::default(),
        };
        let router = handlers::router(fake.clone());
        (fake, router)
    }

    /// `127.0.0.1:port`, as image references name it.
    #[must_use]
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// What it holds, locked: do not keep it across an `await`.
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("no test panicked while it held the state")
    }

    /// Makes it another kind of registry.
    pub fn set(&self, change: impl FnOnce(&mut Knobs)) -> &Self {
        change(&mut self.state().knobs);
        self
    }

    /// The next `times` requests with this method and this piece of path or query go wrong.
    pub fn fault(&self, method: Method, path_part: &str, times: usize, action: Action) {
        let path_part = path_part.to_owned();
        self.state().faults.push(Fault {
            method,
            path_part,
            left: times,
            action,
        });
    }

    /// Puts a blob into a repository.
    pub fn put_blob(&self, repository: &str, content: &Bytes) {
        let key = (repository.to_owned(), digest_of(content).to_string());
        self.state().blobs.insert(key, content.clone());
    }

    /// Puts an image with its own blobs into a repository.
    pub fn put(&self, repository: &str, image: &Image) {
        for blob in &image.blobs {
            self.put_blob(repository, blob);
        }
        let key = (repository.to_owned(), image.digest().to_string());
        let value = (image.media_type.clone(), image.manifest.clone());
        self.state().manifests.insert(key, value);
    }

    /// Puts an image with its own blobs into a repository and sets a tag.
    pub fn put_tagged(&self, repository: &str, tag: &str, image: &Image) {
        self.put(repository, image);
        let key = (repository.to_owned(), tag.to_owned());
        self.state().tags.insert(key, image.digest().to_string());
    }

    /// What a tag stands for.
    #[must_use]
    pub fn tag(&self, repository: &str, tag: &str) -> Option<String> {
        self.state()
            .tags
            .get(&(repository.to_owned(), tag.to_owned()))
            .cloned()
    }

    /// How many tags there are in all repositories.
    #[must_use]
    pub fn tags(&self) -> usize {
        self.state().tags.len()
    }

    /// Whether the repository holds this manifest and its own blobs, byte for byte.
    #[must_use]
    pub fn has(&self, repository: &str, image: &Image) -> bool {
        let state = self.state();
        let key = |digest: oci_spec::image::Digest| (repository.to_owned(), digest.to_string());
        state.manifests.get(&key(image.digest()))
            == Some(&(image.media_type.clone(), image.manifest.clone()))
            && image
                .blobs
                .iter()
                .all(|blob| state.blobs.get(&key(digest_of(blob))) == Some(blob))
    }

    /// The requests so far.
    #[must_use]
    pub fn log(&self) -> Vec<Entry> {
        self.state().log.clone()
    }

    /// Forgets the requests so far.
    pub fn clear_log(&self) {
        self.state().log.clear();
    }

    /// How many requests had this method and this piece of path or query.
    #[must_use]
    pub fn count(&self, method: &Method, path_part: &str) -> usize {
        let has = |entry: &&Entry| {
            entry.method == *method && format!("{}?{}", entry.path, entry.query).contains(path_part)
        };
        self.log().iter().filter(has).count()
    }

    /// No token is valid any more.
    pub fn revoke_tokens(&self) {
        self.state().tokens.clear();
    }
}
