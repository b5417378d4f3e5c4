//! Pulling an image: downloads run ahead a little, layers are unpacked in their order, disks are made one after the other.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use oci_client::manifest::OciDescriptor;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::index::{Disk, Image, Index};
use crate::layer::{Chunks, LayerError, apply};
use crate::name;
use crate::plan::{Layer, chain_ids, plan};
use crate::registry::{Access, Login, Registry, RegistryError, Resolved};
use crate::store::{Backend, ImageStore, OpenDisk, StoreError, now};
use crate::{Digest, Reference};

/// Layers that are downloaded at a time.
const AHEAD: usize = 3;
/// Chunks of a layer that wait for their turn: this bounds the memory, whatever a layer's size.
const WAITING: usize = 64;
/// Longest chunk: each is a thread's waking.
const CHUNK: usize = 64 * 1024;
/// Steps that wait for who listens.
const STEPS: usize = 64;
/// How often in a row a download may break without a byte.
const TRIES: u32 = 5;
/// A download without a byte for so long has broken.
const SILENCE: Duration = Duration::from_secs(60);
/// What is sent has so many times its bytes on a disk, more often than not.
const UNPACKED: u64 = 3;
/// Bytes between two words on a download.
const TELL: u64 = 512 * 1024;

/// Why an image was not pulled.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The registry gave none.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A layer is not what it should be.
    #[error("failed to register layer {digest}: {error}")]
    Layer {
        /// The layer's digest.
        digest: String,
        /// What is wrong with it.
        error: LayerError,
    },
    /// It cannot be kept.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Nobody listens any more.
    #[error("the pull was cancelled")]
    Cancelled,
    /// It ended without an answer.
    #[error("the pull ended without an answer")]
    Lost,
}

/// What happens while an image is pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The registry knows it.
    Begun {
        /// Tag, or digest.
        tag: String,
        /// Repository, without the registry.
        repository: String,
    },
    /// Something about a layer.
    Layer {
        /// The layer's short digest.
        id: String,
        /// What.
        told: Told,
    },
    /// The digest by which the registry knows it.
    Digest(Digest),
}

/// How a layer fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// It is to be fetched.
    Wanted,
    /// It is on a disk that is there.
    There,
    /// Bytes of all bytes have come.
    Downloading(u64, u64),
    /// All have.
    Downloaded,
    /// It is being unpacked: bytes of what is sent, of all.
    Extracting(u64, u64),
    /// It is on a disk.
    Complete,
}

/// What became of a pull.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// The image's id.
    pub id: Digest,
    /// Something has changed: the image, or what its name stands for.
    pub new: bool,
}

/// A pull at work.  When nobody reads the steps any more it is given up, and leaves nothing.
#[derive(Debug)]
pub struct Pulling {
    steps: mpsc::Receiver<Step>,
    task: JoinHandle<Result<Pulled, PullError>>,
}

impl Pulling {
    /// The next thing that happens; none when the pull has ended.
    pub async fn step(&mut self) -> Option<Step> {
        self.steps.recv().await
    }

    /// Gives it up.
    pub fn cancel(&mut self) {
        self.steps.close();
    }

    /// What became of it; steps that were not read are lost.
    ///
    /// # Errors
    /// [`PullError`].
    pub async fn outcome(mut self) -> Result<Pulled, PullError> {
        while self.steps.recv().await.is_some() {}
        self.task.await.unwrap_or(Err(PullError::Lost))
    }
}

impl<B: Backend> ImageStore<B> {
    /// Pulls an image.
    pub fn pull(self: &Arc<Self>, access: Access, reference: Reference, login: Login) -> Pulling {
        let (sender, steps) = mpsc::channel(STEPS);
        let store = Arc::clone(self);
        let task = tokio::spawn(async move {
            let (registry, image) = tokio::select! {
                found = Registry::resolve(&access, &reference, &login) => found?,
                () = sender.closed() => return Err(PullError::Cancelled),
            };
            let one = Pull { store: Arc::clone(&store), registry, image, steps: sender };
            let outcome = one.run().await;
            tokio::spawn(async move { store.prepare().await });
            outcome
        });
        Pulling { steps, task }
    }
}

