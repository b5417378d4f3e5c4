//! [`Access`]: which registries may be asked, and by which way.

use std::net::Ipv4Addr;
use std::time::Duration;

use oci_client::Client;
use oci_client::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol, linux_amd64_resolver};
use oci_client::errors::OciDistributionError;
use secret::Secret;

use crate::registry::RegistryError;

/// Time for a connection.
const CONNECT: Duration = Duration::from_secs(30);
/// A server that is silent for so long is gone.
const SILENCE: Duration = Duration::from_secs(60);
const AGENT: &str = concat!("vic-engine/", env!("CARGO_PKG_VERSION"));

/// How registries are reached.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// Those that may have any certificate, or speak plain HTTP: `host[:port]`, `*.domain` or a CIDR.
    pub insecure: Vec<String>,
    /// The only ones that may be asked, in the same forms; all, when there are none.
    pub allowed: Vec<String>,
    /// Certificates that are trusted besides the system's, PEM.
    pub roots_pem: String,
    /// Proxy for HTTPS: its URL, which may hold a password.
    pub https_proxy: Option<Secret>,
    /// Proxy for HTTP: likewise.
    pub http_proxy: Option<Secret>,
    /// Hosts that are reached without a proxy, separated by commas.
    pub no_proxy: Option<String>,
}

/// Whether a registry is meant by `host[:port]`, `*.domain` or a CIDR.
fn matches(pattern: &str, registry: &str) -> bool {
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    if let Some(domain) = pattern.strip_prefix('*') {
        return domain.starts_with('.') && host.len() > domain.len() && host.ends_with(domain);
    }
    if let (Some((network, length)), Ok(ip)) = (pattern.split_once('/'), host.parse::<Ipv4Addr>()) {
        let (Ok(network), Ok(length)) = (network.parse::<Ipv4Addr>(), length.parse::<u32>()) else { return false };
        let rest = 32_u32.saturating_sub(length);
        return length <= 32 && u64::from(ip.to_bits()) >> rest == u64::from(network.to_bits()) >> rest;
    }
    pattern == registry || pattern == host
}

/// reqwest takes the process's own; that there is one already is as good.
fn with_crypto() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

impl Access {
    /// Whether any certificate will do, and plain HTTP.  Docker trusts what is on the same machine.
    pub(crate) fn is_insecure(&self, registry: &str) -> bool {
        let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
        let local = host == "localhost" || host.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_loopback());
        local || self.insecure.iter().any(|pattern| matches(pattern, registry))
    }

    pub(crate) fn allows(&self, registry: &str) -> Result<(), RegistryError> {
        if self.allowed.is_empty() || self.allowed.iter().any(|pattern| matches(pattern, registry)) {
            return Ok(());
        }
        Err(RegistryError::NotAllowed(registry.to_owned()))
    }

    pub(crate) fn client(&self, registry: &str, protocol: ClientProtocol) -> Result<Client, OciDistributionError> {
        with_crypto();
        let roots = (!self.roots_pem.is_empty())
            .then(|| Certificate { encoding: CertificateEncoding::Pem, data: self.roots_pem.clone().into_bytes() });
        Client::try_from(ClientConfig {
            protocol,
            accept_invalid_certificates: self.is_insecure(registry),
            extra_root_certificates: roots.into_iter().collect(),
            platform_resolver: Some(Box::new(linux_amd64_resolver)),
            connect_timeout: Some(CONNECT),
            read_timeout: Some(SILENCE),
            user_agent: AGENT,
            https_proxy: self.https_proxy.as_ref().map(|proxy| proxy.reveal().to_owned()),
            http_proxy: self.http_proxy.as_ref().map(|proxy| proxy.reveal().to_owned()),
            no_proxy: self.no_proxy.clone(),
            ..ClientConfig::default()
        })
    }

    /// For what `oci-client` does not ask: it keeps its own to itself, and this one is made as that is.
    pub(crate) fn plain_client(&self, registry: &str) -> Result<reqwest::Client, OciDistributionError> {
        with_crypto();
        let mut builder = reqwest::Client::builder()
            .tls_danger_accept_invalid_certs(self.is_insecure(registry))
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .user_agent(AGENT);
        if !self.roots_pem.is_empty() {
            builder = builder.tls_certs_merge([reqwest::Certificate::from_pem(self.roots_pem.as_bytes())?]);
        }
        let direct = || self.no_proxy.as_deref().and_then(reqwest::NoProxy::from_string);
        if let Some(proxy) = &self.https_proxy {
            builder = builder.proxy(reqwest::Proxy::https(proxy.reveal())?.no_proxy(direct()));
        }
        if let Some(proxy) = &self.http_proxy {
            builder = builder.proxy(reqwest::Proxy::http(proxy.reveal())?.no_proxy(direct()));
        }
        Ok(builder.build()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_meant_by_name_domain_or_network() {
        for (pattern, registry, expected) in [
            ("reg.example", "reg.example:5000", true),
            ("reg.example:5000", "reg.example:5000", true),
            ("reg.example:5000", "reg.example", false),
            ("*.example", "a.b.example:5000", true),
            ("*.example", "example", false),
            ("*example", "badexample", false),
            ("10.1.0.0/16", "10.1.2.3:5000", true),
            ("10.1.0.0/16", "10.2.2.3", false),
            ("0.0.0.0/0", "10.2.2.3", true),
            ("10.1.0.0/99", "10.1.0.0", false),
            ("10.1.0.0/16", "reg.example", false),
        ] {
            assert_eq!(matches(pattern, registry), expected, "{pattern} {registry}");
        }
    }
}
