//! `docker login` at a registry whose token server gives identity tokens.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::{client::docker, installed, ours::Ours};

/// Plays a registry and its token server, as far as a login asks them; ends with the test's process.
fn registry() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let own = address.clone();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            // A connection that ends early is its client's affair.
            let _ = answer(&stream, &own);
        }
    });
    address
}

fn answer(mut stream: &TcpStream, address: &str) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    // TLS begins with a byte that no request begins with; it is tried first.
    if !reader.fill_buf()?.starts_with(b"GET ") {
        return Ok(());
    }
    let head: Vec<String> = reader.lines().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let ann = STANDARD.encode("ann:secret1");
    let (status, body) = if head[0].starts_with("GET /v2/ ") {
        (
            format!("401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"http://{address}/token\",service=\"s\""),
            json!({}),
        )
    } else if head.iter().any(|line| line.ends_with(&ann)) && head[0].contains("offline_token=true") {
        ("200 OK".to_owned(), json!({"token": "access", "refresh_token": "identity-of-ann"}))
    } else {
        ("401 Unauthorized".to_owned(), json!({}))
    };
    let body = body.to_string();
    write!(stream, "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[test]
fn a_client_keeps_an_identity_token_in_the_place_of_the_password() {
    if !installed("docker") {
        return;
    }
    let (ours, address) = (Ours::serve(), registry());
    let home = tempfile::tempdir().unwrap();
    let (succeeded, text) = docker(&ours, home.path(), &format!("login -u ann -p wrong {address}"));
    assert!(!succeeded && text.contains("incorrect username or password"), "{text}");
    let (succeeded, text) = docker(&ours, home.path(), &format!("login -u ann -p secret1 {address}"));
    assert!(succeeded && text.contains("Login Succeeded"), "{text}");
    let kept: Value = serde_json::from_slice(&std::fs::read(home.path().join(".docker/config.json")).unwrap()).unwrap();
    let kept = &kept["auths"][&address];
    assert_eq!(kept["identitytoken"], "identity-of-ann", "{kept}");
    assert_eq!(kept["auth"], STANDARD.encode("ann:"), "the password is not kept");
    let (_, text) = docker(&ours, home.path(), &format!("pull {address}/app:1"));
    assert!(text.contains("this VCH has no image store"), "it is understood: {text}");
}
