//! Ports of the machine that lead to ports of VMs.
//!
//! A plain forwarder: it listens on the machine and connects inside the namespace.  Which address a VM has is asked at
//! each connection, so a publication outlives reboots and may be made before its VM exists.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::Network;
use crate::error::{Error, Result};

/// Finds the guest address of a VM by its name.
pub(crate) type Resolve = Arc<dyn Fn(&str) -> Option<Ipv4Addr> + Send + Sync>;

/// Where a published port leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Target {
    /// The VM's name.
    pub vm: String,
    /// The port in the guest.
    pub port: u16,
}

/// A published port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Published {
    /// Where the machine listens.
    pub listen: SocketAddr,
    /// Where it leads.
    pub target: Target,
}

impl std::str::FromStr for Published {
    type Err = String;

    /// `[ADDRESS:]PORT:VMNAME:GUESTPORT`; the address is 127.0.0.1 when absent.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not [ADDRESS:]PORT:VMNAME:GUESTPORT");
        let (rest, guest) = text.rsplit_once(':').ok_or_else(wrong)?;
        let (rest, vm) = rest.rsplit_once(':').ok_or_else(wrong)?;
        let listen = match rest.parse::<u16>() {
            Ok(port) => SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            Err(_) => rest.parse().map_err(|_| wrong())?,
        };
        if vm.is_empty() {
            return Err(wrong());
        }
        Ok(Self { listen, target: Target { vm: vm.into(), port: guest.parse().map_err(|_| wrong())? } })
    }
}

/// The forwarder.
pub(crate) struct Publisher {
    network: Arc<Network>,
    resolve: Resolve,
    open: Mutex<BTreeMap<SocketAddr, (Target, JoinHandle<()>)>>,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher").field("open", &self.list()).finish_non_exhaustive()
    }
}

impl Publisher {
    /// A forwarder with nothing published.
    pub(crate) fn new(network: Arc<Network>, resolve: Resolve) -> Self {
        Self { network, resolve, open: Mutex::default() }
    }

    /// Publishes a port and tells where it listens (port 0 takes a free one); a second time is a change of target.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub(crate) async fn add(&self, what: Published) -> Result<Published> {
        self.remove(what.listen);
        let listener = TcpListener::bind(what.listen)
            .await
            .map_err(Error::system(format!("listen on {} to publish a port of {}", what.listen, what.target.vm)))?;
        let listen = listener.local_addr().map_err(Error::system("ask a socket for its address"))?;
        let target = what.target.clone();
        let task = tokio::spawn(serve(listener, self.network.clone(), self.resolve.clone(), target));
        self.lock().insert(listen, (what.target.clone(), task));
        Ok(Published { listen, target: what.target })
    }

    /// Stops publishing what listens on `listen`; connections that are open stay.
    pub(crate) fn remove(&self, listen: SocketAddr) -> bool {
        let Some((_, task)) = self.lock().remove(&listen) else { return false };
        task.abort();
        true
    }

    /// What is published.
    pub(crate) fn list(&self) -> Vec<Published> {
        self.lock().iter().map(|(&listen, (target, _))| Published { listen, target: target.clone() }).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<SocketAddr, (Target, JoinHandle<()>)>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn serve(listener: TcpListener, network: Arc<Network>, resolve: Resolve, target: Target) {
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                let (network, resolve, target) = (network.clone(), resolve.clone(), target.clone());
                tokio::spawn(async move {
                    if let Err(error) = forward(client, &network, &resolve, &target).await {
                        tracing::debug!("published port of {}: {}", target.vm, error.chain());
                    }
                });
            }
            // Out of descriptors, or a client that left at once: neither is a reason to stop listening.
            Err(error) => {
                tracing::warn!("published port of {}: {error}", target.vm);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn forward(mut client: TcpStream, network: &Network, resolve: &Resolve, target: &Target) -> Result<()> {
    let address = resolve(&target.vm)
        .ok_or_else(|| Error::Refused(format!("the VM {} is not there or has no address", target.vm)))?;
    let peer = SocketAddr::from((address, target.port));
    let mut server = tokio::time::timeout(Duration::from_secs(10), network.namespace().connect(peer))
        .await
        .map_err(|_| Error::Refused(format!("{peer} does not answer")))??;
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    // An end of either side is the ordinary end of a connection.
    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publication_reads_as_the_admin_writes_it() {
        let plain: Published = "2376:vch1:2376".parse().unwrap();
        assert_eq!(plain.listen, "127.0.0.1:2376".parse().unwrap());
        assert_eq!(plain.target, Target { vm: "vch1".into(), port: 2376 });
        let bound: Published = "127.0.0.2:80:web:8080".parse().unwrap();
        assert_eq!(bound.listen, "127.0.0.2:80".parse().unwrap());
        for wrong in ["2376", "2376:vch1", "x:vch1:1", "1::2", "1:vm:x"] {
            wrong.parse::<Published>().unwrap_err();
        }
    }
}
