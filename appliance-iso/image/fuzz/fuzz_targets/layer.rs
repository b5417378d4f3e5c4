//! A layer of any bytes: it is unpacked or refused, and nothing beside the root is touched.
#![no_main]

use image_store::unpack::unpack;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().join("root");
    std::fs::create_dir(&root).expect("a root");
    std::fs::write(folder.path().join("beside"), "kept").expect("a file beside it");
    let _ = unpack(bytes, &root);
    let mut names: Vec<_> = folder.path().read_dir().expect("the folder").map(|e| e.expect("an entry").file_name()).collect();
    names.sort();
    assert_eq!(names, ["beside", "root"], "the layer has written beside the root");
    assert_eq!(std::fs::read(folder.path().join("beside")).expect("the file"), b"kept");
});
