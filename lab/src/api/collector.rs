//! The property collector: reads with paging, filters, and waiting for what changes.
//!
//! A collector knows two states of each filter: what the client has confirmed by naming its version, and what it was
//! sent after that.  A client that lost an answer asks with the version before it and is told again.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use vim25_types::soap::{self, Fault};
use vim25_types::xml::Element;
use vim25_types::{
    InvalidCollectorVersion, ManagedObjectReference as Moref, Method, PropertyFilterSpec, RequestCanceled, Value,
    methods as m,
};

use super::dispatch::Cx;
use super::fault;
use super::select::{Found, Properties, Scope};

/// Most objects in one page; vSphere chooses a limit of its own too.
const PAGE: usize = 1000;

/// A property collector.
#[derive(Debug, Default)]
pub(crate) struct Collector {
    state: Mutex<State>,
    cancel: Notify,
    /// A filter was made or destroyed.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    filters: BTreeMap<String, Filter>,
    /// The version that the client has confirmed.
    confirmed: u64,
    /// The version that it was sent last.
    sent: u64,
    pages: HashMap<String, VecDeque<Element>>,
}

#[derive(Debug)]
struct Filter {
    spec: PropertyFilterSpec,
    confirmed: Found,
    sent: Found,
}

impl Collector {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What each filter finds now.  The collector is not locked meanwhile: looking at objects may ask for its filters.
    fn look(&self, cx: &Cx) -> HashMap<String, Found> {
        let specs: Vec<_> = self.lock().filters.iter().map(|(id, f)| (id.clone(), f.spec.clone())).collect();
        cx.lab.read(|world| {
            let scope = Scope { world, lab: &cx.lab, session: cx.session.as_ref() };
            // Objects that have gone are told as having left; a path is known to be good since the filter was made.
            specs.into_iter().map(|(id, spec)| (id, scope.find(&spec, &mut Vec::new()).unwrap_or_default())).collect()
        })
    }

    /// Whether it has the filter `id`.
    pub(crate) fn has_filter(&self, id: &str) -> bool {
        self.lock().filters.contains_key(id)
    }
}

/// The collector `this` of the caller's session.
fn collector(cx: &Cx, this: &Moref) -> Result<Arc<Collector>, Fault> {
    Ok(cx.session()?.holdings().collectors.entry(this.value.clone()).or_default().clone())
}

fn respond(method: &str, results: Vec<Element>) -> String {
    let mut response = Element::new(format!("{method}Response"));
    response.children = results;
    soap::envelope(&response)
}

fn object_content(name: &str, object: &Moref, properties: &[(String, Option<Element>)]) -> Element {
    let mut content = Element::new(name);
    content.children.push(object.encode("obj"));
    for (path, value) in properties {
        if let Some(value) = value {
            let mut set = Element::new("propSet");
            set.children = vec![Element::with_text("name", path), value.clone()];
            content.children.push(set);
        }
    }
    content
}

/// An object with the properties that were asked of it.
type Selected = (Moref, Properties);

fn find_all(cx: &Cx, specs: &[PropertyFilterSpec]) -> Result<Vec<Selected>, Fault> {
    cx.lab.read(|world| {
        let scope = Scope { world, lab: &cx.lab, session: cx.session.as_ref() };
        let mut all = Vec::new();
        for spec in specs {
            let mut missing = Vec::new();
            all.extend(scope.find(spec, &mut missing)?);
            if let Some(object) = missing.first() {
                return Err(fault::not_found(object));
            }
        }
        Ok(all)
    })
}

fn decode<M: Method>(this: Moref, call: &Element) -> Result<M, Fault> {
    M::decode_params(this, call).map_err(|e| fault::invalid_request(&e.to_string()))
}

pub(super) fn fetch(cx: &Cx, this: Moref, call: &Element) -> Result<String, Fault> {
    let path = call.child("prop").map(|p| p.text.clone()).unwrap_or_default();
    let value = cx.lab.read(|world| {
        let scope = Scope { world, lab: &cx.lab, session: cx.session.as_ref() };
        let kind = scope.kind(&this).ok_or_else(|| fault::not_found(&this))?;
        scope.value(&this, &kind, &path)
    })?;
    let result = value.map(|mut value| {
        "returnval".clone_into(&mut value.name);
        value
    });
    Ok(respond(&cx.method, result.into_iter().collect()))
}

