//! TLS of the API's listener, as the VCH's configuration says.

use std::sync::Arc;

use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use secret::Secret;
use tokio_rustls::TlsAcceptor;
use vch_config::ApiTls;

/// Why the listener's certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A PEM text holds nothing usable.
    #[error("{what} in the VCH's configuration is not valid PEM: recreate it with vic-machine configure")]
    Pem {
        /// Which text.
        what: &'static str,
    },
    /// Certificate and key do not go together, or are of a kind that is not known.
    #[error("the server certificate and its key cannot be used: recreate them with vic-machine configure")]
    Server(#[source] rustls::Error),
    /// The client CA is not one.
    #[error("the client CA cannot be used: give vic-machine a CA certificate with --tls-ca")]
    ClientCa(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The acceptor for `tls` with the server's private key; `None` for plain HTTP.
///
/// # Errors
/// See [`TlsError`].
pub fn acceptor(tls: &ApiTls, key: &Secret) -> Result<Option<TlsAcceptor>, TlsError> {
    let (chain, client_ca) = match tls {
        ApiTls::None => return Ok(None),
        ApiTls::Server { server_cert_pem } => (server_cert_pem, None),
        ApiTls::Mutual { server_cert_pem, client_ca_pem } => (server_cert_pem, Some(client_ca_pem)),
    };
    let chain = certificates(chain, "the server certificate")?;
    let key =
        PrivateKeyDer::from_pem_slice(key.reveal().as_bytes()).map_err(|_| TlsError::Pem { what: "the server key" })?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(TlsError::Server)?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(pem, "the client CA")? {
                roots.add(certificate).map_err(|e| TlsError::ClientCa(e.into()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|e| TlsError::ClientCa(e.into()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let config = builder.with_single_cert(chain, key).map_err(TlsError::Server)?;
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
}

fn certificates(pem: &str, what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    found.ok().filter(|list| !list.is_empty()).ok_or(TlsError::Pem { what })
}
