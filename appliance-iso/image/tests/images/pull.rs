//! Whole pulls.

use std::sync::Arc;

use image_store::index::Removed;
use image_store::registry::{Access, Login, check_login};
use image_store::{Digest, ImageStore, PullError, Pulled, Step, Told};
use secret::Secret;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::backend::Folders;
use crate::unpack::is_root;
use registry_server::tarball::{Tarball, gzip, noise, zstd};
use registry_server::{Served, installed};

pub(crate) async fn open(folder: &std::path::Path) -> Arc<ImageStore<Folders>> {
    Arc::new(ImageStore::open(Folders::new(folder, None)).await.unwrap())
}

pub(crate) async fn pull(store: &Arc<ImageStore<Folders>>, served: &Served, image: &str) -> Result<Pulled, PullError> {
    store.pull(Access::default(), served.reference(image), Login::Anonymous).outcome().await
}

/// The file `path` of image `id`, as a container would see it.
fn file(store: &ImageStore<Folders>, folders: &Folders, id: &Digest, path: &str) -> Option<Vec<u8>> {
    let index = store.index();
    let disk = &index.disks[&index.images[id].disk];
    std::fs::read(folders.disk(&disk.name).join(path)).ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_checked_where_it_is_for() {
    if !installed() {
        return;
    }
    let (private, public) = (Served::private(), Served::start());
    let login = |password: &str| Login::User { name: "ann".into(), password: Secret::new(password.to_owned()) };
    let check = async |address: &str, access: &Access, password: &str| {
        check_login(access, address, &login(password)).await.map_err(|e| e.to_string())
    };
    let (any, none) = (Access::default(), Access { allowed: vec!["registry.example".into()], ..Access::default() });
    assert_eq!(check(&private.address, &any, "secret1").await, Ok(None));
    let said = check(&private.address, &any, "wrong").await.unwrap_err();
    assert!(said.contains("authentication required") || said.contains("incorrect username"), "{said}");
    assert_eq!(check(&public.address, &any, "whatever").await, Ok(None), "who asks for nothing takes anybody");
    assert!(check(&private.address, &none, "secret1").await.unwrap_err().contains("whitelist mode"));
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_of_every_kind_become_few_disks_and_what_is_shared_is_shared() {
    if !installed() || !is_root() {
        return;
    }
    let served = Served::start();
    let noise = noise(17 << 20);
    let base = Tarball::new().folder("etc/").file("etc/os", b"base").file("big", &noise).bytes();
    let second = Tarball::new().file("etc/two", b"2").file("doomed", b"x").bytes();
    let third = Tarball::new().file(".wh.doomed", b"").file("etc/three", b"3").bytes();
    let empty = vec![0; 1024];
    let first_image =
        [(gzip(&base), &base[..]), (zstd(&second), &second), (gzip(&empty), &empty), (third.clone(), &third)];
    let id = served.push("app:1", &first_image).await;
    let other = Tarball::new().file("etc/other", b"o").bytes();
    let other_id = served.push("other:1", &[(gzip(&base), &base[..]), (gzip(&other), &other)]).await;

    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let mut pulling = store.pull(Access::default(), served.reference("app:1"), Login::Anonymous);
    let mut steps = Vec::new();
    while let Some(step) = pulling.step().await {
        steps.push(step);
    }
    assert_eq!(pulling.outcome().await.unwrap(), Pulled { id: id.clone(), new: true });
    assert_eq!(steps[0], Step::Begun { tag: "1".into(), repository: "app".into() });
    let count = |told: Told| steps.iter().filter(|s| matches!(s, Step::Layer { told: t, .. } if *t == told)).count();
    assert_eq!([count(Told::Wanted), count(Told::Complete)], [4, 4]);
    assert!(matches!(steps.last(), Some(Step::Digest(_))));

    let folders = Folders::new(folder.path(), None);
    assert_eq!(store.index().disks.len(), 2, "a base and the rest");
    assert_eq!(file(&store, &folders, &id, "etc/os").unwrap(), b"base");
    assert_eq!(file(&store, &folders, &id, "etc/three").unwrap(), b"3");
    assert_eq!(file(&store, &folders, &id, "big").unwrap(), noise);
    assert_eq!(file(&store, &folders, &id, "doomed"), None);

    // Again: nothing is to be done.
    assert_eq!(pull(&store, &served, "app:1").await.unwrap(), Pulled { id: id.clone(), new: false });
    // Another image on the same base: one disk more.  Two pulls at a time make it once.
    let (a, b) = tokio::join!(pull(&store, &served, "other:1"), pull(&store, &served, "other:1"));
    assert_eq!((a.unwrap().id, b.unwrap().id), (other_id.clone(), other_id.clone()));
    assert_eq!(store.index().disks.len(), 3);
    let name = format!("{}/other:1", served.address);
    assert_eq!(store.index().tags.get(&name), Some(&other_id));

    // All of it is on the datastore.
    let again = open(folder.path()).await;
    assert_eq!(again.index(), store.index());
    let removed = again.remove("other", Some(&name), false, |_| None, |_| false).await.unwrap();
    assert_eq!(removed.last(), Some(&Removed::Deleted(other_id)));
    assert_eq!(again.index().disks.len(), 2);
    assert_eq!(file(&again, &folders, &id, "etc/os").unwrap(), b"base");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_layers_are_one_disk() {
    if !installed() || !is_root() {
        return;
    }
    let served = Served::start();
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    for count in [127, 300] {
        let contents: Vec<Vec<u8>> =
            (0..count).map(|n| Tarball::new().file(&format!("f{n}"), format!("{count}").as_bytes()).bytes()).collect();
        let layers: Vec<(Vec<u8>, &[u8])> = contents.iter().map(|c| (gzip(c), &c[..])).collect();
        let image = format!("many:{count}");
        let id = served.push(&image, &layers).await;
        pull(&store, &served, &image).await.unwrap();
        let folders = Folders::new(folder.path(), None);
        assert_eq!(file(&store, &folders, &id, &format!("f{}", count - 1)).unwrap(), format!("{count}").as_bytes());
    }
    assert_eq!(store.index().disks.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_or_not_allowed_is_told_in_dockers_words() {
    if !installed() {
        return;
    }
    let served = Served::private();
    let layer = Tarball::new().file("f", b"1").bytes();
    let id = served.push("app:1", &[(gzip(&layer), &layer[..])]).await;
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let login = |password: &str| Login::User { name: "ann".into(), password: Secret::new(password.to_owned()) };
    let try_with = async |image: &str, access: Access, login: Login| {
        store.pull(access, served.reference(image), login).outcome().await.map_err(|e| e.to_string())
    };
    let address = &served.address;
    let said = try_with("app:1", Access::default(), Login::Anonymous).await.unwrap_err();
    let denied =
        format!("pull access denied for {address}/app, repository does not exist or may require 'docker login'");
    // The port is part of the repository's name.
    assert!(said.starts_with(&denied), "{said}");
    let said = try_with("app:1", Access::default(), login("wrong")).await.unwrap_err();
    assert!(said.starts_with(&denied), "{said}");
    let said = try_with("app:2", Access::default(), login("secret1")).await.unwrap_err();
    assert!(said.starts_with(&format!("manifest for {address}/app:2 not found: manifest unknown: ")), "{said}");
    let allowed = Access { allowed: vec!["registry.example".into()], ..Access::default() };
    let said = try_with("app:1", allowed, login("secret1")).await.unwrap_err();
    assert_eq!(said, format!("Access denied to unauthorized registry ({address}) while VCH is in whitelist mode"));
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let reference = image_store::name::parse(&format!("{nobody}/app")).unwrap();
    let said = store.pull(Access::default(), reference, Login::Anonymous).outcome().await.unwrap_err().to_string();
    assert!(said.starts_with(&nobody.to_string()) && said.contains("refused"), "{said}");
    if is_root() {
        assert_eq!(try_with("app:1", Access::default(), login("secret1")).await.unwrap().id, id);
    }
}

/// Passes connections on, and cuts each after so many bytes towards the client.
async fn cutting(to: String, bytes: u64) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let to = to.clone();
            tokio::spawn(async move {
                let Ok(server) = TcpStream::connect(to).await else { return };
                let (from_server, mut to_server) = server.into_split();
                let (mut from_client, mut to_client) = client.split();
                let mut some = from_server.take(bytes);
                tokio::select! {
                    _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
                    _ = tokio::io::copy(&mut some, &mut to_client) => {}
                }
                let _ = to_client.shutdown().await;
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_breaks_off_goes_on_where_it_was() {
    if !installed() || !is_root() {
        return;
    }
    let mut served = Served::start();
    let big: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_be_bytes).collect();
    let layer = Tarball::new().file("big", &big).bytes();
    // Not compressed, so that it takes many connections.
    let id = served.push("big:1", &[(layer.clone(), &layer[..])]).await;
    served.address = cutting(served.address.clone(), 1 << 20).await;
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    pull(&store, &served, "big:1").await.unwrap();
    assert_eq!(file(&store, &Folders::new(folder.path(), None), &id, "big").unwrap(), big);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_nobody_waits_for_leaves_nothing() {
    if !installed() || !is_root() {
        return;
    }
    let served = Served::start();
    let layer = Tarball::new().file("big", &vec![7; 8 << 20]).bytes();
    served.push("big:1", &[(layer.clone(), &layer[..])]).await;
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let mut pulling = store.pull(Access::default(), served.reference("big:1"), Login::Anonymous);
    while !matches!(pulling.step().await, Some(Step::Layer { told: Told::Extracting(..), .. })) {}
    pulling.cancel();
    let outcome = pulling.outcome().await;
    assert!(matches!(outcome, Err(PullError::Cancelled)), "{outcome:?}");
    assert_eq!(store.index().images.len(), 0);
    let left: Vec<_> = folder.path().read_dir().unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["index.json"]);
}

/// Pushes `first:1` and `second:1`, which have a file of their names, on a base that is worth a disk of its own; gives the content of
/// its file `base`, and their ids.
async fn two_on_a_base(served: &Served) -> (Vec<u8>, [Digest; 2]) {
    let noise = noise(17 << 20);
    let base = Tarball::new().file("base", &noise).bytes();
    let push = async |name: &str| {
        let own = Tarball::new().file(name, name.as_bytes()).bytes();
        served.push(&format!("{name}:1"), &[(gzip(&base), &base[..]), (gzip(&own), &own)]).await
    };
    let ids = [push("first").await, push("second").await];
    (noise, ids)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_whose_disk_somebody_has_removed_is_pulled_again() {
    if !installed() || !is_root() {
        return;
    }
    let served = Served::start();
    let (noise, [_, second_id]) = two_on_a_base(&served).await;
    let folder = tempfile::tempdir().unwrap();
    let folders = Folders::new(folder.path(), None);
    let store = open(folder.path()).await;
    pull(&store, &served, "first:1").await.unwrap();
    pull(&store, &served, "second:1").await.unwrap();
    let index = store.index();
    assert_eq!(index.disks.len(), 3);
    let of = |parent: bool| index.disks.values().find(|disk| disk.parent.is_some() == parent).unwrap().name.clone();
    assert!(!store.look_after(&of(true)).await.unwrap(), "all is there");

    std::fs::remove_dir_all(folders.disk(&of(false))).unwrap();
    assert_eq!(pull(&store, &served, "second:1").await.unwrap(), Pulled { id: second_id.clone(), new: true });
    assert_eq!(file(&store, &folders, &second_id, "base").as_ref(), Some(&noise));
    assert_eq!(file(&store, &folders, &second_id, "second").unwrap(), b"second");
    assert_eq!((store.index().images.len(), store.index().disks.len()), (1, 2), "the other one is gone, too");

    // What stood on the base that is gone goes at the next start.
    let next = open(folder.path()).await;
    next.collect().await.unwrap();
    let left = folder.path().read_dir().unwrap().count();
    assert_eq!(left, 3, "two disks and the index");
    assert!(pull(&next, &served, "first:1").await.unwrap().new);
}

#[tokio::test(flavor = "multi_thread")]
async fn disks_whose_index_somebody_has_removed_are_left_alone() {
    if !installed() || !is_root() {
        return;
    }
    let served = Served::start();
    let layer = Tarball::new().file("f", b"1").bytes();
    served.push("app:1", &[(gzip(&layer), &layer[..])]).await;
    let folder = tempfile::tempdir().unwrap();
    let folders = Folders::new(folder.path(), None);
    let store = open(folder.path()).await;
    pull(&store, &served, "app:1").await.unwrap();
    let disk = store.index().disks.values().next().unwrap().name.clone();
    std::fs::remove_file(folder.path().join("index.json")).unwrap();
    // Containers may stand on it, at the next start and at the one after it.
    for _ in 0..2 {
        let store = open(folder.path()).await;
        store.collect().await.unwrap();
        assert!(folders.disk(&disk).join("f").exists());
        assert_eq!(store.index().images.len(), 0);
    }
    let store = open(folder.path()).await;
    assert!(pull(&store, &served, "app:1").await.unwrap().new);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_pull_stands_on_outlives_the_image_that_it_came_with() {
    if !installed() || !is_root() {
        return;
    }
    let served = Served::start();
    let (noise, [first_id, second_id]) = two_on_a_base(&served).await;
    let folder = tempfile::tempdir().unwrap();
    let folders = Folders::new(folder.path(), None);
    let store = open(folder.path()).await;
    let remove = async |id: &Digest| store.remove(id.as_str(), None, true, |_| None, |_| false).await.unwrap();

    // The base of the second is there, and is about to lose its only image.
    pull(&store, &served, "first:1").await.unwrap();
    let mut pulling = store.pull(Access::default(), served.reference("second:1"), Login::Anonymous);
    while !matches!(pulling.step().await.unwrap(), Step::Layer { told: Told::There, .. }) {}
    remove(&first_id).await;
    assert_eq!(pulling.outcome().await.unwrap().id, second_id);
    assert_eq!(file(&store, &folders, &second_id, "base").as_ref(), Some(&noise));
    assert!(store.index().disks.values().all(|disk| folders.disk(&disk.name).exists()), "{:?}", store.index());

    remove(&second_id).await;
    assert_eq!(store.index().disks.len(), 0, "nobody needs any");

    pull(&store, &served, "first:1").await.unwrap();
    // A container is being made of it: the store hears of that before vSphere has a VM.
    let (index, held) = store.hold(|index| index.images.get(&first_id).map(|image| image.disk.clone())).await;
    let disk = index.disks[&index.images[&first_id].disk].name.clone();
    remove(&first_id).await;
    assert!(folders.disk(&disk).join("first").exists());
    drop(held);
    pull(&store, &served, "second:1").await.unwrap();
    remove(&second_id).await;
    assert_eq!(store.index().disks.len(), 0);
    assert!(!folders.disk(&disk).exists());

    // One who had found it before gives it no name any more.
    let said = store.tag(&second_id, "late:1").await.unwrap_err().to_string();
    assert!(said.contains("No such image") && store.index().tags.is_empty(), "{said}: {:?}", store.index());
}
