//! The kernel's links, addresses and routes, through rtnetlink.

use std::net::{IpAddr, Ipv4Addr};

use futures_util::TryStreamExt;
use rtnetlink::{
    Handle, LinkUnspec, RouteMessageBuilder,
    packet_route::{
        address::AddressAttribute,
        link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage},
        route::RouteProtocol,
    },
};

use super::{Network, Settings};

/// The kernel's network configuration.
#[derive(Debug, Clone)]
pub struct Kernel(Handle);

/// A link as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelLink {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// The other side is there: frames can be sent.
    pub carrier: bool,
}

impl Kernel {
    /// Connects; to be called within the event loop.
    ///
    /// # Errors
    /// What the system says.
    pub fn connect() -> std::io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        Ok(Self(handle))
    }

    /// The link with this MAC address (lower case).
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn find(&self, mac: &str) -> Result<Option<KernelLink>, rtnetlink::Error> {
        let mut links = self.0.link().get().execute();
        while let Some(link) = links.try_next().await? {
            let found = link.attributes.iter().any(|attribute| match attribute {
                LinkAttribute::Address(bytes) => {
                    let text: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                    text.join(":") == mac
                }
                _ => false,
            });
            if found {
                return Ok(Some(kernel_link(&link)));
            }
        }
        Ok(None)
    }

    /// The first link that is a network card.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn first(&self) -> Result<Option<KernelLink>, rtnetlink::Error> {
        let mut links = self.0.link().get().execute();
        while let Some(link) = links.try_next().await? {
            if link.header.link_layer_type == LinkLayerType::Ether {
                return Ok(Some(kernel_link(&link)));
            }
        }
        Ok(None)
    }

    /// Gives a link, which must be down, its name, and brings it up.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn rename_and_raise(&self, link: &KernelLink, name: &str) -> Result<(), rtnetlink::Error> {
        if link.name != name {
            let named = LinkUnspec::new_with_index(link.index).name(name.to_owned()).build();
            self.0.link().set(named).execute().await?;
        }
        self.raise(link.index).await
    }

    /// Brings a link up.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn raise(&self, index: u32) -> Result<(), rtnetlink::Error> {
        self.0.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await
    }

    /// Makes `settings` what the link has: adds its address and routes, and removes other IPv4 addresses.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn apply(&self, index: u32, settings: &Settings) -> Result<(), rtnetlink::Error> {
        let Network { address, prefix } = settings.address;
        // `replace`: applying the same settings again (a renewed lease) changes nothing.
        self.0.address().add(index, IpAddr::V4(address), prefix).replace().execute().await?;
        self.remove_other_addresses(index, address).await?;
        for route in &settings.routes {
            let message = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(route.destination.base(), route.destination.prefix)
                .gateway(route.gateway)
                .output_interface(index)
                .priority(route.metric)
                .protocol(RouteProtocol::Static)
                .build();
            self.0.route().add(message).replace().execute().await?;
        }
        Ok(())
    }

    async fn remove_other_addresses(&self, index: u32, keep: Ipv4Addr) -> Result<(), rtnetlink::Error> {
        let mut addresses = self.0.address().get().set_link_index_filter(index).execute();
        let mut others = Vec::new();
        while let Some(message) = addresses.try_next().await? {
            let other = message
                .attributes
                .iter()
                .any(|a| matches!(a, AddressAttribute::Local(IpAddr::V4(address)) if *address != keep));
            if other {
                others.push(message);
            }
        }
        for message in others {
            self.0.address().del(message).execute().await?;
        }
        Ok(())
    }
}

fn kernel_link(link: &LinkMessage) -> KernelLink {
    let name = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    });
    let carrier = link.header.flags.contains(LinkFlags::LowerUp);
    KernelLink { index: link.header.index, name: name.unwrap_or_default(), carrier }
}
