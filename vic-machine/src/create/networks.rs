//! Network roles: which network serves each, and how its address is set.

use std::net::{IpAddr, Ipv4Addr};

use vch_config::{Addressing, Role};

use super::settings::RoleNetwork;
use crate::cli::CreateArgs;
use crate::problem::Problem;

/// Reads the network options and checks them against each other.
pub(super) fn resolve(args: &CreateArgs) -> Result<Vec<RoleNetwork>, Problem> {
    let public = args.public_network.clone();
    let client = args.client_network.clone().unwrap_or_else(|| public.clone());
    let management = args.management_network.clone().unwrap_or_else(|| client.clone());
    let bridge = args.bridge_network.clone().unwrap_or_else(|| args.name.clone());
    let given = [
        (Role::Public, public, &args.public_network_ip, &args.public_network_gateway),
        (Role::Client, client, &args.client_network_ip, &args.client_network_gateway),
        (Role::Management, management, &args.management_network_ip, &args.management_network_gateway),
    ];
    let mut networks: Vec<RoleNetwork> = Vec::new();
    for (role, network, ip, gateway) in given {
        if network == bridge {
            return Err(Problem::validation(format!("--bridge-network {bridge:?} cannot be used"))
                .why(format!(
                    "the bridge network must not be shared with another network role - {bridge:?} is also the {} network",
                    role.name()
                ))
                .remedy("give the containers a port group of their own with --bridge-network"));
        }
        let addressing = addressing(role, ip.as_deref(), gateway.as_deref())?;
        if let Addressing::Static { .. } = addressing
            && role != Role::Public
            && network == args.public_network
        {
            return Err(Problem::validation(format!("--{}-network-ip cannot be used", role.name()))
                .why(format!("the {} network is the public network, and they share one address", role.name()))
                .remedy("give the address with --public-network-ip"));
        }
        if let Addressing::Static { .. } = addressing
            && let Some(other) = networks.iter().find(|n| n.network == network && n.addressing != Addressing::Dhcp)
        {
            return Err(Problem::validation(format!("--{}-network-ip cannot be used", role.name()))
                .why(format!("it shares network {network:?} with the {} role, which has an address", other.role.name()))
                .remedy("give one address for the network"));
        }
        networks.push(RoleNetwork { role, network, addressing });
    }
    if let Addressing::Static { gateway: None, .. } = networks[0].addressing {
        return Err(Problem::validation("--public-network-gateway is missing")
            .why("a static public address needs the gateway of the default route")
            .remedy("give it with --public-network-gateway"));
    }
    networks.push(RoleNetwork { role: Role::Bridge, network: bridge, addressing: Addressing::None });
    Ok(networks)
}

fn addressing(role: Role, ip: Option<&str>, gateway: Option<&str>) -> Result<Addressing, Problem> {
    let flag = format!("--{}-network-ip", role.name());
    let Some(address) = ip else {
        return match gateway {
            None => Ok(Addressing::Dhcp),
            Some(_) => Err(Problem::validation(format!("--{}-network-gateway needs {flag}", role.name()))
                .why("with DHCP the gateway comes from the network's DHCP server")),
        };
    };
    let fault = |why: String| {
        Problem::validation(format!("{flag} {address:?} cannot be used")).why(why).remedy("write it as 192.0.2.10/24")
    };
    let (host, prefix) = address.split_once('/').ok_or_else(|| fault("it has no prefix length".into()))?;
    let host: Ipv4Addr = host.parse().map_err(|_| fault(format!("{host:?} is no IPv4 address")))?;
    let prefix: u32 = prefix
        .parse()
        .ok()
        .filter(|p| (1..=32).contains(p))
        .ok_or_else(|| fault(format!("{prefix:?} is no prefix length")))?;
    let (destinations, gateway) = match gateway {
        None => (Vec::new(), None),
        Some(text) => split_gateway(role, text, host, prefix)?,
    };
    Ok(Addressing::Static { address: format!("{host}/{prefix}"), gateway, destinations })
}

/// `[CIDR,CIDR:]IP`
fn split_gateway(
    role: Role,
    text: &str,
    host: Ipv4Addr,
    prefix: u32,
) -> Result<(Vec<String>, Option<IpAddr>), Problem> {
    let flag = format!("--{}-network-gateway", role.name());
    let fault = |why: String| Problem::validation(format!("{flag} {text:?} cannot be used")).why(why);
    let (destinations, gateway) = text.rsplit_once(':').unwrap_or(("", text));
    let gateway: Ipv4Addr = gateway.parse().map_err(|_| fault(format!("{gateway:?} is no IPv4 address")))?;
    let mask = u32::MAX.checked_shl(32 - prefix).unwrap_or(0);
    if u32::from(gateway) & mask != u32::from(host) & mask {
        return Err(fault(format!("it is not in the subnet of {host}/{prefix}")));
    }
    let destinations: Vec<String> = destinations.split(',').filter(|d| !d.is_empty()).map(str::to_owned).collect();
    for d in &destinations {
        let good = d
            .split_once('/')
            .is_some_and(|(a, p)| a.parse::<Ipv4Addr>().is_ok() && p.parse::<u8>().is_ok_and(|p| p <= 32));
        if !good {
            return Err(fault(format!("{d:?} is no network like 10.0.0.0/8")));
        }
    }
    match role {
        Role::Public if !destinations.is_empty() => {
            Err(fault("the public gateway is the default route and takes no destinations".into()))
        }
        Role::Client | Role::Management if destinations.is_empty() => {
            Err(fault("it needs the networks that lie behind it, as in 10.0.0.0/8:192.0.2.1".into())
                .remedy("the default route is the public network's"))
        }
        _ => Ok((destinations, Some(gateway.into()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Command, parse};

    fn networks(extra: &[&str]) -> Result<Vec<RoleNetwork>, String> {
        let words =
            ["vic-machine", "create", "--bridge-network", "br"].iter().chain(extra).map(std::ffi::OsString::from);
        match parse(words).map(|c| c.command) {
            Ok(Command::Create(args)) => resolve(&args).map_err(|p| p.to_string()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn client_follows_public_and_management_follows_client() {
        let got = networks(&["--client-network", "C"]).unwrap();
        let names: Vec<&str> = got.iter().map(|n| n.network.as_str()).collect();
        assert_eq!(names, ["VM Network", "C", "C", "br"]);
    }

    #[test]
    fn mistakes_are_named() {
        for (options, text) in [
            (&["--public-network", "br"][..], "must not be shared with another network role"),
            (&["--public-network-ip", "10.0.0.5"], "no prefix length"),
            (&["--public-network-ip", "10.0.0.5/24"], "gateway is missing"),
            (&["--public-network-gateway", "10.0.0.1"], "needs --public-network-ip"),
            (&["--public-network-ip", "10.0.0.5/24", "--public-network-gateway", "10.0.1.1"], "not in the subnet"),
            (
                &["--public-network-ip", "10.0.0.5/24", "--public-network-gateway", "10.0.0.0/8:10.0.0.1"],
                "takes no destinations",
            ),
            (&["--client-network-ip", "10.0.0.5/24"], "share one address"),
            (
                &["--cln", "C", "--client-network-ip", "10.0.0.5/24", "--client-network-gateway", "10.0.0.1"],
                "networks that lie behind it",
            ),
        ] {
            let got = networks(options).unwrap_err();
            assert!(got.contains(text), "{options:?}: {got}");
        }
    }
}
