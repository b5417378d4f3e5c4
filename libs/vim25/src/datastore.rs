//! Files on datastores, through the endpoint's `/folder`.

use std::path::Path;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use url::Url;

use crate::{Error, Result, Session};

/// Bytes read from a file at once.
const CHUNK: usize = 256 * 1024;
/// How often a transfer is tried.
const TRIES: u32 = 4;
/// A transfer in which no byte moves for so long has failed.
const STALL: Duration = Duration::from_secs(60);

/// A file or folder on a datastore: `[datastore] path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatastorePath {
    /// Name of the datastore.
    pub datastore: String,
    /// Path in it, without leading slash; empty for the datastore's root.
    pub path: String,
}

impl DatastorePath {
    /// A path on a datastore.
    pub fn new(datastore: impl Into<String>, path: impl Into<String>) -> Self {
        Self { datastore: datastore.into(), path: path.into().trim_matches('/').to_owned() }
    }

    /// Reads `[datastore] path`.
    pub fn parse(text: &str) -> Option<Self> {
        let (datastore, path) = text.strip_prefix('[')?.split_once(']')?;
        Some(Self::new(datastore, path.trim()))
    }

    /// A file or folder in this folder.
    #[must_use]
    pub fn join(&self, name: &str) -> Self {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}/{name}", self.path) };
        Self { datastore: self.datastore.clone(), path }
    }

    /// The folder that holds it.
    #[must_use]
    pub fn parent(&self) -> Self {
        let path = self.path.rsplit_once('/').map_or("", |(dir, _)| dir);
        Self { datastore: self.datastore.clone(), path: path.to_owned() }
    }
}

/// A piece of a datastore file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Piece {
    /// The bytes, fewer than asked for where the file ends.
    pub bytes: Vec<u8>,
    /// The whole file's size in bytes, as it was then.
    pub size: u64,
}

impl std::fmt::Display for DatastorePath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{}] {}", self.datastore, self.path)
    }
}

/// The address of a datastore file on `server`; `datacenter` is its inventory path there, without the leading slash.
pub(crate) fn file_url(server: &Url, datacenter: &str, file: &DatastorePath) -> Url {
    let mut url = server.clone();
    url.set_path("/folder");
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.extend(file.path.split('/'));
    }
    url.query_pairs_mut().append_pair("dcPath", datacenter).append_pair("dsName", &file.datastore);
    url
}

impl Session {
    fn file_url(&self, datacenter: &str, file: &DatastorePath) -> Url {
        file_url(&self.options().target, datacenter, file)
    }

    /// Uploads a local file; `progress` is told the bytes sent so far, from 0 again at each new try.
    ///
    /// # Errors
    /// [`Error::File`] when the local file cannot be read, otherwise the failure of the last try.
    pub async fn upload(
        &self,
        local: &Path,
        datacenter: &str,
        file: &DatastorePath,
        progress: impl Fn(u64) + Send + Sync + Clone + 'static,
    ) -> Result<()> {
        let mut attempt = 1;
        loop {
            match self.upload_once(local, datacenter, file, progress.clone()).await {
                Ok(()) => return Ok(()),
                Err(Error::Http { status: 401, .. }) if attempt < TRIES => self.renew().await?,
                Err(e) if attempt < TRIES && e.is_transient() => {
                    tokio::time::sleep(Duration::from_millis(250 << attempt)).await;
                }
                Err(e) => return Err(e),
            }
            attempt += 1;
        }
    }

