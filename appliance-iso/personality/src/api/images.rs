//! Images: pull, list, inspect, history, tag, remove, prune.

use std::collections::HashMap;
use std::sync::Arc;

use axum::{
    Extension, Json, Router,
    body::Body,
    extract::{Path, Query, State as Shared},
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use bollard_stubs::models::{ContainerSummary, ImageDeleteResponseItem, ImageSummary};
use futures_util::stream;
use image_store::index::{Found, Image, Index, RemoveError, Removed};
use image_store::registry::{Access, Login, RegistryError, check_login};
use image_store::{Digest, PullError, StoreError, name};
use port_layer::Engine;
use port_layer::container::events::{History, ImageChange};
use port_layer::container::table::Container;
use secret::Secret;
use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::task::JoinHandle;

use super::query::{moment, truth};
use super::{State, container, filter, progress, words};
use crate::error::ApiError;
use crate::version::ApiVersion;

pub(super) fn routes() -> Router<Arc<State>> {
    Router::new()
        .route("/images/json", get(list))
        .route("/images/create", post(pull))
        .route("/system/df", get(usage))
        .route("/images/prune", post(prune))
        .route("/auth", post(auth))
        .route("/images/{*rest}", get(look).post(change))
        .route("/images/{*rest}", delete(remove))
}

/// An image's configuration (OCI image-spec, config.md), as far as Docker shows it.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Config {
    #[serde(default)]
    created: Option<String>,
    #[serde(default)]
    author: Option<String>,
    #[serde(default)]
    comment: Option<String>,
    #[serde(default)]
    architecture: Option<String>,
    #[serde(default)]
    os: Option<String>,
    #[serde(default)]
    pub(super) config: Option<Value>,
    #[serde(default)]
    rootfs: Value,
    #[serde(default)]
    history: Vec<Step>,
}

#[derive(Debug, Default, Deserialize)]
struct Step {
    #[serde(default)]
    created: Option<String>,
    #[serde(default)]
    created_by: Option<String>,
    #[serde(default)]
    comment: Option<String>,
    #[serde(default)]
    empty_layer: bool,
}

impl Config {
    pub(super) fn of(image: &Image) -> Self {
        serde_json::from_str(&image.config).unwrap_or_default()
    }

    fn labels(&self) -> HashMap<String, String> {
        let labels = self.config.as_ref().and_then(|c| c.get("Labels")).cloned();
        labels.and_then(|l| serde_json::from_value(l).ok()).unwrap_or_default()
    }
}

/// Seconds since 1970; 0 where no time is told.
fn seconds(time: Option<&String>) -> i64 {
    time.and_then(|t| OffsetDateTime::parse(t, &Rfc3339).ok()).map_or(0, OffsetDateTime::unix_timestamp)
}

/// An image's names as people write them, tags and digests.
fn names(index: &Index, id: &Digest) -> (Vec<String>, Vec<String>) {
    let short = |names: Vec<&str>| names.into_iter().map(|n| name::shorten(n).to_owned()).collect();
    let (tags, digests) = index.names(id);
    (short(tags), short(digests))
}

/// Finds an image as Docker does: by name, by id, by the beginning of an id.
pub(super) fn find<'a>(index: &'a Index, wanted: &str) -> Result<(&'a Digest, &'a Image), ApiError> {
    let whole = name::parse(wanted).ok().map(|r| r.whole());
    let (Found::Named(id) | Found::ById(id)) = index.find(wanted, whole.as_deref()).map_err(|e| missing(e, wanted))?;
    let image = index.images.get(id).ok_or_else(|| missing(RemoveError::NoSuch(wanted.to_owned()), wanted))?;
    Ok((id, image))
}

/// Docker names what was not found with its tag.
fn missing(error: RemoveError, wanted: &str) -> ApiError {
    match error {
        RemoveError::NoSuch(_) => {
            let last = wanted.rsplit('/').next().unwrap_or(wanted);
            let tagged = last.contains(':') || wanted.contains('@');
            ApiError::NotFound(format!("No such image: {wanted}{}", if tagged { "" } else { ":latest" }))
        }
        other => ApiError::Conflict(other.to_string()),
    }
}

