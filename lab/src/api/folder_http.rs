//! `/folder`: datastore files over HTTP, as vSphere serves them.
//!
//! `GET`, `HEAD`, `PUT`, `DELETE` of `/folder/PATH?dcPath=DATACENTER&dsName=DATASTORE`, by session cookie or basic
//! authentication.  A request with a ticket is one to the host that the ticket is for, and is read there: what a running VM
//! writes is read through its own host.  An upload is written aside and renamed when it is complete: a broken one leaves nothing.

use std::io::SeekFrom;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use base64::Engine as _;
use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{
    ACCEPT_RANGES, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderValue, RANGE, WWW_AUTHENTICATE,
};
use hyper::{Method, Request, Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

use super::access::{self, Role};
use super::http::{Body, Dropped, full, plain, session_cookie, ticket_cookie};
use crate::faults::Effect;
use crate::lab::Lab;
use crate::world::DatastorePath;

/// What is read from or written to a file at once.
const CHUNK: usize = 256 * 1024;

type Answer = Result<Response<Body>, Response<Body>>;

pub(super) async fn handle(lab: Arc<Lab>, request: Request<Incoming>) -> Result<Response<Body>, Dropped> {
    let server = if ticket_cookie(&request).is_some() { "host" } else { "" };
    let method = format!("{} {server}/folder", request.method());
    let verdict = lab.faults().judge(&method, &[request.uri().path()]);
    if !verdict.delay.is_zero() {
        tokio::time::sleep(verdict.delay).await;
    }
    match verdict.effect {
        Some(Effect::DropBefore) => return Err(Dropped),
        Some(Effect::Restart) => {
            crate::daemon::restart();
            return Err(Dropped);
        }
        Some(Effect::Fault { fault, .. }) => return Ok(plain(StatusCode::INTERNAL_SERVER_ERROR, fault)),
        Some(Effect::ExpireSession) => {
            if let Some(key) = session_cookie(&request) {
                lab.sessions().end(&key);
            }
        }
        Some(Effect::DropAfter) => {
            let _ = serve(&lab, request).await;
            return Err(Dropped);
        }
        _ => {}
    }
    Ok(serve(&lab, request).await.unwrap_or_else(|refusal| refusal))
}

fn refuse(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    plain(status, text.into())
}

/// The role of whoever sends the request, and the host that it goes to when it is none for the API's own address.
fn role<B>(lab: &Lab, request: &Request<B>) -> Option<(Role, Option<String>)> {
    if let Some(id) = ticket_cookie(request) {
        let ticket = lab.tickets().take(&id, request.method(), request.uri(), Instant::now())?;
        return Some((ticket.role, Some(ticket.host)));
    }
    if let Some(session) = session_cookie(request).and_then(|key| lab.sessions().find(&key)) {
        return Some((session.role, None));
    }
    let basic =
        request.headers().get(AUTHORIZATION).and_then(|v| v.to_str().ok()).and_then(|v| v.strip_prefix("Basic "));
    let decoded = basic.and_then(|b| base64::engine::general_purpose::STANDARD.decode(b.trim()).ok());
    let text = decoded.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
    let (user, password) = text.split_once(':')?;
    access::authenticate(lab, user, password).map(|(_, role)| (role, None))
}

/// The bytes of a percent-encoded text.
fn unescape(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digits = [bytes.next()?, bytes.next()?];
        out.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
    }
    String::from_utf8(out).ok()
}

/// The datastore path and the file that a URL names; a host has but one datacenter.
fn target<B>(lab: &Lab, request: &Request<B>, host: bool) -> Result<(DatastorePath, PathBuf), Response<Body>> {
    let wrong = |text: &str| refuse(StatusCode::BAD_REQUEST, format!("{text}\n"));
    let query = request.uri().query().unwrap_or_default();
    let parameter = |name: &str| {
        let pairs = query.split('&').filter_map(|p| p.split_once('='));
        pairs.filter(|(key, _)| *key == name).find_map(|(_, value)| unescape(&value.replace('+', " ")))
    };
    let datastore = parameter("dsName").ok_or_else(|| wrong("dsName is missing"))?;
    if let Some(centre) = parameter("dcPath") {
        let centre = centre.trim_matches('/');
        let known = if host {
            centre == "ha-datacenter"
        } else {
            lab.read(|w| w.entries().any(|e| e.kind() == "Datacenter" && e.name == centre))
        };
        if !known {
            return Err(refuse(StatusCode::NOT_FOUND, format!("there is no datacenter {centre}\n")));
        }
    } else if !host && lab.read(|w| w.shape()) == crate::settings::Shape::Vcenter {
        return Err(wrong("dcPath is missing"));
    }
    let path = request.uri().path().strip_prefix("/folder").unwrap_or_default();
    let path = unescape(path).ok_or_else(|| wrong("the path is not UTF-8"))?;
    let text = format!("[{datastore}] {}", path.trim_start_matches('/'));
    let parsed: DatastorePath = text.parse().map_err(|()| wrong("the path is not one of a datastore"))?;
    let file = lab.read(|w| w.file(&text));
    let file = file.ok_or_else(|| refuse(StatusCode::NOT_FOUND, format!("there is no datastore {datastore}\n")))?;
    Ok((parsed, file))
}

