//! [`Authority`]: the VCH's own CA for the control channel.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use secret::Secret;
use tether_proto::control::{ENDPOINT_NAME, container_uri};

/// The VCH's own CA.  Its certificate is made anew from the key at each start: it is the key that the containers trust.
///
/// What it issues is valid for ever: a container lives as long as it is wanted, no clock of a guest can be relied on, and
/// who is removed is refused because it is not there any more.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    ca_pem: String,
}

/// Why there are no certificates.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The VCH's secrets hold no key for it.
    #[error("this VCH has no key for the control channel: it was created by an older version of vic-machine")]
    NoKey,
    /// The key is none, or nothing can be signed with it.
    #[error("the control channel's certificates cannot be made")]
    Certificate(#[from] rcgen::Error),
    /// They cannot be used.
    #[error("the control channel's certificates cannot be used")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Authority {
    /// The CA of the VCH `vch` with the private key `key_pem`.
    ///
    /// # Errors
    /// [`AuthorityError`] when that is no key.
    pub fn open(vch: &str, key_pem: &Secret) -> Result<Self, AuthorityError> {
        if key_pem.is_empty() {
            return Err(AuthorityError::NoKey);
        }
        let key = KeyPair::from_pem(key_pem.reveal())?;
        let mut params = params(&format!("containers of VCH {vch}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let ca_pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), ca_pem })
    }

    /// The CA's certificate.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// A certificate and its key for container `id`, PEM.
    ///
    /// # Errors
    /// [`AuthorityError`] when it cannot be made.
    pub fn issue(&self, id: &str) -> Result<(String, Secret), AuthorityError> {
        let name = SanType::URI(container_uri(id).as_str().try_into()?);
        self.sign(id, name, ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// A certificate and its key for the endpoint VM itself, PEM.
    pub(super) fn issue_endpoint(&self) -> Result<(String, Secret), AuthorityError> {
        let name = SanType::DnsName(ENDPOINT_NAME.try_into()?);
        self.sign("endpoint VM", name, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// The purpose keeps a container from posing as the endpoint VM.
    fn sign(
        &self,
        common_name: &str,
        name: SanType,
        purpose: ExtendedKeyUsagePurpose,
    ) -> Result<(String, Secret), AuthorityError> {
        let key = KeyPair::generate()?;
        let mut params = params(common_name);
        params.subject_alt_names.push(name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![purpose];
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok((certificate.pem(), Secret::new(key.serialize_pem())))
    }
}

fn params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}
