//! Images that are none: each is told what is wrong with it, and leaves nothing.

use image_store::Digest;
use oci_client::manifest::IMAGE_DOCKER_CONFIG_MEDIA_TYPE;
use serde_json::json;

use crate::pull::{open, pull};
use crate::unpack::is_root;
use registry_server::tarball::{Tarball, gzip};
use registry_server::{Served, installed};

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_nonsense_is_told_and_leaves_nothing() {
    if !installed() || !is_root() {
        return;
    }
    let served = Served::start();
    let good = Tarball::new().file("f", &[9; 5000]).bytes();
    let config = |arch: &str, ids: &[Digest]| {
        json!({"architecture": arch, "os": "linux", "rootfs": {"type": "layers", "diff_ids": ids}}).to_string()
    };
    let docker = IMAGE_DOCKER_CONFIG_MEDIA_TYPE;
    let id = Digest::new(&good);
    let sent = vec![gzip(&good)];
    let raw = async |image: &str, layers: &[Vec<u8>], config: String, kind: &str| {
        served.push_raw(image, layers.to_vec(), config, kind).await;
    };
    raw("diff:1", &sent, config("amd64", &[Digest::new(b"other")]), docker).await;
    raw("arm:1", &sent, config("arm64", std::slice::from_ref(&id)), docker).await;
    raw("count:1", &sent, config("amd64", &[]), docker).await;
    raw("text:1", &sent, "no json".into(), docker).await;
    raw("kind:1", &sent, config("amd64", std::slice::from_ref(&id)), "application/vnd.example.chart+json").await;
    raw("cut:1", &[gzip(&good)[..40].to_vec()], config("amd64", std::slice::from_ref(&id)), docker).await;
    let path = Tarball::new().file("../../evil", b"x").bytes();
    raw("path:1", &[gzip(&path)], config("amd64", &[Digest::new(&path)]), docker).await;
    // Bytes that changed after they were pushed.
    let other = Tarball::new().file("g", &[8; 6000]).bytes();
    raw("blob:1", &[gzip(&other)], config("amd64", &[Digest::new(&other)]), docker).await;
    let blob = served.blob(&Digest::new(&gzip(&other)));
    let mut bytes = std::fs::read(&blob).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&blob, bytes).unwrap();

    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    for (image, words) in [
        ("diff:1", "its content has the digest"),
        ("arm:1", "it is for linux/arm64, and containers here are linux/amd64"),
        ("count:1", "its manifest has 1 layers and its configuration 0"),
        ("text:1", "its configuration cannot be read"),
        ("kind:1", "it is no container image: its configuration is application/vnd.example.chart+json"),
        ("cut:1", "it cannot be read"),
        ("path:1", "it lies outside of the image's root"),
        ("blob:1", "failed to register layer sha256:"),
        ("none:1", "manifest unknown"),
    ] {
        let said = pull(&store, &served, image).await.unwrap_err().to_string();
        assert!(said.contains(words), "{image}: {said}");
        assert_eq!(store.index().images.len(), 0, "{image}");
        let left: Vec<_> = folder.path().read_dir().unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(left.iter().all(|n| n == "index.json"), "{image}: {left:?}");
    }
}
