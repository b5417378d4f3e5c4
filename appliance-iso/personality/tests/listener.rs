//! The listener: who is let in, and what a slow or greedy client can take.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says how it fails by panicking")]

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use personality::{App, Limits, Reach, acceptor, serve_tcp};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use vch_config::{ApiTls, Document, Proxies, VchConfig};

const LONG: Duration = Duration::from_secs(20);

/// A CA with a certificate for 127.0.0.1, for either side.
struct Authority {
    ca: String,
    certificate: String,
    key: String,
}

fn authority() -> Authority {
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
    Authority { ca: ca.pem(), certificate: leaf.pem(), key: key.serialize_pem() }
}

fn config() -> VchConfig {
    let text = r#"{"schema":1,"id":"i","name":"vch","version":"0","created":"2026-01-01T00:00:00Z",
        "vsphere":{"target":"","username":"","datacenter":"","compute_resource":"","pool":"","folder":""},
        "interfaces":[],"bridge":{"range":"172.16.0.0/12","width":16},"api":{"port":0,"tls":{"mode":"none"}},
        "storage":{"image_store":""}}"#;
    VchConfig::from_text(text).unwrap()
}

async fn serve(tls: ApiTls, key: &str, limits: Limits) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = acceptor(&tls, &key.to_owned().into()).unwrap();
    tokio::spawn(serve_tcp(
        listener,
        acceptor,
        App::new(config(), Proxies::default(), "0.1.0", Reach::default()),
        limits,
    ));
    address
}

fn mutual(server: &Authority, clients: &Authority) -> ApiTls {
    ApiTls::Mutual { server_cert_pem: server.certificate.clone(), client_ca_pem: clients.ca.clone() }
}

/// One request over TLS; the status line, or why there was none.
async fn ask(
    address: SocketAddr,
    server: &Authority,
    client: Option<&Authority>,
    version: &'static SupportedProtocolVersion,
) -> io::Result<String> {
    let certificate = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate(&server.ca)).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots);
    let config = match client {
        None => builder.with_no_client_auth(),
        Some(client) => {
            let key = PrivateKeyDer::from_pem_slice(client.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![certificate(&client.certificate)], key).unwrap()
        }
    };
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("127.0.0.1").unwrap();
    ping(TlsConnector::from(Arc::new(config)).connect(name, stream).await?).await
}

async fn ping(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<String> {
    stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await?;
    let mut text = Vec::new();
    timeout(LONG, stream.read_to_end(&mut text)).await.expect("the server did not answer")?;
    let text = String::from_utf8_lossy(&text).into_owned();
    text.lines().next().map(str::to_owned).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

#[tokio::test]
async fn mutual_tls_lets_in_who_has_a_certificate_of_its_ca_and_nobody_else() {
    let (ours, theirs) = (authority(), authority());
    let address = serve(mutual(&ours, &ours), &ours.key, Limits::default()).await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        assert_eq!(ask(address, &ours, Some(&ours), version).await.unwrap(), "HTTP/1.1 200 OK");
        for client in [None, Some(&theirs)] {
            let error = ask(address, &ours, client, version).await.unwrap_err().to_string();
            assert!(error.contains("alert") || error.contains("reset"), "{version:?}: {error}");
        }
    }
}

#[tokio::test]
async fn server_only_tls_asks_for_no_certificate() {
    let ours = authority();
    let tls = ApiTls::Server { server_cert_pem: ours.certificate.clone() };
    let address = serve(tls, &ours.key, Limits::default()).await;
    assert_eq!(ask(address, &ours, None, &rustls::version::TLS13).await.unwrap(), "HTTP/1.1 200 OK");
}

#[tokio::test]
async fn a_plain_client_gets_nothing_from_a_tls_listener() {
    let ours = authority();
    let address = serve(mutual(&ours, &ours), &ours.key, Limits::default()).await;
    let answer = ping(TcpStream::connect(address).await.unwrap()).await;
    assert!(answer.as_ref().map_or(true, |line| !line.starts_with("HTTP")), "{answer:?}");
}

#[test]
fn certificates_that_cannot_work_are_told_apart_and_never_shown() {
    let (ours, theirs) = (authority(), authority());
    let text = |tls: &ApiTls, key: &str| match acceptor(tls, &key.to_owned().into()) {
        Ok(_) => panic!("it was accepted"),
        Err(error) => error.to_string(),
    };
    let tls = mutual(&ours, &ours);
    assert!(text(&tls, &theirs.key).contains("cannot be used"));
    assert!(text(&tls, "-----BEGIN rubbish").contains("the server key"));
    let tls = ApiTls::Mutual { server_cert_pem: ours.certificate.clone(), client_ca_pem: String::new() };
    let shown = text(&tls, &ours.key);
    assert!(shown.contains("the client CA") && !shown.contains("PRIVATE"), "{shown}");
}

#[tokio::test]
async fn clients_that_dawdle_are_dropped_and_others_get_their_turn() {
    let ours = authority();
    let limits = Limits {
        connections: 2,
        handshake: Duration::from_millis(200),
        head: Duration::from_millis(200),
        ..Limits::default()
    };
    // Silent before the handshake.
    let address = serve(mutual(&ours, &ours), &ours.key, limits).await;
    let silent = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
    assert_eq!(ask(address, &ours, Some(&ours), &rustls::version::TLS13).await.unwrap(), "HTTP/1.1 200 OK");
    drop(silent);
    // Half a head.
    let address = serve(ApiTls::None, "", limits).await;
    let mut slow = TcpStream::connect(address).await.unwrap();
    slow.write_all(b"GET /_ping HT").await.unwrap();
    let mut rest = Vec::new();
    timeout(LONG, slow.read_to_end(&mut rest)).await.expect("a slow client was not dropped").unwrap();
}

#[tokio::test]
async fn a_head_without_end_is_refused() {
    let address = serve(ApiTls::None, "", Limits::default()).await;
    let mut greedy = TcpStream::connect(address).await.unwrap();
    let head = format!("GET /_ping HTTP/1.1\r\nX: {}", "a".repeat(100_000));
    // The server may close before it has read all of it.
    let _ = greedy.write_all(head.as_bytes()).await;
    let mut text = Vec::new();
    let _ = timeout(LONG, greedy.read_to_end(&mut text)).await.expect("a greedy client was not refused");
    assert!(text.is_empty() || text.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&text));
}

#[tokio::test]
async fn a_silent_client_is_asked_whether_it_is_there() {
    let address = serve(ApiTls::None, "", Limits::default()).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    timeout(LONG, client.read_exact(&mut answer)).await.expect("the server did not answer").unwrap();
    let hex = |address: SocketAddr| format!("0100007F:{:04X}", address.port());
    let (server, client) = (hex(address), hex(client.local_addr().unwrap()));
    let armed = async {
        loop {
            let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
            let words = sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
            let timer = words.filter(|w| w[1] == server && w[2] == client).map(|w| w[5].to_owned()).next().unwrap();
            // The keepalive timer, and hundredths of a second until then; a moment ago there may have been another.
            if let Some(left) = timer.strip_prefix("02:") {
                return u32::from_str_radix(left, 16).unwrap();
            }
            tokio::task::yield_now().await;
        }
    };
    let left = timeout(LONG, armed).await.expect("nothing asks for the client");
    assert!(left <= 1500, "{left}");
}
