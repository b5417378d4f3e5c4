//! What `boot` compares the appliance with: a PID 1 that says that it runs, and powers off.
//!
//! Compiled on its own, statically, by `scripts/bench`; `recipe.toml` makes an ISO of it.

use std::{ffi::c_int, io::Write};

/// `LINUX_REBOOT_CMD_POWER_OFF` of reboot(2).
const POWER_OFF: c_int = 0x4321_fedc;

unsafe extern "C" {
    fn reboot(command: c_int) -> c_int;
}

fn main() {
    // The kernel has opened the console for PID 1.
    let _ = std::io::stdout().write_all(b"bare: PID 1 runs\n");
    // SAFETY: it takes a number and touches no memory of ours.
    unsafe { reboot(POWER_OFF) };
}
