//! tether's end of the control channel: dials the endpoint VM, and serves it there; again whenever the connection is lost.
//!
//! ```text
//! dial -- TLS --> serving -- lost --> pause, dial ...
//! any -- the run is over --> calls that are under way end, closed
//! ```

mod exec;
mod main_process;
mod service;
mod sessions;
mod top;

use std::{future::pending, net::SocketAddrV6, pin::pin, sync::Arc, time::Duration};

use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    service::TowerToHyperService,
};
pub(crate) use main_process::MainProcess;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
pub(crate) use service::{Service, StopRequest};
use tether_proto::{
    Container, Control,
    control::{ALIVE_SECONDS, ALPN, ENDPOINT_NAME, control_server::ControlServer},
};
use tokio::{
    net::TcpStream,
    sync::watch,
    time::{sleep, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Pauses between two tries to dial grow from the first to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));
/// How long a try may take.
const DIAL: Duration = Duration::from_secs(10);
/// How long calls may take to end when the run is over; who is cut off finds the rest in the log.
const CLOSE: Duration = Duration::from_secs(1);
const ALIVE: Duration = Duration::from_secs(ALIVE_SECONDS);

/// Keeps the channel until `over` says that the run is.
pub(crate) async fn keep(container: Arc<Container>, service: Service, mut over: watch::Receiver<bool>) {
    let Some(control) = &container.control else { return };
    let tls = match tls(control) {
        Ok(tls) => tls,
        Err(error) => return log::error!("there will be no control channel: {error}"),
    };
    let interface = container.interfaces.first().map(|interface| interface.name.as_str());
    let mut pause = PAUSES.0;
    let mut said = String::new();
    loop {
        let dialled = timeout(DIAL, dial(control, interface, &tls));
        let dialled = tokio::select! {
            dialled = dialled => dialled.unwrap_or_else(|_| Err("it does not answer".to_owned())),
            () = over_now(&mut over) => return,
        };
        match dialled {
            Ok(stream) => {
                pause = PAUSES.0;
                said.clear();
                serve(stream, service.clone(), &mut over).await;
            }
            Err(error) if error != said => {
                log::warn!("the endpoint VM is not reached: {error}");
                said = error;
            }
            Err(_) => {}
        }
        tokio::select! {
            () = sleep(pause) => pause = (pause * 2).min(PAUSES.1),
            () = over_now(&mut over) => return,
        }
    }
}

async fn over_now(over: &mut watch::Receiver<bool>) {
    if over.wait_for(|over| *over).await.is_err() {
        pending::<()>().await;
    }
}

/// Who this is, and whom to believe.
fn tls(control: &Control) -> Result<TlsConnector, String> {
    let wrong = |what: &str, error: &dyn std::fmt::Display| format!("{what} of the configuration: {error}");
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(control.ca_pem.as_bytes()) {
        let certificate = certificate.map_err(|e| wrong("the CA", &e))?;
        roots.add(certificate).map_err(|e| wrong("the CA", &e))?;
    }
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(control.cert_pem.as_bytes()).collect();
    let chain = chain.map_err(|e| wrong("the certificate", &e))?;
    let key = PrivateKeyDer::from_pem_slice(control.key_pem.reveal().as_bytes()).map_err(|e| wrong("the key", &e))?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| wrong("the protocol", &e))?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(|e| wrong("the certificate", &e))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

async fn dial(control: &Control, interface: Option<&str>, tls: &TlsConnector) -> Result<TlsStream<TcpStream>, String> {
    let scope = if control.address.is_unicast_link_local() {
        let name = interface.ok_or("its address is link-local, and this container has no interface")?;
        let path = format!("/sys/class/net/{name}/ifindex");
        let text = std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
        text.trim().parse().map_err(|_| format!("{path} holds {text:?}"))?
    } else {
        0
    };
    let address = SocketAddrV6::new(control.address, control.port, 0, scope);
    let stream = TcpStream::connect(address).await.map_err(|e| format!("{address}: {e}"))?;
    let _ = stream.set_nodelay(true);
    let name = ServerName::try_from(ENDPOINT_NAME).map_err(|e| e.to_string())?;
    tls.connect(name, stream).await.map_err(|e| format!("{address}: {e}"))
}

/// Serves until the connection is lost, or the run is over and the calls have ended.
async fn serve(stream: TlsStream<TcpStream>, service: Service, over: &mut watch::Receiver<bool>) {
    let service = TowerToHyperService::new(ControlServer::new(service));
    let mut connection = pin!(
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            // A host that was reset says nothing to those whom it has forgotten.
            .keep_alive_interval(ALIVE)
            .keep_alive_timeout(ALIVE)
            .serve_connection(TokioIo::new(stream), service)
    );
    tokio::select! {
        // How it ends is no matter: another is dialled.
        _ = &mut connection => {}
        () = over_now(over) => {
            connection.as_mut().graceful_shutdown();
            let _ = timeout(CLOSE, connection).await;
        }
    }
}
