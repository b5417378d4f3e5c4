//! A layer's tar stream onto a file system, as it arrives and in constant memory.
//!
//! Nothing in a layer can reach beyond the root: every parent is opened with `openat2(RESOLVE_IN_ROOT)`, so that the
//! symbolic links of the image lead where they would lead inside it, and the last component is never followed.

use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, Read, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use tar::EntryType;

use crate::budget::Budget;
use crate::sparse::Sparse;

/// Before the name of a file that a layer takes away (OCI image-spec, layer.md, "Whiteouts").
const WHITEOUT: &[u8] = b".wh.";
/// Takes away whatever lower layers have in a folder.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Of other things that begin so nobody knows but the driver that wrote them.
const META: &[u8] = b".wh..wh.";
/// Bytes that the headers of one entry may take, extended ones included.
const HEADERS: u64 = 4 << 20;
/// Entries that a layer may have; what is known of them is kept until the layer is done.
const ENTRIES: usize = 4_000_000;
/// Bytes that the paths of a layer's folders may have together, which are kept, too: a million folders and more.
const PATHS: usize = 64 << 20;
/// Bytes that the files of a layer may have together, holes included.  A disk holds far less; but a header of 512 bytes can tell of
/// a hole as large as it likes, which has to be gone through.
const BYTES: u64 = 64 << 30;
/// Holes are found in blocks of this size, the file system's own.
const BLOCK: usize = 4096;
/// Bytes of a file that are read before they are written.
const COPIED: usize = 64 * BLOCK;
/// Before an extended attribute's name in a PAX header.
const XATTR: &str = "SCHILY.xattr.";

/// Why a layer cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The stream is no tar archive, or broke off.
    #[error("it cannot be read: {0}")]
    Read(io::Error),
    /// An entry cannot be made.
    #[error("{path}: {what}: {source}")]
    Write {
        /// The entry's path as the layer has it.
        path: String,
        /// What was tried.
        what: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// An entry makes no sense.
    #[error("{path}: {reason}")]
    Entry {
        /// The entry's path as the layer has it.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// What a layer held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Entries, whiteouts included.
    pub entries: usize,
    /// Bytes of files.
    pub bytes: u64,
}

type Result<T, E = UnpackError> = std::result::Result<T, E>;

/// Unpacks the tar archive `layer` into the folder `root`, over what is there.
///
/// # Errors
/// [`UnpackError`]; the folder is then in between.
pub fn unpack(layer: impl Read, root: &Path) -> Result<Unpacked> {
    let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
    let opened = rustix::fs::open(root, flags, Mode::empty());
    let root = opened.map_err(|e| wrong(root, "opening the root", e))?;
    let mut unpacker = Unpacker {
        root,
        made: HashSet::new(),
        hasher: RandomState::new(),
        folders: BTreeMap::new(),
        paths: 0,
        parent: None,
        buffer: vec![0; COPIED],
        done: Unpacked::default(),
    };
    let budget = Budget::default();
    let mut archive = tar::Archive::new(budget.reader(layer));
    let mut entries = archive.entries().map_err(UnpackError::Read)?;
    loop {
        budget.allow(HEADERS);
        let Some(entry) = entries.next() else { break };
        let mut entry = entry.map_err(UnpackError::Read)?;
        budget.allow(u64::MAX);
        unpacker.take(&mut entry)?;
        // The rest is passed over here, for else it would count as headers.
        io::copy(&mut entry, &mut io::sink()).map_err(UnpackError::Read)?;
    }
    unpacker.finish()
}

struct Unpacker {
    root: OwnedFd,
    /// Hashes of the paths that this layer made: what its whiteouts do not concern.
    made: HashSet<u64>,
    hasher: RandomState,
    /// Folders get their times last: what is made in them changes these.
    folders: BTreeMap<PathBuf, Timestamps>,
    /// Bytes of their paths.
    paths: usize,
    /// The folder of the entry before, for most have the same; none once something was removed, which it may have been in.
    parent: Option<(PathBuf, Rc<OwnedFd>)>,
    /// Made once: a file's content goes through it.
    buffer: Vec<u8>,
    done: Unpacked,
}

fn wrong(path: &Path, what: &'static str, source: Errno) -> UnpackError {
    UnpackError::Write { path: path.display().to_string(), what, source: source.into() }
}

fn senseless(path: &Path, reason: impl Into<String>) -> UnpackError {
    UnpackError::Entry { path: path.display().to_string(), reason: reason.into() }
}

/// The components of a path within the root; one that leaves it is refused.
fn clean(path: &Path) -> Result<PathBuf> {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => out.push(name),
            Component::ParentDir if !out.pop() => return Err(senseless(path, "it lies outside of the image's root")),
            _ => {}
        }
    }
    Ok(out)
}

