//! Service tickets: one request of a host's, for whoever vCenter lets make it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::{Method, Uri};
use vim25_types::soap::Fault;
use vim25_types::{
    AnySessionManagerServiceRequestSpec as Spec, SessionManagerGenericServiceTicket as Shown, methods as m,
};

use super::access::Role;
use super::dispatch::Cx;
use super::fault;
use crate::world::Object;

/// How long a ticket that nobody has used stays good.
const LIFE: Duration = Duration::from_secs(60);

/// A ticket.
#[derive(Debug)]
pub(crate) struct Ticket {
    /// The host that it is for, by its id.
    pub(super) host: String,
    /// Of who asked for it.
    pub(super) role: Role,
    method: Method,
    /// Path and query.
    target: String,
    until: Instant,
}

/// The tickets that nobody has used.
#[derive(Debug, Default)]
pub(crate) struct Tickets(Mutex<HashMap<String, Ticket>>);

impl Tickets {
    fn add(&self, ticket: Ticket) -> String {
        let id = uuid::Uuid::new_v4().to_string();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, t| t.until > Instant::now());
        all.insert(id.clone(), ticket);
        id
    }

    /// Uses a ticket up, for whatever it is shown; gives it when it is one for this request at the time `now`.
    pub(super) fn take(&self, id: &str, method: &Method, target: &Uri, now: Instant) -> Option<Ticket> {
        let ticket = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id)?;
        let fits = ticket.until > now
            && ticket.method == method
            && target.path_and_query().is_some_and(|t| t.as_str() == ticket.target);
        fits.then_some(ticket)
    }
}

pub(super) async fn acquire(cx: &Cx, request: m::AcquireGenericServiceTicket) -> Result<Shown, Fault> {
    let Spec::SessionManagerHttpServiceRequestSpec(spec) = request.spec else {
        return Err(fault::invalid_argument("spec", "it is no request of HTTP"));
    };
    let method = match spec.method.as_deref() {
        Some("httpGet") | None => Method::GET,
        Some("httpHead") => Method::HEAD,
        Some(other) => return Err(fault::invalid_argument("spec.method", other)),
    };
    let wrong = || fault::invalid_argument("spec.url", &spec.url);
    let url: Uri = spec.url.parse().map_err(|_| wrong())?;
    let (name, target) = (url.host().ok_or_else(wrong)?, url.path_and_query().ok_or_else(wrong)?);
    let host = cx.lab.read(|w| {
        let mut hosts = w.entries().filter(|e| matches!(e.object, Object::Host(_)));
        hosts.find(|e| e.name == name).map(|e| e.id.clone())
    });
    let ticket = Ticket {
        host: host.ok_or_else(wrong)?,
        role: cx.session()?.role,
        method,
        target: target.to_string(),
        until: Instant::now() + LIFE,
    };
    Ok(Shown {
        id: cx.lab.tickets().add(ticket),
        // All hosts are where the API is: they are told apart by their tickets.
        host_name: Some(cx.at.to_string()),
        ssl_thumbprint: Some(cx.lab.thumbprint().to_owned()),
        ..Shown::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_for_one_request_and_not_for_ever() {
        let now = Instant::now();
        let tickets = Tickets::default();
        let taken = |method, target: &'static str, later| {
            let id = tickets.add(Ticket {
                host: "host-1".into(),
                role: Role::Administrator,
                method: Method::GET,
                target: "/folder/a?dsName=b".into(),
                until: now + LIFE,
            });
            let first = tickets.take(&id, &method, &Uri::from_static(target), now + later).is_some();
            (first, tickets.take(&id, &Method::GET, &Uri::from_static("/folder/a?dsName=b"), now).is_some())
        };
        for (method, target, later, good) in [
            (Method::GET, "/folder/a?dsName=b", Duration::ZERO, true),
            (Method::GET, "/folder/a?dsName=b", LIFE, false),
            (Method::PUT, "/folder/a?dsName=b", Duration::ZERO, false),
            (Method::GET, "/folder/c?dsName=b", Duration::ZERO, false),
            (Method::GET, "/folder/a", Duration::ZERO, false),
        ] {
            assert_eq!(taken(method.clone(), target, later), (good, false), "{method} {target} after {later:?}");
        }
    }
}
