//! Sessions: who is logged in, and what belongs to a session (collectors, filters, views).

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vim25_types::soap::Fault;
use vim25_types::{InvalidLogin, ManagedObjectReference as Moref, UserSession, methods};

use super::access::{self, Role};
use super::collector::Collector;
use super::dispatch::Cx;
use super::fault;
use crate::world::{format_time, now};

/// vSphere ends a session that has been idle for this long.
const IDLE: Duration = Duration::from_secs(30 * 60);

/// How many sessions there may be.
const MAX_SESSIONS: usize = 100;

/// A container view.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) container: Moref,
    pub(crate) kinds: Vec<String>,
    pub(crate) recursive: bool,
}

/// An event collector and how far it has read.
#[derive(Debug, Clone, Default)]
pub(crate) struct EventCollector {
    pub(crate) filter: vim25_types::EventFilterSpec,
    /// Key of the last event that was read forwards.
    pub(crate) position: i32,
    /// Key of the oldest event that was read backwards.
    pub(crate) backwards: Option<i32>,
}

/// What belongs to a session.
#[derive(Debug, Default)]
pub(crate) struct Holdings {
    pub(crate) collectors: HashMap<String, Arc<Collector>>,
    pub(crate) views: BTreeMap<String, View>,
    pub(crate) events: HashMap<String, EventCollector>,
}

/// A session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) key: String,
    pub(crate) user: String,
    pub(crate) role: Role,
    begun: time::OffsetDateTime,
    address: IpAddr,
    agent: String,
    active: Mutex<Instant>,
    holdings: Mutex<Holdings>,
}

impl Session {
    /// What belongs to the session.
    pub(crate) fn holdings(&self) -> MutexGuard<'_, Holdings> {
        self.holdings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session as vSphere shows it.
    pub(crate) fn show(&self) -> UserSession {
        UserSession {
            key: self.key.clone(),
            user_name: self.user.clone(),
            full_name: self.user.clone(),
            login_time: format_time(self.begun),
            last_active_time: now(),
            locale: "en".into(),
            message_locale: "en".into(),
            extension_session: false,
            ip_address: self.address.to_string(),
            user_agent: self.agent.clone(),
            call_count: 0,
        }
    }
}

/// All sessions.
#[derive(Debug, Default)]
pub(crate) struct Sessions(Mutex<HashMap<String, Arc<Session>>>);

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Session>>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, s| s.active.lock().unwrap_or_else(PoisonError::into_inner).elapsed() < IDLE);
        all
    }

    /// The session with that key, which is active with this.
    pub(crate) fn find(&self, key: &str) -> Option<Arc<Session>> {
        let session = self.lock().get(key).cloned()?;
        *session.active.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        Some(session)
    }

    /// Whether there may be one more.
    pub(crate) fn has_room(&self) -> bool {
        self.lock().len() < MAX_SESSIONS
    }

    /// Ends a session.
    pub(crate) fn end(&self, key: &str) -> bool {
        self.lock().remove(key).is_some()
    }

    /// The sessions as vSphere shows them.
    pub(crate) fn list(&self) -> Vec<UserSession> {
        self.lock().values().map(|s| s.show()).collect()
    }

    fn begin(&self, user: String, role: Role, address: IpAddr, agent: &str) -> Arc<Session> {
        let session = Arc::new(Session {
            key: uuid::Uuid::new_v4().simple().to_string(),
            user,
            role,
            begun: time::OffsetDateTime::now_utc(),
            address,
            agent: agent.into(),
            active: Mutex::new(Instant::now()),
            holdings: Mutex::default(),
        });
        self.lock().insert(session.key.clone(), session.clone());
        session
    }
}

pub(super) async fn login(cx: &Cx, request: methods::Login) -> Result<UserSession, Fault> {
    if cx.session.is_some() {
        return Err(fault::invalid_state("the client has logged in already"));
    }
    let known = access::authenticate(&cx.lab, &request.user_name, &request.password);
    let (user, role) = known.ok_or_else(|| {
        Fault::new(InvalidLogin::default(), "Cannot complete login due to an incorrect user name or password.")
    })?;
    let session = cx.lab.sessions().begin(user, role, cx.peer, &cx.agent);
    cx.lab.change(|w| w.session_event(&session.user, true));
    cx.set_cookie(&session.key);
    Ok(session.show())
}

pub(super) async fn logout(cx: &Cx, _: methods::Logout) -> Result<(), Fault> {
    let session = cx.session()?;
    cx.lab.sessions().end(&session.key);
    cx.lab.change(|w| w.session_event(&session.user, false));
    Ok(())
}

pub(super) async fn is_active(cx: &Cx, request: methods::SessionIsActive) -> Result<bool, Fault> {
    let known = cx.lab.sessions().list();
    Ok(known.iter().any(|s| s.key == request.session_id && s.user_name.eq_ignore_ascii_case(&request.user_name)))
}

pub(super) async fn terminate(cx: &Cx, request: methods::TerminateSession) -> Result<(), Fault> {
    for key in &request.session_id {
        if *key == cx.session()?.key {
            return Err(fault::invalid_argument("sessionId", "a session cannot end itself"));
        }
        if !cx.lab.sessions().end(key) {
            return Err(Fault::new(vim25_types::NotFound::default(), format!("There is no session {key}.")));
        }
    }
    Ok(())
}
