//! [`Files`]: the files of a package in memory; [`Tree`]: a root file system, and its cpio archive.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
};

/// Regular files by path, without a leading `./`.
#[derive(Debug, Default)]
pub struct Files(BTreeMap<String, Vec<u8>>);

impl Files {
    /// Reads a tar stream.
    ///
    /// # Errors
    /// What the stream or the archive says.
    pub fn from_tar(reader: impl Read) -> std::io::Result<Self> {
        let mut files = BTreeMap::new();
        let mut archive = tar::Archive::new(reader);
        for entry in archive.entries()? {
            let mut entry = entry?;
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let path = entry.path()?.to_string_lossy().trim_start_matches("./").to_owned();
            let mut bytes = Vec::with_capacity(usize::try_from(entry.size()).unwrap_or_default());
            entry.read_to_end(&mut bytes)?;
            files.insert(path, bytes);
        }
        Ok(Self(files))
    }

    /// The file at `path`.
    pub fn get(&self, path: &str) -> Option<&[u8]> {
        self.0.get(path).map(Vec::as_slice)
    }

    /// Paths and bytes in the order of the paths.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice()))
    }

    /// The files whose path matches `pattern`, which holds at most one `*` (any text without a slash).
    pub fn matching<'a>(&'a self, pattern: &'a str) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        self.iter().filter(move |(path, _)| match pattern.split_once('*') {
            None => *path == pattern,
            Some((before, after)) => path
                .strip_prefix(before)
                .and_then(|rest| rest.strip_suffix(after))
                .is_some_and(|middle| !middle.contains('/')),
        })
    }
}

/// What stands at a path of a root file system.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Directory,
    File { mode: u32, bytes: Vec<u8> },
    Link(String),
    Device { major: u32, minor: u32 },
}

/// A root file system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree(BTreeMap<String, Node>);

impl Tree {
    fn insert(&mut self, path: &str, node: Node) {
        // Parents before children: the map's order puts `a` before `a/b`.
        for (slash, _) in path.match_indices('/') {
            self.0.entry(path[..slash].to_owned()).or_insert(Node::Directory);
        }
        self.0.insert(path.to_owned(), node);
    }

    /// Adds a directory.
    pub fn directory(&mut self, path: &str) {
        self.insert(path, Node::Directory);
    }

    /// Adds a regular file.
    pub fn file(&mut self, path: &str, mode: u32, bytes: Vec<u8>) {
        self.insert(path, Node::File { mode, bytes });
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) {
        self.insert(path, Node::Link(target.to_owned()));
    }

    /// Adds a character device; no root is needed, it is only an archive's entry.
    pub fn device(&mut self, path: &str, major: u32, minor: u32) {
        self.insert(path, Node::Device { major, minor });
    }

    /// Writes the tree as a `newc` cpio archive: sorted, owned by root, dated `mtime`, inodes counted from 1.
    ///
    /// # Errors
    /// What `out` says, or a file of 4 GiB and more.
    pub fn write_cpio(&self, out: impl Write, mtime: u32) -> std::io::Result<()> {
        let mut out = out;
        for (inode, (path, node)) in (1_u32..).zip(&self.0) {
            let (mode, bytes): (u32, &[u8]) = match node {
                Node::Directory => (0o040_755, b""),
                Node::File { mode, bytes } => (0o100_000 | mode, bytes),
                Node::Link(target) => (0o120_777, target.as_bytes()),
                Node::Device { .. } => (0o020_600, b""),
            };
            let links = if *node == Node::Directory { 2 } else { 1 };
            let mut entry = cpio::newc::Builder::new(path).ino(inode).mode(mode).nlink(links).mtime(mtime);
            if let Node::Device { major, minor } = node {
                entry = entry.rdev_major(*major).rdev_minor(*minor);
            }
            let size = u32::try_from(bytes.len()).map_err(std::io::Error::other)?;
            let mut writer = entry.write(out, size);
            writer.write_all(bytes)?;
            out = writer.finish()?;
        }
        cpio::newc::trailer(out)?.flush()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read_back(archive: &[u8]) -> Vec<(String, u32, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        let mut rest = archive;
        loop {
            let mut reader = cpio::newc::Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                return entries;
            }
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).unwrap();
            let entry = reader.entry();
            entries.push((entry.name().to_owned(), entry.mode(), entry.mtime(), bytes));
            rest = reader.finish().unwrap();
        }
    }

    #[test]
    fn parents_come_before_children_with_their_kinds() {
        let mut tree = Tree::default();
        tree.file("usr/sbin/x", 0o755, b"elf".to_vec());
        tree.link("init", "usr/sbin/x");
        tree.device("dev/console", 5, 1);
        let mut bytes = Vec::new();
        tree.write_cpio(&mut bytes, 7).unwrap();
        let seen = read_back(&bytes);
        let names: Vec<_> = seen.iter().map(|e| e.0.as_str()).collect();
        assert_eq!(names, ["dev", "dev/console", "init", "usr", "usr/sbin", "usr/sbin/x"]);
        assert_eq!(seen[1].1, 0o020_600);
        assert_eq!((seen[2].1, seen[2].3.as_slice()), (0o120_777, &b"usr/sbin/x"[..]));
        assert_eq!((seen[5].1, seen[5].2), (0o100_755, 7));
    }

    #[test]
    fn a_pattern_matches_within_one_folder() {
        let files = Files(["a/x.crt", "a/b/y.crt", "a/z.txt"].map(|p| (p.to_owned(), Vec::new())).into());
        assert_eq!(files.matching("a/*.crt").map(|(p, _)| p).collect::<Vec<_>>(), ["a/x.crt"]);
        assert_eq!(files.matching("a/z.txt").count(), 1);
    }

    proptest! {
        #[test]
        fn the_order_of_adding_does_not_show(names in proptest::collection::btree_set("[a-c]{1,3}(/[a-c]{1,3}){0,2}x", 1..8)) {
            let names: Vec<_> = names.into_iter().collect();
            let archive = |order: &mut dyn Iterator<Item = &String>| {
                let mut tree = Tree::default();
                for name in order {
                    tree.file(name, 0o644, name.clone().into_bytes());
                }
                let mut bytes = Vec::new();
                tree.write_cpio(&mut bytes, 1).unwrap();
                bytes
            };
            // Names end in x and folders do not, so that no file is also a folder.
            prop_assert_eq!(archive(&mut names.iter()), archive(&mut names.iter().rev()));
        }
    }
}
