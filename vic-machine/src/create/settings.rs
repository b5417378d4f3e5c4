//! [`Settings`]: what the options mean, before vSphere is asked anything.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use secret::Secret;
use url::{Host, Url};
use vch_config::{Addressing, BridgeConfig, Limits, Proxies, RegistryConfig, Role};
use vim25::datastore::DatastorePath;

use crate::certs::{self, Certificates, Mode};
use crate::cli::CreateArgs;
use crate::connect::Target;
use crate::iso::Iso;
use crate::names;
use crate::problem::Problem;

/// What the options mean.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) name: String,
    pub(crate) target: Target,
    /// Where the VCH reaches vSphere.
    pub(crate) vsphere: Url,
    pub(crate) compute_resource: Option<String>,
    /// Datastore and folder; no datastore when it is left to us.
    pub(crate) image_store: Option<DatastorePath>,
    pub(crate) appliance: Iso,
    pub(crate) bootstrap: Iso,
    pub(crate) networks: Vec<RoleNetwork>,
    pub(crate) dns_servers: Vec<IpAddr>,
    pub(crate) bridge: BridgeConfig,
    pub(crate) registry: RegistryConfig,
    pub(crate) proxies: Proxies,
    pub(crate) limits: Limits,
    pub(crate) endpoint_memory_mib: u32,
    pub(crate) endpoint_cpus: u8,
    pub(crate) mode: Mode,
    pub(crate) certificates: Certificates,
    pub(crate) certificate_folder: PathBuf,
    pub(crate) ops_user: String,
    pub(crate) ops_password: Secret,
    pub(crate) debug: u8,
    pub(crate) create_options: Vec<String>,
}

impl Settings {
    /// What is uploaded.
    pub(crate) fn images(&self) -> [&Iso; 2] {
        [&self.appliance, &self.bootstrap]
    }
}

/// Which network serves a role, and how its address is set.
#[derive(Debug, Clone)]
pub(crate) struct RoleNetwork {
    pub(crate) role: Role,
    pub(crate) network: String,
    pub(crate) addressing: Addressing,
}

/// Reads the options; every problem is reported, not only the first.
pub(crate) fn resolve(args: &CreateArgs, target: &Target) -> Result<Settings, Vec<Problem>> {
    let mut problems = Vec::new();
    problems.extend(names::check_vch_name(&args.name).err());
    let appliance = keep(image("appliance", &args.appliance_iso, args.force), &mut problems);
    let bootstrap = keep(image("bootstrap", &args.bootstrap_iso, args.force), &mut problems);
    let vsphere = keep(vsphere(args, target), &mut problems);
    let networks = keep(super::networks::resolve(args), &mut problems).unwrap_or_default();
    problems.extend(check_bridge_range(args).err());
    let image_store = args.image_store.as_deref().map(image_store).transpose();
    let image_store = keep(image_store, &mut problems).flatten();
    let registry = registry(args, &mut problems);
    let proxies = Proxies {
        http: keep(proxy("http-proxy", args.http_proxy.as_ref()), &mut problems).flatten(),
        https: keep(proxy("https-proxy", args.https_proxy.as_ref()), &mut problems).flatten(),
    };
    let mode = if args.no_tls {
        Mode::None
    } else if args.no_tlsverify {
        Mode::Server
    } else {
        Mode::Mutual
    };
    let folder = args.tls_cert_path.clone().unwrap_or_else(|| PathBuf::from(&args.name));
    let request = certs::Request {
        mode,
        folder: folder.clone(),
        names: certificate_names(args, &networks),
        organization: args.organization.clone(),
        server_cert: args.tls_server_cert.clone(),
        server_key: args.tls_server_key.clone(),
        client_cas: args.tls_ca.clone(),
        rsa_bits: args.certificate_key_size,
        now: time::OffsetDateTime::now_utc(),
    };
    let certificates = match request.resolve() {
        Ok(certificates) => Some(certificates),
        Err(more) => {
            problems.extend(more);
            None
        }
    };
    let (Some(appliance), Some(bootstrap), Some(certificates)) = (appliance, bootstrap, certificates) else {
        return Err(problems);
    };
    if !problems.is_empty() {
        return Err(problems);
    }
    let Some(vsphere) = vsphere else { return Err(problems) };
    let limit = |n: Option<u64>| n.filter(|n| *n > 0);
    Ok(Settings {
        name: args.name.clone(),
        target: target.clone(),
        vsphere,
        compute_resource: args.compute_resource.clone(),
        image_store,
        appliance,
        bootstrap,
        networks,
        dns_servers: args.dns_server.clone(),
        bridge: BridgeConfig { range: args.bridge_network_range.clone(), width: args.bridge_network_width, made: None },
        registry,
        proxies,
        limits: Limits {
            cpu_mhz: limit(args.cpu),
            memory_mib: limit(args.memory),
            containers: limit(args.containers),
            storage_bytes: limit(args.storage_quota).map(|gb| gb * 1_000_000_000),
        },
        endpoint_memory_mib: args.endpoint_memory,
        endpoint_cpus: args.endpoint_cpu,
        mode,
        certificates,
        certificate_folder: folder,
        ops_user: args.ops_user.clone().unwrap_or_else(|| target.user.clone()),
        ops_password: args.ops_password.clone().unwrap_or_else(|| target.password.clone()),
        debug: args.target.debug,
        create_options: create_options(args),
    })
}