struct Pull<B> {
    store: Arc<ImageStore<B>>,
    registry: Registry,
    image: Resolved,
    steps: mpsc::Sender<Step>,
}

/// A disk that the index does not have yet.
struct Made {
    /// The `ChainID` of its topmost layer.
    whole: Digest,
    disk: Disk,
}

fn short(digest: &str) -> String {
    digest.trim_start_matches("sha256:").chars().take(12).collect()
}

impl<B: Backend> Pull<B> {
    async fn run(self) -> Result<Pulled, PullError> {
        let reference = self.registry.reference().clone();
        let tag = reference.tag().or(reference.digest()).unwrap_or_default().to_owned();
        self.tell(Step::Begun { tag, repository: reference.repository().to_owned() }).await?;
        let layers: Vec<Layer> = self
            .image
            .layers
            .iter()
            .map(|(sent, diff_id)| Layer { diff_id: diff_id.clone(), size: u64::try_from(sent.size).unwrap_or(0) })
            .collect();
        let chain = chain_ids(&layers);
        // An image without layers has a disk all the same.
        let bottom = chain.first().cloned().unwrap_or_else(|| Digest::new(b""));
        let base = self.store.base(&bottom);
        let _alone = tokio::select! {
            held = base.lock() => held,
            () = self.steps.closed() => return Err(PullError::Cancelled),
        };
        // Whatever becomes of other images meanwhile.
        let stands_on = chain.iter().chain([&bottom]).cloned();
        let (index, _held) = self.store.hold(|_| stands_on).await;
        let planned = |index: &Index| plan(&layers, |n| index.depth(&chain[n - 1]));
        let mut plan = planned(&index);
        let there = plan.there.checked_sub(1).and_then(|n| index.disks.get(&chain[n]));
        if let Some(disk) = there
            && self.store.look_after(&disk.name).await?
        {
            plan = planned(&self.store.index());
        }
        for (n, (sent, _)) in self.image.layers.iter().enumerate() {
            let told = if n < plan.there { Told::There } else { Told::Wanted };
            self.tell(Step::Layer { id: short(&sent.digest), told }).await?;
        }
        let mut top = plan.there.checked_sub(1).map(|n| chain[n].clone());
        let mut downloads = Downloads::new(&self, plan.there);
        let mut made: Option<Made> = None;
        for layers in plan.disks {
            let whole = layers.end.checked_sub(1).map_or_else(|| bottom.clone(), |n| chain[n].clone());
            if made.is_some() {
                self.enter(made.take(), |_| ()).await?;
            }
            let disk = self.make_disk(layers, top.as_ref(), &mut downloads).await?;
            made = Some(Made { whole: whole.clone(), disk });
            top = Some(whole);
        }
        self.name(top.unwrap_or(bottom), made).await
    }

    /// Makes one disk of some layers.
    async fn make_disk(
        &self,
        layers: std::ops::Range<usize>,
        parent: Option<&Digest>,
        downloads: &mut Downloads,
    ) -> Result<Disk, PullError> {
        let backend = &self.store.backend;
        let index = self.store.index();
        let below = parent.and_then(|p| index.disks.get(p)).map(|d| d.name.clone());
        let sent = self.image.layers[layers.clone()].iter().map(|(sent, _)| u64::try_from(sent.size).unwrap_or(0));
        let bytes = sent.fold(0, u64::saturating_add).saturating_mul(UNPACKED);
        let OpenDisk { name, root } = backend.open_disk(below.as_deref(), bytes).await.map_err(StoreError::Backend)?;
        let closed = match self.fill(layers, &root, downloads).await {
            Ok(sizes) => backend.close_disk(&name).await.map(|()| sizes).map_err(|e| StoreError::Backend(e).into()),
            Err(e) => Err(e),
        };
        if closed.is_err() {
            self.discard(&name).await;
        }
        Ok(Disk { name, parent: parent.cloned(), layers: closed? })
    }

