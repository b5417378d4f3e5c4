//! Virtual disks: VMDK files made by `qemu-img`, read here where it is about their size and parent.

use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use vim25_types::soap::Fault;
use vim25_types::{AnyVirtualDiskSpec, ManagedObjectReference as Moref, methods as m};

use super::datastore::{file_of, in_use, room_for, target_of};
use super::dispatch::Cx;
use super::fault;
use crate::error::{Error, Result};
use crate::world::DatastorePath;

/// What a VMDK says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Image {
    /// Bytes that the guest sees.
    pub(super) capacity: i64,
    /// The file that it is based on, as written in it.
    pub(super) parent: Option<PathBuf>,
}

const SECTOR: u64 = 512;

impl Image {
    /// Reads the head of a VMDK; `None` when the file is none.
    pub(super) fn read(file: &Path) -> Option<Self> {
        let mut head = Vec::new();
        std::fs::File::open(file).ok()?.take(64 * 1024).read_to_end(&mut head).ok()?;
        if head.starts_with(b"KDMV") {
            let number = |at: usize| Some(u64::from_le_bytes(head.get(at..at + 8)?.try_into().ok()?));
            // SparseExtentHeader: capacity at 12, descriptor offset and size at 28 and 36, all in sectors.
            let capacity = number(12)?;
            let start = usize::try_from(number(28)? * SECTOR).ok()?;
            let size = usize::try_from(number(36)? * SECTOR).ok()?;
            let descriptor = head.get(start..(start + size).min(head.len()))?;
            return Some(Self { capacity: i64::try_from(capacity * SECTOR).ok()?, parent: parent(descriptor, file) });
        }
        let text = String::from_utf8_lossy(&head);
        if !text.starts_with("# Disk DescriptorFile") {
            return None;
        }
        let extents = text.lines().filter_map(|l| l.strip_prefix("RW ")).filter_map(|l| l.split(' ').next());
        let sectors: i64 = extents.filter_map(|n| n.parse::<i64>().ok()).sum();
        Some(Self { capacity: sectors * 512, parent: parent(&head, file) })
    }
}

fn parent(descriptor: &[u8], file: &Path) -> Option<PathBuf> {
    let text = String::from_utf8_lossy(descriptor);
    let hint = text.lines().find_map(|l| l.strip_prefix("parentFileNameHint="))?.trim().trim_matches('"').to_owned();
    (!hint.is_empty()).then(|| file.parent().unwrap_or(Path::new("/")).join(hint))
}

/// The UUID of a disk, in vSphere's form; it follows from where the disk is.
pub(super) fn uuid(path: &DatastorePath) -> String {
    let digest = Sha256::digest(path.to_string());
    let hex: String = digest.iter().map(|b| format!("{b:02x}")).collect();
    // The range that VMware gives out.
    format!("6000C29{}-{}-{}-{}-{}", &hex[..1], &hex[1..5], &hex[5..9], &hex[9..13], &hex[13..25])
}

/// Makes a thin disk, on top of another one if there is a parent.
pub(super) async fn make(file: &Path, capacity: i64, parent: Option<&Path>) -> Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).map_err(Error::file("make the folder", folder))?;
    }
    let mut args: Vec<std::ffi::OsString> = ["create", "-q", "-f", "vmdk"].map(Into::into).to_vec();
    if let Some(parent) = parent {
        args.extend(["-b".into(), parent.into(), "-F".into(), "vmdk".into()]);
    }
    args.push(file.into());
    // QEMU counts VMDKs in sectors.
    args.push(capacity.to_string().into());
    qemu_img(args, "make a virtual disk").await
}

async fn qemu_img(args: Vec<std::ffi::OsString>, what: &str) -> Result<()> {
    let output = tokio::process::Command::new("qemu-img")
        .args(args)
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|source| Error::Spawn { program: "qemu-img".into(), source })?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Program {
        program: "qemu-img".into(),
        status: output.status.to_string(),
        what: what.into(),
        output: crate::process::tail(&output.stderr),
    })
}

