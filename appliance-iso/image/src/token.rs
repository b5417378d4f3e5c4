//! [`TokenServer`]: what a registry sends its clients to for access tokens, as far as `oci-client` does not ask it.
//!
//! That gets access tokens for a password, and none for an identity token.  Such a one is what OAuth2 calls a refresh
//! token: it comes of a login, and stands for the password from then on.

use std::time::Duration;

use http_auth::ChallengeParser;
use oci_client::errors::OciDistributionError;
use reqwest::header::WWW_AUTHENTICATE;
use reqwest::{Client, RequestBuilder, StatusCode};
use secret::Secret;
use serde::Deserialize;

/// Some token servers tell clients apart by it; what works with Docker's is to work here.
const CLIENT: &str = "docker";
/// Time for an answer.
const ANSWER: Duration = Duration::from_secs(60);

/// A server that gives access tokens.
#[derive(Debug)]
pub(crate) struct TokenServer {
    client: Client,
    /// Its URL.
    realm: String,
    /// What the registry is called there.
    service: String,
}

/// What it answers (distribution, "Token Authentication Specification", and "Docker Registry v2 OAuth2 token
/// authentication").  When a token expires is not read: the registry refuses it then, whatever our clock says.
#[derive(Debug, Deserialize)]
struct Answer {
    access_token: Option<Secret>,
    /// An older name of the same; a server may send both.
    token: Option<Secret>,
    refresh_token: Option<Secret>,
}

impl TokenServer {
    /// The one of the registry at a URL; none where it has none.
    pub(crate) async fn of(client: Client, registry: &str) -> Result<Option<Self>, OciDistributionError> {
        let answer = client.get(format!("{registry}/v2/")).send().await?;
        let headers = answer.headers().get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let bearer = headers
            .flat_map(ChallengeParser::new)
            .filter_map(Result::ok)
            .find(|challenge| challenge.scheme.eq_ignore_ascii_case("bearer"));
        let Some(bearer) = bearer else { return Ok(None) };
        let param = |name: &str| {
            let found = bearer.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.to_unescaped())
        };
        let service = param("service").unwrap_or_default();
        Ok(param("realm").map(|realm| Self { client, realm, service }))
    }

    /// An access token that is good for pulling from a repository, as far as who has the identity token may.
    pub(crate) async fn access(&self, identity: &Secret, repository: &str) -> Result<Secret, OciDistributionError> {
        let scope = format!("repository:{repository}:pull");
        let form = [
            ("grant_type", "refresh_token"),
            ("service", &self.service),
            ("client_id", CLIENT),
            ("scope", &scope),
            ("refresh_token", identity.reveal()),
        ];
        let answer = ask(self.client.post(&self.realm).form(&form)).await?;
        answer.access_token.or(answer.token).ok_or_else(no_token)
    }

    /// Logs a user in; gives an identity token where the server has such.
    pub(crate) async fn login(&self, name: &str, password: &Secret) -> Result<Option<Secret>, OciDistributionError> {
        let query = [
            ("service", self.service.as_str()),
            ("client_id", CLIENT),
            ("account", name),
            // The specification's name for an identity token.
            ("offline_token", "true"),
        ];
        let request = self.client.get(&self.realm).query(&query).basic_auth(name, Some(password.reveal()));
        let answer = ask(request).await?;
        Ok(answer.refresh_token.filter(|token| !token.is_empty()))
    }
}

async fn ask(request: RequestBuilder) -> Result<Answer, OciDistributionError> {
    let answer = request.timeout(ANSWER).send().await?;
    let (status, url) = (answer.status(), answer.url().to_string());
    let body = answer.bytes().await?;
    // Who asks too often is not refused for what he showed.
    if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS {
        return Err(OciDistributionError::AuthenticationFailure(status.to_string()));
    }
    if !status.is_success() {
        let message = String::from_utf8_lossy(&body).into_owned();
        return Err(OciDistributionError::ServerError { code: status.as_u16(), url, message });
    }
    // What the reader has to say may quote the answer.
    serde_json::from_slice(&body).map_err(|_| no_token())
}

fn no_token() -> OciDistributionError {
    OciDistributionError::RegistryTokenDecodeError("its token server's answer has no token".to_owned())
}
