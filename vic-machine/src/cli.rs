//! The command line: each option is defined once, here.
//!
//! Every option also has an environment variable (`VIC_MACHINE_` and its name) and a key in the `--manifest` file (its
//! name).  Precedence: flag, environment, manifest, default.  The original's single-dash spellings (`-target x`) work.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{ArgAction, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::printer::Output;
use crate::problem::{Exit, Problem};

#[derive(Debug, Parser)]
#[command(name = "vic-machine", version = crate::VERSION, disable_help_subcommand = false, max_term_width = 100,
    about = "Creates, lists, inspects and deletes Virtual Container Hosts on vSphere",
    after_help = "Exit codes: 0 done, 1 failed, 2 usage, 3 validation, 4 trust or login, 5 permission, 6 not found,\n\
                  7 conflict or in progress, 8 deadline, 9 partly done and resumable.\n\
                  Every option can be given as VIC_MACHINE_<OPTION> in the environment, or in a --manifest file.")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a VCH.
    Create(Box<CreateArgs>),
    /// List the VCHs that a user can see.
    Ls(LsArgs),
    /// Show one VCH.
    Inspect(OneArgs),
    /// Delete a VCH with its containers and images; volumes are kept.
    Delete(DeleteArgs),
    /// Show the version.
    Version(VersionArgs),
}

/// How to reach vSphere; the same on every command.
#[derive(Debug, Clone, Args)]
pub(crate) struct TargetArgs {
    /// vCenter or ESXi: [https://][user[:password]@]host[:port][/datacenter]
    #[arg(long, short = 't', value_name = "URL")]
    pub(crate) target: Option<String>,
    /// vSphere user; overrides the one in --target
    #[arg(long, short = 'u', value_name = "NAME")]
    pub(crate) user: Option<String>,
    /// Its password; asked for on a terminal when absent
    #[arg(long, short = 'p', value_name = "TEXT", hide_env_values = true)]
    pub(crate) password: Option<secret::Secret>,
    /// Accepted thumbprint of the target's certificate, SHA-1 or SHA-256
    #[arg(long, value_name = "HEX", action = ArgAction::Append)]
    pub(crate) thumbprint: Vec<vim25::trust::Thumbprint>,
    /// CA bundle (PEM) that the target's certificate must chain to
    #[arg(long, value_name = "FILE")]
    pub(crate) target_ca: Option<PathBuf>,
    /// What stdout carries
    #[arg(long, short = 'o', value_enum, default_value_t)]
    pub(crate) output: Output,
    /// Never ask; fail when a value is missing
    #[arg(long)]
    pub(crate) no_input: bool,
    /// More talk; on create also the endpoint VM's own debug level
    #[arg(long, short = 'v', value_name = "LEVEL", default_value_t = 0)]
    pub(crate) debug: u8,
    /// Bound on the whole command, e.g. 90s, 10m; without it each stage has its own, which follows progress
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
    /// TOML file with values for options, by their names
    #[arg(long, value_name = "FILE")]
    pub(crate) manifest: Option<PathBuf>,
}

