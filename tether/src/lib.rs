//! PID 1 of a containerVM: runs the container's process.
//!
//! ```text
//! mounts, modules -> guestinfo -> configuration -> disks, links -> the process -> exit status -> power off
//!                                   ^    |
//!                                   +----+ parked until it is there
//! ```
//! The VM is the box: there is no container runtime inside.  The process is a child of PID 1 with the image as its root; its
//! end is the machine's.

mod accounts;
mod contain;
mod control;
mod environment;
mod feed;
mod files;
mod input;
mod limits;
mod network;
mod output;
mod process;
mod program;
mod scoped;
mod storage;

use std::{net::IpAddr, path::Path, thread, time::Duration};

pub use contain::Guest;
use guestinfo::{Channel, HostRequest, Keys};
pub use network::{KernelLinks, Links};
use pid1::{End, Linux, Reaper, System, console, early, survive};
pub use process::Confinement;
pub use storage::Places;
use tether_proto::{Container, Document, KEY_CONTAINER, control::link_local};
use tokio::{
    sync::mpsc,
    task::spawn_blocking,
    time::{sleep, timeout},
};

/// The serial port that takes the process's output.
const OUTPUT: &str = "/dev/ttyS1";
/// Where the image has the kernel's modules.
const MODULES: &str = "/lib/modules";
/// Pause between two looks for the configuration, or two tries at the channel.
const LOOK: Duration = Duration::from_millis(200);

/// Runs PID 1; never returns.
pub fn run() -> ! {
    console::install("tether");
    early::prepare(&Linux);
    thread::spawn(|| {
        early::load_late_modules(&Linux);
        // They are loaded, and the root file system is memory.
        let _ = std::fs::remove_dir_all(MODULES);
    });
    loop {
        survive(|| match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => {
                let end = runtime.block_on(life());
                log::info!("{end:?}: now");
                if let Err(error) = Linux.end(end) {
                    log::error!("the kernel refused {end:?}: {error}");
                }
            }
            Err(error) => log::error!("cannot start the event loop: {error}"),
        });
        // A run that a defect has cut short cannot be taken up again: its process is not ours to wait for.
        let _ = Linux.end(End::PowerOff);
        thread::park_timeout(Duration::from_secs(5));
    }
}

/// From the channel to the container's end.
async fn life() -> End {
    let reaper = Reaper::default();
    tokio::spawn(reaper.clone().run());
    let (sender, mut requests) = mpsc::unbounded_channel();
    let channel = loop {
        let sender = sender.clone();
        match Channel::open(&guestinfo::Options::default(), move |request| {
            let _ = sender.send(request);
        }) {
            Ok(channel) => break channel,
            Err(error) => log::error!("{error}"),
        }
        sleep(LOOK).await;
    };
    let container = match parked(&channel, &mut requests).await {
        Ok(container) => container,
        Err(end) => return end,
    };
    let (shown, named) = (channel.clone(), container.clone());
    thread::spawn(move || show(&shown, &named));
    let port = loop {
        match guestinfo::open_serial(Path::new(OUTPUT)) {
            Ok((_, port)) => break port,
            Err(error) => log::error!("{error}"),
        }
        sleep(LOOK).await;
    };
    let guest = Guest {
        system: Linux,
        keys: channel,
        links: KernelLinks,
        places: Places::default(),
        confinement: Confinement::Full,
        reaper,
    };
    guest.contain(&container, port, &mut requests).await
}

/// Tells vSphere what it shows of a guest: its name and its address, as VMware's tools do.
fn show(channel: &Channel, container: &Container) {
    let interface = container.interfaces.first();
    let own = interface.and_then(|i| i.address.split('/').next()?.parse().ok());
    let address = own.or_else(|| interface.and_then(|i| link_local(&i.mac)).map(IpAddr::from));
    let told = channel.report_host_name(&container.host_name).and(match address {
        Some(address) => channel.report_address(address),
        None => Ok(()),
    });
    if let Err(error) = told {
        log::warn!("{error}");
    }
}

/// Waits for the configuration, or for the host's wish to end.
async fn parked(keys: &impl Keys, requests: &mut mpsc::UnboundedReceiver<HostRequest>) -> Result<Container, End> {
    let mut said = String::new();
    loop {
        let reader = keys.clone();
        let problem = match spawn_blocking(move || reader.get(KEY_CONTAINER)).await {
            Ok(Ok(Some(text))) if !text.is_empty() => match Container::from_text(&text) {
                Ok(container) => return Ok(container),
                Err(error) => error.to_string(),
            },
            Ok(Ok(_)) => "parked: there is no configuration yet".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        if problem != said {
            log::info!("{problem}");
            said = problem;
        }
        match timeout(LOOK, requests.recv()).await {
            Ok(Some(HostRequest::Reboot)) => return Err(End::Reboot),
            Ok(Some(HostRequest::Halt)) => return Err(End::PowerOff),
            // The channel never closes while it is held; nothing yet.
            Ok(None) | Err(_) => {}
        }
    }
}
