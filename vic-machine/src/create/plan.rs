//! [`Plan`]: the ordered steps of a create, printable before anything is changed.

use std::fmt;

use vch_config::{
    ApiConfig, ApiTls, BridgeConfig, Interface, Role, SCHEMA, StorageConfig, VchConfig, VchSecrets, VsphereConfig,
};
use vim25::datastore::DatastorePath;
use vim25::trust::Trust;

use super::settings::Settings;
use super::site::{Housing, Network, Site};
use crate::certs::{self, Mode};
use crate::iso::Iso;
use crate::printer::Printer;
use crate::problem::Problem;

/// What will be done.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) settings: Settings,
    pub(crate) site: Site,
    pub(crate) id: String,
    pub(crate) created: String,
    pub(crate) steps: Vec<Step>,
}

/// One step.  Each is idempotent and has its undo in [`super::apply`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Certificates,
    Folder,
    Pool,
    EndpointVm,
    Upload,
    Bridge,
    Configure,
    PowerOn,
}

impl Plan {
    pub(crate) fn new(settings: Settings, site: Site) -> Self {
        let mut steps = Vec::new();
        if settings.mode != Mode::None {
            steps.push(Step::Certificates);
        }
        if site.vcenter {
            steps.push(Step::Folder);
        }
        if site.housing != Housing::Shared {
            steps.push(Step::Pool);
        }
        // The VM comes before the switch: its configuration is where the switch is recorded as ours.
        steps.extend([Step::EndpointVm, Step::Upload]);
        if site.bridge_to_make.is_some() {
            steps.push(Step::Bridge);
        }
        steps.extend([Step::Configure, Step::PowerOn]);
        let created =
            time::OffsetDateTime::now_utc().format(&time::format_description::well_known::Rfc3339).unwrap_or_default();
        Self { settings, site, id: uuid::Uuid::new_v4().to_string(), created, steps }
    }

    /// Prints the plan.
    pub(crate) fn show(&self, printer: Printer) {
        printer.data(format!("Plan for VCH {:?} (nothing has been changed):", self.settings.name));
        for (i, step) in self.steps.iter().enumerate() {
            printer.data(format!("  {}. {}", i + 1, self.describe(*step)));
        }
        printer.json(&serde_json::json!({
            "ok": true, "dry_run": true, "name": self.settings.name,
            "steps": self.steps.iter().map(|s| serde_json::json!({"step": s.to_string(), "what": self.describe(*s)})).collect::<Vec<_>>(),
        }));
    }

    /// A step in words.
    pub(crate) fn describe(&self, step: Step) -> String {
        let (name, site) = (&self.settings.name, &self.site);
        match step {
            Step::Certificates => format!("keep the certificates in {}", self.settings.certificate_folder.display()),
            Step::Folder => format!("create VM folder {name:?} in datacenter {:?}", site.datacenter.name),
            Step::Pool => {
                let kind = if site.housing == Housing::VApp { "vApp" } else { "resource pool" };
                format!("create {kind} {name:?} in {}", site.compute_path)
            }
            Step::EndpointVm => {
                let nics: Vec<String> = self.interfaces().iter().map(|(n, roles)| format!("{n:?} ({roles})")).collect();
                format!(
                    "create endpoint VM {name:?} on datastore {:?}: {} CPU, {} MiB, networks {}",
                    site.datastore.name,
                    self.settings.endpoint_cpus,
                    self.settings.endpoint_memory_mib,
                    nics.join(", ")
                )
            }
            Step::Upload => {
                let one = |iso: &Iso| format!("{} ({} bytes) as {}", iso.path.display(), iso.size, iso.upload_name());
                format!("upload {}", self.settings.images().map(one).join(", "))
            }
            Step::Bridge => format!(
                "create switch and port group {:?}, without uplink, for the bridge network",
                site.bridge_to_make.as_ref().map_or("", |m| &m.name)
            ),
            Step::Configure => "attach the ISO and write the VCH's configuration".into(),
            Step::PowerOn => "power on and wait until the Docker API answers".into(),
        }
    }

    /// Networks in the order of their NICs, each with the roles that share it.
    pub(crate) fn interfaces(&self) -> Vec<(String, Roles)> {
        let mut out: Vec<(String, Roles)> = Vec::new();
        for role in Role::ALL {
            let Some(n) = self.settings.networks.iter().find(|n| n.role == role) else { continue };
            match out.iter_mut().find(|(name, _)| *name == n.network) {
                Some((_, roles)) => roles.0.push(role),
                None => out.push((n.network.clone(), Roles(vec![role]))),
            }
        }
        out
    }

