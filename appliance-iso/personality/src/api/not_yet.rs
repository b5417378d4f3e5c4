//! Endpoints that the Docker API prescribes and this build does not have: each says so by its name.

use std::sync::Arc;

use axum::{
    Router,
    http::Method,
    routing::{MethodFilter, on},
};

use super::State;
use crate::error::ApiError;

/// Method and path of each.
const ENDPOINTS: &[(Method, &str)] = &[
    (Method::POST, "/build"),
    (Method::POST, "/build/cancel"),
    (Method::POST, "/commit"),
    (Method::GET, "/distribution/{*name}"),
    (Method::GET, "/images/get"),
    (Method::POST, "/images/load"),
    (Method::GET, "/images/search"),
    (Method::POST, "/networks/create"),
    (Method::POST, "/volumes/create"),
    (Method::POST, "/session"),
    (Method::POST, "/grpc"),
    // Plugins.
    (Method::GET, "/plugins/privileges"),
    (Method::POST, "/plugins/pull"),
    (Method::POST, "/plugins/create"),
    // Swarm.
    (Method::GET, "/swarm"),
    (Method::GET, "/swarm/unlockkey"),
    (Method::POST, "/swarm/init"),
    (Method::POST, "/swarm/join"),
    (Method::POST, "/swarm/leave"),
    (Method::POST, "/swarm/unlock"),
    (Method::POST, "/swarm/update"),
    (Method::GET, "/nodes"),
    (Method::GET, "/nodes/{id}"),
    (Method::DELETE, "/nodes/{id}"),
    (Method::POST, "/nodes/{id}/update"),
    (Method::GET, "/services"),
    (Method::POST, "/services/create"),
    (Method::GET, "/services/{id}"),
    (Method::DELETE, "/services/{id}"),
    (Method::POST, "/services/{id}/update"),
    (Method::GET, "/services/{id}/logs"),
    (Method::GET, "/tasks"),
    (Method::GET, "/tasks/{id}"),
    (Method::GET, "/tasks/{id}/logs"),
    (Method::GET, "/secrets"),
    (Method::POST, "/secrets/create"),
    (Method::GET, "/secrets/{id}"),
    (Method::DELETE, "/secrets/{id}"),
    (Method::POST, "/secrets/{id}/update"),
    (Method::GET, "/configs"),
    (Method::POST, "/configs/create"),
    (Method::GET, "/configs/{id}"),
    (Method::DELETE, "/configs/{id}"),
    (Method::POST, "/configs/{id}/update"),
];

pub(super) fn routes() -> Router<Arc<State>> {
    ENDPOINTS.iter().fold(Router::new(), |router, (method, path)| {
        let filter = MethodFilter::try_from(method.clone()).unwrap_or(MethodFilter::POST);
        let endpoint = format!("{method} {path}");
        router.route(path, on(filter, async move || ApiError::NotYet { endpoint }))
    })
}
