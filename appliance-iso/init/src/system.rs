//! The edge to the kernel: what PID 1 asks of it, so that tests can stand in its place.

use std::{ffi::CString, fs::File, path::Path, time::Duration};

use nix::{
    kmod::{ModuleInitFlags, finit_module},
    mount::{MsFlags, mount},
    sys::{
        reboot::{RebootMode, reboot, set_cad_enabled},
        signal::{Signal, kill},
    },
    unistd::{Pid, sethostname, sync},
};

/// How the machine is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Power off.
    PowerOff,
    /// Start again.
    Reboot,
}

/// What PID 1 asks of the kernel.
pub(crate) trait System {
    /// Mounts a file system that needs no device.
    fn mount(&self, kind: &str, at: &Path, flags: MsFlags, data: &str) -> std::io::Result<()>;
    /// Loads the kernel module in `file`; one that is loaded already is no error.
    fn load_module(&self, file: &Path) -> std::io::Result<()>;
    /// Sets the host name.
    fn set_host_name(&self, name: &str) -> std::io::Result<()>;
    /// Makes the three-finger salute a signal instead of an instant reboot.
    fn disable_reset_keys(&self) -> std::io::Result<()>;
    /// Kills every other process.
    fn kill_others(&self);
    /// Kills what is left, writes out what is cached, and ends the machine.
    fn end(&self, end: End) -> std::io::Result<()>;
}

/// The real kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Linux;

impl System for Linux {
    fn mount(&self, kind: &str, at: &Path, flags: MsFlags, data: &str) -> std::io::Result<()> {
        mount(Some(kind), at, Some(kind), flags, Some(data)).map_err(Into::into)
    }

    fn load_module(&self, file: &Path) -> std::io::Result<()> {
        let no_parameters = CString::default();
        match finit_module(File::open(file)?, &no_parameters, ModuleInitFlags::empty()) {
            Ok(()) | Err(nix::Error::EEXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn set_host_name(&self, name: &str) -> std::io::Result<()> {
        sethostname(name).map_err(Into::into)
    }

    fn disable_reset_keys(&self) -> std::io::Result<()> {
        set_cad_enabled(false).map_err(Into::into)
    }

    fn kill_others(&self) {
        // On a machine that it does not own, init must harm nobody.
        if std::process::id() == 1 {
            // Everything but ourselves; ESRCH when there is nothing.
            let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
        }
    }

    fn end(&self, end: End) -> std::io::Result<()> {
        self.kill_others();
        sync();
        let mode = match end {
            End::PowerOff => RebootMode::RB_POWER_OFF,
            End::Reboot => RebootMode::RB_AUTOBOOT,
        };
        match reboot(mode) {
            Ok(never) => match never {},
            Err(error) => Err(error.into()),
        }
    }
}

/// Time since the kernel started.
pub(crate) fn uptime() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Into::into)
}
