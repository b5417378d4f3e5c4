//! The way of the API to vSphere, when vSphere does not let it in any more.

use std::path::Path;

use personality::{App, Reach, serve_unix};
use secret::Secret;
use tokio::task::{JoinHandle, spawn_blocking};
use vch_config::{Proxies, VchConfig, VchSecrets};
use vim25::types::{UserSession, methods};

use crate::stage::{Stage, in_time, runtime};

/// Serves the API on a socket; the sender is dropped to end it.
fn serve(config: VchConfig, password: Secret, socket: &Path) -> (tokio::sync::oneshot::Sender<()>, JoinHandle<()>) {
    let listener = tokio::net::UnixListener::bind(socket).unwrap();
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let secrets = VchSecrets::new(password, Secret::new(""), Secret::new(""));
    let (reach, kept) = Reach::keep(config.clone(), secrets, async { drop(ended.await) });
    tokio::spawn(serve_unix(listener, App::new(config, Proxies::default(), "test", reach)));
    (end, kept)
}

/// Status and body of a list of containers.
async fn ps(socket: &Path) -> (u16, String) {
    let socket = socket.to_owned();
    let asked = spawn_blocking(move || docker_oracle::ask(&socket, "GET", "/v1.41/containers/json?all=1", "").unwrap());
    let answer = asked.await.unwrap();
    (answer.status, answer.body)
}

#[test]
fn a_changed_password_costs_one_login_until_the_service_is_restarted() {
    runtime().block_on(async {
        let stage = Stage::up().await;
        let mut config = stage.config.clone();
        config.version = "under-test".into();
        config.vsphere.thumbprints = vec![stage.lab.stage.thumbprint.clone()];
        config.vsphere.username = stage.lab.stage.user.clone();
        let password = || Secret::new(&stage.lab.stage.password);
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("first");
        let (end, kept) = serve(config.clone(), password(), &socket);
        assert_eq!(ps(&socket).await, (200, "[]".into()));

        stage.faults(&["add", "--method", "Login", "--fault", "InvalidLogin"]);
        let manager = stage.admin.content().session_manager.clone().unwrap();
        let sessions = stage.admin.read(&manager, &["sessionList"]).await.unwrap();
        let all: Vec<UserSession> = sessions.all("sessionList").unwrap();
        let of_the_api = all.into_iter().filter(|s| s.user_agent == "vic-engine/under-test").map(|s| s.key);
        let session_id: Vec<_> = of_the_api.collect();
        assert_eq!(session_id.len(), 1);
        stage.admin.call(&methods::TerminateSession { this: manager, session_id }).await.unwrap();
        // What is told of it, the service asks for on a session that has gone.
        let id = stage.create("one", &["run"], "{}").await.unwrap();
        let told = in_time("the service's end of hope", async {
            loop {
                match ps(&socket).await {
                    (200, _) => tokio::task::yield_now().await,
                    other => return other,
                }
            }
        })
        .await;
        assert_eq!(told.0, 503, "{}", told.1);
        let user = &config.vsphere.username;
        for part in [&format!("the login of {user} is refused"), "InvalidLogin", "restart the endpoint VM"] {
            assert!(told.1.contains(part), "{}", told.1);
        }
        let rules: serde_json::Value = serde_json::from_str(stage.faults(&["list"]).trim()).unwrap();
        assert_eq!(rules["seen"], 1, "vSphere was asked to let it in again and again: {rules}");
        drop(end);
        in_time("the service's end", kept).await.unwrap();

        stage.faults(&["clear"]);
        let socket = folder.path().join("second");
        let (end, kept) = serve(config, password(), &socket);
        let (status, listed) = ps(&socket).await;
        assert!(status == 200 && listed.contains(&id), "{listed}");
        drop(end);
        in_time("the service's end", kept).await.unwrap();
        stage.clean_up().await;
    });
}
