//! How a server's certificate is judged.  One [`Trust`] serves every connection of a session.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use sha1::Digest as _;

use crate::{Error, Result};

/// What a server's certificate must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// It chains to a root of this machine and names the host.
    System,
    /// It chains to one of these CAs (PEM) and names the host.
    Ca(String),
    /// Its leaf has one of these thumbprints.
    Thumbprints(Vec<Thumbprint>),
}

/// Digest of a certificate's DER form: SHA-1 or SHA-256.
#[derive(Clone, PartialEq, Eq)]
pub enum Thumbprint {
    /// 20 bytes, as vSphere shows it.
    Sha1([u8; 20]),
    /// 32 bytes.
    Sha256([u8; 32]),
}

impl Thumbprint {
    fn matches(&self, der: &[u8]) -> bool {
        match self {
            Self::Sha1(print) => sha1::Sha1::digest(der).as_slice() == print,
            Self::Sha256(print) => sha2::Sha256::digest(der).as_slice() == print,
        }
    }

    /// The SHA-1 thumbprint of a certificate.
    pub fn sha1_of(der: &[u8]) -> Self {
        Self::Sha1(sha1::Sha1::digest(der).into())
    }

    /// The SHA-256 thumbprint of a certificate.
    pub fn sha256_of(der: &[u8]) -> Self {
        Self::Sha256(sha2::Sha256::digest(der).into())
    }
}

impl FromStr for Thumbprint {
    type Err = String;

    /// Reads hexadecimal bytes, with or without colons.
    fn from_str(text: &str) -> Result<Self, String> {
        let digits: Vec<u32> = text
            .chars()
            .filter(|c| *c != ':')
            .map(|c| c.to_digit(16).ok_or_else(|| format!("{text:?} is no thumbprint: {c:?} is no hexadecimal digit")))
            .collect::<Result<_, _>>()?;
        let bytes: Vec<u8> = digits.chunks(2).map(|p| p.iter().fold(0, |n, d| n << 4 | d).to_le_bytes()[0]).collect();
        match (digits.len(), bytes.as_slice()) {
            (40, b) => Ok(Self::Sha1(b.try_into().map_err(|_| "impossible")?)),
            (64, b) => Ok(Self::Sha256(b.try_into().map_err(|_| "impossible")?)),
            (n, _) => Err(format!("{text:?} is no thumbprint: {n} hexadecimal digits, and SHA-1 has 40, SHA-256 64")),
        }
    }
}

impl fmt::Display for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: &[u8] = match self {
            Self::Sha1(b) => b,
            Self::Sha256(b) => b,
        };
        for (i, b) in bytes.iter().enumerate() {
            write!(f, "{}{b:02X}", if i == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Thumbprint({self})")
    }
}

/// A certificate that was not trusted, with what a person needs to judge it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the certificate of {target} is not trusted: {reason}")]
pub struct TrustProblem {
    /// `host[:port]`.
    pub target: String,
    /// Why not.
    pub reason: String,
    /// Thumbprints that would have been accepted.
    pub expected: Vec<Thumbprint>,
    /// The certificate that was shown, if it came that far.
    pub found: Option<CertificateFacts>,
}

/// What identifies a certificate to a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Distinguished name.
    pub subject: String,
    /// Distinguished name.
    pub issuer: String,
    /// Start of its validity.
    pub not_before: String,
    /// End of its validity.
    pub not_after: String,
    /// SHA-1 of its DER form.
    pub sha1: Thumbprint,
    /// SHA-256 of its DER form.
    pub sha256: Thumbprint,
}

impl CertificateFacts {
    /// Reads a certificate in DER form.
    pub fn of(der: &[u8]) -> Self {
        let (subject, issuer, not_before, not_after) = match x509_parser::parse_x509_certificate(der) {
            Ok((_, c)) => (
                c.subject().to_string(),
                c.issuer().to_string(),
                c.validity().not_before.to_string(),
                c.validity().not_after.to_string(),
            ),
            Err(_) => ("(unreadable)".into(), "(unreadable)".into(), "?".into(), "?".into()),
        };
        let (sha1, sha256) = (Thumbprint::sha1_of(der), Thumbprint::sha256_of(der));
        Self { subject, issuer, not_before, not_after, sha1, sha256 }
    }
}

