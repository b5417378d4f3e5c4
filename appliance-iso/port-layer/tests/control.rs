//! The control channel between its real ends: the switchboard here, tether there, with real processes; the network is the
//! machine's own.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says how it fails by panicking")]

#[path = "support/contained.rs"]
mod contained;

use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use contained::{LIMIT, contain};
use futures_util::stream;
use port_layer::control::proto::{
    ALPN, AttachRequest, AttachStart, ENDPOINT_NAME, ExecRequest, ExecStart, ExecStateRequest, ResizeRequest,
    SignalRequest, StopRequest, TopRequest, attach_reply, attach_request, exec_reply, exec_request,
};
use port_layer::control::{Authority, Client, Guests};
use port_layer::guest::Control;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use secret::Secret;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::Code;

/// The endpoint VM's end.
struct Endpoint {
    guests: Guests,
    port: u16,
    /// Whether callers are where they say that they are.
    at_home: Arc<AtomicBool>,
}

fn key() -> Secret {
    Secret::new(rcgen::KeyPair::generate().unwrap().serialize_pem())
}

impl Endpoint {
    async fn start(key: &Secret) -> Self {
        let at_home = Arc::new(AtomicBool::new(true));
        let judge = Arc::clone(&at_home);
        let is_at = move |id: &str, from: IpAddr| {
            assert_eq!(from, IpAddr::V6(Ipv6Addr::LOCALHOST));
            id.starts_with('c') && judge.load(Ordering::Relaxed)
        };
        let guests = Guests::new("v", key, Ipv6Addr::LOCALHOST, is_at).unwrap();
        let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(guests.switchboard.clone().serve(listener));
        Self { guests, port, at_home }
    }

    fn way_for(&self, id: &str) -> Control {
        Control { port: self.port, ..self.guests.way_for(id).unwrap() }
    }

    async fn client(&self, id: &str) -> Client {
        timeout(LIMIT, self.guests.switchboard.line(id)).await.expect("a line").client()
    }
}

fn attach_start(after_ns: u64, stdin: bool) -> AttachRequest {
    let start = AttachStart { from_now: false, after_ns, stdin, session: String::new() };
    AttachRequest { what: Some(attach_request::What::Start(start)) }
}

fn input(bytes: &[u8]) -> AttachRequest {
    AttachRequest { what: Some(attach_request::What::Stdin(bytes.to_vec())) }
}

/// Everything that comes, and how it ended.
async fn output(client: &mut Client, requests: Vec<AttachRequest>) -> (Vec<u8>, Option<Code>) {
    let mut replies = client.attach(stream::iter(requests)).await.unwrap().into_inner();
    let mut bytes = Vec::new();
    let read = async {
        loop {
            match replies.message().await {
                Ok(Some(reply)) => {
                    if let Some(attach_reply::What::Output(output)) = reply.what {
                        bytes.extend(output.bytes);
                    }
                }
                Ok(None) => return None,
                Err(status) => return Some(status.code()),
            }
        }
    };
    let end = timeout(LIMIT, read).await.expect("the stream ends");
    (bytes, end)
}

/// What a further process said, and its exit code.
async fn exec(client: &mut Client, start: ExecStart, input: &[u8]) -> Result<(String, i32), String> {
    let mut requests = vec![ExecRequest { what: Some(exec_request::What::Start(start)) }];
    for piece in input.chunks(7000) {
        requests.push(ExecRequest { what: Some(exec_request::What::Stdin(piece.to_vec())) });
    }
    let mut replies = client.exec(stream::iter(requests)).await.map_err(|s| s.to_string())?.into_inner();
    let mut bytes = Vec::new();
    loop {
        let reply = timeout(LIMIT, replies.message()).await.expect("a reply").map_err(|s| s.to_string())?;
        match reply.and_then(|r| r.what).expect("it is told how it ends") {
            exec_reply::What::Started(started) => assert!(started.pid > 1),
            exec_reply::What::Output(output) => bytes.extend(output.bytes),
            exec_reply::What::Exited(exited) => return Ok((String::from_utf8_lossy(&bytes).into_owned(), exited.code)),
            exec_reply::What::Failed(failed) => return Err(format!("{}: {}", failed.code, failed.error)),
        }
    }
}

fn start(id: &str, script: &str) -> ExecStart {
    ExecStart { id: id.into(), args: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(), ..ExecStart::default() }
}

