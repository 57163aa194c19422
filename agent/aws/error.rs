//! The SDK's errors as failures of the catalogue.

use std::error::Error;

use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use super::credentials;
use super::proxy::{BadProxy, ProxyError};
use crate::failure::{Code, Failure, with_sources};

/// A call that did not succeed.
#[derive(Debug)]
pub(super) struct CallError {
    /// The service's error code, where it sent one.
    pub(super) code: Option<String>,
    /// The service's message.
    pub(super) message: String,
    /// What it is where the action has no rule of its own.
    pub(super) failure: Failure,
}

impl CallError {
    /// Whether the service answered with this code.
    pub(super) fn is(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }

    /// The failure, with what the call was about in front.
    pub(super) fn about(mut self, what: impl std::fmt::Display) -> Failure {
        self.failure.message = format!("{what}: {}", self.failure.message);
        self.failure
    }
}

/// Reads an SDK error. `action` is the IAM action, as in `ec2:AttachVolume`.
pub(super) fn read<E>(action: &str, error: &SdkError<E, HttpResponse>) -> CallError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let SdkError::ServiceError(answer) = error else { return unanswered(action, error) };
    let meta = answer.err().meta();
    let (message, status) = (meta.message().unwrap_or_default().to_owned(), answer.raw().status().as_u16());
    let Some(code) = meta.code() else {
        let text = format!("{action}: an answer that cannot be read (HTTP {status})");
        let text = with_sources(text, error.source());
        return CallError { code: None, message, failure: Failure::new(Code::ApiUnreachable, text) };
    };
    let failure = refused(action, code, &message, status);
    CallError { code: Some(code.to_owned()), message, failure }
}

/// The failure of a call that no service has answered.
fn unanswered<E>(action: &str, error: &SdkError<E, HttpResponse>) -> CallError
where
    E: Error + Send + Sync + 'static,
{
    if let Some(bad) = find::<BadProxy>(error) {
        let mut failure = bad.failure();
        failure.message = format!("{action}: {}", failure.message);
        return CallError { code: None, message: bad.to_string(), failure };
    }
    let text = with_sources(format!("{action}: {error}"), error.source());
    // Credentials are resolved within the call, and their absence is no error kind of its own.
    let code = if text.contains("credential") || text.contains("identity") {
        Code::Credentials
    } else if is_untrusted(error) {
        Code::CertificateUntrusted
    } else {
        Code::ApiUnreachable
    };
    let failure = Failure::new(code, text.clone());
    let failure = match find::<ProxyError>(error) {
        Some(proxy) => proxy.refine(failure),
        None => failure,
    };
    CallError { code: None, message: text, failure }
}

/// The failure that a service's answer with this code is.
fn refused(action: &str, code: &str, message: &str, status: u16) -> Failure {
    let text = format!("{action}: {code}: {message}");
    match code {
        "UnauthorizedOperation" | "AccessDenied" | "AccessDeniedException" => {
            credentials::were_denied();
            Failure::new(Code::AccessDenied, text).remedy(format!(
                "allow {action} in the instance role's policy (what else denies it: aws sts decode-authorization-message \
                 --encoded-message TEXT), then: node-agent retry"
            ))
        }
        "AuthFailure"
        | "SignatureDoesNotMatch"
        | "InvalidSignatureException"
        | "InvalidClientTokenId"
        | "UnrecognizedClientException"
        | "InvalidAccessKeyId"
        | "InvalidToken"
        | "ExpiredToken"
        | "ExpiredTokenException" => {
            credentials::were_refused();
            Failure::new(Code::Credentials, text)
        }
        // None were sent, or the clock is wrong: the credentials themselves are not in doubt.
        "MissingAuthenticationToken" | "RequestExpired" | "RequestTimeTooSkewed" => {
            Failure::new(Code::Credentials, text)
        }
        "Throttling"
        | "ThrottlingException"
        | "ThrottledException"
        | "RequestLimitExceeded"
        | "SlowDown"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "TooManyRequestsException"
        | "ResourceContention"
        | "ServiceUnavailable"
        | "Unavailable"
        | "InternalError"
        | "InternalFailure" => Failure::new(Code::ApiOverloaded, text),
        _ if status >= 500 || status == 429 => Failure::new(Code::ApiOverloaded, text),
        _ => Failure::new(Code::ApiRefused, text),
    }
}

/// What of this type is beneath it.
pub(super) fn find<'e, E: Error + 'static>(error: &'e (dyn Error + 'static)) -> Option<&'e E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// Whether a certificate is at the bottom of it. Told by rustls's words: both HTTP clients hide the type.
pub(super) fn is_untrusted(error: &(dyn Error + 'static)) -> bool {
    with_sources(error.to_string(), error.source()).contains("invalid peer certificate")
}
