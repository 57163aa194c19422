//! What can go wrong: in the simulator itself, and as an answer of the simulated services.

use std::io;

/// A failure of the simulator or of how it is used; never an answer of a simulated service.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// The machine refused something the simulator needs.
    #[error("{what}: {source}")]
    Io {
        /// What was tried, with the path or address.
        what: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A fault or quota names an action that is not simulated, so it could never apply.
    #[error("no simulated action matches {0:?}; known ones are listed by `ec2_sim::actions()`")]
    UnknownAction(String),
    /// The certificate authority of the https file server could not be made.
    #[error("certificate of the https file server: {0}")]
    Certificate(String),
    /// A direct manipulation was refused for the reason the API would give.
    #[error("{0}")]
    Refused(#[from] ApiError),
    /// A specification contradicts itself or what already exists.
    #[error("{0}")]
    Invalid(String),
}

impl SimError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// An error answer of a simulated service.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct ApiError {
    /// The HTTP status.
    pub http: u16,
    /// AWS's error code, for example `VolumeInUse`.
    pub code: String,
    /// The message, worded as AWS words it where clients match on it.
    pub message: String,
}

impl ApiError {
    /// An error with its HTTP status.
    pub fn new(http: u16, code: &str, message: impl Into<String>) -> Self {
        Self { http, code: code.to_owned(), message: message.into() }
    }

    /// A client's error (HTTP 400).
    pub fn client(code: &str, message: impl Into<String>) -> Self {
        Self::new(400, code, message)
    }
}
