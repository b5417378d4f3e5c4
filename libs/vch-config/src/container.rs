//! [`ContainerLabel`]: by which a container's VM is known.

use serde::Deserialize;

/// Key of a container's record in its VM's extraConfig; not visible in the guest.
pub const KEY_RECORD: &str = "vic.container";

/// The part of a container's record that says whose it is; the port layer writes the whole.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ContainerLabel {
    /// The container's name.
    pub name: String,
    /// The VCH that it belongs to: [`crate::VchConfig::id`].
    pub vch: String,
}

impl ContainerLabel {
    /// Reads it from a record; none when it is none.
    pub fn from_record(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_read_from_a_record_of_any_version() {
        let record = r#"{"schema":9,"id":"c","name":"web","vch":"4e7c","new":true}"#;
        let label = ContainerLabel::from_record(record).unwrap();
        assert_eq!((label.name.as_str(), label.vch.as_str()), ("web", "4e7c"));
        assert_eq!(ContainerLabel::from_record("{}"), None);
    }
}
