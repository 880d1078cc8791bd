//! The network between the copier and the registries: its latency, and whether it is encrypted.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context as _;
use tokio::runtime::Handle;

use crate::delay::DelayProxy;

/// Longer round trips than the way round the earth by satellite are a typing error.
const LONGEST: Duration = Duration::from_secs(2);

/// One kind of network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Round-trip time that is added to loopback's own.
    pub latency: Duration,
    /// HTTPS with a private authority; else plain HTTP.
    pub tls: bool,
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (number, tls) = match text.strip_suffix("tls") {
            Some(number) => (number, true),
            None => (text, false),
        };
        let latency = number
            .parse()
            .map(Duration::from_millis)
            .map_err(|_| "use milliseconds such as 40, or 40tls".to_owned())?;
        if latency > LONGEST {
            return Err(format!("at most {} ms", LONGEST.as_millis()));
        }
        Ok(Self { latency, tls })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.latency.as_millis())?;
        if self.tls {
            write!(f, " + TLS")
        } else {
            Ok(())
        }
    }
}

/// The way to one registry: straight, or through a proxy that delays.
pub struct Link {
    address: String,
    _proxy: Option<DelayProxy>,
}

impl Link {
    /// The way to the registry at `address` (`127.0.0.1:port`).
    pub fn new(runtime: &Handle, network: Network, address: &str) -> anyhow::Result<Self> {
        if network.latency.is_zero() {
            return Ok(Self {
                address: address.to_owned(),
                _proxy: None,
            });
        }
        let target: SocketAddr = address.parse().context("a registry's address")?;
        let proxy = DelayProxy::start(runtime, target, network.latency)?;
        Ok(Self {
            address: proxy.address().to_string(),
            _proxy: Some(proxy),
        })
    }

    /// `127.0.0.1:port` as the tools are told it.
    pub fn address(&self) -> &str {
        &self.address
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_read_and_written() {
        let network: Network = "40tls".parse().unwrap();
        assert_eq!(network.to_string(), "40 ms + TLS");
        assert_eq!("0".parse::<Network>().unwrap().to_string(), "0 ms");
        for wrong in ["", "tls", "-1", "4000", "40 tls"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong:?}");
        }
    }
}
