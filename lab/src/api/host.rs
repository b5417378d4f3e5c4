//! A host's sub-systems: its own switches and port groups, its firewall.
//!
//! A port group is a row of its host; the network of the inventory comes with the first row of its name and goes with
//! the last (`World::join_network`, `World::leave_network`), and the bridge in the lab's namespace with it.

use vim25_types::soap::Fault;
use vim25_types::{
    AnyHostVirtualSwitchBridge as Bridge, HostVirtualSwitchSpec, ManagedObjectReference as Moref, methods as m,
};

use super::dispatch::Cx;
use super::fault;
use super::select::whole;
use crate::world::{Object, PortGroup, StandardSwitch, UPLINK, World};

/// Longest name of a standard switch on ESXi.
const MAX_SWITCH_NAME: usize = 31;

/// Longest name of a port group, bytes.
const MAX_PORT_GROUP_NAME: usize = 80;

/// The host that a sub-system belongs to, and the host's own part.
fn host<'w>(world: &'w World, this: &Moref, system: &str) -> Result<(String, &'w crate::world::Host), Fault> {
    let id = whole(this, system).unwrap_or_default();
    match world.get(id).map(|e| &e.object) {
        Some(Object::Host(host)) => Ok((id.to_owned(), host)),
        _ => Err(fault::not_found(this)),
    }
}

fn host_mut<'w>(world: &'w mut World, this: &Moref, system: &str) -> Result<&'w mut crate::world::Host, Fault> {
    match world.get_mut(whole(this, system).unwrap_or_default()).map(|e| &mut e.object) {
        Some(Object::Host(host)) => Ok(host),
        _ => Err(fault::not_found(this)),
    }
}

// Switches and port groups.

const NETWORK: &str = "networkSystem";

/// A new switch's row: what the spec asks for, checked.
fn switch(name: &str, spec: &HostVirtualSwitchSpec, host: &crate::world::Host) -> Result<StandardSwitch, Fault> {
    if name.trim().is_empty() || name.chars().count() > MAX_SWITCH_NAME {
        return Err(fault::invalid_argument("vswitchName", "it has 1 to 31 characters"));
    }
    if !(0..=4088).contains(&spec.num_ports) {
        return Err(fault::invalid_argument("spec.numPorts", "it is 0 to 4088"));
    }
    let mtu = spec.mtu.unwrap_or(1500);
    if !(1280..=9000).contains(&mtu) {
        return Err(fault::invalid_argument("spec.mtu", "it is 1280 to 9000"));
    }
    let uplinks = match &spec.bridge {
        Some(Bridge::HostVirtualSwitchBondBridge(bond)) => bond.nic_device.clone(),
        None => Vec::new(),
        Some(_) => return Err(fault::invalid_argument("spec.bridge", "a bond bridge is the one that there is")),
    };
    if let Some(unknown) = uplinks.iter().find(|nic| *nic != UPLINK) {
        return Err(fault::invalid_argument("spec.bridge.nicDevice", unknown));
    }
    if let Some(taken) = uplinks.iter().find(|nic| host.switches.iter().any(|s| s.uplinks.contains(nic))) {
        return Err(fault::resource_in_use("PhysicalNic", taken));
    }
    Ok(StandardSwitch { name: name.into(), ports: spec.num_ports, mtu, uplinks })
}

pub(super) async fn add_switch(cx: &Cx, request: m::AddVirtualSwitch) -> Result<(), Fault> {
    cx.lab.change(|w| {
        let (_, host) = host(w, &request.this, NETWORK)?;
        let switch = switch(&request.vswitch_name, &request.spec.unwrap_or_default(), host)?;
        if host.switches.iter().any(|s| s.name == switch.name) {
            return Err(fault::already_exists(&switch.name));
        }
        host_mut(w, &request.this, NETWORK)?.switches.push(switch);
        Ok(())
    })
}

pub(super) async fn remove_switch(cx: &Cx, request: m::RemoveVirtualSwitch) -> Result<(), Fault> {
    let name = &request.vswitch_name;
    let groups: Vec<String> = cx.lab.read(|w| {
        let (_, host) = host(w, &request.this, NETWORK)?;
        if !host.switches.iter().any(|s| s.name == *name) {
            return Err(fault::no_such("virtual switch", name));
        }
        Ok(host.port_groups.iter().filter(|p| p.switch == *name).map(|p| p.name.clone()).collect())
    })?;
    let bridges = cx.lab.change(|w| {
        for group in &groups {
            check_unused(w, &request.this, group).map_err(|_| fault::resource_in_use("HostVirtualSwitch", name))?;
        }
        let host = host_mut(w, &request.this, NETWORK)?;
        host.switches.retain(|s| s.name != *name);
        host.port_groups.retain(|p| p.switch != *name);
        Ok::<_, Fault>(groups.iter().filter_map(|group| w.leave_network(group)).collect::<Vec<_>>())
    })?;
    cut(cx, &bridges);
    Ok(())
}