pub(super) fn retrieve_properties(cx: &Cx, this: Moref, call: &Element) -> Result<String, Fault> {
    let request: m::RetrieveProperties = decode(this, call)?;
    let found = find_all(cx, &request.spec_set)?;
    let contents = found.iter().map(|(object, properties)| object_content("returnval", object, properties));
    Ok(respond(&cx.method, contents.collect()))
}

pub(super) fn retrieve_properties_ex(cx: &Cx, this: Moref, call: &Element) -> Result<String, Fault> {
    let request: m::RetrievePropertiesEx = decode(this.clone(), call)?;
    let limit = match request.options.max_objects {
        None => PAGE,
        Some(n) => usize::try_from(n)
            .ok()
            .filter(|&n| n > 0)
            .ok_or_else(|| fault::invalid_argument("options.maxObjects", "it must be positive"))?
            .min(PAGE),
    };
    let found = find_all(cx, &request.spec_set)?;
    let objects: VecDeque<Element> =
        found.iter().map(|(object, properties)| object_content("objects", object, properties)).collect();
    if objects.is_empty() {
        return Ok(respond(&cx.method, Vec::new()));
    }
    page(cx, &this, objects, limit)
}

/// Answers with the next `limit` objects and keeps the rest behind a token.
fn page(cx: &Cx, this: &Moref, mut objects: VecDeque<Element>, limit: usize) -> Result<String, Fault> {
    let rest = objects.split_off(limit.min(objects.len()));
    let mut result = Element::new("returnval");
    if !rest.is_empty() {
        let token = format!("{limit}:{}", uuid::Uuid::new_v4().simple());
        result.children.push(Element::with_text("token", &token));
        collector(cx, this)?.lock().pages.insert(token, rest);
    }
    result.children.extend(objects);
    Ok(respond(&cx.method, vec![result]))
}

pub(super) fn continue_retrieve(cx: &Cx, this: Moref, call: &Element) -> Result<String, Fault> {
    let request: m::ContinueRetrievePropertiesEx = decode(this.clone(), call)?;
    let rest = collector(cx, &this)?.lock().pages.remove(&request.token);
    let rest = rest.ok_or_else(|| fault::invalid_property("token"))?;
    let limit = request.token.split(':').next().and_then(|n| n.parse().ok()).unwrap_or(PAGE);
    page(cx, &this, rest, limit)
}

pub(super) async fn cancel_retrieve(cx: &Cx, request: m::CancelRetrievePropertiesEx) -> Result<(), Fault> {
    let gone = collector(cx, &request.this)?.lock().pages.remove(&request.token);
    gone.map(|_| ()).ok_or_else(|| fault::invalid_property("token"))
}

pub(super) async fn create_filter(cx: &Cx, request: m::CreateFilter) -> Result<Moref, Fault> {
    // A spec that cannot be followed is refused now, and one about objects that are gone too.
    find_all(cx, std::slice::from_ref(&request.spec))?;
    let collector = collector(cx, &request.this)?;
    let id = format!("session[{}]{}", cx.session()?.key, uuid::Uuid::new_v4());
    let filter = Filter { spec: request.spec, confirmed: Found::new(), sent: Found::new() };
    collector.lock().filters.insert(id.clone(), filter);
    collector.changed.notify_waiters();
    Ok(Moref::new("PropertyFilter", id))
}

pub(super) async fn destroy_filter(cx: &Cx, request: m::DestroyPropertyFilter) -> Result<(), Fault> {
    let collectors: Vec<_> = cx.session()?.holdings().collectors.values().cloned().collect();
    for collector in collectors {
        if collector.lock().filters.remove(&request.this.value).is_some() {
            collector.changed.notify_waiters();
        }
    }
    Ok(())
}

pub(super) async fn cancel_wait(cx: &Cx, request: m::CancelWaitForUpdates) -> Result<(), Fault> {
    collector(cx, &request.this)?.cancel.notify_waiters();
    Ok(())
}

