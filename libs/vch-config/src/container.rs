//! [`ContainerLabel`]: by which a container's VM is known.

use serde::Deserialize;

/// Key of a container's record in its VM's extraConfig; not visible in the guest.
pub const KEY_RECORD: &str = "vic.container";

/// Key of the UUIDs that vSphere gave the VM, with a space between; not visible in the guest.  A clone has the key, too, and UUIDs of
/// its own.
pub const KEY_UUIDS: &str = "vic.uuids";

/// Where they are: properties of `VirtualMachine`.  vCenter changes the first when it finds another VM that has the same, and a host
/// the second when the VM's files were copied.
pub const UUIDS: [&str; 2] = ["config.instanceUuid", "config.uuid"];

/// How many of a VM's UUIDs are among `own`, the text of [`KEY_UUIDS`]: a clone has none of them, and one whose files were copied may
/// have kept one.  None where vSphere tells no UUID.
pub fn own_uuids(own: &str, uuids: impl Iterator<Item = String>) -> Option<usize> {
    let is_own = |uuid: &String| own.split(' ').any(|one| one.eq_ignore_ascii_case(uuid));
    uuids.map(|uuid| usize::from(is_own(&uuid))).reduce(|a, b| a + b)
}

/// The part of a container's record that says whose it is; the port layer writes the whole.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ContainerLabel {
    /// The container's id.
    pub id: String,
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
    fn a_vm_is_told_by_its_uuids() {
        let own = |uuids: &[&str]| own_uuids("aa-1 bb-2", uuids.iter().map(|&uuid| uuid.to_owned()));
        assert_eq!(
            [own(&["AA-1", "bb-2"]), own(&["cc-3", "bb-2"]), own(&["cc-3", "dd-4"])],
            [Some(2), Some(1), Some(0)]
        );
        assert_eq!(own(&[]), None, "it is not known");
    }

    #[test]
    fn a_label_is_read_from_a_record_of_any_version() {
        let record = r#"{"schema":9,"id":"c","name":"web","vch":"4e7c","new":true}"#;
        let label = ContainerLabel::from_record(record).unwrap();
        assert_eq!((label.name.as_str(), label.vch.as_str()), ("web", "4e7c"));
        assert_eq!(ContainerLabel::from_record("{}"), None);
    }
}
