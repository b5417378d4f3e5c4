//! Files on datastores: the browser and the file manager.

use std::path::{Path, PathBuf};

use vim25_types::soap::Fault;
use vim25_types::{
    AnyFileInfo, AnyFileQuery, AnyValue, AnyVirtualDevice, FileInfo, FolderFileInfo, HostDatastoreBrowserSearchResults,
    HostDatastoreBrowserSearchSpec, IsoImageFileInfo, ManagedObjectReference as Moref, VmConfigFileInfo,
    VmDiskFileInfo, VmLogFileInfo, methods as m,
};

use super::dispatch::Cx;
use super::{disk, fault};
use crate::error::Error;
use crate::lab::Lab;
use crate::world::{DatastorePath, World, format_time};

/// Parses a datastore path and finds where on the machine it is.
pub(super) fn locate(lab: &Lab, text: &str) -> Result<(DatastorePath, PathBuf), Fault> {
    let path: DatastorePath = text.parse().map_err(|()| fault::datastore_path(text))?;
    let file = lab.read(|w| w.file(text)).ok_or_else(|| fault::datastore_path(text))?;
    Ok((path, file))
}

/// A file that exists.
pub(super) fn file_of(lab: &Lab, text: &str) -> Result<(DatastorePath, PathBuf), Fault> {
    let found = locate(lab, text)?;
    if found.1.exists() { Ok(found) } else { Err(fault::file_not_found(text)) }
}

/// A file that does not exist, or may be replaced, in a folder that exists.
pub(super) fn target_of(lab: &Lab, text: &str, force: bool) -> Result<(DatastorePath, PathBuf), Fault> {
    let found = locate(lab, text)?;
    if !found.1.parent().is_some_and(Path::is_dir) {
        return Err(fault::file_not_found(&found.0.parent().to_string()));
    }
    if found.1.exists() && !force { Err(fault::file_exists(text)) } else { Ok(found) }
}

/// Refuses to write `bytes` to a datastore that has no room for them.
pub(super) fn room_for(lab: &Lab, path: &DatastorePath, bytes: u64) -> Result<(), Fault> {
    if lab.read(|w| w.has_room(&path.datastore, bytes)) { Ok(()) } else { Err(fault::no_disk_space(path)) }
}

/// Whether a VM uses the file, or something in the folder: a disk of it, an ISO in its drive, its configuration.
/// With `running`, only VMs that are powered on count.
pub(super) fn in_use(lab: &Lab, path: &DatastorePath, running: bool) -> bool {
    let inside = |text: &str| {
        text.parse::<DatastorePath>().is_ok_and(|p| {
            p.datastore == path.datastore
                && (p.path == path.path || path.path.is_empty() || p.path.starts_with(&format!("{}/", path.path)))
        })
    };
    lab.read(|w| {
        w.vms().filter(|(_, vm)| !running || vm.is_on()).any(|(_, vm)| {
            // A VM that is off keeps its disks, not its other files.
            vm.disk_files().iter().any(|f| inside(f))
                || (vm.is_on()
                    && (inside(vm.vmx()) || vm.devices().iter().filter_map(file_backing).any(|f| inside(&f))))
        })
    })
}

/// The host that holds the file's lock, by its id: it runs a VM that writes the file through a serial port.
pub(super) fn held_by(lab: &Lab, path: &DatastorePath) -> Option<String> {
    let writes = |device: &AnyVirtualDevice| {
        matches!(device, AnyVirtualDevice::VirtualSerialPort(_))
            && file_backing(device).is_some_and(|file| file.parse().as_ref() == Ok(path))
    };
    lab.read(|w| {
        let mut on = w.vms().filter(|(_, vm)| vm.is_on());
        on.find(|(_, vm)| vm.devices().iter().any(writes)).map(|(_, vm)| vm.host.clone())
    })
}

