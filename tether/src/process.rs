//! Starts the container's process as Docker would: its own session, limits, root, working directory, user.

use std::{
    ffi::CString,
    fs::File,
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::fs::OpenOptionsExt,
        unix::process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::{fcntl::OFlag, unistd::pipe2};
use pid1::{Ending, Reaper};
use tether_proto::{Process, record::Stream};
use tokio::sync::oneshot;

use crate::{accounts, accounts::Identity, environment, limits, program::Program, scoped};

/// Whether the process gets the container's root and user, or stays where it is: a test that is not root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confinement {
    /// Changes root and user.
    Full,
    /// Neither; the working directory is below the container's root all the same.
    None,
}

/// Why there is no process, with Docker's exit code for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NoProcess {
    pub(crate) code: i32,
    pub(crate) error: String,
}

/// A started process.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) pid: nix::unistd::Pid,
    pub(crate) ended: oneshot::Receiver<Ending>,
    pub(crate) streams: Streams,
}

/// Our ends of a process's streams.
#[derive(Debug)]
pub(crate) struct Streams {
    /// Where its output comes from.
    pub(crate) outputs: Vec<(Stream, File)>,
    /// Where its input goes, when it has any.
    pub(crate) input: Option<File>,
    /// Its terminal, when it has one.
    pub(crate) terminal: Option<File>,
}

/// What processes are started in.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The container's root file system.
    pub(crate) root: PathBuf,
    /// The container's host name.
    pub(crate) host_name: String,
    pub(crate) confinement: Confinement,
    pub(crate) reaper: Reaper,
}

/// Starts a further process in `place`, where its working directory must be; `ready` makes its terminal ready before it runs.
pub(crate) fn start_further(process: &Process, place: &Place, ready: impl FnOnce(&File)) -> Result<Started, NoProcess> {
    let refused = |error: String| NoProcess { code: 126, error };
    if !process.cwd.is_empty() && !process.cwd.starts_with('/') {
        return Err(refused("Cwd must be an absolute path".to_owned()));
    }
    let there = scoped::resolve(&place.root, &process.cwd).is_ok_and(|cwd| cwd.is_dir());
    if !there && place.confinement == Confinement::Full {
        let cwd = &process.cwd;
        return Err(refused(format!("chdir to cwd ({cwd:?}) set in config.json failed: no such file or directory")));
    }
    // 128 is the code of one of which nothing is known.
    start(process, place, ready)
        .map_err(|NoProcess { code, error }| NoProcess { code: if code == 128 { 126 } else { code }, error })
}

/// Starts `process` in `place`; its working directory is made, and `ready` makes its terminal ready before it runs.
pub(crate) fn start(process: &Process, place: &Place, ready: impl FnOnce(&File)) -> Result<Started, NoProcess> {
    let other = |error: String| NoProcess { code: 128, error };
    let Place { root, confinement, .. } = place;
    let text = |path: &str| {
        scoped::resolve(root, path).and_then(std::fs::read).map_or_else(
            // An image without the file knows no names; numbers work.
            |_| String::new(),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    };
    let identity =
        accounts::resolve(&process.user, &process.groups, &text("/etc/passwd"), &text("/etc/group")).map_err(other)?;
    let name = process.args.first().ok_or_else(|| other("no command specified".to_owned()))?;
    let variables = environment::variables(&process.env, &place.host_name, &identity.home, process.tty);
    let program = Program::prepare(&process.args, &variables).map_err(|e| other(format!("exec: {name:?}: {e}")))?;
    // For the fork and the streams; the program is run by the child itself.
    let mut command = Command::new(name);
    let owner = (*confinement == Confinement::Full).then_some(identity.uid);
    let streams =
        connect(&mut command, process, place, owner).map_err(|e| other(format!("cannot make its streams: {e}")))?;
    if let Some(terminal) = &streams.terminal {
        ready(terminal);
    }
    let enter = Enter::prepare(process, root, *confinement, identity).map_err(other)?;
    // SAFETY: between fork and exec it makes system calls only, on memory that was prepared before: no allocation, no lock.
    unsafe { command.pre_exec(move || enter.enter().and_then(|()| Err(program.run()))) };
    let (pid, ended) = place.reaper.spawn(&mut command).map_err(|error| refused(name, &error))?;
    Ok(Started { pid, ended, streams })
}

/// Docker's exit codes for a program that cannot be run, and its words: clients look for them.
fn refused(program: &str, error: &io::Error) -> NoProcess {
    let (code, words) = match error.raw_os_error() {
        Some(libc::ENOENT) if program.contains('/') => (127, format!("stat {program}: no such file or directory")),
        Some(libc::ENOENT) => (127, "executable file not found in $PATH".to_owned()),
        Some(libc::EACCES) => (126, "permission denied".to_owned()),
        Some(libc::EISDIR) => (126, "is a directory".to_owned()),
        _ => (128, error.to_string()),
    };
    NoProcess { code, error: format!("exec: {program:?}: {words}") }
}

/// Gives the command its standard streams; returns our ends of them.
fn connect(command: &mut Command, process: &Process, place: &Place, owner: Option<u32>) -> io::Result<Streams> {
    if process.tty {
        let (master, slave) = terminal(place)?;
        give(&slave, owner)?;
        command.stdin(Stdio::from(slave.try_clone()?)).stdout(Stdio::from(slave.try_clone()?)).stderr(slave);
        let input = process.stdin.then(|| master.try_clone()).transpose()?;
        let terminal = Some(master.try_clone()?);
        return Ok(Streams { outputs: vec![(Stream::Stdout, master)], input, terminal });
    }
    // Pipes and not sockets: programs open /dev/stdout, which a socket does not allow.
    let pipe = || -> io::Result<(OwnedFd, OwnedFd)> {
        let (ours, theirs) = pipe2(OFlag::O_CLOEXEC)?;
        give(&theirs, owner)?;
        Ok((ours, theirs))
    };
    let (out, err) = (pipe()?, pipe()?);
    let mut input = None;
    if process.stdin {
        let (theirs, ours) = pipe2(OFlag::O_CLOEXEC)?;
        give(&theirs, owner)?;
        command.stdin(theirs);
        input = Some(File::from(ours));
    } else {
        command.stdin(Stdio::null());
    }
    command.stdout(out.1).stderr(err.1);
    let outputs = vec![(Stream::Stdout, File::from(out.0)), (Stream::Stderr, File::from(err.0))];
    Ok(Streams { outputs, input, terminal: None })
}

/// A terminal, and its other end for the process.  It is one of the container's own /dev/pts: a program that asks for its
/// terminal's name looks there.
fn terminal(place: &Place) -> io::Result<(File, OwnedFd)> {
    let ptmx = match place.confinement {
        Confinement::Full => scoped::resolve(&place.root, "/dev/ptmx")?,
        Confinement::None => PathBuf::from("/dev/ptmx"),
    };
    let master = File::options().read(true).write(true).custom_flags(libc::O_NOCTTY).open(ptmx)?;
    let (unlock, flags) = (0, libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC);
    // SAFETY: the descriptor is open; the kernel reads one int, and returns a new descriptor that is nobody else's.
    let slave = unsafe {
        if libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock) != 0 {
            return Err(io::Error::last_os_error());
        }
        match libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) {
            slave @ 0.. => OwnedFd::from_raw_fd(slave),
            _ => return Err(io::Error::last_os_error()),
        }
    };
    Ok((master, slave))
}

