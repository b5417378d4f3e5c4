//! Addresses and names on "VM Network": one `dnsmasq` that outlives the daemon.

use std::path::Path;
use std::time::Duration;

use super::{DhcpFiles, Network};
use crate::error::{Error, Result};
use crate::process::{self, ProcessId};

/// The address and name server.
#[derive(Debug)]
pub(crate) struct Dhcp;

impl Dhcp {
    /// Starts it on `bridge`, unless it runs already.
    ///
    /// # Errors
    /// When `dnsmasq` does not start.
    pub(crate) async fn ensure(
        network: &Network,
        bridge: &str,
        files: &DhcpFiles,
        names: &[(String, String)],
    ) -> Result<()> {
        if process::recall(&files.process).is_some() {
            return Ok(());
        }
        let range = network.range();
        let (first, last) = range.dhcp();
        let mut args: Vec<String> = vec![
            // No configuration but this one.
            "--conf-file=/dev/null".into(),
            "--no-resolv".into(),
            "--no-hosts".into(),
            "--bind-interfaces".into(),
            "--except-interface=lo".into(),
            format!("--interface={bridge}"),
            format!("--pid-file={}", files.pid.display()),
            format!("--dhcp-leasefile={}", files.leases.display()),
            format!("--dhcp-range={first},{last},12h"),
            "--dhcp-authoritative".into(),
            // The lab is alone on its wire: asking around for an address costs each guest three seconds.
            "--no-ping".into(),
            "--domain=lab.test".into(),
            "--local=/lab.test/".into(),
            "--user=root".into(),
        ];
        for (name, address) in names {
            args.push(format!("--address=/{name}/{address}"));
        }
        // dnsmasq puts itself into the background once it listens.
        let output = network
            .namespace()
            .run(move || {
                std::process::Command::new("dnsmasq")
                    .args(&args)
                    .stdin(std::process::Stdio::null())
                    .output()
                    .map_err(|source| Error::Spawn { program: "dnsmasq".into(), source })
            })
            .await?;
        if !output.status.success() {
            return Err(Error::Program {
                program: "dnsmasq".into(),
                status: output.status.to_string(),
                what: "serve addresses on VM Network".into(),
                output: process::tail(&output.stderr),
            });
        }
        let id = process::from_pid_file(&files.pid)
            .ok_or_else(|| Error::Refused(format!("dnsmasq left no process id in {}", files.pid.display())))?;
        process::remember(&files.process, id)
    }

    /// Ends it.
    pub(crate) async fn end(process_file: &Path) {
        if let Some(process) = process::recall(process_file).and_then(ProcessId::open) {
            process.end(Duration::from_secs(2)).await;
        }
    }
}
