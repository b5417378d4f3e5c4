//! Starts the container's process as Docker would: its own session, limits, root, working directory, user.

use std::{
    ffi::CString,
    fs::File,
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::{Command, Stdio},
};

use nix::{fcntl::OFlag, pty::openpty, unistd::pipe2};
use pid1::{Ending, Reaper};
use tether_proto::{Container, record::Stream};
use tokio::sync::oneshot;

use crate::{accounts, accounts::Identity, environment, scoped, signals};

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
    /// Where its output comes from.
    pub(crate) outputs: Vec<(Stream, File)>,
}

/// Starts the process of `container` in `root`.
pub(crate) fn start(
    container: &Container,
    root: &Path,
    confinement: Confinement,
    reaper: &Reaper,
) -> Result<Started, NoProcess> {
    let other = |error: String| NoProcess { code: 128, error };
    let process = &container.process;
    let text = |path: &str| {
        scoped::resolve(root, path).and_then(std::fs::read).map_or_else(
            // An image without the file knows no names; numbers work.
            |_| String::new(),
            |bytes| String::from_utf8_lossy(&bytes).into_owned(),
        )
    };
    let identity =
        accounts::resolve(&process.user, &process.groups, &text("/etc/passwd"), &text("/etc/group")).map_err(other)?;
    let (program, arguments) = process.args.split_first().ok_or_else(|| other("no command specified".to_owned()))?;
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(environment::variables(
        &process.env,
        &container.host_name,
        &identity.home,
        process.tty,
    ));
    let owner = (confinement == Confinement::Full).then_some(identity.uid);
    let outputs =
        connect(&mut command, process.tty, owner).map_err(|e| other(format!("cannot make its streams: {e}")))?;
    let enter = Enter::prepare(container, root, confinement, identity).map_err(other)?;
    // SAFETY: between fork and exec it makes system calls only, on memory that was prepared before: no allocation, no lock.
    unsafe { command.pre_exec(move || enter.enter()) };
    let (pid, ended) = reaper.spawn(&mut command).map_err(|error| refused(program, &error))?;
    Ok(Started { pid, ended, outputs })
}

/// Docker's exit codes for a program that cannot be run.
fn refused(program: &str, error: &io::Error) -> NoProcess {
    let code = match error.raw_os_error() {
        Some(libc::ENOENT) => 127,
        Some(libc::EACCES | libc::ENOEXEC | libc::EISDIR) => 126,
        _ => 128,
    };
    NoProcess { code, error: format!("exec: {program:?}: {error}") }
}

/// Gives the command its standard streams; returns where its output is read.
fn connect(command: &mut Command, tty: bool, owner: Option<u32>) -> io::Result<Vec<(Stream, File)>> {
    if tty {
        let pty = openpty(None, None)?;
        give(&pty.slave, owner)?;
        command
            .stdin(Stdio::from(pty.slave.try_clone()?))
            .stdout(Stdio::from(pty.slave.try_clone()?))
            .stderr(pty.slave);
        return Ok(vec![(Stream::Stdout, File::from(pty.master))]);
    }
    // Pipes and not sockets: programs open /dev/stdout, which a socket does not allow.
    let pipe = || -> io::Result<(OwnedFd, OwnedFd)> {
        let (ours, theirs) = pipe2(OFlag::O_CLOEXEC)?;
        give(&theirs, owner)?;
        Ok((ours, theirs))
    };
    let (out, err) = (pipe()?, pipe()?);
    command.stdin(Stdio::null()).stdout(out.1).stderr(err.1);
    Ok(vec![(Stream::Stdout, File::from(out.0)), (Stream::Stderr, File::from(err.0))])
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
    fn prepare(
        container: &Container,
        root: &Path,
        confinement: Confinement,
        identity: Identity,
    ) -> Result<Self, String> {
        let full = confinement == Confinement::Full;
        let text = |path: &Path| {
            CString::new(path.as_os_str().as_encoded_bytes()).map_err(|_| format!("{path:?} contains a NUL character"))
        };
        let cwd = Path::new("/").join(&container.process.cwd);
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
        for limit in &container.process.rlimits {
            let resource = signals::limit(&limit.name).ok_or_else(|| format!("there is no limit {:?}", limit.name))?;
            let value = |value: Option<u64>| value.unwrap_or(libc::RLIM_INFINITY);
            limits.push((resource, libc::rlimit { rlim_cur: value(limit.soft), rlim_max: value(limit.hard) }));
        }
        Ok(Self {
            terminal: container.process.tty,
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
