//! An image as Dockerfiles make them: much in a few layers, next to nothing in the others.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use image_store::Digest;
use sha2::{Digest as _, Sha256};

use crate::tarball::{Tarball, gzip, noise, noise_of};

/// A layer: as it is sent, and its content.
pub type Layer = (Vec<u8>, Vec<u8>);

/// A file that compresses to about half, as programs do.
fn file(n: u32) -> Vec<u8> {
    let mut content = noise_of(n, 3000 + n as usize % 5 * 2000);
    content.extend(std::iter::repeat_n(b'-', content.len()));
    content
}

fn layer(tarball: Tarball) -> Layer {
    let content = tarball.bytes();
    (gzip(&content), content)
}

fn files(folder: &str, numbers: std::ops::Range<u32>) -> Layer {
    let mut tarball = Tarball::new().folder(&format!("{folder}/"));
    for n in numbers {
        tarball = tarball.file(&format!("{folder}/f{n}"), &file(n));
    }
    layer(tarball)
}

/// Files of a base that shares a disk with what is on it.
pub const SMALL_BASE: u32 = 1650;
/// Files of a base that is worth a disk of its own, if barely.
pub const LARGE_BASE: u32 = 2500;

/// Ten layers: a base of so many files, a program and its data; four of one small file each, and three with nothing in them.
pub fn ten_layers(base: u32) -> Vec<Layer> {
    let small = |n: usize| layer(Tarball::new().file(&format!("etc/conf{n}"), format!("setting = {n}\n").as_bytes()));
    let empty = || (gzip(&[0; 1024]), vec![0; 1024]);
    vec![
        files("usr", 0..base),
        empty(),
        small(1),
        files("opt", base..base + 100),
        small(2),
        empty(),
        layer(Tarball::new().file("data", &noise(1 << 20))),
        small(3),
        small(4),
        empty(),
    ]
}

/// Those of `layers` that hold anything.
pub fn without_empty(layers: Vec<Layer>) -> Vec<Layer> {
    layers.into_iter().filter(|(_, content)| content.iter().any(|b| *b != 0)).collect()
}

/// A layer of one file of so many MB that no compression makes fewer: as it is sent, and its `DiffID`.
pub fn big_layer(megabytes: u64) -> (Vec<u8>, Digest) {
    // gzip looks back 32 KiB only.
    let block = noise(1_000_000);
    let write = |to: &mut dyn Write| -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_path("big")?;
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_mode(0o644);
        header.set_size(megabytes * 1_000_000);
        header.set_cksum();
        to.write_all(header.as_bytes())?;
        for _ in 0..megabytes {
            to.write_all(&block)?;
        }
        let end = (megabytes * 1_000_000).next_multiple_of(512) - megabytes * 1_000_000 + 1024;
        to.write_all(&vec![0; usize::try_from(end).unwrap()])
    };
    let mut encoder = GzEncoder::new(Vec::new(), Compression::none());
    write(&mut encoder).unwrap();
    let mut hasher = Sha256::new();
    write(&mut hasher).unwrap();
    let diff_id = format!("sha256:{}", hasher.finalize().iter().map(|b| format!("{b:02x}")).collect::<String>());
    (encoder.finish().unwrap(), diff_id.parse().unwrap())
}
