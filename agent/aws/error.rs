//! The SDK's errors as failures of the catalogue.

use std::error::Error;

use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;

use super::credentials;
use super::proxy::{BadProxy, ProxyError};
use crate::failure::{Code, Failure, with_sources};

/// Who calls: what a failure advises depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// The agent on its instance: the catalogue's remedies are for it.
    Node,
    /// A person or a CI job on another machine.
    Operator,
}

/// A failed call.
pub(super) struct CallError {
    /// The service's error code, where it sent one.
    pub(super) code: Option<String>,
    /// The service's message.
    pub(super) message: String,
    /// The failure, unless the action has a rule of its own for the code.
    pub(super) failure: Failure,
}

impl CallError {
    /// Whether the service answered with this code.
    pub(super) fn is(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }

    /// The failure, its message prefixed with the call's subject.
    pub(super) fn about(mut self, what: impl std::fmt::Display) -> Failure {
        self.failure.message = format!("{what}: {}", self.failure.message);
        self.failure
    }
}

impl Caller {
    /// Reads an SDK error, with the remedies for this caller. `action` is the IAM action, as in `ec2:AttachVolume`.
    pub(super) fn read<E>(self, action: &str, error: &SdkError<E, HttpResponse>) -> CallError
    where
        E: ProvideErrorMetadata + Error + Send + Sync + 'static,
    {
        let CallError { code, message, failure } = read(action, error);
        let failure = match failure.code {
            Code::AccessDenied if self == Caller::Operator => failure.remedy(format!(
                "allow {action} to these credentials (whose they are: aws sts get-caller-identity; what else denies it: aws sts \
                 decode-authorization-message --encoded-message TEXT)"
            )),
            _ => self.advise(failure),
        };
        CallError { code, message, failure }
    }

    /// The failure with the remedy for this caller.
    pub(super) fn advise(self, failure: Failure) -> Failure {
        match failure.code {
            _ if self == Caller::Node => failure,
            Code::Credentials => failure.remedy(
                "see whether the AWS CLI finds credentials (aws sts get-caller-identity); choose a profile with AWS_PROFILE, or \
                 sign in anew (aws sso login); and check the clock (timedatectl)",
            ),
            Code::ProxyInvalid => failure.remedy(
                "correct the variable: http://HOST:PORT or http://USER:PASSWORD@HOST:PORT, with all but letters and digits in \
                 PASSWORD as %XX",
            ),
            Code::ProxyRefused => failure.remedy(
                "write the user name and password that the proxy accepts into the variable: http://USER:PASSWORD@HOST:PORT, with \
                 all but letters and digits as %XX",
            ),
            Code::CertificateUntrusted => failure.remedy(
                "install the CA certificates (package ca-certificates), and that of your own proxy or endpoint, if there is one; \
                 check the clock (timedatectl)",
            ),
            _ => failure.without_retry(),
        }
    }
}

/// The same, with the remedies for a node.
pub(super) fn read<E>(action: &str, error: &SdkError<E, HttpResponse>) -> CallError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    let SdkError::ServiceError(answer) = error else { return unanswered(action, error) };
    let meta = answer.err().meta();
    let (message, status) = (meta.message().unwrap_or_default().to_owned(), answer.raw().status().as_u16());
    let Some(code) = meta.code() else {
        let text = with_sources(format!("{action}: an answer that cannot be read (HTTP {status})"), error.source());
        return CallError { code: None, message, failure: Failure::new(Code::ApiUnreachable, text) };
    };
    let failure = refused(action, code, &message, status);
    CallError { code: Some(code.to_owned()), message, failure }
}

/// The failure of a call without an answer.
fn unanswered<E>(action: &str, error: &SdkError<E, HttpResponse>) -> CallError
where
    E: Error + Send + Sync + 'static,
{
    if let Some(bad) = find::<BadProxy>(error) {
        let mut failure = bad.failure();
        failure.message = format!("{action}: {bad}");
        return CallError { code: None, message: bad.to_string(), failure };
    }
    let text = with_sources(format!("{action}: {error}"), error.source());
    // Credentials are resolved within the call, and the SDK has no error kind for their absence.
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

/// The services' error codes for credentials that they do not accept.
const REFUSED: &str = "AuthFailure SignatureDoesNotMatch InvalidSignatureException InvalidClientTokenId \
    UnrecognizedClientException InvalidAccessKeyId InvalidToken ExpiredToken ExpiredTokenException";

/// Those of a request beyond the account's quota.
const THROTTLED: &str = "Throttling ThrottlingException ThrottledException RequestLimitExceeded SlowDown \
    RequestThrottled RequestThrottledException TooManyRequestsException";

/// Those of a service that has too much to do, or is in trouble.
const OVERLOADED: &str = "ResourceContention ServiceUnavailable Unavailable InternalError InternalFailure";

/// The failure for a service's error code.
fn refused(action: &str, code: &str, message: &str, status: u16) -> Failure {
    let text = format!("{action}: {code}: {message}");
    let is_one_of = |codes: &str| codes.split(' ').any(|known| known == code);
    match code {
        "UnauthorizedOperation" | "AccessDenied" | "AccessDeniedException" => {
            credentials::were_denied();
            Failure::new(Code::AccessDenied, text).remedy(format!(
                "allow {action} in the instance role's policy (what else denies it: aws sts decode-authorization-message \
                 --encoded-message TEXT), then: node-agent retry"
            ))
        }
        _ if is_one_of(REFUSED) => {
            credentials::were_refused();
            Failure::new(Code::Credentials, text)
        }
        // The call had no credentials, or the clock is wrong: the cached credentials may be good.
        "MissingAuthenticationToken" | "RequestExpired" | "RequestTimeTooSkewed" => {
            Failure::new(Code::Credentials, text)
        }
        _ if status == 429 || is_one_of(THROTTLED) => Failure::new(Code::ApiThrottled, text),
        _ if status >= 500 || is_one_of(OVERLOADED) => Failure::new(Code::ApiOverloaded, text),
        _ => Failure::new(Code::ApiRefused, text),
    }
}

/// The first error of this type among the error and its sources.
pub(super) fn find<'e, E: Error + 'static>(error: &'e (dyn Error + 'static)) -> Option<&'e E> {
    error.downcast_ref().or_else(|| find(error.source()?))
}

/// Whether an untrusted certificate is the cause. Recognised by rustls's words: both HTTP clients hide the type.
pub(super) fn is_untrusted(error: &(dyn Error + 'static)) -> bool {
    with_sources(error.to_string(), error.source()).contains("invalid peer certificate")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_is_never_told_to_retry_the_node() {
        for code in Code::ALL {
            let failure = Caller::Operator.advise(Failure::new(*code, "it failed"));
            let remedy = failure.what_to_do();
            let is_of_calls = matches!(
                code,
                Code::ApiUnreachable
                    | Code::ApiOverloaded
                    | Code::ApiThrottled
                    | Code::ApiRefused
                    | Code::AccessDenied
                    | Code::Credentials
                    | Code::CertificateUntrusted
                    | Code::ProxyInvalid
                    | Code::ProxyRefused
                    | Code::VolumeNotFound
            );
            assert!(!is_of_calls || !remedy.contains("node-agent") && !remedy.is_empty(), "{}: {remedy}", code.name());
        }
    }
}
