//! [`VmFile`]: a file that a VM has open while it is on, such as the one behind its serial port.
//!
//! The host that runs the VM holds the file's lock, and only through that host can it be read; vCenter passes a request on
//! `/folder` to any host that has the datastore, and answers 500 when it was another one.
//!
//! ```text
//! ask whoever gave the last piece: the VM's host, by ticket, or the endpoint
//!     \-- refused, or nobody was asked yet: where is the VM now?
//!             on, at a host -> ask that host, twice at most -- refused --\
//!             off, or this is ESXi -------------------------------------> ask the endpoint
//! ```

use std::net::Ipv6Addr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use reqwest::header;
use secret::Secret;
use url::Url;
use vim25_types::{ManagedObjectReference, SessionManagerHttpServiceRequestSpec, VirtualMachinePowerState, methods};

use crate::datastore::{DatastorePath, Piece, file_url, piece};
use crate::session::{authority, client};
use crate::trust::{Trust, Verifier};
use crate::{Error, Result, Session};

/// Name of a host's only datacenter, whatever vCenter calls the one that the host is in.
const DATACENTER: &str = "ha-datacenter";
/// A host that does not take a connection in this time is not reachable from here: there is another way to be tried.
const CONNECT: Duration = Duration::from_secs(5);
/// How often a host is asked for a piece.
const TRIES: u32 = 2;
/// Time for one request of a host's.
const ANSWER: Duration = Duration::from_secs(60);

/// A file that a VM has open while it is on.
#[derive(Debug)]
pub struct VmFile {
    session: Session,
    datacenter: String,
    vm: ManagedObjectReference,
    file: DatastorePath,
    way: Mutex<Way>,
}

/// Who gave the last piece.
#[derive(Debug, Clone)]
enum Way {
    Unknown,
    Endpoint,
    Host(Arc<Host>),
}

impl VmFile {
    /// A file of `vm`'s; `datacenter` is its inventory path without the leading slash.
    pub fn new(session: &Session, datacenter: &str, vm: ManagedObjectReference, file: DatastorePath) -> Self {
        let (session, datacenter) = (session.clone(), datacenter.to_owned());
        Self { session, datacenter, vm, file, way: Mutex::new(Way::Unknown) }
    }

    /// Reads up to `length` bytes from `offset` on; none beyond the file's end.
    ///
    /// # Errors
    /// [`Error::Held`] when the VM is on and neither its host nor vCenter would read the file, otherwise those of
    /// [`Session::read_piece`].
    pub async fn read_piece(&self, offset: u64, length: usize) -> Result<Piece> {
        let endpoint = || self.session.read_piece(&self.datacenter, &self.file, offset, length);
        if !self.session.is_vcenter() {
            return endpoint().await;
        }
        let way = self.way.lock().unwrap_or_else(|e| e.into_inner()).clone();
        let known = match way {
            Way::Unknown => None,
            // Once: it may refuse because the VM has gone on.
            Way::Endpoint => match self.session.read_piece_once(&self.datacenter, &self.file, offset, length).await {
                Err(error) if !error.is_not_found() => None,
                outcome => return outcome,
            },
            Way::Host(host) => Some(host),
        };
        let refusal = match self.through_host(known, offset, length).await {
            Ok(Some(piece)) => return Ok(piece),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        self.remember(Way::Endpoint);
        match (endpoint().await, refusal) {
            (Err(Error::Http { status: status @ 500, .. }), Some(refusal)) => {
                let (file, vm, source) = (self.file.clone(), self.vm.clone(), Box::new(refusal));
                Err(Error::Held { file, vm, status, source })
            }
            (outcome, _) => outcome,
        }
    }

    /// What the host that runs the VM gives, beginning with the one that is known; nothing when the VM is off.
    async fn through_host(&self, known: Option<Arc<Host>>, offset: u64, length: usize) -> Result<Option<Piece>> {
        let found = match known {
            Some(host) => Some(host),
            None => self.host().await?,
        };
        let Some(mut host) = found else { return Ok(None) };
        let mut attempt = 1;
        loop {
            let error = match host.read(&self.session, &self.file, offset, length).await {
                Ok(piece) => {
                    self.remember(Way::Host(host));
                    return Ok(Some(piece));
                }
                Err(error) => error,
            };
            // It may have gone off since, or to another host.
            let Some(now) = self.host().await? else { return Ok(None) };
            // A connection that broke is tried anew; nobody waits twice for a host that cannot be reached.
            let same = now.reference == host.reference;
            if attempt == TRIES || (same && is_out_of_reach(&error)) {
                return Err(error);
            }
            host = now;
            attempt += 1;
        }
    }

    fn remember(&self, way: Way) {
        *self.way.lock().unwrap_or_else(|e| e.into_inner()) = way;
    }

    /// The host that runs the VM now.
    async fn host(&self) -> Result<Option<Arc<Host>>> {
        let vm = self.session.read(&self.vm, &["runtime.powerState", "runtime.host"]).await?;
        if vm.get("runtime.powerState")? == Some(VirtualMachinePowerState::PoweredOff) {
            return Ok(None);
        }
        let reference: ManagedObjectReference = vm.require("runtime.host")?;
        // By its name in the inventory, which is how vCenter itself reaches it: a management address is no better where there is
        // no route, and would have to be picked out of the host's configuration.
        let name = self.session.read(&reference, &["name"]).await?.require("name")?;
        Ok(Some(Arc::new(Host { reference, name, http: OnceLock::new() })))
    }
}

/// An ESXi host of a vCenter's.
#[derive(Debug)]
struct Host {
    reference: ManagedObjectReference,
    name: String,
    /// Made with the first ticket.  When the host's certificate changes it fails, and goes with this value.
    http: OnceLock<Http>,
}

#[derive(Debug, Clone)]
struct Http {
    client: reqwest::Client,
    verifier: Arc<Verifier>,
}

impl Host {
    async fn read(&self, session: &Session, file: &DatastorePath, offset: u64, length: usize) -> Result<Piece> {
        let url = file_url(&server(&self.name)?, DATACENTER, file);
        let this = session.content().session_manager.clone().ok_or_else(|| Error::Protocol {
            what: "RetrieveServiceContent".into(),
            reason: "no session manager".into(),
        })?;
        // One for each request: a ticket is for one URL, and is used up by it.
        let spec = SessionManagerHttpServiceRequestSpec {
            method: Some("httpGet".into()),
            url: url.to_string(),
            ..Default::default()
        };
        let ticket = session.call(&methods::AcquireGenericServiceTicket { this, spec: spec.into() }).await?;
        let id = Secret::new(ticket.id);
        let http = self.http(session, ticket.ssl_thumbprint.as_deref())?;
        // What the host calls itself comes first.  It may be a name that is known to the host alone, or nothing at all: then it
        // takes no connection, or shows another certificate, and the ticket is still unused.
        let own = ticket.host_name.filter(|name| !name.is_empty() && !name.starts_with("localhost"));
        if let Some(mut named) = own.and_then(|name| server(&name).ok()) {
            named.set_path(url.path());
            named.set_query(url.query());
            match http.read(&named, &id, offset, length).await {
                Err(Error::Unreachable { source, .. }) if source.is_connect() => {}
                Err(Error::Trust(_)) => {}
                outcome => return outcome,
            }
        }
        http.read(&url, &id, offset, length).await
    }

