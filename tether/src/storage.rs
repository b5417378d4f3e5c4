//! The container's file systems: its disks, found by their place on the controller, and what is mounted where.

use std::{
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::mount::MsFlags;
use pid1::{System, scsi};
use tether_proto::{Container, Disk, Tmpfs};
use tokio::time::{Instant, sleep};

use crate::scoped;

/// How long a disk may take to appear: it may be attached after the boot.
const DISK_LIMIT: Duration = Duration::from_secs(30);
/// Pause between two looks for it.
const DISK_LOOK: Duration = Duration::from_millis(20);
/// Size of /dev/shm when the container names none: Docker's.
const SHM_BYTES: u64 = 64 << 20;

/// Where things are: the real places, or a test's.
#[derive(Debug, Clone)]
pub struct Places {
    /// The container's root file system.
    pub root: PathBuf,
    /// sysfs.
    pub sys: PathBuf,
    /// Devices.
    pub dev: PathBuf,
    /// Files that are laid over the image's.
    pub own: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self { root: "/mnt/root".into(), sys: "/sys".into(), dev: "/dev".into(), own: "/run/tether".into() }
    }
}

/// A mount below the container's root.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount {
    source: String,
    kind: String,
    /// Path in the container.
    at: String,
    flags: MsFlags,
    data: String,
}

/// The kernel's own file systems, as Docker mounts them.
fn kernels(container: &Container) -> Vec<Mount> {
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV;
    let shm = if container.shm_bytes == 0 { SHM_BYTES } else { container.shm_bytes };
    [
        ("proc", "/proc", safe, String::new()),
        ("sysfs", "/sys", safe, String::new()),
        ("devtmpfs", "/dev", MsFlags::MS_NOSUID, "mode=0755".to_owned()),
        ("devpts", "/dev/pts", MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC, "mode=0620,ptmxmode=0666,gid=5".to_owned()),
        ("tmpfs", "/dev/shm", safe, format!("mode=1777,size={shm}")),
        ("mqueue", "/dev/mqueue", safe, String::new()),
    ]
    .map(|(kind, at, flags, data)| Mount { source: kind.into(), kind: kind.into(), at: at.into(), flags, data })
    .into()
}

/// The disk's device once it is there.
async fn device(disk: &Disk, places: &Places) -> Result<PathBuf, String> {
    let start = Instant::now();
    loop {
        let problem = match scsi::ready(disk.unit, &places.sys, &places.dev) {
            Ok(device) => return Ok(device),
            Err(problem) => problem,
        };
        if start.elapsed() > DISK_LIMIT {
            return Err(format!("the disk at unit {} of the VM's SCSI controller {problem}", disk.unit));
        }
        // The boot image's command line leaves it to us; a disk that is attached later tells of itself, too.
        scsi::look_for(disk.unit, &places.sys);
        sleep(DISK_LOOK).await;
    }
}

fn file_system(disk: &Disk) -> &str {
    if disk.file_system.is_empty() { "ext4" } else { &disk.file_system }
}

/// A file system in memory, with the options that mount(8) has words for and those that are its own; what is not said is safe, as
/// with Docker.
fn in_memory(tmpfs: &Tmpfs) -> Mount {
    let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let mut own = Vec::new();
    for word in tmpfs.options.split(',').filter(|word| !word.is_empty()) {
        match word {
            "defaults" => {}
            "ro" => flags.insert(MsFlags::MS_RDONLY),
            "rw" => flags.remove(MsFlags::MS_RDONLY),
            "nosuid" => flags.insert(MsFlags::MS_NOSUID),
            "suid" => flags.remove(MsFlags::MS_NOSUID),
            "nodev" => flags.insert(MsFlags::MS_NODEV),
            "dev" => flags.remove(MsFlags::MS_NODEV),
            "noexec" => flags.insert(MsFlags::MS_NOEXEC),
            "exec" => flags.remove(MsFlags::MS_NOEXEC),
            "sync" => flags.insert(MsFlags::MS_SYNCHRONOUS),
            "async" => flags.remove(MsFlags::MS_SYNCHRONOUS),
            "dirsync" => flags.insert(MsFlags::MS_DIRSYNC),
            "noatime" => flags.insert(MsFlags::MS_NOATIME),
            "atime" => flags.remove(MsFlags::MS_NOATIME),
            "nodiratime" => flags.insert(MsFlags::MS_NODIRATIME),
            "diratime" => flags.remove(MsFlags::MS_NODIRATIME),
            "relatime" => flags.insert(MsFlags::MS_RELATIME),
            "norelatime" => flags.remove(MsFlags::MS_RELATIME),
            "strictatime" => flags.insert(MsFlags::MS_STRICTATIME),
            "nostrictatime" => flags.remove(MsFlags::MS_STRICTATIME),
            other => own.push(other),
        }
    }
    Mount { source: "tmpfs".into(), kind: "tmpfs".into(), at: tmpfs.at.clone(), flags, data: own.join(",") }
}