/// Who may send the request, and the file that it is about.
fn admit<B>(lab: &Lab, request: &Request<B>) -> Result<(DatastorePath, PathBuf), Response<Body>> {
    let Some((role, host)) = role(lab, request) else {
        let mut response = refuse(StatusCode::UNAUTHORIZED, "log in first\n");
        let challenge = HeaderValue::from_static("Basic realm=\"VMware HTTP server\"");
        response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        return Err(response);
    };
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let privilege = if reads { "Datastore.Browse" } else { "Datastore.FileManagement" };
    if !role.grants(privilege) {
        return Err(refuse(StatusCode::FORBIDDEN, format!("it needs {privilege}\n")));
    }
    let found = target(lab, request, host.is_some())?;
    if reads && !reaches(lab, host.as_deref(), &found.0) {
        return Err(refuse(StatusCode::INTERNAL_SERVER_ERROR, "another host holds the file's lock\n"));
    }
    Ok(found)
}

/// Whether the file can be read by way of `host`.  The API's own address passes a request to any host: where there are several,
/// to a wrong one.
fn reaches(lab: &Lab, host: Option<&str>, path: &DatastorePath) -> bool {
    match (super::datastore::held_by(lab, path), host) {
        (None, _) => true,
        (Some(holder), Some(host)) => holder == host,
        (Some(_), None) => lab.read(|w| w.hosts().len()) == 1,
    }
}

/// Answers a request that reads.
pub(super) async fn read<B>(lab: &Lab, request: &Request<B>) -> Answer {
    let (_, file) = admit(lab, request)?;
    get(request, &file).await
}

async fn serve(lab: &Arc<Lab>, request: Request<Incoming>) -> Answer {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return read(lab, &request).await;
    }
    let (path, file) = admit(lab, &request)?;
    match *request.method() {
        Method::PUT => put(lab, request, &path, &file).await,
        Method::DELETE => {
            if super::datastore::in_use(lab, &path, false) {
                return Err(refuse(StatusCode::CONFLICT, "the file is in use\n"));
            }
            tokio::fs::remove_file(&file).await.map_err(|e| io(&e))?;
            Ok(plain(StatusCode::NO_CONTENT, ""))
        }
        _ => Err(refuse(StatusCode::METHOD_NOT_ALLOWED, "GET, HEAD, PUT or DELETE\n")),
    }
}

