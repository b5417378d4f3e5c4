//! [`VchConfig`] and [`VchSecrets`]: what the admin decided.

use std::net::IpAddr;

use secret::Secret;
use serde::{Deserialize, Serialize};

use crate::{Document, SCHEMA};

/// What a VCH is.  Written by `vic-machine`, read by the endpoint VM at each boot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VchConfig {
    /// [`SCHEMA`] of the writer.
    pub schema: u32,
    /// Identity of the VCH: a UUID made at create, kept for life.
    pub id: String,
    /// The VCH's name, also its vApp's and its endpoint VM's.
    pub name: String,
    /// The version of `vic-machine` that wrote this document.
    pub version: String,
    /// When the VCH was created, RFC 3339.
    pub created: String,
    /// 0 quiet, 1 debug logs, 2 and above open the debugging doors of the endpoint VM.
    #[serde(default)]
    pub debug: u8,
    /// How the endpoint VM reaches vSphere.
    pub vsphere: VsphereConfig,
    /// The endpoint VM's network interfaces.
    pub interfaces: Vec<Interface>,
    /// Name servers that win over those learned by DHCP.
    #[serde(default)]
    pub dns_servers: Vec<IpAddr>,
    /// The Docker bridge network's address plan.
    pub bridge: BridgeConfig,
    /// The Docker API listener.
    pub api: ApiConfig,
    /// Where images and volumes are.
    pub storage: StorageConfig,
    /// Where images come from.
    #[serde(default)]
    pub registry: RegistryConfig,
    /// Ceilings of the VCH.
    #[serde(default)]
    pub limits: Limits,
    /// The options of the create command as given, secrets left out, for `inspect config`.
    #[serde(default)]
    pub create_options: Vec<String>,
}

/// How the endpoint VM reaches vSphere, and which objects are its own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct VsphereConfig {
    /// `https://host[:port]`, without credentials.
    pub target: String,
    /// The user that the endpoint VM logs in as.
    pub username: String,
    /// Accepted leaf certificate thumbprints, SHA-1 or SHA-256, upper-case hex with colons.
    #[serde(default)]
    pub thumbprints: Vec<String>,
    /// CA bundle in PEM that the target's certificate must chain to, when no thumbprint is pinned.
    #[serde(default)]
    pub ca_pem: String,
    /// Managed object ids (`datacenter-2`, ...) of the objects that the VCH lives in.
    pub datacenter: String,
    /// The compute resource that was chosen.
    pub compute_resource: String,
    /// The VCH's vApp or resource pool.
    pub pool: String,
    /// The VCH's VM folder.
    pub folder: String,
}

/// What a network interface is for.  Roles on one port group share one interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Published ports, the registry, the default route.
    Public,
    /// The Docker API and the admin portal.
    Client,
    /// vSphere.
    Management,
    /// The containers.
    Bridge,
}

impl Role {
    /// All roles, in the order in which interfaces are made for them.
    pub const ALL: [Self; 4] = [Self::Public, Self::Client, Self::Management, Self::Bridge];

    /// The role's name in flags, documents and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Client => "client",
            Self::Management => "management",
            Self::Bridge => "bridge",
        }
    }
}

/// One NIC of the endpoint VM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Interface {
    /// MAC address as vSphere reports it, lower-case with colons; how the guest finds the NIC.
    pub mac: String,
    /// The port group's name, for messages.
    pub port_group: String,
    /// The port group's managed object id.
    pub network: String,
    /// What the interface is for; the first one names the link in the guest.
    pub roles: Vec<Role>,
    /// How the interface gets its IPv4 address.
    pub ipv4: Addressing,
}

/// How an interface gets its IPv4 address.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "lowercase")]
pub enum Addressing {
    /// From the network's DHCP server.
    Dhcp,
    /// As given.
    Static {
        /// `address/prefix`.
        address: String,
        /// Next hop, if there is one.
        gateway: Option<IpAddr>,
        /// Networks behind the gateway (CIDR); empty means the default route.
        #[serde(default)]
        destinations: Vec<String>,
    },
    /// None: addresses are added as container networks come up (the bridge).
    None,
}

/// The Docker bridge network's address plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BridgeConfig {
    /// The range that Docker networks are cut from, CIDR.
    pub range: String,
    /// Prefix length of each Docker network.
    pub width: u8,
    /// The switch and port group that `create` made for it on an ESXi host, and `delete` removes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made: Option<MadeNetwork>,
}

