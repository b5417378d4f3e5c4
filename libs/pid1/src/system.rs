//! The edge to the kernel: what PID 1 asks of it, so that tests can stand in its place.

use std::{ffi::CString, fs::File, path::Path, time::Duration};

use nix::{
    kmod::{ModuleInitFlags, finit_module},
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::{
        reboot::{RebootMode, reboot, set_cad_enabled},
        signal::{Signal, kill},
    },
    unistd::{Pid, sethostname, sync},
};

/// How the machine is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Power off.
    PowerOff,
    /// Start again.
    Reboot,
}

/// What PID 1 asks of the kernel.
pub trait System {
    /// Mounts `source` (a device, a folder to bind, or any word where the kind needs none).
    ///
    /// # Errors
    /// What the kernel says.
    fn mount(&self, source: &str, kind: &str, at: &Path, flags: MsFlags, data: &str) -> std::io::Result<()>;
    /// Loads the kernel module in `file` with its `parameters` (`key=value ...`); one that is loaded already is no error.
    ///
    /// # Errors
    /// What the kernel says.
    fn load_module(&self, file: &Path, parameters: &str) -> std::io::Result<()>;
    /// Sets the host name.
    ///
    /// # Errors
    /// What the kernel says.
    fn set_host_name(&self, name: &str) -> std::io::Result<()>;
    /// Makes the three-finger salute a signal instead of an instant reboot.
    ///
    /// # Errors
    /// What the kernel says.
    fn disable_reset_keys(&self) -> std::io::Result<()>;
    /// Unmounts what is mounted at `at`.
    ///
    /// # Errors
    /// What the kernel says.
    fn unmount(&self, at: &Path) -> std::io::Result<()>;
    /// Kills every other process.
    fn kill_others(&self);
    /// Kills what is left, writes out what is cached, and ends the machine.
    ///
    /// # Errors
    /// What the kernel says.
    fn end(&self, end: End) -> std::io::Result<()>;
}

/// The real kernel.
#[derive(Debug, Clone, Copy)]
pub struct Linux;

impl System for Linux {
    fn mount(&self, source: &str, kind: &str, at: &Path, flags: MsFlags, data: &str) -> std::io::Result<()> {
        mount(Some(source), at, Some(kind), flags, Some(data)).map_err(Into::into)
    }

    fn load_module(&self, file: &Path, parameters: &str) -> std::io::Result<()> {
        match finit_module(File::open(file)?, &CString::new(parameters)?, ModuleInitFlags::empty()) {
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

    fn unmount(&self, at: &Path) -> std::io::Result<()> {
        umount2(at, MntFlags::empty()).map_err(Into::into)
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
pub fn uptime() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Into::into)
}
