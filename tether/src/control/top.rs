//! The container's processes, as /proc tells of them (proc(5)).

use std::{collections::HashMap, fs, path::Path};

use tether_proto::control::{Process, TopReply};

use crate::accounts;

/// PID 1 is tether, and the kernel's own threads are children of PID 2.
const TETHER: u32 = 1;
const KERNEL: u32 = 2;
/// The major device number of the terminals that openpty(3) makes.
const PTS: u32 = 136;

/// Looks at `proc`; users have the names of the image's `passwd`.
pub(crate) fn look(proc: &Path, passwd: &str) -> TopReply {
    let names: HashMap<u32, String> = accounts::names(passwd);
    let mut processes: Vec<Process> = fs::read_dir(proc)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| ![TETHER, KERNEL].contains(pid))
        .filter_map(|pid| read(proc, pid, &names))
        .filter(|process| process.ppid != KERNEL)
        .collect();
    processes.sort_by_key(|process| process.pid);
    let text = |name: &str| fs::read_to_string(proc.join(name)).unwrap_or_default();
    let after = |text: &str, key: &str| {
        text.lines().find_map(|l| l.strip_prefix(key)?.split_whitespace().next()?.parse::<u64>().ok())
    };
    // SAFETY: it takes a number and touches no memory of ours.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    TopReply {
        processes,
        boot_time: after(&text("stat"), "btime ").unwrap_or_default(),
        ticks: u64::try_from(ticks).unwrap_or(100),
        memory: after(&text("meminfo"), "MemTotal:").unwrap_or_default() * 1024,
    }
}

/// One process; none when it has just gone.
fn read(proc: &Path, pid: u32, names: &HashMap<u32, String>) -> Option<Process> {
    let folder = proc.join(pid.to_string());
    let stat = fs::read_to_string(folder.join("stat")).ok()?;
    let status = fs::read_to_string(folder.join("status")).ok()?;
    let uid = status.lines().find_map(|l| l.strip_prefix("Uid:")?.split_whitespace().nth(1)?.parse().ok())?;
    let args = fs::read(folder.join("cmdline")).ok()?;
    let mut process = parse(&stat)?;
    process.pid = pid;
    process.uid = uid;
    process.user = names.get(&uid).cloned().unwrap_or_else(|| uid.to_string());
    let args = args.strip_suffix(b"\0").unwrap_or(&args);
    if !args.is_empty() {
        process.args = args.split(|b| *b == 0).map(|a| String::from_utf8_lossy(a).into_owned()).collect();
    }
    Some(process)
}

/// Reads /proc/PID/stat.  The name, in parentheses, may hold anything.
fn parse(stat: &str) -> Option<Process> {
    let (before, after) = stat.rsplit_once(')')?;
    let comm = before.split_once('(')?.1.to_owned();
    let fields: Vec<&str> = after.split_whitespace().collect();
    // The first of them is the third of proc(5).
    let number = |field: usize| fields.get(field - 3)?.parse::<i64>().ok();
    let natural = |field: usize| number(field).and_then(|n| u64::try_from(n).ok());
    let tty = natural(7).and_then(|n| u32::try_from(n).ok()).unwrap_or_default();
    let (major, minor) = ((tty >> 8) & 0xfff, (tty & 0xff) | ((tty >> 12) & 0xf_ff00));
    Some(Process {
        comm,
        state: (*fields.first()?).to_owned(),
        ppid: u32::try_from(natural(4)?).ok()?,
        tty: if major == PTS { format!("pts/{minor}") } else { String::new() },
        user_ticks: natural(14)?,
        system_ticks: natural(15)?,
        nice: number(19).and_then(|n| i32::try_from(n).ok()).unwrap_or_default(),
        threads: natural(20).and_then(|n| u32::try_from(n).ok()).unwrap_or_default(),
        start: natural(22)?,
        virtual_bytes: natural(23)?,
        resident_bytes: natural(24)? * 4096,
        ..Process::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_look_like_anything() {
        let stat = "7 (a) b (c) S 1 7 7 34817 7 4194560 1 0 0 0 25 5 0 0 20 -3 2 0 321 8192000 77 18446744073709551615";
        let found = parse(stat).unwrap();
        assert_eq!((found.comm.as_str(), found.state.as_str(), found.ppid), ("a) b (c", "S", 1));
        assert_eq!((found.tty.as_str(), found.user_ticks, found.system_ticks, found.start), ("pts/1", 25, 5, 321));
        assert_eq!((found.nice, found.threads, found.resident_bytes), (-3, 2, 77 * 4096));
        assert_eq!([parse(""), parse("7 (x) S"), parse("7 x")], [None, None, None]);
    }

    #[test]
    fn who_looks_is_among_them() {
        let found = look(Path::new("/proc"), "nobody:x:65534:65534::/:\n");
        let own = found.processes.iter().find(|p| p.pid == std::process::id()).unwrap();
        assert!(own.args[0].contains("tether"), "{own:?}");
        assert!(found.boot_time > 0 && found.memory > 0 && found.ticks > 0);
        assert!(found.processes.iter().all(|p| p.pid != 1));
    }
}
