//! [`Switchboard`]: takes the containers' calls, and has one live [`Line`] to each.
//!
//! ```text
//! TCP -> TLS, certificate of the VCH's CA -> the container is there, and calls from its own address
//!     -> hello answered by that container -> line     (a second one only when the first does not answer any more)
//! ```

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tether_proto::control::{ALIVE_SECONDS, ALPN, HelloRequest, container_of};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::authority::{Authority, AuthorityError};
use super::wire::{self, Client};

/// Callers whose identity is still to be shown, at a time; more wait in the system's queue.
const CALLERS: usize = 64;
/// How long a caller may take to show it.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long the guest of a line may take to say hello.
const HELLO: Duration = Duration::from_secs(2);
/// Pause after the system refused to accept: the state lasts, so a tight loop would spin.
const PAUSE: Duration = Duration::from_millis(100);
const ALIVE: Duration = Duration::from_secs(ALIVE_SECONDS);

/// Says whether there is a container of some id at some address.
type Judge = Box<dyn Fn(&str, IpAddr) -> bool + Send + Sync>;

/// The lines; clones share them.
#[derive(Debug, Clone)]
pub struct Switchboard(Arc<Inner>);

struct Inner {
    tls: TlsAcceptor,
    is_at: Judge,
    lines: Mutex<HashMap<String, Line>>,
    changed: watch::Sender<()>,
}

/// A live connection to a container's guest.
#[derive(Debug, Clone)]
pub struct Line {
    client: Client,
    connection: AbortHandle,
}

/// Ends a connection that nobody wants.
struct Abort(AbortHandle);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Switchboard").field("lines", &self.lines()).finish_non_exhaustive()
    }
}

impl Line {
    /// Calls on it.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Whether its guest answers, as the container that it is to be.
    async fn answers(&self, id: &str) -> bool {
        let request = HelloRequest { version: env!("CARGO_PKG_VERSION").to_owned() };
        let mut client = self.client();
        matches!(timeout(HELLO, client.hello(request)).await, Ok(Ok(reply)) if reply.get_ref().id == id)
    }
}

impl Switchboard {
    pub(super) fn new(authority: &Authority, is_at: Judge) -> Result<Self, AuthorityError> {
        let tls = TlsAcceptor::from(Arc::new(server(authority)?));
        let changed = watch::Sender::new(());
        Ok(Self(Arc::new(Inner { tls, is_at, lines: Mutex::default(), changed })))
    }

    /// Takes calls, for ever.
    pub async fn serve(self, listener: TcpListener) {
        let slots = Arc::new(Semaphore::new(CALLERS));
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, from)) => {
                    let inner = Arc::clone(&self.0);
                    tokio::spawn(async move {
                        let called = timeout(HANDSHAKE, inner.take(stream, from)).await;
                        drop(slot);
                        if let Ok(Some(connection)) = called {
                            connection.await;
                        }
                    });
                }
                Err(_) => sleep(PAUSE).await,
            }
        }
    }

    /// The line to a container, if there is one now.
    pub fn line_now(&self, id: &str) -> Option<Line> {
        self.0.lines().get(id).cloned()
    }

    /// The line to a container as soon as there is one.
    pub async fn line(&self, id: &str) -> Line {
        let mut changed = self.0.changed.subscribe();
        loop {
            changed.mark_unchanged();
            if let Some(line) = self.line_now(id) {
                return line;
            }
            // The sender lives as long as this does.
            let _ = changed.changed().await;
        }
    }

    /// Gives up the line to a container whose VM is off: it cannot say so itself.
    pub fn hang_up(&self, id: &str) {
        if let Some(line) = self.0.lines().remove(id) {
            line.connection.abort();
        }
    }
}

impl Inner {
    fn lines(&self) -> MutexGuard<'_, HashMap<String, Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a call; returns what lives as long as the connection, or none for a caller who is nobody.
    async fn take(self: Arc<Self>, stream: TcpStream, from: SocketAddr) -> Option<impl Future<Output = ()> + Send> {
        let _ = stream.set_nodelay(true);
        let stream = self.tls.accept(stream).await.ok()?;
        let id = container(stream.get_ref().1.peer_certificates()?.first()?)?;
        if !(self.is_at)(&id, from.ip()) {
            return None;
        }
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            // A VM that went off says nothing.
            .keep_alive_interval(ALIVE)
            .keep_alive_timeout(ALIVE)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await
            .ok()?;
        let task = tokio::spawn(connection);
        let unless_wanted = Abort(task.abort_handle());
        let line = Line { client: wire::client(sender), connection: task.abort_handle() };
        let before = self.lines().get(&id).cloned();
        let wanted = match before {
            // A second connection of a guest, or one of somebody who has its certificate: the one that lives stays.
            Some(before) if before.answers(&id).await => false,
            _ => line.answers(&id).await,
        };
        if !wanted {
            return None;
        }
        std::mem::forget(unless_wanted);
        if let Some(before) = self.lines().insert(id.clone(), line.clone()) {
            before.connection.abort();
        }
        self.changed.send_replace(());
        Some(async move {
            let _ = task.await;
            let mut lines = self.lines();
            if lines.get(&id).is_some_and(|current| current.connection.id() == line.connection.id()) {
                lines.remove(&id);
            }
        })
    }
}

/// The container that a certificate names.
fn container(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => container_of(uri).map(str::to_owned),
        _ => None,
    })
}

/// The endpoint's certificate, and whom it believes.
fn server(authority: &Authority) -> Result<ServerConfig, AuthorityError> {
    fn tls(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> AuthorityError {
        AuthorityError::Tls(error.into())
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.ca_pem().as_bytes()).map_err(tls)?).map_err(tls)?;
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().map_err(tls)?;
    let (certificate, key) = authority.issue_endpoint()?;
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(tls)?];
    let key = PrivateKeyDer::from_pem_slice(key.reveal().as_bytes()).map_err(tls)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(tls)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(tls)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}
