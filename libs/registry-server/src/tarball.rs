//! Layers as tests want them.

use std::io::Write as _;

/// A tar archive in the making.
pub struct Tarball(tar::Builder<Vec<u8>>);

impl Default for Tarball {
    fn default() -> Self {
        Self::new()
    }
}

impl Tarball {
    /// An empty one.
    pub fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    /// Any entry; the path is written as it is, sense or not.
    #[must_use]
    pub fn entry(mut self, kind: tar::EntryType, path: &str, link: &str, content: &[u8], mode: u32) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_gnu_mut().unwrap().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_mode(mode);
        header.set_uid(12);
        header.set_gid(34);
        header.set_mtime(1_000_000_000);
        header.set_size(content.len() as u64);
        if matches!(kind, tar::EntryType::Char | tar::EntryType::Block) {
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
        }
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    /// A file.
    #[must_use]
    pub fn file(self, path: &str, content: &[u8]) -> Self {
        self.entry(tar::EntryType::Regular, path, "", content, 0o644)
    }

    /// A folder.
    #[must_use]
    pub fn folder(self, path: &str) -> Self {
        self.entry(tar::EntryType::Directory, path, "", b"", 0o755)
    }

    /// A symbolic link.
    #[must_use]
    pub fn symlink(self, path: &str, to: &str) -> Self {
        self.entry(tar::EntryType::Symlink, path, to, b"", 0o777)
    }

    /// A hard link.
    #[must_use]
    pub fn link(self, path: &str, to: &str) -> Self {
        self.entry(tar::EntryType::Link, path, to, b"", 0o644)
    }

    /// Extended attributes and the like, for the next entry.
    #[must_use]
    pub fn pax(mut self, values: &[(&str, &[u8])]) -> Self {
        self.0.append_pax_extensions(values.iter().copied()).unwrap();
        self
    }

    /// The archive.
    pub fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// A root of Debian's static busybox: a shell and some 270 small programs.
pub fn busybox() -> Vec<u8> {
    let program =
        std::fs::read("/bin/busybox").unwrap_or_else(|e| panic!("/bin/busybox: {e}: CI installs busybox-static"));
    let list = std::process::Command::new("/bin/busybox").arg("--list").output().unwrap();
    let mut tarball = Tarball::new()
        .folder("bin/")
        .folder("etc/")
        .entry(tar::EntryType::Directory, "tmp/", "", b"", 0o1777)
        .entry(tar::EntryType::Regular, "bin/busybox", "", &program, 0o755)
        .file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\napp:x:77:77::/srv:/bin/sh\n")
        .file("etc/group", b"root:x:0:\napp:x:77:\n");
    for name in String::from_utf8_lossy(&list.stdout).lines().filter(|name| *name != "busybox") {
        tarball = tarball.symlink(&format!("bin/{name}"), "busybox");
    }
    tarball.bytes()
}

/// Compressed with gzip.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// As real tools write it, in two frames with a skippable one between.
pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    let frame = |bytes: &[u8]| ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest);
    let (first, second) = bytes.split_at(bytes.len() / 2);
    [&frame(first)[..], b"\x50\x2a\x4d\x18\x03\0\0\0abc", &frame(second)].concat()
}

/// Bytes that no compression makes fewer.
pub fn noise(length: usize) -> Vec<u8> {
    noise_of(1, length)
}

/// Such bytes, others for each seed.
pub fn noise_of(seed: u32, length: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}
