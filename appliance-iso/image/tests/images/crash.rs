//! A process that dies at any call of a pull: what is listed is whole, pulling again works, and nothing is left over.

use std::sync::Arc;

use image_store::ImageStore;
use image_store::registry::{Access, Login};

use crate::backend::{Death, Folders};
use crate::pull::{open, pull};
use crate::unpack::is_root;
use registry_server::tarball::{Tarball, gzip};
use registry_server::{Served, installed};

#[tokio::test(flavor = "multi_thread")]
async fn a_death_at_any_call_costs_nothing() {
    if !installed() || !is_root() {
        return;
    }
    let served = Served::start();
    // Sent as it is: large enough for a disk of its own.
    let base: Vec<u8> = (0..4_500_000_u32).flat_map(u32::to_be_bytes).collect();
    let base = Tarball::new().file("base", &base).bytes();
    let top = Tarball::new().file("top", b"1").bytes();
    let id = served.push("app:1", &[(base.clone(), &base[..]), (gzip(&top), &top)]).await;
    let mut at = 0;
    loop {
        let mut died = false;
        for death in [Death::Before(at), Death::After(at)] {
            let folder = tempfile::tempdir().unwrap();
            let outcome = match ImageStore::open(Folders::new(folder.path(), Some(death))).await {
                Ok(store) => {
                    let store = Arc::new(store);
                    let pulling = store.pull(Access::default(), served.reference("app:1"), Login::Anonymous);
                    pulling.outcome().await.map(drop).map_err(|e| e.to_string())
                }
                Err(e) => Err(e.to_string()),
            };
            died |= outcome.is_err();
            let folders = Folders::new(folder.path(), None);
            let store = open(folder.path()).await;
            let index = store.index();
            for image in index.images.values() {
                assert!(folders.disk(&index.disks[&image.disk].name).join("top").exists(), "{death:?}");
            }
            for disk in index.disks.values() {
                assert!(folders.disk(&disk.name).join("base").exists(), "{death:?}");
            }
            store.collect().await.unwrap();
            assert_eq!(pull(&store, &served, "app:1").await.unwrap().id, id, "{death:?}");
            let disks = folder.path().read_dir().unwrap().filter(|e| e.as_ref().unwrap().path().is_dir()).count();
            assert_eq!(disks, 2, "{death:?}: {:?}", store.index());
        }
        if !died {
            break;
        }
        at += 1;
    }
    assert!(at >= 8, "only {at} calls were met");
}
