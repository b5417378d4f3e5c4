//! [`Reach`]: the way to vSphere, which may come late, go, and come again; the API serves meanwhile.
//!
//! ```text
//! Away(why) -- login, site, first state --> Up(engine) -- not watched any more --> Away(why)
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
use vch_config::{Role, VchConfig, VchSecrets, VsphereConfig};
use vim25::trust::Trust;
use vim25::{Credentials, Options, Session};

use crate::error::ApiError;

/// Time for one call.
const DEADLINE: Duration = Duration::from_secs(60);
/// How long a request waits for a connection that is being made: right after the start it is there in a moment.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pauses between two tries grow from the first to the second.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));
/// Pauses after a login that was refused grow likewise.  ESXi locks an account after five in a row, however far apart, until 15
/// minutes after the last; vCenter after five within three minutes.  So even the longest leaves time for others who have the
/// account, and the first is short enough for a vCenter whose SSO was not up yet.
const REFUSED: (Duration, Duration) = (Duration::from_secs(10 * 60), Duration::from_secs(60 * 60));

/// The way to vSphere; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Reach {
    now: Option<watch::Receiver<Now>>,
    history: History,
}

#[derive(Debug, Clone)]
enum Now {
    Away(Away),
    Up(Arc<Engine>),
}

/// Why vSphere is not reached.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Away {
    /// It may be in a moment.
    ForNow(String),
    /// The login was refused.
    Refused(String),
}

impl Away {
    fn refused(user: &str, error: &vim25::Error) -> Self {
        Self::Refused(format!(
            "the login of {user} is refused: {}: give the account back the password that the VCH was created with, unlock the \
             account if it is locked, and restart the endpoint VM; without a restart the next login is tried after {} minutes \
             at the earliest, for each that fails may lock the account",
            chain(error),
            REFUSED.0.as_secs() / 60
        ))
    }

    fn why(&self) -> &str {
        match self {
            Self::ForNow(why) | Self::Refused(why) => why,
        }
    }
}

