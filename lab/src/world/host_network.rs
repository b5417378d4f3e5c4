//! Hosts' own switches and port groups, and the networks of the inventory that follow from them.

use vim25_types::{
    HostNetworkInfo, HostPortGroup, HostPortGroupSpec, HostVirtualSwitch, HostVirtualSwitchBondBridge,
    HostVirtualSwitchSpec, ManagedObjectReference as Moref,
};

use super::World;
use super::objects::{Entry, Host, Network, NetworkKind, Object, PortGroup};
use crate::settings::Shape;

/// The network adapter that every host has.
pub(crate) const UPLINK: &str = "vmnic0";

/// The port group that leads to the lab itself: address, DHCP, API.
const SERVED: &str = "VM Network";

/// The bridge of a port group: a link's name may have 15 letters, a port group's any.
fn bridge(name: &str) -> String {
    use sha2::{Digest, Sha256};
    if name == SERVED {
        return crate::net::SERVED_BRIDGE.into();
    }
    let digest = Sha256::digest(name);
    format!("br-{}", digest.iter().take(5).map(|b| format!("{b:02x}")).collect::<String>())
}

fn switch_key(name: &str) -> String {
    format!("key-vim.host.VirtualSwitch-{name}")
}

fn port_group_key(name: &str) -> String {
    format!("key-vim.host.PortGroup-{name}")
}

impl World {
    /// `HostNetworkSystem.networkInfo`.
    pub(super) fn host_network(&self, host: &Host) -> HostNetworkInfo {
        let uplink = |name: &String| format!("key-vim.host.PhysicalNic-{name}");
        let switch = |s: &super::StandardSwitch| HostVirtualSwitch {
            name: s.name.clone(),
            key: switch_key(&s.name),
            // ESXi tells the elastic number, whatever was asked for.
            num_ports: 2560,
            num_ports_available: 2550,
            mtu: Some(s.mtu),
            portgroup: host
                .port_groups
                .iter()
                .filter(|p| p.switch == s.name)
                .map(|p| port_group_key(&p.name))
                .collect(),
            pnic: s.uplinks.iter().map(uplink).collect(),
            spec: HostVirtualSwitchSpec {
                num_ports: s.ports,
                mtu: Some(s.mtu),
                bridge: (!s.uplinks.is_empty()).then(|| {
                    HostVirtualSwitchBondBridge { nic_device: s.uplinks.clone(), ..Default::default() }.into()
                }),
                ..HostVirtualSwitchSpec::default()
            },
        };
        let port_group = |p: &PortGroup| HostPortGroup {
            key: Some(port_group_key(&p.name)),
            vswitch: Some(switch_key(&p.switch)),
            spec: HostPortGroupSpec {
                name: p.name.clone(),
                vlan_id: p.vlan,
                vswitch_name: p.switch.clone(),
                ..HostPortGroupSpec::default()
            },
            ..HostPortGroup::default()
        };
        HostNetworkInfo {
            vswitch: host.switches.iter().map(switch).collect(),
            portgroup: host.port_groups.iter().map(port_group).collect(),
            ..HostNetworkInfo::default()
        }
    }

    /// The hosts that reach a network.
    pub(super) fn hosts_with(&self, name: &str, network: &Network) -> Vec<Moref> {
        let reaches = |host: &Host| match network.kind {
            NetworkKind::Distributed { .. } => true,
            NetworkKind::Standard => host.port_groups.iter().any(|p| !p.kernel && network_name(&p.name) == name),
        };
        self.all(|o| matches!(o, Object::Host(host) if reaches(host)))
    }

    /// The networks that a host reaches.
    pub(super) fn networks_on(&self, host: &str) -> Vec<Moref> {
        let on = |e: &&Entry| match &e.object {
            Object::Network(network) => self.hosts_with(&e.name, network).iter().any(|h| h.value == host),
            _ => false,
        };
        self.entries().filter(on).map(Entry::moref).collect()
    }

    /// The folder that a host's networks are in: its datacenter's.
    fn network_folder(&self, host: &str) -> Option<String> {
        let mut at = self.get(host)?;
        loop {
            if let Object::Datacenter(centre) = &at.object {
                return Some(centre.network.clone());
            }
            at = self.get(at.parent.as_deref()?)?;
        }
    }

    /// The standard network that a port group of that name is a part of.
    pub(crate) fn standard_network(&self, port_group: &str) -> Option<(&Entry, &Network)> {
        let name = network_name(port_group);
        self.entries().find_map(|e| match &e.object {
            Object::Network(n) if e.name == name && matches!(n.kind, NetworkKind::Standard) => Some((e, n)),
            _ => None,
        })
    }

    /// Makes the network of a host's new port group, if no other host has made it, and gives its bridge.
    pub(crate) fn join_network(&mut self, host: &str, port_group: &str) -> Option<String> {
        if let Some((_, network)) = self.standard_network(port_group) {
            return Some(network.bridge.clone());
        }
        let parent = self.network_folder(host)?;
        let id = match self.shape() {
            Shape::Vcenter => self.fresh("network"),
            // The escaped name: the id is a file's name too.
            Shape::Esxi => format!("HaNetwork-{}", network_name(port_group)),
        };
        let bridge = bridge(port_group);
        let network = Network { bridge: bridge.clone(), kind: NetworkKind::Standard };
        let name = network_name(port_group);
        self.insert(Entry { id, name, parent: Some(parent), object: Object::Network(network) });
        Some(bridge)
    }

    /// Removes the network of a port group once the last host has given it up, and gives the bridge that is left over.
    pub(crate) fn leave_network(&mut self, port_group: &str) -> Option<String> {
        let (entry, network) = self.standard_network(port_group)?;
        if !self.hosts_with(&entry.name, network).is_empty() {
            return None;
        }
        let (id, bridge) = (entry.id.clone(), network.bridge.clone());
        self.remove(&id);
        Some(bridge)
    }
}

/// The inventory's name of a port group: escaped as all names are there.
fn network_name(port_group: &str) -> String {
    crate::api::escaped_name(port_group)
}
