//! `vic-machine inspect`.

use std::path::PathBuf;

use vch_config::ApiTls;
use vim25::Session;
use vim25::inventory::Inventory;
use vim25::types::VirtualMachinePowerState;

use crate::certs::ClientFiles;
use crate::cli::OneArgs;
use crate::printer::Printer;
use crate::problem::{Exit, Problem};
use crate::{report, vch};

pub(crate) async fn run(args: &OneArgs, session: &Session, printer: Printer) -> Result<(), Problem> {
    let inventory = Inventory::load(session).await?;
    let found = vch::require(session, &inventory, &args.which).await?;
    let config = found.config.clone().map_err(|why| {
        Problem::new(Exit::Failed, format!("the configuration of VCH {:?} cannot be read", found.name)).why(why)
    })?;
    if found.power != VirtualMachinePowerState::PoweredOn {
        return Err(Problem::new(
            Exit::Failed,
            format!("VCH {:?} is not powered on, state {}", found.name, found.power.as_str()),
        )
        .remedy("power on its endpoint VM in vSphere"));
    }
    if config.version != crate::VERSION {
        printer.info(format!("Installer has version {}, the VCH {}", crate::VERSION, config.version));
    }
    let host = report::docker_host(&found, printer).await.ok_or_else(|| {
        Problem::new(Exit::Failed, format!("VCH {:?} has no client address yet", found.name))
            .why(found.status.as_ref().map_or("the guest has said nothing", |s| s.problem.as_str()))
            .remedy("wait a moment; if it stays so, look at the console of its endpoint VM")
    })?;
    let folders = match &args.tls_cert_path {
        Some(given) => vec![given.clone()],
        None => vec![PathBuf::from(&found.name), PathBuf::from("."), docker_folder()],
    };
    let client = folders.iter().find_map(|folder| {
        let files =
            ClientFiles { ca: folder.join("ca.pem"), cert: folder.join("cert.pem"), key: folder.join("key.pem") };
        (files.ca.exists() && files.cert.exists() && files.key.exists()).then_some(files)
    });
    let env = report::Environment {
        client: client.as_ref(),
        verify: matches!(config.api.tls, ApiTls::Mutual { .. }),
        tls: !matches!(config.api.tls, ApiTls::None),
    };
    report::vch(printer, &found, &host, &env, None);
    if let Some(status) = &found.status {
        for (name, service) in &status.services {
            printer.data(format!("service {name}: {:?}, {} restarts", service.state, service.restarts));
        }
        if !status.problem.is_empty() {
            printer.warn(&status.problem);
        }
    }
    Ok(())
}

fn docker_folder() -> PathBuf {
    PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".docker")
}
