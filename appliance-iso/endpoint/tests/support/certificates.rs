//! Certificates of a VCH, as vic-machine makes them.

use std::{path::Path, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

/// A CA, the server's certificate for 127.0.0.1, a client's.
pub(crate) struct Certificates {
    pub(crate) ca: String,
    pub(crate) server: String,
    pub(crate) server_key: String,
    client: String,
    client_key: String,
}

impl Certificates {
    pub(crate) fn make() -> Self {
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.distinguished_name.push(rcgen::DnType::CommonName, "VCH test CA");
        let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
        let issue = |names: &[&str], usage| {
            let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
            let mut parameters = CertificateParams::new(names).unwrap();
            parameters.extended_key_usages = vec![usage];
            let key = KeyPair::generate().unwrap();
            (parameters.signed_by(&key, &ca).unwrap().pem(), key.serialize_pem())
        };
        let (server, server_key) = issue(&["127.0.0.1"], ExtendedKeyUsagePurpose::ServerAuth);
        let (client, client_key) = issue(&["admin"], ExtendedKeyUsagePurpose::ClientAuth);
        Self { ca: ca.pem(), server, server_key, client, client_key }
    }

    /// Writes what the docker client needs into `folder`; returns its options.
    pub(crate) fn client_options(&self, folder: &Path) -> Vec<String> {
        let mut options = vec!["--tlsverify".to_owned()];
        for (option, name, text) in [
            ("--tlscacert", "ca.pem", &self.ca),
            ("--tlscert", "cert.pem", &self.client),
            ("--tlskey", "key.pem", &self.client_key),
        ] {
            let path = folder.join(name);
            std::fs::write(&path, text).unwrap();
            options.push(format!("{option}={}", path.display()));
        }
        options
    }

    /// The client's side of mutual TLS.
    pub(crate) fn client_tls(&self) -> Arc<ClientConfig> {
        let certificate = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate(&self.ca)).unwrap();
        let key = PrivateKeyDer::from_pem_slice(self.client_key.as_bytes()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate(&self.client)], key)
            .unwrap();
        Arc::new(config)
    }
}
