//! The daemon: puts the parts together and takes them apart again.
//!
//! ```text
//! lock -> settings, certificate -> accelerator -> namespace, bridges, DHCP -> inventory, VMs of the daemon before
//!      -> API on the machine and inside -> published ports -> control socket: the lab is up
//! ```
//!
//! `down` ends the VMs, then DHCP, then the namespace.  A daemon that is killed leaves all three, and the next one takes
//! them over.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::control::{self, Answer, Request, Status};
use crate::dir::LabDir;
use crate::error::{Error, Result};
use crate::identity::{HOST_NAME, Identity};
use crate::lab::Lab;
use crate::net::{Dhcp, DhcpFiles, Network, Publisher, Range, SERVED_BRIDGE};
use crate::process::{self, ProcessId};
use crate::settings::Settings;
use crate::vm::Place;
use crate::{accel, api};

/// How long the daemon before may take to be gone.
const LOCK_PATIENCE: std::time::Duration = std::time::Duration::from_secs(3);
/// Port of the API inside the lab's networks.
const INNER_PORT: u16 = 443;

fn dhcp_files(dir: &LabDir) -> DhcpFiles {
    let run = dir.run();
    DhcpFiles { leases: dir.leases(), process: run.join("dhcp.process"), pid: run.join("dhcp.pid") }
}

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// When a part cannot be put up.
pub(crate) async fn run(dir: &LabDir) -> Result<()> {
    // A session of its own: a terminal's Ctrl-C is not for the lab.
    let _ = rustix::process::setsid();
    tracing_subscriber::fmt()
        .with_ansi(false)
        // The command line holds standard output locked while it runs: a worker that wrote there would wait for ever.
        .with_writer(std::io::stderr)
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_env("VIC_LAB_LOG").unwrap_or_else(|_| "info".into()))
        .init();
    let path = dir.lock();
    let lock = std::fs::File::create(&path).map_err(Error::file("open", &path))?;
    // One that was killed holds it for a moment more.
    let deadline = tokio::time::Instant::now() + LOCK_PATIENCE;
    while lock.try_lock().is_err() {
        if tokio::time::Instant::now() > deadline {
            return Err(Error::Refused("another daemon runs in this lab".into()));
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let settings = Settings::load(dir)?.ok_or_else(|| Error::Refused("this lab has no settings: use `up`".into()))?;
    let range: Range = settings.range.parse().map_err(Error::Refused)?;
    let identity = Identity::ensure(dir, range.gateway())?;
    let accelerator = Arc::new(accel::choose(LabDir::accelerator()).await?);
    let run = dir.make_run()?;

    let network = Arc::new(Network::open(&dir.namespace(), range)?);
    let place = Place { run, network: network.clone(), accelerator: accelerator.clone() };
    let thumbprint = identity.thumbprint()?;
    let lab = Lab::open(dir, settings.clone(), place, thumbprint.clone())?;
    network.add_bridge(SERVED_BRIDGE)?;
    let names = [(HOST_NAME.to_owned(), range.gateway().to_string())];
    Dhcp::ensure(&network, SERVED_BRIDGE, &dhcp_files(dir), &names).await?;
    for bridge in lab.bridges() {
        network.add_bridge(&bridge)?;
    }
    lab.adopt().await;

    let listen = tokio::net::TcpListener::bind(settings.listen)
        .await
        .map_err(Error::system(format!("listen on {} (choose another with --listen)", settings.listen)))?;
    let outer = listen.local_addr().map_err(Error::system("ask a socket for its address"))?;
    // A free port that was taken once stays, so that the lab's address does not change.
    if outer != settings.listen {
        Settings { listen: outer, ..settings.clone() }.store(dir)?;
    }
    let inner = SocketAddr::from((range.gateway(), INNER_PORT));
    let inner_listen = network.namespace().listen(inner).await?;
    let tls = api::tls(&identity)?;
    tokio::spawn(api::serve(listen, tls.clone(), lab.clone()));
    tokio::spawn(api::serve(inner_listen, tls, lab.clone()));

    let resolver = lab.clone();
    let publisher = Arc::new(Publisher::new(network.clone(), Arc::new(move |vm| resolver.guest_address(vm))));
    for published in &settings.publish {
        publisher.add(published.clone()).await?;
    }

    let base = Status {
        shape: settings.shape,
        url: format!("https://{outer}"),
        inner_url: format!("https://{}", inner.ip()),
        thumbprint,
        accelerator: accelerator.now(),
        namespace: network.namespace().name().into(),
        pid: std::process::id(),
        vms: Vec::new(),
        published: Vec::new(),
    };
    tracing::info!("the lab answers at {}", base.url);
    serve_control(dir, lab.clone(), publisher, base).await?;
    lab.stop().await;
    clean_up(dir).await
}

/// Serves the control socket until a request to stop has been answered.  A SIGTERM ends the process and nothing else:
/// the next daemon goes on.
async fn serve_control(dir: &LabDir, lab: Arc<Lab>, publisher: Arc<Publisher>, base: Status) -> Result<()> {
    let path = dir.control();
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).map_err(Error::file("listen on", &path))?;
    let (stop, mut stopped) = tokio::sync::mpsc::channel::<()>(1);
    let mut terminated = signal(SignalKind::terminate()).map_err(Error::system("watch for signals"))?;
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!("control socket: {error}");
                    continue;
                }
            },
            _ = stopped.recv() => return Ok(()),
            _ = terminated.recv() => {
                tracing::info!("the daemon ends; its VMs go on");
                return Err(Error::Refused("ended by a signal".into()));
            }
        };
        let (lab, publisher, base, stop, dir) =
            (lab.clone(), publisher.clone(), base.clone(), stop.clone(), dir.clone());
        tokio::spawn(async move {
            let answer = |request| async move {
                match handle(&dir, &lab, &publisher, &base, &stop, request).await {
                    Ok(answer) => answer,
                    Err(error) => Answer::Refused { reason: error.chain() },
                }
            };
            if let Err(error) = control::serve(stream, answer).await {
                tracing::debug!("control connection: {error}");
            }
        });
    }
}