impl Unpacker {
    fn take<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> Result<()> {
        let sparse = Sparse::of(entry).map_err(UnpackError::Read)?;
        let raw = match &sparse {
            Some(sparse) => sparse.name.clone(),
            None => entry.path().map_err(UnpackError::Read)?.into_owned(),
        };
        let path = clean(&raw)?;
        self.done.entries += 1;
        if self.done.entries > ENTRIES {
            return Err(senseless(&raw, format!("the layer has more than {ENTRIES} entries")));
        }
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        let Some(name) = path.file_name().map(OsStr::to_owned) else {
            return self.root_itself(entry, kind);
        };
        let folder = path.parent().unwrap_or(Path::new(""));
        let parent = self.parent_at(folder).map_err(|e| wrong(&raw, "its folder", e))?;
        if name.as_bytes() == OPAQUE {
            return self.hide_all(&parent, folder, &raw);
        }
        if name.as_bytes().starts_with(META) {
            return Ok(());
        }
        if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT) {
            let hidden = OsStr::from_bytes(hidden);
            if hidden.is_empty() || hidden == "." || hidden == ".." {
                return Err(senseless(&raw, "it hides nothing"));
            }
            if self.made.contains(&self.hash(&folder.join(hidden))) {
                return Ok(());
            }
            return self.remove(&parent, hidden).map_err(|e| wrong(&raw, "removing what it hides", e));
        }
        self.made.insert(self.hash(&path));
        self.make(entry, kind, sparse.as_ref(), &parent, &name, &path)
    }

    /// Makes what the entry is, in place of what is there.
    fn make<R: Read>(
        &mut self,
        entry: &mut tar::Entry<'_, R>,
        kind: EntryType,
        sparse: Option<&Sparse>,
        parent: &OwnedFd,
        name: &OsStr,
        path: &Path,
    ) -> Result<()> {
        let there = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW);
        let there = there.ok().map(|stat| FileType::from_raw_mode(stat.st_mode));
        let keep = kind == EntryType::Directory && there == Some(FileType::Directory);
        if there.is_some() && !keep {
            self.remove(parent, name).map_err(|e| wrong(path, "making room", e))?;
        }
        let attributes = Attributes::of(entry, path)?;
        let made = |what| move |e| wrong(path, what, e);
        let private = Mode::RUSR | Mode::WUSR;
        match kind {
            EntryType::Directory => {
                if !keep {
                    rustix::fs::mkdirat(parent, name, Mode::RWXU).map_err(made("making the folder"))?;
                }
                let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let folder =
                    rustix::fs::openat(parent, name, flags, Mode::empty()).map_err(made("opening the folder"))?;
                attributes.give(&folder, path)?;
                self.times_last(path, attributes.times)
            }
            EntryType::Link => {
                let target = entry.link_name().map_err(UnpackError::Read)?;
                let target = clean(&target.ok_or_else(|| senseless(path, "it is a link to nothing"))?)?;
                let file = target.file_name().ok_or_else(|| senseless(path, "it is a hard link to a folder"))?;
                let folder = self.existing(target.parent().unwrap_or(Path::new("")));
                let folder = folder.map_err(made("the folder of what it links to"))?;
                rustix::fs::linkat(folder, file, parent, name, AtFlags::empty()).map_err(made("linking"))
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().ok_or_else(|| senseless(path, "it is a link to nothing"))?;
                rustix::fs::symlinkat(OsStr::from_bytes(&target), parent, name).map_err(made("linking"))?;
                attributes.own(parent, name).map_err(made("its owner"))?;
                let times = &attributes.times;
                rustix::fs::utimensat(parent, name, times, AtFlags::SYMLINK_NOFOLLOW).map_err(made("its times"))
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                let header = entry.header();
                let number = |n: io::Result<Option<u32>>| n.ok().flatten().unwrap_or_default();
                let device = rustix::fs::makedev(number(header.device_major()), number(header.device_minor()));
                let file_type = match kind {
                    EntryType::Char => FileType::CharacterDevice,
                    EntryType::Block => FileType::BlockDevice,
                    _ => FileType::Fifo,
                };
                rustix::fs::mknodat(parent, name, file_type, private, device).map_err(made("making the device"))?;
                attributes.own(parent, name).map_err(made("its owner"))?;
                rustix::fs::chmodat(parent, name, attributes.mode, AtFlags::empty()).map_err(made("its mode"))?;
                let times = &attributes.times;
                rustix::fs::utimensat(parent, name, times, AtFlags::SYMLINK_NOFOLLOW).map_err(made("its times"))
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let length = sparse.map_or_else(|| entry.size(), |sparse| sparse.size);
                if self.done.bytes.saturating_add(length) > BYTES {
                    return Err(senseless(path, format!("the layer's files have more than {BYTES} bytes")));
                }
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mode = attributes.mode & (Mode::RWXU | Mode::RWXG | Mode::RWXO);
                let file = rustix::fs::openat(parent, name, flags, mode).map_err(made("making the file"))?;
                let mut file = std::fs::File::from(file);
                self.done.bytes += match sparse {
                    Some(sparse) => {
                        sparse.copy(entry, &mut file).map_err(UnpackError::Read)?;
                        length
                    }
                    None => copy(entry, &mut file, &mut self.buffer, path)?,
                };
                attributes.give(&file, path)?;
                rustix::fs::futimens(&file, &attributes.times).map_err(made("its times"))
            }
            other => Err(senseless(path, format!("entries of type {:?} are not known", char::from(other.as_byte())))),
        }
    }

    /// The root's own entry, which many layers begin with.
    fn root_itself<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>, kind: EntryType) -> Result<()> {
        let path = Path::new("");
        if kind != EntryType::Directory {
            return Err(senseless(Path::new("/"), "the root is no folder"));
        }
        let attributes = Attributes::of(entry, path)?;
        let root = self.readable(path).map_err(|e| wrong(path, "opening the root", e))?;
        attributes.give(&root, path)?;
        self.times_last(path, attributes.times)
    }

    /// Remembers a folder's times until the layer is done.
    fn times_last(&mut self, path: &Path, times: Timestamps) -> Result<()> {
        if self.folders.insert(path.to_owned(), times).is_none() {
            self.paths += path.as_os_str().len();
            if self.paths > PATHS {
                return Err(senseless(path, format!("the paths of the layer's folders have more than {PATHS} bytes")));
            }
        }
        Ok(())
    }

    /// The folder of an entry.
    fn parent_at(&mut self, path: &Path) -> Result<Rc<OwnedFd>, Errno> {
        if let Some((_, folder)) = self.parent.as_ref().filter(|(at, _)| at == path) {
            return Ok(Rc::clone(folder));
        }
        let folder = Rc::new(self.folder(path)?);
        self.parent = Some((path.to_owned(), Rc::clone(&folder)));
        Ok(folder)
    }

    fn remove(&mut self, parent: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
        self.parent = None;
        remove(parent.as_fd(), name)
    }

    /// Opens a folder of the image, making those that are missing: some layers leave them out.
    fn folder(&self, path: &Path) -> Result<OwnedFd, Errno> {
        match self.existing(path) {
            Err(Errno::NOENT) => {}
            other => return other,
        }
        let mut at = PathBuf::new();
        for name in path {
            let parent = self.existing(&at)?;
            match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(e),
            }
            at.push(name);
        }
        self.existing(path)
    }

    fn existing(&self, path: &Path) -> Result<OwnedFd, Errno> {
        self.open(path, OFlags::PATH)
    }

    fn readable(&self, path: &Path) -> Result<OwnedFd, Errno> {
        self.open(path, OFlags::RDONLY)
    }

    fn open(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let flags = flags | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve)
    }

    /// Removes what lower layers have in a folder.
    fn hide_all(&mut self, parent: &OwnedFd, folder: &Path, raw: &Path) -> Result<()> {
        let failed = |e| wrong(raw, "removing what it hides", e);
        for name in names(parent.as_fd()).map_err(failed)? {
            if !self.made.contains(&self.hash(&folder.join(&name))) {
                self.remove(parent, &name).map_err(failed)?;
            }
        }
        Ok(())
    }

    fn hash(&self, path: &Path) -> u64 {
        self.hasher.hash_one(path)
    }

    fn finish(self) -> Result<Unpacked> {
        for (path, times) in &self.folders {
            // It may be gone again, or be something else by now.
            match self.readable(path) {
                Ok(folder) => rustix::fs::futimens(&folder, times).map_err(|e| wrong(path, "its times", e))?,
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(e) => return Err(wrong(path, "its times", e)),
            }
        }
        Ok(self.done)
    }
}

