//! [`Index`]: which images there are, by which names, and which disks hold them.
//!
//! One document, replaced as a whole, is all that is needed to begin: what is not in it is not there.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::Digest;

/// Version of the document that this build writes; a newer one is refused.
pub const SCHEMA: u32 = 1;

/// The images of a VCH.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Index {
    /// [`SCHEMA`] of the writer.
    pub schema: u32,
    /// Disks by the `ChainID` of the layers that end with them.
    #[serde(default)]
    pub disks: BTreeMap<Digest, Disk>,
    /// Images by id: the digest of their configuration.
    #[serde(default)]
    pub images: BTreeMap<Digest, Image>,
    /// Image ids by name: `docker.io/library/busybox:latest`.
    #[serde(default)]
    pub tags: BTreeMap<String, Digest>,
    /// Image ids by the name with the digest that a registry knows it by: `docker.io/library/busybox@sha256:...`.
    #[serde(default)]
    pub digests: BTreeMap<String, Digest>,
    /// Names of disks of which nothing is known, for somebody has removed the index that did: containers may stand on them, and they
    /// are left alone.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub strays: BTreeSet<String>,
}

/// A disk in the image store; it is never written again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Its name in the store.
    pub name: String,
    /// The disk below it.
    #[serde(default)]
    pub parent: Option<Digest>,
    /// Bytes of the files of each layer that was written to it, lowest first.
    pub layers: Vec<u64>,
}

/// An image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Image {
    /// The topmost disk's `ChainID`.
    pub disk: Digest,
    /// Its manifest.
    pub manifest: Digest,
    /// The configuration, as the registry sent it (OCI image-spec, config.md).
    pub config: String,
    /// Bytes of its files, all layers together.
    pub bytes: u64,
    /// When it was pulled or last tagged, nanoseconds since 1970.
    pub tagged_ns: u64,
}

/// Why an image was not removed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RemoveError {
    /// No image has that name or id.
    #[error("No such image: {0}")]
    NoSuch(String),
    /// The beginning of several ids.
    #[error("invalid reference format: {0} is the beginning of several image ids")]
    Several(String),
    /// Several names stand for it, and the id was given.
    #[error("conflict: unable to delete {0} (must be forced) - image is referenced in multiple repositories")]
    ManyNames(String),
    /// A container needs it.
    #[error(
        "conflict: unable to {verb} {wanted} ({how}) - container {container} is using its referenced image {image}"
    )]
    InUse {
        /// What was to be done.
        verb: &'static str,
        /// As the client named it.
        wanted: String,
        /// Whether force would help.
        how: &'static str,
        /// The container's short id.
        container: String,
        /// The image's short id.
        image: String,
    },
}

/// What a removal did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// A name is gone.
    Untagged(String),
    /// An image, or a layer of its, is gone.
    Deleted(Digest),
}