/// The file systems in memory, one below another after it.
fn all_in_memory(container: &Container) -> Vec<Mount> {
    let mut mounts: Vec<_> = container.tmpfs.iter().map(in_memory).collect();
    mounts.sort_by_cached_key(|mount| (Path::new(&mount.at).components().count(), mount.at.clone()));
    mounts
}

/// Mounts everything: root, the kernel's file systems, volumes, file systems in memory.  The root can be written to until
/// [`close_root`]: what an image does not have is made.
///
/// # Errors
/// A sentence that names what cannot be mounted.
pub(crate) async fn mount_all(system: &impl System, container: &Container, places: &Places) -> Result<(), String> {
    let read_only = |wanted: bool| if wanted { MsFlags::MS_RDONLY } else { MsFlags::empty() };
    let root = device(&container.root, places).await?;
    let _ = std::fs::create_dir_all(&places.root);
    let name = root.display().to_string();
    system
        .mount(&name, file_system(&container.root), &places.root, MsFlags::empty(), "")
        .map_err(|e| format!("cannot mount the container's root file system {name}: {e}"))?;
    for mount in kernels(container) {
        match below(system, &mount, places) {
            // A kernel that is built without it.
            Err(error) if mount.kind == "mqueue" => log::warn!("{error}"),
            other => other?,
        }
    }
    link_streams(places)?;
    for folder in &container.folders {
        let made = scoped::resolve(&places.root, folder).and_then(std::fs::create_dir_all);
        made.map_err(|e| format!("cannot make the folder {folder} of the container: {e}"))?;
    }
    for volume in &container.volumes {
        let device = device(&volume.disk, places).await?;
        let mount = Mount {
            source: device.display().to_string(),
            kind: file_system(&volume.disk).to_owned(),
            at: volume.at.clone(),
            flags: read_only(volume.read_only),
            data: String::new(),
        };
        below(system, &mount, places)?;
    }
    for mount in all_in_memory(container) {
        below(system, &mount, places)?;
    }
    Ok(())
}

/// Makes the working directory, and then the root read-only if it is to be.
pub(crate) fn close_root(system: &impl System, container: &Container, places: &Places) -> Result<(), String> {
    if !container.root_read_only {
        return Ok(());
    }
    let failed = |e: std::io::Error| format!("cannot make the container's root file system read-only: {e}");
    let cwd = scoped::resolve(&places.root, &container.process.cwd).map_err(failed)?;
    // Whether it is there the start of the process tells.
    let _ = std::fs::create_dir_all(cwd);
    system.mount("", "", &places.root, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, "").map_err(failed)
}

/// Makes the file by which programs know that they are in a container, where the image has none.
pub(crate) fn mark(places: &Places) -> Result<(), String> {
    let made = scoped::resolve(&places.root, "/.dockerenv")
        .and_then(|at| std::fs::File::options().write(true).create_new(true).mode(0o755).open(at));
    match made {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(format!("cannot make /.dockerenv of the container: {error}"))
        }
        _ => Ok(()),
    }
}

