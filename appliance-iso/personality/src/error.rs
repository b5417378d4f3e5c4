//! [`ApiError`]: an error in Docker's shape, and the one place where its status is decided.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use bollard_stubs::models::ErrorResponse;

/// What a request of the API can fail with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ApiError {
    /// The path is not one of the API's.
    #[error("page not found")]
    NoPage,
    /// The API prescribes it and this build does not have it.
    #[error("vSphere Integrated Containers does not yet implement {endpoint}")]
    NotYet { endpoint: String },
    /// What the request names is not there; the text is Docker's.
    #[error("{0}")]
    NotFound(String),
    /// The request makes no sense; the text is Docker's.
    #[error("{0}")]
    Bad(String),
    /// Not in the state that the thing is in; the text is Docker's.
    #[error("{0}")]
    Conflict(String),
    /// Somebody else does not take the user's word.
    #[error("{0}")]
    Unauthorized(String),
    /// The admin does not want it.
    #[error("{0}")]
    Forbidden(String),
    /// It was tried, and did not work.
    #[error("{0}")]
    Failed(String),
    /// It cannot be tried now.
    #[error("{0}")]
    Unavailable(String),
}

impl ApiError {
    fn status(&self) -> StatusCode {
        match self {
            Self::NoPage | Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::NotYet { .. } => StatusCode::NOT_IMPLEMENTED,
            Self::Bad(_) => StatusCode::BAD_REQUEST,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::Unauthorized(_) => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status(), Json(ErrorResponse { message: self.to_string() })).into_response()
    }
}