pub(super) async fn create(cx: &Cx, _: m::CreatePropertyCollector) -> Result<Moref, Fault> {
    let session = cx.session()?;
    let id = format!("session[{}]{}", session.key, uuid::Uuid::new_v4());
    session.holdings().collectors.insert(id.clone(), Arc::default());
    Ok(Moref::new("PropertyCollector", id))
}

pub(super) async fn destroy(cx: &Cx, request: m::DestroyPropertyCollector) -> Result<(), Fault> {
    if let Some(collector) = cx.session()?.holdings().collectors.remove(&request.this.value) {
        collector.cancel.notify_waiters();
    }
    Ok(())
}

/// What a call to wait asks for.
struct Wait {
    version: String,
    patience: Option<Duration>,
    limit: usize,
}

fn read_wait(method: &str, this: Moref, call: &Element) -> Result<Wait, Fault> {
    if method != "WaitForUpdatesEx" {
        let version = call.child("version").map(|v| v.text.clone()).unwrap_or_default();
        let patience = (method == "CheckForUpdates").then_some(Duration::ZERO);
        return Ok(Wait { version, patience, limit: usize::MAX });
    }
    let request: m::WaitForUpdatesEx = decode(this, call)?;
    let options = request.options.unwrap_or_default();
    let bad = |name: &str| fault::invalid_argument(name, "it must not be negative");
    let patience = options.max_wait_seconds.map(|n| u64::try_from(n).map_err(|_| bad("options.maxWaitSeconds")));
    let limit = options.max_object_updates.map(|n| usize::try_from(n).map_err(|_| bad("options.maxObjectUpdates")));
    Ok(Wait {
        version: request.version.unwrap_or_default(),
        patience: patience.transpose()?.map(Duration::from_secs),
        limit: limit.transpose()?.filter(|&n| n > 0).unwrap_or(usize::MAX),
    })
}

pub(super) async fn wait(cx: &Cx, this: Moref, call: &Element) -> Result<String, Fault> {
    let wait = read_wait(&cx.method, this.clone(), call)?;
    let collector = collector(cx, &this)?;
    collector.lock().confirm(&wait.version)?;
    let mut world = cx.lab.watch();
    let deadline = wait.patience.map(|p| tokio::time::Instant::now() + p);
    loop {
        // Armed before looking, so that what happens in between is not missed.
        world.mark_unchanged();
        let cancelled = collector.cancel.notified();
        let refiltered = collector.changed.notified();
        tokio::pin!(cancelled, refiltered);
        cancelled.as_mut().enable();
        refiltered.as_mut().enable();
        let found = collector.look(cx);
        if let Some(set) = collector.lock().updates(found, wait.limit) {
            return Ok(respond(&cx.method, vec![set]));
        }
        let expiry = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = expiry => return Ok(respond(&cx.method, Vec::new())),
            () = cancelled => return Err(Fault::new(RequestCanceled::default(), "The request was canceled by a user.")),
            () = refiltered => {}
            changed = world.changed() => if changed.is_err() {
                return Err(Fault::new(RequestCanceled::default(), "The lab is shutting down."));
            },
        }
        // A session that has ended since is told so.
        let session = cx.session()?;
        cx.lab.sessions().find(&session.key).ok_or_else(fault::not_authenticated)?;
    }
}

impl State {
    /// Takes the version that the client has.
    fn confirm(&mut self, version: &str) -> Result<(), Fault> {
        if version.is_empty() {
            for filter in self.filters.values_mut() {
                filter.confirmed.clear();
                filter.sent.clear();
            }
            self.confirmed = self.sent;
            return Ok(());
        }
        let number = version.parse::<u64>().ok();
        if number == Some(self.sent) && self.sent > 0 {
            self.confirmed = self.sent;
            for filter in self.filters.values_mut() {
                filter.confirmed.clone_from(&filter.sent);
            }
            return Ok(());
        }
        if number == Some(self.confirmed) && self.confirmed > 0 {
            return Ok(());
        }
        let message = format!("The version {version} is not one of this collector.");
        Err(Fault::new(InvalidCollectorVersion::default(), message))
    }

