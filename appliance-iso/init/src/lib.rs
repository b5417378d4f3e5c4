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

/// Runs PID 1; never returns.
pub fn run() -> ! {
    logger::install();
    early::prepare(&system::Linux);
    loop {
        let outcome =
            panic::catch_unwind(|| match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime.block_on(run::run()),
                Err(error) => log::error!("cannot start the event loop: {error}"),
            });
        if outcome.is_err() {
            log::error!("init panicked; starting anew");
        }
        // Returns at once when it was unparked before, which is harmless: the loop is paced, not timed.
        thread::park_timeout(Duration::from_secs(5));
    }
}
