//! The running fake: what tests put into it, ask it, and tell it to do wrong.

use super::fault::{Action, Fault};
use super::images::{Image, digest_of};
use super::knobs::Knobs;
use super::state::{Entry, State};
use super::{handlers, http2};
use crate::server::connection::{PlainListener, Switch, TlsListener};
use crate::tls::Tls;
use axum::Router;
use axum::http::Method;
use bytes::Bytes;
use oci_spec::image::Digest;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::net::TcpListener;

/// A running registry. Stops with the test's runtime. Clones are the same registry.
#[derive(Clone)]
pub struct Fake {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Fake {
    /// Starts one on a free port of loopback, plain HTTP.
    pub async fn start() -> Self {
        Self::start_at("127.0.0.1:0").await
    }

    /// Starts one at this address, plain HTTP.
    pub async fn start_at(address: &str) -> Self {
        let (fake, listener) = Self::bound(address).await.expect("the address is free");
        let service = fake
            .router()
            .into_make_service_with_connect_info::<Switch>();
        let (listener, closing) = PlainListener::new(listener).expect("it is bound");
        fake.state().closing = Some(closing);
        tokio::spawn(async move { axum::serve(listener, service).await });
        fake
    }

    /// Starts one behind TLS (HTTP/1.1), with the certificate for loopback. It thinks that it is spoken to by plain
    /// HTTP, like many behind a proxy.
    pub async fn start_tls(tls: &Tls) -> Self {
        let started = Self::start_tls_at("127.0.0.1:0", tls).await;
        started.expect("there is a free port")
    }

    /// Starts one behind TLS at this address.
    ///
    /// # Errors
    /// The address cannot be bound, for example because it is in use.
    pub async fn start_tls_at(address: &str, tls: &Tls) -> io::Result<Self> {
        let (fake, inner) = Self::bound(address).await?;
        let service = fake
            .router()
            .into_make_service_with_connect_info::<Switch>();
        let config = tls.server_config().expect("the certificate is usable");
        let listener = TlsListener::new(inner, config)?;
        tokio::spawn(async move { axum::serve(listener, service).await });
        Ok(fake)
    }

    /// Starts one behind TLS that speaks HTTP/2 with clients that want it.
    pub async fn start_http2(tls: &Tls) -> Self {
        let (fake, listener) = Self::bound("127.0.0.1:0")
            .await
            .expect("there is a free port");
        let router = fake.router();
        tokio::spawn(http2::serve(listener, http2::acceptor(tls), router));
        fake
    }

    /// Starts one behind TLS that speaks HTTP/2 only.
    pub async fn start_http2_only(tls: &Tls) -> Self {
        let (fake, listener) = Self::bound("127.0.0.1:0")
            .await
            .expect("there is a free port");
        let router = fake.router();
        tokio::spawn(http2::serve(listener, http2::only(tls), router));
        fake
    }

    /// The state of a registry at this address where nobody listens.
    #[must_use]
    pub fn unserved(address: SocketAddr) -> Self {
        let state = Arc::default();
        Self { address, state }
    }

    /// All its requests, for a server that is started elsewhere.
    pub(crate) fn router(&self) -> Router {
        handlers::router(self.clone())
    }

    async fn bound(address: &str) -> io::Result<(Self, TcpListener)> {
        let listener = TcpListener::bind(address).await?;
        let fake = Self::unserved(listener.local_addr()?);
        Ok((fake, listener))
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
