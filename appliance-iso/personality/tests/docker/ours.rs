//! Our API on a local socket.

use std::path::PathBuf;

use personality::{App, Reach, serve_unix};
use tempfile::TempDir;
use tokio::{net::UnixListener, runtime::Runtime};
use vch_config::{Document, Proxies, VchConfig};

const CONFIG: &str = r#"{"schema":1,"id":"4e7c","name":"vch","version":"0","created":"2026-01-01T00:00:00Z",
    "vsphere":{"target":"","username":"","datacenter":"","compute_resource":"","pool":"","folder":""},
    "interfaces":[],"bridge":{"range":"172.16.0.0/12","width":16},"api":{"port":0,"tls":{"mode":"none"}},
    "storage":{"image_store":"[ds] vch"}}"#;

/// The API, served until dropped.
pub(crate) struct Ours {
    folder: TempDir,
    _runtime: Runtime,
}

impl Ours {
    pub(crate) fn serve() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let _guard = runtime.enter();
        let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
        runtime.spawn(serve_unix(
            listener,
            App::new(VchConfig::from_text(CONFIG).unwrap(), Proxies::default(), "0.1.0", Reach::default()),
        ));
        drop(_guard);
        Self { folder, _runtime: runtime }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }
}
