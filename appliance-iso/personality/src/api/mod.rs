//! The API's endpoints.

mod attach;
mod container;
mod container_filter;
mod container_name;
mod create;
mod detach;
mod empty;
mod events;
mod exec;
mod filter;
mod hijack;
mod images;
mod logs;
mod not_yet;
mod progress;
mod query;
mod system;
mod top;
mod upload;
mod words;

use std::sync::Arc;

use axum::{
    Json, Router,
    body::{Body, to_bytes},
    http::{HeaderName, HeaderValue, Request, Response, Uri, header::CONTENT_TYPE},
    response::IntoResponse,
};
use bollard_stubs::models::ErrorResponse;
use tower::ServiceExt;
use upload::Upload;
use vch_config::{Proxies, VchConfig};

use crate::{
    error::ApiError,
    machine::Machine,
    reach::Reach,
    version::{self, ApiVersion},
};

/// What every handler knows.
#[derive(Debug)]
pub(crate) struct State {
    config: VchConfig,
    proxies: Proxies,
    version: &'static str,
    machine: Machine,
    reach: Reach,
}

/// The API; clones share it.
#[derive(Debug, Clone)]
pub struct App {
    router: Router,
    server: HeaderValue,
}

impl App {
    /// The API of the VCH that `config` describes, served by `version` of the software.
    pub fn new(config: VchConfig, proxies: Proxies, version: &'static str, reach: Reach) -> Self {
        let state = Arc::new(State { config, proxies, version, machine: Machine::look(), reach });
        let router = Router::new()
            .merge(system::routes())
            .merge(container::routes())
            .merge(create::routes())
            .merge(attach::routes())
            .merge(exec::routes())
            .merge(images::routes())
            .merge(logs::routes())
            .merge(events::routes())
            .merge(empty::routes())
            .merge(not_yet::routes())
            .fallback(async || ApiError::NoPage)
            // Docker has no 405: a wrong method is a path that is not there.
            .method_not_allowed_fallback(async || ApiError::NoPage)
            .with_state(state);
        let server = HeaderValue::try_from(format!("vSphere-Integrated-Containers/{version} (linux)"));
        Self { router, server: server.unwrap_or(HeaderValue::from_static("vSphere-Integrated-Containers")) }
    }

    /// Answers one request.
    pub async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let upload = Upload::new(body);
        let mut request = Request::from_parts(head, upload.body());
        let mut response = match unversioned(request.uri()) {
            Err(error) => error.into_response(),
            Ok((version, uri)) => {
                *request.uri_mut() = uri;
                request.extensions_mut().insert(version);
                match self.router.clone().oneshot(request).await {
                    Ok(response) => response,
                    Err(never) => match never {},
                }
            }
        };
        if response.status().is_client_error() || response.status().is_server_error() {
            upload.throw_away().await;
            response = in_dockers_shape(response).await;
        }
        let headers = response.headers_mut();
        for (name, value) in [
            ("api-version", HeaderValue::try_from(version::NEWEST.to_string()).ok()),
            ("docker-experimental", Some(HeaderValue::from_static("false"))),
            ("ostype", Some(HeaderValue::from_static("linux"))),
            ("server", Some(self.server.clone())),
        ] {
            if let Some(value) = value {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
        response
    }
}

/// An error whose text came from the HTTP library, in Docker's shape.
async fn in_dockers_shape(response: Response<Body>) -> Response<Body> {
    let kind = response.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    if !kind.is_some_and(|kind| kind.starts_with(b"text/plain")) {
        return response;
    }
    let status = response.status();
    let text = to_bytes(response.into_body(), 64 << 10).await.unwrap_or_default();
    let message = String::from_utf8_lossy(&text).into_owned();
    (status, Json(ErrorResponse { message })).into_response()
}

/// The version that a request is made in, and its target without it.
fn unversioned(uri: &Uri) -> Result<(ApiVersion, Uri), ApiError> {
    let (version, path) = version::split(uri.path())?;
    let target = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    Ok((version, target.parse().map_err(|_| ApiError::NoPage)?))
}

#[cfg(test)]
mod tests {
    use axum::http::Method;
    use serde_json::{Value, json};
    use vch_config::Document;

    use super::*;

