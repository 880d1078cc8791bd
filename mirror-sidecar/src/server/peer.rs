//! The unit by which connections are counted.

use std::net::{IpAddr, Ipv6Addr};

/// Bits of an IPv6 address that a single client can choose: hosts get a /64 each (RFC 7934, section 6).
const INTERFACE_BITS: u32 = 64;

/// A client: an IPv4 address or an IPv6 /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Peer(IpAddr);

impl From<IpAddr> for Peer {
    fn from(address: IpAddr) -> Self {
        // An IPv4 client of a socket that listens on [::] comes from ::ffff:a.b.c.d.
        Self(match address.to_canonical() {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => {
                let network = address.to_bits() >> INTERFACE_BITS << INTERFACE_BITS;
                Ipv6Addr::from_bits(network).into()
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case::same_address("10.0.0.1", "10.0.0.1", true)]
    #[case::neighbours("10.0.0.1", "10.0.0.2", false)]
    #[case::mapped("::ffff:10.0.0.1", "10.0.0.1", true)]
    #[case::mapped_neighbours("::ffff:10.0.0.1", "::ffff:10.0.0.2", false)]
    #[case::same_network("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", true)]
    #[case::other_network("2001:db8:0:1::1", "2001:db8:0:2::1", false)]
    fn a_peer_is_an_address_or_a_network(
        #[case] one: IpAddr,
        #[case] other: IpAddr,
        #[case] same: bool,
    ) {
        assert_eq!(Peer::from(one) == Peer::from(other), same);
    }
}