    async fn upload_once(
        &self,
        local: &Path,
        datacenter: &str,
        file: &DatastorePath,
        progress: impl Fn(u64) + Send + Sync + 'static,
    ) -> Result<()> {
        let local_error = |source| Error::File { path: local.display().to_string(), source };
        let source = tokio::fs::File::open(local).await.map_err(local_error)?;
        let length = source.metadata().await.map_err(local_error)?.len();
        progress(0);
        let (moved, mut stall) = tokio::sync::watch::channel(0_u64);
        let chunks =
            futures_util::stream::try_unfold((source.take(length), 0_u64, progress, moved), |state| async move {
                let (mut source, mut sent, progress, moved) = state;
                let mut chunk = bytes::BytesMut::with_capacity(CHUNK);
                if source.read_buf(&mut chunk).await? == 0 {
                    return Ok::<_, std::io::Error>(None);
                }
                sent += chunk.len() as u64;
                progress(sent);
                moved.send_replace(sent);
                Ok(Some((chunk.freeze(), (source, sent, progress, moved))))
            });
        let url = self.file_url(datacenter, file);
        let request = self
            .http(reqwest::Method::PUT, url.clone())
            .header(reqwest::header::CONTENT_TYPE, "application/octet-stream")
            .header(reqwest::header::CONTENT_LENGTH, length)
            .body(reqwest::Body::wrap_stream(chunks));
        let mut send = std::pin::pin!(request.send());
        let response = loop {
            tokio::select! {
                response = &mut send => break response.map_err(|e| self.http_error(e))?,
                moved = tokio::time::timeout(STALL, stall.changed()) => match moved {
                    Ok(Ok(())) => {}
                    // All is sent: the server has its own time to answer.
                    Ok(Err(_)) => break tokio::time::timeout(STALL, &mut send).await
                        .map_err(|_| stalled(&url))?
                        .map_err(|e| self.http_error(e))?,
                    Err(_) => return Err(stalled(&url)),
                },
            }
        };
        accept(&url, response).map(drop)
    }

    /// Downloads a datastore file to a local one, which appears only when it is complete.
    ///
    /// # Errors
    /// [`Error::Http`] with status 404 when there is no such file.
    pub async fn download(
        &self,
        datacenter: &str,
        file: &DatastorePath,
        local: &Path,
        progress: impl Fn(u64),
    ) -> Result<()> {
        let url = self.file_url(datacenter, file);
        let response = self.http(reqwest::Method::GET, url.clone()).send().await.map_err(|e| self.http_error(e))?;
        let mut body = accept(&url, response)?.bytes_stream().map_err(|e| self.http_error(e)).boxed();
        let partial = local.with_extension("part");
        let local_error = |source| Error::File { path: partial.display().to_string(), source };
        let mut out = tokio::fs::File::create(&partial).await.map_err(local_error)?;
        let mut got = 0;
        while let Some(chunk) = tokio::time::timeout(STALL, body.next()).await.map_err(|_| stalled(&url))? {
            let chunk = chunk?;
            out.write_all(&chunk).await.map_err(local_error)?;
            got += chunk.len() as u64;
            progress(got);
        }
        out.sync_all().await.map_err(local_error)?;
        tokio::fs::rename(&partial, local).await.map_err(local_error)
    }
}

impl Session {
    /// Writes a small file, in the place of one that is there.
    ///
    /// # Errors
    /// [`Error::Http`] with status 404 when its folder is not there, otherwise the failure of the last try.
    pub async fn write_file(&self, datacenter: &str, file: &DatastorePath, bytes: Vec<u8>) -> Result<()> {
        let bytes = bytes::Bytes::from(bytes);
        let url = self.file_url(datacenter, file);
        let mut attempt = 1;
        loop {
            let request = self.http(reqwest::Method::PUT, url.clone()).timeout(STALL).body(bytes.clone());
            let sent = request.send().await.map_err(|e| self.http_error(e)).and_then(|r| accept(&url, r));
            match sent {
                Ok(_) => return Ok(()),
                Err(Error::Http { status: 401, .. }) if attempt < TRIES => self.renew().await?,
                Err(e) if attempt < TRIES && e.is_transient() => {
                    tokio::time::sleep(Duration::from_millis(250 << attempt)).await;
                }
                Err(e) => return Err(e),
            }
            attempt += 1;
        }
    }

