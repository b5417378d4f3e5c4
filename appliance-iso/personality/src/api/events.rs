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
use port_layer::container::events::{Event, ImageChange, Subject};
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
        match &event.subject {
            Subject::Container { record, change } => self.0.iter().all(|(key, values)| match key.as_str() {
                "type" => values.contains("container"),
                "scope" => values.contains("local"),
                "event" => values.contains(action(change)) || values.contains(&whole_action(change)),
                "container" => values.iter().any(|v| {
                    let wanted = v.trim_start_matches('/');
                    // As with Docker, the beginning of either will do.
                    !wanted.is_empty() && (record.id.starts_with(wanted) || record.name.starts_with(wanted))
                }),
                "image" => values.iter().any(|v| words::is_image(record, v)),
                "label" => {
                    let labels = words::config(record).labels.unwrap_or_default();
                    values.iter().all(|v| words::has_label(&labels, v))
                }
                // No container is a network, a volume or a plugin.
                _ => false,
            }),
            Subject::Image { id, name, change } => self.0.iter().all(|(key, values)| match key.as_str() {
                "type" => values.contains("image"),
                "scope" => values.contains("local"),
                "event" => values.contains(image_action(*change)),
                "image" => values.iter().any(|v| {
                    let untagged = name.rsplit_once(':').map_or(name.as_str(), |(untagged, _)| untagged);
                    id == v || name == v || untagged == v
                }),
                _ => false,
            }),
        }
    }
}

/// Docker's word for what has happened to an image.
fn image_action(change: ImageChange) -> &'static str {
    match change {
        ImageChange::Pull => "pull",
        ImageChange::Tag => "tag",
        ImageChange::Untag => "untag",
        ImageChange::Delete => "delete",
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
        Change::Health { .. } => "health_status",
        Change::Attach => "attach",
        Change::Detach => "detach",
        Change::Resize { .. } => "resize",
        Change::Top => "top",
        Change::ExecCreate { .. } => "exec_create",
        Change::ExecStart { .. } => "exec_start",
        Change::ExecDie { .. } => "exec_die",
    }
}

/// Docker's word for what has happened, and to what of the container.
fn whole_action(change: &Change) -> String {
    match change {
        Change::ExecCreate { command, .. } | Change::ExecStart { command, .. } => {
            format!("{}: {command}", action(change))
        }
        Change::Health { status } => format!("{}: {}", action(change), status.word()),
        _ => action(change).to_owned(),
    }
}

fn message(event: &Event, version: ApiVersion) -> Value {
    match &event.subject {
        Subject::Container { record, change } => {
            let labels = words::config(record).labels.unwrap_or_default();
            let mut attributes: BTreeMap<String, String> = labels.into_iter().collect();
            attributes.insert("image".to_owned(), record.image.clone());
            attributes.insert("name".to_owned(), record.name.clone());
            attributes.extend(details(change).into_iter().map(|(name, value)| (name.to_owned(), value)));
            let action = whole_action(change);
            let said = Said { kind: "container", id: &record.id, action: &action, from: Some(&record.image) };
            said.message(event.time_ns, &attributes, version)
        }
        Subject::Image { id, name, change } => {
            let attributes = BTreeMap::from([("name".to_owned(), name.clone())]);
            let said = Said { kind: "image", id, action: image_action(*change), from: None };
            said.message(event.time_ns, &attributes, version)
        }
    }
}

/// What a change has besides its name.
fn details(change: &Change) -> Vec<(&'static str, String)> {
    match change {
        Change::Die { code } => vec![("exitCode", code.to_string())],
        Change::Kill { signal } => vec![("signal", signal.to_string())],
        Change::Resize { width, height } => vec![("width", width.to_string()), ("height", height.to_string())],
        Change::ExecCreate { id, .. } | Change::ExecStart { id, .. } => vec![("execID", id.clone())],
        Change::ExecDie { id, code } => vec![("execID", id.clone()), ("exitCode", code.to_string())],
        Change::Rename { old } => vec![("oldName", format!("/{old}"))],
        _ => Vec::new(),
    }
}

/// An event in Docker's words.
struct Said<'a> {
    kind: &'a str,
    id: &'a str,
    action: &'a str,
    from: Option<&'a String>,
}

impl Said<'_> {
    fn message(&self, time_ns: u64, attributes: &BTreeMap<String, String>, version: ApiVersion) -> Value {
        let mut message = json!({
            "Type": self.kind,
            "Action": self.action,
            "Actor": {"ID": self.id, "Attributes": attributes},
            "scope": "local",
            "time": time_ns / 1_000_000_000,
            "timeNano": time_ns,
        });
        if version < ApiVersion::new(1, 52) {
            // Clients of long ago read these.
            message["status"] = json!(self.action);
            message["id"] = json!(self.id);
            if let Some(from) = self.from {
                message["from"] = json!(from);
            }
        }
        message
    }
}

#[cfg(test)]
mod tests {
    use port_layer::container::health::Status;
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
        Event { time_ns: 2_000_000_003, subject: Subject::Container { record: Box::new(record), change } }
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
            (r#"{"container":["we"]}"#, true),
            (r#"{"container":["b"]}"#, false),
            (r#"{"event":["start"]}"#, false),
            (r#"{"type":["image"]}"#, false),
            (r#"{"label":["tier=front","owner"]}"#, false),
            (r#"{"volume":["web"]}"#, false),
        ] {
            assert_eq!(Filters::read(text).unwrap().accept(&die), expected, "{text}");
        }
        let healthy = event(Change::Health { status: Status::Healthy });
        for (text, expected) in [
            (r#"{"event":["health_status"]}"#, true),
            (r#"{"event":["health_status: healthy"]}"#, true),
            (r#"{"event":["health_status: unhealthy"]}"#, false),
        ] {
            assert_eq!(Filters::read(text).unwrap().accept(&healthy), expected, "{text}");
        }
        let subject =
            Subject::Image { id: "sha256:77".into(), name: "host:5000/nginx:1".into(), change: ImageChange::Untag };
        let untag = Event { time_ns: 1, subject };
        for (text, expected) in [
            (r#"{"type":["image"],"image":["host:5000/nginx"]}"#, true),
            (r#"{"event":["untag"],"image":["sha256:77"]}"#, true),
            (r#"{"image":["host"]}"#, false),
            (r#"{"container":["web"]}"#, false),
        ] {
            assert_eq!(Filters::read(text).unwrap().accept(&untag), expected, "{text}");
        }
        assert_eq!(message(&untag, ApiVersion::new(1, 52))["Actor"]["Attributes"]["name"], "host:5000/nginx:1");
        assert_eq!(Filters::read(r#"{"colour":["red"]}"#).unwrap_err().to_string(), "invalid filter 'colour'");
    }
}