fn io(error: &std::io::Error) -> Response<Body> {
    let status = match error.kind() {
        std::io::ErrorKind::NotFound => StatusCode::NOT_FOUND,
        std::io::ErrorKind::StorageFull => StatusCode::INSUFFICIENT_STORAGE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    refuse(status, format!("{error}\n"))
}

/// First byte and length that a `Range` header asks for; `None` for a header that is to be ignored.
fn range(header: &str, size: u64) -> Option<Result<(u64, u64), ()>> {
    let (from, to) = header.strip_prefix("bytes=")?.split_once('-')?;
    let (first, last) = match (from.parse::<u64>(), to.parse::<u64>()) {
        (Ok(first), Ok(last)) => (first, last.min(size.saturating_sub(1))),
        (Ok(first), Err(_)) if to.is_empty() => (first, size.saturating_sub(1)),
        (Err(_), Ok(tail)) if from.is_empty() => (size.saturating_sub(tail), size.saturating_sub(1)),
        _ => return None,
    };
    if first > last || first >= size { Some(Err(())) } else { Some(Ok((first, last - first + 1))) }
}

async fn get<B>(request: &Request<B>, path: &Path) -> Answer {
    let metadata = tokio::fs::metadata(path).await.map_err(|e| io(&e))?;
    if metadata.is_dir() {
        return Err(refuse(StatusCode::FORBIDDEN, "it is a folder\n"));
    }
    let size = metadata.len();
    let asked = request.headers().get(RANGE).and_then(|v| v.to_str().ok()).and_then(|v| range(v, size));
    let (first, length, status) = match asked {
        None => (0, size, StatusCode::OK),
        Some(Ok((first, length))) => (first, length, StatusCode::PARTIAL_CONTENT),
        Some(Err(())) => {
            let mut response = refuse(StatusCode::RANGE_NOT_SATISFIABLE, "there are no such bytes\n");
            response.headers_mut().insert(CONTENT_RANGE, header(&format!("bytes */{size}")));
            return Err(response);
        }
    };
    let body = if request.method() == Method::HEAD { full("") } else { part(path, first, length).await? };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(CONTENT_LENGTH, length.into());
    if status == StatusCode::PARTIAL_CONTENT {
        headers.insert(CONTENT_RANGE, header(&format!("bytes {first}-{}/{size}", first + length - 1)));
    }
    Ok(response)
}

fn header(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Streams a part of a file.
async fn part(path: &Path, first: u64, length: u64) -> Result<Body, Response<Body>> {
    let mut file = tokio::fs::File::open(path).await.map_err(|e| io(&e))?;
    file.seek(SeekFrom::Start(first)).await.map_err(|e| io(&e))?;
    let stream = futures_util::stream::try_unfold((file.take(length), vec![0; CHUNK]), |(mut file, mut chunk)| async {
        let n = file.read(&mut chunk).await?;
        let frame = Frame::data(Bytes::copy_from_slice(&chunk[..n]));
        Ok::<_, std::io::Error>((n > 0).then_some((frame, (file, chunk))))
    });
    Ok(StreamBody::new(stream).boxed())
}

async fn put(lab: &Lab, request: Request<Incoming>, path: &DatastorePath, file: &Path) -> Answer {
    let folder = file.parent().filter(|f| f.is_dir());
    let folder = folder.ok_or_else(|| refuse(StatusCode::NOT_FOUND, "the folder is not there\n"))?;
    if path.path.is_empty() || file.is_dir() {
        return Err(refuse(StatusCode::FORBIDDEN, "it is a folder\n"));
    }
    if super::datastore::in_use(lab, path, true) {
        return Err(refuse(StatusCode::CONFLICT, "the file is in use\n"));
    }
    let existed = file.exists();
    let announced =
        request.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u64>().ok());
    if !lab.read(|w| w.has_room(&path.datastore, announced.unwrap_or(0))) {
        return Err(refuse(StatusCode::INSUFFICIENT_STORAGE, "the datastore is full\n"));
    }
    let aside = tempfile::Builder::new().prefix(".upload-").tempfile_in(folder).map_err(|e| io(&e))?;
    let (handle, name) = aside.into_parts();
    let mut out = tokio::fs::File::from_std(handle);
    let mut body = request.into_body();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| refuse(StatusCode::BAD_REQUEST, format!("the upload broke: {e}\n")))?;
        if let Ok(data) = frame.into_data() {
            out.write_all(&data).await.map_err(|e| io(&e))?;
        }
    }
    out.sync_all().await.map_err(|e| io(&e))?;
    name.persist(file).map_err(|e| io(&e.error))?;
    Ok(plain(if existed { StatusCode::OK } else { StatusCode::CREATED }, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_http() {
        for (header, expected) in [
            ("bytes=0-9", Some(Ok((0, 10)))),
            ("bytes=5-", Some(Ok((5, 95)))),
            ("bytes=-10", Some(Ok((90, 10)))),
            ("bytes=90-200", Some(Ok((90, 10)))),
            ("bytes=100-", Some(Err(()))),
            ("bytes=9-1", Some(Err(()))),
            ("items=0-1", None),
            ("bytes=x-y", None),
        ] {
            assert_eq!(range(header, 100), expected, "{header}");
        }
    }

    #[test]
    fn urls_are_unescaped_once() {
        assert_eq!(unescape("a%20b%252f").as_deref(), Some("a b%2f"));
        assert_eq!(unescape("a%2"), None);
    }
}
