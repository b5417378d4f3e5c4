//! `GET /events`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::{
    Extension, Router,
    body::Body,
    extract::{Query, State as Shared},
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::stream;
use port_layer::container::events::Event;
use port_layer::container::table::Change;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::time::{Instant, timeout_at};

use super::query::timestamp;
use super::{State, filter, words};
use crate::error::ApiError;
use crate::version::ApiVersion;

pub(super) fn routes() -> Router<Arc<State>> {
    Router::new().route("/events", get(events))
}

#[derive(Debug, Deserialize)]
struct EventsQuery {
    since: Option<String>,
    until: Option<String>,
    filters: Option<String>,
}

/// What a client listens to.
struct Listening {
    past: VecDeque<Arc<Event>>,
    next: Receiver<Arc<Event>>,
    filters: Filters,
    since_ns: u64,
    until: Option<(u64, Instant)>,
    version: ApiVersion,
}

async fn events(
    Shared(state): Shared<Arc<State>>,
    Extension(version): Extension<ApiVersion>,
    Query(query): Query<EventsQuery>,
) -> Result<Response, ApiError> {
    let filters = Filters::read(query.filters.as_deref().unwrap_or_default())?;
    let since = timestamp("since", query.since.as_ref())?;
    let until = timestamp("until", query.until.as_ref())?;
    if since.zip(until).is_some_and(|(since, until)| since > until) {
        return Err(ApiError::Bad("`since` time cannot be after `until` time".to_owned()));
    }
    let (past, next) = state.reach.history().listen();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // Only who asks for a time hears of what has been.
    let past = if since.or(until).is_some() { past.into() } else { VecDeque::new() };
    let until = until.map(|ns| {
        let left = Duration::from_nanos(ns).saturating_sub(now).min(Duration::from_secs(100 * 365 * 24 * 3600));
        (ns, Instant::now() + left)
    });
    let listening = Listening { past, next, filters, since_ns: since.unwrap_or(0), until, version };
    let body = stream::unfold(listening, async |mut listening| {
        let event = listening.hear().await?;
        let mut line = message(&event, listening.version).to_string();
        line.push('\n');
        Some((Ok::<_, std::convert::Infallible>(line), listening))
    });
    Ok(([(CONTENT_TYPE, "application/json")], Body::from_stream(body)).into_response())
}

impl Listening {
    /// The next event that is wanted; none when there will be none.
    async fn hear(&mut self) -> Option<Arc<Event>> {
        loop {
            let event = match self.past.pop_front() {
                Some(event) => event,
                None => self.next().await?,
            };
            if self.until.is_some_and(|(until, _)| event.time_ns > until) {
                return None;
            }
            if event.time_ns >= self.since_ns && self.filters.accept(&event) {
                return Some(event);
            }
        }
    }

