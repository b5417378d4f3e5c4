//! A registry that sends its clients to a token server (distribution, "Token Authentication Specification").

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use image_store::registry::{Access, Login, check_login};
use registry_server::tarball::{Tarball, gzip};
use registry_server::{Served, Setup, installed};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use secret::Secret;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;

use crate::pull::open;
use crate::unpack::is_root;

const SERVICE: &str = "registry of the test";
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

    /// A token for one repository.
    fn token(&self, user: &str, repository: &str) -> String {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let head = json!({"typ": "JWT", "alg": "ES256", "x5c": [STANDARD.encode(self.certificate.der())]});
        let claims = json!({
            "iss": ISSUER, "sub": user, "aud": SERVICE, "exp": now + 300, "nbf": now - 10, "iat": now, "jti": "1",
            "access": [{"type": "repository", "name": repository, "actions": ["pull"]}],
        });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&head), part(&claims));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// A token server: everybody may pull `open`, `ann` may pull `closed`; a wrong password gets nothing.
async fn token_server(signer: Signer) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (reader, mut writer) = stream.split();
            let mut lines = BufReader::new(reader).lines();
            let mut head = Vec::new();
            while let Ok(Some(line)) = lines.next_line().await
                && !line.is_empty()
            {
                head.push(line);
            }
            let asked = head.first().cloned().unwrap_or_default();
            let user = head.iter().find(|line| line.to_ascii_lowercase().starts_with("authorization:"));
            let ann = user.map(|line| line.ends_with(&STANDARD.encode("ann:secret1")));
            let repository = if asked.contains("closed") { "closed" } else { "open" };
            let answer = match ann {
                Some(false) => Err("401 Unauthorized"),
                None if repository == "closed" => Ok(signer.token("", "nothing")),
                _ => Ok(signer.token("ann", repository)),
            };
            let (status, body) = match answer {
                Ok(token) => ("200 OK", json!({"token": token, "expires_in": 300}).to_string()),
                Err(status) => (status, json!({"details": "incorrect username or password"}).to_string()),
            };
            let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\n");
            let answer = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
            // A client that has gone got what it wanted.
            let _ = writer.write_all(answer.as_bytes()).await;
        }
    });
    format!("http://{address}/token")
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
    let signer = Signer::new();
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("bundle.pem");
    let pem = signer.certificate.pem();
    std::fs::write(&bundle, pem).unwrap();
    let realm = token_server(signer).await;
    let auth = json!({"token": {"realm": realm, "service": SERVICE, "issuer": ISSUER, "rootcertbundle": bundle}});
    let (_serving, address) = images.also_as(&Setup { auth: Some(auth), ..Setup::default() });

    let store = open(folder.path()).await;
    let ann = |password: &str| Login::User { name: "ann".into(), password: Secret::new(password.to_owned()) };
    let pull = async |image: &str, login: Login| {
        let reference = image_store::name::parse(&format!("{address}/{image}")).unwrap();
        store.pull(Access::default(), reference, login).outcome().await.map_err(|e| e.to_string())
    };
    assert_eq!(pull("open:1", Login::Anonymous).await.unwrap().id, id, "nobody in particular gets a token too");
    let denied = format!("pull access denied for {address}/closed, repository does not exist or may require");
    for login in [Login::Anonymous, ann("wrong")] {
        let said = pull("closed:1", login).await.unwrap_err();
        assert!(said.starts_with(&denied), "{said}");
    }
    assert!(pull("closed:1", ann("secret1")).await.is_ok());
    assert!(check_login(&Access::default(), &address, &ann("secret1")).await.is_ok());
    let said = check_login(&Access::default(), &address, &ann("wrong")).await.unwrap_err().to_string();
    assert!(said.contains("incorrect username or password"), "{said}");
}
