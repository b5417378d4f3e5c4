//! [`Session`]: one login on a vSphere endpoint.
//!
//! ```text
//! connect -> logged in -> ... -> logged out
//!              ^     | NotAuthenticated in a call
//!              |     v
//!              +- login again, call again, once -- InvalidLogin --> refused
//! ```
//! Neither one that was logged out nor one that was refused logs in again: vSphere locks an account after a few logins that fail,
//! and every further one keeps it locked.
//!
//! Sessions are limited on a host, so whoever connects logs out on every path: [`Session::logout`].

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use reqwest::header;
use secret::Secret;
use url::Url;
use vim25_types::soap::{self, Body, Fault};
use vim25_types::{ManagedObjectReference, Method, ServiceContent, methods};

use crate::trust::{Trust, Verifier};
use crate::watch::Watcher;
use crate::wire_log::WireLog;
use crate::{Error, Result};

/// vSphere closes a session that was idle for 30 minutes.
const KEEP_ALIVE: Duration = Duration::from_secs(240);
/// Nobody waits for a logout longer than that.
const LOGOUT: Duration = Duration::from_secs(10);

/// Who logs in.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// User name.
    pub user: String,
    /// Its password.
    pub password: Secret,
}

/// How to connect.
#[derive(Debug, Clone)]
pub struct Options {
    /// `https://host[:port]`; the path is replaced by `/sdk`.
    pub target: Url,
    /// Who logs in.
    pub credentials: Credentials,
    /// How the server's certificate is judged.
    pub trust: Trust,
    /// Shown in vSphere's list of sessions.
    pub user_agent: String,
    /// Time for one call.
    pub deadline: Duration,
}

/// One login on a vSphere endpoint.  Clones share it.
#[derive(Debug, Clone)]
pub struct Session(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    http: reqwest::Client,
    verifier: Arc<Verifier>,
    options: Options,
    content: ServiceContent,
    cookie: Mutex<Option<String>>,
    /// It was logged out: what still runs on it must not log in again.
    over: AtomicBool,
    /// Why a login was refused: none of its calls tries another.
    refused: OnceLock<Box<Fault>>,
    /// Held while logging in, so that many calls that find the session gone log in once.
    login: tokio::sync::Mutex<()>,
    wire_log: WireLog,
    watcher: OnceLock<Watcher>,
    keep_alive: OnceLock<tokio::task::AbortHandle>,
}

/// A session that does not keep itself alive: the watcher belongs to the session, not the other way round.
#[derive(Debug, Clone)]
pub(crate) struct WeakSession(Weak<Inner>);

impl WeakSession {
    /// The session, unless every owner has dropped it.
    pub(crate) fn upgrade(&self) -> Option<Session> {
        self.0.upgrade().map(Session)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(task) = self.keep_alive.get() {
            task.abort();
        }
    }
}

impl Session {
    /// Connects and logs in.
    ///
    /// # Errors
    /// [`Error::Unreachable`], [`Error::Trust`], or the fault of the login (`InvalidLogin`).
    pub async fn connect(options: Options) -> Result<Self> {
        let verifier = Verifier::new(options.trust.clone())?;
        let http = client(&verifier, &options.user_agent, Duration::from_secs(15))?;
        let mut inner = Inner {
            http,
            verifier,
            options,
            content: ServiceContent::default(),
            cookie: Mutex::new(None),
            over: AtomicBool::new(false),
            refused: OnceLock::new(),
            login: tokio::sync::Mutex::new(()),
            wire_log: WireLog::from_env(),
            watcher: OnceLock::new(),
            keep_alive: OnceLock::new(),
        };
        let this = ManagedObjectReference::new("ServiceInstance", "ServiceInstance");
        inner.content = inner.call_once(&methods::RetrieveServiceContent { this }, inner.options.deadline).await?;
        inner.log_in().await?;
        let session = Self(Arc::new(inner));
        session.keep_alive();
        Ok(session)
    }

    /// What the endpoint offers, and what it is (`about`).
    pub fn content(&self) -> &ServiceContent {
        &self.0.content
    }

    /// Whether this is vCenter; otherwise it is an ESXi host.
    pub fn is_vcenter(&self) -> bool {
        self.0.content.about.api_type == "VirtualCenter"
    }

    /// `host[:port]` of the target.
    pub fn target(&self) -> String {
        self.0.target()
    }

    /// The options that the session was opened with.
    pub fn options(&self) -> &Options {
        &self.0.options
    }

