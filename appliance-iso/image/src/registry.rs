//! [`Registry`]: what an image needs from the registry that its reference names.
//!
//! The protocol is `oci-client`'s; here stand who asks, what counts as an image, and what is said to the user when there is
//! none.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use oci_client::client::{BlobResponse, ClientProtocol, linux_amd64_resolver};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::manifest::{
    IMAGE_CONFIG_MEDIA_TYPE, IMAGE_DOCKER_CONFIG_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE, OciDescriptor,
    OciImageManifest, OciManifest,
};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use secret::Secret;
use serde::Deserialize;
use tokio::sync::Mutex;

use crate::Digest;
pub use crate::access::Access;
use crate::name::{familiar, repository, shorten};
use crate::token::TokenServer;

/// A configuration of more bytes is none.
const CONFIG: u64 = 4 << 20;

/// Who asks.
#[derive(Debug, Clone, Default)]
pub enum Login {
    /// Nobody.
    #[default]
    Anonymous,
    /// A user.
    User {
        /// Name.
        name: String,
        /// Password, or a token in its place.
        password: Secret,
    },
    /// Who has an identity token: it comes of a login, and stands for the password.
    Identity(Secret),
}

/// Why a registry gave no image.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The admin does not let it be asked.
    #[error("Access denied to unauthorized registry ({0}) while VCH is in whitelist mode")]
    NotAllowed(String),
    /// It has no such image.
    #[error("manifest for {reference} not found: manifest unknown: {message}")]
    NoSuch {
        /// The image.
        reference: String,
        /// The registry's own words.
        message: String,
    },
    /// It has none for this user.
    #[error("pull access denied for {repository}, repository does not exist or may require 'docker login': {message}")]
    Denied {
        /// The repository.
        repository: String,
        /// The registry's own words.
        message: String,
    },
    /// What it has is no image for a container here.
    #[error("{reference}: {reason}")]
    NoImage {
        /// The image.
        reference: String,
        /// What is wrong with it.
        reason: String,
    },
    /// It was not reached, or failed.
    #[error("{registry}: {reason}")]
    Failed {
        /// The registry.
        registry: String,
        /// What happened.
        reason: String,
    },
}

/// A registry, and the image that is wanted of it.
#[derive(Clone)]
pub struct Registry {
    access: Access,
    protocol: ClientProtocol,
    reference: Reference,
    login: Login,
    /// Of all that download, so that a new access token is for all of them.
    session: Arc<Mutex<Option<Session>>>,
}

/// A client, and what it shows the registry.
#[derive(Clone)]
struct Session {
    client: Client,
    auth: RegistryAuth,
}

/// An image as its registry describes it.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The digest that the reference leads to: of an index, when there is one.
    pub digest: Digest,
    /// The image's own manifest.
    pub manifest: Digest,
    /// Digest of the configuration: the image's id.
    pub id: Digest,
    /// The configuration's text.
    pub config: String,
    /// Layers, lowest first: what is sent, and the digest of its content.
    pub layers: Vec<(OciDescriptor, Digest)>,
}

/// What is read of a configuration (OCI image-spec, config.md).
#[derive(Debug, Deserialize)]
struct Config {
    architecture: String,
    os: String,
    rootfs: RootFs,
}

#[derive(Debug, Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<Digest>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("reference", &self.reference).finish_non_exhaustive()
    }
}

/// Asks a registry, `host[:port]`, whether it takes a user's word.  Gives the identity token to show from now on, where there
/// is one.
///
/// # Errors
/// [`RegistryError::Denied`] when it does not, others when it cannot be asked.
pub async fn check_login(access: &Access, host: &str, login: &Login) -> Result<Option<Secret>, RegistryError> {
    access.allows(host)?;
    // There need not be such an image: it is the answer to the user that counts.
    let reference = crate::name::parse(&format!("{host}/login:check"))
        .map_err(|e| RegistryError::Failed { registry: host.to_owned(), reason: e.to_string() })?;
    let mut registry = Registry::new(access, ClientProtocol::Https, &reference, login);
    let mut answer = registry.admits().await;
    if matches!(answer, Err(OciDistributionError::RequestError(_))) && access.is_insecure(host) {
        registry = Registry::new(access, ClientProtocol::Http, &reference, login);
        answer = registry.admits().await;
    }
    match answer.map_err(|error| registry.failure(error)) {
        Err(RegistryError::NoSuch { .. }) => Ok(None),
        Err(RegistryError::Denied { message, .. }) if message.contains("repository name not known") => Ok(None),
        other => other,
    }
}

