//! What vic-machine would have written into the VM's extraConfig.

use vch_config::{
    Addressing, ApiConfig, ApiTls, BridgeConfig, Interface, Limits, Role, StorageConfig, VchConfig, VolumeStore,
    VsphereConfig,
};

use super::MAC;

/// A VCH with one network card, found by its MAC address and configured by DHCP.
pub(crate) fn config(tls: ApiTls) -> VchConfig {
    VchConfig {
        schema: vch_config::SCHEMA,
        id: "6b1f".into(),
        name: "vch-boot".into(),
        version: "0.1.0".into(),
        created: "2026-01-01T00:00:00Z".into(),
        debug: 2,
        vsphere: VsphereConfig { target: "https://192.0.2.1".into(), ..VsphereConfig::default() },
        interfaces: vec![Interface {
            mac: MAC.into(),
            port_group: "VM Network".into(),
            network: "network-1".into(),
            roles: vec![Role::Public, Role::Client, Role::Management],
            ipv4: Addressing::Dhcp,
        }],
        dns_servers: Vec::new(),
        bridge: BridgeConfig { range: "172.16.0.0/12".into(), width: 16, made: None },
        registry: Default::default(),
        api: ApiConfig { port: 2376, tls },
        storage: StorageConfig {
            image_store: "[datastore1] vch-boot".into(),
            bootstrap_iso: String::new(),
            volume_stores: vec![VolumeStore { label: "default".into(), path: "[datastore1] volumes".into() }],
        },
        limits: Limits { memory_mib: Some(4096), ..Limits::default() },
        create_options: Vec::new(),
    }
}
