//! Serving by HTTP/2 over TLS, with streams and connections that end early (RFC 9113).

use super::fault::Then;
use crate::server::connection::breakable;
use crate::tls::Tls;
use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use axum::http::Response;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use std::pin::pin;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

/// Offers HTTP/2 before HTTP/1.1.
pub(super) fn acceptor(tls: &Tls) -> TlsAcceptor {
    offering(tls, &["h2", "http/1.1"])
}

/// Offers nothing but HTTP/2.
pub(super) fn only(tls: &Tls) -> TlsAcceptor {
    offering(tls, &["h2"])
}

fn offering(tls: &Tls, protocols: &[&str]) -> TlsAcceptor {
    let config = tls.server_config().expect("the certificate is usable");
    let mut config = rustls::ServerConfig::clone(&config);
    config.alpn_protocols = protocols
        .iter()
        .map(|name| name.as_bytes().to_vec())
        .collect();
    TlsAcceptor::from(Arc::new(config))
}

/// Serves until the runtime ends.
pub(super) async fn serve(listener: TcpListener, acceptor: TlsAcceptor, router: Router) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(connection(stream, acceptor.clone(), router.clone()));
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, router: Router) {
    let Ok(stream) = acceptor.accept(stream).await else {
        return;
    };
    let stream = breakable(stream);
    let info = ConnectInfo(stream.switch.clone());
    let enough = Arc::new(Notify::new());
    let service = service_fn({
        let enough = Arc::clone(&enough);
        move |request: hyper::Request<hyper::body::Incoming>| {
            let mut request: Request = request.map(Body::new);
            request.extensions_mut().insert(info.clone());
            let (router, enough) = (router.clone(), Arc::clone(&enough));
            async move {
                let answer = TowerToHyperService::new(router);
                let Ok(answer) = hyper::service::Service::call(&answer, request).await;
                finished(answer, &enough)
            }
        }
    });
    let builder = Builder::new(TokioExecutor::new());
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    loop {
        tokio::select! {
            // How a connection ends is the client's business.
            _ = connection.as_mut() => return,
            () = enough.notified() => connection.as_mut().graceful_shutdown(),
        }
    }
}

/// The answer, or the error that resets its stream.
fn finished(answer: Response<Body>, enough: &Notify) -> Result<Response<Body>, h2::Error> {
    match answer.extensions().get() {
        Some(Then::RefuseStream) => Err(h2::Reason::REFUSED_STREAM.into()),
        Some(Then::GoAway) => {
            enough.notify_one();
            Ok(answer)
        }
        None => Ok(answer),
    }
}