pub(super) async fn add_port_group(cx: &Cx, request: m::AddPortGroup) -> Result<(), Fault> {
    let spec = request.portgrp;
    let bridge = cx.lab.change(|w| {
        let (id, host) = host(w, &request.this, NETWORK)?;
        if spec.name.trim().is_empty() || spec.name.len() > MAX_PORT_GROUP_NAME {
            return Err(fault::invalid_argument("portgrp.name", "it has 1 to 80 bytes"));
        }
        if !(0..=4095).contains(&spec.vlan_id) {
            return Err(fault::invalid_argument("portgrp.vlanId", "it is 0 to 4095"));
        }
        if host.port_groups.iter().any(|p| p.name == spec.name) {
            return Err(fault::already_exists(&spec.name));
        }
        if !host.switches.iter().any(|s| s.name == spec.vswitch_name) {
            return Err(fault::no_such("virtual switch", &spec.vswitch_name));
        }
        let (name, switch, vlan) = (spec.name.clone(), spec.vswitch_name.clone(), spec.vlan_id);
        host_mut(w, &request.this, NETWORK)?.port_groups.push(PortGroup { name, switch, vlan, kernel: false });
        w.join_network(&id, &spec.name).ok_or_else(|| fault::not_found(&request.this))
    })?;
    cx.lab.network().add_bridge(&bridge).map_err(|error| {
        // Without its wire the port group is none.
        cx.lab.change(|w| {
            if let Ok(host) = host_mut(w, &request.this, NETWORK) {
                host.port_groups.retain(|p| p.name != spec.name);
            }
            w.leave_network(&spec.name);
        });
        fault::system(&error)
    })
}

pub(super) async fn remove_port_group(cx: &Cx, request: m::RemovePortGroup) -> Result<(), Fault> {
    let name = &request.pg_name;
    let bridge = cx.lab.change(|w| {
        check_unused(w, &request.this, name)?;
        host_mut(w, &request.this, NETWORK)?.port_groups.retain(|p| p.name != *name);
        Ok::<_, Fault>(w.leave_network(name))
    })?;
    cut(cx, bridge.as_slice());
    Ok(())
}

/// Whether the port group may go: it exists, and neither the host itself nor a VM on the host has an adapter on it.
fn check_unused(world: &World, this: &Moref, name: &str) -> Result<(), Fault> {
    let (id, host) = host(world, this, NETWORK)?;
    let group = host.port_groups.iter().find(|p| p.name == name);
    let group = group.ok_or_else(|| fault::no_such("port group", name))?;
    let network = world.standard_network(name).map(|(e, _)| e.moref());
    let used = world.vms().any(|(_, vm)| {
        vm.host == id && network.as_ref().is_some_and(|network| world.networks_of(vm).contains(network))
    });
    if used || group.kernel { Err(fault::resource_in_use("HostPortGroup", name)) } else { Ok(()) }
}

/// Removes bridges that no port group has any more.
fn cut(cx: &Cx, bridges: &[String]) {
    for bridge in bridges {
        if let Err(error) = cx.lab.network().remove_bridge(bridge) {
            tracing::warn!("{bridge} stays behind: {}", error.chain());
        }
    }
}

// Firewall.

fn set_ruleset(cx: &Cx, this: &Moref, id: &str, enabled: bool) -> Result<(), Fault> {
    cx.lab.change(|w| {
        let state = host_mut(w, this, "firewallSystem")?.firewall.get_mut(id);
        *state.ok_or_else(|| fault::no_such("rule set", id))? = enabled;
        Ok(())
    })
}

pub(super) async fn enable_ruleset(cx: &Cx, request: m::EnableRuleset) -> Result<(), Fault> {
    set_ruleset(cx, &request.this, &request.id, true)
}

pub(super) async fn disable_ruleset(cx: &Cx, request: m::DisableRuleset) -> Result<(), Fault> {
    set_ruleset(cx, &request.this, &request.id, false)
}

/// Reads the rule sets anew from the host's files; the lab's hosts have none that could differ.
pub(super) async fn refresh_firewall(_: &Cx, _: m::RefreshFirewall) -> Result<(), Fault> {
    Ok(())
}