async fn handle(
    dir: &LabDir,
    lab: &Lab,
    publisher: &Publisher,
    base: &Status,
    stop: &tokio::sync::mpsc::Sender<()>,
    request: Request,
) -> Result<Answer> {
    Ok(match request {
        Request::Status => Answer::Status(Status { vms: lab.vm_status(), published: publisher.list(), ..base.clone() }),
        Request::Stop => {
            // Somebody else may have asked first; it stops all the same.
            let _ = stop.try_send(());
            Answer::Done
        }
        Request::Publish(what) => {
            let published = publisher.add(what).await?;
            remember_published(dir, publisher)?;
            Answer::Published(published)
        }
        Request::Unpublish { listen } => {
            if !publisher.remove(listen) {
                return Err(Error::Refused(format!("nothing is published on {listen}")));
            }
            remember_published(dir, publisher)?;
            Answer::Done
        }
        Request::AddFault(rule) => {
            let id = lab.add_fault(rule)?;
            Answer::Faults { rules: lab.faults().list().into_iter().filter(|r| r.id == id).collect() }
        }
        Request::AddPreset { name } => {
            let rules = crate::faults::preset(&name)
                .ok_or_else(|| Error::Refused(format!("there is no preset {name:?}; there is: vcenter")))?;
            for rule in rules {
                lab.add_fault(rule)?;
            }
            Answer::Faults { rules: lab.faults().list() }
        }
        Request::ListFaults => Answer::Faults { rules: lab.faults().list() },
        Request::ClearFaults { id } => {
            lab.clear_faults(id);
            Answer::Done
        }
    })
}

/// Starts the daemon anew in its own process, as after a crash: nothing is tidied up, sockets and the lock are closed by
/// the kernel.  Returns only when that is not possible.
pub(crate) fn restart() {
    use std::os::unix::process::CommandExt;
    tracing::info!("the daemon starts anew, as a rule says");
    let mut args = std::env::args_os();
    let program = args.next().unwrap_or_default();
    // By what it is now: the path that it was started by may lead elsewhere.
    let error = std::process::Command::new("/proc/self/exe").arg0(program).args(args).exec();
    tracing::error!("the daemon does not start anew: {error}");
}

fn remember_published(dir: &LabDir, publisher: &Publisher) -> Result<()> {
    let Some(mut settings) = Settings::load(dir)? else { return Ok(()) };
    settings.publish = publisher.list();
    settings.store(dir)
}

/// Ends whatever a lab's daemon has left: VMs, DHCP, namespace, run folder.
///
/// # Errors
/// When something cannot be removed.
pub(crate) async fn clean_up(dir: &LabDir) -> Result<()> {
    let run = dir.run();
    let files = match std::fs::read_dir(&run) {
        Ok(files) => files,
        Err(e) if process::is_absent(&e) => return crate::net::remove(&dir.namespace()),
        Err(e) => return Err(Error::file("read", run)(e)),
    };
    for file in files.filter_map(Result::ok) {
        let path = file.path();
        if path.extension().is_some_and(|e| e == "process")
            && path != dhcp_files(dir).process
            && let Some(vm) = process::recall(&path).and_then(ProcessId::open)
        {
            vm.end(std::time::Duration::from_secs(5)).await;
        }
    }
    Dhcp::end(&dhcp_files(dir).process).await;
    crate::net::remove(&dir.namespace())?;
    std::fs::remove_dir_all(&run).map_err(Error::file("remove", run))
}