fn keep<T>(outcome: Result<T, Problem>, problems: &mut Vec<Problem>) -> Option<T> {
    outcome.map_err(|p| problems.push(p)).ok()
}

/// An image, looked for here, then beside the program; its version must be ours.
fn image(kind: &'static str, given: &Path, force: bool) -> Result<Iso, Problem> {
    let beside = || Some(std::env::current_exe().ok()?.parent()?.join(given));
    let path = if given.exists() { None } else { beside().filter(|p| p.exists()) };
    let iso = Iso::open(kind, path.as_deref().unwrap_or(given))?;
    if iso.version != crate::VERSION && !force {
        let what = format!("--{kind}-iso: {} is of version {:?}", iso.path.display(), iso.version);
        return Err(Problem::validation(what)
            .why(format!("this vic-machine is of version {}", crate::VERSION))
            .remedy("use the ISO that belongs to this version, or go on with --force"));
    }
    Ok(iso)
}

/// The address at which the VCH reaches vSphere: the admin's own, unless that leads nowhere from there.
fn vsphere(args: &CreateArgs, target: &Target) -> Result<Url, Problem> {
    let remedy = "give the address that the management network reaches as --vsphere-address HOST[:PORT]";
    let Some(given) = args.vsphere_address.as_deref().filter(|a| !a.is_empty()) else {
        let loopback = match target.url.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(ip)) => ip.is_loopback(),
            Some(Host::Ipv6(ip)) => ip.is_loopback(),
            None => false,
        };
        return if loopback {
            let what = format!("the VCH cannot reach vSphere at {}", target.url.host_str().unwrap_or_default());
            Err(Problem::validation(what).why("that address is this machine's own").remedy(remedy))
        } else {
            Ok(target.url.clone())
        };
    };
    let bad = |why: String| Problem::validation(format!("--vsphere-address {given:?} cannot be used")).why(why);
    let url = Url::parse(&format!("https://{given}")).map_err(|e| bad(e.to_string()).remedy(remedy))?;
    if url.path() != "/" || url.host_str().is_none_or(str::is_empty) || !url.username().is_empty() {
        return Err(bad("it is no HOST[:PORT]".into()).remedy(remedy));
    }
    Ok(url)
}

/// `datastore[/path]` or `ds://datastore/path`.
fn image_store(text: &str) -> Result<DatastorePath, Problem> {
    let fault = |why: &str| {
        Problem::validation(format!("--image-store {text:?} cannot be used"))
            .why(why)
            .remedy("write it as DATASTORE[/PATH]")
    };
    let rest = match text.split_once("://") {
        Some(("ds", rest)) => rest,
        Some((scheme, _)) => return Err(fault(&format!("bad scheme {scheme:?}"))),
        None => text,
    };
    if let Some(c) = rest.chars().find(|c| "%&*$#@!\\?\"<>;'|".contains(*c) || c.is_control()) {
        return Err(fault(&format!("it contains {c:?}")));
    }
    let (datastore, path) = rest.split_once('/').unwrap_or((rest, ""));
    if datastore.is_empty() {
        return Err(fault("it names no datastore"));
    }
    if path.split('/').any(|part| part == "..") {
        return Err(fault("it leaves the datastore"));
    }
    Ok(DatastorePath::new(datastore, path))
}

