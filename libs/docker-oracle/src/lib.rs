//! For tests: a real Docker daemon, and the shapes of its answers beside ours.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_debug_implementations, reason = "for tests")]

mod daemon;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

pub use daemon::Daemon;
use serde_json::Value;

/// How long anything may take; generous, for the machines are noisy.
pub const LIMIT: Duration = Duration::from_secs(60);

/// An answer of the API.
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Status line and headers.
    pub head: String,
    /// As text.
    pub body: String,
}

/// Asks on a local socket; `None` when nobody answers.  In HTTP/1.0, so that the body ends with the connection.
pub fn ask(socket: &Path, method: &str, path: &str, body: &str) -> Option<Answer> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(LIMIT)).ok()?;
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.0\r\nHost: docker\r\nContent-Type: application/json\r\n");
    write!(stream, "{head}Content-Length: {length}\r\n\r\n{body}").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, head: head.to_owned(), body: body.to_owned() })
}

/// The kind of each value by its path.  A list's elements share one path, so that how many there are does not count.
fn shape(path: &str, value: &Value, into: &mut BTreeMap<String, &'static str>) {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(list) => {
            list.iter().for_each(|element| shape(&format!("{path}[]"), element, into));
            "list"
        }
        Value::Object(map) => {
            map.iter().for_each(|(key, value)| shape(&format!("{path}.{key}"), value, into));
            "object"
        }
    };
    into.insert(path.to_owned(), kind);
}

/// Whether one stands for the other: Go writes an empty list or map as null, or leaves it out.
fn alike(a: Option<&str>, b: Option<&str>) -> bool {
    let null = |kind: Option<&str>| kind == Some("null");
    let nothing = |kind: Option<&str>| kind.is_none_or(|kind| ["null", "list", "object"].contains(&kind));
    a == b || (null(a) && nothing(b)) || (null(b) && nothing(a))
}

/// Where our answer has another shape than Docker's, but for `explained` ones: paths with their reasons; a path stands for all
/// below it.  What was asked comes first in each path: `/info .Swarm`.
pub fn differences(asked: &str, docker: &Value, ours: &Value, explained: &[(&str, &str)]) -> Vec<String> {
    let of = |value: &Value| {
        let mut found = BTreeMap::new();
        shape(&format!("{asked} "), value, &mut found);
        found
    };
    let (docker, here) = (of(docker), of(ours));
    let mut unexplained = Vec::new();
    let keys: BTreeSet<_> = docker.keys().chain(here.keys()).collect();
    for key in keys {
        let (theirs, mine) = (docker.get(key).copied(), here.get(key).copied());
        // What hangs below a map or list that is empty on one side says nothing.
        let below_nothing = |side: &BTreeMap<String, &str>| {
            key.match_indices(['.', '[']).any(|(end, _)| {
                let parent = &key[..end];
                let empty = !side.keys().any(|other| other.len() > end && other.starts_with(&key[..=end]));
                empty && side.get(parent).is_some_and(|kind| ["null", "list"].contains(kind))
            })
        };
        let known = explained.iter().any(|(prefix, _)| key.starts_with(prefix));
        if !alike(theirs, mine) && !known && !below_nothing(&docker) && !below_nothing(&here) {
            unexplained.push(format!("{key}: Docker has {theirs:?}, we have {mine:?}"));
        }
    }
    unexplained
}
