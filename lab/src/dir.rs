//! Where a lab keeps its things.
//!
//! Two folders: the lab folder, which lasts, and the run folder, which is gone after a reboot of the machine together
//! with the processes that it names.  The run folder's path is short and follows from the lab folder's, because paths
//! of Unix sockets may not be longer than 107 bytes.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// A lab folder, and what follows from its path.
#[derive(Debug, Clone)]
pub(crate) struct LabDir {
    root: PathBuf,
    id: String,
}

impl LabDir {
    /// The lab in `root`; the folder is made where it is missing.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        std::fs::create_dir_all(root).map_err(Error::file("make the folder", root))?;
        let root = root.canonicalize().map_err(Error::file("find", root))?;
        let digest = Sha256::digest(root.as_os_str().as_encoded_bytes());
        let id = digest.iter().take(4).map(|b| format!("{b:02x}")).collect();
        Ok(Self { root, id })
    }

    /// The folder used when none is named.
    pub(crate) fn default_root() -> PathBuf {
        let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        set("XDG_STATE_HOME")
            .or_else(|| set("HOME").map(|home| home.join(".local/state")))
            .unwrap_or_else(|| PathBuf::from("/var/lib"))
            .join("vic-lab")
    }

    /// The lab folder.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Name of the network namespace.
    pub(crate) fn namespace(&self) -> String {
        format!("vic-lab-{}", self.id)
    }

    /// The run folder.
    pub(crate) fn run(&self) -> PathBuf {
        PathBuf::from("/run").join(format!("vic-lab-{}", self.id))
    }

    /// The control socket.
    pub(crate) fn control(&self) -> PathBuf {
        self.run().join("control")
    }

    /// Held locked by the daemon for as long as it lives.
    pub(crate) fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// What the daemon says.
    pub(crate) fn log(&self) -> PathBuf {
        self.root.join("daemon.log")
    }

    /// [`crate::settings::Settings`].
    pub(crate) fn settings(&self) -> PathBuf {
        self.root.join("lab.json")
    }

    /// The API's certificate.
    pub(crate) fn certificate(&self) -> PathBuf {
        self.root.join("certificate.pem")
    }

    /// The API's key.
    pub(crate) fn key(&self) -> PathBuf {
        self.root.join("key.pem")
    }

    /// What the accelerator probe found; all labs of a machine share it.
    pub(crate) fn accelerator() -> PathBuf {
        PathBuf::from("/run/vic-lab-accelerator.json")
    }

    /// Folder of inventory documents.
    pub(crate) fn inventory(&self) -> PathBuf {
        self.root.join("inventory")
    }

    /// Folder of datastores.
    pub(crate) fn datastores(&self) -> PathBuf {
        self.root.join("datastores")
    }

    /// DHCP leases.
    pub(crate) fn leases(&self) -> PathBuf {
        self.root.join("dhcp.leases")
    }

    /// Makes the run folder, open to its owner only.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn make_run(&self) -> Result<PathBuf> {
        use std::os::unix::fs::PermissionsExt;
        let run = self.run();
        std::fs::create_dir_all(&run).map_err(Error::file("make the folder", &run))?;
        std::fs::set_permissions(&run, std::fs::Permissions::from_mode(0o700)).map_err(Error::file("protect", &run))?;
        Ok(run)
    }

    /// Removes everything that the lab keeps.  The folder itself goes only if nothing else is in it.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub(crate) fn wipe(&self) -> Result<()> {
        for folder in [self.inventory(), self.datastores()] {
            match std::fs::remove_dir_all(&folder) {
                Err(e) if !crate::process::is_absent(&e) => return Err(Error::file("remove", folder)(e)),
                _ => {}
            }
        }
        let files = [self.lock(), self.log(), self.settings(), self.certificate(), self.key(), self.leases()];
        for file in files {
            match std::fs::remove_file(&file) {
                Err(e) if !crate::process::is_absent(&e) => return Err(Error::file("remove", file)(e)),
                _ => {}
            }
        }
        // Someone else's file in there is a reason to keep the folder, not to fail.
        let _ = std::fs::remove_dir(&self.root);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deep_lab_folder_still_has_a_short_socket_path() {
        let temp = tempfile::tempdir().unwrap();
        let lab = LabDir::open(&temp.path().join("x".repeat(200))).unwrap();
        assert!(lab.control().as_os_str().len() < 60);
        assert_eq!(lab.namespace(), LabDir::open(lab.root()).unwrap().namespace(), "the same lab each time");
        lab.wipe().unwrap();
        assert!(!lab.root().exists());
    }
}
