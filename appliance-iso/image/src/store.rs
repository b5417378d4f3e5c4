//! [`ImageStore`]: the images of a VCH, and what keeps them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::Digest;
use crate::document::{INDEX, replace, settled};
use crate::index::{Index, RemoveError, Removed, SCHEMA};

/// Why what keeps images failed.
pub type BackendError = Box<dyn std::error::Error + Send + Sync>;

/// A disk that can be written to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenDisk {
    /// Its name, which no other ever has: what a process left that died is in nobody's way.
    pub name: String,
    /// Where it is mounted.
    pub root: PathBuf,
}

/// Where disks come from, and documents go.
pub trait Backend: Send + Sync + 'static {
    /// A document; none when there is none.
    fn read(&self, name: &str) -> impl Future<Output = Result<Option<Vec<u8>>, BackendError>> + Send;

    /// Writes a document, in the place of what has its name; one that dies may leave half of it.
    fn write(&self, name: &str, bytes: Vec<u8>) -> impl Future<Output = Result<(), BackendError>> + Send;

    /// Gives a document another name, in the place of what has it.  When it fails it may come later, for as long as there is one
    /// of the old name; and it may be cut when what had the new name is gone, and the old name is still there.
    fn rename(&self, from: &str, to: &str) -> impl Future<Output = Result<(), BackendError>> + Send;

    /// Removes a document; one that is not there is as good.
    fn delete(&self, name: &str) -> impl Future<Output = Result<(), BackendError>> + Send;

    /// Makes a disk, over `parent` when there is one, and mounts it; its folder can be written to until it is closed.  It fails
    /// where some `bytes` have no room.
    fn open_disk(
        &self,
        parent: Option<&str>,
        bytes: u64,
    ) -> impl Future<Output = Result<OpenDisk, BackendError>> + Send;

    /// Told when there is time: whatever can be done now so that the next [`Self::open_disk`] takes less.
    fn prepare(&self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }

    /// Sees that what was written is on the disk, and lets it go: it is never written again.
    fn close_disk(&self, name: &str) -> impl Future<Output = Result<(), BackendError>> + Send;

    /// Removes a disk, open or not; one that is not there is as good.
    fn delete_disk(&self, name: &str) -> impl Future<Output = Result<(), BackendError>> + Send;

    /// Whether a disk that was closed is gone for certain: somebody else has removed it.  One that cannot be asked for is there.
    fn is_gone(&self, name: &str) -> impl Future<Output = bool> + Send;

    /// The names of all disks that there are, finished or not.
    fn disks(&self) -> impl Future<Output = Result<Vec<String>, BackendError>> + Send;
}

/// Why the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// What keeps images failed.
    #[error("the image store: {0}")]
    Backend(BackendError),
    /// It failed, and whether it was done cannot be told.
    #[error("the image store: {0}; whether its {INDEX} was replaced is not known")]
    Unknown(BackendError),
    /// The index cannot be read.
    #[error("the image store's {INDEX}: {0}")]
    Index(String),
    /// What was to be removed cannot be.
    #[error(transparent)]
    Remove(#[from] RemoveError),
}

/// The images of a VCH.
#[derive(Debug)]
pub struct ImageStore<B> {
    pub(crate) backend: B,
    index: RwLock<Arc<Index>>,
    /// Held while the index is replaced.
    writing: tokio::sync::Mutex<()>,
    /// Images with the same first layer may share disks: one of them is pulled at a time.
    bases: Mutex<BTreeMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
    /// Disks that there were at the start.
    old: Mutex<Vec<String>>,
    held: Arc<Mutex<BTreeMap<Digest, usize>>>,
}

/// Keeps disks from being removed, for as long as it lives: those that a pull or a container that is being made stands on.
#[derive(Debug)]
pub struct Held {
    all: Arc<Mutex<BTreeMap<Digest, usize>>>,
    chains: Vec<Digest>,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        for chain in &self.chains {
            if let Some(count) = all.get_mut(chain) {
                *count -= 1;
                if *count == 0 {
                    all.remove(chain);
                }
            }
        }
    }
}

