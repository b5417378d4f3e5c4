//! What is said of a VCH: addresses, the environment file, the docker command.

use std::path::{Path, PathBuf};

use vch_config::{ApiTls, Role};

use crate::certs::{self, ClientFiles};
use crate::printer::Printer;
use crate::problem::{Exit, Problem};
use crate::vch::Vch;

/// How a client reaches the Docker API.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Environment<'a> {
    pub(crate) client: Option<&'a ClientFiles>,
    /// Both sides show certificates.
    pub(crate) verify: bool,
    pub(crate) tls: bool,
}

impl Environment<'_> {
    fn variables(&self, host: &str) -> Vec<String> {
        let mut out = Vec::new();
        if self.verify {
            out.push("DOCKER_TLS_VERIFY=1".to_owned());
            if let Some(folder) = self.client.and_then(|c| c.cert.parent()) {
                out.push(format!("DOCKER_CERT_PATH={}", absolute(folder).display()));
            }
        }
        out.push(format!("DOCKER_HOST={host}"));
        out
    }

    /// The docker command that shows the VCH's information.
    pub(crate) fn docker_command(&self, host: &str) -> String {
        let tls = match (self.verify, self.client) {
            (true, Some(c)) => format!(
                " --tlsverify --tlscacert={} --tlscert={} --tlskey={}",
                quoted(&c.ca),
                quoted(&c.cert),
                quoted(&c.key)
            ),
            (true, None) => " --tlsverify".to_owned(),
            (false, _) if self.tls => " --tls".to_owned(),
            (false, _) => String::new(),
        };
        format!("docker -H {host}{tls} info")
    }
}

/// `host:port` of the Docker API for clients: the address where the server's certificate carries it, else a name that it
/// carries, for clients refuse anything else.
pub(crate) async fn docker_host(vch: &Vch, printer: Printer) -> Option<String> {
    let api = &vch.config.as_ref().ok()?.api;
    let address = vch.address(Role::Client)?;
    let with_port = |host: &str| {
        if host.contains(':') { format!("[{host}]:{}", api.port) } else { format!("{host}:{}", api.port) }
    };
    let (ApiTls::Mutual { server_cert_pem, .. } | ApiTls::Server { server_cert_pem }) = &api.tls else {
        return Some(with_port(&address));
    };
    let (addresses, names) = certs::subject_names(server_cert_pem);
    let name = names.iter().find(|n| !n.starts_with('*'));
    let (Some(name), false) = (name, addresses.iter().any(|a| a.to_string() == address)) else {
        return Some(with_port(&address));
    };
    let resolved = tokio::net::lookup_host((name.as_str(), api.port)).await;
    if !resolved.is_ok_and(|mut found| found.any(|a| a.ip().to_string() == address)) {
        printer.warn(format!("{name} does not resolve to {address} here: give it that address in your name service"));
    }
    Some(with_port(name))
}

fn quoted(path: &Path) -> String {
    format!("{:?}", absolute(path).display().to_string())
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Writes `NAME.env` into the certificate folder, or here when there is none.
pub(crate) fn write_env_file(folder: &Path, name: &str, host: &str, env: &Environment<'_>) -> Result<PathBuf, Problem> {
    let folder = if folder.is_dir() { folder } else { Path::new(".") };
    let path = folder.join(format!("{name}.env"));
    let text = env.variables(host).join("\n") + "\n";
    std::fs::write(&path, text)
        .map_err(|e| Problem::new(Exit::Failed, format!("{} cannot be written", path.display())).why(e))?;
    Ok(path)
}

/// Shows a VCH that runs.
pub(crate) fn vch(printer: Printer, vch: &Vch, host: &str, env: &Environment<'_>, file: Option<&Path>) {
    printer.data(format!("VCH ID: {}", vch.vm.value));
    printer.data(format!("VCH name: {}", vch.name));
    if let Ok(config) = &vch.config {
        printer.data(format!("VCH version: {}", config.version));
    }
    for role in [Role::Client, Role::Public, Role::Management] {
        if let Some(address) = vch.address(role) {
            printer.data(format!("{} address: {address}", role.name()));
        }
    }
    printer.data("Docker environment variables:");
    for variable in env.variables(host) {
        printer.data(format!("  {variable}"));
    }
    if let Some(file) = file {
        printer.data(format!("Environment saved in {}", file.display()));
    }
    printer.data("Connect to docker:");
    printer.data(format!("  {}", env.docker_command(host)));
    printer.json(&document(vch, host, env, file));
}

/// The same as a document; `docs/reference/vic-machine.schema.json` describes it.
fn document(vch: &Vch, host: &str, env: &Environment<'_>, file: Option<&Path>) -> serde_json::Value {
    serde_json::json!({
        "ok": true,
        "id": vch.vm.value,
        "name": vch.name,
        "version": vch.config.as_ref().map(|c| c.version.clone()).unwrap_or_default(),
        "state": vch.state(),
        "power_state": vch.power.as_str(),
        "docker_host": host,
        "addresses": vch.status.as_ref().map(|s| &s.addresses),
        "services": vch.status.as_ref().map(|s| &s.services),
        "environment": env.variables(host),
        "environment_file": file,
        "docker_command": env.docker_command(host),
    })
}