    /// Calls a method; logs in again and repeats it once when the session has gone.
    ///
    /// # Errors
    /// [`Error::Fault`] when vSphere refuses, others when it cannot be reached or understood.
    pub async fn call<M: Method>(&self, method: &M) -> Result<M::Response> {
        self.call_within(method, self.0.options.deadline).await
    }

    /// [`Self::call`] with a deadline of its own.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn call_within<M: Method>(&self, method: &M, deadline: Duration) -> Result<M::Response> {
        self.whole(|| self.once(method, deadline)).await
    }

    /// Does `work`; when that finds the session gone, logs in again and does it once more, from its beginning.
    pub(crate) async fn whole<T, F: Future<Output = Result<T>>>(&self, work: impl Fn() -> F) -> Result<T> {
        let cookie = self.0.cookie();
        match work().await {
            Err(e) if e.is_not_authenticated() => {
                if !self.0.log_in_again(cookie).await? {
                    return Err(e);
                }
                work().await
            }
            other => other,
        }
    }

    /// Calls a method with the session as it is: part of what [`Self::whole`] does.
    pub(crate) async fn once<M: Method>(&self, method: &M, deadline: Duration) -> Result<M::Response> {
        self.0.call_once(method, deadline).await
    }

    /// The session's update loop for tasks and single objects, started at first use.
    pub fn watcher(&self) -> &Watcher {
        self.0.watcher.get_or_init(|| Watcher::start(WeakSession(Arc::downgrade(&self.0))))
    }

    /// An update loop beside the session's one, for a watch on many objects: all of them would be told again whenever a task is
    /// waited for.
    pub fn another_watcher(&self) -> Watcher {
        Watcher::start(WeakSession(Arc::downgrade(&self.0)))
    }

    /// Ends the session on the server.  What still runs on it fails with `NotAuthenticated`.
    ///
    /// # Errors
    /// Those of the call; the session is forgotten all the same.
    pub async fn logout(&self) -> Result<()> {
        if let Some(watcher) = self.0.watcher.get() {
            watcher.stop();
        }
        if let Some(task) = self.0.keep_alive.get() {
            task.abort();
        }
        self.0.over.store(true, Ordering::SeqCst);
        // A login that is under way is ended, too.
        let _last = tokio::time::timeout(LOGOUT, self.0.login.lock()).await;
        let Some(this) = self.0.content.session_manager.clone() else { return Ok(()) };
        let outcome = self.0.call_once(&methods::Logout { this }, LOGOUT).await;
        *self.0.cookie.lock().unwrap_or_else(|e| e.into_inner()) = None;
        outcome
    }

    /// Why vSphere has refused to let this session log in again; it is of no use any more.
    pub fn refusal(&self) -> Option<Error> {
        self.0.refusal()
    }

    /// It was logged out.
    pub(crate) fn is_over(&self) -> bool {
        self.0.over.load(Ordering::SeqCst)
    }

    /// A request on the HTTP side of the endpoint (`/folder`), with the session's cookie.
    pub(crate) fn http(&self, method: reqwest::Method, url: Url) -> reqwest::RequestBuilder {
        let request = self.0.http.request(method, url);
        match self.0.cookie() {
            Some(cookie) => request.header(header::COOKIE, cookie),
            None => request,
        }
    }

    /// Turns an HTTP failure into ours: a certificate that was refused is told as such.
    pub(crate) fn http_error(&self, source: reqwest::Error) -> Error {
        self.0.http_error(source)
    }

    /// Logs in again unless somebody else has since `cookie` was read, or it was logged out.
    pub(crate) async fn renew(&self) -> Result<()> {
        let cookie = self.0.cookie();
        self.0.log_in_again(cookie).await.map(drop)
    }

    fn keep_alive(&self) {
        let weak = Arc::downgrade(&self.0);
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(KEEP_ALIVE).await;
                let Some(inner) = weak.upgrade() else { return };
                let this = ManagedObjectReference::new("ServiceInstance", "ServiceInstance");
                // A failure shows in the next call that matters.
                let _ = Self(inner).call(&methods::CurrentTime { this }).await;
            }
        });
        let _ = self.0.keep_alive.set(task.abort_handle());
    }
}

