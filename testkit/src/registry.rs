//! OCI registries on loopback, started for one test and gone with it.
//!
//! Two implementations of one small trait: Debian's docker-registry as a child process, and the scripted one of this
//! process for machines without it. They agree in everything that a client may rely on.

mod client;
mod debian;
mod embedded;
#[cfg(test)]
mod tests;

use std::env;
use std::fmt;

use anyhow::bail;

pub use client::{Document, RegistryClient};
pub use debian::{DebianOptions, DebianRegistry};
pub use embedded::{EmbeddedOptions, EmbeddedRegistry};

/// Chooses the implementation of [`start_registry`]: `debian` or `embedded`.
pub const CHOICE_VARIABLE: &str = "IMAGE_MIRROR_TEST_REGISTRY";

/// A registry that runs on a loopback port.
pub trait Registry: Send + Sync {
    /// Name of the implementation, for messages.
    fn name(&self) -> &'static str;

    /// `127.0.0.1:port`; the same before and after a restart.
    fn address(&self) -> String;

    /// What clients must show, if anything.
    fn credential(&self) -> Option<&Credential>;

    /// Lets these users in as well, and no others but that of [`Registry::credential`]; at once, also while it runs.
    ///
    /// # Errors
    /// When it was started without a credential.
    fn set_other_users(&self, users: &[Credential]) -> anyhow::Result<()>;

    /// The CA (PEM) to trust when the registry speaks HTTPS; `None` for plain HTTP.
    fn ca_pem(&self) -> Option<&str> {
        None
    }

    /// The requests that were answered so far.
    fn requests(&self) -> Vec<Request>;

    /// Closes the port and every connection. What is stored stays.
    fn stop(&mut self);

    /// Starts again on the same port with what was stored.
    ///
    /// # Errors
    /// When the port is taken by now.
    fn restart(&mut self) -> anyhow::Result<()>;

    /// The address by the name `localhost`, for tests that need two host names.
    fn localhost(&self) -> String {
        self.address().replace("127.0.0.1", "localhost")
    }

    /// A plain client for this registry, with its credential.
    fn client(&self) -> RegistryClient {
        RegistryClient::new(&self.address(), self.credential().cloned(), self.ca_pem())
    }
}

/// User and password for HTTP Basic authentication (RFC 7617).
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// The user; without a colon.
    pub user: String,
    /// The password.
    pub password: String,
}

impl Credential {
    /// A credential of a user and a password.
    pub fn new(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self {
            user: user.into(),
            password: password.into(),
        }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential({:?})", self.user)
    }
}

/// One request that a registry answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// HTTP method.
    pub method: String,
    /// Path with query.
    pub path: String,
    /// HTTP status of the answer.
    pub status: u16,
}

/// Starts a registry without authentication: Debian's when it is installed, else the embedded one.
///
/// # Errors
/// When it does not start.
pub fn start_registry() -> anyhow::Result<Box<dyn Registry>> {
    start_registry_with(None)
}

/// Starts a registry that asks for this credential, if there is one.
///
/// # Errors
/// When it does not start, or [`CHOICE_VARIABLE`] has a value that is not known.
pub fn start_registry_with(credential: Option<Credential>) -> anyhow::Result<Box<dyn Registry>> {
    let choice = env::var(CHOICE_VARIABLE).ok();
    let debian = match choice.as_deref() {
        Some("debian") => true,
        Some("embedded") => false,
        None | Some("") => DebianRegistry::is_installed(),
        Some(other) => bail!("{CHOICE_VARIABLE} is {other:?}; use \"debian\" or \"embedded\""),
    };
    Ok(if debian {
        Box::new(DebianRegistry::start(credential)?)
    } else {
        Box::new(EmbeddedRegistry::start(EmbeddedOptions {
            credential,
            ..EmbeddedOptions::default()
        })?)
    })
}