/// Makes the links in /dev that programs expect and no kernel makes.
fn link_streams(places: &Places) -> Result<(), String> {
    for (name, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        match std::os::unix::fs::symlink(target, places.root.join(name.trim_start_matches('/'))) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(format!("cannot make {name} of the container: {error}")),
        }
    }
    Ok(())
}

/// Mounts below the container's root, which may have links on the way.
fn below(system: &impl System, mount: &Mount, places: &Places) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("cannot mount {} at {} of the container: {e}", mount.source, mount.at);
    let at = scoped::resolve(&places.root, &mount.at).map_err(failed)?;
    match std::fs::create_dir_all(&at) {
        Ok(()) => {}
        // On a read-only volume the folder must be there, which the mount itself will tell.
        Err(error) if error.raw_os_error() == Some(libc::EROFS) => {}
        Err(error) => return Err(failed(error)),
    }
    system.mount(&mount.source, &mount.kind, &at, mount.flags, &mount.data).map_err(failed)
}

/// Lays a file over one of the image's: neither the image nor a commit of the container sees it.
pub(crate) fn lay_over(system: &impl System, at: &str, text: &str, places: &Places) -> Result<(), String> {
    let failed = |e: std::io::Error| format!("cannot lay {at} over the image's: {e}");
    std::fs::create_dir_all(&places.own).map_err(failed)?;
    let file = places.own.join(at.rsplit('/').next().unwrap_or_default());
    std::fs::write(&file, text).map_err(failed)?;
    let target = scoped::resolve(&places.root, at).map_err(failed)?;
    if !target.exists() {
        let made = target.parent().map_or(Ok(()), std::fs::create_dir_all);
        made.and_then(|()| std::fs::File::create(&target).map(drop)).map_err(failed)?;
    }
    system.mount(&file.display().to_string(), "", &target, MsFlags::MS_BIND, "").map_err(failed)
}

/// Unmounts what holds the container's data, the root last, so that its file systems are clean.
pub(crate) fn unmount_disks(system: &impl System, container: &Container, places: &Places) {
    let overlaid = ["/etc/resolv.conf", "/etc/hosts", "/etc/hostname"].map(str::to_owned);
    let in_memory = all_in_memory(container).into_iter().rev().map(|mount| mount.at);
    let volumes = container.volumes.iter().rev().map(|volume| volume.at.clone());
    let kernels = kernels(container).into_iter().rev().map(|mount| mount.at);
    for at in overlaid.into_iter().chain(in_memory).chain(volumes).chain(kernels).chain(["/".to_owned()]) {
        let Ok(place) = scoped::resolve(&places.root, &at) else { continue };
        match system.unmount(&place) {
            Ok(()) => {}
            // It was never mounted: what failed before is told elsewhere.
            Err(error) if [Some(libc::EINVAL), Some(libc::ENOENT)].contains(&error.raw_os_error()) => {}
            Err(error) => log::warn!("cannot unmount {at} of the container: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tmpfs(at: &str, options: &str) -> Tmpfs {
        Tmpfs { at: at.into(), options: options.into() }
    }

    #[test]
    fn words_of_mount_are_flags_and_the_rest_is_the_file_systems() {
        let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        for (options, flags, data) in [
            ("", safe, ""),
            ("rw,noexec,nosuid,size=65536k", safe, "size=65536k"),
            ("exec,suid,mode=1777,,ro", MsFlags::MS_NODEV | MsFlags::MS_RDONLY, "mode=1777"),
            ("size=1m,nonsense", safe, "size=1m,nonsense"),
        ] {
            let mount = in_memory(&tmpfs("/run", options));
            assert_eq!((mount.flags, mount.data.as_str()), (flags, data), "{options:?}");
        }
    }

    #[test]
    fn what_is_below_another_is_mounted_after_it() {
        let tmpfs = ["/run/lock", "/var/tmp", "/run"].map(|at| tmpfs(at, "")).into();
        let mounts = all_in_memory(&Container { tmpfs, ..Container::default() });
        assert_eq!(mounts.iter().map(|mount| mount.at.as_str()).collect::<Vec<_>>(), ["/run", "/run/lock", "/var/tmp"]);
    }
}
