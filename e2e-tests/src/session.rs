//! Recorded sessions: what a policy asked of its host and what it was told, in the format of kwctl's
//! `--record-host-capabilities-interactions` and `--replay-host-capabilities-interactions`.
//!
//! - [`Session`] is such a file; [`Player`] answers from it, in its order, as kwctl does;
//! - [`Answers`] says in a few words what a sidecar would tell, [`Recorder`] makes a session of it;
//! - [`Case`] is a line of the table that both the test host and the real kwctl are held to.

mod answers;
mod case;
mod player;
mod recorder;

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

pub use answers::{Answers, manifest};
pub use case::{Case, expected_file, orphans, readable, session_file, table};
pub use player::Player;
pub use recorder::Recorder;

/// All exchanges of one evaluation, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Session(pub Vec<Exchange>);

/// A question and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub struct Exchange {
    /// What the policy asked.
    #[serde(with = "nested")]
    pub request: Request,
    /// What the host answered.
    pub response: Response,
}

/// The questions that can be in a session of ours. Names and fields are kwctl's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// `oci/v1/oci_manifest`
    OciManifest {
        /// The reference that is asked about.
        image: String,
    },
    /// `oci/v1/manifest_digest`
    OciManifestDigest {
        /// The reference that is asked about.
        image: String,
    },
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum Response {
    /// The host did what it was asked.
    Success {
        /// The payload for the policy, as text.
        payload: String,
    },
    /// The host could not.
    Error {
        /// Its error, without the causes.
        message: String,
    },
}

impl Session {
    /// Reads a session file.
    ///
    /// # Errors
    /// When the file cannot be read or is no session.
    pub fn load(file: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(file)
            .with_context(|| format!("the session {} cannot be read", file.display()))?;
        yaml_serde::from_str(&text).with_context(|| format!("{} is no session", file.display()))
    }

    /// Writes a session file.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, file: &Path) -> anyhow::Result<()> {
        fs::write(file, yaml_serde::to_string(self)?)
            .with_context(|| format!("the session {} cannot be written", file.display()))
    }
}

impl Request {
    /// The question about an image by an operation of the capability `oci`; `None` for another operation.
    fn new(operation: &str, image: &str) -> Option<Self> {
        let image = image.to_owned();
        match operation {
            "v1/oci_manifest" => Some(Self::OciManifest { image }),
            "v1/manifest_digest" => Some(Self::OciManifestDigest { image }),
            _ => None,
        }
    }
}

impl From<Response> for Result<String, String> {
    fn from(response: Response) -> Self {
        match response {
            Response::Success { payload } => Ok(payload),
            Response::Error { message } => Err(message),
        }
    }
}

/// kwctl writes a question as YAML within the YAML of the session.
mod nested {
    use serde::de::Error as _;
    use serde::ser::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    use super::Request;

    pub fn serialize<S: Serializer>(request: &Request, serializer: S) -> Result<S::Ok, S::Error> {
        let text = yaml_serde::to_string(request).map_err(S::Error::custom)?;
        serializer.serialize_str(&text)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Request, D::Error> {
        let text = String::deserialize(deserializer)?;
        yaml_serde::from_str(&text).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As kwctl 1.36 recorded it, with another address.
    const RECORDED: &str = r#"- type: Exchange
  request: |
    !OciManifest
    image: localhost:5000/tag/docker.io/library/nginx:1.27
  response:
    type: Error
    message: 'Fail to interact with OCI registry: Registry error: url https://localhost:5000/v2/'
- type: Exchange
  request: |
    !OciManifest
    image: localhost:5000/pull-secret/shop:latest
  response:
    type: Success
    payload: '{"schemaVersion":2}'
"#;

    #[test]
    fn a_session_is_written_as_kwctl_does() {
        let session: Session = yaml_serde::from_str(RECORDED).unwrap();
        assert_eq!(session.0.len(), 2);
        let image = "localhost:5000/pull-secret/shop:latest";
        assert_eq!(
            Some(&session.0[1].request),
            Request::new("v1/oci_manifest", image).as_ref()
        );
        assert_eq!(yaml_serde::to_string(&session).unwrap(), RECORDED);
    }
}
