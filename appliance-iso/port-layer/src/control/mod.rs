//! The endpoint VM's end of the control channel: who the containers are, and the lines to them.
//!
//! ```text
//! container created -> Authority issues its certificate -> tether dials -> Switchboard: certificate, address, hello -> Line
//! ```
//! The authority's key is one of the VCH's secrets; what it issues stands in the containers' own VMs.  So an endpoint VM that
//! was started again knows every container, and every container knows it.

mod authority;
mod listen;
mod switchboard;
mod wire;

pub use authority::{Authority, AuthorityError};
pub use listen::bind_bridge;
pub use switchboard::{Line, Switchboard};
pub use tether_proto::control as proto;
pub use wire::{Client, Wire};

use std::net::IpAddr;

use tether_proto::control::link_local;

use crate::container::audience::Audience;
use crate::container::events::History;
use crate::container::exec::Execs;
use crate::container::health::Healths;

/// What the endpoint VM has of the control channel; clones share it.
#[derive(Debug, Clone)]
pub struct Guests {
    authority: std::sync::Arc<Authority>,
    /// The address at which containers reach it.
    address: std::net::Ipv6Addr,
    /// Lines to the containers.
    pub switchboard: Switchboard,
    /// Further processes in them.
    pub(crate) execs: Execs,
    /// How they are.
    pub(crate) healths: Healths,
    /// Who is attached to them.
    pub(crate) audience: Audience,
}

impl Guests {
    /// The containers of the VCH `vch`, whose authority's private key is `key_pem`; they call at `address`.  `is_at` says
    /// whether there is a container of some id at some address.
    ///
    /// # Errors
    /// [`AuthorityError`] when the key is none.
    pub fn new(
        vch: &str,
        key_pem: &secret::Secret,
        address: std::net::Ipv6Addr,
        is_at: impl Fn(&str, IpAddr) -> bool + Send + Sync + 'static,
    ) -> Result<Self, AuthorityError> {
        let authority = Authority::open(vch, key_pem)?;
        let switchboard = Switchboard::new(&authority, Box::new(is_at))?;
        Ok(Self {
            authority: authority.into(),
            address,
            switchboard,
            execs: Execs::default(),
            healths: Healths::default(),
            audience: Audience::default(),
        })
    }

    /// What container `id` is told of the way here.
    ///
    /// # Errors
    /// [`AuthorityError`] when it cannot be given a certificate.
    pub fn way_for(&self, id: &str) -> Result<tether_proto::Control, AuthorityError> {
        let (cert_pem, key_pem) = self.authority.issue(id)?;
        Ok(tether_proto::Control {
            address: self.address,
            port: proto::PORT,
            ca_pem: self.authority.ca_pem().to_owned(),
            cert_pem,
            key_pem,
        })
    }
}

/// Whether a container of that id was seen last, and its card has that address.
pub fn is_at(history: &History, id: &str, from: IpAddr) -> bool {
    history.look(|table| {
        let Some(Ok(container)) = table.map(|table| table.find(id)) else { return false };
        // Where the card's address is not known, the certificate alone tells.
        container.record.id == id && link_local(&container.mac).is_none_or(|own| from == IpAddr::V6(own))
    })
}