/// What the store says of a change to `wanted`.
fn refused(error: StoreError, wanted: &str) -> ApiError {
    match error {
        StoreError::Remove(error) => missing(error, wanted),
        other => other.into(),
    }
}

async fn engine(state: &State, wanted: &str) -> Result<Arc<Engine>, ApiError> {
    let engine = state.engine().await?;
    engine.ok_or_else(|| missing(RemoveError::NoSuch(String::new()), wanted))
}

#[derive(Debug, Deserialize)]
struct ListQuery {
    filters: Option<String>,
    /// What clients before API 1.41 may say for a filter `reference`.
    filter: Option<String>,
    #[serde(rename = "shared-size")]
    shared_size: Option<String>,
}

impl ListQuery {
    fn filters(&self, version: ApiVersion) -> Result<Filters, ApiError> {
        let mut filters = Filters::read(self.filters.as_deref().unwrap_or_default(), &Filters::LIST)?;
        if let Some(name) = self.filter.as_ref().filter(|name| version < ApiVersion::new(1, 41) && !name.is_empty()) {
            filters.0.entry("reference".to_owned()).or_default().insert(name.clone());
        }
        Ok(filters)
    }
}

async fn list(
    Shared(state): Shared<Arc<State>>,
    Extension(version): Extension<ApiVersion>,
    Query(query): Query<ListQuery>,
) -> Result<Json<Vec<ImageSummary>>, ApiError> {
    let filters = query.filters(version)?;
    let Some(engine) = state.engine().await? else { return Ok(Json(Vec::new())) };
    Ok(Json(summaries(&engine, &filters, truth(query.shared_size.as_ref()))?))
}

/// What `GET /system/df` says.  The published types changed their form with API 1.52; clients read this one.
async fn usage(Shared(state): Shared<Arc<State>>) -> Result<Json<Value>, ApiError> {
    let Some(engine) = state.engine().await? else { return Ok(Json(usage_of(0, &[], &[]))) };
    let images = summaries(&engine, &Filters::default(), true)?;
    let index = engine.images().index();
    let bytes = index.disks.values().flat_map(|d| &d.layers).sum();
    let now = OffsetDateTime::now_utc();
    let shown = |c: &Container| ContainerSummary {
        size_root_fs: words::size(&c.record, &index),
        ..container::summary(c, &engine.phase(c), engine.health(c).as_ref(), &index, now)
    };
    let containers: Vec<_> = engine.table().iter().map(shown).collect();
    Ok(Json(usage_of(bytes, &images, &containers)))
}

fn usage_of(bytes: u64, images: &[ImageSummary], containers: &[ContainerSummary]) -> Value {
    json!({
        "LayersSize": bytes, "Images": images, "Containers": containers, "Volumes": [], "BuildCache": [], "BuilderSize": 0,
    })
}

fn summaries(engine: &Engine, filters: &Filters, shared: bool) -> Result<Vec<ImageSummary>, ApiError> {
    let index = engine.images().index();
    let mut out = Vec::new();
    for (id, image) in &index.images {
        let config = Config::of(image);
        if !filters.accept(&index, id, &config)? {
            continue;
        }
        let (mut repo_tags, mut repo_digests) = names(&index, id);
        repo_tags.retain(|name| filters.mean(name));
        repo_digests.retain(|name| filters.mean(name));
        let containers = engine.table().iter().filter(|c| c.record.image_id == id.as_str()).count();
        out.push(ImageSummary {
            id: id.to_string(),
            repo_tags,
            repo_digests,
            created: seconds(config.created.as_ref()),
            size: i64::try_from(image.bytes).unwrap_or(i64::MAX),
            shared_size: if shared { shared_bytes(&index, image) } else { -1 },
            labels: config.labels(),
            containers: i64::try_from(containers).unwrap_or(-1),
            ..Default::default()
        });
    }
    out.sort_by_key(|i| std::cmp::Reverse(i.created));
    Ok(out)
}

