//! `docker top`: the columns of ps(1), made of what the guest tells of its processes.  There is no ps in the guest to run,
//! and an image need not have one.

use port_layer::control::proto::{Process, TopReply};
use time::OffsetDateTime;
use time::macros::format_description;

use crate::error::ApiError;

/// A column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Column {
    /// User by name, number.
    User,
    Uid,
    Pid,
    Ppid,
    /// CPU as whole per cents of the time since the start; with one decimal.
    C,
    Pcpu,
    Pmem,
    Vsz,
    Rss,
    /// With `?` where there is none.
    Tty,
    State,
    Stime,
    Time,
    Etime,
    Nice,
    Threads,
    Comm,
    Args,
}

use Column as C;

/// ps(1)'s words for the columns of `-o`, the first of them its title's.
const NAMES: [(&[&str], &str, Column); 18] = [
    (&["user", "euser", "uname"], "USER", C::User),
    (&["uid", "euid"], "UID", C::Uid),
    (&["pid", "tgid"], "PID", C::Pid),
    (&["ppid"], "PPID", C::Ppid),
    (&["c"], "C", C::C),
    (&["pcpu", "%cpu"], "%CPU", C::Pcpu),
    (&["pmem", "%mem"], "%MEM", C::Pmem),
    (&["vsz", "vsize"], "VSZ", C::Vsz),
    (&["rss", "rssize", "rsz"], "RSS", C::Rss),
    (&["tty", "tt", "tname"], "TT", C::Tty),
    (&["stat", "state", "s"], "STAT", C::State),
    (&["stime", "start_time", "start", "bsdstart"], "STIME", C::Stime),
    (&["time", "cputime", "bsdtime"], "TIME", C::Time),
    (&["etime"], "ELAPSED", C::Etime),
    (&["ni", "nice"], "NI", C::Nice),
    (&["nlwp", "thcount"], "NLWP", C::Threads),
    (&["comm", "ucmd", "ucomm"], "COMMAND", C::Comm),
    (&["args", "cmd", "command"], "COMMAND", C::Args),
];

/// The columns that ps(1) shows with these arguments, with their titles.
pub(super) fn columns(ps_args: &str) -> Result<Vec<(String, Column)>, ApiError> {
    let titled = |list: &[(&str, Column)]| list.iter().map(|(title, column)| ((*title).to_owned(), *column)).collect();
    let full = [
        ("UID", C::User),
        ("PID", C::Pid),
        ("PPID", C::Ppid),
        ("C", C::C),
        ("STIME", C::Stime),
        ("TTY", C::Tty),
        ("TIME", C::Time),
        ("CMD", C::Args),
    ];
    let bsd = [
        ("USER", C::User),
        ("PID", C::Pid),
        ("%CPU", C::Pcpu),
        ("%MEM", C::Pmem),
        ("VSZ", C::Vsz),
        ("RSS", C::Rss),
        ("TTY", C::Tty),
        ("STAT", C::State),
        ("START", C::Stime),
        ("TIME", C::Time),
        ("COMMAND", C::Args),
    ];
    let short = [("PID", C::Pid), ("TTY", C::Tty), ("TIME", C::Time), ("CMD", C::Comm)];
    let words: Vec<&str> = ps_args.split_whitespace().collect();
    let unknown = || {
        let known = "-ef, aux, -e and -o with a list of columns are";
        ApiError::Bad(format!("ps arguments {ps_args:?} are not known: {known}"))
    };
    let mut lists: Vec<&str> = Vec::new();
    let mut rest = words.as_slice();
    let mut plain = Vec::new();
    loop {
        rest = match rest {
            [] => break,
            [word, after @ ..] => match word.trim_start_matches('-').split_once('o') {
                // `-o pid,comm`, `-eo pid`, `-opid`.
                Some((before, list)) if !word.starts_with("--") && before.chars().all(|c| "eAa".contains(c)) => {
                    match (list, after) {
                        ("", [list, after @ ..]) => {
                            lists.push(list);
                            after
                        }
                        ("", []) => return Err(unknown()),
                        (list, after) => {
                            lists.push(list);
                            after
                        }
                    }
                }
                _ => {
                    plain.push(*word);
                    after
                }
            },
        };
    }
    if lists.is_empty() {
        return match plain.as_slice() {
            [] | ["-ef" | "-eF" | "-f" | "-Af"] => Ok(titled(&full)),
            ["aux" | "-aux" | "axu" | "u" | "ux" | "au"] => Ok(titled(&bsd)),
            ["-e" | "-A" | "-a" | "ax" | "a" | "x" | "-ax"] => Ok(titled(&short)),
            _ => Err(unknown()),
        };
    }
    if !plain.iter().all(|word| ["-e", "-A", "ax", "-a", "a", "x", "-ax"].contains(word)) {
        return Err(unknown());
    }
    let mut columns = Vec::new();
    for name in lists.iter().flat_map(|list| list.split(',')) {
        // `pid=PROCESS` gives it a title of its own.
        let (name, title) = name.split_once('=').map_or((name, None), |(name, title)| (name, Some(title)));
        let lower = name.to_ascii_lowercase();
        let found = NAMES.iter().find(|(names, ..)| names.contains(&lower.as_str()));
        let (_, usual, column) =
            found.ok_or_else(|| ApiError::Bad(format!("error: unknown user-defined format specifier \"{name}\"")))?;
        columns.push((title.unwrap_or(usual).to_owned(), *column));
    }
    Ok(columns)
}

