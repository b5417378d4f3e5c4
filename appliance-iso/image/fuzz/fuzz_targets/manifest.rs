//! A manifest and a configuration of any bytes, and a reference: they are read or refused.
#![no_main]

use image_store::registry::image_of;
use image_store::{index::Index, name};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let (manifest, rest) = text.split_once('\0').unwrap_or((&text, ""));
    let _ = image_of(manifest.as_bytes(), rest);
    let _ = serde_json::from_str::<Index>(manifest);
    if let Ok(reference) = name::parse(rest) {
        assert!(name::parse(&reference.whole()).is_ok(), "{reference} is a name, and its whole is none");
    }
});