/// Bytes of the image that other images have, too.
fn shared_bytes(index: &Index, image: &Image) -> i64 {
    let mut bytes = 0_u64;
    let mut at = index.disks.get_key_value(&image.disk);
    let mut above: Vec<&Digest> = Vec::new();
    while let Some((chain, disk)) = at.filter(|_| above.len() <= index.disks.len()) {
        let tops = index.images.values().filter(|i| above.contains(&&i.disk) || i.disk == *chain).count();
        let children =
            index.disks.iter().filter(|(c, d)| d.parent.as_ref() == Some(chain) && !above.contains(c)).count();
        if tops > 1 || children > 0 {
            bytes += disk.layers.iter().sum::<u64>();
        }
        above.push(chain);
        at = disk.parent.as_ref().and_then(|p| index.disks.get_key_value(p));
    }
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Which images are meant: values of each key, of which any may match, but of labels each must.
#[derive(Debug, Default)]
struct Filters(std::collections::BTreeMap<String, std::collections::BTreeSet<String>>);

impl Filters {
    const LIST: [&'static str; 6] = ["dangling", "label", "before", "since", "reference", "until"];
    const PRUNE: [&'static str; 4] = ["dangling", "label", "label!", "until"];

    fn read(text: &str, known: &[&str]) -> Result<Self, ApiError> {
        let read = filter::read(text)?;
        match read.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(ApiError::Bad(format!("invalid filter '{key}'"))),
            None => Ok(Self(read)),
        }
    }

    /// Whether a name of an image is among those that are meant: who asks for names is shown no others.
    fn mean(&self, name: &str) -> bool {
        self.0.get("reference").is_none_or(|patterns| patterns.iter().any(|pattern| is_like(name, pattern)))
    }

    fn accept(&self, index: &Index, id: &Digest, config: &Config) -> Result<bool, ApiError> {
        let created = seconds(config.created.as_ref());
        for (key, values) in &self.0 {
            let of = |wanted: &String| Ok::<_, ApiError>(seconds(Config::of(find(index, wanted)?.1).created.as_ref()));
            let accepted = match key.as_str() {
                "dangling" => {
                    let wanted = values.iter().any(|v| truth(Some(v)));
                    index.names(id).0.is_empty() == wanted
                }
                "label" => values.iter().all(|v| words::has_label(&config.labels(), v)),
                "label!" => !values.iter().any(|v| words::has_label(&config.labels(), v)),
                "before" => values.iter().map(of).collect::<Result<Vec<_>, _>>()?.iter().any(|at| created < *at),
                "since" => values.iter().map(of).collect::<Result<Vec<_>, _>>()?.iter().any(|at| created > *at),
                "until" => {
                    let now = OffsetDateTime::now_utc();
                    let until = values.iter().map(|v| moment(v, now)).collect::<Result<Vec<_>, _>>()?;
                    until.iter().any(|ns| u64::try_from(created).unwrap_or_default() < ns / 1_000_000_000)
                }
                _ => {
                    let (tags, digests) = names(index, id);
                    tags.iter().chain(&digests).any(|name| self.mean(name))
                }
            };
            if !accepted {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Whether a name is like a pattern, with its tag or without; `*` is any letters but a slash, `?` one.
fn is_like(name: &str, pattern: &str) -> bool {
    fn like(name: &[u8], pattern: &[u8]) -> bool {
        match pattern.split_first() {
            None => name.is_empty(),
            Some((b'*', rest)) => {
                let end = name.iter().position(|b| *b == b'/').unwrap_or(name.len());
                (0..=end).any(|n| like(&name[n..], rest))
            }
            Some((b'?', rest)) => name.first().is_some_and(|b| *b != b'/') && like(&name[1..], rest),
            Some((c, rest)) => name.first() == Some(c) && like(&name[1..], rest),
        }
    }
    let repository = name.split('@').next().unwrap_or(name);
    let slash = repository.rfind('/').map_or(0, |at| at + 1);
    let untagged = repository[slash..].split(':').next().map_or(repository, |last| &repository[..slash + last.len()]);
    // More stars than this are no pattern but an attack.
    pattern.bytes().filter(|b| *b == b'*').count() <= 8
        && (like(name.as_bytes(), pattern.as_bytes()) || like(untagged.as_bytes(), pattern.as_bytes()))
}

#[derive(Debug, Deserialize)]
struct PullQuery {
    #[serde(rename = "fromImage")]
    from_image: Option<String>,
    #[serde(rename = "fromSrc")]
    from_src: Option<String>,
    tag: Option<String>,
    platform: Option<String>,
}

async fn pull(
    Shared(state): Shared<Arc<State>>,
    Query(query): Query<PullQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let from = query.from_image.unwrap_or_default();
    if from.is_empty() {
        if query.from_src.is_some() {
            return Err(ApiError::NotYet { endpoint: "POST /images/create (import)".to_owned() });
        }
        return Err(ApiError::Bad("invalid reference format".to_owned()));
    }
    let wanted = match query.tag.filter(|t| !t.is_empty()) {
        Some(digest) if digest.contains(':') => format!("{from}@{digest}"),
        Some(tag) => format!("{from}:{tag}"),
        None => from,
    };
    let reference = name::parse(&wanted).map_err(|e| ApiError::Bad(e.to_string()))?;
    // Docker pulls all of them.
    if !wanted.contains('@') && !wanted.rsplit('/').next().unwrap_or_default().contains(':') {
        return Err(ApiError::NotYet { endpoint: "the pull of all tags of a repository: name one".to_owned() });
    }
    if let Some(platform) = query.platform.filter(|p| !["", "linux", "linux/amd64"].contains(&p.as_str())) {
        return Err(ApiError::Bad(format!("platform {platform:?}: containers of a VCH are linux/amd64")));
    }
    let login = login(&headers)?;
    let access = access(&state);
    let engine = state.engine().await?;
    let engine = engine.ok_or_else(|| ApiError::Unavailable("this VCH has no image store".to_owned()))?;
    let familiar = name::familiar(&reference);
    let history = state.reach.history().clone();
    let mut pulling = engine.images().pull(access, reference, login);
    let Some(first) = pulling.step().await else {
        // Before anything was said, the failure is the answer's status.
        return match pulling.outcome().await {
            Ok(_) => Ok(StatusCode::OK.into_response()),
            Err(error) => Err(error.into()),
        };
    };
    let begun = (Some(first), Some((pulling, familiar, history)));
    let body = stream::unfold(begun, |(first, rest)| async move {
        let (mut pulling, familiar, history) = rest?;
        let step = match first {
            Some(step) => Some(step),
            None => pulling.step().await,
        };
        let (lines, rest) = match step {
            Some(step) => (progress::step(&step), Some((pulling, familiar, history))),
            None => {
                let outcome = pulling.outcome().await;
                if outcome.is_ok() {
                    history.tell_of_image(&familiar, &familiar, ImageChange::Pull);
                }
                (progress::end(&familiar, outcome), None)
            }
        };
        Some((Ok::<_, std::convert::Infallible>(lines), (None, rest)))
    });
    Ok(([(CONTENT_TYPE, "application/json")], Body::from_stream(body)).into_response())
}

/// How registries are reached.
fn access(state: &State) -> Access {
    let registry = &state.config.registry;
    Access {
        insecure: registry.insecure.clone(),
        allowed: registry.allowed.clone(),
        roots_pem: registry.ca_pem.clone(),
        https_proxy: state.proxies.https.clone(),
        http_proxy: state.proxies.http.clone(),
        no_proxy: registry.no_proxy.clone(),
    }
}

/// `docker login`: whether a registry takes the user's word.
async fn auth(Shared(state): Shared<Arc<State>>, Json(auth): Json<Auth>) -> Result<Json<Value>, ApiError> {
    let registry = registry_of(&auth.server_address);
    let login = auth.login(|| ApiError::Bad("invalid login: it has neither user nor password".to_owned()))?;
    if matches!(login, Login::Anonymous) {
        return Err(ApiError::Bad("no username and password given".to_owned()));
    }
    let identity = check_login(&access(&state), &registry, &login).await.map_err(|error| match &error {
        RegistryError::Denied { message, .. } => {
            ApiError::Unauthorized(format!("login attempt to {registry} failed: {message}"))
        }
        RegistryError::NotAllowed(_) => ApiError::Forbidden(error.to_string()),
        _ => ApiError::Failed(error.to_string()),
    })?;
    // A client keeps it in the place of the password.
    let identity = identity.as_ref().map_or("", Secret::reveal);
    Ok(Json(json!({"Status": "Login Succeeded", "IdentityToken": identity})))
}

/// The registry in what a client calls a server's address: with a scheme, with a path, or Docker's own.
fn registry_of(address: &str) -> String {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    match rest.split('/').next().unwrap_or_default() {
        "" | "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        host => host.to_owned(),
    }
}

#[derive(Debug, Default, Deserialize)]
struct Auth {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: Option<Secret>,
    #[serde(default)]
    auth: Option<Secret>,
    #[serde(default, rename = "identitytoken")]
    identity_token: Option<Secret>,
    #[serde(default, rename = "serveraddress")]
    server_address: String,
}

/// The header `X-Registry-Auth`: JSON in base64.
fn login(headers: &HeaderMap) -> Result<Login, ApiError> {
    let Some(value) = headers.get("x-registry-auth").filter(|v| !v.is_empty()) else { return Ok(Login::Anonymous) };
    let invalid = || ApiError::Bad("invalid X-Registry-Auth header: it is no JSON in base64".to_owned());
    let text = value.as_bytes();
    let json = URL_SAFE.decode(text).or_else(|_| STANDARD.decode(text)).map_err(|_| invalid())?;
    let auth: Auth = serde_json::from_slice(&json).map_err(|_| invalid())?;
    auth.login(invalid)
}

impl Auth {
    fn login(self, invalid: impl Fn() -> ApiError) -> Result<Login, ApiError> {
        // It comes with a name of no meaning, and a password that is none.
        if let Some(token) = self.identity_token.filter(|token| !token.is_empty()) {
            return Ok(Login::Identity(token));
        }
        if let Some(both) = self.auth.filter(|both| self.username.is_empty() && !both.is_empty()) {
            let both = STANDARD.decode(both.reveal()).ok().and_then(|b| String::from_utf8(b).ok());
            let both = both.ok_or_else(&invalid)?;
            let (name, password) = both.split_once(':').ok_or_else(invalid)?;
            return Ok(Login::User { name: name.to_owned(), password: Secret::new(password.to_owned()) });
        }
        Ok(match self.password {
            Some(password) if !self.username.is_empty() => Login::User { name: self.username, password },
            _ => Login::Anonymous,
        })
    }
}

#[derive(Debug, Deserialize)]
struct LookQuery {
    platform: Option<String>,
}

/// An image's name holds slashes, so that what is asked of it is the last part of the path.
async fn look(
    Shared(state): Shared<Arc<State>>,
    Path(rest): Path<String>,
    Query(query): Query<LookQuery>,
) -> Result<Json<Value>, ApiError> {
    let (wanted, action) = rest.rsplit_once('/').unwrap_or((&rest, ""));
    let index = engine(&state, wanted).await?.images().index();
    let (id, image) = find(&index, wanted)?;
    check_platform(query.platform.as_deref(), wanted)?;
    match action {
        "json" => Ok(Json(inspect(&index, id, image))),
        "history" => Ok(Json(history(&index, id, image))),
        "get" => Err(ApiError::NotYet { endpoint: "GET /images/{name}/get".to_owned() }),
        _ => Err(ApiError::NoPage),
    }
}

/// A platform as clients name it of an image that there is (OCI image-spec, image-index.md).
#[derive(Debug, Deserialize)]
struct Platform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
}

/// Refuses what is asked of an image for another platform than the one that it is for.
fn check_platform(json: Option<&str>, wanted: &str) -> Result<(), ApiError> {
    let Some(json) = json.filter(|json| !json.is_empty()) else { return Ok(()) };
    let invalid = |e| ApiError::Bad(format!("invalid platform {json:?}: {e}"));
    match serde_json::from_str(json).map_err(invalid)? {
        Platform { os, architecture } if os == "linux" && architecture == "amd64" => Ok(()),
        Platform { os, architecture } => {
            let text =
                format!("image {wanted} is not there for {os}/{architecture}: images of a VCH are for linux/amd64");
            Err(ApiError::NotFound(text))
        }
    }
}

fn inspect(index: &Index, id: &Digest, image: &Image) -> Value {
    let config = Config::of(image);
    let (tags, digests) = names(index, id);
    let layers = config.rootfs.get("diff_ids").cloned().unwrap_or_default();
    let tagged = OffsetDateTime::from_unix_timestamp_nanos(image.tagged_ns.into()).ok();
    json!({
        "Id": id,
        "RepoTags": tags,
        "RepoDigests": digests,
        "Parent": "",
        "Comment": config.comment.unwrap_or_default(),
        "Created": config.created.unwrap_or_else(|| "0001-01-01T00:00:00Z".to_owned()),
        "Author": config.author.unwrap_or_default(),
        "DockerVersion": "",
        "Config": config.config,
        "Architecture": config.architecture,
        "Os": config.os,
        "Size": image.bytes,
        "VirtualSize": image.bytes,
        "GraphDriver": {"Name": "vsphere", "Data": null},
        "RootFS": {"Type": "layers", "Layers": layers},
        "Metadata": {"LastTagTime": tagged.and_then(|t| t.format(&Rfc3339).ok())},
    })
}

/// Newest first; only the newest has an id, for a step is no image here.
fn history(index: &Index, id: &Digest, image: &Image) -> Value {
    let mut sizes = index.layer_bytes(&image.disk).into_iter();
    let steps = Config::of(image).history;
    let (tags, _) = names(index, id);
    let mut out: Vec<Value> = steps
        .iter()
        .map(|step| {
            json!({
                "Id": "<missing>",
                "Created": seconds(step.created.as_ref()),
                "CreatedBy": step.created_by.clone().unwrap_or_default(),
                "Tags": null,
                "Size": if step.empty_layer { 0 } else { sizes.next().unwrap_or(0) },
                "Comment": step.comment.clone().unwrap_or_default(),
            })
        })
        .collect();
    if let Some(newest) = out.last_mut() {
        newest["Id"] = json!(id);
        newest["Tags"] = json!(tags);
    }
    out.reverse();
    Value::Array(out)
}

#[derive(Debug, Deserialize)]
struct TagQuery {
    repo: Option<String>,
    tag: Option<String>,
}

async fn change(
    Shared(state): Shared<Arc<State>>,
    Path(rest): Path<String>,
    Query(query): Query<TagQuery>,
) -> Result<StatusCode, ApiError> {
    let (wanted, action) = rest.rsplit_once('/').unwrap_or((&rest, ""));
    let engine = engine(&state, wanted).await?;
    let index = engine.images().index();
    let (id, _) = find(&index, wanted)?;
    match action {
        "tag" => {
            let repo = query.repo.unwrap_or_default();
            let name = match query.tag.filter(|t| !t.is_empty()) {
                Some(tag) => format!("{repo}:{tag}"),
                None => repo,
            };
            let reference = name::parse(&name).map_err(|e| ApiError::Bad(e.to_string()))?;
            if reference.digest().is_some() {
                return Err(ApiError::Bad("refusing to create a tag with a digest reference".to_owned()));
            }
            let (id, history, wanted) = (id.clone(), state.reach.history().clone(), wanted.to_owned());
            // It is seen through, and told, although the client goes away.
            let work = tokio::spawn(async move {
                engine.images().tag(&id, &reference.whole()).await.map_err(|error| refused(error, &wanted))?;
                history.tell_of_image(id.as_str(), &name::familiar(&reference), ImageChange::Tag);
                Ok(StatusCode::CREATED)
            });
            seen_through(work).await
        }
        "push" => Err(ApiError::NotYet { endpoint: "POST /images/{name}/push".to_owned() }),
        _ => Err(ApiError::NoPage),
    }
}

#[derive(Debug, Deserialize)]
struct RemoveQuery {
    force: Option<String>,
    platforms: Option<String>,
}

async fn remove(
    Shared(state): Shared<Arc<State>>,
    Path(wanted): Path<String>,
    Query(query): Query<RemoveQuery>,
) -> Result<Json<Vec<ImageDeleteResponseItem>>, ApiError> {
    let engine = engine(&state, &wanted).await?;
    check_platform(query.platforms.as_deref(), &wanted)?;
    let removal = if truth(query.force.as_ref()) { Removal::Force } else { Removal::Plain };
    let removed = take(&engine, state.reach.history(), &wanted, removal).await?;
    Ok(Json(removed.into_iter().map(item).collect()))
}

/// How an image is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Removal {
    /// `docker rmi`.
    Plain,
    /// With all its names, and although a container that does not run uses it.
    Force,
    /// With all its names, and only while no container uses it.
    Prune,
}

async fn take(
    engine: &Arc<Engine>,
    history: &History,
    wanted: &str,
    removal: Removal,
) -> Result<Vec<Removed>, ApiError> {
    let (engine, history, wanted) = (Arc::clone(engine), history.clone(), wanted.to_owned());
    let whole = name::parse(&wanted).ok().map(|r| r.whole());
    // It is seen through, and told, although the client goes away.
    let work = tokio::spawn(async move {
        let index = engine.images().index();
        let id = find(&index, &wanted).map(|(id, _)| id.to_string()).unwrap_or_default();
        let user = |id: &Digest| {
            let table = engine.table();
            let mut users: Vec<_> = table.iter().filter(|c| c.record.image_id == id.as_str()).collect();
            // One that runs is what matters most.
            users.sort_by_key(|c| !c.phase().is_up());
            let keeps = |up: bool| up || removal == Removal::Prune;
            let known = users.first().map(|c| (c.record.id.chars().take(12).collect(), keeps(c.phase().is_up())));
            // A container that cannot be read may use any image.
            known.or_else(|| Some((table.unread().first()?.clone(), true)).filter(|_| removal == Removal::Prune))
        };
        // As it is when the store asks: a container that was being made when this began may be there by then.
        let used = |disk: &str| engine.table().may_use(disk);
        let force = removal != Removal::Plain;
        let outcome = engine.images().remove(&wanted, whole.as_deref(), force, user, used).await;
        let removed = outcome.map_err(|error| refused(error, &wanted))?;
        for one in &removed {
            let change = match one {
                Removed::Untagged(_) => ImageChange::Untag,
                Removed::Deleted(_) => ImageChange::Delete,
            };
            history.tell_of_image(&id, &id, change);
        }
        Ok(removed)
    });
    seen_through(work).await
}

async fn seen_through<T>(work: JoinHandle<Result<T, ApiError>>) -> Result<T, ApiError> {
    work.await.unwrap_or_else(|_| Err(ApiError::Failed("the operation ended without an answer".to_owned())))
}

fn item(removed: Removed) -> ImageDeleteResponseItem {
    match removed {
        Removed::Untagged(name) => {
            ImageDeleteResponseItem { untagged: Some(name::shorten(&name).to_owned()), deleted: None }
        }
        Removed::Deleted(id) => ImageDeleteResponseItem { untagged: None, deleted: Some(id.to_string()) },
    }
}

async fn prune(Shared(state): Shared<Arc<State>>, Query(query): Query<ListQuery>) -> Result<Json<Value>, ApiError> {
    let mut filters = Filters::read(query.filters.as_deref().unwrap_or_default(), &Filters::PRUNE)?;
    // By default only what has no name; `dangling=false` means all that no container uses.
    let dangling = filters.0.remove("dangling").is_none_or(|values| values.iter().any(|v| truth(Some(v))));
    let mut deleted = Vec::new();
    let mut freed = 0;
    if let Some(engine) = state.engine().await? {
        for id in engine.images().index().images.keys() {
            // Each removal takes its time, and others go on meanwhile.
            let index = engine.images().index();
            let Some(image) = index.images.get(id) else { continue };
            let unnamed = index.names(id).0.is_empty();
            let used = engine.table().iter().any(|c| c.record.image_id == id.as_str());
            if used || (dangling && !unnamed) || !filters.accept(&index, id, &Config::of(image))? {
                continue;
            }
            // One that a container has begun to use since is left alone.
            if let Ok(removed) = take(&engine, state.reach.history(), id.as_str(), Removal::Prune).await {
                deleted.extend(removed.into_iter().map(item));
                freed += image.bytes;
            }
        }
    }
    Ok(Json(json!({"ImagesDeleted": deleted, "SpaceReclaimed": freed})))
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<PullError> for ApiError {
    fn from(error: PullError) -> Self {
        let text = error.to_string();
        match error {
            PullError::Registry(RegistryError::NoSuch { .. } | RegistryError::Denied { .. }) => Self::NotFound(text),
            PullError::Registry(RegistryError::NotAllowed(_)) => Self::Forbidden(text),
            _ => Self::Failed(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_like_patterns() {
        for (name, pattern, expected) in [
            ("busybox:latest", "busybox", true),
            ("busybox:latest", "busybox:latest", true),
            ("busybox:1.36", "busybox:1.*", true),
            ("busybox:1.36", "busy*", true),
            ("host:5000/app:1", "host:5000/app", true),
            ("host:5000/app:1", "host:5000/*", true),
            ("a/b:1", "a*", false),
            ("a/b:1", "*/*", true),
            ("busybox:latest", "busybo?", true),
            ("busybox:latest", "box", false),
        ] {
            assert_eq!(is_like(name, pattern), expected, "{name} {pattern}");
        }
    }

    #[test]
    fn an_image_is_there_for_one_platform() {
        for json in [None, Some(""), Some(r#"{"os":"linux","architecture":"amd64"}"#)] {
            assert_eq!(check_platform(json, "busybox"), Ok(()));
        }
        let arm =
            check_platform(Some(r#"{"os":"linux","architecture":"arm64","variant":"v8"}"#), "busybox").unwrap_err();
        assert!(arm.to_string().starts_with("image busybox is not there for linux/arm64"), "{arm}");
        assert!(check_platform(Some("arm64"), "busybox").is_err());
    }

    #[test]
    fn old_clients_name_an_image_in_a_word_of_its_own() {
        let query = ListQuery { filters: None, filter: Some("busybox".into()), shared_size: None };
        let old = query.filters(ApiVersion::new(1, 40)).unwrap();
        assert_eq!([old.mean("busybox:1"), old.mean("nginx:1")], [true, false]);
        assert!(query.filters(ApiVersion::new(1, 41)).unwrap().mean("nginx:1"));
    }

    #[test]
    fn a_servers_address_is_a_registry() {
        for (address, registry) in [
            ("https://index.docker.io/v1/", "docker.io"),
            ("", "docker.io"),
            ("reg.example:5000", "reg.example:5000"),
            ("http://10.0.0.1:5000/v2/", "10.0.0.1:5000"),
        ] {
            assert_eq!(registry_of(address), registry, "{address}");
        }
    }

    #[test]
    fn a_login_is_read_in_each_of_its_forms() {
        let read = |json: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-registry-auth", URL_SAFE.encode(json).parse().unwrap());
            login(&headers)
        };
        for json in [r#"{"username":"ann","password":"pw"}"#, r#"{"auth":"YW5uOnB3"}"#] {
            let Ok(Login::User { name, password }) = read(json) else { panic!("{json}") };
            assert_eq!((name.as_str(), password.reveal()), ("ann", "pw"));
        }
        for json in [r#"{"identitytoken":"t"}"#, r#"{"username":"<token>","auth":"YW5uOg==","identitytoken":"t"}"#] {
            let Ok(Login::Identity(token)) = read(json) else { panic!("{json}") };
            assert_eq!(token.reveal(), "t");
        }
        assert!(matches!(read(r#"{"identitytoken":""}"#), Ok(Login::Anonymous)));
        assert!(matches!(read("{}"), Ok(Login::Anonymous)));
        assert!(matches!(login(&HeaderMap::new()), Ok(Login::Anonymous)));
        assert!(matches!(read("nonsense"), Err(ApiError::Bad(_))));
    }
}