    /// What has changed since the confirmed version, if anything has.
    fn updates(&mut self, mut found: HashMap<String, Found>, limit: usize) -> Option<Element> {
        let mut left = limit;
        let mut sets = Vec::new();
        let mut truncated = false;
        for (id, filter) in &mut self.filters {
            // A filter that was made since then is looked at the next time.
            let Some(found) = found.remove(id) else { continue };
            let mut reached = filter.confirmed.clone();
            let mut updates = Vec::new();
            for (object, update) in differences(&filter.confirmed, &found) {
                if left == 0 {
                    truncated = true;
                    break;
                }
                left -= 1;
                match found.get(&object) {
                    Some(properties) => reached.insert(object, properties.clone()),
                    None => reached.remove(&object),
                };
                updates.push(update);
            }
            filter.sent = reached;
            if !updates.is_empty() {
                let mut set = Element::new("filterSet");
                set.children.push(Moref::new("PropertyFilter", id).encode("filter"));
                set.children.extend(updates);
                sets.push(set);
            }
        }
        if sets.is_empty() {
            return None;
        }
        self.sent += 1;
        let mut set = Element::new("returnval");
        set.children.push(Element::with_text("version", self.sent.to_string()));
        set.children.extend(sets);
        if truncated {
            set.children.push(true.encode("truncated"));
        }
        Some(set)
    }
}

/// The object updates that lead from one state to the other.
fn differences(before: &Found, after: &Found) -> Vec<(Moref, Element)> {
    let mut all = Vec::new();
    for (object, properties) in after {
        let known = before.get(object);
        let mut changes = Vec::new();
        for (path, value) in properties {
            let old = known.and_then(|k| k.iter().find(|(p, _)| p == path)).map(|(_, v)| v);
            // What an object enters without is not worth a word.
            let same = old.map_or(value.is_none(), |old| old == value);
            if !same {
                let mut change = Element::new("changeSet");
                change.children.push(Element::with_text("name", path));
                change.children.push(Element::with_text("op", "assign"));
                change.children.extend(value.clone());
                changes.push(change);
            }
        }
        if known.is_none() || !changes.is_empty() {
            all.push((object.clone(), update(object, if known.is_none() { "enter" } else { "modify" }, changes)));
        }
    }
    for object in before.keys().filter(|o| !after.contains_key(*o)) {
        all.push((object.clone(), update(object, "leave", Vec::new())));
    }
    all
}

fn update(object: &Moref, kind: &str, changes: Vec<Element>) -> Element {
    let mut update = Element::new("objectSet");
    update.children.push(Element::with_text("kind", kind));
    update.children.push(object.encode("obj"));
    update.children.extend(changes);
    update
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(pairs: &[(&str, &str)]) -> Found {
        pairs
            .iter()
            .map(|(id, name)| {
                let value = Element::with_text("val", *name);
                (Moref::new("VirtualMachine", *id), vec![("name".to_owned(), Some(value))])
            })
            .collect()
    }

    #[test]
    fn objects_enter_change_and_leave() {
        let before = state(&[("vm-1", "a"), ("vm-2", "b"), ("vm-3", "c")]);
        let after = state(&[("vm-1", "a"), ("vm-2", "x"), ("vm-4", "d")]);
        let told: Vec<_> = differences(&before, &after)
            .iter()
            .map(|(object, update)| (object.value.clone(), update.child("kind").unwrap().text.clone()))
            .collect();
        let expected = [("vm-2", "modify"), ("vm-4", "enter"), ("vm-3", "leave")];
        assert_eq!(told, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    }

    #[test]
    fn a_lost_answer_is_told_again() {
        let mut state = State { confirmed: 3, sent: 4, ..State::default() };
        state.confirm("3").unwrap();
        assert_eq!(state.confirmed, 3);
        state.confirm("4").unwrap();
        assert_eq!(state.confirmed, 4);
        assert_eq!(state.confirm("2").unwrap_err().type_name(), "InvalidCollectorVersion");
        state.confirm("").unwrap();
    }
}
