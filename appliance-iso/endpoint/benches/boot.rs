//! How long the appliance takes from power-on to a Docker API that answers over mutual TLS, against the time that the
//! same kernel takes from power-on to a PID 1 that does nothing.
//!
//! Both boot from a CD in the same virtual machine, in turns, and the medians are compared: a machine that is slow today
//! is slow for both.  `./scripts/bench boot` makes both ISOs and runs this.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a benchmark that cannot measure says so by panicking")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "stdout is the figure, stderr the progress")]

// What the tests boot is what is measured; they need more of it than this does.
#[allow(dead_code, unused_imports)]
#[path = "../tests/support/mod.rs"]
mod support;

use std::{path::PathBuf, time::Duration};

use support::{Certificates, Vch, config};
use vch_config::{ApiTls, Document, KEY_CONFIG, KEY_SECRETS, VchSecrets};

/// How often each is booted.
const ROUNDS: usize = 7;

fn iso(variable: &str) -> PathBuf {
    std::env::var_os(variable)
        .map(PathBuf::from)
        .unwrap_or_else(|| panic!("{variable} is not set: ./scripts/bench boot sets it"))
}

/// Power-on to an answer of the Docker API.
fn ours(iso: &std::path::Path) -> Duration {
    let certificates = Certificates::make();
    let tls = ApiTls::Mutual { server_cert_pem: certificates.server.clone(), client_ca_pem: certificates.ca.clone() };
    let secrets = VchSecrets::new(String::new().into(), certificates.server_key.clone().into(), String::new().into());
    let guest = Vch::boot(iso, &[(KEY_CONFIG, config(tls).to_text()), (KEY_SECRETS, secrets.to_text())]);
    guest.wait_for_docker(&certificates)
}

/// Power-on to the line of a PID 1.
fn bare(iso: &std::path::Path) -> Duration {
    let mut guest = Vch::boot(iso, &[]);
    let took = guest.wait_for_line("bare: PID 1 runs");
    guest.wait_for_power_off();
    took
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64()
}

fn main() {
    let (appliance, nothing) = (iso("VIC_APPLIANCE_ISO"), iso("VIC_BARE_ISO"));
    let (mut of_ours, mut of_bare) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        of_bare.push(bare(&nothing));
        of_ours.push(ours(&appliance));
        let seconds = |times: &[Duration]| times[round - 1].as_secs_f64();
        eprintln!("boot: round {round} of {ROUNDS}: ours {:.2} s, bare {:.2} s", seconds(&of_ours), seconds(&of_bare));
    }
    let (ours, bare) = (median(of_ours), median(of_bare));
    println!("boot ratio {:.2} (ours {ours:.2} s, bare {bare:.2} s)", ours / bare);
}