/// Where images may come from, and how.
fn registry(args: &CreateArgs, problems: &mut Vec<Problem>) -> RegistryConfig {
    let mut ca_pem = String::new();
    for path in &args.registry_ca {
        let fault = |why: String| {
            Problem::validation(format!("--registry-ca {} cannot be used", path.display()))
                .why(why)
                .remedy("give the CA's certificate as a PEM file")
        };
        match std::fs::read_to_string(path) {
            Ok(text) if text.contains("-----BEGIN CERTIFICATE-----") => ca_pem.push_str(&format!("{}\n", text.trim())),
            Ok(_) => problems.push(fault("there is no certificate in it".into())),
            Err(e) => problems.push(fault(e.to_string())),
        }
    }
    let named = |option: &str, names: &[String], problems: &mut Vec<Problem>| {
        for name in names {
            if name.is_empty() || name.contains("://") || name.contains(char::is_whitespace) {
                let what = format!("--{option} {name:?} cannot be used");
                problems.push(Problem::validation(what).remedy("write it as HOST[:PORT], *.DOMAIN or CIDR"));
            }
        }
        names.to_vec()
    };
    let insecure = named("insecure-registry", &args.insecure_registry, problems);
    let mut allowed = named("whitelist-registry", &args.whitelist_registry, problems);
    if !allowed.is_empty() {
        // Who is named to be reached without a check is meant to be reached.
        allowed.extend(insecure.iter().filter(|name| !args.whitelist_registry.contains(name)).cloned());
    }
    RegistryConfig {
        insecure,
        allowed,
        ca_pem,
        no_proxy: args.no_proxy.as_deref().map(|hosts| hosts.trim().to_owned()).filter(|hosts| !hosts.is_empty()),
    }
}

/// A proxy's URL.  It may hold a password, and is not repeated.
fn proxy(option: &str, given: Option<&Secret>) -> Result<Option<Secret>, Problem> {
    let Some(given) = given.filter(|g| !g.is_empty()) else { return Ok(None) };
    let url = Url::parse(given.reveal()).ok().filter(|u| ["http", "https"].contains(&u.scheme()) && u.has_host());
    url.map(|_| Some(given.clone())).ok_or_else(|| {
        Problem::validation(format!("--{option} is no URL of a proxy"))
            .remedy("write it as http://HOST:PORT or http://USER:PASSWORD@HOST:PORT")
    })
}

/// The names that the server certificate must carry: the given one, and every static address of the client's network.
fn certificate_names(args: &CreateArgs, networks: &[RoleNetwork]) -> Vec<String> {
    let mut names: Vec<String> = args.tls_cname.iter().filter(|n| !n.is_empty()).cloned().collect();
    let client = networks.iter().find(|n| n.role == Role::Client).map(|n| n.network.as_str());
    for n in networks.iter().filter(|n| Some(n.network.as_str()) == client) {
        if let Addressing::Static { address, .. } = &n.addressing {
            let address = address.split('/').next().unwrap_or(address).to_owned();
            if !names.contains(&address) {
                names.push(address);
            }
        }
    }
    names
}

