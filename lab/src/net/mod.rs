//! The lab's networks: each port group a bridge in one network namespace, each NIC a tap.
//!
//! Nothing in there is routable from the machine.  "VM Network" has an address for the lab itself, DHCP and DNS; the
//! other port groups are bare wires.

mod dhcp;
mod namespace;
mod publish;

use std::net::Ipv4Addr;
use std::path::PathBuf;

pub(crate) use dhcp::Dhcp;
pub(crate) use namespace::{Namespace, enter, remove};
pub(crate) use publish::{Published, Publisher};

use crate::error::Result;
use crate::process;

/// The bridge of "VM Network", which is there whatever becomes of the port group: the API listens on it.
pub(crate) const SERVED_BRIDGE: &str = "br-vmnet";

/// An IPv4 network for "VM Network": the lab is its first host, the upper half is for DHCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Range {
    base: u32,
    prefix: u8,
}

impl std::str::FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a network like 192.168.100.0/24 (prefix 16 to 28)");
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let address: Ipv4Addr = address.parse().map_err(|_| wrong())?;
        let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
        if !(16..=28).contains(&prefix) {
            return Err(wrong());
        }
        Ok(Self { base: u32::from(address) & (u32::MAX << (32 - prefix)), prefix })
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.prefix)
    }
}

impl Range {
    fn size(self) -> u32 {
        1 << (32 - self.prefix)
    }

    /// The lab's own address: gateway, name server, API.
    pub(crate) fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from(self.base + 1)
    }

    /// Prefix length.
    pub(crate) fn prefix(self) -> u8 {
        self.prefix
    }

    /// First and last address that DHCP gives out; those below are free for static use.
    pub(crate) fn dhcp(self) -> (Ipv4Addr, Ipv4Addr) {
        (Ipv4Addr::from(self.base + self.size() / 2), Ipv4Addr::from(self.base + self.size() - 2))
    }
}

/// The wires of a lab.
#[derive(Debug)]
pub(crate) struct Network {
    namespace: Namespace,
    range: Range,
    run: Run,
}

/// Runs a program to its end: [`process::run`], or a stand-in in tests.
type Run = fn(&str, &[&str], &str) -> Result<String>;

impl Network {
    /// Opens the lab's namespace, making it where it is missing.
    ///
    /// # Errors
    /// When not root or when the kernel refuses.
    pub(crate) fn open(name: &str, range: Range) -> Result<Self> {
        Ok(Self { namespace: Namespace::open(name)?, range, run: process::run })
    }

    /// Wires that lead nowhere, for tests of what does not need them.
    #[cfg(test)]
    pub(crate) fn unwired(range: Range) -> Self {
        Self { namespace: Namespace::absent(), range, run: |_, _, _| Ok(String::new()) }
    }

    /// The namespace.
    pub(crate) fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The range of "VM Network".
    pub(crate) fn range(&self) -> Range {
        self.range
    }

    fn has_link(&self, link: &str) -> bool {
        (self.run)("ip", &["-n", self.namespace.name(), "link", "show", "dev", link], "look for a link").is_ok()
    }

    fn ip(&self, args: &[&str], what: &str) -> Result<()> {
        let mut all = vec!["-n", self.namespace.name()];
        all.extend(args);
        (self.run)("ip", &all, what).map(|_| ())
    }

    /// Makes the bridge of a port group; the [`SERVED_BRIDGE`] gets the lab's address.
    ///
    /// # Errors
    /// When `ip` fails.
    pub(crate) fn add_bridge(&self, bridge: &str) -> Result<()> {
        if !self.has_link(bridge) {
            self.ip(&["link", "add", bridge, "type", "bridge"], "make a bridge")?;
        }
        if bridge == SERVED_BRIDGE {
            let address = format!("{}/{}", self.range.gateway(), self.range.prefix());
            self.ip(&["address", "replace", &address, "dev", bridge], "set the lab's address")?;
        }
        self.ip(&["link", "set", bridge, "up"], "bring up a bridge")
    }

    /// Removes the bridge of a port group that is no more; one that is not there is fine.
    ///
    /// # Errors
    /// When `ip` fails.
    pub(crate) fn remove_bridge(&self, bridge: &str) -> Result<()> {
        let gone = bridge == SERVED_BRIDGE || !self.has_link(bridge);
        if gone { Ok(()) } else { self.ip(&["link", "delete", bridge], "remove a bridge") }
    }

    /// Makes the tap of a NIC and puts it on `bridge`; a tap that is there already is moved.
    ///
    /// # Errors
    /// When `ip` fails.
    pub(crate) fn add_tap(&self, tap: &str, bridge: &str) -> Result<()> {
        if !self.has_link(tap) {
            // Taps are made on the machine by `ip tuntap`, which knows no namespace of its own: it runs inside.
            (self.run)(
                "ip",
                &["netns", "exec", self.namespace.name(), "ip", "tuntap", "add", "dev", tap, "mode", "tap"],
                "make a tap",
            )?;
        }
        self.ip(&["link", "set", tap, "master", bridge, "up"], "put a tap on its bridge")
    }

    /// Removes a tap; one that is not there is fine.
    ///
    /// # Errors
    /// When `ip` fails.
    pub(crate) fn remove_tap(&self, tap: &str) -> Result<()> {
        if self.has_link(tap) { self.ip(&["link", "delete", tap], "remove a tap") } else { Ok(()) }
    }
}

/// Files of the lab's name and address server.
#[derive(Debug, Clone)]
pub(crate) struct DhcpFiles {
    /// Leases, kept over restarts.
    pub leases: PathBuf,
    /// Its process.
    pub process: PathBuf,
    /// Its pid file.
    pub pid: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_split_between_static_and_dhcp() {
        let range: Range = "192.168.100.77/24".parse().unwrap();
        assert_eq!(range.to_string(), "192.168.100.0/24");
        assert_eq!(range.gateway(), Ipv4Addr::new(192, 168, 100, 1));
        assert_eq!(range.dhcp(), (Ipv4Addr::new(192, 168, 100, 128), Ipv4Addr::new(192, 168, 100, 254)));
        for wrong in ["192.168.100.0", "x/24", "10.0.0.0/8", "10.0.0.0/30"] {
            wrong.parse::<Range>().unwrap_err();
        }
    }
}
