//! Disks by their place on the VM's SCSI controller, which is all that vSphere and the guest both know of them.

use std::path::{Path, PathBuf};

/// The block device whose SCSI address (host:channel:target:lun) has `unit` as its target; `sys` and `dev` are where these
/// file systems are mounted.
pub fn disk(unit: u32, sys: &Path, dev: &Path) -> Option<PathBuf> {
    let mut found: Vec<_> = std::fs::read_dir(sys.join("block"))
        .ok()?
        .flatten()
        // Disks: a CD drive has a controller and an address too.
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("sd"))
        .filter_map(|entry| {
            let address = std::fs::read_link(entry.path().join("device")).ok()?;
            let address: Vec<u32> =
                address.file_name()?.to_str()?.split(':').map_while(|number| number.parse().ok()).collect();
            let [host, 0, target, 0] = address.as_slice() else { return None };
            (*target == unit).then(|| (*host, dev.join(entry.file_name())))
        })
        .collect();
    // The first controller, where there are several.
    found.sort_unstable();
    Some(found.into_iter().next()?.1)
}

/// [`disk`], once it can be opened: the kernel shows a disk a moment before that.
///
/// # Errors
/// What is wrong with it, to follow its name.
pub fn ready(unit: u32, sys: &Path, dev: &Path) -> Result<PathBuf, String> {
    let device = disk(unit, sys, dev).ok_or("is not there")?;
    match std::fs::File::open(&device) {
        Ok(_) => Ok(device),
        Err(error) => Err(format!("cannot be opened: {error}")),
    }
}

/// Has the kernel look for a disk at `unit`, where it does not look by itself (`scsi_mod.scan=manual`): on every controller, for
/// which of them is the first is known only by what is found.
///
/// A full look asks each of a paravirtual controller's 65 targets, and takes the kernel 10 ms for each that is not there.
pub fn look_for(unit: u32, sys: &Path) {
    let hosts = std::fs::read_dir(sys.join("class/scsi_host")).into_iter().flatten().flatten();
    for host in hosts {
        // A controller that has no such target says so, and the disk is not found there.
        let _ = std::fs::write(host.path().join("scan"), format!("0 {unit} 0"));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_disk_is_found_by_its_place_on_the_first_controller() {
        let folder = tempfile::tempdir().unwrap();
        let (sys, dev) = (folder.path().join("sys"), Path::new("/dev"));
        for (name, address) in [("sda", "2:0:1:0"), ("sdb", "2:0:0:0"), ("sdc", "3:0:0:0"), ("sr0", "1:0:0:0")] {
            let block = sys.join("block").join(name);
            std::fs::create_dir_all(&block).unwrap();
            symlink(format!("../../../{address}"), block.join("device")).unwrap();
        }
        std::fs::create_dir_all(sys.join("block/loop0")).unwrap();
        assert_eq!(disk(1, &sys, dev), Some("/dev/sda".into()));
        assert_eq!(disk(0, &sys, dev), Some("/dev/sdb".into()));
        assert_eq!(disk(7, &sys, dev), None);
    }

    #[test]
    fn every_controller_is_asked_for_the_one_target() {
        let sys = tempfile::tempdir().unwrap();
        let scan = |host: &str| sys.path().join("class/scsi_host").join(host).join("scan");
        for host in ["host0", "host1"] {
            std::fs::create_dir_all(scan(host).parent().unwrap()).unwrap();
        }
        look_for(3, sys.path());
        for host in ["host0", "host1"] {
            assert_eq!(std::fs::read_to_string(scan(host)).unwrap(), "0 3 0");
        }
        // A machine without controllers.
        look_for(3, Path::new("/nonexistent"));
    }
}
