//! A request to an admin port, bounded in size. The caller bounds its time.

use axum::body::{Body, Bytes, to_bytes};
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, ToSocketAddrs};

/// Longest response: a page of 500 images has less than 1 MiB.
pub const MAX_RESPONSE: usize = 4 * 1024 * 1024;

/// Requests `path` at `address`. Redirects are not followed.
///
/// # Errors
/// One sentence.
pub async fn get(
    address: impl ToSocketAddrs,
    host: &str,
    path: &str,
) -> Result<(StatusCode, Bytes), String> {
    let failed = |error: &dyn std::fmt::Display| format!("{host}: {error}");
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| failed(&error))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failed(&error))?;
    let request = Request::get(path)
        .header(header::HOST, host)
        .body(Body::empty())
        .map_err(|error| failed(&error))?;
    let response = async {
        let response = sender.send_request(request).await;
        let response = response.map_err(|error| failed(&error))?;
        let status = response.status();
        let body = to_bytes(Body::new(response.into_body()), MAX_RESPONSE).await;
        Ok((status, body.map_err(|error| failed(&error))?))
    };
    // The connection is driven here, so that it ends with the request.
    let mut response = std::pin::pin!(response);
    tokio::select! {
        result = &mut response => result,
        _ = connection => response.await,
    }
}
