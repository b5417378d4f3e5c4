//! Lists of a VCH that holds nothing, and what is said of a thing that is not there.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::Path,
    routing::{any, get},
};
use bollard_stubs::models::{ImageSummary, Network, Plugin, VolumeListResponse};
use serde_json::{Value, json};

use super::State;
use crate::error::ApiError;

pub(super) fn routes() -> Router<Arc<State>> {
    Router::new()
        .route("/images/json", get(async || Json(Vec::<ImageSummary>::new())))
        .route("/networks", get(async || Json(Vec::<Network>::new())))
        .route("/volumes", get(volumes))
        .route("/plugins", get(async || Json(Vec::<Plugin>::new())))
        .route("/system/df", get(async || Json(usage())))
        .route("/containers/{id}", any(container))
        .route("/containers/{id}/{*action}", any(container_action))
        .route("/images/{*rest}", any(image))
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

async fn container_action(Path((id, _)): Path<(String, String)>) -> ApiError {
    ApiError::NotFound(format!("No such container: {id}"))
}

/// An image's name holds slashes, so that what is asked of it is the last part of the path.
async fn image(Path(rest): Path<String>) -> ApiError {
    let actions = ["/json", "/history", "/push", "/tag", "/get"];
    let name = actions.iter().find_map(|action| rest.strip_suffix(action)).unwrap_or(&rest);
    // A colon before the last slash is a registry's port.
    let tagged = name.rsplit('/').next().is_some_and(|last| last.contains(':')) || name.contains('@');
    ApiError::NotFound(format!("No such image: {name}{}", if tagged { "" } else { ":latest" }))
}

/// A plugin's name holds slashes too.
async fn plugin(Path(rest): Path<String>) -> ApiError {
    let actions = ["/json", "/enable", "/disable", "/upgrade", "/push", "/set"];
    let name = actions.iter().find_map(|action| rest.strip_suffix(action)).unwrap_or(&rest);
    ApiError::NotFound(format!("plugin {name:?} not found"))
}

/// What `GET /system/df` says of nothing.  The published types changed their form with API 1.52; clients read this one.
fn usage() -> Value {
    json!({ "LayersSize": 0, "Images": [], "Containers": [], "Volumes": [], "BuildCache": [], "BuilderSize": 0 })
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