impl Inner {
    fn cookie(&self) -> Option<String> {
        self.cookie.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    fn target(&self) -> String {
        authority(&self.options.target)
    }

    fn http_error(&self, source: reqwest::Error) -> Error {
        self.verifier.failure(self.target(), source)
    }

    async fn log_in(&self) -> Result<()> {
        let this = self.content.session_manager.clone().ok_or_else(|| Error::Protocol {
            what: "RetrieveServiceContent".into(),
            reason: "no session manager".into(),
        })?;
        let Credentials { user, password } = &self.options.credentials;
        let password = password.reveal().to_owned();
        self.call_once(&methods::Login { this, user_name: user.clone(), password, locale: None }, self.options.deadline)
            .await
            .map(drop)
    }

    /// Whether there is a session after it.
    async fn log_in_again(&self, stale: Option<String>) -> Result<bool> {
        let _one_at_a_time = self.login.lock().await;
        if self.over.load(Ordering::SeqCst) {
            return Ok(false);
        }
        if self.cookie() == stale {
            if let Some(refusal) = self.refusal() {
                return Err(refusal);
            }
            self.log_in().await.inspect_err(|e| {
                if let Some(fault) = e.fault().filter(|_| e.is_refused_login()) {
                    let _ = self.refused.set(Box::new(fault.clone()));
                }
            })?;
        }
        Ok(true)
    }

    fn refusal(&self) -> Option<Error> {
        let fault = self.refused.get()?.clone();
        let object = self.content.session_manager.clone().unwrap_or_default();
        Some(Error::Fault { method: methods::Login::NAME.to_owned(), object, fault })
    }

    async fn call_once<M: Method>(&self, method: &M, deadline: Duration) -> Result<M::Response> {
        let number = self.wire_log.next();
        let request = soap::request(method);
        self.wire_log.write(number, &format!("{}-request", M::NAME), &request);
        let exchange = self.exchange(request);
        let (text, cookie) = tokio::time::timeout(deadline, exchange)
            .await
            .map_err(|_| Error::Deadline { what: format!("{} on {}", M::NAME, method.this()), after: deadline })??;
        self.wire_log.write(number, &format!("{}-response", M::NAME), &text);
        let protocol = |reason: String| Error::Protocol { what: format!("{} on {}", M::NAME, method.this()), reason };
        match soap::open(&text).map_err(|e| protocol(e.to_string()))? {
            Body::Call(el) => {
                // Another answer's would pass for a login: a server that does not know the cookie may give a new one with its fault.
                if matches!(M::NAME, methods::RetrieveServiceContent::NAME | methods::Login::NAME) && cookie.is_some() {
                    *self.cookie.lock().unwrap_or_else(|e| e.into_inner()) = cookie;
                }
                M::decode_response(&el).map_err(|e| protocol(e.to_string()))
            }
            Body::Fault(fault) => {
                Err(Error::Fault { method: M::NAME.to_owned(), object: method.this().clone(), fault })
            }
        }
    }

    /// The answer, with the session cookie that it sets.
    async fn exchange(&self, envelope: String) -> Result<(String, Option<String>)> {
        let mut url = self.options.target.clone();
        url.set_path("/sdk");
        let mut request = self
            .http
            .post(url.clone())
            .header(header::CONTENT_TYPE, "text/xml; charset=\"utf-8\"")
            .header("SOAPAction", "urn:vim25/6.5")
            .body(envelope);
        if let Some(cookie) = self.cookie() {
            request = request.header(header::COOKIE, cookie);
        }
        let response = request.send().await.map_err(|e| self.http_error(e))?;
        let status = response.status().as_u16();
        let cookie = session_cookie(response.headers());
        let text = response.text().await.map_err(|e| self.http_error(e))?;
        // A fault comes with status 500 and an envelope.
        if status != 200 && !text.contains("Envelope") {
            return Err(Error::Http { url: url.to_string(), status });
        }
        Ok((text, cookie))
    }
}

/// An HTTP client whose servers are judged by `verifier`.
pub(crate) fn client(verifier: &Arc<Verifier>, user_agent: &str, connect: Duration) -> Result<reqwest::Client> {
    reqwest::Client::builder()
        .tls_backend_preconfigured(verifier.client_config()?)
        .user_agent(user_agent)
        .connect_timeout(connect)
        .tcp_keepalive(Duration::from_secs(30))
        .no_proxy()
        .build()
        .map_err(|e| Error::Invalid(format!("no HTTP client can be made: {e}")))
}

/// `host[:port]` of an address.
pub(crate) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or("");
    url.port().map_or_else(|| host.to_owned(), |p| format!("{host}:{p}"))
}

/// `name=value` of the session cookie, if the answer sets it.
fn session_cookie(headers: &header::HeaderMap) -> Option<String> {
    headers
        .get_all(header::SET_COOKIE)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .find(|v| v.starts_with("vmware_soap_session="))
        .map(|v| v.split(';').next().unwrap_or(v).to_owned())
}