    fn app(limits: &str) -> App {
        let text = format!(
            r#"{{"schema":1,"id":"4e7c","name":"vch-1","version":"0","created":"2026-01-01T00:00:00Z",
            "vsphere":{{"target":"https://vc","username":"u","datacenter":"","compute_resource":"","pool":"","folder":""}},
            "interfaces":[],"bridge":{{"range":"172.16.0.0/12","width":16}},"api":{{"port":2376,"tls":{{"mode":"none"}}}},
            "storage":{{"image_store":"[ds] vch","volume_stores":[{{"label":"default","path":"[ds] v"}},{{"label":"fast","path":"[ssd] v"}}]}},
            "limits":{limits}}}"#
        );
        App::new(VchConfig::from_text(&text).unwrap(), Proxies::default(), "0.1.0", Reach::default())
    }

    async fn ask(method: Method, path: &str) -> (u16, Response<()>, Vec<u8>) {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        let (head, body) = app("{}").answer(request).await.into_parts();
        let bytes = to_bytes(body, 1 << 20).await.unwrap().to_vec();
        (head.status.as_u16(), Response::from_parts(head, ()), bytes)
    }

    async fn get(path: &str) -> (u16, Value) {
        let (status, _, body) = ask(Method::GET, path).await;
        (status, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn ping_tells_a_client_what_to_speak() {
        for method in [Method::GET, Method::HEAD] {
            let (status, head, body) = ask(method.clone(), "/_ping").await;
            assert_eq!(status, 200);
            assert_eq!(body, if method == Method::GET { b"OK".to_vec() } else { Vec::new() });
            for (name, value) in [
                ("api-version", "1.53"),
                ("docker-experimental", "false"),
                ("ostype", "linux"),
                ("builder-version", "1"),
            ] {
                assert_eq!(head.headers()[name], value, "{name}");
            }
        }
    }

    #[tokio::test]
    async fn lists_are_empty_and_of_the_right_shape() {
        for path in ["/containers/json?all=1", "/v1.24/images/json", "/v1.53/networks"] {
            assert_eq!(get(path).await, (200, json!([])), "{path}");
        }
        assert_eq!(get("/volumes").await, (200, json!({"Volumes": [], "Warnings": []})));
    }

    #[tokio::test]
    async fn errors_are_dockers() {
        for (method, path, status, message) in [
            (Method::GET, "/nonsense", 404, "page not found"),
            (Method::DELETE, "/info", 404, "page not found"),
            (Method::GET, "/containers/web/json", 404, "No such container: web"),
            (
                Method::GET,
                "/containers/json?limit=x",
                400,
                "Failed to deserialize query string: limit: invalid digit found in string",
            ),
            (Method::POST, "/v1.44/containers/web/start", 404, "No such container: web"),
            (Method::GET, "/containers/web/logs", 400, "Bad parameters: you must choose at least one stream"),
            (Method::GET, "/containers/web/logs?stdout=1", 404, "No such container: web"),
            (Method::GET, "/events?since=20&until=10", 400, "`since` time cannot be after `until` time"),
            (Method::GET, "/images/library/nginx:1/json", 404, "No such image: library/nginx:1"),
            (Method::DELETE, "/images/nginx", 404, "No such image: nginx:latest"),
            (Method::GET, "/images/host:5000/a/history", 404, "No such image: host:5000/a:latest"),
            (Method::POST, "/plugins/vieux/sshfs:1/enable", 404, "plugin \"vieux/sshfs:1\" not found"),
            (
                Method::DELETE,
                "/v1.50/nodes/x",
                501,
                "vSphere Integrated Containers does not yet implement DELETE /nodes/{id}",
            ),
            (Method::GET, "/volumes/data", 404, "get data: no such volume"),
            (Method::GET, "/networks/front", 404, "network front not found"),
            (
                Method::POST,
                "/v1.44/containers/create?name=x%2Fy",
                400,
                "invalid JSON: EOF while parsing a value at line 1 column 0",
            ),
            (
                Method::POST,
                "/images/create?fromImage=Nginx",
                400,
                "invalid reference format: repository name must be lowercase",
            ),
            (Method::POST, "/images/create?fromImage=nginx:1", 503, "this VCH has no image store"),
            (Method::POST, "/images/create?fromImage=nginx&tag=1", 503, "this VCH has no image store"),
            (
                Method::POST,
                "/images/create?fromImage=nginx",
                501,
                "vSphere Integrated Containers does not yet implement the pull of all tags of a repository: name one",
            ),
            (Method::GET, "/v1.99/info", 400, "client version 1.99 is too new. Maximum supported API version is 1.53"),
        ] {
            let (found, _, body) = ask(method, path).await;
            let body: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!((found, &body), (status, &json!({"message": message})), "{path}");
        }
    }

    #[tokio::test]
    async fn info_tells_name_stores_and_limits() {
        let request = || Request::get("/info").body(Body::empty()).unwrap();
        let body = app(r#"{"cpu_mhz":5000,"memory_mib":2048,"storage_bytes":10737418240}"#).answer(request()).await;
        let info: Value = serde_json::from_slice(&to_bytes(body.into_body(), 1 << 20).await.unwrap()).unwrap();
        assert_eq!(info["Name"], "vch-1");
        assert_eq!(info["ID"], "4e7c");
        assert_eq!(info["Driver"], "vSphere Integrated Containers 0.1.0 Backend Engine");
        assert_eq!(info["MemTotal"], 2_147_483_648_u64);
        // Docker sends pairs, not an object: order matters to people.
        let pairs: Vec<(String, String)> = serde_json::from_value(info["DriverStatus"].clone()).unwrap();
        let status: std::collections::BTreeMap<String, String> = pairs.into_iter().collect();
        assert_eq!(status["VolumeStores"], "default fast");
        assert_eq!(status[" VCH CPU limit"], "5000 MHz");
        assert_eq!(status[" VCH memory limit"], "2 GiB");
        assert_eq!(status[" VCH storage limit"], "10 GiB");
    }

    #[tokio::test]
    async fn version_names_the_range_that_is_spoken() {
        let (status, version) = get("/version").await;
        assert_eq!(status, 200);
        assert_eq!((&version["ApiVersion"], &version["MinAPIVersion"]), (&json!("1.53"), &json!("1.24")));
        assert_eq!(version["Components"][0]["Details"]["ApiVersion"], "1.53");
    }
}