/// Which VCH.
#[derive(Debug, Clone, Args)]
pub(crate) struct WhichArgs {
    /// Name of the VCH
    #[arg(long, short = 'n', default_value = "virtual-container-host")]
    pub(crate) name: String,
    /// Id of the VCH as `ls` shows it, instead of its name
    #[arg(long, value_name = "ID", conflicts_with_all = ["name", "compute_resource"])]
    pub(crate) id: Option<String>,
    /// Cluster, host or resource pool that holds it, by name or inventory path
    #[arg(long, short = 'r', value_name = "PATH")]
    pub(crate) compute_resource: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// Only VCHs in this cluster, host or resource pool
    #[arg(long, short = 'r', value_name = "PATH")]
    pub(crate) compute_resource: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct OneArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    #[command(flatten)]
    pub(crate) which: WhichArgs,
    /// Folder with the client certificates, for the docker command that is shown
    #[arg(long, value_name = "DIR")]
    pub(crate) tls_cert_path: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    #[command(flatten)]
    pub(crate) which: WhichArgs,
    /// Delete although containers run in it, or another version created it
    #[arg(long, short = 'f')]
    pub(crate) force: bool,
    /// Show the plan and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct VersionArgs {
    /// What stdout carries
    #[arg(long, short = 'o', value_enum, default_value_t)]
    pub(crate) output: Output,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// Name of the VCH, at most 31 characters
    #[arg(long, short = 'n', default_value = "virtual-container-host")]
    pub(crate) name: String,
    /// Cluster, host or resource pool, by name or inventory path; default: the only one there is
    #[arg(long, short = 'r', value_name = "PATH")]
    pub(crate) compute_resource: Option<String>,
    /// Show the plan and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Go on when the ISO's version is not this tool's
    #[arg(long, short = 'f')]
    pub(crate) force: bool,
    /// Leave everything in place when create fails, for a look
    #[arg(long)]
    pub(crate) keep_failed: bool,

    /// Where images and the endpoint VM are kept: DATASTORE[/PATH]; default: the only datastore
    #[arg(long, short = 'i', value_name = "STORE", help_heading = "Storage")]
    pub(crate) image_store: Option<String>,
    /// Appliance image; looked for here, then beside this program
    #[arg(long, alias = "ai", value_name = "FILE", default_value = "appliance.iso", help_heading = "Storage")]
    pub(crate) appliance_iso: PathBuf,
    /// Boot image of containers; looked for likewise
    #[arg(long, alias = "bi", value_name = "FILE", default_value = "bootstrap.iso", help_heading = "Storage")]
    pub(crate) bootstrap_iso: PathBuf,

    /// Port group of the containers' bridge network; default: the VCH's name
    #[arg(long, short = 'b', value_name = "NAME", help_heading = "Networks")]
    pub(crate) bridge_network: Option<String>,
    /// Addresses for bridge networks
    #[arg(long, alias = "bnr", value_name = "CIDR", default_value = "172.16.0.0/12", help_heading = "Networks")]
    pub(crate) bridge_network_range: String,
    /// Prefix length of each bridge network
    #[arg(long, alias = "bnw", value_name = "BITS", default_value_t = 16, help_heading = "Networks")]
    pub(crate) bridge_network_width: u8,
    /// Network of published ports and of the default route
    #[arg(long, alias = "pn", value_name = "NAME", default_value = "VM Network", help_heading = "Networks")]
    pub(crate) public_network: String,
    /// Static address with prefix; default: DHCP
    #[arg(long, value_name = "CIDR", help_heading = "Networks")]
    pub(crate) public_network_ip: Option<String>,
    /// Its gateway
    #[arg(long, value_name = "IP", help_heading = "Networks")]
    pub(crate) public_network_gateway: Option<String>,
    /// Network of the Docker API; default: the public one
    #[arg(long, alias = "cln", value_name = "NAME", help_heading = "Networks")]
    pub(crate) client_network: Option<String>,
    /// Static address with prefix; default: DHCP
    #[arg(long, value_name = "CIDR", help_heading = "Networks")]
    pub(crate) client_network_ip: Option<String>,
    /// Its gateway: [CIDR,CIDR:]IP
    #[arg(long, value_name = "[CIDRS:]IP", help_heading = "Networks")]
    pub(crate) client_network_gateway: Option<String>,
    /// Network on which the VCH reaches vSphere; default: the client one
    #[arg(long, alias = "mn", value_name = "NAME", help_heading = "Networks")]
    pub(crate) management_network: Option<String>,
    /// Static address with prefix; default: DHCP
    #[arg(long, value_name = "CIDR", help_heading = "Networks")]
    pub(crate) management_network_ip: Option<String>,
    /// Its gateway: [CIDR,CIDR:]IP
    #[arg(long, value_name = "[CIDRS:]IP", help_heading = "Networks")]
    pub(crate) management_network_gateway: Option<String>,
    /// Where the VCH reaches vSphere, if not at --target (a tunnel, NAT): HOST[:PORT]
    #[arg(long, value_name = "ADDRESS", help_heading = "Networks")]
    pub(crate) vsphere_address: Option<String>,
    /// Name server; repeat for more
    #[arg(long, value_name = "IP", action = ArgAction::Append, help_heading = "Networks")]
    pub(crate) dns_server: Vec<std::net::IpAddr>,

