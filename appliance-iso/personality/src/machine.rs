//! The endpoint VM itself, for what `docker info` says when the VCH has no limits.

use nix::sys::utsname::uname;

/// What this machine has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Machine {
    /// Version of the kernel.
    pub(crate) kernel: String,
    /// Processors.
    pub(crate) cpus: i64,
    /// Speed of one, MHz; 0 when not known.
    pub(crate) cpu_mhz: u64,
    /// Bytes of memory.
    pub(crate) memory: i64,
}

impl Machine {
    /// Looks at this machine.
    pub(crate) fn look() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        Self {
            kernel: uname().map(|u| u.release().to_string_lossy().into_owned()).unwrap_or_default(),
            cpus: std::thread::available_parallelism().map_or(1, |n| i64::try_from(n.get()).unwrap_or(1)),
            cpu_mhz: cpu_mhz(&read("/proc/cpuinfo")).unwrap_or(0),
            memory: memory(&read("/proc/meminfo")).unwrap_or(0),
        }
    }
}

/// The value of `name : value` in a file of /proc.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

fn cpu_mhz(cpuinfo: &str) -> Option<u64> {
    field(cpuinfo, "cpu MHz")?.split('.').next()?.parse().ok()
}

fn memory(meminfo: &str) -> Option<i64> {
    let kib: i64 = field(meminfo, "MemTotal")?.strip_suffix(" kB")?.parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_proc_are_read() {
        assert_eq!(cpu_mhz("processor\t: 0\ncpu MHz\t\t: 2494.140\n"), Some(2494));
        assert_eq!(memory("MemTotal:        2015292 kB\nMemFree: 1 kB\n"), Some(2_063_659_008));
        assert_eq!(memory(""), None);
    }
}
