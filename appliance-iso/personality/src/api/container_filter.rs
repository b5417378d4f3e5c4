//! The filters of `GET /containers/json`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use image_store::index::Index;
use port_layer::container::health::Health;
use port_layer::container::phase::Phase;
use port_layer::container::table::{Container, Table};

use super::images::find;
use super::{filter, words};
use crate::error::ApiError;

/// Values of each key; of one key any may match, of several keys each must.
#[derive(Debug, Default)]
pub(super) struct Filters(BTreeMap<String, BTreeSet<String>>);

const KNOWN: [&str; 15] = [
    "id",
    "name",
    "status",
    "label",
    "ancestor",
    "exited",
    "before",
    "since",
    "health",
    "network",
    "volume",
    "publish",
    "expose",
    "isolation",
    "is-task",
];
const HEALTHS: [&str; 4] = ["none", "starting", "healthy", "unhealthy"];
const STATES: [&str; 7] = ["created", "restarting", "running", "removing", "paused", "exited", "dead"];

impl Filters {
    /// Reads the parameter.
    pub(super) fn read(text: &str) -> Result<Self, ApiError> {
        let read = filter::read(text)?;
        for (key, values) in &read {
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
            if ["expose", "publish"].contains(&key.as_str()) {
                values.iter().try_for_each(|value| Ports::read(key, value).map(drop))?;
            }
            if key == "is-task"
                && let Some(wrong) = values.iter().find(|v| truth(v).is_none())
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

    /// Puts the ids of images in the place of ancestors' names: who has lost a name is not meant by it.
    pub(super) fn find_images(&mut self, index: &Index) {
        if let Some(ancestors) = self.0.get_mut("ancestor") {
            *ancestors = ancestors.iter().filter_map(|name| Some(find(index, name).ok()?.0.to_string())).collect();
        }
    }

    /// Refuses containers that are named and are not there.
    pub(super) fn check(&self, table: &Table) -> Result<(), ApiError> {
        let mut named = ["before", "since"].iter().filter_map(|key| self.0.get(*key)).flatten();
        named.try_for_each(|name| table.find(name).map(drop).map_err(|e| ApiError::NotFound(e.to_string())))
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
            "id" => values.iter().any(|v| fits(v, &record.id)),
            "name" => {
                let with_slash = format!("/{}", record.name);
                values.iter().any(|v| fits(v, &with_slash) || fits(v, &record.name))
            }
            "status" => values.contains(phase.status()),
            "exited" => matches!(phase, Phase::Exited { code, .. } if values.contains(&code.to_string())),
            "health" => values.contains(health.map_or("none", |h| h.status.word())),
            "ancestor" => values.contains(&record.image_id),
            "before" => values.iter().any(|v| created(v).is_some_and(|at| record.created_ns < at)),
            "since" => values.iter().any(|v| created(v).is_some_and(|at| record.created_ns > at)),
            "label" => {
                let labels = words::config(record).labels.unwrap_or_default();
                // Of labels, each must match.
                values.iter().all(|v| words::has_label(&labels, v))
            }
            "expose" => {
                let exposed = words::config(record).exposed_ports.unwrap_or_default();
                let wanted: Vec<_> = values.iter().filter_map(|v| Ports::read(key, v).ok()).collect();
                exposed.iter().any(|port| wanted.iter().any(|w| w.hold(port)))
            }
            "network" => {
                let mode = words::host_config(record).network_mode.filter(|mode| mode != "default");
                values.contains(mode.as_deref().unwrap_or("bridge"))
            }
            // Docker's word where nothing else is said, as nothing can be.
            "isolation" => values.iter().any(|v| v.eq_ignore_ascii_case("default")),
            // A VCH is no swarm.
            "is-task" => values.iter().all(|v| truth(v) == Some(false)),
            // No container has any of these yet.
            "publish" | "volume" => false,
            _ => true,
        })
    }
}

/// Ports that a filter names: `80`, `80/udp`, `8000-8010/tcp`.
struct Ports {
    range: RangeInclusive<u16>,
    protocol: String,
}

impl Ports {
    fn read(key: &str, value: &str) -> Result<Self, ApiError> {
        let (ports, protocol) = value.split_once('/').unwrap_or((value, "tcp"));
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        match (first.parse(), last.parse()) {
            (Ok(first), Ok(last)) if first <= last => {
                Ok(Self { range: first..=last, protocol: protocol.to_ascii_lowercase() })
            }
            _ => Err(ApiError::Bad(format!("error while looking up for {key} {value}: invalid port"))),
        }
    }

    /// Whether they hold a port as an image writes it.
    fn hold(&self, port: &str) -> bool {
        let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
        protocol == self.protocol && number.parse().is_ok_and(|number| self.range.contains(&number))
    }
}

/// Go's words for true and false.
fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Whether a name is the one that is wanted, or one that the regular expression finds something in, as with Docker.
fn fits(wanted: &str, name: &str) -> bool {
    wanted == name || regex_lite::Regex::new(wanted).is_ok_and(|wanted| wanted.is_match(name))
}

#[cfg(test)]
mod tests {
    use image_store::Digest;
    use image_store::index::Image;

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
            (r#"{"expose":["eighty"]}"#, "error while looking up for expose eighty"),
            (r#"{"publish":["90-80"]}"#, "error while looking up for publish 90-80"),
            (r#"{"is-task":["maybe"]}"#, "invalid filter 'is-task=maybe'"),
        ] {
            let error = Filters::read(text).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn names_are_regular_expressions() {
        for (wanted, fit) in [("web", true), ("^/web-1$", true), ("^we", false), ("eb.[0-9]$", true), ("(", false)] {
            assert_eq!(fits(wanted, "/web-1"), fit, "{wanted}");
        }
        assert!(fits("odd(name", "odd(name"), "what is no expression is the whole name");
    }

    #[test]
    fn an_ancestor_is_the_image_that_has_the_name_now() {
        let id = Digest::new(b"new");
        let image = Image { disk: id.clone(), manifest: id.clone(), config: "{}".into(), bytes: 1, tagged_ns: 1 };
        let (images, tags) = ([(id.clone(), image)].into(), [("docker.io/library/nginx:1".into(), id.clone())].into());
        let index = Index { images, tags, ..Index::default() };
        let mut filters = Filters::read(r#"{"ancestor":["nginx:1","gone"]}"#).unwrap();
        filters.find_images(&index);
        assert_eq!(filters.0["ancestor"], BTreeSet::from([id.to_string()]));
    }

    #[test]
    fn a_port_is_within_what_is_named() {
        for (wanted, port, held) in [
            ("80", "80/tcp", true),
            ("80", "80", true),
            ("80/udp", "80/tcp", false),
            ("8000-8010", "8010/tcp", true),
            ("8000-8010/TCP", "8011/tcp", false),
        ] {
            assert_eq!(Ports::read("expose", wanted).ok().unwrap().hold(port), held, "{wanted} {port}");
        }
    }
}
