//! Where an API server is: one of our own, or one that was there before.

use std::path::Path;

use kube::Client;

use super::access::Access;
use super::external::External;
use super::servers::Servers;

pub(super) enum Site {
    Own(Box<Servers>),
    External(External),
}

impl Site {
    /// A client with all rights.
    pub fn admin(&self) -> anyhow::Result<Client> {
        match self {
            Self::Own(servers) => servers.admin().client(),
            Self::External(external) => Ok(external.admin()),
        }
    }

    /// How to reach it with a token.
    pub fn access(&self, token: &str) -> Access {
        match self {
            Self::Own(servers) => servers.access(token),
            Self::External(external) => external.access(token),
        }
    }

    /// A folder for files that go when this does.
    pub fn folder(&self) -> &Path {
        match self {
            Self::Own(servers) => servers.folder(),
            Self::External(external) => external.folder(),
        }
    }
}
