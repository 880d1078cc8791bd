//! Requests to the other replicas, which know the reasons for their own shares of the images.
//!
//! Their addresses come from their Leases, so only those who may write these can direct a request. A response is bounded in size
//! and time, and a replica that does not respond is reported, not waited for.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use hyper::StatusCode;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};

use super::http;
use super::model::ReplicaStatus;
use crate::cluster::Replicas;

/// Timeout for the responses of all other replicas together.
const RESPOND_WITHIN: Duration = Duration::from_secs(2);

/// Replicas that are asked at the same time. Each response is held in memory.
const AT_ONCE: usize = 4;

/// The responses of the other replicas.
pub(super) struct Responses<T> {
    pub(super) parts: Vec<T>,
    /// This replica and all others, in the order of their names.
    pub(super) replicas: Vec<ReplicaStatus>,
    /// The names of those whose parts are there.
    pub(super) responders: BTreeSet<String>,
}

/// A response that says whether its replica knows its whole share.
pub(super) trait Part: DeserializeOwned + Send {
    fn is_complete(&self) -> bool;
}

/// Requests `path` from all other live replicas.
pub(super) async fn ask<T: Part>(replicas: &Replicas, path: &str) -> Responses<T> {
    let deadline = Instant::now() + RESPOND_WITHIN;
    let requests = replicas
        .others()
        .into_iter()
        .map(|(name, address)| async move {
            let response = match address {
                None => Err("its Lease has no address (POD_IP)".to_owned()),
                Some(address) => get(address, path, deadline).await,
            };
            let part = response.and_then(|part: T| {
                if part.is_complete() {
                    Ok(part)
                } else {
                    Err("it has not read the whole cluster yet".to_owned())
                }
            });
            (name, part)
        });
    let mut responses = Responses {
        parts: Vec::new(),
        replicas: own(replicas, true).into_iter().collect(),
        responders: BTreeSet::new(),
    };
    let mut results = stream::iter(requests).buffer_unordered(AT_ONCE);
    while let Some((name, result)) = results.next().await {
        let reason = match result {
            Ok(part) => {
                responses.parts.push(part);
                responses.responders.insert(name.clone());
                None
            }
            Err(reason) => Some(reason),
        };
        responses.replicas.push(ReplicaStatus {
            name,
            has_responded: reason.is_none(),
            reason,
        });
    }
    responses
        .replicas
        .sort_by(|one, other| one.name.cmp(&other.name));
    responses
}

/// Returns the status of this replica; `None` if it is the only one.
pub(super) fn own(replicas: &Replicas, is_complete: bool) -> Option<ReplicaStatus> {
    let name = replicas.own_name()?;
    let reason = "it has not read the whole cluster yet".to_owned();
    Some(ReplicaStatus {
        name,
        has_responded: is_complete,
        reason: (!is_complete).then_some(reason),
    })
}

async fn get<T: DeserializeOwned>(
    address: SocketAddr,
    path: &str,
    deadline: Instant,
) -> Result<T, String> {
    let host = address.to_string();
    let response = timeout_at(deadline, http::get(address, &host, path)).await;
    let (status, body) = response
        .map_err(|_| format!("it did not respond within {} s", RESPOND_WITHIN.as_secs()))??;
    if status != StatusCode::OK {
        return Err(format!("{host}: it responded {status}"));
    }
    serde_json::from_slice(&body).map_err(|_| "its response is of another version".to_owned())
}