    /// Memory limit of the VCH in MiB; 0 is unlimited
    #[arg(long, alias = "mem", value_name = "MIB", help_heading = "Resources")]
    pub(crate) memory: Option<u64>,
    /// CPU limit of the VCH in MHz; 0 is unlimited
    #[arg(long, value_name = "MHZ", help_heading = "Resources")]
    pub(crate) cpu: Option<u64>,
    /// Memory of the endpoint VM in MiB
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(256..=65536), help_heading = "Resources")]
    pub(crate) endpoint_memory: u32,
    /// CPUs of the endpoint VM
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64), help_heading = "Resources")]
    pub(crate) endpoint_cpu: u8,
    /// How many containers there may be; 0 is unlimited
    #[arg(long, value_name = "COUNT", help_heading = "Resources")]
    pub(crate) containers: Option<u64>,
    /// How much of the image store may be used, in GB; 0 is unlimited
    #[arg(long, alias = "sq", value_name = "GB", help_heading = "Resources")]
    pub(crate) storage_quota: Option<u64>,

    /// Name or address that clients of the Docker API use
    #[arg(long, value_name = "NAME", help_heading = "Security")]
    pub(crate) tls_cname: Option<String>,
    /// Folder for certificates; default: ./NAME
    #[arg(long, value_name = "DIR", help_heading = "Security")]
    pub(crate) tls_cert_path: Option<PathBuf>,
    /// Server certificate (PEM), with --tls-server-key
    #[arg(long, value_name = "FILE", help_heading = "Security")]
    pub(crate) tls_server_cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", help_heading = "Security")]
    pub(crate) tls_server_key: Option<PathBuf>,
    /// CA (PEM) that clients' certificates may chain to; repeat for more
    #[arg(long, alias = "ca", value_name = "FILE", action = ArgAction::Append, help_heading = "Security")]
    pub(crate) tls_ca: Vec<PathBuf>,
    /// Organization in generated certificates; repeat for more
    #[arg(long, value_name = "NAME", action = ArgAction::Append, help_heading = "Security")]
    pub(crate) organization: Vec<String>,
    /// Generate RSA keys of so many bits; default: ECDSA P-256
    #[arg(long, alias = "ksz", value_name = "BITS", value_parser = clap::value_parser!(u16).range(2048..=8192), help_heading = "Security")]
    pub(crate) certificate_key_size: Option<u16>,
    /// TLS without client certificates
    #[arg(long, alias = "kv", help_heading = "Security")]
    pub(crate) no_tlsverify: bool,
    /// Plain HTTP: anyone who reaches the port has the VCH
    #[arg(long, short = 'k', conflicts_with = "no_tlsverify", help_heading = "Security")]
    pub(crate) no_tls: bool,
    /// CA (PEM) of registries; repeat for more
    #[arg(long, alias = "rc", value_name = "FILE", action = ArgAction::Append, help_heading = "Registries")]
    pub(crate) registry_ca: Vec<PathBuf>,
    /// Registry whose certificate is not checked, or that speaks plain HTTP: HOST[:PORT], *.DOMAIN or CIDR; repeat for more
    #[arg(long, alias = "dir", value_name = "REGISTRY", action = ArgAction::Append, help_heading = "Registries")]
    pub(crate) insecure_registry: Vec<String>,
    /// The only registry that images may come from; repeat for more
    #[arg(long, alias = "wr", value_name = "REGISTRY", action = ArgAction::Append, help_heading = "Registries")]
    pub(crate) whitelist_registry: Vec<String>,
    /// Proxy for HTTP
    #[arg(long, value_name = "URL", help_heading = "Registries", hide_env_values = true)]
    pub(crate) http_proxy: Option<secret::Secret>,
    /// Proxy for HTTPS
    #[arg(long, value_name = "URL", help_heading = "Registries", hide_env_values = true)]
    pub(crate) https_proxy: Option<secret::Secret>,
    /// Hosts that are reached without a proxy, separated by commas
    #[arg(long, value_name = "HOSTS", help_heading = "Registries")]
    pub(crate) no_proxy: Option<String>,

    /// User that the VCH itself logs in as; default: --user
    #[arg(long, value_name = "NAME", help_heading = "Security")]
    pub(crate) ops_user: Option<String>,
    /// Its password
    #[arg(long, value_name = "TEXT", requires = "ops_user", help_heading = "Security", hide_env_values = true)]
    pub(crate) ops_password: Option<secret::Secret>,
}