impl Registry {
    fn new(access: &Access, protocol: ClientProtocol, reference: &Reference, login: &Login) -> Self {
        let (access, reference, login) = (access.clone(), reference.clone(), login.clone());
        Self { access, protocol, reference, login, session: Arc::default() }
    }

    /// Asks the registry that `reference` names for the image's description.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn resolve(
        access: &Access,
        reference: &Reference,
        login: &Login,
    ) -> Result<(Self, Resolved), RegistryError> {
        let host = reference.registry();
        access.allows(host)?;
        let mut registry = Self::new(access, ClientProtocol::Https, reference, login);
        let first = registry.manifest(reference).await;
        let (manifest, digest) = match first {
            Err(OciDistributionError::RequestError(e)) if access.is_insecure(host) => {
                registry = Self::new(access, ClientProtocol::Http, reference, login);
                let second = registry.manifest(reference).await;
                // When neither works, the first attempt is what the user meant, unless nobody speaks TLS there.
                match second {
                    Err(OciDistributionError::RequestError(_)) => {
                        return Err(registry.failure(OciDistributionError::RequestError(e)));
                    }
                    other => other.map_err(|e| registry.failure(e))?,
                }
            }
            other => other.map_err(|e| registry.failure(e))?,
        };
        let resolved = registry.describe(manifest, digest).await?;
        Ok((registry, resolved))
    }

    /// The session that there is; a new one when there is none yet, or the one that there is was refused.
    async fn session(&self, refused: Option<&Session>) -> Result<Session, OciDistributionError> {
        // Held meanwhile, so that of many that were refused one gets a new token, and the others get the same.
        let mut session = self.session.lock().await;
        match session.as_ref() {
            Some(there) if refused.is_none_or(|refused| refused.auth != there.auth) => Ok(there.clone()),
            _ => Ok(session.insert(self.open().await?).clone()),
        }
    }

    async fn open(&self) -> Result<Session, OciDistributionError> {
        let auth = match &self.login {
            Login::Anonymous => RegistryAuth::Anonymous,
            Login::User { name, password } => RegistryAuth::Basic(name.clone(), password.reveal().to_owned()),
            Login::Identity(token) => match self.token_server().await? {
                Some(server) => {
                    let access = server.access(token, self.reference.repository()).await?;
                    RegistryAuth::Bearer(access.reveal().to_owned())
                }
                None => RegistryAuth::Anonymous,
            },
        };
        let client = self.access.client(self.reference.registry(), self.protocol.clone())?;
        client.store_auth_if_needed(self.reference.resolve_registry(), &auth).await;
        Ok(Session { client, auth })
    }

    async fn token_server(&self) -> Result<Option<TokenServer>, OciDistributionError> {
        let scheme = if self.protocol == ClientProtocol::Http { "http" } else { "https" };
        let client = self.access.plain_client(self.reference.registry())?;
        TokenServer::of(client, &format!("{scheme}://{}", self.reference.resolve_registry())).await
    }

    /// Has the login checked.
    async fn admits(&self) -> Result<Option<Secret>, OciDistributionError> {
        // A registry with tokens refuses one here; one that asks for the password itself only when it is asked for something.
        match &self.login {
            Login::User { name, password } => {
                if let Some(server) = self.token_server().await? {
                    return server.login(name, password).await;
                }
            }
            Login::Identity(token) => {
                if matches!(self.session(None).await?.auth, RegistryAuth::Bearer(_)) {
                    return Ok(Some(token.clone()));
                }
            }
            Login::Anonymous => {}
        }
        let Session { client, auth } = self.session(None).await?;
        client.pull_manifest_raw(&self.reference, &auth, &[IMAGE_MANIFEST_MEDIA_TYPE]).await.map(|_| None)
    }

    async fn manifest(&self, reference: &Reference) -> Result<(OciManifest, String), OciDistributionError> {
        let Session { client, auth } = self.session(None).await?;
        client.pull_manifest(reference, &auth).await
    }

    async fn describe(&self, manifest: OciManifest, digest: String) -> Result<Resolved, RegistryError> {
        let digest = self.digest(digest)?;
        let (manifest, own) = match manifest {
            OciManifest::Image(image) => (image, digest.clone()),
            OciManifest::ImageIndex(index) => {
                let nothing = "no matching manifest for linux/amd64 in the manifest list entries";
                let entry = linux_amd64_resolver(&index.manifests).ok_or_else(|| self.no_image(nothing))?;
                let reference = self.reference.clone_with_digest(entry.clone());
                let found = self.manifest(&reference).await.map_err(|e| self.failure(e))?;
                let (OciManifest::Image(image), _) = found else {
                    return Err(self.no_image("its index leads to another index"));
                };
                (image, self.digest(entry)?)
            }
        };
        let config = self.config(&manifest).await?;
        let layers = layers(manifest.layers, &config).map_err(|what| self.no_image(what))?;
        Ok(Resolved { digest, manifest: own, id: Digest::new(config.as_bytes()), config, layers })
    }

    /// The configuration, which the manifest names by digest.
    async fn config(&self, manifest: &OciImageManifest) -> Result<String, RegistryError> {
        let descriptor = &manifest.config;
        let kind = descriptor.media_type.as_str();
        if ![IMAGE_CONFIG_MEDIA_TYPE, IMAGE_DOCKER_CONFIG_MEDIA_TYPE].contains(&kind) {
            return Err(self.no_image(format!("it is no container image: its configuration is {kind}")));
        }
        let expected = self.digest(descriptor.digest.clone())?;
        let mut stream = self.blob(descriptor, 0).await?;
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.next().await {
            bytes.extend_from_slice(&chunk.map_err(|e| self.failed(&e))?);
            if bytes.len() as u64 > CONFIG {
                return Err(self.no_image(format!("its configuration has more than {CONFIG} bytes")));
            }
        }
        if Digest::new(&bytes) != expected {
            return Err(self.no_image(format!("its configuration does not have the digest {expected}")));
        }
        String::from_utf8(bytes).map_err(|_| self.no_image("its configuration is no text"))
    }

    /// The bytes of a blob from `offset` on; not checked.
    pub(crate) async fn blob(
        &self,
        descriptor: &OciDescriptor,
        offset: u64,
    ) -> Result<BoxStream<'static, io::Result<Bytes>>, RegistryError> {
        match self.response(descriptor, offset).await.map_err(|e| self.failure(e))? {
            BlobResponse::Partial(stream) => Ok(stream.stream),
            // A registry that takes no ranges begins anew.
            BlobResponse::Full(stream) => {
                let mut skip = offset;
                let rest = stream.stream.map(move |chunk| {
                    chunk.map(|mut bytes| {
                        let passed = usize::try_from(skip).unwrap_or(usize::MAX).min(bytes.len());
                        skip -= passed as u64;
                        bytes.split_off(passed)
                    })
                });
                Ok(rest.boxed())
            }
        }
    }

    async fn response(&self, blob: &OciDescriptor, offset: u64) -> Result<BlobResponse, OciDistributionError> {
        let session = self.session(None).await?;
        let first = session.client.pull_blob_stream_partial(&self.reference, blob, offset, None).await;
        match (first, &session.auth) {
            // It was good when the pull began: an access token lives for minutes, and a pull takes its time.
            (Err(OciDistributionError::UnauthorizedError { .. }), RegistryAuth::Bearer(_)) => {
                let session = self.session(Some(&session)).await?;
                session.client.pull_blob_stream_partial(&self.reference, blob, offset, None).await
            }
            (other, _) => other,
        }
    }

    /// The image that is wanted.
    pub fn reference(&self) -> &Reference {
        &self.reference
    }

    fn digest(&self, text: String) -> Result<Digest, RegistryError> {
        Digest::try_from(text).map_err(|e| self.no_image(e.to_string()))
    }

    fn no_image(&self, reason: impl Into<String>) -> RegistryError {
        RegistryError::NoImage { reference: familiar(&self.reference), reason: reason.into() }
    }

    fn failed(&self, error: &dyn std::error::Error) -> RegistryError {
        RegistryError::Failed { registry: self.reference.registry().to_owned(), reason: chain(error) }
    }

    /// What a failure means to who asked for the image.
    fn failure(&self, error: OciDistributionError) -> RegistryError {
        let reference = familiar(&self.reference);
        let denied = |message: String| RegistryError::Denied {
            repository: shorten(&repository(&self.reference)).to_owned(),
            message,
        };
        match error {
            OciDistributionError::RegistryError { envelope, .. } => {
                let Some(first) = envelope.errors.into_iter().next() else {
                    return self.no_image("the registry refuses without a reason");
                };
                match first.code {
                    OciErrorCode::ManifestUnknown | OciErrorCode::NotFound | OciErrorCode::ManifestBlobUnknown => {
                        RegistryError::NoSuch { reference, message: first.message }
                    }
                    OciErrorCode::Denied | OciErrorCode::Unauthorized | OciErrorCode::NameUnknown => {
                        denied(first.message)
                    }
                    _ => self.failed(&Words(first.message)),
                }
            }
            OciDistributionError::UnauthorizedError { .. } => denied("authentication required".to_owned()),
            OciDistributionError::AuthenticationFailure(_) => denied(match self.login {
                Login::Identity(_) => "the token of an earlier login is not taken any more".to_owned(),
                _ => "incorrect username or password".to_owned(),
            }),
            OciDistributionError::ServerError { code: 404, .. } => {
                RegistryError::NoSuch { reference, message: "not found".to_owned() }
            }
            OciDistributionError::UnsupportedSchemaVersionError(n) => {
                self.no_image(format!("its manifest has schema version {n}, which no registry should serve any more"))
            }
            OciDistributionError::UnsupportedMediaTypeError(kind) => {
                self.no_image(format!("it is no container image: {kind}"))
            }
            OciDistributionError::ManifestParsingError(e) | OciDistributionError::VersionedParsingError(e) => {
                self.no_image(format!("its manifest cannot be read: {e}"))
            }
            OciDistributionError::DigestError(e) => self.no_image(e.to_string()),
            other => self.failed(&other),
        }
    }
}

