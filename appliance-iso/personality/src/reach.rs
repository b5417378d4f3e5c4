//! [`Reach`]: the way to vSphere, which may come late, go, and come again; the API serves meanwhile.
//!
//! ```text
//! Waiting(why) -- login, site, first state --> Up(engine) -- not watched any more --> Waiting(why)
//! any -- this process is told to end --> logged out: vSphere keeps a forgotten session for half an hour
//! ```

use std::net::Ipv6Addr;
use std::sync::Arc;
use std::time::Duration;

use port_layer::container::events::History;
use port_layer::control::{Guests, bind_bridge, is_at, proto::link_local};
use port_layer::{Engine, Site};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use vch_config::{Role, VchConfig, VchSecrets};
use vim25::trust::Trust;
use vim25::{Credentials, Options, Session};

use crate::error::ApiError;

/// Time for one call.
const DEADLINE: Duration = Duration::from_secs(60);
/// How long a request waits for a connection that is being made: right after the start it is there in a moment.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pauses between two tries grow from the first to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

/// The way to vSphere; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Reach {
    now: Option<watch::Receiver<Now>>,
    history: History,
}

#[derive(Debug, Clone)]
enum Now {
    Waiting(String),
    Up(Arc<Engine>),
}

impl Reach {
    /// Goes there, and again whenever it is lost, until `end`; the task is done when vSphere knows of that too.
    pub fn keep(
        config: VchConfig,
        secrets: VchSecrets,
        end: impl Future<Output = ()> + Send + 'static,
    ) -> (Self, JoinHandle<()>) {
        let (sender, receiver) = watch::channel(Now::Waiting("it has just begun to connect".to_owned()));
        let history = History::default();
        let told_to = history.clone();
        let guests = guests(&config, &secrets, &history);
        if let Some((guests, mac, address)) = &guests {
            tokio::spawn(listen(guests.clone(), mac.clone(), *address));
        }
        let guests = guests.map(|(guests, ..)| guests);
        let kept = tokio::spawn(async move {
            tokio::pin!(end);
            let mut pause = PAUSES.0;
            let mut told = String::new();
            loop {
                match connect(&config, &secrets, &told_to, guests.as_ref()).await {
                    Ok((engine, session)) => {
                        pause = PAUSES.0;
                        told.clear();
                        let _ = sender.send(Now::Up(Arc::clone(&engine)));
                        let over = tokio::select! {
                            () = engine.ended() => false,
                            () = &mut end => true,
                        };
                        let _ = sender.send(Now::Waiting("the connection was lost".to_owned()));
                        let _ = session.logout().await;
                        if over {
                            return;
                        }
                    }
                    Err(why) => {
                        // Once: the service's last words have few lines.
                        if told != why {
                            port_layer::say(&format!("vSphere at {}: {why}", config.vsphere.target));
                            told.clone_from(&why);
                        }
                        let _ = sender.send(Now::Waiting(why));
                    }
                }
                if timeout(pause, &mut end).await.is_ok() {
                    return;
                }
                pause = (pause * 2).min(PAUSES.1);
            }
        });
        (Self { now: Some(receiver), history }, kept)
    }

    /// What has happened to containers, whether vSphere is reached or not.
    pub(crate) fn history(&self) -> &History {
        &self.history
    }

    /// The port layer, if vSphere is reached right now.
    pub(crate) fn at_hand(&self) -> Option<Arc<Engine>> {
        match &*self.now.as_ref()?.borrow() {
            Now::Up(engine) => Some(Arc::clone(engine)),
            Now::Waiting(_) => None,
        }
    }

    /// The port layer, which may be on its way; none when there is no way to be kept.
    pub(crate) async fn engine(&self) -> Result<Option<Arc<Engine>>, ApiError> {
        let Some(mut now) = self.now.clone() else { return Ok(None) };
        let _ = timeout(PATIENCE, now.wait_for(|now| matches!(now, Now::Up(_)))).await;
        let now = now.borrow().clone();
        match now {
            Now::Up(engine) => Ok(Some(engine)),
            Now::Waiting(why) => Err(ApiError::Unavailable(format!("vSphere is not reached: {why}"))),
        }
    }
}

/// The control channel, with the MAC address and the address on the bridge network where containers call.
fn guests(config: &VchConfig, secrets: &VchSecrets, history: &History) -> Option<(Guests, String, Ipv6Addr)> {
    let make = || {
        let mac = config.interface(Role::Bridge).map(|i| i.mac.clone()).ok_or("the VCH has no bridge network")?;
        let address = link_local(&mac).ok_or_else(|| format!("{mac:?} is no MAC address"))?;
        let seen = history.clone();
        let is_at = move |id: &str, from| is_at(&seen, id, from);
        let guests = Guests::new(&config.id, &secrets.control_key_pem, address, is_at).map_err(|e| chain(&e))?;
        Ok((guests, mac, address))
    };
    make().inspect_err(|why: &String| port_layer::say(&format!("containers cannot be attached to: {why}"))).ok()
}

/// Takes the containers' calls, as soon as the bridge network is up.
async fn listen(guests: Guests, mac: String, address: Ipv6Addr) {
    let mut told = None;
    loop {
        match bind_bridge(&mac, address).await {
            Ok(listener) => return guests.switchboard.serve(listener).await,
            // The first second is the kernel's.
            Err(error) if told.as_ref() != Some(&error.kind()) => {
                port_layer::say(&format!("containers cannot call yet: {address}: {error}"));
                told = Some(error.kind());
            }
            Err(_) => {}
        }
        sleep(PAUSES.0).await;
    }
}

async fn connect(
    config: &VchConfig,
    secrets: &VchSecrets,
    history: &History,
    guests: Option<&Guests>,
) -> Result<(Arc<Engine>, Session), String> {
    let vsphere = &config.vsphere;
    let mut prints = Vec::new();
    for print in &vsphere.thumbprints {
        prints.push(print.parse().map_err(|e| format!("thumbprint {print:?}: {e}"))?);
    }
    let trust = match (prints.is_empty(), vsphere.ca_pem.is_empty()) {
        (false, _) => Trust::Thumbprints(prints),
        (true, false) => Trust::Ca(vsphere.ca_pem.clone()),
        (true, true) => Trust::System,
    };
    let options = Options {
        target: vsphere.target.parse().map_err(|e| format!("{:?} is no address: {e}", vsphere.target))?,
        credentials: Credentials { user: vsphere.username.clone(), password: secrets.vsphere_password.clone() },
        trust,
        user_agent: format!("vic-engine/{}", config.version),
        deadline: DEADLINE,
    };
    let session = Session::connect(options).await.map_err(|e| chain(&e))?;
    let engine = match Site::find(&session, config).await {
        Ok(site) => Engine::start(site, history.clone(), guests.cloned()).await,
        Err(e) => Err(e),
    };
    match engine {
        Ok(engine) => Ok((engine, session)),
        Err(e) => {
            let _ = session.logout().await;
            Err(chain(&e))
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    text
}