/// Reads `90s`, `3m`, `1h30m`, as Go writes durations.
fn duration(text: &str) -> Result<Duration, String> {
    let fault = || format!("{text:?} is no duration: write 90s, 3m or 1h30m");
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(fault)?;
        let number: u64 = rest[..digits].parse().map_err(|_| fault())?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let unit = match &rest[..letters] {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_secs(60),
            "h" => Duration::from_secs(3600),
            _ => return Err(fault()),
        };
        total += unit.checked_mul(u32::try_from(number).map_err(|_| fault())?).ok_or_else(fault)?;
        rest = &rest[letters..];
    }
    if total.is_zero() { Err(fault()) } else { Ok(total) }
}

/// The definition, with an environment variable for every option.
fn definition() -> clap::Command {
    Cli::command().mut_subcommands(|sub| {
        sub.mut_args(|arg| match arg.get_long().map(|l| l.replace('-', "_").to_uppercase()) {
            Some(name) if !arg.is_global_set() && name != "HELP" => {
                arg.env(format!("VIC_MACHINE_{name}")).hide_env(true)
            }
            _ => arg,
        })
    })
}

/// Why the command line did not lead to a command.
#[derive(Debug)]
pub(crate) enum Stop {
    /// clap's own: help, version, or a fault of usage.
    Clap(Box<clap::Error>),
    /// The manifest cannot be used.
    Problem(Box<Problem>),
}

/// Reads the command line, the environment and the manifest.
pub(crate) fn parse(args: impl Iterator<Item = OsString>) -> Result<Cli, Stop> {
    let definition = definition();
    let mut args = double_dashes(&definition, args.collect());
    let clap = |e: clap::Error| Stop::Clap(Box::new(e));
    let mut matches = definition.clone().try_get_matches_from(&args).map_err(clap)?;
    if let Some((name, sub)) = matches.subcommand()
        && let Some(Some(path)) = sub.try_get_one::<PathBuf>("manifest").ok()
    {
        let command = definition.find_subcommand(name);
        args.extend(manifest_args(path, command, sub).map_err(|p| Stop::Problem(Box::new(p)))?);
        matches = definition.try_get_matches_from(&args).map_err(clap)?;
    }
    Cli::from_arg_matches(&matches).map_err(clap)
}

/// The manifest's values as flags, for the options that neither flag nor environment gave.
fn manifest_args(
    path: &std::path::Path,
    command: Option<&clap::Command>,
    given: &clap::ArgMatches,
) -> Result<Vec<OsString>, Problem> {
    let fault = |why: String| {
        Problem::new(Exit::Usage, format!("--manifest {} cannot be used", path.display()))
            .why(why)
            .remedy("write one `option = value` a line, with the names that --help shows")
    };
    let text = std::fs::read_to_string(path).map_err(|e| fault(e.to_string()))?;
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| fault(e.message().to_owned()))?;
    let mut args = Vec::new();
    for (key, value) in table {
        let option = command.and_then(|c| c.get_arguments().find(|a| a.get_long() == Some(key.as_str())));
        let Some(option) = option.filter(|_| key != "manifest") else {
            return Err(fault(format!("there is no option {key}")));
        };
        let source = given.value_source(option.get_id().as_str());
        if matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable)) {
            continue;
        }
        let values = match value {
            toml::Value::Array(items) => items,
            one => vec![one],
        };
        for value in values {
            match value {
                toml::Value::Boolean(true) if !option.get_action().takes_values() => {
                    args.push(format!("--{key}").into())
                }
                toml::Value::Boolean(false) if !option.get_action().takes_values() => {}
                toml::Value::String(text) => args.push(format!("--{key}={text}").into()),
                toml::Value::Integer(number) => args.push(format!("--{key}={number}").into()),
                other => return Err(fault(format!("{key} cannot be {}", other.type_str()))),
            }
        }
    }
    Ok(args)
}

