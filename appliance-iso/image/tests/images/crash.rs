//! A process that dies at any call of a pull, or hears of a failure or nothing: what is listed is whole, pulling again works, and
//! nothing is left over.

use std::sync::Arc;

use image_store::{Digest, ImageStore};

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
        let deaths = [Trouble::DiesBefore(at), Trouble::DiesAfter(at), Trouble::DiesWithin(at)];
        for trouble in deaths.into_iter().chain([Trouble::Fails(at), Trouble::Unheard(at)]) {
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

/// What is listed is there.
fn is_whole(store: &ImageStore<Folders>, what: &str) {
    for disk in store.index().disks.values() {
        assert!(store.backend().disk(&disk.name).exists(), "{what}: {:?}", store.index());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_comes_late_lists_no_disk_that_is_gone() {
    if !installed() || !is_root() {
        return;
    }
    let served = Served::start();
    for image in ["one:1", "two:1"] {
        let layer = Tarball::new().file("own", image.as_bytes()).bytes();
        served.push(image, &[(layer.clone(), &layer[..])]).await;
    }
    // Each changes the index.
    let both = async |store: &Arc<ImageStore<Folders>>| {
        for image in ["one:1", "two:1"] {
            let _ = pull(store, &served, image).await;
        }
    };
    let folder = tempfile::tempdir().unwrap();
    let untroubled = open(folder.path()).await;
    both(&untroubled).await;
    let changes = untroubled.backend().renames();
    // The first of all is the empty one's.
    assert_eq!(changes.len(), 3);
    for at in changes.into_iter().skip(1) {
        // It comes before the next process begins, while it does, or when it has cleaned up.
        for (dies, comes) in (0..3).flat_map(|comes| [(false, comes), (true, comes)]) {
            let what = format!("call {at}, dies {dies}, comes {comes}");
            let folder = tempfile::tempdir().unwrap();
            let first = Folders::new(folder.path(), Some(Trouble::Late { at, dies }));
            let first = Arc::new(ImageStore::open(first).await.unwrap());
            both(&first).await;
            let come = |now| assert!(now != comes || first.backend().come(), "{what}");
            come(0);
            let next = open(folder.path()).await;
            come(1);
            next.collect().await.unwrap();
            come(2);
            is_whole(&next, &what);
            is_whole(&*open(folder.path()).await, &what);
            pull(&next, &served, "two:1").await.unwrap();
            is_whole(&*open(folder.path()).await, &what);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_is_torn_while_it_is_looked_at_leaves_what_there_was() {
    let text = format!(r#"{{"schema":1,"tags":{{"one:1":"{}"}}}}"#, Digest::new(b""));
    for at in 0..3 {
        let folder = tempfile::tempdir().unwrap();
        for name in ["index.json", "index.json.new"] {
            std::fs::write(folder.path().join(name), &text).unwrap();
        }
        ImageStore::open(Folders::new(folder.path(), Some(Trouble::Torn(at)))).await.unwrap();
        assert_eq!(open(folder.path()).await.index().tags.len(), 1, "before call {at}");
    }
}
