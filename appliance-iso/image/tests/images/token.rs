//! A registry that sends its clients to a token server (distribution, "Token Authentication Specification").

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use image_store::registry::{Access, Login, check_login};
use registry_server::tarball::{Tarball, gzip};
use registry_server::{Served, Setup, installed};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use secret::Secret;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::pull::open;
use crate::unpack::is_root;

/// What a login gives `ann` to show in the place of her password.
const IDENTITY: &str = "identity-of-ann";
const ISSUER: &str = "token server of the test";

/// Signs what a user may do.
struct Signer {
    key: EcdsaKeyPair,
    certificate: rcgen::Certificate,
}

impl Signer {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec![]).unwrap().self_signed(&key).unwrap();
        let (algorithm, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        Self { key: EcdsaKeyPair::from_pkcs8(algorithm, &key.serialize_der(), &random).unwrap(), certificate }
    }

    /// A token for one repository of a registry.
    fn token(&self, user: &str, service: &str, repository: &str) -> String {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let head = json!({"typ": "JWT", "alg": "ES256", "x5c": [STANDARD.encode(self.certificate.der())]});
        let claims = json!({
            "iss": ISSUER, "sub": user, "aud": service, "exp": now + 300, "nbf": now - 10, "iat": now, "jti": "1",
            "access": [{"type": "repository", "name": repository, "actions": ["pull"]}],
        });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&head), part(&claims));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// The lines of a request's head.
async fn head_of(from: &mut (impl AsyncRead + Unpin)) -> Vec<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n")
        && let Ok(byte) = from.read_u8().await
    {
        head.push(byte);
    }
    String::from_utf8_lossy(&head).lines().map(str::to_owned).collect()
}

/// A token server: everybody may pull `open`; `ann` may pull `closed`, by her password or by her identity token.  What is
/// wrong gets nothing.  Counts the access tokens that it gave for the identity token.
async fn token_server(signer: Signer) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut stream = BufReader::new(stream);
            let head = head_of(&mut stream).await;
            let header = |name: &str| {
                let mut lines = head.iter().filter_map(|line| line.split_once(": "));
                lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
            };
            let length: usize = header("content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
            let mut form = vec![0; length];
            // A form that is cut short is none.
            let _ = stream.read_exact(&mut form).await;
            // The words of a query end at a blank, those of a form with it.
            let line = head.first().cloned().unwrap_or_default();
            let asked = format!("{} {}", line.replace('?', " "), String::from_utf8_lossy(&form));
            let words: Vec<&str> = asked.split([' ', '&']).collect();
            let is = |word: &str| words.contains(&word);
            let service = words.iter().find_map(|word| word.strip_prefix("service=")).unwrap_or_default();
            let repository = if asked.contains("closed") { "closed" } else { "open" };
            let ann = header("authorization").map(|value| value.ends_with(&STANDARD.encode("ann:secret1")));
            let answer = if line.starts_with("POST") {
                let good = is("grant_type=refresh_token") && is(&format!("refresh_token={IDENTITY}"));
                counted.fetch_add(usize::from(good), Ordering::Relaxed);
                match good && is("client_id=docker") {
                    true => Ok(json!({"access_token": signer.token("ann", service, repository), "expires_in": 300})),
                    false => Err(("400 Bad Request", json!({"error": "invalid_grant"}))),
                }
            } else {
                let token = match ann {
                    None if repository == "closed" => signer.token("", service, "nothing"),
                    _ => signer.token("ann", service, repository),
                };
                let mut given = json!({"token": token, "access_token": token, "expires_in": 300});
                if ann == Some(true) && is("offline_token=true") {
                    given["refresh_token"] = json!(IDENTITY);
                }
                match ann {
                    Some(false) => Err(("401 Unauthorized", json!({"details": "incorrect username or password"}))),
                    _ => Ok(given),
                }
            };
            let (status, body) = match answer {
                Ok(body) => ("200 OK", body.to_string()),
                Err((status, body)) => (status, body.to_string()),
            };
            let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\n");
            let answer = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
            // A client that has gone got what it wanted.
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (address, count)
}

/// A registry that takes a token server's word.
fn with_tokens(service: &str, realm: &str, bundle: &Path) -> Setup {
    let auth = json!({"token": {"realm": realm, "service": service, "issuer": ISSUER, "rootcertbundle": bundle}});
    Setup { auth: Some(auth), ..Setup::default() }
}