    async fn next(&mut self) -> Option<Arc<Event>> {
        loop {
            let next = match self.until {
                Some((_, end)) => timeout_at(end, self.next.recv()).await.ok()?,
                None => self.next.recv().await,
            };
            match next {
                Ok(event) => return Some(event),
                // A client that was too slow goes on with what is still there.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

const KNOWN: [&str; 14] = [
    "config",
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "network",
    "node",
    "plugin",
    "scope",
    "secret",
    "service",
    "type",
    "volume",
];

/// Values of each key; of one key any may match, of labels each must.
#[derive(Debug)]
struct Filters(BTreeMap<String, BTreeSet<String>>);

impl Filters {
    fn read(text: &str) -> Result<Self, ApiError> {
        let read = filter::read(text)?;
        match read.keys().find(|key| !KNOWN.contains(&key.as_str())) {
            Some(key) => Err(ApiError::Bad(format!("invalid filter '{key}'"))),
            None => Ok(Self(read)),
        }
    }

    fn accept(&self, event: &Event) -> bool {
        let record = &event.record;
        self.0.iter().all(|(key, values)| match key.as_str() {
            "type" => values.contains("container"),
            "scope" => values.contains("local"),
            "event" => values.contains(action(&event.change)),
            "container" => {
                values.iter().any(|v| record.id.starts_with(v.as_str()) || record.name == v.trim_start_matches('/'))
            }
            "image" => values.iter().any(|v| words::is_image(record, v)),
            "label" => {
                let labels = words::config(record).labels.unwrap_or_default();
                values.iter().all(|v| words::has_label(&labels, v))
            }
            // No container is a network, a volume or a plugin.
            _ => false,
        })
    }
}

/// Docker's word for what has happened.
fn action(change: &Change) -> &'static str {
    match change {
        Change::Create => "create",
        Change::Start => "start",
        Change::Oom => "oom",
        Change::Kill { .. } => "kill",
        Change::Die { .. } => "die",
        Change::Stop => "stop",
        Change::Restart => "restart",
        Change::Pause => "pause",
        Change::Unpause => "unpause",
        Change::Rename { .. } => "rename",
        Change::Destroy => "destroy",
        Change::Attach => "attach",
        Change::Detach => "detach",
        Change::Resize { .. } => "resize",
        Change::Top => "top",
        Change::ExecCreate { .. } => "exec_create",
        Change::ExecStart { .. } => "exec_start",
        Change::ExecDie { .. } => "exec_die",
    }
}

fn message(event: &Event, version: ApiVersion) -> Value {
    let record = &event.record;
    let mut attributes: BTreeMap<String, String> =
        words::config(record).labels.unwrap_or_default().into_iter().collect();
    attributes.insert("image".to_owned(), record.image.clone());
    attributes.insert("name".to_owned(), record.name.clone());
    match &event.change {
        Change::Die { code } => drop(attributes.insert("exitCode".to_owned(), code.to_string())),
        Change::Kill { signal } => drop(attributes.insert("signal".to_owned(), signal.to_string())),
        Change::Resize { width, height } => {
            attributes.insert("width".to_owned(), width.to_string());
            attributes.insert("height".to_owned(), height.to_string());
        }
        Change::ExecCreate { id, .. } | Change::ExecStart { id, .. } => {
            attributes.insert("execID".to_owned(), id.clone());
        }
        Change::ExecDie { id, code } => {
            attributes.insert("execID".to_owned(), id.clone());
            attributes.insert("exitCode".to_owned(), code.to_string());
        }
        Change::Rename { old } => drop(attributes.insert("oldName".to_owned(), format!("/{old}"))),
        _ => {}
    }
    let mut action = action(&event.change).to_owned();
    if let Change::ExecCreate { command, .. } | Change::ExecStart { command, .. } = &event.change {
        action.push_str(": ");
        action.push_str(command);
    }
    let mut message = json!({
        "Type": "container",
        "Action": action,
        "Actor": {"ID": record.id, "Attributes": attributes},
        "scope": "local",
        "time": event.time_ns / 1_000_000_000,
        "timeNano": event.time_ns,
    });
    if version < ApiVersion::new(1, 52) {
        // Clients of long ago read these.
        message["status"] = json!(action);
        message["id"] = json!(record.id);
        message["from"] = json!(record.image);
    }
    message
}

#[cfg(test)]
mod tests {
    use port_layer::container::record::Record;

    use super::*;

    fn event(change: Change) -> Event {
        let record = Record {
            schema: 1,
            id: "ab12".into(),
            name: "web".into(),
            vch: "v".into(),
            created_ns: 1,
            image: "nginx:1".into(),
            image_id: "sha256:77".into(),
            disk: String::new(),
            config: r#"{"Labels":{"tier":"front"}}"#.into(),
            host_config: "{}".into(),
        };
        Event { time_ns: 2_000_000_003, record, change }
    }

    #[test]
    fn an_event_is_dockers() {
        let message = message(&event(Change::Die { code: 3 }), ApiVersion::new(1, 41));
        assert_eq!(
            message,
            json!({
                "Type": "container", "Action": "die", "scope": "local", "time": 2, "timeNano": 2_000_000_003_u64,
                "status": "die", "id": "ab12", "from": "nginx:1",
                "Actor": {"ID": "ab12", "Attributes": {"exitCode": "3", "image": "nginx:1", "name": "web", "tier": "front"}},
            })
        );
    }

    #[test]
    fn filters_choose() {
        let die = event(Change::Die { code: 3 });
        for (text, expected) in [
            ("", true),
            (r#"{"event":{"die":true},"container":["/web"]}"#, true),
            (r#"{"event":["start","die"],"type":["container"],"label":["tier=front"]}"#, true),
            (r#"{"container":["ab"],"image":["nginx:1"]}"#, true),
            (r#"{"event":["start"]}"#, false),
            (r#"{"type":["image"]}"#, false),
            (r#"{"label":["tier=front","owner"]}"#, false),
            (r#"{"volume":["web"]}"#, false),
        ] {
            assert_eq!(Filters::read(text).unwrap().accept(&die), expected, "{text}");
        }
        assert_eq!(Filters::read(r#"{"colour":["red"]}"#).unwrap_err().to_string(), "invalid filter 'colour'");
    }
}
