//! RPCI: how a guest reads and writes its `guestinfo.*` keys, and how the host asks it to shut down.
//!
//! On VMware the carrier is the hypervisor's [`backdoor`] port; in the lab it is the third serial port, framed by
//! [`wire`].  Requests and replies are the same bytes on both.  [`Channel::open`] chooses by CPUID.
//!
//! Two conversations run side by side.  In **RPCI** the guest asks and the host answers ([`Channel::get`],
//! [`Channel::set`], [`Channel::request`]).  In **TCLO** the host asks and the guest answers ([`tclo`]): a thread of the
//! channel answers what VMware's own tools would, and hands what the guest must act upon ([`HostRequest`]) to the owner.

pub mod backdoor;
mod channel;
mod keys;
mod serial;
pub mod tclo;
pub mod wire;

pub use channel::{Carrier, Channel, Error, Options, SERIAL_PATH, Selection};
pub use keys::Keys;
pub use serial::{Serial, Timing, open as open_serial};
pub use tclo::HostRequest;