#[tokio::test]
async fn input_and_output_pass_byte_for_byte() {
    let endpoint = Endpoint::start(&key()).await;
    let cat = contain("c1", endpoint.way_for("c1"), "cat; exit 4", |p| (p.stdin, p.stdin_once) = (true, true));
    let mut client = endpoint.client("c1").await;
    let bytes: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let mut requests = vec![attach_start(0, true)];
    requests.extend(bytes.chunks(12_345).map(input));
    let (seen, end) = output(&mut client, requests).await;
    assert!(seen == bytes, "{} of {} bytes", seen.len(), bytes.len());
    assert_eq!((end, cat.exit_code().await), (None, 4), "the end of the input is the process's");
}

#[tokio::test]
async fn input_of_a_process_that_keeps_it_outlives_its_client() {
    let endpoint = Endpoint::start(&key()).await;
    let script = "read a; echo got $a; read b; echo got $b; exit 0";
    let shell = contain("c1", endpoint.way_for("c1"), script, |p| p.stdin = true);
    let mut client = endpoint.client("c1").await;
    let mut replies = client.attach(stream::iter([attach_start(0, true), input(b"one\n")])).await.unwrap().into_inner();
    loop {
        let reply = timeout(LIMIT, replies.message()).await.expect("a reply").unwrap().unwrap();
        if matches!(reply.what, Some(attach_reply::What::Output(o)) if o.bytes == b"got one\n") {
            break;
        }
    }
    drop(replies);
    let (seen, _) = output(&mut client, vec![attach_start(0, true), input(b"two\n")]).await;
    assert_eq!(String::from_utf8(seen).unwrap(), "got one\ngot two\n");
    assert_eq!(shell.exit_code().await, 0);
}

#[tokio::test]
async fn further_processes_run_beside_the_containers_own() {
    let endpoint = Endpoint::start(&key()).await;
    let waiting = contain("c1", endpoint.way_for("c1"), "trap 'exit 9' USR1; while :; do sleep 0.05; done", |_| {});
    let mut client = endpoint.client("c1").await;
    // Not before its own process runs.
    let first = async {
        while exec(&mut client, start("first", "true"), b"").await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(LIMIT, first).await.expect("a further process");
    assert_eq!(exec(&mut client, start("e1", "echo out; echo err >&2; exit 3"), b"").await.unwrap().1, 3);
    let echo = ExecStart { stdin: true, ..start("e2", "wc -c") };
    assert_eq!(exec(&mut client, echo, &[7; 50_000]).await.unwrap().0.trim(), "50000");
    let tty = ExecStart { tty: true, width: 77, height: 11, ..start("e3", "stty size; tty") };
    assert!(exec(&mut client, tty, b"").await.unwrap().0.starts_with("11 77\r\n/dev/pts/"));
    let none = ExecStart { args: vec!["/no/such".into()], ..start("e4", "") };
    assert!(exec(&mut client, none, b"").await.unwrap_err().starts_with("127: "));
    // What it leaves behind does not keep its client.
    assert_eq!(exec(&mut client, start("e5", "sleep 600 & echo done"), b"").await.unwrap(), ("done\n".to_owned(), 0));
    let state = client.exec_state(ExecStateRequest { id: "e1".into() }).await.unwrap().into_inner();
    assert_eq!(state.code, Some(3));
    assert_eq!(client.exec_state(ExecStateRequest { id: "nobody".into() }).await.unwrap_err().code(), Code::NotFound);
    // Many at once.
    let many = (0..100).map(|n| {
        let mut client = client.clone();
        async move { exec(&mut client, start(&format!("m{n}"), &format!("echo {n}")), b"").await.unwrap() }
    });
    let many = futures_util::future::join_all(many).await;
    assert!(many.iter().enumerate().all(|(n, said)| *said == (format!("{n}\n"), 0)), "{many:?}");

    let top = client.top(TopRequest {}).await.unwrap().into_inner();
    assert!(top.processes.iter().any(|p| p.args.iter().any(|a| a.contains("trap 'exit 9' USR1"))));
    assert_eq!(
        client.resize(ResizeRequest { exec_id: String::new(), width: 1, height: 1 }).await.unwrap_err().code(),
        Code::FailedPrecondition
    );
    let wrong = client.signal(SignalRequest { signal: "SIGNONE".into() }).await.unwrap_err();
    assert_eq!((wrong.code(), wrong.message()), (Code::InvalidArgument, "Invalid signal: SIGNONE"));
    client.signal(SignalRequest { signal: "SIGUSR1".into() }).await.unwrap();
    assert_eq!(waiting.exit_code().await, 9);
}

#[tokio::test]
async fn who_is_asked_to_stop_has_the_time_that_is_said() {
    let endpoint = Endpoint::start(&key()).await;
    let deaf = contain("c1", endpoint.way_for("c1"), "trap '' TERM INT; echo up; while :; do sleep 0.05; done", |p| {
        p.stop_seconds = Some(600);
    });
    let mut client = endpoint.client("c1").await;
    let mut replies = client.attach(stream::iter([attach_start(0, false)])).await.unwrap().into_inner();
    loop {
        let reply = timeout(LIMIT, replies.message()).await.expect("a reply").unwrap().unwrap();
        if matches!(reply.what, Some(attach_reply::What::Output(_))) {
            break;
        }
    }
    client.stop(StopRequest { signal: "INT".into(), seconds: Some(0) }).await.unwrap();
    assert_eq!(deaf.exit_code().await, 137);
}

#[tokio::test]
async fn input_that_goes_on_by_another_call_is_taken_once() {
    let endpoint = Endpoint::start(&key()).await;
    let cat = contain("c1", endpoint.way_for("c1"), "cat", |p| (p.stdin, p.stdin_once) = (true, true));
    let mut client = endpoint.client("c1").await;
    // Less than is held of the output.
    let bytes: Vec<u8> = (0..50_000_u32).flat_map(u32::to_le_bytes).collect();
    let (mut seen, mut after, mut calls) = (Vec::new(), 0, 0);
    loop {
        calls += 1;
        let (sender, receiver) = mpsc::channel(64);
        let start = AttachStart { from_now: false, after_ns: after, stdin: true, session: "s".into() };
        sender.send(AttachRequest { what: Some(attach_request::What::Start(start)) }).await.unwrap();
        let requests = stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)));
        let mut replies = client.attach(requests).await.unwrap().into_inner();
        let first = timeout(LIMIT, replies.message()).await.expect("a reply").unwrap().unwrap();
        let Some(attach_reply::What::Attached(attached)) = first.what else { panic!("{first:?}") };
        let begin = usize::try_from(attached.stdin_taken.expect("sessions are known")).unwrap();
        for piece in bytes[begin..].chunks(7000).take(5) {
            sender.send(input(piece)).await.unwrap();
        }
        if begin == bytes.len() {
            drop(sender);
        }
        // A call ends in the midst of what it was given.
        let mut taken = begin;
        while taken == begin || begin == bytes.len() {
            let Some(reply) = timeout(LIMIT, replies.message()).await.expect("a reply").unwrap() else { break };
            match reply.what {
                Some(attach_reply::What::Output(output)) => {
                    after = output.time_ns;
                    seen.extend(output.bytes);
                }
                Some(attach_reply::What::StdinTaken(more)) => taken = usize::try_from(more).unwrap(),
                _ => {}
            }
        }
        if begin == bytes.len() {
            break;
        }
    }
    assert!(seen == bytes, "{} of {} bytes", seen.len(), bytes.len());
    assert!(calls > 5, "{calls}");
    assert_eq!(cat.exit_code().await, 0);
}

