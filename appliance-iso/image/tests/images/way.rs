//! The way to a registry: by proxies, and by certificates that only the admin vouches for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use image_store::registry::{Access, Login};
use registry_server::tarball::{Tarball, gzip};
use registry_server::{Served, Setup, installed};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::pull::open;
use crate::unpack::is_root;

/// No resolver knows it: only a proxy leads there.
const NAME: &str = "registry.test:5000";

/// A proxy that takes everybody to one registry, by CONNECT or by requests with whole URLs; counts its connections.
async fn proxy(to: String) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            let to = to.clone();
            // A connection that ends early is its client's affair.
            tokio::spawn(async move { pass(client, &to).await });
        }
    });
    (address, count)
}

async fn pass(client: TcpStream, to: &str) -> std::io::Result<()> {
    let mut client = BufReader::new(client);
    let mut server = TcpStream::connect(to).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if client.read_until(b'\n', &mut head).await? == 0 {
            return Ok(());
        }
    }
    if head.starts_with(b"CONNECT ") {
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
    } else {
        // One request a connection, so that the next one is looked at too.
        let text = String::from_utf8_lossy(&head).replacen(&format!("http://{NAME}"), "", 1);
        let text = text.replacen("\r\n", "\r\nConnection: close\r\n", 1);
        server.write_all(text.as_bytes()).await?;
    }
    tokio::io::copy_bidirectional(&mut client, &mut server).await.map(drop)
}

struct Stage {
    folder: tempfile::TempDir,
    images: Served,
}

impl Stage {
    async fn new() -> Self {
        let images = Served::start();
        let layer = Tarball::new().file("f", b"1").bytes();
        images.push("app:1", &[(gzip(&layer), &layer[..])]).await;
        Self { folder: tempfile::tempdir().unwrap(), images }
    }

    async fn pull(&self, registry: &str, access: Access) -> Result<(), String> {
        let store = open(self.folder.path()).await;
        let reference = image_store::name::parse(&format!("{registry}/app:1")).unwrap();
        store.pull(access, reference, Login::Anonymous).outcome().await.map(drop).map_err(|e| e.to_string())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_with_a_private_ca_is_trusted_by_that_ca_or_not_at_all() {
    if !installed() || !is_root() {
        return;
    }
    let stage = Stage::new().await;
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new(vec![]).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_pem = ca.clone().self_signed(&ca_key).unwrap().pem();
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["registry.test".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &rcgen::Issuer::new(ca, &ca_key)).unwrap();
    let tls = (stage.folder.path().join("tls.crt"), stage.folder.path().join("tls.key"));
    std::fs::write(&tls.0, leaf.pem()).unwrap();
    std::fs::write(&tls.1, key.serialize_pem()).unwrap();
    let (_serving, address) = stage.images.also_as(&Setup { tls: Some(tls), ..Setup::default() });
    let (proxy, passed) = proxy(address).await;
    let access = Access { https_proxy: Some(proxy.into()), ..Access::default() };

    let said = stage.pull(NAME, access.clone()).await.unwrap_err();
    assert!(said.contains("UnknownIssuer"), "{said}");
    let other = rcgen::generate_simple_self_signed(vec![]).unwrap().cert.pem();
    let said = stage.pull(NAME, Access { roots_pem: other, ..access.clone() }).await.unwrap_err();
    assert!(said.contains("certificate"), "{said}");
    stage.pull(NAME, Access { roots_pem: ca_pem.clone(), ..access.clone() }).await.unwrap();
    let said = stage.pull("other.test:5000", Access { roots_pem: ca_pem, ..access.clone() }).await.unwrap_err();
    assert!(said.contains("not valid for name"), "{said}");
    stage.pull(NAME, Access { insecure: vec![NAME.into()], ..access.clone() }).await.unwrap();
    let before = passed.load(Ordering::Relaxed);
    assert!(before > 0);
    // A host that is reached without the proxy is not reached at all here.
    let said = stage.pull(NAME, Access { no_proxy: Some("registry.test".into()), ..access }).await.unwrap_err();
    assert!(said.starts_with(NAME), "{said}");
    assert_eq!(passed.load(Ordering::Relaxed), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_insecure_registry_is_reached_through_a_proxy_for_http() {
    if !installed() || !is_root() {
        return;
    }
    let stage = Stage::new().await;
    let (proxy, passed) = proxy(stage.images.address.clone()).await;
    let access = Access { http_proxy: Some(proxy.into()), ..Access::default() };
    let said = stage.pull(NAME, access.clone()).await.unwrap_err();
    assert!(said.starts_with(NAME), "{said}");
    assert_eq!(passed.load(Ordering::Relaxed), 0, "plain HTTP is spoken with insecure registries only");
    stage.pull(NAME, Access { insecure: vec!["*.test".into()], ..access }).await.unwrap();
    assert!(passed.load(Ordering::Relaxed) > 0);
}