/// Titles, and a row for each process.
pub(super) fn table(columns: &[(String, Column)], reply: &TopReply) -> (Vec<String>, Vec<Vec<String>>) {
    let titles = columns.iter().map(|(title, _)| title.clone()).collect();
    let now = OffsetDateTime::now_utc();
    let row = |process: &Process| columns.iter().map(|(_, column)| cell(*column, process, reply, now)).collect();
    (titles, reply.processes.iter().map(row).collect())
}

fn cell(column: Column, process: &Process, reply: &TopReply, now: OffsetDateTime) -> String {
    let ticks = reply.ticks.max(1);
    let started = i64::try_from(reply.boot_time + process.start / ticks).unwrap_or_default();
    let started = OffsetDateTime::from_unix_timestamp(started).unwrap_or(now);
    let age = u64::try_from((now - started).whole_seconds()).unwrap_or_default();
    let used = process.user_ticks + process.system_ticks;
    // Per mille of one CPU.
    let share = used.saturating_mul(1000) / ticks / age.max(1);
    let decimal = |per_mille: u64| format!("{}.{}", per_mille / 10, per_mille % 10);
    match column {
        C::User => process.user.clone(),
        C::Uid => process.uid.to_string(),
        C::Pid => process.pid.to_string(),
        C::Ppid => process.ppid.to_string(),
        C::C => (share / 10).min(99).to_string(),
        C::Pcpu => decimal(share),
        C::Pmem => decimal(process.resident_bytes.saturating_mul(1000) / reply.memory.max(1)),
        C::Vsz => (process.virtual_bytes / 1024).to_string(),
        C::Rss => (process.resident_bytes / 1024).to_string(),
        C::Tty if process.tty.is_empty() => "?".to_owned(),
        C::Tty => process.tty.clone(),
        C::State => process.state.clone(),
        // Of today the time, else the day, as ps has it.
        C::Stime if started.date() == now.date() => {
            started.format(format_description!("[hour]:[minute]")).unwrap_or_default()
        }
        C::Stime => started.format(format_description!("[month repr:short][day]")).unwrap_or_default(),
        C::Time => clock(used / ticks, true),
        C::Etime => clock(age, false),
        C::Nice => process.nice.to_string(),
        C::Threads => process.threads.to_string(),
        C::Comm => process.comm.clone(),
        // What has no arguments any more is shown by its name.
        C::Args if process.args.is_empty() => format!("[{}]", process.comm),
        C::Args => process.args.join(" "),
    }
}

/// `[DD-]HH:MM:SS`, the hours left out where there are none unless they are asked for.
fn clock(seconds: u64, hours_always: bool) -> String {
    let (days, hours, minutes, seconds) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    match (days, hours) {
        (0, 0) if !hours_always => format!("{minutes:02}:{seconds:02}"),
        (0, _) => format!("{hours:02}:{minutes:02}:{seconds:02}"),
        _ => format!("{days}-{hours:02}:{minutes:02}:{seconds:02}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn titles(args: &str) -> String {
        match columns(args) {
            Ok(columns) => columns.iter().map(|(title, _)| title.as_str()).collect::<Vec<_>>().join(" "),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn arguments_choose_columns() {
        assert_eq!(titles("-ef"), "UID PID PPID C STIME TTY TIME CMD");
        assert_eq!(titles("aux"), "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND");
        for args in ["-o pid,comm=NAME", "-eo pid,comm=NAME", "-opid,comm=NAME", "ax -o pid -o comm=NAME"] {
            assert_eq!(titles(args), "PID NAME", "{args}");
        }
        assert!(titles("-o pid,nonsense").contains("unknown user-defined format specifier \"nonsense\""));
        for args in ["--forest", "-ef -o pid", "-o", "x y"] {
            assert!(titles(args).contains("are not known"), "{args}: {}", titles(args));
        }
    }

    #[test]
    fn a_row_is_as_ps_has_it() {
        let process = Process {
            pid: 7,
            ppid: 1,
            user: "web".into(),
            comm: "nginx".into(),
            args: vec!["nginx".into(), "-g".into()],
            state: "S".into(),
            user_ticks: 6100,
            virtual_bytes: 4096,
            resident_bytes: 2048,
            ..Process::default()
        };
        let reply = TopReply { processes: vec![process], boot_time: 1, ticks: 100, memory: 8192 };
        let columns = columns("-o user,pid,%mem,vsz,tty,time,args").unwrap();
        let (_, rows) = table(&columns, &reply);
        assert_eq!(rows, [["web", "7", "25.0", "4", "?", "00:01:01", "nginx -g"].map(str::to_owned)]);
    }
}
