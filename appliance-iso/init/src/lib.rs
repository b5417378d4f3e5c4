//! PID 1 of the endpoint VM.
//!
//! ```text
//! mounts, modules -> guestinfo channel -> configuration -> links, addresses -> services -> answering
//!                                           ^   |                |               |  ^
//!                                           +---+ retried        +- DHCP kept    +--+ restarted
//! ```
//! Each concern is one task that owns its state, and tells what it sees to the [`status::Board`]; one more task
//! publishes what the board says.  Tasks share nothing else.  Nothing here ends the process: a PID 1 that exits takes the
//! kernel with it, so an error is published and tried again, and a defect that panics starts the whole anew.

mod documents;
mod early;
mod logger;
mod network;
mod power;
mod reaper;
mod run;
mod service;
mod status;
mod system;

use std::{panic, thread, time::Duration};

use system::System;

/// Runs PID 1; never returns.
pub fn run() -> ! {
    logger::install();
    early::prepare(&system::Linux);
    loop {
        survive(|| match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(run::run()),
            Err(error) => log::error!("cannot start the event loop: {error}"),
        });
        log::error!("starting anew");
        // Services of the life before would hold the ports of the next one's.
        system::Linux.kill_others();
        // Returns at once when it was unparked before, which is harmless: the loop is paced, not timed.
        thread::park_timeout(Duration::from_secs(5));
    }
}

/// Runs one life of init; a panic ends that life only.  The panic's own message is on the console already.
fn survive(life: impl FnOnce() + panic::UnwindSafe) {
    if panic::catch_unwind(life).is_err() {
        log::error!("init panicked");
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_panic_ends_one_life_and_not_pid_1() {
        super::survive(|| panic!("a defect"));
    }
}
