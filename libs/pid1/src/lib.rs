//! What a PID 1 of ours does, be it the endpoint VM's or a containerVM's: the first mounts, modules, reaping, the console,
//! links, and the edge to the kernel.

pub mod console;
pub mod early;
pub mod network;
mod reaper;
pub mod scsi;
mod system;

pub use reaper::{Ending, Reaper};
pub use system::{End, Linux, System, uptime};

/// Runs one life of PID 1; a panic ends that life only.  The panic's own message is on the console already.
pub fn survive(life: impl FnOnce() + std::panic::UnwindSafe) {
    if std::panic::catch_unwind(life).is_err() {
        log::error!("PID 1 panicked");
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_panic_ends_one_life_and_not_pid_1() {
        super::survive(|| panic!("a defect"));
    }
}
