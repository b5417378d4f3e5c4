//! `rpci REQUEST`: sends one RPCI request and prints the answer, as VMware's `vmware-rpctool` does.
//! `rpci --wait`: waits for the host to ask for a halt or a reboot, and prints which.
//!
//! `VIC_RPCI_CARRIER` is `backdoor`, `serial` or `serial:PATH`; CPUID decides when it is not set.

use std::{io::Write, process::ExitCode, sync::mpsc};

use guestinfo::{Channel, Options, Selection};

fn options() -> Options {
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
    options
}

fn run(arguments: &[String]) -> Result<String, Box<dyn std::error::Error>> {
    let (sender, requests) = mpsc::channel();
    let channel = Channel::open(&options(), move |request| {
        let _ = sender.send(request);
    })?;
    if arguments == ["--wait"] {
        return Ok(format!("{:?}", requests.recv()?));
    }
    Ok(channel.request(&arguments.join(" "))?)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(text) if writeln!(std::io::stdout(), "{text}").is_ok() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "rpci: {error}");
            ExitCode::FAILURE
        }
    }
}
