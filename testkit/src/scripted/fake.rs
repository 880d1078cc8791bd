//! The fake registry of a test: its content, its log and its faults.

use super::fault::{Action, Fault};
use super::images::{Image, digest_of};
use super::knobs::Knobs;
use super::state::{Entry, State};
use axum::http::Method;
use bytes::Bytes;
use oci_spec::image::Digest;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

/// A running registry. Stops with the test's runtime. Clones are the same registry.
#[derive(Clone)]
pub struct Fake {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Fake {
    /// The state of a registry at this address where nobody listens.
    #[must_use]
    pub fn unserved(address: SocketAddr) -> Self {
        let state = Arc::default();
        Self { address, state }
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

    /// The next `times` requests with this method and this piece of path or query go wrong. Of several faults for the
    /// same requests the first one is used up before the next.
    pub fn fault(&self, method: Method, path_part: &str, times: usize, action: Action) {
        let path_part = path_part.to_owned();
        self.state().faults.push(Fault {
            method,
            path_part,
            left: times,
            action,
        });
    }

    /// Nothing goes wrong any more.
    pub fn forget_faults(&self) {
        self.state().faults.clear();
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
        let key = (repository.to_owned(), tag.to_owned());
        self.state().tags.get(&key).cloned()
    }

    /// How many tags there are in all repositories.
    #[must_use]
    pub fn tags(&self) -> usize {
        self.state().tags.len()
    }

    /// Whether the repository holds this manifest and its own blobs, byte for byte.
    #[must_use]
    pub fn has(&self, repository: &str, image: &Image) -> bool {
        let manifest = (image.media_type.clone(), image.manifest.clone());
        let key = (repository.to_owned(), image.digest().to_string());
        self.state().manifests.get(&key) == Some(&manifest)
            && image
                .blobs
                .iter()
                .all(|blob| self.blob(repository, &digest_of(blob)).as_ref() == Some(blob))
    }

    /// A blob of a repository.
    #[must_use]
    pub fn blob(&self, repository: &str, digest: &Digest) -> Option<Bytes> {
        let key = (repository.to_owned(), digest.to_string());
        self.state().blobs.get(&key).cloned()
    }

    /// Loses a blob.
    pub fn lose_blob(&self, repository: &str, digest: &Digest) {
        let key = (repository.to_owned(), digest.to_string());
        self.state().blobs.remove(&key);
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

    /// The requests with this method and this piece of path or query.
    #[must_use]
    pub fn asked(&self, method: &Method, path_part: &str) -> Vec<Entry> {
        let mut log = self.log();
        log.retain(|entry| {
            entry.method == *method && format!("{}?{}", entry.path, entry.query).contains(path_part)
        });
        log
    }

    /// How many requests had this method and this piece of path or query.
    #[must_use]
    pub fn count(&self, method: &Method, path_part: &str) -> usize {
        self.asked(method, path_part).len()
    }

    /// No token is valid any more.
    pub fn revoke_tokens(&self) {
        self.state().tokens.clear();
    }
}