/// The original took `-target` for `--target`; scripts rely on it.
fn double_dashes(definition: &clap::Command, args: Vec<OsString>) -> Vec<OsString> {
    let command = args.iter().skip(1).find_map(|a| a.to_str().and_then(|a| definition.find_subcommand(a)));
    let Some(command) = command else { return args };
    let is_long = |name: &str| {
        command
            .get_arguments()
            .any(|a| a.get_long() == Some(name) || a.get_all_aliases().is_some_and(|all| all.contains(&name)))
    };
    args.into_iter()
        .map(|arg| match arg.to_str() {
            Some(text) if text.starts_with('-') && !text.starts_with("--") && text.len() > 2 => {
                let name = text[1..].split('=').next().unwrap_or("");
                if is_long(name) { format!("-{text}").into() } else { arg }
            }
            _ => arg,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(args: &[&str]) -> CreateArgs {
        let words = ["vic-machine", "create"].iter().chain(args).map(OsString::from);
        match parse(words).map(|c| c.command) {
            Ok(Command::Create(args)) => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        definition().debug_assert();
    }

    #[test]
    fn the_reference_names_every_command_and_option() {
        let page = include_str!("../../docs/reference/vic-machine.md");
        for command in definition().get_subcommands() {
            assert!(page.contains(command.get_name()), "{}", command.get_name());
            for option in command.get_arguments().filter_map(clap::Arg::get_long).filter(|o| *o != "help") {
                assert!(page.contains(&format!("`--{option}`")), "--{option} of {}", command.get_name());
            }
        }
    }

    #[test]
    fn the_originals_spellings_work() {
        let args = create(&["-target", "vc", "-mem=4096", "--bnr", "10.0.0.0/8", "-kv", "-n", "x", "-b", "br"]);
        assert_eq!(args.target.target.as_deref(), Some("vc"));
        assert_eq!((args.memory, args.bridge_network_range.as_str()), (Some(4096), "10.0.0.0/8"));
        assert!(args.no_tlsverify);
        assert_eq!((args.name.as_str(), args.bridge_network.as_deref()), ("x", Some("br")));
    }

    #[test]
    fn a_flag_wins_over_the_manifest_and_the_manifest_over_the_default() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vch.toml");
        std::fs::write(&path, "name = 'm'\ncpu = 5\nno-tls = true\ndns-server = ['1.1.1.1', '9.9.9.9']\n").unwrap();
        let manifest = path.to_str().unwrap();
        let args = create(&["--manifest", manifest, "--cpu", "7"]);
        assert_eq!((args.name.as_str(), args.cpu, args.no_tls, args.dns_server.len()), ("m", Some(7), true, 2));
        std::fs::write(&path, "nme = 'm'\n").unwrap();
        let words = ["vic-machine", "create", "--manifest", manifest].map(OsString::from);
        assert!(matches!(parse(words.into_iter()), Err(Stop::Problem(p)) if p.to_string().contains("no option nme")));
    }

    #[test]
    fn durations_are_read_as_go_writes_them() {
        assert_eq!(duration("1h2m3s"), Ok(Duration::from_secs(3723)));
        for bad in ["", "3", "m", "3 m", "-1s", "99999999999h", "0s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
