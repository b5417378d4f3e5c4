//! The URLs of the API.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, COOKIE, HeaderValue, SET_COOKIE, USER_AGENT};
use hyper::{Method, Request, Response, StatusCode};

use super::dispatch::{self, Reply};
use super::folder_http;
use crate::lab::Lab;

/// A response's body.
pub(super) type Body = BoxBody<Bytes, std::io::Error>;

/// Why a connection is closed without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the connection is closed")]
pub(super) struct Dropped;

/// Largest envelope that is read.
const MAX_ENVELOPE: usize = 16 << 20;

/// A body that is at hand.
pub(super) fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed()
}

/// A short answer.
pub(super) fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn xml(status: StatusCode, text: String) -> Response<Body> {
    let mut response = plain(status, text);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/xml; charset=utf-8"));
    response
}

/// The session named by a request's cookies.
pub(super) fn session_cookie<B>(request: &Request<B>) -> Option<String> {
    cookie(request, "vmware_soap_session")
}

/// The ticket that a request to a host comes with.
pub(super) fn ticket_cookie<B>(request: &Request<B>) -> Option<String> {
    cookie(request, "vmware_cgi_ticket")
}

fn cookie<B>(request: &Request<B>, name: &str) -> Option<String> {
    let cookies = request.headers().get_all(COOKIE).iter().filter_map(|v| v.to_str().ok());
    cookies
        .flat_map(|line| line.split(';'))
        .find_map(|cookie| cookie.trim().strip_prefix(name)?.strip_prefix('='))
        .map(|value| value.trim_matches('"').to_owned())
}

const VERSIONS: &str = r#"<?xml version="1.0" encoding="UTF-8" ?>
<namespaces version="1.0">
 <namespace>
  <name>urn:vim25</name>
  <version>7.0.3.0</version>
  <priorVersions><version>7.0</version><version>6.7</version><version>6.5</version></priorVersions>
 </namespace>
</namespaces>
"#;

/// Answers one request, which came to the address `at`.
///
/// # Errors
/// [`Dropped`] when a fault rule asks for it.
pub(super) async fn handle(
    lab: Arc<Lab>,
    peer: SocketAddr,
    at: SocketAddr,
    request: Request<Incoming>,
) -> Result<Response<Body>, Dropped> {
    let path = request.uri().path().to_owned();
    match (request.method(), path.as_str()) {
        (&Method::POST, "/sdk" | "/sdk/") => soap(lab, peer, at, request).await,
        (&Method::GET, "/sdk/vimServiceVersions.xml") => Ok(xml(StatusCode::OK, VERSIONS.into())),
        (&Method::GET, "/about") => {
            let about = lab.read(|w| w.about());
            let text = serde_json::json!({ "name": about.full_name, "apiVersion": about.api_version, "lab": true });
            let mut response = plain(StatusCode::OK, text.to_string());
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            Ok(response)
        }
        _ if path == "/folder" || path.starts_with("/folder/") => folder_http::handle(lab, request).await,
        _ => Ok(plain(StatusCode::NOT_FOUND, "not here\n")),
    }
}

async fn soap(
    lab: Arc<Lab>,
    peer: SocketAddr,
    at: SocketAddr,
    request: Request<Incoming>,
) -> Result<Response<Body>, Dropped> {
    let cookie = session_cookie(&request);
    let agent = request.headers().get(USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let body = match Limited::new(request.into_body(), MAX_ENVELOPE).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => return Ok(plain(StatusCode::PAYLOAD_TOO_LARGE, "the envelope is too large\n")),
    };
    let Ok(text) = std::str::from_utf8(&body) else {
        return Ok(plain(StatusCode::BAD_REQUEST, "the envelope is not UTF-8\n"));
    };
    match dispatch::answer(lab, peer.ip(), at, agent, cookie, text).await {
        Reply::Response { text, cookie } => Ok(with_cookie(xml(StatusCode::OK, text), cookie)),
        Reply::Fault { text } => Ok(xml(StatusCode::INTERNAL_SERVER_ERROR, text)),
        Reply::TooManySessions => Ok(plain(StatusCode::SERVICE_UNAVAILABLE, "too many sessions\n")),
        Reply::Dropped => Err(Dropped),
    }
}

fn with_cookie(mut response: Response<Body>, session: Option<String>) -> Response<Body> {
    if let Some(key) = session
        && let Ok(value) = HeaderValue::from_str(&format!("vmware_soap_session=\"{key}\"; Path=/; HttpOnly; Secure"))
    {
        response.headers_mut().insert(SET_COOKIE, value);
    }
    response
}
