//! Where containers call: the endpoint VM's own link-local address on the bridge network, and nowhere else.

use std::io;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::path::Path;

use tether_proto::control::PORT;
use tokio::net::TcpListener;

/// Listens on the link with the MAC address `mac`, at `address`.
///
/// # Errors
/// [`io::ErrorKind::NotFound`] while there is no such link, `AddrNotAvailable` while it has no such address: right after it
/// came up the kernel looks for a second whether somebody else has it.
pub async fn bind_bridge(mac: &str, address: Ipv6Addr) -> io::Result<TcpListener> {
    let index = link(Path::new("/sys/class/net"), mac)?;
    TcpListener::bind(SocketAddrV6::new(address, PORT, 0, index)).await
}

/// The number of the link with this MAC address.
fn link(links: &Path, mac: &str) -> io::Result<u32> {
    for entry in std::fs::read_dir(links)?.flatten() {
        let read = |name: &str| std::fs::read_to_string(entry.path().join(name)).unwrap_or_default();
        if read("address").trim().eq_ignore_ascii_case(mac)
            && let Ok(index) = read("ifindex").trim().parse()
        {
            return Ok(index);
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, format!("there is no network card with the MAC address {mac}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_found_by_its_mac() {
        let folder = tempfile::tempdir().unwrap();
        for (name, mac, index) in [("lo", "00:00:00:00:00:00", "1"), ("bridge", "00:50:56:aa:bb:cc", "3")] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
            std::fs::write(folder.path().join(name).join("address"), format!("{mac}\n")).unwrap();
            std::fs::write(folder.path().join(name).join("ifindex"), format!("{index}\n")).unwrap();
        }
        assert_eq!(link(folder.path(), "00:50:56:AA:bb:cc").unwrap(), 3);
        assert!(link(folder.path(), "00:50:56:00:00:00").unwrap_err().to_string().contains("00:50:56:00:00:00"));
    }
}