    async fn discard(&self, disk: &str) {
        // What cannot be removed now goes at the next start.
        let _ = self.store.backend.delete_disk(disk).await;
    }

    /// Changes the index: enters the disk that was made, and does what goes with it.
    async fn enter(&self, made: Option<Made>, also: impl FnOnce(&mut Index) + Send) -> Result<(), PullError> {
        let name = made.as_ref().map(|made| made.disk.name.clone());
        let change = self.store.change(|index| {
            if let Some(Made { whole, disk }) = made {
                index.disks.insert(whole, disk);
            }
            also(index);
            Ok(())
        });
        let entered = change.await;
        match (&entered, name) {
            // The next start tells whether it is listed.
            (Ok(()) | Err(StoreError::Unknown(_)), _) | (_, None) => {}
            (Err(_), Some(name)) => self.discard(&name).await,
        }
        Ok(entered?)
    }

    /// Unpacks layers onto an open disk; gives the bytes of the files of each.
    async fn fill(
        &self,
        layers: std::ops::Range<usize>,
        root: &std::path::Path,
        downloads: &mut Downloads,
    ) -> Result<Vec<u64>, PullError> {
        let mut sizes = Vec::new();
        for n in layers {
            let (sent, diff_id) = &self.image.layers[n];
            let id = short(&sent.digest);
            let gone = self.steps.clone();
            let chunks = Chunks::new(downloads.next(), move || gone.is_closed());
            let digest = |text: &str| Digest::try_from(text.to_owned());
            let size = u64::try_from(sent.size).unwrap_or(0);
            self.tell(Step::Layer { id: id.clone(), told: Told::Extracting(0, size) }).await?;
            let Ok(expected) = digest(&sent.digest) else { return Err(PullError::Lost) };
            let (diff_id, root) = (diff_id.clone(), root.to_owned());
            let unpacked = tokio::task::spawn_blocking(move || apply(chunks, &expected, &diff_id, &root));
            tokio::pin!(unpacked);
            let unpacked = tokio::select! {
                unpacked = &mut unpacked => unpacked.map_err(|_| PullError::Lost)?,
                () = self.steps.closed() => {
                    // Without its download the layer ends at once; a disk is let go of when nobody writes to it any more.
                    downloads.stop();
                    let _ = unpacked.await;
                    return Err(PullError::Cancelled);
                }
            };
            let done = unpacked.map_err(|error| PullError::Layer { digest: sent.digest.clone(), error })?;
            sizes.push(done.bytes);
            self.tell(Step::Layer { id, told: Told::Complete }).await?;
        }
        Ok(sizes)
    }

    /// Enters the image and its names, with its last disk: on a datastore each change takes its time.
    async fn name(self, disk: Digest, made: Option<Made>) -> Result<Pulled, PullError> {
        let reference = self.registry.reference();
        let repository = name::repository(reference);
        let tag = reference.tag().filter(|_| reference.digest().is_none()).map(|t| format!("{repository}:{t}"));
        let digest = format!("{repository}@{}", self.image.digest);
        if let Err(cancelled) = self.tell(Step::Digest(self.image.digest.clone())).await {
            if let Some(made) = made {
                self.discard(&made.disk.name).await;
            }
            return Err(cancelled);
        }
        let id = self.image.id.clone();
        let (manifest, config) = (self.image.manifest.clone(), self.image.config.clone());
        let index = self.store.index();
        let known = made.is_none()
            && index.images.contains_key(&id)
            && tag.as_ref().is_none_or(|t| index.tags.get(t) == Some(&id))
            && index.digests.get(&digest) == Some(&id);
        if known {
            return Ok(Pulled { id, new: false });
        }
        let entered = id.clone();
        let enter = self.enter(made, |index| {
            let bytes = index.layer_bytes(&disk).into_iter().sum();
            let image = Image { disk, manifest, config, bytes, tagged_ns: now() };
            index.images.insert(id.clone(), image);
            if let Some(tag) = tag {
                index.tags.insert(tag, id.clone());
            }
            index.digests.insert(digest, id);
        });
        enter.await?;
        Ok(Pulled { id: entered, new: true })
    }