/// The file that a CD-ROM drive or a serial port is connected to.
fn file_backing(device: &AnyVirtualDevice) -> Option<String> {
    use vim25_types::AnyVirtualDeviceBackingInfo as Backing;
    match device.backing.as_ref()? {
        Backing::VirtualCdromIsoBackingInfo(b) => Some(b.file_name.clone()),
        Backing::VirtualSerialPortFileBackingInfo(b) => Some(b.file_name.clone()),
        _ => None,
    }
}

fn io(what: &'static str, file: &Path) -> impl FnOnce(std::io::Error) -> Fault {
    let file = file.to_owned();
    move |e| fault::system(&Error::file(what, file)(e))
}

pub(super) async fn make_directory(cx: &Cx, request: m::MakeDirectory) -> Result<(), Fault> {
    let (path, folder) = locate(&cx.lab, &request.name)?;
    if folder.exists() {
        return Err(fault::file_exists(&request.name));
    }
    if request.create_parent_directories != Some(true) && !folder.parent().is_some_and(Path::is_dir) {
        return Err(fault::file_not_found(&path.parent().to_string()));
    }
    room_for(&cx.lab, &path, 0)?;
    std::fs::create_dir_all(&folder).map_err(io("make the folder", &folder))
}

pub(super) async fn delete_file(cx: &Cx, request: m::DeleteDatastoreFileTask) -> Result<Moref, Fault> {
    let lab = cx.lab.clone();
    Ok(cx.task("FileManager.deleteFile", &request.this, async move {
        let (path, file) = file_of(&lab, &request.name)?;
        if path.path.is_empty() {
            return Err(fault::invalid_argument("name", "the root of a datastore stays"));
        }
        if in_use(&lab, &path, false) {
            return Err(fault::file_locked(&request.name));
        }
        let gone = if file.is_dir() { std::fs::remove_dir_all(&file) } else { std::fs::remove_file(&file) };
        gone.map_err(io("remove", &file))?;
        lab.change(World::bump);
        Ok(None)
    }))
}

pub(super) async fn move_file(cx: &Cx, request: m::MoveDatastoreFileTask) -> Result<Moref, Fault> {
    let lab = cx.lab.clone();
    Ok(cx.task("FileManager.move", &request.this, async move {
        let (path, from) = file_of(&lab, &request.source_name)?;
        if in_use(&lab, &path, false) {
            return Err(fault::file_locked(&request.source_name));
        }
        let (_, to) = target_of(&lab, &request.destination_name, request.force == Some(true))?;
        std::fs::rename(&from, &to).map_err(io("move", &from))?;
        lab.change(World::bump);
        Ok(None)
    }))
}

pub(super) async fn copy_file(cx: &Cx, request: m::CopyDatastoreFileTask) -> Result<Moref, Fault> {
    let lab = cx.lab.clone();
    Ok(cx.task("FileManager.copy", &request.this, async move {
        let (_, from) = file_of(&lab, &request.source_name)?;
        if from.is_dir() {
            return Err(fault::not_supported("copying a folder"));
        }
        let (path, to) = target_of(&lab, &request.destination_name, request.force == Some(true))?;
        room_for(&lab, &path, std::fs::metadata(&from).map_err(io("read", &from))?.len())?;
        let source = from.clone();
        let copied = tokio::task::spawn_blocking(move || std::fs::copy(from, to)).await;
        copied.map_err(std::io::Error::other).and_then(|r| r).map_err(io("copy", &source))?;
        lab.change(World::bump);
        Ok(None)
    }))
}

// The browser.

pub(super) async fn search(cx: &Cx, request: m::SearchDatastoreTask) -> Result<Moref, Fault> {
    let lab = cx.lab.clone();
    Ok(cx.task("HostDatastoreBrowser.search", &request.this, async move {
        let (path, folder) = locate(&lab, &request.datastore_path)?;
        if !folder.is_dir() {
            return Err(fault::file_not_found(&request.datastore_path));
        }
        let results = lab.read(|w| list(w, &path, &folder, request.search_spec.as_ref()))?;
        Ok(Some(AnyValue::of(&results)))
    }))
}