fn check_bridge_range(args: &CreateArgs) -> Result<(), Problem> {
    let (range, width) = (&args.bridge_network_range, args.bridge_network_width);
    let fault = |why: String| {
        Problem::validation(format!("Error parsing bridge network ip range {range:?}"))
            .why(why)
            .remedy("write --bridge-network-range as 172.16.0.0/12")
    };
    let (address, prefix) = range.split_once('/').ok_or_else(|| fault("it has no prefix length".into()))?;
    address.parse::<Ipv4Addr>().map_err(|e| fault(e.to_string()))?;
    let prefix: u8 = prefix.parse().map_err(|_| fault(format!("{prefix:?} is no prefix length")))?;
    if prefix > 30 {
        return Err(fault(format!("/{prefix} leaves no room for containers")));
    }
    if width < prefix || width > 30 {
        return Err(Problem::validation(format!("Error specifying bridge network width: {width}"))
            .why(format!("networks are cut from {range}"))
            .remedy(format!("give --bridge-network-width a value from {prefix} to 30")));
    }
    Ok(())
}

/// The options as they were given, for `inspect config`; what could be secret is left out.
fn create_options(args: &CreateArgs) -> Vec<String> {
    let mut options = vec![format!("--name={}", args.name)];
    let mut add = |name: &str, value: Option<String>| options.extend(value.map(|v| format!("--{name}={v}")));
    add("compute-resource", args.compute_resource.clone());
    add("image-store", args.image_store.clone());
    add("bridge-network", args.bridge_network.clone());
    add("bridge-network-range", Some(args.bridge_network_range.clone()));
    add("bridge-network-width", Some(args.bridge_network_width.to_string()));
    add("public-network", Some(args.public_network.clone()));
    add("public-network-ip", args.public_network_ip.clone());
    add("public-network-gateway", args.public_network_gateway.clone());
    add("client-network", args.client_network.clone());
    add("client-network-ip", args.client_network_ip.clone());
    add("client-network-gateway", args.client_network_gateway.clone());
    add("management-network", args.management_network.clone());
    add("management-network-ip", args.management_network_ip.clone());
    add("management-network-gateway", args.management_network_gateway.clone());
    add("memory", args.memory.map(|n| n.to_string()));
    add("cpu", args.cpu.map(|n| n.to_string()));
    add("containers", args.containers.map(|n| n.to_string()));
    add("storage-quota", args.storage_quota.map(|n| n.to_string()));
    add("endpoint-memory", Some(args.endpoint_memory.to_string()));
    add("endpoint-cpu", Some(args.endpoint_cpu.to_string()));
    add("tls-cname", args.tls_cname.clone());
    add("certificate-key-size", args.certificate_key_size.map(|n| n.to_string()));
    for ip in &args.dns_server {
        add("dns-server", Some(ip.to_string()));
    }
    for name in &args.organization {
        add("organization", Some(name.clone()));
    }
    for name in &args.insecure_registry {
        add("insecure-registry", Some(name.clone()));
    }
    for name in &args.whitelist_registry {
        add("whitelist-registry", Some(name.clone()));
    }
    // A proxy's address may hold a password.
    add("no-proxy", args.no_proxy.clone());
    if args.no_tlsverify {
        options.push("--no-tlsverify".into());
    }
    if args.no_tls {
        options.push("--no-tls".into());
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_stores_are_read_in_both_forms() {
        assert_eq!(image_store("ds1").unwrap(), DatastorePath::new("ds1", ""));
        assert_eq!(image_store("ds://ds1/a/b").unwrap(), DatastorePath::new("ds1", "a/b"));
        for (bad, text) in
            [("nfs://h/p", "bad scheme"), ("/p", "no datastore"), ("d$s", "contains '$'"), ("ds/../x", "leaves")]
        {
            assert!(image_store(bad).unwrap_err().to_string().contains(text), "{bad}");
        }
    }

    #[test]
    fn a_proxy_is_a_url_and_what_is_none_is_not_repeated() {
        let read = |text: &str| proxy("https-proxy", Some(&Secret::new(text)));
        assert_eq!(read("").unwrap(), None);
        for good in ["http://proxy:3128", "https://ann:hunter2@proxy"] {
            assert_eq!(read(good).unwrap().unwrap().reveal(), good);
        }
        for bad in ["ann:hunter2@proxy", "socks5://ann:hunter2@proxy", "http://"] {
            let problem = read(bad).unwrap_err();
            assert!(!format!("{:?}{:?}{:?}", problem.what, problem.why, problem.remedy).contains("hunter2"), "{bad}");
        }
    }
}
