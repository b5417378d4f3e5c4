//! The guest's side of a disk: its device, its file system, its mount.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use pid1::scsi;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

const SYS: &str = "/sys";
const DEV: &str = "/dev";
/// Where disks are mounted.
const MOUNTS: &str = "/run/vic/images";
/// How long the kernel may take to notice a new disk.
const LIMIT: Duration = Duration::from_secs(20);
/// Pause between two looks at it.
const LOOK: Duration = Duration::from_millis(20);
/// When the kernel was not told of the disk by the controller, it is told to look.
const NUDGE: Duration = Duration::from_millis(500);

/// Where the disk `name` is mounted.
pub(super) fn mount_point(name: &str) -> PathBuf {
    Path::new(MOUNTS).join(name)
}

/// The disk's device, once it is there.
pub(super) async fn appear(unit: u32) -> io::Result<PathBuf> {
    let start = Instant::now();
    let mut nudged = Instant::now();
    loop {
        let problem = match scsi::ready(unit, Path::new(SYS), Path::new(DEV)) {
            Ok(device) => return Ok(device),
            Err(problem) => problem,
        };
        if start.elapsed() > LIMIT {
            return Err(io::Error::other(format!(
                "the disk at unit {unit} of the endpoint VM's SCSI controller {problem}"
            )));
        }
        if nudged.elapsed() > NUDGE {
            nudged = Instant::now();
            scsi::look_for(unit, Path::new(SYS));
        }
        sleep(LOOK).await;
    }
}

/// Makes an empty file system on a new disk.
pub(super) async fn format(device: &Path) -> io::Result<()> {
    // A new disk reads as zeros: what would be zeroed is not, and stays a hole; nobody zeroes it later either.
    let output = Command::new("/usr/sbin/mkfs.ext4")
        .args(["-q", "-F", "-m", "0", "-E", "nodiscard,assume_storage_prezeroed=1"])
        .arg(device)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("mkfs.ext4 {}: {}: {}", device.display(), output.status, said.trim())))
}

/// Mounts a disk; nothing in an image is run or opened as a device here.
pub(super) async fn attach(device: PathBuf, name: &str) -> io::Result<PathBuf> {
    let at = mount_point(name);
    blocking(move || {
        std::fs::create_dir_all(&at)?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_NOATIME;
        mount(Some(&device), &at, Some("ext4"), flags, None::<&str>)?;
        Ok(at)
    })
    .await
}

/// Takes from a new file system what mkfs makes in it: an image begins with nothing.  e2fsck makes it again where it needs it.
pub(super) async fn empty(root: PathBuf) -> io::Result<PathBuf> {
    blocking(move || {
        std::fs::remove_dir(root.join("lost+found"))?;
        Ok(root)
    })
    .await
}

/// Unmounts a disk, which writes what is to be written; one that is not mounted is as good.
pub(super) async fn release(name: &str) -> io::Result<()> {
    let at = mount_point(name);
    blocking(move || {
        match umount2(&at, MntFlags::empty()) {
            Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
            Err(e) => return Err(e.into()),
        }
        match std::fs::remove_dir(&at) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    })
    .await
}

/// Unmounts whatever a process left that died.
pub(super) async fn release_all() {
    let Ok(mounts) = std::fs::read_dir(MOUNTS) else { return };
    for entry in mounts.flatten() {
        let _ = release(&entry.file_name().to_string_lossy()).await;
    }
}

/// Makes the kernel let go of a disk that is about to be taken away.
pub(super) fn forget(unit: u32) {
    if let Some(name) = scsi::disk(unit, Path::new(SYS), Path::new(DEV)).as_deref().and_then(Path::file_name) {
        let _ = std::fs::write(Path::new(SYS).join("block").join(name).join("device/delete"), "1");
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(io::Error::other(e)))
}
