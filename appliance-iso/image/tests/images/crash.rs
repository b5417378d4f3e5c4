//! A process that dies at any call of a pull, or hears of a failure or nothing: what is listed is whole, pulling again works, and
//! nothing is left over.

use std::sync::Arc;

use image_store::ImageStore;

use crate::backend::{Folders, Trouble};
use crate::pull::{open, pull};
use crate::unpack::is_root;
use registry_server::tarball::{Tarball, gzip};
use registry_server::{Served, installed};

#[tokio::test(flavor = "multi_thread")]
async fn trouble_at_any_call_costs_nothing() {
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
        let mut met = false;
        for trouble in [Trouble::DiesBefore(at), Trouble::DiesAfter(at), Trouble::Fails(at), Trouble::Unheard(at)] {
            let folder = tempfile::tempdir().unwrap();
            let outcome = match ImageStore::open(Folders::new(folder.path(), Some(trouble))).await {
                Ok(store) => {
                    let store = Arc::new(store);
                    let outcome = pull(&store, &served, "app:1").await;
                    if matches!(trouble, Trouble::Fails(_) | Trouble::Unheard(_)) {
                        assert_eq!(pull(&store, &served, "app:1").await.unwrap().id, id, "{trouble:?}");
                    }
                    outcome.map(drop).map_err(|e| e.to_string())
                }
                Err(e) => Err(e.to_string()),
            };
            met |= outcome.is_err();
            let folders = Folders::new(folder.path(), None);
            let store = open(folder.path()).await;
            let index = store.index();
            for image in index.images.values() {
                assert!(folders.disk(&index.disks[&image.disk].name).join("top").exists(), "{trouble:?}");
            }
            for disk in index.disks.values() {
                assert!(folders.disk(&disk.name).join("base").exists(), "{trouble:?}");
            }
            store.collect().await.unwrap();
            assert_eq!(pull(&store, &served, "app:1").await.unwrap().id, id, "{trouble:?}");
            let disks = folder.path().read_dir().unwrap().filter(|e| e.as_ref().unwrap().path().is_dir()).count();
            assert_eq!(disks, 2, "{trouble:?}: {:?}", store.index());
        }
        if !met {
            break;
        }
        at += 1;
    }
    assert!(at >= 8, "only {at} calls were met");
}