/// What an entry says of itself.
struct Attributes {
    uid: Uid,
    gid: Gid,
    mode: Mode,
    times: Timestamps,
    extended: Vec<(String, Vec<u8>)>,
}

impl Attributes {
    fn of<R: Read>(entry: &mut tar::Entry<'_, R>, path: &Path) -> Result<Self> {
        let header = entry.header();
        let number = |what: &'static str, n: io::Result<u64>| -> Result<u32> {
            let n = n.map_err(UnpackError::Read)?;
            u32::try_from(n).map_err(|_| senseless(path, format!("{n} is no {what}")))
        };
        let (mut uid, mut gid) = (number("user id", header.uid())?, number("group id", header.gid())?);
        let mode = header.mode().map_err(UnpackError::Read)?;
        let mut seconds = i64::try_from(header.mtime().map_err(UnpackError::Read)?).unwrap_or_default();
        let mut nanos = 0;
        let mut extended = Vec::new();
        if let Some(extensions) = entry.pax_extensions().map_err(UnpackError::Read)? {
            for extension in extensions {
                let extension = extension.map_err(UnpackError::Read)?;
                let Ok(key) = extension.key() else { continue };
                let value = String::from_utf8_lossy(extension.value_bytes());
                match key {
                    "uid" => uid = number("user id", value.parse().map_err(io::Error::other))?,
                    "gid" => gid = number("group id", value.parse().map_err(io::Error::other))?,
                    "mtime" => (seconds, nanos) = time(&value).unwrap_or((seconds, nanos)),
                    key => {
                        if let Some(name) = key.strip_prefix(XATTR) {
                            extended.push((name.to_owned(), extension.value_bytes().to_vec()));
                        }
                    }
                }
            }
        }
        let stamp = Timespec { tv_sec: seconds, tv_nsec: nanos };
        Ok(Self {
            uid: Uid::from_raw(uid),
            gid: Gid::from_raw(gid),
            mode: Mode::from_raw_mode(mode & 0o7777),
            times: Timestamps { last_access: stamp, last_modification: stamp },
            extended,
        })
    }

    fn own(&self, parent: &OwnedFd, name: &OsStr) -> Result<(), Errno> {
        rustix::fs::chownat(parent, name, Some(self.uid), Some(self.gid), AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Owner first: a change of owner takes the set-user-id bit away, and capabilities too.  What is so already is left alone: each
    /// change is one in the file system's journal.
    fn give(&self, to: &impl AsFd, path: &Path) -> Result<()> {
        let made = rustix::fs::fstat(to).map_err(|e| wrong(path, "looking at it", e))?;
        let owned = (made.st_uid, made.st_gid) == (self.uid.as_raw(), self.gid.as_raw());
        if !owned {
            rustix::fs::fchown(to, Some(self.uid), Some(self.gid)).map_err(|e| wrong(path, "its owner", e))?;
        }
        if !owned || Mode::from_raw_mode(made.st_mode) != self.mode {
            rustix::fs::fchmod(to, self.mode).map_err(|e| wrong(path, "its mode", e))?;
        }
        for (name, value) in &self.extended {
            match rustix::fs::fsetxattr(to, name.as_str(), value, XattrFlags::empty()) {
                // What this kernel has no place for, the containers' has none for either.
                Ok(()) | Err(Errno::OPNOTSUPP) => {}
                Err(e) => return Err(wrong(path, "an extended attribute", e)),
            }
        }
        Ok(())
    }
}

/// Seconds and nanoseconds of a PAX time.
fn time(text: &str) -> Option<(i64, i64)> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = seconds.parse().ok()?;
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let nanos: i64 = digits.parse().ok()?;
    // Before 1970 the fraction counts backwards.
    Some(if text.starts_with('-') && nanos > 0 { (seconds - 1, 1_000_000_000 - nanos) } else { (seconds, nanos) })
}

