//! Layers onto a folder.  Owners and devices need root.

use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use image_store::unpack::{UnpackError, Unpacked, unpack};
use tar::EntryType;

use registry_server::tarball::Tarball;

fn onto(root: &Path, layer: Tarball) -> Result<Unpacked, UnpackError> {
    unpack(&layer.bytes()[..], root)
}

pub(crate) fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: owners and devices need root");
    }
    root
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        folder.read_dir().unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn everything_that_a_layer_can_hold_is_exact() {
    if !is_root() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let mut sparse = vec![0; 1 << 20];
    sparse[700_000] = 1;
    let long = format!("deep/{}", "x".repeat(90));
    let layer = Tarball::new()
        .folder("./")
        .folder("bin/")
        .entry(EntryType::Regular, "bin/tool", "", b"#!", 0o4755)
        .link("bin/same", "bin/tool")
        .symlink("bin/soft", "/bin/tool")
        .entry(EntryType::Char, "null", "", b"", 0o666)
        .entry(EntryType::Block, "disk", "", b"", 0o660)
        .entry(EntryType::Fifo, "pipe", "", b"", 0o600)
        .file("sparse", &sparse)
        .pax(&[("SCHILY.xattr.user.colour", b"red"), ("mtime", b"1000000000.25")])
        .file("told", b"x")
        .file(&long, b"no folder of its own");
    let done = onto(root, layer).unwrap();
    assert_eq!(done.entries, 11);
    let tool = root.join("bin/tool").metadata().unwrap();
    assert_eq!((tool.mode() & 0o7777, tool.uid(), tool.gid(), tool.mtime()), (0o4755, 12, 34, 1_000_000_000));
    assert_eq!((tool.ino(), tool.nlink()), (root.join("bin/same").metadata().unwrap().ino(), 2));
    let soft = root.join("bin/soft");
    assert_eq!(soft.read_link().unwrap(), Path::new("/bin/tool"));
    assert_eq!(soft.symlink_metadata().unwrap().uid(), 12);
    let null = root.join("null").metadata().unwrap();
    assert!(null.file_type().is_char_device());
    assert_eq!((null.rdev(), null.mode() & 0o777), (rustix::fs::makedev(1, 3), 0o666));
    let disk = root.join("disk").metadata().unwrap();
    assert!(disk.file_type().is_block_device());
    assert_eq!((disk.rdev(), disk.mode() & 0o777), (rustix::fs::makedev(1, 3), 0o660));
    assert!(root.join("pipe").metadata().unwrap().file_type().is_fifo());
    assert_eq!(std::fs::read(root.join("sparse")).unwrap(), sparse);
    assert!(root.join("sparse").metadata().unwrap().blocks() * 512 <= 64 * 1024, "it has holes");
    let mut value = [0; 8];
    let n = rustix::fs::getxattr(root.join("told"), "user.colour", &mut value).unwrap();
    assert_eq!(&value[..n], b"red");
    assert_eq!(root.join("told").metadata().unwrap().mtime_nsec(), 250_000_000);
    assert_eq!(std::fs::read(root.join(&long)).unwrap(), b"no folder of its own");
    assert_eq!(root.join("bin").metadata().unwrap().mtime(), 1_000_000_000, "what was made in it changed it");
}

#[test]
fn whiteouts_take_away_what_lower_layers_have_and_nothing_else() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let below = Tarball::new()
        .folder("a/")
        .file("a/one", b"1")
        .folder("a/deep/")
        .file("a/deep/two", b"2")
        .folder("b/")
        .file("b/old", b"3")
        .file("gone", b"4");
    onto(root, below).unwrap();
    let above = Tarball::new()
        .file("b/new", b"5")
        .file("b/.wh..wh..opq", b"")
        .file("b/later", b"6")
        .file("a/.wh.deep", b"")
        .file(".wh.gone", b"")
        .file(".wh.never", b"")
        .file(".wh..wh.plnk", b"")
        .file("kept", b"7")
        .file(".wh.kept", b"");
    onto(root, above).unwrap();
    assert_eq!(names(root), ["a", "b", "kept"]);
    assert_eq!(names(&root.join("a")), ["one"]);
    assert_eq!(names(&root.join("b")), ["later", "new"]);
}

