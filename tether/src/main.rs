//! The one program of a containerVM's boot image.

use std::{io::Write, process::ExitCode};

fn main() -> ExitCode {
    if std::process::id() == 1 {
        tether::run();
    }
    let _ = writeln!(std::io::stderr(), "tether is PID 1 of a containerVM; it does nothing elsewhere");
    ExitCode::from(2)
}
