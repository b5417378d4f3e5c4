//! Which accelerator really runs a guest here.
//!
//! `/dev/kvm` can exist and still not run an ordinary guest, so it is tried: SeaBIOS is booted with it and has to say
//! something on its debug port.  Firmware that boots proves little for a kernel, so KVM is trusted only until it fails: a
//! guest that it cannot start, or that it gives up on, is started again under TCG, and so is every one after it.  The answer
//! is kept for all labs of the machine, because it costs up to three seconds where it is "no".

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;

use crate::error::{Error, Result};
use crate::vm::MACHINE;

/// How guests are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Accelerator {
    /// Hardware virtualisation.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

impl Accelerator {
    /// QEMU's name for it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }

    /// QEMU's name for the guests' CPU: all that there is.  `rep movsb`, which ERMS calls fast, is translated byte by byte: without
    /// it guests copy by words.
    pub(crate) fn cpu(self) -> &'static str {
        match self {
            Self::Kvm => "max",
            Self::Tcg => "max,erms=off",
        }
    }
}

/// What is kept of a probe.
#[derive(Debug, Serialize, Deserialize)]
struct Probed {
    accelerator: Accelerator,
    /// [`boot`] at the probe.
    boot: String,
}

/// What guests are run with from now on.
#[derive(Debug)]
pub(crate) struct Choice {
    kvm: AtomicBool,
    cache: PathBuf,
}

impl Choice {
    /// TCG, without a probe; `cache` is not written.
    #[cfg(test)]
    pub(crate) fn tcg() -> Self {
        Self { kvm: AtomicBool::new(false), cache: PathBuf::new() }
    }

    /// The accelerator to use now.
    pub(crate) fn now(&self) -> Accelerator {
        if self.kvm.load(Ordering::Relaxed) { Accelerator::Kvm } else { Accelerator::Tcg }
    }

    /// KVM has failed a guest: nothing is run with it any more, until the machine is started anew.
    pub(crate) fn distrust(&self, reason: &str) {
        if self.kvm.swap(false, Ordering::Relaxed) {
            tracing::warn!("KVM does not run guests here, TCG does from now on: {reason}");
            if let Err(error) = keep(&self.cache, Accelerator::Tcg) {
                tracing::warn!("{}", error.chain());
            }
        }
    }
}

/// Identity of the machine's boot: another boot may be another machine.
fn boot() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

fn keep(cache: &Path, accelerator: Accelerator) -> Result<()> {
    crate::store::write_json(cache, &Probed { accelerator, boot: boot() })
}

/// The accelerator to use, from `cache` if it was probed since the machine's boot.
///
/// # Errors
/// When QEMU is not installed or the answer cannot be kept.
pub(crate) async fn choose(cache: PathBuf) -> Result<Choice> {
    let known = crate::store::read_json::<Probed>(&cache).ok().flatten().filter(|probed| probed.boot == boot());
    let accelerator = match known {
        Some(probed) => probed.accelerator,
        None => {
            let usable = Path::new("/dev/kvm").exists() && boots_with("kvm", Duration::from_secs(3)).await?;
            let accelerator = if usable { Accelerator::Kvm } else { Accelerator::Tcg };
            keep(&cache, accelerator)?;
            accelerator
        }
    };
    Ok(Choice { kvm: AtomicBool::new(accelerator == Accelerator::Kvm), cache })
}

/// Whether SeaBIOS gets as far as its last message when booted with `accelerator`.
async fn boots_with(accelerator: &str, patience: Duration) -> Result<bool> {
    let mut child = tokio::process::Command::new("qemu-system-x86_64")
        .args([
            "-machine",
            &format!("{MACHINE},accel={accelerator}"),
            "-cpu",
            "max",
            "-m",
            "64",
            "-display",
            "none",
            "-nodefaults",
        ])
        .args(["-no-user-config", "-chardev", "stdio,id=bios", "-device", "isa-debugcon,iobase=0x402,chardev=bios"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| Error::Spawn { program: "qemu-system-x86_64".into(), source })?;
    let Some(mut output) = child.stdout.take() else { return Ok(false) };
    let said = tokio::time::timeout(patience, async {
        let mut seen = Vec::new();
        let mut buffer = [0_u8; 4096];
        loop {
            match output.read(&mut buffer).await {
                Ok(0) | Err(_) => return false,
                Ok(n) => seen.extend_from_slice(&buffer[..n]),
            }
            // Said after PCI, interrupts, timers and 16-bit calls have all been used.
            if seen.windows(12).any(|w| w == b"Booting from") || seen.windows(11).any(|w| w == b"No bootable") {
                return true;
            }
        }
    })
    .await
    .unwrap_or(false);
    let _ = child.kill().await;
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_has_failed_once_is_not_chosen_again() {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("accelerator.json");
        keep(&cache, Accelerator::Kvm).unwrap();
        let choice = choose(cache.clone()).await.unwrap();
        assert_eq!(choice.now(), Accelerator::Kvm);
        choice.distrust("internal error");
        assert_eq!(choice.now(), Accelerator::Tcg);
        assert_eq!(choose(cache).await.unwrap().now(), Accelerator::Tcg);
    }

    #[tokio::test]
    async fn tcg_boots_and_an_unknown_accelerator_does_not() {
        if std::process::Command::new("qemu-system-x86_64").arg("--version").output().is_err() {
            println!("skipped: qemu-system-x86_64 is not installed");
            return;
        }
        assert!(boots_with("tcg", Duration::from_secs(60)).await.unwrap());
        assert!(!boots_with("none-such", Duration::from_secs(60)).await.unwrap());
    }
}
