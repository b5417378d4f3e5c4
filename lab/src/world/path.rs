//! Datastore paths: `[datastore] folder/file`.

/// A parsed datastore path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DatastorePath {
    /// The datastore's name.
    pub datastore: String,
    /// The rest, with `/` between its parts and none around it; empty for the root.
    pub path: String,
}

impl std::str::FromStr for DatastorePath {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (datastore, path) = text.trim().strip_prefix('[').and_then(|t| t.split_once(']')).ok_or(())?;
        if datastore.is_empty() {
            return Err(());
        }
        let mut parts = Vec::new();
        for part in path.trim().split('/') {
            match part {
                // The root of a datastore is the top of its world.
                ".." => return Err(()),
                "" | "." => {}
                other => parts.push(other),
            }
        }
        Ok(Self { datastore: datastore.into(), path: parts.join("/") })
    }
}

impl std::fmt::Display for DatastorePath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.path.is_empty() {
            write!(f, "[{}]", self.datastore)
        } else {
            write!(f, "[{}] {}", self.datastore, self.path)
        }
    }
}

impl DatastorePath {
    /// The path of something inside.
    pub(crate) fn join(&self, more: &str) -> Self {
        let path = if self.path.is_empty() { more.to_owned() } else { format!("{}/{more}", self.path) };
        Self { datastore: self.datastore.clone(), path }
    }

    /// The folder that it is in; the root's is the root.
    pub(crate) fn parent(&self) -> Self {
        let path = self.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        Self { datastore: self.datastore.clone(), path: path.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_as_vsphere_writes_them() {
        let path: DatastorePath = "[datastore1] a//b.vmdk".parse().unwrap();
        assert_eq!((path.datastore.as_str(), path.path.as_str()), ("datastore1", "a/b.vmdk"));
        assert_eq!(path.to_string(), "[datastore1] a/b.vmdk");
        assert_eq!(path.parent().to_string(), "[datastore1] a");
        assert_eq!(path.parent().parent().to_string(), "[datastore1]");
        assert_eq!("[datastore1]".parse::<DatastorePath>().unwrap().join("x").to_string(), "[datastore1] x");
        for wrong in ["datastore1/a", "[] a", "[d] ../a", "[d] a/../../b"] {
            wrong.parse::<DatastorePath>().unwrap_err();
        }
    }
}
