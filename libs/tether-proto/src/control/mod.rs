//! The control channel: gRPC on a connection that tether dials and on which it then is the server.
//!
//! ```text
//! tether -- TCP over IPv6 link-local --> endpoint VM, port PORT
//! tether == TLS 1.3, both with certificates of the VCH's own CA, ALPN ==> endpoint VM
//! tether <-- HTTP/2, gRPC: proto/control.proto -- endpoint VM
//! ```
//! A container's certificate names the container, and nothing else says who it is.

#[allow(
    missing_debug_implementations,
    unused_qualifications,
    clippy::pedantic,
    clippy::large_futures,
    reason = "generated"
)]
mod generated;

use std::net::Ipv6Addr;

pub use generated::*;

use crate::record;

/// TCP port of the endpoint VM on the bridge network.
pub const PORT: u16 = 2377;
/// What both sides say in TLS that they speak.
pub const ALPN: &[u8] = b"vic-tether";
/// The name in the endpoint's certificate.
pub const ENDPOINT_NAME: &str = "endpoint.vch.internal";
/// Bytes of input or output in one message at most.
pub const MAX_BYTES: usize = 16 * 1024;
/// Seconds between two looks whether a silent connection is alive, and how long the other side may take to say so.
pub const ALIVE_SECONDS: u64 = 5;

/// Begins the name in a container's certificate.
const CONTAINER: &str = "vic:container:";

/// The name in the certificate of container `id`: a URI among its alternative names.
pub fn container_uri(id: &str) -> String {
    format!("{CONTAINER}{id}")
}

/// The container that such a name means.
pub fn container_of(uri: &str) -> Option<&str> {
    uri.strip_prefix(CONTAINER).filter(|id| !id.is_empty())
}

/// The link-local address that the kernel gives a card with this MAC address (RFC 4291, appendix A); none for what is no
/// MAC address.
pub fn link_local(mac: &str) -> Option<Ipv6Addr> {
    let bytes: Vec<u8> = mac.split(':').map(|b| u8::from_str_radix(b, 16)).collect::<Result<_, _>>().ok()?;
    let [a, b, c, d, e, f] = bytes.try_into().ok()?;
    Some(Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f]))
}

impl From<record::Stream> for Stream {
    fn from(stream: record::Stream) -> Self {
        match stream {
            record::Stream::Stdout => Self::Stdout,
            record::Stream::Stderr => Self::Stderr,
        }
    }
}

impl From<Stream> for record::Stream {
    /// A stream that a newer version has counts as standard output.
    fn from(stream: Stream) -> Self {
        match stream {
            Stream::Stderr => Self::Stderr,
            Stream::Stdout | Stream::Unspecified => Self::Stdout,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificates_name_means_a_container() {
        assert_eq!(container_of(&container_uri("c1")), Some("c1"));
        assert_eq!([container_of("vic:container:"), container_of("spiffe://x/c1")], [None, None]);
    }

    #[test]
    fn a_link_local_address_is_the_cards() {
        assert_eq!(link_local("00:50:56:a1:02:03"), "fe80::250:56ff:fea1:203".parse().ok());
        assert_eq!([link_local("00:50:56"), link_local(""), link_local("00:50:56:a1:02:zz")], [None; 3]);
    }
}