impl<B: Backend> ImageStore<B> {
    /// The store that `backend` keeps.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn open(backend: B) -> Result<Self, StoreError> {
        let found = settled(&backend).await.map_err(StoreError::Backend)?;
        let old = backend.disks().await.map_err(StoreError::Backend)?;
        let index = match found {
            Some(bytes) => read(&bytes)?,
            None => {
                // The first one is written before the first disk is made: where there are some, somebody has removed it.
                let index = Index { strays: old.iter().cloned().collect(), ..Index::default() };
                let text = serde_json::to_vec(&index).map_err(|e| StoreError::Index(e.to_string()))?;
                replace(&backend, text).await.map_err(StoreError::Backend)?;
                index
            }
        };
        Ok(Self {
            backend,
            index: RwLock::new(Arc::new(index)),
            writing: tokio::sync::Mutex::default(),
            bases: Mutex::default(),
            old: Mutex::new(old),
            held: Arc::default(),
        })
    }

    /// Where disks come from, and documents go.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// The images as they are now.
    pub fn index(&self) -> Arc<Index> {
        Arc::clone(&self.index.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Removes the disks that a process left that died; those that came since are left alone.
    ///
    /// # Errors
    /// The first one of the backend's; the others are tried all the same.
    pub async fn collect(&self) -> Result<(), StoreError> {
        let old = std::mem::take(&mut *self.old.lock().unwrap_or_else(PoisonError::into_inner));
        let index = self.index();
        let mut outcome = Ok(());
        for name in old {
            let listed = index.strays.contains(&name) || index.disks.values().any(|d| d.name == name);
            if !listed {
                outcome = outcome.and(self.backend.delete_disk(&name).await.map_err(StoreError::Backend));
            }
        }
        outcome
    }

    /// The images as they are now, and a hold on the disks of the `ChainID`s that `which` chooses of them, and of all below: whether
    /// they are there already or come.
    pub async fn hold<C>(&self, which: impl FnOnce(&Index) -> C) -> (Arc<Index>, Held)
    where
        C: IntoIterator<Item = Digest>,
    {
        // A removal under way is over then, and the next one knows.
        let _writing = self.writing.lock().await;
        let index = self.index();
        let chains: Vec<Digest> = which(&index).into_iter().collect();
        let mut all = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        for chain in &chains {
            *all.entry(chain.clone()).or_default() += 1;
        }
        (index, Held { all: Arc::clone(&self.held), chains })
    }

    /// Does ahead what can be done of the next pull.
    pub async fn prepare(&self) {
        self.backend.prepare().await;
    }

    /// Gives an image another name, which may have been another's.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn tag(&self, id: &Digest, name: &str) -> Result<(), StoreError> {
        self.change(|index| {
            // It may have been removed since it was found.
            let image = index.images.get_mut(id).ok_or_else(|| RemoveError::NoSuch(id.to_string()))?;
            image.tagged_ns = now();
            index.tags.insert(name.to_owned(), id.clone());
            Ok(())
        })
        .await
    }

    /// Removes a name, or an image; see [`Index::remove`].  `used` tells of disks that containers stand on; it is asked when nothing
    /// more can be held, so that what is held no more is in use by then.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn remove(
        &self,
        wanted: &str,
        name: Option<&str>,
        force: bool,
        user: impl Fn(&Digest) -> Option<(String, bool)> + Send,
        used: impl Fn(&str) -> bool + Send + Sync,
    ) -> Result<Vec<Removed>, StoreError> {
        let (removed, swept) = self
            .change(|index| {
                let removed = index.remove(wanted, name, force, user)?;
                let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).clone();
                Ok((removed, index.sweep(|chain, disk| held.contains_key(chain) || used(&disk.name))))
            })
            .await?;
        for (_, disk) in swept {
            // The index knows it no more: what stays now goes at the next start.
            let _ = self.backend.delete_disk(&disk.name).await;
        }
        Ok(removed)
    }

    /// Looks whether the disk `name` and those below it are still there.  When one is gone, the images that stand on it are no
    /// more, and can be pulled again: returns whether it was so.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn look_after(&self, name: &str) -> Result<bool, StoreError> {
        let index = self.index();
        let Some((top, _)) = index.disks.iter().find(|(_, disk)| disk.name == name) else { return Ok(false) };
        let mut gone = Vec::new();
        for (chain, disk) in index.down(top) {
            if self.backend.is_gone(&disk.name).await {
                gone.push((chain.clone(), disk.name.clone()));
            }
        }
        if gone.is_empty() {
            return Ok(false);
        }
        let lose = self.change(|index| {
            for (chain, name) in gone {
                // It may have been made anew since.
                if index.disks.get(&chain).is_some_and(|disk| disk.name == name) {
                    // Those above it are of no use to anybody: they go at the next start.
                    index.lose(&chain);
                }
            }
            Ok(())
        });
        lose.await.map(|()| true)
    }

    /// Changes the index, on the datastore first.
    pub(crate) async fn change<T>(
        &self,
        change: impl FnOnce(&mut Index) -> Result<T, StoreError> + Send,
    ) -> Result<T, StoreError> {
        let _writing = self.writing.lock().await;
        let mut index = Index::clone(&self.index());
        let out = change(&mut index)?;
        let text = serde_json::to_vec(&index).map_err(|e| StoreError::Index(e.to_string()))?;
        if let Err(error) = replace(&self.backend, text.clone()).await {
            // It may have been replaced all the same, and what is on the datastore is what there is.
            match settled(&self.backend).await {
                Ok(there) if there.as_ref() == Some(&text) => {}
                Ok(_) => return Err(StoreError::Backend(error)),
                Err(_) => return Err(StoreError::Unknown(error)),
            }
        }
        *self.index.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(index);
        Ok(out)
    }

    pub(crate) fn base(&self, first: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut bases = self.bases.lock().unwrap_or_else(PoisonError::into_inner);
        bases.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(bases.entry(first.clone()).or_default())
    }
}

fn read(bytes: &[u8]) -> Result<Index, StoreError> {
    let index: Index = serde_json::from_slice(bytes).map_err(|e| StoreError::Index(e.to_string()))?;
    if index.schema > SCHEMA {
        let reason = format!("it was written by a newer version (schema {}, this one knows {SCHEMA})", index.schema);
        return Err(StoreError::Index(reason));
    }
    Ok(index)
}

pub(crate) fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}
