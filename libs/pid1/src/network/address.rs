//! IPv4 networks, routes, and what a link gets.

use std::net::Ipv4Addr;

/// An IPv4 network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// An address in it.
    pub address: Ipv4Addr,
    /// Bits of its mask.
    pub prefix: u8,
}

impl Network {
    /// Everything.
    pub const ALL: Self = Self { address: Ipv4Addr::UNSPECIFIED, prefix: 0 };

    /// Reads `address/prefix`.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        let prefix = prefix.parse().ok().filter(|p| *p <= 32)?;
        Some(Self { address: address.parse().ok()?, prefix })
    }

    /// The network's own address: host bits cleared, as a route wants it.
    pub fn base(self) -> Ipv4Addr {
        let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
        Ipv4Addr::from(u32::from(self.address) & mask)
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// A route through a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub destination: Network,
    /// Next hop.
    pub gateway: Ipv4Addr,
    /// The smaller one wins.
    pub metric: u32,
}

/// What a link gets, from its configuration or from DHCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Its address and the network around it.
    pub address: Network,
    /// Its routes.
    pub routes: Vec<Route>,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_networks_base_is_within_it(bits: u32, prefix in 0_u8..=32) {
            let network = Network { address: bits.into(), prefix };
            prop_assert_eq!(Network { address: network.base(), prefix }.base(), network.base());
            prop_assert_eq!(Network::parse(&network.to_string()), Some(network));
        }
    }
}
