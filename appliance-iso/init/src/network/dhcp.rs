//! Keeps a DHCP lease, by the library client mozim.

use mozim::{DhcpV4Client, DhcpV4Config, DhcpV4State};

/// A DHCP client on one link.
#[derive(Debug)]
pub(crate) struct Dhcp(DhcpV4Client);

impl Dhcp {
    /// Prepares a client; nothing is sent yet.
    pub(crate) async fn new(name: &str, index: u32, mac: &str, host_name: &str) -> Result<Self, mozim::DhcpError> {
        let mut config = DhcpV4Config::new(name);
        config.set_iface_index(index);
        config.set_iface_mac(mac)?;
        config.set_host_name(host_name);
        // The address stays with the NIC over reboots: the same identity as the firmware's and other systems' default.
        config.use_mac_as_client_id();
        Ok(Self(DhcpV4Client::init(config, None).await?))
    }

    /// Waits for the next lease: the first, a renewed one, or one after a loss.
    pub(crate) async fn lease(&mut self) -> Result<mozim::DhcpV4Lease, mozim::DhcpError> {
        loop {
            match self.0.run().await {
                Ok(DhcpV4State::Done(lease)) => return Ok(*lease),
                Ok(_) => {}
                Err(error) => {
                    self.0.clean_up();
                    return Err(error);
                }
            }
        }
    }
}