    /// The client for this host.  The thumbprint came from vCenter, whose own certificate was judged: it is what pins the host.
    fn http(&self, session: &Session, thumbprint: Option<&str>) -> Result<Http> {
        if let Some(http) = self.http.get() {
            return Ok(http.clone());
        }
        let trust = match thumbprint.filter(|t| !t.is_empty()) {
            Some(text) => Trust::Thumbprints(vec![
                text.parse()
                    .map_err(|reason| Error::Protocol { what: format!("a ticket for {}", self.name), reason })?,
            ]),
            None => session.options().trust.clone(),
        };
        let verifier = Verifier::new(trust)?;
        let client = client(&verifier, &session.options().user_agent, CONNECT)?;
        Ok(self.http.get_or_init(|| Http { client, verifier }).clone())
    }
}

impl Http {
    async fn read(&self, url: &Url, ticket: &Secret, offset: u64, length: usize) -> Result<Piece> {
        let cookie = format!("vmware_cgi_ticket={}", ticket.reveal());
        let mut cookie = header::HeaderValue::try_from(cookie).map_err(|_| Error::Protocol {
            what: format!("a ticket for {}", authority(url)),
            reason: "its id cannot stand in a header".into(),
        })?;
        cookie.set_sensitive(true);
        let request = self.client.get(url.clone()).timeout(ANSWER).header(header::COOKIE, cookie);
        piece(url, request, offset, length, |e| self.verifier.failure(authority(url), e)).await
    }
}

fn is_out_of_reach(error: &Error) -> bool {
    match error {
        Error::Unreachable { source, .. } => source.is_connect() || source.is_timeout(),
        error => matches!(error, Error::Deadline { .. }),
    }
}

/// The address of the server of that name, which may carry a port.
fn server(name: &str) -> Result<Url> {
    let address =
        if name.parse::<Ipv6Addr>().is_ok() { format!("https://[{name}]") } else { format!("https://{name}") };
    Url::parse(&address).map_err(|e| Error::Invalid(format!("the host's name {name:?} cannot stand in a URL: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_go_by_names_and_addresses_with_or_without_a_port() {
        for (name, expected) in [
            ("esx1.lab.test", "esx1.lab.test"),
            ("192.0.2.1", "192.0.2.1"),
            ("127.0.0.1:8989", "127.0.0.1:8989"),
            ("2001:db8::1", "[2001:db8::1]"),
            ("[2001:db8::1]:8443", "[2001:db8::1]:8443"),
        ] {
            let url = file_url(&server(name).unwrap(), DATACENTER, &DatastorePath::new("a b", "vm/output.log"));
            let rest = "/folder/vm/output.log?dcPath=ha-datacenter&dsName=a+b";
            assert_eq!(url.as_str(), format!("https://{expected}{rest}"));
        }
        assert!(server("no name").unwrap_err().to_string().contains("\"no name\""));
    }

    #[tokio::test]
    async fn a_host_that_takes_no_connection_is_out_of_reach() {
        let listener = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).unwrap();
        let url = server(&listener.local_addr().unwrap().to_string()).unwrap();
        drop(listener);
        let verifier = Verifier::new(Trust::Thumbprints(Vec::new())).unwrap();
        let http = Http { client: client(&verifier, "test", CONNECT).unwrap(), verifier };
        let error = http.read(&url, &Secret::new("planted"), 0, 1).await.unwrap_err();
        assert!(is_out_of_reach(&error), "{error:?}");
        assert!(!format!("{error:?}").contains("planted"));
    }
}
