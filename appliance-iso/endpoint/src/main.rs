//! The one binary of the endpoint VM, under the name of what it is to be.
//!
//! As PID 1, or called `init`, it is init; else its first argument names the service.  One binary, so that the image
//! carries the code that services share once.

use std::{io::Write, path::Path, process::ExitCode};

fn main() -> ExitCode {
    let mut arguments = std::env::args();
    let name = arguments.next().unwrap_or_default();
    let called_init = Path::new(&name).file_name().is_some_and(|name| name == "init");
    if called_init || std::process::id() == 1 {
        init::run();
    }
    match arguments.next().as_deref() {
        Some("personality") => personality::main(arguments),
        _ => {
            let _ = writeln!(std::io::stderr(), "usage: vic-endpoint personality --config-dir DIR");
            ExitCode::from(2)
        }
    }
}