    async fn tell(&self, step: Step) -> Result<(), PullError> {
        self.steps.send(step).await.map_err(|_| PullError::Cancelled)
    }
}

/// The downloads of an image's layers: a few at a time, in their order.
struct Downloads {
    registry: Registry,
    steps: mpsc::Sender<Step>,
    left: VecDeque<OciDescriptor>,
    begun: VecDeque<mpsc::Receiver<io::Result<Bytes>>>,
    /// They end with it.
    tasks: JoinSet<()>,
}

impl Downloads {
    fn new<B>(pull: &Pull<B>, from: usize) -> Self {
        let left = pull.image.layers[from..].iter().map(|(sent, _)| sent.clone()).collect();
        let (registry, steps) = (pull.registry.clone(), pull.steps.clone());
        let mut downloads = Self { registry, steps, left, begun: VecDeque::new(), tasks: JoinSet::new() };
        downloads.begin();
        downloads
    }

    fn begin(&mut self) {
        while self.begun.len() < AHEAD
            && let Some(sent) = self.left.pop_front()
        {
            let (sender, receiver) = mpsc::channel(WAITING);
            self.begun.push_back(receiver);
            self.tasks.spawn(download(self.registry.clone(), sent, sender, self.steps.clone()));
        }
    }

    /// The next layer's bytes.
    fn next(&mut self) -> mpsc::Receiver<io::Result<Bytes>> {
        let next = self.begun.pop_front();
        self.begin();
        // Beyond the last layer there is nothing.
        next.unwrap_or_else(|| mpsc::channel(1).1)
    }

    fn stop(&mut self) {
        self.tasks.abort_all();
    }
}

/// Downloads one layer; goes on where it broke off.
async fn download(
    registry: Registry,
    sent: OciDescriptor,
    to: mpsc::Sender<io::Result<Bytes>>,
    steps: mpsc::Sender<Step>,
) {
    let size = u64::try_from(sent.size).unwrap_or(0);
    let id = short(&sent.digest);
    // Who does not keep up misses some of these.
    let tell = |told| drop(steps.try_send(Step::Layer { id: id.clone(), told }));
    let (mut got, mut told, mut tries) = (0_u64, 0_u64, 0);
    let failure = loop {
        let mut why = "the download broke off".to_owned();
        match registry.blob(&sent, got).await {
            Ok(mut stream) => {
                loop {
                    let chunk = match timeout(SILENCE, stream.next()).await {
                        Ok(Some(Ok(chunk))) => chunk,
                        Ok(Some(Err(e))) => break why = e.to_string(),
                        Ok(None) => break,
                        Err(_) => break why = format!("no byte came for {} s", SILENCE.as_secs()),
                    };
                    // What a server without ranges sends again does not count.
                    if !chunk.is_empty() {
                        tries = 0;
                    }
                    let mut rest = chunk;
                    while !rest.is_empty() {
                        let piece = rest.split_to(rest.len().min(CHUNK));
                        got += piece.len() as u64;
                        if to.send(Ok(piece)).await.is_err() {
                            return;
                        }
                    }
                    if got > size {
                        break;
                    }
                    if got >= told + TELL {
                        told = got;
                        tell(Told::Downloading(got, size));
                    }
                }
                if got == size {
                    tell(Told::Downloaded);
                    return;
                }
                if got > size {
                    break format!("more than the {size} bytes came that its manifest tells of");
                }
            }
            Err(e @ RegistryError::Failed { .. }) => why = e.to_string(),
            Err(e) => break e.to_string(),
        }
        tries += 1;
        if tries > TRIES {
            break why;
        }
        sleep(Duration::from_millis(200 << tries)).await;
    };
    let _ = to.send(Err(io::Error::other(failure))).await;
}