    /// How the API listener is protected.
    pub(crate) fn api_tls(&self) -> ApiTls {
        let certs = &self.settings.certificates;
        let server_cert_pem = certs.server_cert_pem.clone();
        match self.settings.mode {
            Mode::Mutual => ApiTls::Mutual { server_cert_pem, client_ca_pem: certs.client_ca_pem.clone() },
            Mode::Server => ApiTls::Server { server_cert_pem },
            Mode::None => ApiTls::None,
        }
    }

    /// The configuration; `macs` gives the address of each network's NIC, and `bridge` the port group that was made,
    /// once they are known.
    pub(crate) fn config(
        &self,
        bridge: Option<&Network>,
        vm_folder: &str,
        pool: &str,
        image_store: &DatastorePath,
        bootstrap_iso: &DatastorePath,
        macs: &[(String, String)],
    ) -> VchConfig {
        let (s, site) = (&self.settings, &self.site);
        let interfaces = self.interfaces().into_iter().map(|(network, roles)| {
            let facts = site.networks.get(&network).or(bridge.filter(|b| b.name == network));
            // One role on the network may carry the static address that all of them share.
            let given = s.networks.iter().filter(|n| n.network == network).map(|n| &n.addressing);
            let ipv4 = given
                .clone()
                .find(|a| matches!(a, vch_config::Addressing::Static { .. }))
                .or_else(|| given.clone().next());
            Interface {
                mac: macs.iter().find(|(n, _)| *n == network).map(|(_, m)| m.clone()).unwrap_or_default(),
                port_group: facts.map(|f| f.name.clone()).unwrap_or_default(),
                network: facts.map(|f| f.reference.value.clone()).unwrap_or_default(),
                roles: roles.0,
                ipv4: ipv4.cloned().unwrap_or(vch_config::Addressing::Dhcp),
            }
        });
        let target = &s.target;
        let thumbprints = match &target.trust {
            Trust::Thumbprints(prints) => prints.iter().map(ToString::to_string).collect(),
            _ => Vec::new(),
        };
        VchConfig {
            schema: SCHEMA,
            id: self.id.clone(),
            name: s.name.clone(),
            version: crate::VERSION.to_owned(),
            created: self.created.clone(),
            debug: s.debug,
            vsphere: VsphereConfig {
                target: s.vsphere.as_str().trim_end_matches('/').to_owned(),
                username: s.ops_user.clone(),
                thumbprints,
                ca_pem: target.ca_pem.clone(),
                datacenter: site.datacenter.reference.value.clone(),
                compute_resource: site.compute.reference.value.clone(),
                pool: pool.to_owned(),
                folder: vm_folder.to_owned(),
            },
            interfaces: interfaces.collect(),
            dns_servers: s.dns_servers.clone(),
            bridge: BridgeConfig { made: site.bridge_to_make.clone(), ..s.bridge.clone() },
            api: ApiConfig { port: if s.mode == Mode::None { 2375 } else { 2376 }, tls: self.api_tls() },
            storage: StorageConfig {
                image_store: image_store.to_string(),
                bootstrap_iso: bootstrap_iso.to_string(),
                volume_stores: Vec::new(),
            },
            registry: s.registry.clone(),
            limits: s.limits.clone(),
            create_options: s.create_options.clone(),
        }
    }

    /// What is stored apart from the configuration.
    pub(crate) fn secrets(&self) -> Result<VchSecrets, Problem> {
        let server_key = self.settings.certificates.server_key_pem.clone();
        let secrets = VchSecrets::new(self.settings.ops_password.clone(), server_key, certs::control_key()?);
        Ok(VchSecrets { proxies: self.settings.proxies.clone(), ..secrets })
    }
}

/// Roles that share a NIC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Roles(pub(crate) Vec<Role>);

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.iter().map(|r| r.name()).collect::<Vec<_>>().join(", "))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Certificates => "certificates",
            Self::Folder => "folder",
            Self::Pool => "pool",
            Self::EndpointVm => "endpoint-vm",
            Self::Upload => "upload",
            Self::Bridge => "bridge",
            Self::Configure => "configure",
            Self::PowerOn => "power-on",
        })
    }
}
