//! The filters of `GET /containers/json`.

use std::collections::{BTreeMap, BTreeSet};

use port_layer::container::health::Health;
use port_layer::container::phase::Phase;
use port_layer::container::table::{Container, Table};

use super::{filter, words};
use crate::error::ApiError;

/// Values of each key; of one key any may match, of several keys each must.
#[derive(Debug, Default)]
pub(super) struct Filters(BTreeMap<String, BTreeSet<String>>);

const KNOWN: [&str; 9] = ["id", "name", "status", "label", "ancestor", "exited", "before", "since", "health"];
/// Docker's, of what a VCH does not have yet.
const NOT_YET: [&str; 6] = ["network", "volume", "publish", "expose", "isolation", "is-task"];
const HEALTHS: [&str; 4] = ["none", "starting", "healthy", "unhealthy"];
const STATES: [&str; 7] = ["created", "restarting", "running", "removing", "paused", "exited", "dead"];

impl Filters {
    /// Reads the parameter.
    pub(super) fn read(text: &str) -> Result<Self, ApiError> {
        let read = filter::read(text)?;
        for (key, values) in &read {
            if NOT_YET.contains(&key.as_str()) {
                return Err(ApiError::NotYet { endpoint: format!("GET /containers/json with filter {key}") });
            }
            if !KNOWN.contains(&key.as_str()) {
                return Err(ApiError::Bad(format!("invalid filter '{key}'")));
            }
            let invalid = |value: &String| ApiError::Bad(format!("invalid filter '{key}={value}'"));
            if key == "status"
                && let Some(wrong) = values.iter().find(|v| !STATES.contains(&v.as_str()))
            {
                return Err(invalid(wrong));
            }
            if key == "health"
                && let Some(wrong) = values.iter().find(|v| !HEALTHS.contains(&v.as_str()))
            {
                return Err(invalid(wrong));
            }
            if key == "exited"
                && let Some(wrong) = values.iter().find(|v| v.parse::<i32>().is_err())
            {
                return Err(invalid(wrong));
            }
        }
        Ok(Self(read))
    }

    /// Whether containers that do not run are meant.
    pub(super) fn names_a_state(&self) -> bool {
        ["status", "exited", "before", "since"].iter().any(|key| self.0.contains_key(*key))
    }

    /// Whether `container` is among those that are meant.
    pub(super) fn accept(&self, container: &Container, phase: &Phase, table: &Table, health: Option<&Health>) -> bool {
        let record = &container.record;
        let created = |wanted: &String| table.find(wanted).ok().map(|c| c.record.created_ns);
        self.0.iter().all(|(key, values)| match key.as_str() {
            "id" => values.iter().any(|v| record.id.starts_with(v.as_str())),
            "name" => values.iter().any(|v| record.name.contains(v.trim_start_matches('/'))),
            "status" => values.contains(phase.status()),
            "exited" => matches!(phase, Phase::Exited { code, .. } if values.contains(&code.to_string())),
            "health" => values.contains(health.map_or("none", |h| h.status.word())),
            "ancestor" => values.iter().any(|v| words::is_image(record, v)),
            "before" => values.iter().any(|v| created(v).is_some_and(|at| record.created_ns < at)),
            "since" => values.iter().any(|v| created(v).is_some_and(|at| record.created_ns > at)),
            "label" => {
                let labels = words::config(record).labels.unwrap_or_default();
                // Of labels, each must match.
                values.iter().all(|v| words::has_label(&labels, v))
            }
            _ => true,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_and_nonsense_is_refused() {
        for text in [r#"{"status":["running"]}"#, r#"{"status":{"running":true}}"#] {
            assert!(Filters::read(text).unwrap().names_a_state());
        }
        for (text, said) in [
            ("{", "invalid filter"),
            (r#"{"colour":["red"]}"#, "invalid filter 'colour'"),
            (r#"{"status":["asleep"]}"#, "invalid filter 'status=asleep'"),
            (r#"{"exited":["x"]}"#, "invalid filter 'exited=x'"),
            (r#"{"network":["x"]}"#, "does not yet implement"),
        ] {
            let error = Filters::read(text).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
