//! Reads the VCH's documents from guestinfo, and lays them out for the services.

use std::{
    fs,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use guestinfo::Keys;
use vch_config::{Document, KEY_CONFIG, KEY_SECRETS, VchConfig, VchSecrets};

/// Where services find the documents.
pub(crate) const CONFIG_DIR: &str = "/run/vic";

/// Both documents, valid.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Documents {
    pub(crate) config: VchConfig,
    pub(crate) secrets: VchSecrets,
}

/// Reads both documents; the error is a sentence for the admin.  Blocks.
pub(crate) fn read(keys: &impl Keys) -> Result<Documents, String> {
    fn document<T: Document>(keys: &impl Keys, key: &str) -> Result<T, String> {
        let text = keys.get(key).map_err(|e| format!("cannot read {}: {e}", T::NAME))?;
        let text = text
            .filter(|t| !t.is_empty())
            .ok_or_else(|| format!("{} is missing: is this VM part of a VCH made by vic-machine create?", T::NAME))?;
        T::from_text(&text).map_err(|e| e.to_string())
    }
    let documents = Documents { config: document(keys, KEY_CONFIG)?, secrets: document(keys, KEY_SECRETS)? };
    if documents.config.interfaces.is_empty() {
        return Err(format!("{} names no network interface", VchConfig::NAME));
    }
    Ok(documents)
}

/// Writes both documents into `folder`, readable by root only; each appears whole or not at all.
pub(crate) fn lay_out(documents: &Documents, folder: &Path) -> std::io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    for (name, text) in [("config.json", documents.config.to_text()), ("secrets.json", documents.secrets.to_text())] {
        let aside = folder.join(format!(".{name}"));
        let mut file = fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
        file.write_all(text.as_bytes())?;
        fs::rename(aside, folder.join(name))?;
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{
        collections::BTreeMap,
        os::unix::fs::PermissionsExt,
        sync::{Arc, Mutex},
    };

    use super::*;

    /// Keys in memory.
    #[derive(Debug, Clone, Default)]
    pub(crate) struct Memory(pub(crate) Arc<Mutex<BTreeMap<String, String>>>);

    impl Keys for Memory {
        fn get(&self, key: &str) -> Result<Option<String>, guestinfo::Error> {
            Ok(self.0.lock().unwrap().get(key).cloned())
        }
        fn set(&self, key: &str, value: &str) -> Result<(), guestinfo::Error> {
            self.0.lock().unwrap().insert(key.into(), value.into());
            Ok(())
        }
    }

    pub(crate) fn config() -> VchConfig {
        let text = r#"{"schema":1,"id":"4e7c","name":"vch","version":"0","created":"2026-01-01T00:00:00Z",
            "vsphere":{"target":"https://vc","username":"u","datacenter":"","compute_resource":"","pool":"","folder":""},
            "interfaces":[
              {"mac":"00:50:56:00:00:01","port_group":"VM Network","network":"n-1","roles":["public","client","management"],"ipv4":{"method":"dhcp"}},
              {"mac":"00:50:56:00:00:02","port_group":"bridge","network":"n-2","roles":["bridge"],"ipv4":{"method":"none"}}],
            "bridge":{"range":"172.16.0.0/12","width":16},"api":{"port":2376,"tls":{"mode":"none"}},
            "storage":{"image_store":"[ds] vch"}}"#;
        VchConfig::from_text(text).unwrap()
    }

    fn secrets() -> VchSecrets {
        VchSecrets::new("hunter2".to_owned().into(), String::new().into(), String::new().into())
    }

    #[test]
    fn what_is_missing_or_wrong_is_said_without_its_content() {
        let keys = Memory::default();
        assert!(read(&keys).unwrap_err().contains("guestinfo.vic.config) is missing"));
        keys.set(KEY_CONFIG, &config().to_text()).unwrap();
        assert!(read(&keys).unwrap_err().contains("guestinfo.vic.secrets) is missing"));
        keys.set(KEY_SECRETS, r#"{"schema":1,"vsphere_password":["hunter2"]}"#).unwrap();
        let text = read(&keys).unwrap_err();
        assert!(text.contains("not valid") && !text.contains("hunter2"), "{text}");
        keys.set(KEY_SECRETS, &secrets().to_text().replace("\"schema\":1", "\"schema\":99")).unwrap();
        assert!(read(&keys).unwrap_err().contains("use a newer version"));
        keys.set(KEY_SECRETS, &secrets().to_text()).unwrap();
        assert_eq!(read(&keys).unwrap().config, config());
    }

    #[test]
    fn the_documents_are_for_root_only() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("vic");
        lay_out(&Documents { config: config(), secrets: secrets() }, &place).unwrap();
        for (path, mode) in [("", 0o700), ("config.json", 0o600), ("secrets.json", 0o600)] {
            assert_eq!(fs::metadata(place.join(path)).unwrap().permissions().mode() & 0o777, mode, "{path:?}");
        }
        assert_eq!(fs::read_dir(place).unwrap().count(), 2);
    }
}