#[test]
fn an_entry_takes_the_place_of_what_is_there() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    onto(root, Tarball::new().folder("d/").file("d/x", b"1").file("f", b"2").symlink("l", "d")).unwrap();
    onto(root, Tarball::new().file("d", b"a file").folder("f/").file("f/y", b"3").folder("l/")).unwrap();
    assert_eq!(std::fs::read(root.join("d")).unwrap(), b"a file");
    assert_eq!(names(&root.join("f")), ["y"]);
    assert!(root.join("l").symlink_metadata().unwrap().is_dir());
    // A folder stays, with what is in it.
    onto(root, Tarball::new().folder("f/")).unwrap();
    assert_eq!(names(&root.join("f")), ["y"]);
}

#[test]
fn nothing_reaches_beyond_the_root() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "s").unwrap();
    let root = outside.path().join("root");
    std::fs::create_dir(&root).unwrap();
    let away = outside.path().to_str().unwrap();
    for (what, layer) in [
        ("a path upwards", Tarball::new().file("../evil", b"x")),
        ("one that hides it", Tarball::new().file("a/../../evil", b"x")),
        ("a link upwards", Tarball::new().link("evil", "../secret")),
        ("a link by way of a symbolic one", Tarball::new().symlink("out", "..").link("evil", "out/secret")),
        ("a whiteout upwards", Tarball::new().file("../.wh.secret", b"")),
        ("a whiteout of the folder", Tarball::new().file("a/.wh..", b"")),
    ] {
        let outcome = onto(&root, layer);
        assert!(outcome.is_err(), "{what}");
    }
    // These stay within, as they would for a process in the container.
    onto(&root, Tarball::new().symlink("up", "..").file("up/inside", b"x")).unwrap();
    onto(&root, Tarball::new().symlink("abs", away).file("abs/inside2", b"x")).unwrap_or_default();
    onto(&root, Tarball::new().symlink("file", &format!("{away}/secret")).file("file", b"mine")).unwrap();
    assert_eq!(std::fs::read(outside.path().join("secret")).unwrap(), b"s");
    assert_eq!(names(outside.path()), ["root", "secret"]);
    assert_eq!(std::fs::read(root.join("inside")).unwrap(), b"x");
}

#[test]
fn headers_without_end_and_broken_archives_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let long = vec![b'x'; 8 << 20];
    let bomb = Tarball::new().pax(&[("comment", &long)]).file("f", b"");
    let said = onto(root.path(), bomb).unwrap_err().to_string();
    assert!(said.contains("headers are too long"), "{said}");
    let whole = Tarball::new().file("f", &[7; 4000]).bytes();
    let cut = unpack(&whole[..2000], root.path()).unwrap_err();
    assert!(matches!(cut, UnpackError::Read(_)), "{cut}");
    let noise = unpack(&[0xaa; 2048][..], root.path()).unwrap_err();
    assert!(matches!(noise, UnpackError::Read(_)), "{noise}");
}

