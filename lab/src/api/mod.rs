//! The vim25 API over HTTPS.
//!
//! ```text
//! connection (TLS) -> http: /sdk, /folder, /about, /sdk/vimServiceVersions.xml
//!   /sdk -> dispatch: envelope, schema, session, object, fault rules -> one function a method
//! ```
//!
//! One module a family of managed objects; each method is a function from its request to its result or a fault.

mod access;
#[cfg(test)]
mod bench;
mod collector;
mod datastore;
pub(crate) mod device;
mod disk;
mod dispatch;
mod fault;
mod folder_http;
mod host;
mod http;
mod inventory;
mod managers;
pub(crate) mod question;
mod search;
mod select;
mod session;
#[cfg(test)]
mod strict;
mod task;
mod ticket;
mod vm;
mod vm_config;
mod vm_power;

use std::sync::Arc;

use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

pub(crate) use inventory::escaped_name;
pub(crate) use session::Sessions;
pub(crate) use ticket::Tickets;

use crate::error::{Error, Result};
use crate::identity::Identity;
use crate::lab::Lab;

/// The TLS side of the API.
///
/// # Errors
/// When the certificate or the key is not usable.
pub(crate) fn tls(identity: &Identity) -> Result<TlsAcceptor> {
    let bad = |e: &dyn std::fmt::Display| Error::Refused(format!("the lab's certificate is not usable: {e}"));
    let chain = vec![CertificateDer::from_pem_slice(identity.certificate.as_bytes()).map_err(|e| bad(&e))?];
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).map_err(|e| bad(&e))?;
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| bad(&e))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|e| bad(&e))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves the API on `listener`, for ever.
pub(crate) async fn serve(listener: TcpListener, tls: TlsAcceptor, lab: Arc<Lab>) {
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("API listener: {error}");
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                continue;
            }
        };
        let (tls, lab) = (tls.clone(), lab.clone());
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            let Ok(at) = stream.local_addr() else { return };
            // Whoever does not trust the certificate hangs up here; that is theirs to report.
            let Ok(stream) = tls.accept(stream).await else { return };
            let service = hyper::service::service_fn(move |request| http::handle(lab.clone(), peer, at, request));
            // An error here is a peer that went away, or a rule that asked for a broken connection.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