#[tokio::test]
async fn a_line_that_is_cut_loses_nothing() {
    let endpoint = Endpoint::start(&key()).await;
    let counting = contain("c1", endpoint.way_for("c1"), "read go; seq 1 2000; read go; exit 0", |p| p.stdin = true);
    let (mut seen, mut after, mut cuts) = (Vec::new(), 0, 0);
    loop {
        let mut client = endpoint.client("c1").await;
        // The first client starts it; the last one ends it.
        let done = seen.ends_with(b"\n2000\n");
        let mut requests = vec![attach_start(after, true)];
        if done || cuts == 0 {
            requests.push(input(b"go\n"));
        }
        let Ok(replies) = client.attach(stream::iter(requests)).await else { continue };
        let mut replies = replies.into_inner();
        let mut ended = false;
        loop {
            let reply = timeout(LIMIT, replies.message()).await.expect("a reply");
            match reply.map(|r| r.map(|r| r.what)) {
                Ok(Some(Some(attach_reply::What::Output(output)))) => {
                    assert!(output.time_ns > after, "nothing comes twice");
                    after = output.time_ns;
                    seen.extend(output.bytes);
                    if cuts < 3 || seen.ends_with(b"\n2000\n") {
                        cuts += 1;
                        endpoint.guests.switchboard.hang_up("c1");
                        break;
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => {
                    ended = true;
                    break;
                }
                Err(_) => break,
            }
        }
        if ended {
            break;
        }
    }
    let expected: String = (1..=2000).map(|n| format!("{n}\n")).collect();
    assert_eq!(String::from_utf8(seen).unwrap(), expected);
    assert!(cuts >= 1);
    assert_eq!(counting.exit_code().await, 0);
}

/// A connection of whoever has this certificate, up to TLS.
async fn call(control: &Control) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(control.ca_pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![CertificateDer::from_pem_slice(control.cert_pem.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(control.key_pem.reveal().as_bytes()).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![ALPN.to_vec()];
    let stream = TcpStream::connect((control.address, control.port)).await?;
    let name = ServerName::try_from(ENDPOINT_NAME).unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// Waits until the other side hangs up.
async fn is_refused(control: &Control) -> bool {
    let Ok(mut stream) = call(control).await else { return true };
    let mut bytes = Vec::new();
    // HTTP/2's own greeting may come before.
    let read = timeout(LIMIT, stream.read_to_end(&mut bytes)).await.expect("it is hung up on");
    read.is_err() || !bytes.windows(5).any(|w| w == b"Hello")
}

#[tokio::test]
async fn who_is_not_the_container_gets_nothing_of_it() {
    let endpoint = Endpoint::start(&key()).await;
    let switchboard = &endpoint.guests.switchboard;
    // Of another VCH's authority.
    let other = Endpoint::start(&key()).await;
    let foreign = other.way_for("c1");
    let foreign = Control { port: endpoint.port, ca_pem: endpoint.way_for("c1").ca_pem, ..foreign };
    assert!(is_refused(&foreign).await);
    // Of a container that is not there any more.
    assert!(is_refused(&endpoint.way_for("gone")).await);
    // Stolen, and used somewhere else.
    endpoint.at_home.store(false, Ordering::Relaxed);
    assert!(is_refused(&endpoint.way_for("c1")).await);
    endpoint.at_home.store(true, Ordering::Relaxed);
    // Its own, with a guest that says that it is another container.
    let liar = contain("c2", endpoint.way_for("c1"), "while :; do sleep 0.05; done", |_| {});
    assert!(is_refused(&Control { port: endpoint.port, ..foreign }).await);
    assert!(switchboard.line_now("c1").is_none() && switchboard.line_now("c2").is_none());
    liar.run.abort();

    // A duplicate, from its own place, while the first one lives; and callers that never say anything.
    let silent: Vec<_> =
        futures_util::future::join_all((0..20).map(|_| TcpStream::connect((Ipv6Addr::LOCALHOST, endpoint.port)))).await;
    let real = contain("c1", endpoint.way_for("c1"), "read a; echo $a", |p| p.stdin = true);
    let mut client = endpoint.client("c1").await;
    assert!(is_refused(&endpoint.way_for("c1")).await);
    let (seen, end) = output(&mut client, vec![attach_start(0, true), input(b"still here\n")]).await;
    assert_eq!((seen.as_slice(), end), (&b"still here\n"[..], None));
    assert_eq!(real.exit_code().await, 0);
    drop(silent);
}

#[tokio::test]
async fn a_container_does_not_take_another_one_for_the_endpoint() {
    let endpoint = Endpoint::start(&key()).await;
    // A container that listens with its own certificate where the other one calls.
    let thief = endpoint.way_for("c2");
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(thief.cert_pem.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(thief.key_pem.reveal().as_bytes()).unwrap(),
        )
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let victim = contain("c1", Control { port, ..endpoint.way_for("c1") }, "while :; do sleep 0.05; done", |_| {});
    for _ in 0..3 {
        let (stream, _) = timeout(LIMIT, listener.accept()).await.expect("it calls").unwrap();
        let error = acceptor.accept(stream).await.map(drop).unwrap_err().to_string();
        assert!(error.contains("alert"), "{error}");
    }
    victim.run.abort();
}

#[tokio::test]
async fn an_endpoint_that_was_started_again_has_its_containers_back() {
    let key = key();
    let (first, second) = (Endpoint::start(&key).await, Endpoint::start(&key).await);
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    // The container calls one address, where one endpoint is after the other.
    let now = Arc::new(Mutex::new(first.port));
    let behind = Arc::clone(&now);
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let port = *behind.lock().unwrap();
            tokio::spawn(async move {
                let Ok(mut far) = TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await else { return };
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    let control = Control { port, ..first.way_for("c1") };
    let container = contain("c1", control, "read a; echo $a", |p| p.stdin = true);
    first.client("c1").await;
    *now.lock().unwrap() = second.port;
    first.guests.switchboard.hang_up("c1");
    let mut client = second.client("c1").await;
    let (seen, _) = output(&mut client, vec![attach_start(0, true), input(b"again\n")]).await;
    assert_eq!(seen, b"again\n");
    assert_eq!(container.exit_code().await, 0);
}

#[test]
fn a_key_that_is_none_is_said() {
    let text = |pem: &str| Authority::open("v", &Secret::new(pem)).map(drop).unwrap_err().to_string();
    assert!(text("").contains("created by an older version"));
    assert!(text("x").contains("cannot be made"));
}
