//! [`Record`]: the Docker-side record of a container, kept in its VM.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use vch_config::Document;

pub use vch_config::KEY_RECORD;

/// Seconds that nobody waits to the end of, and that every clock holds.
pub const FOREVER: u64 = 365 * 24 * 3600;

/// What Docker's clients were told to make, as they wrote it; the guest's part is [`tether_proto::Container`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`vch_config::SCHEMA`] of the writer.
    pub schema: u32,
    /// 64 hexadecimal digits.
    pub id: String,
    /// Without the slash that Docker shows before it.
    pub name: String,
    /// The VCH that it belongs to: [`vch_config::VchConfig::id`].
    pub vch: String,
    /// When it was created, nanoseconds since 1970.
    pub created_ns: u64,
    /// The image as the client named it.
    pub image: String,
    /// The image's id: the digest of its configuration.
    pub image_id: String,
    /// The name of the image's topmost disk in the image store.
    #[serde(default)]
    pub disk: String,
    /// Docker's `Config` of the container, image defaults merged in, as JSON.
    pub config: String,
    /// Docker's `HostConfig`, as JSON.
    pub host_config: String,
}

/// What of Docker's `HostConfig` says how a container ends.
#[derive(Debug, Default, Deserialize)]
struct Ending {
    #[serde(default, rename = "AutoRemove")]
    auto_remove: Option<bool>,
}

/// What of Docker's `Config` says how it is stopped.
#[derive(Debug, Default, Deserialize)]
struct Stopping {
    #[serde(default, rename = "StopSignal")]
    signal: Option<String>,
    #[serde(default, rename = "StopTimeout")]
    timeout: Option<i64>,
}

/// Whether Docker takes it for a container's name.
pub fn is_name(text: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphanumeric();
    text.starts_with(letter) && text.len() > 1 && text.chars().all(|c| letter(c) || "_.-".contains(c))
}

impl Record {
    /// The signal that asks the process to end, and how long it has to; none where there is Docker's own.
    pub fn stopping(&self) -> (Option<String>, Option<Duration>) {
        let stopping: Stopping = serde_json::from_str(&self.config).unwrap_or_default();
        // Less than none is for ever, with Docker.
        let limit = stopping.timeout.map(|seconds| u64::try_from(seconds).unwrap_or(FOREVER)).map(Duration::from_secs);
        (stopping.signal.filter(|signal| !signal.is_empty()), limit)
    }

    /// `docker run --rm`: the container goes with its process.
    pub fn goes_with_its_process(&self) -> bool {
        let ending: Ending = serde_json::from_str(&self.host_config).unwrap_or_default();
        ending.auto_remove.unwrap_or_default()
    }
}

#[cfg(test)]
impl Record {
    /// For tests: a container of the VCH `v`.
    pub(super) fn sample(id: &str, name: &str) -> Self {
        Self {
            schema: 1,
            id: id.into(),
            name: name.into(),
            vch: "v".into(),
            created_ns: 1,
            image: "busybox".into(),
            image_id: "sha256:1".into(),
            disk: String::new(),
            config: "{}".into(),
            host_config: "{}".into(),
        }
    }
}

impl Document for Record {
    const NAME: &'static str = "the container's record (vic.container)";
    fn schema(&self) -> u32 {
        self.schema
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_to_stop_may_be_for_ever() {
        let stopping = |config: &str| Record { config: config.into(), ..Record::sample("a", "n") }.stopping();
        assert_eq!(stopping("{}"), (None, None));
        let own = stopping(r#"{"StopSignal":"INT","StopTimeout":3}"#);
        assert_eq!(own, (Some("INT".to_owned()), Some(Duration::from_secs(3))));
        assert_eq!(stopping(r#"{"StopTimeout":-1}"#).1, Some(Duration::from_secs(FOREVER)));
    }
}
