//! What must be there before anything else: file systems, devices, the network card's driver.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use nix::mount::MsFlags;

use crate::System;

/// What the boot loader told the kernel.
const COMMAND_LINE: &str = "/proc/cmdline";
/// Modules to load first, and those that may come once services answer; the image builder writes both lists.
const MODULES: &str = "/etc/vic/modules";
const LATE_MODULES: &str = "/etc/vic/modules-late";

/// What the kernel allows at most (`fs.nr_open`), and Docker's daemon gives containers.
const OPEN_FILES: libc::rlim_t = 1 << 20;

/// Mounts in their order: kind, place, options.
const MOUNTS: [(&str, &str, &str); 6] = [
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("devtmpfs", "/dev", "mode=0755"),
    ("devpts", "/dev/pts", "mode=0620,ptmxmode=0666"),
    ("tmpfs", "/run", "mode=0755,size=25%"),
    ("tmpfs", "/tmp", "mode=1777,size=25%"),
];

/// Mounts, and loads the first modules.  What fails is logged: the configuration may still be read and a status published.
pub fn prepare(system: &impl System) {
    for (kind, at, data) in MOUNTS {
        let at = Path::new(at);
        let _ = std::fs::create_dir_all(at);
        let mut flags = MsFlags::MS_NOSUID;
        if !kind.starts_with("dev") {
            flags |= MsFlags::MS_NODEV;
        }
        match system.mount(kind, kind, at, flags, data) {
            Ok(()) => {}
            // Mounted already: by the kernel, or by us before a panic.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            Err(error) => log::error!("cannot mount {kind} at {}: {error}", at.display()),
        }
    }
    seed();
    raise_limits();
    if let Err(error) = system.disable_reset_keys() {
        log::warn!("cannot disable the reset keys: {error}");
    }
    load_modules(system, Path::new(MODULES), Path::new(COMMAND_LINE));
}

/// Gives all that PID 1 starts the limits that services have elsewhere: the kernel's own are those of 1990.
fn raise_limits() {
    let limits = [(libc::RLIMIT_NOFILE, OPEN_FILES), (libc::RLIMIT_NPROC, libc::RLIM_INFINITY)];
    for (resource, most) in limits {
        let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
        // SAFETY: it reads the limit, which is there.
        if unsafe { libc::setrlimit(resource, &raw const limit) } != 0 {
            log::warn!("cannot raise limit {resource}: {}", std::io::Error::last_os_error());
        }
    }
}

/// Has the kernel seed its random numbers beside everything else.
///
/// On a CPU without RDRAND it gathers its own timing noise, a second or so, but only while somebody reads; the libraries
/// that need random numbers wait with poll(2), which does not count as reading, and would wait for ever.
fn seed() {
    std::thread::spawn(|| {
        let mut byte = [0];
        if let Err(error) = std::fs::File::open("/dev/random").and_then(|mut file| file.read_exact(&mut byte)) {
            log::warn!("cannot have the kernel seed its random numbers: {error}");
        }
    });
}

/// Loads the modules that may come later.
pub fn load_late_modules(system: &impl System) {
    load_modules(system, Path::new(LATE_MODULES), Path::new(COMMAND_LINE));
}

fn load_modules(system: &impl System, list: &Path, command_line: &Path) {
    let words = std::fs::read_to_string(command_line).unwrap_or_default();
    let text = match std::fs::read_to_string(list) {
        Ok(text) => text,
        Err(error) => return log::error!("cannot read the list of modules {}: {error}", list.display()),
    };
    for file in text.lines().filter(|line| !line.is_empty()).map(PathBuf::from) {
        match system.load_module(&file, &parameters(&file, &words)) {
            Ok(()) => {}
            // The device that the module drives is not in this machine.
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
            Err(error) => log::error!("cannot load the kernel module {}: {error}", file.display()),
        }
    }
}

/// What the kernel's command line says to a module: of `name.key=value` the kernel itself takes only what is for built-in ones, and
/// modprobe the rest.
fn parameters(file: &Path, command_line: &str) -> String {
    let canonical = |name: &str| name.replace('-', "_");
    let name = canonical(&file.file_stem().unwrap_or_default().to_string_lossy());
    let own = command_line.split_whitespace().filter_map(|word| {
        let (module, parameter) = word.split_once('.')?;
        (canonical(module) == name).then_some(parameter)
    });
    own.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::End;

    #[derive(Default)]
    struct Recorder {
        loaded: RefCell<Vec<(PathBuf, String)>>,
    }

    impl System for Recorder {
        fn mount(&self, _: &str, _: &str, _: &Path, _: MsFlags, _: &str) -> std::io::Result<()> {
            Ok(())
        }
        fn load_module(&self, file: &Path, parameters: &str) -> std::io::Result<()> {
            self.loaded.borrow_mut().push((file.into(), parameters.to_owned()));
            Err(std::io::Error::from_raw_os_error(libc::EINVAL))
        }
        fn set_host_name(&self, _: &str) -> std::io::Result<()> {
            Ok(())
        }
        fn disable_reset_keys(&self) -> std::io::Result<()> {
            Ok(())
        }
        fn unmount(&self, _: &Path) -> std::io::Result<()> {
            Ok(())
        }
        fn kill_others(&self) {}
        fn end(&self, _: End) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn modules_are_loaded_in_the_lists_order_and_a_bad_one_does_not_stop_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        let list = folder.path().join("modules");
        std::fs::write(&list, "/lib/modules/b_c.ko\n\n/lib/modules/a.ko\n").unwrap();
        let words = folder.path().join("cmdline");
        std::fs::write(&words, "quiet b-c.scan=manual init.a=1 console=ttyS0 b_c.max=2\n").unwrap();
        let recorder = Recorder::default();
        load_modules(&recorder, &list, &words);
        let loaded = |path: &str, parameters: &str| (PathBuf::from(path), parameters.to_owned());
        let expected = [loaded("/lib/modules/b_c.ko", "scan=manual max=2"), loaded("/lib/modules/a.ko", "")];
        assert_eq!(*recorder.loaded.borrow(), expected);
    }
}
