//! `rpci REQUEST`: sends one RPCI request and prints the answer, as VMware's `vmware-rpctool` does.
//!
//! `VIC_RPCI_CARRIER` is `backdoor`, `serial` or `serial:PATH`; CPUID decides when it is not set.

use std::{io::Write, process::ExitCode};

use guestinfo::{Channel, Options, Selection};

fn main() -> ExitCode {
    let mut options = Options::default();
    match std::env::var("VIC_RPCI_CARRIER").as_deref() {
        Ok("backdoor") => options.selection = Selection::Backdoor,
        Ok(text) if text.starts_with("serial") => {
            options.selection = Selection::Serial;
            if let Some(path) = text.strip_prefix("serial:") {
                options.serial_path = path.into();
            }
        }
        _ => {}
    }
    let request = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
    let answer = Channel::open(&options, |_| {}).and_then(|channel| channel.request(&request));
    match answer {
        Ok(text) if writeln!(std::io::stdout(), "{text}").is_ok() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "rpci: {error}");
            ExitCode::FAILURE
        }
    }
}
