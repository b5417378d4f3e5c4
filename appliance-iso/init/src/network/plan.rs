//! What each link is to be: a pure function of the configuration.

use std::net::{IpAddr, Ipv4Addr};

use pid1::network::{Network, Route, Settings};
use vch_config::{Addressing, Interface, Role, VchConfig};

/// Metric of the default route of the public link, and of one that another link is told to have.
const PUBLIC_METRIC: u32 = 100;
const OTHER_METRIC: u32 = 200;

/// How a link gets its settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Method {
    /// From DHCP; the default route of the lease is taken or not.
    Dhcp { default_route: bool },
    /// As given.
    Static(Settings),
    /// None: the link is up and that is all.
    None,
    /// The configuration contradicts itself.
    Invalid(String),
}

/// One link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LinkPlan {
    pub(crate) mac: String,
    pub(crate) port_group: String,
    pub(crate) name: String,
    /// Whether it carries the Docker API.
    pub(crate) client: bool,
    pub(crate) method: Method,
}

/// One plan for each interface of the configuration.
pub(crate) fn plan(config: &VchConfig) -> Vec<LinkPlan> {
    config
        .interfaces
        .iter()
        .enumerate()
        .map(|(index, interface)| LinkPlan {
            mac: interface.mac.to_ascii_lowercase(),
            port_group: interface.port_group.clone(),
            name: interface.roles.first().map_or_else(|| format!("link{index}"), |role| role.name().to_owned()),
            client: interface.roles.contains(&Role::Client),
            method: method(interface),
        })
        .collect()
}

fn method(interface: &Interface) -> Method {
    let public = interface.roles.contains(&Role::Public);
    match &interface.ipv4 {
        Addressing::Dhcp => Method::Dhcp { default_route: public },
        Addressing::None => Method::None,
        Addressing::Static { address, gateway, destinations } => match fixed(address, *gateway, destinations, public) {
            Ok(settings) => Method::Static(settings),
            Err(problem) => Method::Invalid(format!("the interface on {}: {problem}", interface.port_group)),
        },
    }
}

fn fixed(address: &str, gateway: Option<IpAddr>, destinations: &[String], public: bool) -> Result<Settings, String> {
    let network = |text: &str| Network::parse(text).ok_or_else(|| format!("{text:?} is not an IPv4 address/prefix"));
    let address = network(address)?;
    let routes = match gateway {
        None => Vec::new(),
        Some(IpAddr::V6(gateway)) => return Err(format!("the gateway {gateway} is not an IPv4 address")),
        Some(IpAddr::V4(gateway)) => {
            let metric = if public { PUBLIC_METRIC } else { OTHER_METRIC };
            let all = if destinations.is_empty() {
                vec![Network::ALL]
            } else {
                destinations.iter().map(|text| network(text)).collect::<Result<_, _>>()?
            };
            all.into_iter().map(|destination| Route { destination, gateway, metric }).collect()
        }
    };
    Ok(Settings { address, routes, dns: Vec::new() })
}

/// The settings that a lease amounts to.
pub(crate) fn leased(lease: &mozim::DhcpV4Lease, default_route: bool) -> Settings {
    // RFC 3442: with classless routes in the lease, its router option does not count.
    let offered: Vec<(Network, Ipv4Addr)> = match &lease.classless_routes {
        Some(routes) => {
            routes.iter().map(|r| (Network { address: r.destination, prefix: r.prefix_length }, r.router)).collect()
        }
        None => lease.gateways.iter().flatten().take(1).map(|gateway| (Network::ALL, *gateway)).collect(),
    };
    let routes = offered
        .into_iter()
        .filter(|(destination, gateway)| (default_route || destination.prefix != 0) && !gateway.is_unspecified())
        .map(|(destination, gateway)| Route { destination, gateway, metric: PUBLIC_METRIC })
        .collect();
    Settings {
        address: Network { address: lease.yiaddr, prefix: lease.prefix_length() },
        routes,
        dns: lease.dns_srvs.clone().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documents::tests::config;

    fn interface(roles: &[Role], ipv4: Addressing) -> Interface {
        Interface {
            mac: "00:50:56:AA:00:01".into(),
            port_group: "VM Network".into(),
            network: "n".into(),
            roles: roles.to_vec(),
            ipv4,
        }
    }

    fn of(roles: &[Role], ipv4: Addressing) -> LinkPlan {
        let mut config = config();
        config.interfaces = vec![interface(roles, ipv4)];
        plan(&config).remove(0)
    }

    fn fixed(gateway: Option<&str>, destinations: &[&str]) -> Addressing {
        Addressing::Static {
            address: "192.0.2.7/24".into(),
            gateway: gateway.map(|g| g.parse().unwrap()),
            destinations: destinations.iter().map(|d| (*d).to_owned()).collect(),
        }
    }

    #[test]
    fn a_link_is_named_after_its_first_role_and_found_by_lower_case_mac() {
        let link = of(&[Role::Client, Role::Management], Addressing::Dhcp);
        assert_eq!((link.name.as_str(), link.mac.as_str(), link.client), ("client", "00:50:56:aa:00:01", true));
        assert_eq!(link.method, Method::Dhcp { default_route: false });
        assert_eq!(of(&[Role::Public], Addressing::Dhcp).method, Method::Dhcp { default_route: true });
    }

    #[test]
    fn a_gateway_without_destinations_is_the_default_route_and_the_public_one_wins() {
        let metric = |roles: &[Role]| match of(roles, fixed(Some("192.0.2.1"), &[])).method {
            Method::Static(settings) => {
                assert_eq!(settings.routes[0].destination, Network::ALL);
                settings.routes[0].metric
            }
            other => panic!("{other:?}"),
        };
        assert!(metric(&[Role::Public]) < metric(&[Role::Management]));
    }

    #[test]
    fn destinations_limit_the_gateway() {
        let Method::Static(settings) = of(&[Role::Management], fixed(Some("192.0.2.1"), &["10.1.2.3/8"])).method else {
            panic!("not static");
        };
        assert_eq!(settings.routes[0].destination.base(), Ipv4Addr::new(10, 0, 0, 0));
    }

    #[test]
    fn what_is_not_an_address_is_named() {
        for ipv4 in [fixed(Some("fe80::1"), &[]), fixed(Some("192.0.2.1"), &["10.0.0.0/33"])] {
            assert!(matches!(of(&[Role::Public], ipv4).method, Method::Invalid(text) if text.contains("VM Network")));
        }
    }

    #[test]
    fn a_lease_gives_a_default_route_to_the_public_link_only() {
        let mut lease = mozim::DhcpV4Lease::default();
        lease.yiaddr = Ipv4Addr::new(10, 0, 2, 15);
        lease.subnet_mask = Ipv4Addr::new(255, 255, 255, 0);
        lease.gateways = Some(vec![Ipv4Addr::new(10, 0, 2, 2)]);
        assert_eq!(leased(&lease, true).routes.len(), 1);
        assert_eq!(leased(&lease, false).routes, []);
        assert_eq!(leased(&lease, true).address.to_string(), "10.0.2.15/24");
    }
}