    /// Reads up to `length` bytes of a datastore file from `offset` on; none beyond its end.  A file that is being written
    /// may be read, too.
    ///
    /// # Errors
    /// [`Error::Http`] with status 404 when there is no such file, otherwise the failure of the last try.
    pub async fn read_piece(
        &self,
        datacenter: &str,
        file: &DatastorePath,
        offset: u64,
        length: usize,
    ) -> Result<Piece> {
        let mut attempt = 1;
        loop {
            match self.read_piece_once(datacenter, file, offset, length).await {
                Ok(piece) => return Ok(piece),
                Err(Error::Http { status: 401, .. }) if attempt < TRIES => self.renew().await?,
                Err(e) if attempt < TRIES && e.is_transient() => {
                    tokio::time::sleep(Duration::from_millis(250 << attempt)).await;
                }
                Err(e) => return Err(e),
            }
            attempt += 1;
        }
    }

    /// [`Self::read_piece`], tried once.
    pub(crate) async fn read_piece_once(
        &self,
        datacenter: &str,
        file: &DatastorePath,
        offset: u64,
        length: usize,
    ) -> Result<Piece> {
        let url = self.file_url(datacenter, file);
        let request = self.http(reqwest::Method::GET, url.clone());
        piece(&url, request, offset, length, |e| self.http_error(e)).await
    }
}

/// Sends a GET of `url` for a piece of the file there; `failed` turns what happens on the way into an error.
pub(crate) async fn piece(
    url: &Url,
    request: reqwest::RequestBuilder,
    offset: u64,
    length: usize,
    failed: impl Fn(reqwest::Error) -> Error + Send,
) -> Result<Piece> {
    let last = offset.saturating_add(length as u64).saturating_sub(1);
    let request = request.header(reqwest::header::RANGE, format!("bytes={offset}-{last}"));
    let response = request.send().await.map_err(&failed)?;
    let status = response.status();
    let range = response.headers().get(reqwest::header::CONTENT_RANGE).and_then(|v| v.to_str().ok());
    let size = range.and_then(|r| r.rsplit_once('/')?.1.parse().ok());
    if status == reqwest::StatusCode::RANGE_NOT_SATISFIABLE {
        // Some servers do not say the size here; that there is nothing at `offset` is what counts.
        return Ok(Piece { bytes: Vec::new(), size: size.unwrap_or(offset) });
    }
    let response = accept(url, response)?;
    // A server that takes no ranges sends everything: what lies before is passed over.
    let partial = status == reqwest::StatusCode::PARTIAL_CONTENT;
    let (mut skip, size) = match (partial, size) {
        (true, Some(size)) => (0, size),
        (true, None) => {
            return Err(Error::Protocol { what: bare(url), reason: "a part without its Content-Range".into() });
        }
        (false, _) => (offset, response.content_length().unwrap_or(0)),
    };
    let mut body = response.bytes_stream().map_err(failed).boxed();
    let mut bytes = Vec::new();
    while bytes.len() < length {
        let chunk = tokio::time::timeout(STALL, body.next()).await.map_err(|_| stalled(url))?;
        let Some(chunk) = chunk.transpose()? else { break };
        let passed = usize::try_from(skip).unwrap_or(usize::MAX).min(chunk.len());
        skip -= passed as u64;
        let chunk = &chunk[passed..];
        bytes.extend_from_slice(&chunk[..chunk.len().min(length - bytes.len())]);
    }
    let end = offset + bytes.len() as u64;
    Ok(Piece { bytes, size: size.max(if skip == 0 { end } else { 0 }) })
}

fn stalled(url: &Url) -> Error {
    Error::Deadline { what: format!("moving a byte of {}", bare(url)), after: STALL }
}

fn bare(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.to_string()
}

fn accept(url: &Url, response: reqwest::Response) -> Result<reqwest::Response> {
    let status = response.status();
    if status.is_success() { Ok(response) } else { Err(Error::Http { url: bare(url), status: status.as_u16() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datastore_paths_are_read_and_written_as_vsphere_does() {
        let path = DatastorePath::parse("[datastore1] vch/appliance.iso").unwrap();
        assert_eq!(path.to_string(), "[datastore1] vch/appliance.iso");
        assert_eq!(path.parent().join("bootstrap.iso").to_string(), "[datastore1] vch/bootstrap.iso");
        assert_eq!(DatastorePath::parse("vch/appliance.iso"), None);
    }
}