/// Copies a file's content through `buffer`, of whole blocks; blocks of zeros become holes.
fn copy(from: &mut impl Read, to: &mut std::fs::File, buffer: &mut [u8], path: &Path) -> Result<u64> {
    let failed = |e: io::Error| UnpackError::Write { path: path.display().to_string(), what: "writing it", source: e };
    let is_hole = |block: &[u8]| block.iter().all(|b| *b == 0);
    let mut length = 0;
    let mut hole = 0;
    loop {
        let filled = fill(from, buffer).map_err(UnpackError::Read)?;
        if filled == 0 {
            break;
        }
        length += filled as u64;
        let mut rest = &buffer[..filled];
        while !rest.is_empty() {
            let zeros = rest.chunks(BLOCK).take_while(|block| is_hole(block)).map(<[u8]>::len).sum();
            hole += zeros as u64;
            rest = &rest[zeros..];
            // One write for all that lies together: a call costs more than a block.
            let data = rest.chunks(BLOCK).take_while(|block| !is_hole(block)).map(<[u8]>::len).sum();
            if data > 0 {
                if hole > 0 {
                    io::Seek::seek_relative(to, i64::try_from(hole).unwrap_or(i64::MAX)).map_err(failed)?;
                    hole = 0;
                }
                to.write_all(&rest[..data]).map_err(failed)?;
                rest = &rest[data..];
            }
        }
    }
    if hole > 0 {
        to.set_len(length).map_err(failed)?;
    }
    Ok(length)
}

