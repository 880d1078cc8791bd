//! The function that waPC calls when the guest wants something of the host.
//!
//! The order of the checks is the real host's: binding, allow-list, JSON of the payload, rights, callback.

use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::capabilities::Capabilities;
use super::journal::{HostCall, Journal};
use super::oci::{Answer, OciCallbacks, callback_failure};

type Failure = Box<dyn Error + Send + Sync>;

/// Gives the answer to an operation of `oci` about an image, as text: the payload, or the error.
pub(super) type Replay = dyn Fn(&str, &str) -> Result<String, String> + Send + Sync;

/// Where answers about images come from.
#[derive(Clone)]
pub(super) enum ImageSource {
    /// Registries, and the host's cache.
    Registries(Arc<OciCallbacks>),
    /// Somebody who knows the answers, as in kwctl's `--replay-host-capabilities-interactions`. There is no cache then.
    Replay(Arc<Replay>),
}

/// Answers the calls of one guest instance.
pub(super) struct Callbacks {
    pub capabilities: Capabilities,
    /// `None` while settings are validated: the policy server does that before its callback loop runs.
    pub images: Option<ImageSource>,
    pub journal: Arc<Journal>,
}

/// The part of a Kubernetes read that decides whether it is allowed.
#[derive(Deserialize)]
struct KubernetesRead {
    api_version: String,
    kind: String,
}

impl Callbacks {
    pub fn handle(
        &self,
        binding: &str,
        namespace: &str,
        operation: &str,
        payload: &[u8],
    ) -> Result<Vec<u8>, Failure> {
        if binding != "kubewarden" {
            return Err(format!("unknown binding: {binding}").into());
        }
        if namespace == "tracing" {
            // Never gated, and never an error: the SDK's logger panics on one.
            return self.log(operation, payload);
        }
        let path = format!("{namespace}/{operation}");
        let start = Instant::now();
        let answer = if self.capabilities.allow(&path) {
            self.dispatch(namespace, operation, payload)
        } else {
            Answer::error(format!(
                "Policy has not been granted access to the '{path}' host capability. \
                 The violation has been reported."
            ))
        };
        self.journal.call(HostCall {
            operation: path,
            argument: argument(payload),
            outcome: answer
                .payload
                .as_ref()
                .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
                .map_err(Clone::clone),
            cached: answer.cached,
            elapsed: start.elapsed(),
        });
        answer.payload.map_err(Into::into)
    }

    fn log(&self, operation: &str, payload: &[u8]) -> Result<Vec<u8>, Failure> {
        if operation != "log" {
            return Err(format!("unknown operation: {operation}").into());
        }
        self.journal.log(payload);
        Ok(Vec::new())
    }

    fn dispatch(&self, namespace: &str, operation: &str, payload: &[u8]) -> Answer {
        let answer = match (namespace, operation) {
            ("oci", "v1/oci_manifest") => self.image(operation, payload, OciCallbacks::manifest),
            ("oci", "v1/manifest_digest") => {
                self.image(operation, payload, OciCallbacks::manifest_digest)
            }
            (
                "kubernetes",
                "get_resource" | "list_resources_all" | "list_resources_by_namespace",
            ) => kubernetes_read(payload),
            ("kubernetes", "can_i") => decode::<Value>(payload).map(|_| {
                let error = anyhow::anyhow!("kube::Client was not initialized properly");
                Answer::error(callback_failure(&error))
            }),
            ("oci", "v1/oci_manifest_config" | "v1/verify" | "v2/verify")
            | ("net", "v1/dns_lookup_host")
            | ("crypto", "v1/is_certificate_trusted") => {
                decode::<Value>(payload).map(|_| not_implemented(namespace, operation))
            }
            ("oci" | "net" | "crypto" | "kubernetes", _) => {
                Err(format!("unknown operation: {operation}"))
            }
            _ => Err(format!("unknown namespace: {namespace}")),
        };
        answer.unwrap_or_else(Answer::error)
    }

    fn image(
        &self,
        operation: &str,
        payload: &[u8],
        ask: fn(&OciCallbacks, &str) -> Answer,
    ) -> Result<Answer, String> {
        let image: String = decode(payload)?;
        match &self.images {
            Some(ImageSource::Registries(oci)) => Ok(ask(oci, &image)),
            Some(ImageSource::Replay(replay)) => Ok(Answer {
                payload: replay(operation, &image)
                    .map(String::into_bytes)
                    .map_err(|message| callback_failure(&anyhow::Error::msg(message))),
                cached: false,
            }),
            None => {
                Err("Cannot process Wasm guest request: callback channel not provided".to_owned())
            }
        }
    }
}

impl Answer {
    fn error(text: String) -> Self {
        Self {
            payload: Err(text),
            cached: false,
        }
    }
}

/// A payload that is not the expected JSON gives serde's bare message.
fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, String> {
    serde_json::from_slice(payload).map_err(|error| error.to_string())
}

/// No policy of ours declares `contextAwareResources`, so every read is refused.
fn kubernetes_read(payload: &[u8]) -> Result<Answer, String> {
    let KubernetesRead { api_version, kind } = decode(payload)?;
    Err(format!(
        "Policy has not been granted access to Kubernetes {api_version}/{kind} resources. \
         The violation has been reported."
    ))
}

fn not_implemented(namespace: &str, operation: &str) -> Answer {
    let error = anyhow::anyhow!("the test host does not implement {namespace}/{operation}");
    Answer::error(callback_failure(&error))
}

fn argument(payload: &[u8]) -> String {
    serde_json::from_slice(payload)
        .unwrap_or_else(|_| String::from_utf8_lossy(payload).into_owned())
}