/// Where an image's name or id leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found<'a> {
    /// By a name of its own.
    Named(&'a Digest),
    /// By its id, or the beginning of it.
    ById(&'a Digest),
}

impl Default for Index {
    fn default() -> Self {
        Self {
            schema: SCHEMA,
            disks: BTreeMap::new(),
            images: BTreeMap::new(),
            tags: BTreeMap::new(),
            digests: BTreeMap::new(),
            strays: BTreeSet::new(),
        }
    }
}

impl Index {
    /// How many disks the chain has that ends with `chain`.
    pub fn depth(&self, chain: &Digest) -> Option<usize> {
        let mut disk = self.disks.get(chain)?;
        let mut depth = 1;
        while let Some(parent) = disk.parent.as_ref() {
            disk = self.disks.get(parent)?;
            depth += 1;
            // A document that was tampered with is no reason to hang.
            if depth > self.disks.len() {
                return None;
            }
        }
        Some(depth)
    }

    /// The disks of the chain that ends with `chain`, topmost first.
    pub fn down<'a>(&'a self, chain: &Digest) -> impl Iterator<Item = (&'a Digest, &'a Disk)> {
        let below = |(_, disk): &(&Digest, &'a Disk)| self.disks.get_key_value(disk.parent.as_ref()?);
        // A document that was tampered with is no reason to hang.
        std::iter::successors(self.disks.get_key_value(chain), below).take(self.disks.len())
    }

    /// Bytes of the files of each layer up to `chain`, lowest first.
    pub fn layer_bytes(&self, chain: &Digest) -> Vec<u64> {
        let disks: Vec<&Disk> = self.down(chain).map(|(_, disk)| disk).collect();
        disks.into_iter().rev().flat_map(|d| d.layers.iter().copied()).collect()
    }

    /// Takes out a disk that is gone and those above it, and the images that stand on one of them.
    pub fn lose(&mut self, gone: &Digest) {
        let stand = |chain: &&Digest| self.down(chain).any(|(chain, _)| chain == gone);
        let lost: BTreeSet<Digest> = self.disks.keys().filter(stand).cloned().collect();
        self.disks.retain(|chain, _| !lost.contains(chain));
        self.images.retain(|_, image| !lost.contains(&image.disk));
        let Self { images, tags, digests, .. } = self;
        tags.retain(|_, id| images.contains_key(id));
        digests.retain(|_, id| images.contains_key(id));
    }

    /// The image that `wanted` stands for: `name` is its full form when it can be one.
    pub fn find(&self, wanted: &str, name: Option<&str>) -> Result<Found<'_>, RemoveError> {
        if let Some(id) = name.and_then(|n| self.tags.get(n).or_else(|| self.digests.get(n))) {
            return Ok(Found::Named(id));
        }
        let digits = wanted.strip_prefix("sha256:").unwrap_or(wanted);
        let hex = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
        let mut hits = self.images.keys().filter(|id| hex && id.hex().starts_with(digits));
        match (hits.next(), hits.next()) {
            (Some(id), None) => Ok(Found::ById(id)),
            (Some(_), Some(_)) => Err(RemoveError::Several(wanted.to_owned())),
            (None, _) => Err(RemoveError::NoSuch(wanted.to_owned())),
        }
    }

    /// The names of an image, tags before digests.
    pub fn names(&self, id: &Digest) -> (Vec<&str>, Vec<&str>) {
        (Self::named(&self.tags, id), Self::named(&self.digests, id))
    }

    fn named<'a>(names: &'a BTreeMap<String, Digest>, id: &Digest) -> Vec<&'a str> {
        names.iter().filter(|(_, i)| *i == id).map(|(n, _)| n.as_str()).collect()
    }

    /// Takes a name, or an image with all its names, out; `user` is the short id of a container that uses an image, and
    /// whether it runs.  What remains of disks is [`Index::sweep`]'s.
    ///
    /// # Errors
    /// [`RemoveError`]; then nothing has changed.
    pub fn remove(
        &mut self,
        wanted: &str,
        name: Option<&str>,
        force: bool,
        user: impl Fn(&Digest) -> Option<(String, bool)>,
    ) -> Result<Vec<Removed>, RemoveError> {
        let found = self.find(wanted, name)?;
        let by_name = matches!(found, Found::Named(_));
        let (Found::Named(id) | Found::ById(id)) = found;
        let id = id.clone();
        let (tags, digests) = self.names(&id);
        let (tags, digests): (Vec<String>, Vec<String>) =
            (tags.into_iter().map(str::to_owned).collect(), digests.into_iter().map(str::to_owned).collect());
        let mut removed = Vec::new();
        if let Some(name) = name.filter(|_| by_name) {
            let repository = |n: &str| n.split('@').next().unwrap_or(n).to_owned();
            let last_tag = self.tags.contains_key(name) && tags.len() == 1;
            let last = if self.tags.contains_key(name) { last_tag } else { tags.is_empty() && digests.len() == 1 };
            if !last {
                self.tags.remove(name);
                self.digests.remove(name);
                removed.push(Removed::Untagged(name.to_owned()));
                // With the last tag of a repository its digests go, too.
                let home = name.rsplit_once(':').map_or(name, |(r, _)| r);
                if !self.tags.iter().any(|(n, i)| *i == id && n.rsplit_once(':').is_some_and(|(r, _)| r == home)) {
                    for digest in digests.iter().filter(|d| repository(d) == home) {
                        if self.digests.remove(digest).is_some() {
                            removed.push(Removed::Untagged(digest.clone()));
                        }
                    }
                }
                return Ok(removed);
            }
        } else if tags.len() > 1 && !force {
            return Err(RemoveError::ManyNames(id.hex().chars().take(12).collect()));
        }
        if let Some((container, running)) = user(&id)
            && (running || !force)
        {
            return Err(RemoveError::InUse {
                verb: if by_name { "remove repository reference" } else { "delete" },
                wanted: if by_name { format!("\"{wanted}\"") } else { wanted.to_owned() },
                how: if running { "cannot be forced" } else { "must force" },
                container,
                image: id.hex().chars().take(12).collect(),
            });
        }
        for name in tags.into_iter().chain(digests) {
            self.tags.remove(&name);
            self.digests.remove(&name);
            removed.push(Removed::Untagged(name));
        }
        self.images.remove(&id);
        removed.push(Removed::Deleted(id));
        Ok(removed)
    }

    /// Takes out the disks that no image stands on, topmost first; `keep` tells of those, by the `ChainID`, that are needed all the
    /// same.
    pub fn sweep(&mut self, keep: impl Fn(&Digest, &Disk) -> bool) -> Vec<(Digest, Disk)> {
        let mut needed: BTreeSet<Digest> = BTreeSet::new();
        let roots = self.images.values().map(|i| &i.disk);
        let kept = self.disks.iter().filter(|(c, d)| keep(c, d)).map(|(c, _)| c);
        for root in roots.chain(kept) {
            let mut at = Some(root);
            while let Some(chain) = at.filter(|c| !needed.contains(*c)) {
                needed.insert(chain.clone());
                at = self.disks.get(chain).and_then(|d| d.parent.as_ref());
            }
        }
        let mut gone: Vec<(usize, Digest)> = self
            .disks
            .keys()
            .filter(|c| !needed.contains(*c))
            .map(|c| (self.depth(c).unwrap_or(0), c.clone()))
            .collect();
        gone.sort();
        gone.into_iter().rev().filter_map(|(_, chain)| Some((chain.clone(), self.disks.remove(&chain)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: u8) -> Digest {
        Digest::new(&[n])
    }

    fn disk(parent: Option<u8>) -> Disk {
        Disk { name: "d".into(), parent: parent.map(digest), layers: vec![1] }
    }

    /// Two images on one base.
    fn index() -> Index {
        let image = |n| Image { disk: digest(n), manifest: digest(n), config: "{}".into(), bytes: 2, tagged_ns: 0 };
        let mut index = Index::default();
        index.disks.extend([(digest(1), disk(None)), (digest(2), disk(Some(1))), (digest(3), disk(Some(1)))]);
        index.images.extend([(digest(12), image(2)), (digest(13), image(3))]);
        index.tags.extend([
            ("docker.io/library/a:1".to_owned(), digest(12)),
            ("docker.io/library/a:2".to_owned(), digest(12)),
            ("docker.io/library/b:1".to_owned(), digest(13)),
        ]);
        index.digests.insert("docker.io/library/b@sha256:77".to_owned(), digest(13));
        index
    }

    fn nobody(_: &Digest) -> Option<(String, bool)> {
        None
    }

    #[test]
    fn names_go_one_by_one_and_the_image_with_the_last() {
        let mut index = index();
        let name = "docker.io/library/a:1";
        assert_eq!(index.remove("a:1", Some(name), false, nobody), Ok(vec![Removed::Untagged(name.into())]));
        assert_eq!(index.remove("a:1", Some(name), false, nobody), Err(RemoveError::NoSuch("a:1".into())));
        let name = "docker.io/library/a:2";
        let gone = index.remove("a:2", Some(name), false, nobody).unwrap();
        assert_eq!(gone, [Removed::Untagged(name.into()), Removed::Deleted(digest(12))]);
        let disks: Vec<_> = index.sweep(|_, _| false).into_iter().map(|(c, _)| c).collect();
        assert_eq!(disks, [digest(2)], "the base has another child");
        index.remove("b", Some("docker.io/library/b:1"), false, nobody).unwrap();
        assert_eq!(index.digests.len(), 0);
        let disks: Vec<_> = index.sweep(|_, _| false).into_iter().map(|(c, _)| c).collect();
        assert_eq!(disks, [digest(3), digest(1)], "children before parents");
    }

    #[test]
    fn with_a_disk_goes_all_that_stands_on_it() {
        let mut one = index();
        one.lose(&digest(2));
        assert_eq!(one.disks.keys().collect::<BTreeSet<_>>(), [&digest(1), &digest(3)].into());
        assert_eq!(one.images.keys().collect::<Vec<_>>(), [&digest(13)]);
        assert_eq!((one.tags.len(), one.digests.len()), (1, 1));
        let mut all = index();
        all.lose(&digest(1));
        assert_eq!(all, Index::default());
    }

    #[test]
    fn an_id_takes_all_names_only_by_force_and_no_image_goes_from_under_a_running_container() {
        let mut index = index();
        let id = digest(12);
        assert!(matches!(index.remove(id.hex(), None, false, nobody), Err(RemoveError::ManyNames(_))));
        let used = |running| move |_: &Digest| Some(("c0ffee".to_owned(), running));
        let refused = index.remove(&id.hex()[..12], None, true, used(true)).unwrap_err();
        assert!(refused.to_string().contains("(cannot be forced) - container c0ffee is using its referenced image"));
        assert_eq!(index.remove(&id.hex()[..12], None, true, used(false)).unwrap().len(), 3);
        assert_eq!(index.tags.len(), 1);
    }

    #[test]
    fn a_chain_that_bites_its_tail_is_none() {
        let mut index = index();
        index.disks.insert(digest(1), disk(Some(3)));
        assert_eq!(index.depth(&digest(3)), None);
        assert_eq!(index.depth(&digest(9)), None);
    }
}