pub(super) async fn search_sub_folders(
    cx: &Cx,
    request: m::SearchDatastoreSubFoldersTask,
) -> Result<Option<Moref>, Fault> {
    let lab = cx.lab.clone();
    Ok(Some(cx.task("HostDatastoreBrowser.searchSubFolders", &request.this, async move {
        let (path, folder) = locate(&lab, &request.datastore_path)?;
        if !folder.is_dir() {
            return Err(fault::file_not_found(&request.datastore_path));
        }
        let mut all = Vec::new();
        let mut open = vec![(path, folder)];
        while let Some((path, folder)) = open.pop() {
            all.push(lab.read(|w| list(w, &path, &folder, request.search_spec.as_ref()))?);
            for entry in std::fs::read_dir(&folder).map_err(io("read", &folder))?.filter_map(Result::ok) {
                if entry.file_type().is_ok_and(|t| t.is_dir()) {
                    open.push((path.join(&entry.file_name().to_string_lossy()), entry.path()));
                }
            }
        }
        Ok(Some(AnyValue::of_all("HostDatastoreBrowserSearchResults", &all)))
    })))
}

fn list(
    world: &World,
    path: &DatastorePath,
    folder: &Path,
    spec: Option<&HostDatastoreBrowserSearchSpec>,
) -> Result<HostDatastoreBrowserSearchResults, Fault> {
    let patterns: &[String] = spec.map_or(&[], |s| &s.match_pattern);
    let queries: &[AnyFileQuery] = spec.map_or(&[], |s| &s.query);
    let mut file = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io("read", folder))?.filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !patterns.is_empty() && !patterns.iter().any(|p| crate::faults::matches(p, &name)) {
            continue;
        }
        // A file that vanishes while the folder is read is not there.
        let Ok(metadata) = entry.metadata() else { continue };
        let info = describe(&name, &metadata, &entry.path());
        if queries.is_empty() || queries.iter().any(|q| fits(q, &info)) {
            file.push(info);
        }
    }
    file.sort_by(|a, b| a.path.cmp(&b.path));
    let shown = path.to_string();
    Ok(HostDatastoreBrowserSearchResults {
        datastore: world.datastore_named(&path.datastore).map(|(e, _)| e.moref()),
        folder_path: Some(if path.path.is_empty() { shown } else { format!("{shown}/") }),
        file,
    })
}

fn describe(name: &str, metadata: &std::fs::Metadata, file: &Path) -> AnyFileInfo {
    let base = FileInfo {
        path: name.into(),
        file_size: i64::try_from(metadata.len()).ok(),
        modification: metadata.modified().ok().map(|t| format_time(t.into())),
        owner: Some("root".into()),
        ..FileInfo::default()
    };
    match Path::new(name).extension().and_then(|e| e.to_str()) {
        _ if metadata.is_dir() => FolderFileInfo { base }.into(),
        Some("iso") => IsoImageFileInfo { base }.into(),
        Some("vmdk") => VmDiskFileInfo {
            base,
            capacity_kb: disk::Image::read(file).map(|i| i.capacity / 1024),
            thin: Some(true),
            ..VmDiskFileInfo::default()
        }
        .into(),
        Some("vmx") => VmConfigFileInfo { base, ..Default::default() }.into(),
        Some("log") => VmLogFileInfo { base }.into(),
        _ => base.into(),
    }
}

fn fits(query: &AnyFileQuery, info: &AnyFileInfo) -> bool {
    match query {
        AnyFileQuery::FolderFileQuery(_) => matches!(info, AnyFileInfo::FolderFileInfo(_)),
        AnyFileQuery::IsoImageFileQuery(_) => matches!(info, AnyFileInfo::IsoImageFileInfo(_)),
        AnyFileQuery::VmDiskFileQuery(_) => matches!(info, AnyFileInfo::VmDiskFileInfo(_)),
        _ => true,
    }
}
