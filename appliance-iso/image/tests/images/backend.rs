//! Folders that stand for disks, and files for documents; a call can fail, and a crash be put between any two.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use image_store::{Backend, BackendError, OpenDisk};

/// What happens at the n-th call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The process dies before the call has its effect.
    DiesBefore(usize),
    /// It dies after it.
    DiesAfter(usize),
    /// The call fails, and no other does.
    Fails(usize),
    /// Its answer is lost, and no other is.
    Unheard(usize),
    /// The process dies within it: a write is half done, and a rename has removed what had the new name.
    DiesWithin(usize),
    /// Its answer is lost and a rename comes late, and the process dies, or does not.
    Late { at: usize, dies: bool },
    /// Before it, a rename in two steps has taken its first, and never comes to its second.
    Torn(usize),
}

#[derive(Debug)]
pub(crate) struct Folders {
    folder: PathBuf,
    trouble: Option<Trouble>,
    calls: AtomicUsize,
    open: Mutex<BTreeSet<String>>,
    /// Which calls were renames.
    renames: Mutex<Vec<usize>>,
    /// Renames that are still to come.
    late: Mutex<Vec<(PathBuf, PathBuf)>>,
}

impl Folders {
    pub(crate) fn new(folder: &Path, trouble: Option<Trouble>) -> Self {
        Self {
            folder: folder.to_owned(),
            trouble,
            calls: AtomicUsize::new(0),
            open: Mutex::default(),
            renames: Mutex::default(),
            late: Mutex::default(),
        }
    }

    pub(crate) fn disk(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.disk"))
    }

    pub(crate) fn renames(&self) -> Vec<usize> {
        self.renames.lock().unwrap().clone()
    }

    /// The renames come that are late; there were some.
    pub(crate) fn come(&self) -> bool {
        let late = std::mem::take(&mut *self.late.lock().unwrap());
        for (from, to) in &late {
            // Without its source there is none.
            let _ = std::fs::rename(from, to);
        }
        !late.is_empty()
    }

    /// Counts the call and does it, unless there is trouble.
    fn call<T>(&self, effect: impl FnOnce() -> Result<T, BackendError>) -> Result<T, BackendError> {
        let n = self.calls.fetch_add(1, Ordering::Relaxed);
        let failed = |why: &str| Err(BackendError::from(why));
        match self.trouble {
            Some(Trouble::DiesBefore(at)) if n >= at => failed("the process is dead"),
            Some(Trouble::DiesAfter(at)) if n > at => failed("the process is dead"),
            Some(Trouble::DiesAfter(at)) if n == at => effect().and(failed("the process is dead")),
            Some(Trouble::DiesWithin(at) | Trouble::Late { at, dies: true }) if n >= at => {
                failed("the process is dead")
            }
            Some(Trouble::Late { at, dies: false }) if n == at => failed("there is no answer"),
            Some(Trouble::Torn(at)) if n == at => {
                let _ = std::fs::remove_file(self.folder.join("index.json"));
                effect()
            }
            Some(Trouble::Fails(at)) if n == at => failed("the call was refused"),
            Some(Trouble::Unheard(at)) if n == at => effect().and(failed("there is no answer")),
            _ => effect(),
        }
    }
}

impl Backend for Folders {
    async fn read(&self, name: &str) -> Result<Option<Vec<u8>>, BackendError> {
        self.call(|| match std::fs::read(self.folder.join(name)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e.into()),
        })
    }

    async fn write(&self, name: &str, bytes: Vec<u8>) -> Result<(), BackendError> {
        let n = self.calls.load(Ordering::Relaxed);
        if matches!(self.trouble, Some(Trouble::DiesWithin(at)) if n == at) {
            std::fs::write(self.folder.join(name), &bytes[..bytes.len() / 2])?;
        }
        self.call(|| Ok(std::fs::write(self.folder.join(name), bytes)?))
    }

    async fn rename(&self, from: &str, to: &str) -> Result<(), BackendError> {
        let (from, to) = (self.folder.join(from), self.folder.join(to));
        let n = self.calls.load(Ordering::Relaxed);
        self.renames.lock().unwrap().push(n);
        match self.trouble {
            Some(Trouble::Late { at, .. }) if n == at => self.late.lock().unwrap().push((from.clone(), to.clone())),
            Some(Trouble::DiesWithin(at)) if n == at => drop(std::fs::remove_file(&to)),
            _ => {}
        }
        self.call(|| Ok(std::fs::rename(from, to)?))
    }

    async fn delete(&self, name: &str) -> Result<(), BackendError> {
        self.call(|| match std::fs::remove_file(self.folder.join(name)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.into()),
            _ => Ok(()),
        })
    }

    async fn open_disk(&self, parent: Option<&str>, _: u64) -> Result<OpenDisk, BackendError> {
        self.call(|| {
            let name = uuid::Uuid::new_v4().simple().to_string();
            let root = self.disk(&name);
            match parent {
                None => std::fs::create_dir(&root)?,
                Some(parent) => {
                    assert!(!self.open.lock().unwrap().contains(parent), "a parent is closed before it has children");
                    let copied = Command::new("cp").arg("-a").args([self.disk(parent), root.clone()]).status()?;
                    assert!(copied.success());
                }
            }
            self.open.lock().unwrap().insert(name.clone());
            Ok(OpenDisk { name, root })
        })
    }

    async fn close_disk(&self, name: &str) -> Result<(), BackendError> {
        self.call(|| {
            assert!(self.open.lock().unwrap().remove(name), "it is open");
            Ok(())
        })
    }

    async fn delete_disk(&self, name: &str) -> Result<(), BackendError> {
        self.call(|| {
            self.open.lock().unwrap().remove(name);
            match std::fs::remove_dir_all(self.disk(name)) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.into()),
                _ => Ok(()),
            }
        })
    }

    async fn is_gone(&self, name: &str) -> bool {
        !self.disk(name).exists()
    }

    async fn disks(&self) -> Result<Vec<String>, BackendError> {
        self.call(|| {
            let names = std::fs::read_dir(&self.folder)?.map(|e| e.unwrap().file_name().into_string().unwrap());
            Ok(names.filter_map(|n| n.strip_suffix(".disk").map(str::to_owned)).collect())
        })
    }
}
