//! The API's certificate: self-signed, made at the first start.

use std::net::{IpAddr, Ipv4Addr};

use rcgen::{CertificateParams, DnType, KeyPair, SanType};
use sha1::{Digest, Sha1};

use crate::dir::LabDir;
use crate::error::{Error, Result};

/// The API's certificate and key, PEM.
pub(crate) struct Identity {
    /// Certificate.
    pub certificate: String,
    /// Private key.
    pub key: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// The name that guests know the API by.
pub(crate) const HOST_NAME: &str = "vcenter.lab.test";

impl Identity {
    /// Loads the lab's certificate, making it at the first start.
    ///
    /// # Errors
    /// When files cannot be read or written.
    pub(crate) fn ensure(dir: &LabDir, gateway: Ipv4Addr) -> Result<Self> {
        let (certificate, key) = (dir.certificate(), dir.key());
        if !certificate.exists() || !key.exists() {
            let made = make(gateway).map_err(|e| Error::Refused(format!("cannot make a certificate: {e}")))?;
            // Both files are made readable by their owner only.
            crate::store::write(&key, made.key.as_bytes())?;
            crate::store::write(&certificate, made.certificate.as_bytes())?;
        }
        Ok(Self {
            certificate: std::fs::read_to_string(&certificate).map_err(Error::file("read", &certificate))?,
            key: std::fs::read_to_string(&key).map_err(Error::file("read", &key))?,
        })
    }

    /// The certificate in DER.
    ///
    /// # Errors
    /// When the file holds none.
    pub(crate) fn der(&self) -> Result<Vec<u8>> {
        use rustls::pki_types::pem::PemObject;
        rustls::pki_types::CertificateDer::from_pem_slice(self.certificate.as_bytes())
            .map(|der| der.to_vec())
            .map_err(|e| Error::Refused(format!("the lab's certificate is not readable: {e}")))
    }

    /// SHA-1 thumbprint of the certificate, as vSphere shows it.
    ///
    /// # Errors
    /// As [`Self::der`].
    pub(crate) fn thumbprint(&self) -> Result<String> {
        let digest = Sha1::digest(self.der()?);
        Ok(digest.iter().map(|b| format!("{b:02X}")).collect::<Vec<_>>().join(":"))
    }
}

fn make(gateway: Ipv4Addr) -> Result<Identity, rcgen::Error> {
    let mut params = CertificateParams::new(vec!["localhost".to_owned(), HOST_NAME.to_owned()])?;
    params.subject_alt_names.push(SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)));
    params.subject_alt_names.push(SanType::IpAddress(IpAddr::V4(gateway)));
    params.distinguished_name.push(DnType::CommonName, HOST_NAME);
    params.distinguished_name.push(DnType::OrganizationName, "vic-lab");
    let now = time::OffsetDateTime::now_utc();
    params.not_before = now - time::Duration::days(1);
    params.not_after = now + time::Duration::days(3650);
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_certificate_stays_and_its_key_is_private() {
        let temp = tempfile::tempdir().unwrap();
        let dir = LabDir::open(temp.path()).unwrap();
        let first = Identity::ensure(&dir, Ipv4Addr::new(10, 0, 0, 1)).unwrap();
        let again = Identity::ensure(&dir, Ipv4Addr::new(10, 0, 0, 1)).unwrap();
        assert_eq!(first.thumbprint().unwrap(), again.thumbprint().unwrap());
        assert_eq!(first.thumbprint().unwrap().len(), 59);
        let mode = std::fs::metadata(dir.key()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