/// A sparse file as GNU tar writes it by default: a hole, then a few bytes.
fn sparse(hole: u64, content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_path("sparse").unwrap();
    header.set_entry_type(EntryType::GNUSparse);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(content.len() as u64);
    // In base 256: eleven octal digits end at 8 GiB.
    let number = |n: u64| {
        let mut field = [0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        field[4..].copy_from_slice(&n.to_be_bytes());
        field
    };
    let gnu = header.as_gnu_mut().unwrap();
    gnu.sparse[0].offset = number(hole);
    gnu.sparse[0].numbytes = number(content.len() as u64);
    gnu.realsize = number(hole + content.len() as u64);
    header.set_cksum();
    let mut archive = tar::Builder::new(Vec::new());
    archive.append(&header, content).unwrap();
    archive.into_inner().unwrap()
}

#[test]
fn holes_are_holes_and_one_without_end_is_refused() {
    let root = tempfile::tempdir().unwrap();
    unpack(&sparse(1 << 20, b"end")[..], root.path()).unwrap();
    let file = root.path().join("sparse");
    let content = std::fs::read(&file).unwrap();
    assert_eq!((content.len(), &content[1 << 20..]), ((1 << 20) + 3, &b"end"[..]));
    assert!(file.metadata().unwrap().blocks() * 512 <= 64 * 1024, "it has holes");
    let said = unpack(&sparse(1 << 60, b"end")[..], root.path()).unwrap_err().to_string();
    assert!(said.contains("the layer's files have more than"), "{said}");
}

#[test]
fn sparse_files_of_gnu_tar_are_what_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let file = std::fs::File::create(folder.path().join("file")).unwrap();
    for n in 0..200_u64 {
        file.write_all_at(format!("piece {n}").as_bytes(), n * 50_000 + 40_000).unwrap();
    }
    file.set_len(20_000_000).unwrap();
    let wanted = std::fs::read(folder.path().join("file")).unwrap();
    for (format, version, known) in
        [("gnu", "1.0", true), ("posix", "1.0", true), ("posix", "0.1", false), ("posix", "0.0", false)]
    {
        let mut tar = std::process::Command::new("tar");
        tar.arg("-C").arg(folder.path()).args([
            "--sparse",
            "--sparse-version",
            version,
            "--format",
            format,
            "-cf",
            "-",
        ]);
        let archive = tar.arg("file").output().unwrap().stdout;
        assert!(archive.len() < 3_000_000, "it is sparse in the archive");
        let root = tempfile::tempdir().unwrap();
        let outcome = unpack(&archive[..], root.path());
        if !known {
            let said = outcome.unwrap_err().to_string();
            assert!(said.contains("only version 1.0"), "{format} {version}: {said}");
            continue;
        }
        assert_eq!(outcome.unwrap(), Unpacked { entries: 1, bytes: 20_000_000 }, "{format}");
        assert_eq!(names(root.path()), ["file"]);
        assert!(std::fs::read(root.path().join("file")).unwrap() == wanted, "{format}");
        assert!(root.path().join("file").metadata().unwrap().blocks() * 512 < 3_000_000, "{format}: it has holes");
    }
}

#[test]
fn maps_of_sparse_files_that_make_no_sense_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let block = |text: &str| {
        let mut block = text.as_bytes().to_vec();
        block.resize(512, 0);
        block.extend(b"content");
        block
    };
    for (what, size, content) in [
        ("beyond the file", "5", block("1\n0\n7\n")),
        ("beyond all numbers", "9", block("1\n18446744073709551615\n7\n")),
        ("backwards", "99", block("2\n3\n3\n0\n4\n")),
        ("more than there is", "99", block("1\n0\n50\n")),
        ("no numbers", "9", block("one\n")),
        ("no end", "9", b"1\n".to_vec()),
        ("too many", "9", block("999999999\n")),
        ("too large", "99999999999999", block("1\n0\n7\n")),
        ("no size", "many", block("1\n0\n7\n")),
    ] {
        let pax: [(&str, &[u8]); 4] = [
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"f"),
            ("GNU.sparse.realsize", size.as_bytes()),
        ];
        assert!(onto(root.path(), Tarball::new().pax(&pax).file("GNUSparseFile.0/f", &content)).is_err(), "{what}");
    }
    let pax: [(&str, &[u8]); 4] = [
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"../f"),
        ("GNU.sparse.realsize", b"7"),
    ];
    let away = onto(root.path(), Tarball::new().pax(&pax).file("f", &block("1\n0\n7\n"))).unwrap_err().to_string();
    assert!(away.contains("outside of the image's root"), "{away}");
}

#[test]
fn a_deep_tree_is_removed() {
    let root = tempfile::tempdir().unwrap();
    let mut path = root.path().join("d");
    // As deep as a path may be, in two steps.
    for _ in 0..400 {
        path.push("d");
    }
    std::fs::create_dir_all(&path).unwrap();
    std::fs::write(path.join("f"), "x").unwrap();
    onto(root.path(), Tarball::new().file(".wh.d", b"")).unwrap();
    assert_eq!(names(root.path()), Vec::<String>::new());
}