impl Reach {
    /// Goes there, and again whenever it is lost, until `end`; the task is done when vSphere knows of that too.
    pub fn keep(
        config: VchConfig,
        secrets: VchSecrets,
        end: impl Future<Output = ()> + Send + 'static,
    ) -> (Self, JoinHandle<()>) {
        let begun = Away::ForNow("it has just begun to connect".to_owned());
        let (sender, receiver) = watch::channel(Now::Away(begun));
        let history = History::default();
        let told_to = history.clone();
        let guests = guests(&config, &secrets, &history);
        if let Some((guests, mac, address)) = &guests {
            tokio::spawn(listen(guests.clone(), mac.clone(), *address));
        }
        let guests = guests.map(|(guests, ..)| guests);
        let kept = tokio::spawn(async move {
            let connect = || connect(&config, &secrets, &told_to, guests.as_ref());
            keep_connected(&config.vsphere, connect, &sender, end).await;
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
            Now::Away(_) => None,
        }
    }

    /// The port layer, which may be on its way; none when there is no way to be kept.
    pub(crate) async fn engine(&self) -> Result<Option<Arc<Engine>>, ApiError> {
        let Some(mut now) = self.now.clone() else { return Ok(None) };
        let settled = |now: &Now| matches!(now, Now::Up(_) | Now::Away(Away::Refused(_)));
        let _ = timeout(PATIENCE, now.wait_for(settled)).await;
        let now = now.borrow().clone();
        match now {
            Now::Up(engine) => Ok(Some(engine)),
            Now::Away(away) => Err(ApiError::Unavailable(format!("vSphere is not reached: {}", away.why()))),
        }
    }
}

/// Connects again and again, until `end`.
async fn keep_connected<F: Future<Output = Result<(Arc<Engine>, Session), Away>>>(
    vsphere: &VsphereConfig,
    connect: impl Fn() -> F,
    now: &watch::Sender<Now>,
    end: impl Future<Output = ()>,
) {
    tokio::pin!(end);
    let (mut pause, mut refused) = (PAUSES.0, REFUSED.0);
    let mut told = None;
    loop {
        let away = match connect().await {
            Ok((engine, session)) => {
                (pause, refused) = (PAUSES.0, REFUSED.0);
                told = None;
                let _ = now.send(Now::Up(Arc::clone(&engine)));
                let over = tokio::select! {
                    () = engine.ended() => false,
                    () = &mut end => true,
                };
                // The session's own login has failed already: another right after it would be one too many.
                let away = match session.refusal() {
                    Some(refusal) => Away::refused(&vsphere.username, &refusal),
                    None => Away::ForNow("the connection was lost".to_owned()),
                };
                let _ = now.send(Now::Away(away.clone()));
                let _ = session.logout().await;
                if over {
                    return;
                }
                away
            }
            Err(away) => {
                let _ = now.send(Now::Away(away.clone()));
                away
            }
        };
        let (rest, longest) = match away {
            Away::ForNow(_) => (&mut pause, PAUSES.1),
            Away::Refused(_) => (&mut refused, REFUSED.1),
        };
        // Once: the service's last words have few lines.
        if told.as_ref() != Some(&away) {
            port_layer::say(&format!("vSphere at {}: {}", vsphere.target, away.why()));
            told = Some(away);
        }
        if timeout(*rest, &mut end).await.is_ok() {
            return;
        }
        *rest = (*rest * 2).min(longest);
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
) -> Result<(Arc<Engine>, Session), Away> {
    let vsphere = &config.vsphere;
    let mut prints = Vec::new();
    for print in &vsphere.thumbprints {
        prints.push(print.parse().map_err(|e| Away::ForNow(format!("thumbprint {print:?}: {e}")))?);
    }
    let trust = match (prints.is_empty(), vsphere.ca_pem.is_empty()) {
        (false, _) => Trust::Thumbprints(prints),
        (true, false) => Trust::Ca(vsphere.ca_pem.clone()),
        (true, true) => Trust::System,
    };
    let options = Options {
        target: vsphere.target.parse().map_err(|e| Away::ForNow(format!("{:?} is no address: {e}", vsphere.target)))?,
        credentials: Credentials { user: vsphere.username.clone(), password: secrets.vsphere_password.clone() },
        trust,
        user_agent: format!("vic-engine/{}", config.version),
        deadline: DEADLINE,
    };
    let session = Session::connect(options).await.map_err(|e| match e.is_refused_login() {
        true => Away::refused(&vsphere.username, &e),
        false => Away::ForNow(chain(&e)),
    })?;
    let engine = match Site::find(&session, config).await {
        Ok(site) => Engine::start(site, history.clone(), guests.cloned()).await,
        Err(e) => Err(e),
    };
    match engine {
        Ok(engine) => Ok((engine, session)),
        Err(e) => {
            let refusal = session.refusal();
            let _ = session.logout().await;
            Err(match refusal {
                Some(refusal) => Away::refused(&vsphere.username, &refusal),
                None => Away::ForNow(chain(&e)),
            })
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::time::Instant;
    use vim25::types::{InvalidLogin, ManagedObjectReference, soap::Fault};

    use super::*;

    fn refused() -> Away {
        let fault = Box::new(Fault::new(InvalidLogin::default(), "Cannot complete login."));
        let object = ManagedObjectReference::new("SessionManager", "SessionManager");
        Away::refused("vch@vsphere.local", &vim25::Error::Fault { method: "Login".into(), object, fault })
    }

    /// When a connection is tried in the first three hours, in minutes, if each fails with `away`.
    async fn tries(away: Away) -> Vec<f64> {
        let tries = Mutex::new(Vec::new());
        let begun = Instant::now();
        let connect = || {
            tries.lock().unwrap().push(begun.elapsed().as_secs_f64() / 60.0);
            std::future::ready(Err(away.clone()))
        };
        let (now, _) = watch::channel(Now::Away(Away::ForNow(String::new())));
        keep_connected(&VsphereConfig::default(), connect, &now, sleep(Duration::from_secs(3 * 3600))).await;
        tries.into_inner().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_login_that_was_refused_is_tried_again_after_ten_minutes_and_then_less_and_less() {
        let tries = tries(refused()).await;
        assert_eq!(tries.iter().map(|t| t.floor()).collect::<Vec<_>>(), [0.0, 10.0, 30.0, 70.0, 130.0]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_reached_is_tried_again_every_fifteen_seconds() {
        let tries = tries(Away::ForNow("no route".into())).await;
        assert!(tries.windows(2).all(|two| two[1] - two[0] <= 0.26), "{tries:?}");
        assert!(tries.len() >= 3 * 60 * 4, "{tries:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_is_told_of_a_refused_login_without_waiting() {
        let (_now, receiver) = watch::channel(Now::Away(refused()));
        let reach = Reach { now: Some(receiver), history: History::default() };
        let begun = Instant::now();
        let told = reach.engine().await.unwrap_err().to_string();
        assert_eq!(begun.elapsed(), Duration::ZERO);
        for part in
            ["the login of vch@vsphere.local is refused", "InvalidLogin", "10 minutes", "restart the endpoint VM"]
        {
            assert!(told.contains(part), "{told}");
        }
    }
}