pub(super) async fn create(cx: &Cx, request: m::CreateVirtualDiskTask) -> Result<Moref, Fault> {
    let lab = cx.lab.clone();
    Ok(cx.task("VirtualDiskManager.createVirtualDisk", &request.this, async move {
        let (path, file) = target_of(&lab, &request.name, false)?;
        let AnyVirtualDiskSpec::FileBackedVirtualDiskSpec(spec) = &request.spec else {
            return Err(fault::invalid_argument("spec", "the lab makes file-backed disks"));
        };
        if spec.capacity_kb <= 0 {
            return Err(fault::invalid_argument("spec.capacityKb", "it must be positive"));
        }
        room_for(&lab, &path, 0)?;
        make(&file, spec.capacity_kb * 1024, None).await.map_err(|e| fault::system(&e))?;
        lab.change(crate::world::World::bump);
        Ok(None)
    }))
}

pub(super) async fn delete(cx: &Cx, request: m::DeleteVirtualDiskTask) -> Result<Moref, Fault> {
    let lab = cx.lab.clone();
    Ok(cx.task("VirtualDiskManager.deleteVirtualDisk", &request.this, async move {
        let (path, file) = file_of(&lab, &request.name)?;
        if Image::read(&file).is_none() {
            return Err(fault::invalid_argument("name", "it is not a virtual disk"));
        }
        if in_use(&lab, &path, false) {
            return Err(fault::file_locked(&request.name));
        }
        std::fs::remove_file(&file).map_err(|e| fault::system(&Error::file("remove", file)(e)))?;
        lab.change(crate::world::World::bump);
        Ok(None)
    }))
}

pub(super) async fn copy(cx: &Cx, request: m::CopyVirtualDiskTask) -> Result<Moref, Fault> {
    let lab = cx.lab.clone();
    Ok(cx.task("VirtualDiskManager.copyVirtualDisk", &request.this, async move {
        let (_, from) = file_of(&lab, &request.source_name)?;
        let (path, to) = target_of(&lab, &request.dest_name, request.force == Some(true))?;
        room_for(&lab, &path, std::fs::metadata(&from).map_or(0, |m| m.len()))?;
        let args = ["convert", "-q", "-f", "vmdk", "-O", "vmdk"].map(Into::into);
        let args = args.into_iter().chain([from.into(), to.into()]).collect();
        qemu_img(args, "copy a virtual disk").await.map_err(|e| fault::system(&e))?;
        lab.change(crate::world::World::bump);
        Ok(None)
    }))
}

pub(super) async fn move_disk(cx: &Cx, request: m::MoveVirtualDiskTask) -> Result<Moref, Fault> {
    let lab = cx.lab.clone();
    Ok(cx.task("VirtualDiskManager.moveVirtualDisk", &request.this, async move {
        let (path, from) = file_of(&lab, &request.source_name)?;
        if in_use(&lab, &path, false) {
            return Err(fault::file_locked(&request.source_name));
        }
        let (_, to) = target_of(&lab, &request.dest_name, request.force == Some(true))?;
        std::fs::rename(&from, &to).map_err(|e| fault::system(&Error::file("move", from)(e)))?;
        lab.change(crate::world::World::bump);
        Ok(None)
    }))
}

pub(super) async fn query_uuid(cx: &Cx, request: m::QueryVirtualDiskUuid) -> Result<String, Fault> {
    file_of(&cx.lab, &request.name).map(|(path, _)| uuid(&path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_disk_tells_its_size_and_parent() {
        if std::process::Command::new("qemu-img").arg("--version").output().is_err() {
            println!("skipped: qemu-img is not installed");
            return;
        }
        let temp = tempfile::tempdir().unwrap();
        let (base, child) = (temp.path().join("base.vmdk"), temp.path().join("x/child.vmdk"));
        make(&base, 8 << 20, None).await.unwrap();
        make(&child, 16 << 20, Some(&base)).await.unwrap();
        assert_eq!(Image::read(&base), Some(Image { capacity: 8 << 20, parent: None }));
        assert_eq!(Image::read(&child), Some(Image { capacity: 16 << 20, parent: Some(base.clone()) }));
        std::fs::write(&base, "not a disk").unwrap();
        assert_eq!(Image::read(&base), None);
    }
}
