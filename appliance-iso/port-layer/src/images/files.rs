//! Files and folders on the datastore.

use vim25::datastore::DatastorePath;
use vim25::property::{Object, paths, reachable, step};
use vim25::types::{HostDatastoreBrowserSearchResults, ManagedObjectReference, methods};
use vim25::{Error, Result};

use crate::Site;

/// Bytes read at once.
const PIECE: usize = 1 << 20;
/// More than a disk's descriptor has, bytes.
const DESCRIPTOR: usize = 64 << 10;

fn not_found<T>(outcome: Result<T>) -> Result<Option<T>> {
    match outcome {
        Err(e) if e.is_not_found() => Ok(None),
        other => other.map(Some),
    }
}

/// A disk's descriptor without the mark of a disk that is not to be removed; none where there is no mark, or no descriptor.
fn unmarked(descriptor: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(descriptor).ok().filter(|text| text.starts_with("# Disk DescriptorFile"))?;
    let kept: String = text.split_inclusive('\n').filter(|line| !line.starts_with("ddb.deletable")).collect();
    (kept.len() < text.len()).then(|| kept.into_bytes())
}

impl Site {
    fn file_manager(&self) -> Result<ManagedObjectReference> {
        let manager = self.session.content().file_manager.clone();
        manager.ok_or_else(|| Error::Invalid("vSphere has no file manager".into()))
    }

    /// A whole file; none when there is none.
    pub(super) async fn read_file(&self, file: &DatastorePath) -> Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        loop {
            let piece = self.session.read_piece(&self.datacenter_path, file, bytes.len() as u64, PIECE);
            let Some(piece) = not_found(piece.await)? else { return Ok(None) };
            if piece.bytes.is_empty() {
                return Ok(Some(bytes));
            }
            bytes.extend(piece.bytes);
        }
    }

    /// Whether there is no such file; one that cannot be read is there.
    pub(super) async fn is_gone(&self, file: &DatastorePath) -> bool {
        matches!(not_found(self.session.read_piece(&self.datacenter_path, file, 0, 1).await), Ok(None))
    }

    /// Writes a file, in the place of one that is there.
    pub(super) async fn write_file(&self, file: &DatastorePath, bytes: Vec<u8>) -> Result<()> {
        self.session.write_file(&self.datacenter_path, file, bytes).await
    }

    /// Moves a file, in the place of one that is there.
    pub(super) async fn move_file(&self, from: &DatastorePath, to: &DatastorePath) -> Result<()> {
        let datacenter = Some(self.datacenter.clone());
        let moving = methods::MoveDatastoreFileTask {
            this: self.file_manager()?,
            source_name: from.to_string(),
            source_datacenter: datacenter.clone(),
            destination_name: to.to_string(),
            destination_datacenter: datacenter,
            force: Some(true),
        };
        self.session.run(&moving).await.map(drop)
    }

    /// Makes a folder with those above it; one that is there is as good.
    pub(super) async fn make_folder(&self, folder: &DatastorePath) -> Result<()> {
        let make = methods::MakeDirectory {
            this: self.file_manager()?,
            name: folder.to_string(),
            datacenter: Some(self.datacenter.clone()),
            create_parent_directories: Some(true),
        };
        match self.session.call(&make).await {
            Err(e) if e.fault_name() == Some("FileAlreadyExists") => Ok(()),
            other => other,
        }
    }

    /// Removes a virtual disk with all of its files; one that is not there is as good.
    pub(crate) async fn delete_virtual_disk(&self, disk: &DatastorePath) -> Result<()> {
        let manager = self.session.content().virtual_disk_manager.clone();
        let delete = methods::DeleteVirtualDiskTask {
            this: manager.ok_or_else(|| Error::Invalid("vSphere has no manager of virtual disks".into()))?,
            name: disk.to_string(),
            datacenter: Some(self.datacenter.clone()),
        };
        not_found(self.session.run(&delete).await).map(drop)
    }

    /// Lets a disk be removed that others were based on: vSphere marks such a one, and does not remove it.
    pub(crate) async fn make_deletable(&self, disk: &DatastorePath) -> Result<()> {
        let Some(piece) = not_found(self.session.read_piece(&self.datacenter_path, disk, 0, DESCRIPTOR).await)? else {
            return Ok(());
        };
        match unmarked(&piece.bytes) {
            Some(descriptor) if piece.size == piece.bytes.len() as u64 => {
                self.session.write_file(&self.datacenter_path, disk, descriptor).await
            }
            _ => Ok(()),
        }
    }

    /// Removes a file, or a folder with what is in it; what is not there is as good.
    pub(crate) async fn delete_files(&self, path: &DatastorePath) -> Result<()> {
        let delete = methods::DeleteDatastoreFileTask {
            this: self.file_manager()?,
            name: path.to_string(),
            datacenter: Some(self.datacenter.clone()),
        };
        not_found(self.session.run(&delete).await).map(drop)
    }

    /// The names in a folder; none when there is no such folder.
    pub(crate) async fn list_files(&self, folder: &DatastorePath) -> Result<Vec<String>> {
        let this = self.of_datastore(&folder.datastore, &["browser"]).await?.require("browser")?;
        let search = methods::SearchDatastoreTask { this, datastore_path: folder.to_string(), search_spec: None };
        let Some(Some(found)) = not_found(self.session.run(&search).await)? else { return Ok(Vec::new()) };
        let protocol =
            |e: &dyn std::fmt::Display| Error::Protocol { what: "listing a folder".into(), reason: e.to_string() };
        let found: HostDatastoreBrowserSearchResults = found.get().map_err(|e| protocol(&e))?;
        Ok(found.file.iter().map(|f| f.path.clone()).collect())
    }

    /// Bytes that are free where images and containers are, as far as vSphere tells.
    pub(super) async fn free_space(&self) -> Result<Option<u64>> {
        let free = "summary.freeSpace";
        let free: Option<i64> = self.of_datastore(&self.datastore, &[free]).await?.get(free)?;
        Ok(free.map(|free| u64::try_from(free).unwrap_or(0)))
    }

    /// Facts of a datastore, which may have been renamed, or moved to a folder, since the last time.
    async fn of_datastore(&self, name: &str, facts: &[&str]) -> Result<Object> {
        let wanted = paths("Datastore", &[&["name"], facts].concat());
        let each = step("datastore", "Datacenter", "datastore", &[]);
        let all = reachable(self.datacenter.clone(), vec![wanted], vec![each]);
        for datastore in self.session.retrieve(all).await? {
            if datastore.get::<String>("name")?.as_deref() == Some(name) {
                return Ok(datastore);
            }
        }
        Err(Error::Invalid(format!("the datacenter has no datastore {name:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_loses_its_mark_and_nothing_else() {
        let descriptor = |mark: &str| format!("# Disk DescriptorFile\nversion=1\n{mark}ddb.uuid = \"60 00\"\n");
        let marked = descriptor("ddb.deletable = \"false\"\n");
        assert_eq!(unmarked(marked.as_bytes()), Some(descriptor("").into_bytes()));
        assert_eq!(unmarked(descriptor("").as_bytes()), None);
        for other in [&b"KDMV\x01\0\0\0ddb.deletable = \"false\"\n"[..], b"", b"ddb.deletable = \"false\"\n"] {
            assert_eq!(unmarked(other), None);
        }
    }
}
