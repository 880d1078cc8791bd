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
    pub method: Method,
    pub path: String,
    pub query: String,
    pub authorization: Option<String>,
    pub range: Option<String>,
    pub body: String,
    pub status: u16,
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
    #[default]
    Open,
    Basic {
        user: String,
        password: String,
    },
    /// A token service in the same process; anonymous tokens unless a user is given.
    Bearer {
        user: Option<(String, String)>,
        expires_in: &'static str,
    },
}

/// What `Location` of an upload looks like.
#[derive(Clone, Default)]
pub enum LocationStyle {
    #[default]
    Relative,
    Absolute,
    WithQuery,
    /// On this other server.
    Elsewhere(String),
}

pub struct Knobs {
    pub auth: Auth,
    pub location: LocationStyle,
    pub mount: bool,
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

#[derive(Default)]
pub struct State {
    pub blobs: HashMap<(String, String), Bytes>,
    pub manifests: HashMap<(String, String), (String, Bytes)>,
    pub tags: HashMap<(String, String), String>,
    pub sessions: HashSet<String>,
    pub next_session: usize,
    /// Valid tokens and the scopes that they grant.
    pub tokens: HashMap<String, Vec<String>>,
    pub tokens_made: usize,
    pub knobs: Knobs,
    pub log: Vec<Entry>,
    faults: Vec<Fault>,
}

impl State {
    /// The fault for this request, used up by one.
    pub fn fault(&mut self, method: &Method, path_and_query: &str) -> Option<Action> {
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
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Fake {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let fake = Self {
            address: listener.local_addr().unwrap(),
            state: Arc::default(),
        };
        let router = handlers::router(fake.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        fake
    }

    /// A registry whose connections somebody else accepts.
    pub fn unserved(address: SocketAddr) -> (Self, axum::Router) {
        let fake = Self {
            address,
            state: Arc::default(),
        };
        let router = handlers::router(fake.clone());
        (fake, router)
    }

    pub fn host(&self) -> String {
        self.address.to_string()
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

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

    pub fn put_tagged(&self, repository: &str, tag: &str, image: &Image) {
        self.put(repository, image);
        let key = (repository.to_owned(), tag.to_owned());
        self.state().tags.insert(key, image.digest().to_string());
    }

    pub fn tag(&self, repository: &str, tag: &str) -> Option<String> {
        self.state()
            .tags
            .get(&(repository.to_owned(), tag.to_owned()))
            .cloned()
    }

    pub fn tags(&self) -> usize {
        self.state().tags.len()
    }

    /// Whether the repository holds this manifest and its own blobs, byte for byte.
    pub fn has(&self, repository: &str, image: &Image) -> bool {
        let state = self.state();
        let key = |digest: mirror_copy::Digest| (repository.to_owned(), digest.to_string());
        state.manifests.get(&key(image.digest()))
            == Some(&(image.media_type.clone(), image.manifest.clone()))
            && image
                .blobs
                .iter()
                .all(|blob| state.blobs.get(&key(digest_of(blob))) == Some(blob))
    }

    pub fn log(&self) -> Vec<Entry> {
        self.state().log.clone()
    }

    pub fn clear_log(&self) {
        self.state().log.clear();
    }

    /// How many requests had this method and this piece of path or query.
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
