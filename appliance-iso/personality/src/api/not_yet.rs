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
    (Method::POST, "/auth"),
    (Method::POST, "/build"),
    (Method::POST, "/build/prune"),
    (Method::POST, "/commit"),
    (Method::POST, "/containers/create"),
    (Method::POST, "/containers/prune"),
    (Method::GET, "/distribution/{name}/json"),
    (Method::GET, "/events"),
    (Method::POST, "/images/create"),
    (Method::GET, "/images/get"),
    (Method::POST, "/images/load"),
    (Method::POST, "/images/prune"),
    (Method::GET, "/images/search"),
    (Method::POST, "/networks/create"),
    (Method::POST, "/networks/prune"),
    (Method::GET, "/plugins"),
    (Method::GET, "/system/df"),
    (Method::POST, "/volumes/create"),
    (Method::POST, "/volumes/prune"),
    (Method::GET, "/swarm"),
    (Method::POST, "/swarm/init"),
    (Method::POST, "/swarm/join"),
    (Method::POST, "/swarm/leave"),
    (Method::GET, "/nodes"),
    (Method::GET, "/services"),
    (Method::POST, "/services/create"),
    (Method::GET, "/tasks"),
    (Method::GET, "/secrets"),
    (Method::GET, "/configs"),
    (Method::POST, "/session"),
    (Method::POST, "/grpc"),
];

pub(super) fn routes() -> Router<Arc<State>> {
    ENDPOINTS.iter().fold(Router::new(), |router, (method, path)| {
        let filter = MethodFilter::try_from(method.clone()).unwrap_or(MethodFilter::POST);
        let endpoint = format!("{method} {path}");
        router.route(path, on(filter, async move || ApiError::NotYet { endpoint }))
    })
}
