//! One link's task.
//!
//! ```text
//! find by MAC -> name, up -> carrier -> static: apply, done
//!                                    -> DHCP: lease -> apply -> renew for ever
//! ```

use std::{net::IpAddr, time::Duration};

use pid1::network::{Kernel, KernelLink, Settings};
use tokio::time::sleep;

use super::{
    Resolver,
    dhcp::Dhcp,
    plan::{LinkPlan, Method, leased},
};
use crate::status::{Board, LinkFacts};

/// Pause before something that failed is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// Pause between two looks at the carrier.
const CARRIER: Duration = Duration::from_millis(20);
/// So many looks: a link whose driver never reports one is used all the same.
const CARRIER_LOOKS: u32 = 100;

/// Keeps one link as planned; ends for a link that needs no keeping.
pub(crate) async fn keep(plan: LinkPlan, host_name: String, board: Board, resolver: Resolver) {
    let tell = |problem: String| {
        log::warn!("{}: {problem}", plan.name);
        board.link(&plan.mac, LinkFacts { addresses: Vec::new(), problem });
    };
    let (kernel, link) = loop {
        match raise(&plan).await {
            Ok(found) => break found,
            Err(problem) => tell(problem),
        }
        sleep(RETRY).await;
    };
    let up = |settings: &Settings| {
        log::info!("{} ({}) has {}", plan.name, plan.port_group, settings.address);
        resolver.leased(&plan.name, settings.dns.iter().copied().map(IpAddr::V4));
        board.link(&plan.mac, LinkFacts { addresses: vec![settings.address.to_string()], problem: String::new() });
    };
    match &plan.method {
        Method::None => {}
        Method::Invalid(problem) => tell(problem.clone()),
        Method::Static(settings) => {
            while let Err(error) = kernel.apply(link.index, settings).await {
                tell(format!("cannot give the interface on {} its address: {error}", plan.port_group));
                sleep(RETRY).await;
            }
            up(settings);
        }
        Method::Dhcp { default_route } => loop {
            board.link(
                &plan.mac,
                LinkFacts {
                    addresses: Vec::new(),
                    problem: format!("waiting for a DHCP address on {} ({})", plan.port_group, plan.mac),
                },
            );
            let outcome: Result<std::convert::Infallible, String> = async {
                let failed = |e: mozim::DhcpError| format!("DHCP on {} failed: {e}", plan.port_group);
                let mut dhcp = Dhcp::new(&plan.name, link.index, &plan.mac, &host_name).await.map_err(failed)?;
                loop {
                    let settings = leased(&dhcp.lease().await.map_err(failed)?, *default_route);
                    kernel.apply(link.index, &settings).await.map_err(|error| {
                        format!("cannot give the interface on {} its address: {error}", plan.port_group)
                    })?;
                    up(&settings);
                }
            }
            .await;
            let Err(problem) = outcome;
            tell(problem);
            sleep(RETRY).await;
        },
    }
}

/// Finds the link, names it, brings it up and waits for its carrier.
async fn raise(plan: &LinkPlan) -> Result<(Kernel, KernelLink), String> {
    let failed = |e: &dyn std::fmt::Display| format!("cannot bring up the interface on {}: {e}", plan.port_group);
    let kernel = Kernel::connect().map_err(|e| failed(&e))?;
    let find = async || kernel.find(&plan.mac).await.map_err(|e| failed(&e));
    let link = find().await?.ok_or_else(|| {
        format!("this VM has no network card with the MAC address {} ({})", plan.mac, plan.port_group)
    })?;
    kernel.rename_and_raise(&link, &plan.name).await.map_err(|e| failed(&e))?;
    for _ in 0..CARRIER_LOOKS {
        if let Some(link) = find().await?.filter(|link| link.carrier) {
            return Ok((kernel, link));
        }
        sleep(CARRIER).await;
    }
    log::warn!("{} ({}) shows no carrier: is its network adapter connected?", plan.name, plan.port_group);
    Ok((kernel, link))
}