/// A signer, and the file by which a registry knows it.
fn signer(folder: &Path) -> (Signer, std::path::PathBuf) {
    let signer = Signer::new();
    let bundle = folder.join("bundle.pem");
    std::fs::write(&bundle, signer.certificate.pem()).unwrap();
    (signer, bundle)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_server_decides_who_pulls_what() {
    if !installed() || !is_root() {
        return;
    }
    let images = Served::start();
    let layer = Tarball::new().file("f", b"1").bytes();
    let id = images.push("open:1", &[(gzip(&layer), &layer[..])]).await;
    images.push("closed:1", &[(gzip(&layer), &layer[..])]).await;
    let folder = tempfile::tempdir().unwrap();
    let (signer, bundle) = signer(folder.path());
    let (tokens, _) = token_server(signer).await;
    let setup = with_tokens("registry", &format!("http://{tokens}/token"), &bundle);
    let (_serving, address) = images.also_as(&setup);

    let store = open(folder.path()).await;
    let ann = |password: &str| Login::User { name: "ann".into(), password: Secret::new(password.to_owned()) };
    let identity = |token: &str| Login::Identity(Secret::new(token.to_owned()));
    let pull = async |image: &str, login: Login| {
        let reference = image_store::name::parse(&format!("{address}/{image}")).unwrap();
        store.pull(Access::default(), reference, login).outcome().await.map_err(|e| e.to_string())
    };
    let check = async |login: Login| {
        let checked = check_login(&Access::default(), &address, &login).await;
        checked.map(|token| token.map(|token| token.reveal().to_owned())).map_err(|e| e.to_string())
    };
    assert_eq!(pull("open:1", Login::Anonymous).await.unwrap().id, id, "nobody in particular gets a token too");
    let denied = format!("pull access denied for {address}/closed, repository does not exist or may require");
    for (login, why) in [
        (Login::Anonymous, "authentication required"),
        (ann("wrong"), "authentication required"),
        (identity("wrong"), "the token of an earlier login is not taken any more"),
    ] {
        let said = pull("closed:1", login).await.unwrap_err();
        assert!(said.starts_with(&denied) && said.ends_with(why), "{said}");
    }
    assert!(pull("closed:1", ann("secret1")).await.is_ok());
    assert!(pull("closed:1", identity(IDENTITY)).await.is_ok());
    assert_eq!(check(ann("secret1")).await.unwrap().as_deref(), Some(IDENTITY));
    assert_eq!(check(identity(IDENTITY)).await.unwrap().as_deref(), Some(IDENTITY));
    let said = check(ann("wrong")).await.unwrap_err();
    assert!(said.contains("incorrect username or password"), "{said}");
    let said = check(identity("wrong")).await.unwrap_err();
    assert!(said.contains("the token of an earlier login is not taken any more"), "{said}");
}

/// A proxy that leads to a token server, and to the first of two registries until a blob is asked for that is not `first`;
/// from then on to the second.
async fn proxy(tokens: String, registries: [String; 2], first: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut turned = false;
        while let Ok((client, _)) = listener.accept().await {
            let mut client = BufReader::new(client);
            let mut head = head_of(&mut client).await;
            let Some(asked) = head.first().cloned() else { continue };
            turned |= asked.contains("/blobs/") && !asked.contains(&first);
            let to = if asked.contains("//tokens.test/") { &tokens } else { &registries[usize::from(turned)] };
            let mut server = TcpStream::connect(to).await.unwrap();
            // One request a connection, so that the next one is looked at too.
            head.insert(1, "Connection: close".to_owned());
            server.write_all((head.join("\r\n") + "\r\n").as_bytes()).await.unwrap();
            // A connection that ends early is its client's affair.
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn an_access_token_that_ends_within_a_pull_is_replaced_once_for_all_downloads() {
    if !installed() || !is_root() {
        return;
    }
    let images = Served::start();
    let contents: Vec<Vec<u8>> = (0..5).map(|n| Tarball::new().file(&format!("f{n}"), b"1").bytes()).collect();
    let layers: Vec<(Vec<u8>, &[u8])> = contents.iter().map(|c| (gzip(c), &c[..])).collect();
    let id = images.push("closed:1", &layers).await;
    let folder = tempfile::tempdir().unwrap();
    let (signer, bundle) = signer(folder.path());
    let (tokens, given) = token_server(signer).await;
    // The second takes no token that was for the first: for its client that is as if the token had expired.
    let [(_first, first), (_second, second)] =
        ["first", "second"].map(|name| images.also_as(&with_tokens(name, "http://tokens.test/token", &bundle)));
    let proxy = proxy(tokens, [first, second], id.to_string()).await;

    // No resolver knows them: only a proxy leads there, for tokens too.
    let access = Access { http_proxy: Some(proxy.into()), insecure: vec!["*.test".into()], ..Access::default() };
    let reference = image_store::name::parse("registry.test:5000/closed:1").unwrap();
    let store = open(folder.path()).await;
    let login = Login::Identity(Secret::new(IDENTITY.to_owned()));
    assert_eq!(store.pull(access, reference, login).outcome().await.unwrap().id, id);
    assert_eq!(given.load(Ordering::Relaxed), 2, "one for the manifest, one for all layers");
}
