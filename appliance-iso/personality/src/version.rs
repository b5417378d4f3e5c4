//! Versions of the Docker API: which ones are spoken, and which one a request is made in.

use std::fmt;

use crate::error::ApiError;

/// A version of the Docker API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ApiVersion {
    major: u32,
    minor: u32,
}

/// The oldest version that is spoken, Docker's own minimum for long.
pub(crate) const OLDEST: ApiVersion = ApiVersion { major: 1, minor: 24 };
/// The newest: that of the types that this build was made with.
pub(crate) const NEWEST: ApiVersion = ApiVersion { major: 1, minor: 53 };

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl ApiVersion {
    /// `major.minor`.
    pub(crate) const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }

    fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once('.')?;
        let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?;
        Some(Self { major: number(major)?, minor: number(minor)? })
    }
}

/// Takes the version off a path: the version, the newest one when the path has none, and the rest.
pub(crate) fn split(path: &str) -> Result<(ApiVersion, &str), ApiError> {
    let versioned = path.strip_prefix("/v").and_then(|rest| {
        let end = rest.find('/').unwrap_or(rest.len());
        Some((ApiVersion::parse(&rest[..end])?, &rest[end..]))
    });
    let Some((version, rest)) = versioned else { return Ok((NEWEST, path)) };
    // Both texts are Docker's own: clients look for them.
    if version < OLDEST {
        return Err(ApiError::Bad(format!(
            "client version {version} is too old. Minimum supported API version is {OLDEST}, please upgrade your \
             client to a newer version"
        )));
    }
    if version > NEWEST {
        return Err(ApiError::Bad(format!(
            "client version {version} is too new. Maximum supported API version is {NEWEST}"
        )));
    }
    Ok((version, if rest.is_empty() { "/" } else { rest }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_path_is_read_with_or_without_its_version() {
        for (path, version, rest) in [
            ("/v1.24/info", OLDEST, "/info"),
            ("/v1.53/containers/json", NEWEST, "/containers/json"),
            ("/info", NEWEST, "/info"),
            ("/volumes", NEWEST, "/volumes"),
            ("/version", NEWEST, "/version"),
            ("/v1.x/info", NEWEST, "/v1.x/info"),
            ("/v1.40", ApiVersion { major: 1, minor: 40 }, "/"),
        ] {
            assert_eq!(split(path).unwrap(), (version, rest), "{path}");
        }
    }

    #[test]
    fn too_old_and_too_new_are_dockers_own_words() {
        assert_eq!(
            split("/v1.23/info").unwrap_err().to_string(),
            "client version 1.23 is too old. Minimum supported API version is 1.24, please upgrade your client to a \
             newer version"
        );
        assert_eq!(
            split("/v1.99/info").unwrap_err().to_string(),
            "client version 1.99 is too new. Maximum supported API version is 1.53"
        );
    }

    proptest! {
        #[test]
        fn no_path_makes_it_panic_and_the_rest_is_a_suffix(path in "/.*") {
            if let Ok((_, rest)) = split(&path) {
                prop_assert!(rest == "/" || path.ends_with(rest));
            }
        }
    }
}
