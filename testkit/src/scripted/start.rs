//! Starts a fake registry: plain HTTP, TLS or HTTP/2.

use super::fake::Fake;
use super::{handlers, http2};
use crate::server::connection::{PlainListener, Switch, TlsListener};
use crate::tls::Tls;
use axum::Router;
use std::io;
use tokio::net::TcpListener;

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

    /// All its requests, for a server that is started elsewhere.
    pub(crate) fn router(&self) -> Router {
        handlers::router(self.clone())
    }

    async fn bound(address: &str) -> io::Result<(Self, TcpListener)> {
        let listener = TcpListener::bind(address).await?;
        let fake = Self::unserved(listener.local_addr()?);
        Ok((fake, listener))
    }
}