/// A standard switch without uplinks, and its one port group of the same name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeNetwork {
    /// Managed object id of the host's `HostNetworkSystem`.
    pub network_system: String,
    /// Name of switch and port group.
    pub name: String,
}

/// The Docker API listener.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ApiConfig {
    /// TCP port: 2376 with TLS, 2375 without.
    pub port: u16,
    /// How the listener is protected.
    pub tls: ApiTls,
}

/// How the Docker API listener is protected.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "lowercase")]
pub enum ApiTls {
    /// Clients show a certificate that chains to one of the given CAs.
    Mutual {
        /// Server certificate chain, PEM.
        server_cert_pem: String,
        /// Accepted client CAs, PEM.
        client_ca_pem: String,
    },
    /// TLS, any client.
    Server {
        /// Server certificate chain, PEM.
        server_cert_pem: String,
    },
    /// Plain HTTP.
    None,
}

/// Where images and volumes are.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StorageConfig {
    /// Image store, `[datastore] folder`.
    pub image_store: String,
    /// The containers' boot image, `[datastore] folder/file`.
    #[serde(default)]
    pub bootstrap_iso: String,
    /// Volume stores.
    #[serde(default)]
    pub volume_stores: Vec<VolumeStore>,
}

/// A place for volumes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VolumeStore {
    /// Its name in `docker volume create -o VolumeStore=`.
    pub label: String,
    /// `[datastore] folder`.
    pub path: String,
}

/// Where images come from, and how.  A registry is `host[:port]`, `*.domain` or a CIDR.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryConfig {
    /// Registries that may have any certificate, or speak plain HTTP.
    #[serde(default)]
    pub insecure: Vec<String>,
    /// The only registries that may be asked; all, when there are none.
    #[serde(default)]
    pub allowed: Vec<String>,
    /// CAs that registries' certificates may chain to besides the system's, PEM.
    #[serde(default)]
    pub ca_pem: String,
    /// Hosts that are reached without one of the [`Proxies`], separated by commas.
    #[serde(default)]
    pub no_proxy: Option<String>,
}

/// Ceilings of the VCH; absent means none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// CPU limit of the pool, MHz.
    pub cpu_mhz: Option<u64>,
    /// Memory limit of the pool, MiB.
    pub memory_mib: Option<u64>,
    /// How many containers there may be.
    pub containers: Option<u64>,
    /// How much of the image store may be used, bytes.
    pub storage_bytes: Option<u64>,
}

/// What must not be shown: stored apart from [`VchConfig`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VchSecrets {
    /// [`SCHEMA`] of the writer.
    pub schema: u32,
    /// Password of [`VsphereConfig::username`].
    #[serde(serialize_with = "secret::expose")]
    pub vsphere_password: Secret,
    /// Private key of the Docker API listener, PEM; empty when it speaks plain HTTP.
    #[serde(serialize_with = "secret::expose")]
    pub server_key_pem: Secret,
    /// Private key of the VCH's own CA for the control channel, PEM; empty in a VCH that was made before there was one.
    #[serde(default = "no_secret", serialize_with = "secret::expose")]
    pub control_key_pem: Secret,
    /// By which registries are reached.
    #[serde(default)]
    pub proxies: Proxies,
}

/// Proxies' URLs, which may hold passwords.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Proxies {
    /// For plain HTTP.
    #[serde(default, serialize_with = "secret::expose_option")]
    pub http: Option<Secret>,
    /// For HTTPS.
    #[serde(default, serialize_with = "secret::expose_option")]
    pub https: Option<Secret>,
}

fn no_secret() -> Secret {
    Secret::new("")
}

impl Document for VchConfig {
    const NAME: &'static str = "the VCH configuration (guestinfo.vic.config)";
    fn schema(&self) -> u32 {
        self.schema
    }
}

impl Document for VchSecrets {
    const NAME: &'static str = "the VCH secrets (guestinfo.vic.secrets)";
    fn schema(&self) -> u32 {
        self.schema
    }
}

impl VchSecrets {
    /// The document of this build's schema, without proxies.
    pub fn new(vsphere_password: Secret, server_key_pem: Secret, control_key_pem: Secret) -> Self {
        let proxies = Proxies::default();
        Self { schema: SCHEMA, vsphere_password, server_key_pem, control_key_pem, proxies }
    }
}

impl VchConfig {
    /// The interface that carries `role`.
    pub fn interface(&self, role: Role) -> Option<&Interface> {
        self.interfaces.iter().find(|i| i.roles.contains(&role))
    }
}