/// Reads until the buffer is full or there is no more.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

/// What is in a folder.
fn names(folder: BorrowedFd<'_>) -> Result<Vec<OsString>, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let readable = rustix::fs::openat(folder, ".", flags, Mode::empty())?;
    let mut out = Vec::new();
    for entry in Dir::new(readable)? {
        let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
        if name != "." && name != ".." {
            out.push(name);
        }
    }
    Ok(out)
}

/// Removes a file, or a folder with what is in it; nothing there is as good.  Depth costs no stack.
fn remove(parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR) => {}
        Err(e) => return Err(e),
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // Folders on the way down, each with the names that are still to be removed in it.
    let top = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    let mut stack = vec![(names(top.as_fd())?, top, name.to_owned())];
    while let Some((left, folder, _)) = stack.last_mut() {
        if let Some(next) = left.pop() {
            match rustix::fs::unlinkat(&*folder, &next, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::ISDIR) => {
                    let inner = rustix::fs::openat(&*folder, &next, flags, Mode::empty())?;
                    stack.push((names(inner.as_fd())?, inner, next));
                }
                Err(e) => return Err(e),
            }
        } else if let Some((_, _, empty)) = stack.pop() {
            let above = stack.last().map_or(parent, |(_, folder, _)| folder.as_fd());
            rustix::fs::unlinkat(above, &empty, AtFlags::REMOVEDIR)?;
        }
    }
    Ok(())
}
