//! A man in the middle of vic-machine and vSphere, who disturbs the n-th call that changes something.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use sha1::{Digest as _, Sha1};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::{ServerConfig, crypto::ring};

/// Calls that change something.  An upload counts as one.
const CHANGES: &[&str] = &[
    "CreateFolder",
    "CreateVApp",
    "CreateResourcePool",
    "CreateVM_Task",
    "CreateChildVM_Task",
    "ReconfigVM_Task",
    "PowerOnVM_Task",
    "PowerOffVM_Task",
    "AddVirtualSwitch",
    "AddPortGroup",
    "RemovePortGroup",
    "RemoveVirtualSwitch",
    "DeleteDatastoreFile_Task",
    "Destroy_Task",
    "PUT",
];

/// What is done to the chosen call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// vic-machine dies before the call has its effect.
    KillBefore,
    /// vic-machine dies when the call has had its effect.
    KillAfter,
    /// vSphere refuses.
    Fail,
    /// The connection ends when the call has had its effect.
    DropAfter,
}

#[derive(Debug)]
struct Rule {
    nth: usize,
    act: Act,
    seen: usize,
    hit: Option<String>,
    /// Process id of vic-machine.
    victim: Arc<OnceLock<libc::pid_t>>,
}

/// The proxy.  It ends with the test's process.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    thumbprint: String,
    rule: Arc<Mutex<Option<Rule>>>,
}

impl Proxy {
    /// Starts one before `target`, `https://host:port`.
    pub fn start(target: &str) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate =
            rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().self_signed(&key).unwrap();
        let der = certificate.der().clone();
        let thumbprint = Sha1::digest(&der).iter().map(|b| format!("{b:02X}")).collect::<Vec<_>>().join(":");
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![der], PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())))
            .unwrap();
        let rule = Arc::new(Mutex::new(None));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (shared, target) = (Arc::clone(&rule), target.to_owned());
        std::thread::spawn(move || {
            crate::block_on(serve(listener, TlsAcceptor::from(Arc::new(config)), target, shared));
        });
        Self { address, thumbprint, rule }
    }

    /// `https://host:port` of the proxy.
    pub fn target(&self) -> String {
        format!("https://{}", self.address)
    }

    /// SHA-1 thumbprint of its certificate.
    pub fn thumbprint(&self) -> &str {
        &self.thumbprint
    }

    /// Disturbs the `nth` changing call from now on; the process id of the victim is told when it is known.
    pub fn arm(&self, nth: usize, act: Act) -> Arc<OnceLock<libc::pid_t>> {
        let victim = Arc::new(OnceLock::new());
        let rule = Rule { nth, act, seen: 0, hit: None, victim: Arc::clone(&victim) };
        *self.rule.lock().unwrap() = Some(rule);
        victim
    }

    /// Lets everything pass again; the call that was disturbed, if it came.
    pub fn disarm(&self) -> Option<String> {
        self.rule.lock().unwrap().take().and_then(|rule| rule.hit)
    }
}

async fn serve(listener: std::net::TcpListener, acceptor: TlsAcceptor, target: String, rule: Arc<Mutex<Option<Rule>>>) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let client = reqwest::Client::builder().tls_backend_preconfigured(trusting()).no_proxy().build().unwrap();
    let tasks = tokio::task::LocalSet::new();
    tasks
        .run_until(async {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, client, target, rule) =
                    (acceptor.clone(), client.clone(), target.clone(), Arc::clone(&rule));
                tokio::task::spawn_local(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = hyper::service::service_fn(move |request| {
                        pass(request, client.clone(), target.clone(), Arc::clone(&rule))
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        })
        .await;
}

/// The connection is given up without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the connection is cut")]
struct Cut;

async fn pass(
    request: Request<Incoming>,
    client: reqwest::Client,
    target: String,
    rule: Arc<Mutex<Option<Rule>>>,
) -> Result<Response<Full<Bytes>>, Cut> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Cut)?.to_bytes();
    let name = if head.method == "PUT" { "PUT".to_owned() } else { method(&body) };
    let disturbed = disturb(&rule, &name);
    let kill = |victim: &OnceLock<libc::pid_t>| {
        // SAFETY: kill(2) touches no memory; the test has not waited for the process yet.
        unsafe { libc::kill(*victim.wait(), libc::SIGKILL) };
    };
    match &disturbed {
        Some((Act::KillBefore, victim)) => {
            kill(victim);
            return Err(Cut);
        }
        Some((Act::Fail, _)) => {
            let answer = Response::builder().status(500).header("content-type", "text/xml");
            return Ok(answer.body(Full::from(FAULT)).unwrap());
        }
        _ => {}
    }
    let url = format!("{target}{}", head.uri.path_and_query().map_or("/", |p| p.as_str()));
    let mut forward = client.request(head.method, url).body(body);
    for (name, value) in &head.headers {
        if name != "host" && name != "content-length" && name != "transfer-encoding" {
            forward = forward.header(name, value);
        }
    }
    let answer = forward.send().await.map_err(|_| Cut)?;
    let mut response = Response::builder().status(answer.status());
    for (name, value) in answer.headers() {
        if name != "content-length" && name != "transfer-encoding" && name != "connection" {
            response = response.header(name, value);
        }
    }
    let bytes = answer.bytes().await.map_err(|_| Cut)?;
    match &disturbed {
        Some((Act::KillAfter, victim)) => {
            kill(victim);
            Err(Cut)
        }
        Some((Act::DropAfter, _)) => Err(Cut),
        _ => Ok(response.body(Full::from(bytes)).unwrap()),
    }
}

/// Whether this call is the chosen one.
fn disturb(rule: &Mutex<Option<Rule>>, name: &str) -> Option<(Act, Arc<OnceLock<libc::pid_t>>)> {
    let mut rule = rule.lock().unwrap();
    let rule = rule.as_mut().filter(|r| CHANGES.contains(&name) && r.hit.is_none())?;
    rule.seen += 1;
    if rule.seen - 1 != rule.nth {
        return None;
    }
    rule.hit = Some(name.to_owned());
    Some((rule.act, Arc::clone(&rule.victim)))
}

/// The name of the method: the first element in the envelope's body.
fn method(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let inside = text.split_once("Body>").map_or("", |(_, rest)| rest);
    inside.trim_start().trim_start_matches('<').chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

const FAULT: &str = concat!(
    r#"<?xml version="1.0"?><soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" "#,
    r#"xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><soapenv:Body><soapenv:Fault>"#,
    "<faultcode>ServerFaultCode</faultcode><faultstring>planted by the test</faultstring>",
    r#"<detail><SystemErrorFault xmlns="urn:vim25" xsi:type="SystemError"><reason>planted</reason></SystemErrorFault>"#,
    "</detail></soapenv:Fault></soapenv:Body></soapenv:Envelope>"
);

/// TLS that takes the simulator's certificate, whatever it is: what is tested lies on the other side.
fn trusting() -> tokio_rustls::rustls::ClientConfig {
    use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

    #[derive(Debug)]
    struct Any;
    impl ServerCertVerifier for Any {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            ring::default_provider().signature_verification_algorithms.supported_schemes()
        }
    }
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Any))
        .with_no_client_auth()
}
