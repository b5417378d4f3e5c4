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
mod network;
mod power;
mod run;
mod service;
mod status;

use std::{thread, time::Duration};

use pid1::{Linux, System, console, early, survive};

/// Runs PID 1; never returns.
pub fn run() -> ! {
    console::install("init");
    early::prepare(&Linux);
    loop {
        survive(|| match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(run::run()),
            Err(error) => log::error!("cannot start the event loop: {error}"),
        });
        log::error!("starting anew");
        // Services of the life before would hold the ports of the next one's.
        Linux.kill_others();
        // Returns at once when it was unparked before, which is harmless: the loop is paced, not timed.
        thread::park_timeout(Duration::from_secs(5));
    }
}
