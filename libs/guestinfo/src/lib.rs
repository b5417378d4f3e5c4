//! RPCI: how a guest reads and writes its `guestinfo.*` keys, and how the host asks it to shut down.
//!
//! On VMware the carrier is the hypervisor's backdoor port; in the lab it is the third serial port, framed by [`wire`].
//! Requests and replies are the same bytes on both.

pub mod wire;
