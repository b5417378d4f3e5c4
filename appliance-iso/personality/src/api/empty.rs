//! Lists of a VCH that holds nothing, and what is said of a thing that is not there.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, State as Shared},
    http::Method,
    routing::{any, get, post},
};
use bollard_stubs::models::{Network, Plugin, VolumeListResponse};

use serde_json::json;

use super::State;
use crate::error::ApiError;

pub(super) fn routes() -> Router<Arc<State>> {
    Router::new()
        .route("/networks", get(async || Json(Vec::<Network>::new())))
        .route("/networks/prune", post(async || Json(json!({"NetworksDeleted": []}))))
        .route("/volumes", get(volumes))
        .route("/volumes/prune", post(async || Json(json!({"VolumesDeleted": [], "SpaceReclaimed": 0}))))
        .route("/build/prune", post(async || Json(json!({"CachesDeleted": [], "SpaceReclaimed": 0}))))
        .route("/plugins", get(async || Json(Vec::<Plugin>::new())))
        .route("/containers/{id}", any(container))
        .route("/containers/{id}/{*action}", any(container_action))
        .route("/networks/{id}", any(network))
        .route("/networks/{id}/{action}", any(network_action))
        .route("/volumes/{name}", any(volume))
        .route("/exec/{id}/{action}", any(exec))
        .route("/plugins/{*rest}", any(plugin))
}

async fn volumes() -> Json<VolumeListResponse> {
    Json(VolumeListResponse { volumes: Some(Vec::new()), warnings: Some(Vec::new()) })
}

async fn container(Path(id): Path<String>) -> ApiError {
    ApiError::NotFound(format!("No such container: {id}"))
}

async fn container_action(
    Shared(state): Shared<Arc<State>>,
    method: Method,
    Path((id, action)): Path<(String, String)>,
) -> ApiError {
    let there = async { Ok::<_, ApiError>(state.engine_for(&id).await?.table().find(&id).is_ok()) };
    match there.await {
        Ok(true) => not_yet(&method, &action),
        Ok(false) => ApiError::NotFound(format!("No such container: {id}")),
        Err(error) => error,
    }
}

/// What of a container is not there yet, and what does instead.
fn not_yet(method: &Method, action: &str) -> ApiError {
    let instead = match (action, method == Method::PUT) {
        ("archive", false) => " (docker cp): use `docker exec CONTAINER tar -C FOLDER -cf - NAME | tar -xf -`",
        ("archive", true) => " (docker cp): use `tar -cf - NAME | docker exec -i CONTAINER tar -C FOLDER -xf -`",
        _ => "",
    };
    ApiError::NotYet { endpoint: format!("{method} /containers/{{id}}/{action}{instead}") }
}

/// A plugin's name holds slashes, so that what is asked of it is the last part of the path.
async fn plugin(Path(rest): Path<String>) -> ApiError {
    let actions = ["/json", "/enable", "/disable", "/upgrade", "/push", "/set"];
    let name = actions.iter().find_map(|action| rest.strip_suffix(action)).unwrap_or(&rest);
    ApiError::NotFound(format!("plugin {name:?} not found"))
}

async fn network(Path(id): Path<String>) -> ApiError {
    ApiError::NotFound(format!("network {id} not found"))
}

async fn network_action(Path((id, _)): Path<(String, String)>) -> ApiError {
    ApiError::NotFound(format!("network {id} not found"))
}

async fn volume(Path(name): Path<String>) -> ApiError {
    ApiError::NotFound(format!("get {name}: no such volume"))
}

async fn exec(Path((id, _)): Path<(String, String)>) -> ApiError {
    ApiError::NotFound(format!("No such exec instance: {id}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_copies_instead_is_named() {
        let said = |method, action| not_yet(&method, action).to_string();
        assert!(
            said(Method::GET, "archive")
                .ends_with("(docker cp): use `docker exec CONTAINER tar -C FOLDER -cf - NAME | tar -xf -`")
        );
        assert!(said(Method::HEAD, "archive").contains("docker exec CONTAINER"), "a client asks so first");
        assert!(
            said(Method::PUT, "archive").contains("`tar -cf - NAME | docker exec -i CONTAINER tar -C FOLDER -xf -`")
        );
        assert!(said(Method::GET, "changes").ends_with("implement GET /containers/{id}/changes"));
    }
}