/// The verifier behind every connection; remembers the last certificate that it refused.
#[derive(Debug)]
pub(crate) struct Verifier {
    trust: Trust,
    chain: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<rustls::crypto::CryptoProvider>,
    refused: Mutex<Option<(Vec<u8>, String)>>,
}

impl Verifier {
    pub(crate) fn new(trust: Trust) -> Result<Arc<Self>> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        match &trust {
            Trust::Thumbprints(_) => {}
            Trust::System => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
            Trust::Ca(pem) => {
                for cert in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                    let cert = cert.map_err(|e| Error::Invalid(format!("the CA bundle is not PEM: {e:?}")))?;
                    roots.add(cert).map_err(|e| Error::Invalid(format!("the CA bundle holds no usable CA: {e}")))?;
                }
            }
        }
        let chain = if roots.is_empty() {
            None
        } else {
            let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
            Some(builder.build().map_err(|e| Error::Invalid(format!("the CA bundle cannot be used: {e}")))?)
        };
        Ok(Arc::new(Self { trust, chain, provider, refused: Mutex::new(None) }))
    }

    /// A TLS configuration that trusts what this verifier trusts.
    pub(crate) fn client_config(self: &Arc<Self>) -> Result<ClientConfig> {
        let verifier: Arc<dyn ServerCertVerifier> = Arc::clone(self) as Arc<_>;
        Ok(ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .map_err(|e| Error::Invalid(e.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth())
    }

    /// What an HTTP failure of `target` means: a certificate that was refused is told as such.
    pub(crate) fn failure(&self, target: String, source: reqwest::Error) -> Error {
        match self.problem(&target) {
            Some(problem) => Error::Trust(Box::new(problem)),
            None => Error::Unreachable { target, source: source.without_url() },
        }
    }

    /// The certificate that was refused last, as an error about `target`.
    fn problem(&self, target: &str) -> Option<TrustProblem> {
        let (der, reason) = self.refused.lock().unwrap_or_else(|e| e.into_inner()).take()?;
        let expected = if let Trust::Thumbprints(prints) = &self.trust { prints.clone() } else { Vec::new() };
        let found = Some(CertificateFacts::of(&der));
        Some(TrustProblem { target: target.to_owned(), reason, expected, found })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verdict = match (&self.trust, &self.chain) {
            (Trust::Thumbprints(prints), _) if prints.iter().any(|p| p.matches(leaf)) => {
                Ok(ServerCertVerified::assertion())
            }
            (Trust::Thumbprints(_), _) => Err((
                rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure),
                "its thumbprint does not match".to_owned(),
            )),
            (_, None) => Err((
                rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer),
                "this machine has no root certificates".to_owned(),
            )),
            (_, Some(chain)) => chain.verify_server_cert(leaf, intermediates, name, ocsp, now).map_err(|e| {
                let reason = match &e {
                    rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
                        "its issuer is not known".to_owned()
                    }
                    other => other.to_string(),
                };
                (e, reason)
            }),
        };
        verdict.map_err(|(error, reason)| {
            *self.refused.lock().unwrap_or_else(|e| e.into_inner()) = Some((leaf.to_vec(), reason));
            error
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thumbprints_are_read_as_people_write_them() {
        let colons = "A9:99:3E:36:47:06:81:6A:BA:3E:25:71:78:50:C2:6C:9C:D0:D8:9D";
        let print: Thumbprint = colons.parse().unwrap();
        assert_eq!(print.to_string(), colons);
        assert_eq!(colons.replace(':', "").to_lowercase().parse(), Ok(print.clone()));
        assert_eq!(Thumbprint::sha1_of(b"abc"), print);
        assert!("A9:99".parse::<Thumbprint>().unwrap_err().contains("4 hexadecimal digits"));
        assert!("zz".parse::<Thumbprint>().unwrap_err().contains("'z'"));
    }
}