/// The layers that manifest and configuration describe together, or why that is no image for a container here.
fn layers(layers: Vec<OciDescriptor>, config: &str) -> Result<Vec<(OciDescriptor, Digest)>, String> {
    let read: Config = serde_json::from_str(config).map_err(|e| format!("its configuration cannot be read: {e}"))?;
    if (read.os.as_str(), read.architecture.as_str()) != ("linux", "amd64") {
        return Err(format!("it is for {}/{}, and containers here are linux/amd64", read.os, read.architecture));
    }
    let ids = read.rootfs.diff_ids;
    if layers.len() != ids.len() {
        return Err(format!("its manifest has {} layers and its configuration {}", layers.len(), ids.len()));
    }
    for layer in &layers {
        Digest::try_from(layer.digest.clone()).map_err(|e| e.to_string())?;
        if layer.size < 0 {
            return Err(format!("layer {} has the size {}", layer.digest, layer.size));
        }
    }
    Ok(layers.into_iter().zip(ids).collect())
}

/// Reads a manifest and a configuration as a registry sends them: the image's layers, or why it is none.
///
/// # Errors
/// A sentence.
pub fn image_of(manifest: &[u8], config: &str) -> Result<Vec<(OciDescriptor, Digest)>, String> {
    match serde_json::from_slice(manifest).map_err(|e| e.to_string())? {
        OciManifest::Image(image) => layers(image.layers, config),
        OciManifest::ImageIndex(index) => {
            let entry = linux_amd64_resolver(&index.manifests);
            Err(format!("its index leads to {}", entry.as_deref().unwrap_or("nothing for linux/amd64")))
        }
    }
}

/// Words as an error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Words(String);

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    text
}