/// Tells a terminal its size in characters.
pub(crate) fn resize(terminal: &File, width: u16, height: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the descriptor is open, and the kernel reads one winsize.
    match unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes the user the stream's owner: who is not root may open it again by /dev/stdout.
fn give(stream: &OwnedFd, owner: Option<u32>) -> io::Result<()> {
    match owner {
        Some(uid) => nix::unistd::fchown(stream, Some(uid.into()), None).map_err(Into::into),
        None => Ok(()),
    }
}

/// What the child does between fork and exec, all of it prepared.
struct Enter {
    terminal: bool,
    limits: Vec<(libc::__rlimit_resource_t, libc::rlimit)>,
    root: Option<CString>,
    /// The working directory's ancestors and itself, outermost first.
    folders: Vec<CString>,
    identity: Option<Identity>,
}

impl Enter {
    fn prepare(process: &Process, root: &Path, confinement: Confinement, identity: Identity) -> Result<Self, String> {
        let full = confinement == Confinement::Full;
        let text = |path: &Path| {
            CString::new(path.as_os_str().as_encoded_bytes()).map_err(|_| format!("{path:?} contains a NUL character"))
        };
        let cwd = Path::new("/").join(&process.cwd);
        let mut folders = Vec::new();
        let mut ancestors: Vec<&Path> = cwd.ancestors().collect();
        ancestors.reverse();
        for folder in ancestors {
            folders.push(if full {
                text(folder)?
            } else {
                text(&root.join(folder.strip_prefix("/").unwrap_or(folder)))?
            });
        }
        let mut limits = Vec::new();
        for limit in &process.rlimits {
            let resource = limits::number(&limit.name).ok_or_else(|| format!("there is no limit {:?}", limit.name))?;
            let value = |value: Option<u64>| value.unwrap_or(libc::RLIM_INFINITY);
            limits.push((resource, libc::rlimit { rlim_cur: value(limit.soft), rlim_max: value(limit.hard) }));
        }
        Ok(Self {
            terminal: process.tty,
            limits,
            root: full.then(|| text(root)).transpose()?,
            folders,
            identity: full.then_some(identity),
        })
    }

    /// Runs in the child, where only system calls are allowed.
    fn enter(&self) -> io::Result<()> {
        let done = |result: libc::c_int| if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
        // SAFETY: plain system calls on prepared memory that outlives them.
        unsafe {
            if libc::setsid() < 0 {
                return Err(io::Error::last_os_error());
            }
            if self.terminal {
                done(libc::ioctl(io::stdin().as_raw_fd(), libc::TIOCSCTTY, 0))?;
            }
            for (resource, limit) in &self.limits {
                done(libc::setrlimit(*resource, limit))?;
            }
            if let Some(root) = &self.root {
                done(libc::chroot(root.as_ptr()))?;
            }
            for folder in &self.folders {
                // It is there, or the change of directory below tells.
                libc::mkdir(folder.as_ptr(), 0o755);
            }
            if let Some(cwd) = self.folders.last() {
                done(libc::chdir(cwd.as_ptr()))?;
            }
            if let Some(identity) = &self.identity {
                done(libc::setgroups(identity.groups.len(), identity.groups.as_ptr()))?;
                done(libc::setgid(identity.gid))?;
                done(libc::setuid(identity.uid))?;
            }
        }
        Ok(())
    }
}
