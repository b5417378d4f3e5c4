//! The container's interfaces.

use std::time::Duration;

use pid1::network::{Kernel, Network, Route, Settings};
use tether_proto::Interface;
use tokio::time::{Instant, sleep};

/// How long a card may take to appear.
const LIMIT: Duration = Duration::from_secs(30);
/// Pause between two looks for it.
const LOOK: Duration = Duration::from_millis(20);
/// The kernel's number of the loopback link, the first that it makes.
const LOOPBACK: u32 = 1;

/// Brings the container's links up.
pub trait Links {
    /// Brings them up.
    ///
    /// # Errors
    /// A sentence that names the interface.
    fn bring_up(&self, interfaces: &[Interface]) -> impl Future<Output = Result<(), String>>;
}

/// The kernel's links.
#[derive(Debug, Clone, Copy)]
pub struct KernelLinks;

impl Links for KernelLinks {
    async fn bring_up(&self, interfaces: &[Interface]) -> Result<(), String> {
        let kernel = Kernel::connect().map_err(|e| format!("cannot reach the kernel's network: {e}"))?;
        kernel.raise(LOOPBACK).await.map_err(|e| format!("cannot bring up the loopback interface: {e}"))?;
        for interface in interfaces {
            let failed = |e: &dyn std::fmt::Display| format!("cannot bring up {}: {e}", interface.name);
            let start = Instant::now();
            let link = loop {
                let found = match interface.mac.as_str() {
                    "" => kernel.first().await,
                    mac => kernel.find(&mac.to_ascii_lowercase()).await,
                };
                if let Some(link) = found.map_err(|e| failed(&e))? {
                    break link;
                }
                if start.elapsed() > LIMIT {
                    return Err(failed(&format!("this VM has no network card with the MAC address {}", interface.mac)));
                }
                sleep(LOOK).await;
            };
            let settings = settings(interface)?;
            use_own_address(&link.name);
            kernel.rename_and_raise(&link, &interface.name).await.map_err(|e| failed(&e))?;
            if let Some(settings) = settings {
                kernel.apply(link.index, &settings).await.map_err(|e| failed(&e))?;
            }
        }
        Ok(())
    }
}

/// Has the link-local address used at once.  It is made of the card's address, which is nobody else's: asking around for a
/// second whether it is would only keep the control channel waiting.
fn use_own_address(link: &str) {
    let path = format!("/proc/sys/net/ipv6/conf/{link}/accept_dad");
    if let Err(error) = std::fs::write(&path, "0") {
        log::warn!("{path}: {error}");
    }
}

/// What an interface gets; `None` when it has no address.
fn settings(interface: &Interface) -> Result<Option<Settings>, String> {
    if interface.address.is_empty() {
        return Ok(None);
    }
    let address = Network::parse(&interface.address)
        .ok_or_else(|| format!("{}: {:?} is not an IPv4 address/prefix", interface.name, interface.address))?;
    let routes =
        interface.gateway.map(|gateway| Route { destination: Network::ALL, gateway, metric: 0 }).into_iter().collect();
    Ok(Some(Settings { address, routes, dns: Vec::new() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_is_the_default_route() {
        let mut interface = Interface {
            mac: String::new(),
            name: "eth0".into(),
            address: "172.16.0.2/16".into(),
            gateway: Some([172, 16, 0, 1].into()),
        };
        let found = settings(&interface).unwrap().unwrap();
        assert_eq!((found.address.to_string().as_str(), found.routes.len()), ("172.16.0.2/16", 1));
        assert_eq!(found.routes[0].destination, Network::ALL);
        "172.16.0.2".clone_into(&mut interface.address);
        assert!(settings(&interface).unwrap_err().contains("eth0"));
        interface.address.clear();
        assert_eq!(settings(&interface), Ok(None));
    }
}
