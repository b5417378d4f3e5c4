//! [`Record`]: the Docker-side record of a container, kept in its VM.

use serde::{Deserialize, Serialize};
use vch_config::Document;

pub use vch_config::KEY_RECORD;

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

impl Record {
    /// `docker run --rm`: the container goes with its process.
    pub fn goes_with_its_process(&self) -> bool {
        let ending: Ending = serde_json::from_str(&self.host_config).unwrap_or_default();
        ending.auto_remove.unwrap_or_default()
    }
}

impl Document for Record {
    const NAME: &'static str = "the container's record (vic.container)";
    fn schema(&self) -> u32 {
        self.schema
    }
}
