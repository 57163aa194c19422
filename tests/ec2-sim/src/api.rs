//! One port for EC2, Auto Scaling and S3: identifies the caller, routes the call and answers it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::actions::{self, Action};
use crate::autoscaling;
use crate::core::Core;
use crate::credentials::Issued;
use crate::ec2;
use crate::error::ApiError;
use crate::events::{ApiCall, What};
use crate::faults::glob;
use crate::ids::random_uuid;
use crate::query::{Node, Params};
use crate::s3;
use crate::serve::{self, Words};
use crate::sigv4::{self, Authorization, Denial};
use crate::wire::{Outcome, Request, Response, Service};
use crate::world::View;

/// The simulated services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Api {
    Ec2,
    AutoScaling,
    S3,
}

impl Api {
    /// By the signing name in the credential scope; what is not signed can only be a plain S3 request.
    fn of(request: &Request) -> Option<Self> {
        let Some(header) = request.header("authorization") else {
            return Some(Self::S3);
        };
        match Authorization::parse(header)?.service {
            "ec2" => Some(Self::Ec2),
            "autoscaling" => Some(Self::AutoScaling),
            "s3" => Some(Self::S3),
            _ => None,
        }
    }

    /// The prefix of its actions' names.
    fn prefix(self) -> &'static str {
        match self {
            Self::Ec2 => "ec2",
            Self::AutoScaling => "autoscaling",
            Self::S3 => "s3",
        }
    }

    fn refusal(self, error: &ApiError) -> Response {
        match self {
            Self::Ec2 => ec2::error_response(error),
            Self::AutoScaling => autoscaling::error_response(error),
            Self::S3 => s3::error_response(error),
        }
    }

    fn denial(self, denial: Denial) -> ApiError {
        let (http, code, message) = match (self, denial) {
            (Self::S3, Denial::Unsigned) => (403, "AccessDenied", "Access Denied"),
            (_, Denial::Unsigned) => (403, "MissingAuthenticationToken", "Request is missing Authentication Token"),
            (Self::Ec2, Denial::UnknownKey) => {
                (401, "AuthFailure", "AWS was not able to validate the provided access credentials")
            }
            (Self::AutoScaling, Denial::UnknownKey) => {
                (403, "InvalidClientTokenId", "The security token included in the request is invalid.")
            }
            (Self::S3, Denial::UnknownKey) => {
                (403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records.")
            }
            (Self::S3, Denial::Skewed) => (
                403,
                "RequestTimeTooSkewed",
                "The difference between the request time and the current time is too large.",
            ),
            (_, Denial::Skewed) | (Self::Ec2, Denial::Expired) => (400, "RequestExpired", "Request has expired."),
            (_, Denial::Expired) => (403, "ExpiredToken", "The security token included in the request is expired"),
            (_, Denial::Mismatch) => (
                403,
                "SignatureDoesNotMatch",
                "The request signature we calculated does not match the signature you provided.",
            ),
        };
        ApiError::new(http, code, message)
    }

    fn not_permitted(self, action: &str, who: &str) -> ApiError {
        match self {
            Self::Ec2 => {
                ApiError::new(403, "UnauthorizedOperation", "You are not authorized to perform this operation.")
            }
            Self::AutoScaling => ApiError::new(
                403,
                "AccessDenied",
                format!(
                    "User: {who} is not authorized to perform: {action} because no identity-based policy allows the \
                     {action} action"
                ),
            ),
            Self::S3 => ApiError::new(403, "AccessDenied", "Access Denied"),
        }
    }
}

impl Words for Api {
    fn throttling(&self) -> Response {
        self.refusal(&match self {
            Self::Ec2 => ApiError::new(503, "RequestLimitExceeded", "Request limit exceeded."),
            Self::AutoScaling => ApiError::new(400, "Throttling", "Rate exceeded"),
            Self::S3 => ApiError::new(503, "SlowDown", "Please reduce your request rate."),
        })
    }

    fn server_error(&self) -> Response {
        self.refusal(&ApiError::new(500, "InternalError", "An internal error has occurred"))
    }

    fn error(&self, http: u16, code: &str, message: &str) -> Response {
        self.refusal(&ApiError::new(http, code, message))
    }
}

/// The server of all three.
pub(crate) struct ApiServer {
    pub(crate) core: Arc<Core>,
}

impl Service for ApiServer {
    async fn answer(&self, request: Request) -> Outcome {
        let core = &self.core;
        tokio::time::sleep(core.config.latencies.api).await;
        let Some(api) = Api::of(&request) else {
            return Outcome::Reply(Api::Ec2.refusal(&invalid_action("of this service")));
        };
        let params = match api {
            Api::S3 => Params::default(),
            Api::Ec2 | Api::AutoScaling => Params::parse(&request.query, &request.body),
        };
        let mut call = begin(api, &request, &params);
        let outcome = match sigv4::check(core, &request) {
            Ok(caller) => self.carry_out(api, &request, &params, &caller, &mut call).await,
            Err(denial) => {
                let error = api.denial(denial);
                call.http = Some(error.http);
                call.code = Some(error.code.clone());
                Outcome::Reply(api.refusal(&error))
            }
        };
        core.log.push(What::Api(call));
        match outcome {
            Outcome::Reply(response) => Outcome::Reply(self.dated(response)),
            Outcome::Truncated(response) => Outcome::Truncated(self.dated(response)),
            other => other,
        }
    }
}

impl ApiServer {
    /// Clients correct their clock by the date.
    fn dated(&self, response: Response) -> Response {
        response.with("Date", self.core.clock.http_date()).with("x-amzn-RequestId", random_uuid())
    }

    /// Carries a call out whose caller is known, under the fault that strikes it.
    async fn carry_out(
        &self,
        api: Api,
        request: &Request,
        params: &Params,
        caller: &Issued,
        call: &mut ApiCall,
    ) -> Outcome {
        let core = &self.core;
        let name = call.action.clone();
        call.caller = Some(caller.name.clone());
        let fault = core.strike(&name);
        call.fault = fault.as_ref().map(|fault| fault.name().to_owned());
        let handled = serve::under(fault.as_ref(), &api, |back| {
            if api == Api::S3
                && let Some((code, refusal)) = s3::misplaced(core, request)
            {
                call.code = Some(code.to_owned());
                return if request.method == "HEAD" { refusal.head_only() } else { refusal };
            }
            let view = if back == 0 { core.lags.view(&name) } else { View::Back(back) };
            let answer = permit(core, api, &name, caller).and_then(|()| match api {
                Api::Ec2 => ec2::call(core, &name, params, view, caller).map(|nodes| ec2::response(&name, nodes)),
                Api::AutoScaling => autoscaling::call(core, &name, params, view, caller)
                    .map(|nodes| autoscaling::response(&name, nodes)),
                Api::S3 => s3_call(core, &name, request),
            });
            call.done = answer.is_ok();
            answer.unwrap_or_else(|error| {
                call.code = Some(error.code.clone());
                let refusal = api.refusal(&error);
                if request.method == "HEAD" { refusal.head_only() } else { refusal }
            })
        })
        .await;
        call.http = handled.http;
        handled.outcome
    }
}

/// The log's entry for a call nothing is known of yet.
fn begin(api: Api, request: &Request, params: &Params) -> ApiCall {
    let (action, mutating) = name_action(api, request, params);
    let parameters = match api {
        Api::S3 => {
            let (bucket, key) = s3::locate(request);
            BTreeMap::from([("Bucket".to_owned(), bucket), ("Key".to_owned(), key)])
        }
        Api::Ec2 | Api::AutoScaling => params.for_log(),
    };
    ApiCall {
        action,
        caller: None,
        parameters,
        http: None,
        code: None,
        done: false,
        mutating,
        dry_run: params.is_true("DryRun"),
        fault: None,
    }
}

fn name_action(api: Api, request: &Request, params: &Params) -> (String, bool) {
    let name = match api {
        Api::S3 if request.method == "HEAD" => "HeadObject",
        Api::S3 if request.method == "GET" => "GetObject",
        Api::S3 => request.method.as_str(),
        Api::Ec2 | Api::AutoScaling => params.get("Action").unwrap_or_default(),
    };
    let name = format!("{}:{name}", api.prefix());
    let mutating = actions::find(&name).is_some_and(|Action { mutating, .. }| mutating);
    (name, mutating)
}

/// Whether the action exists and the caller's role permits it.
fn permit(core: &Core, api: Api, name: &str, caller: &Issued) -> Result<(), ApiError> {
    if actions::find(name).is_none() {
        return Err(match api {
            Api::S3 => ApiError::new(405, "MethodNotAllowed", "Only reading objects is simulated."),
            Api::Ec2 | Api::AutoScaling => invalid_action(name.split_once(':').map_or(name, |(_, action)| action)),
        });
    }
    // HeadObject has no permission of its own in IAM.
    let permission = if name == "s3:HeadObject" { "s3:GetObject" } else { name };
    if may(core, caller, permission)? { Ok(()) } else { Err(api.not_permitted(permission, &arn(core, caller))) }
}

/// Whether the caller's permissions include this one.
pub(crate) fn may(core: &Core, caller: &Issued, permission: &str) -> Result<bool, ApiError> {
    let denies = |patterns: &[String]| patterns.iter().any(|pattern| glob(pattern, permission));
    Ok(match &caller.instance {
        Some(instance) => !denies(&core.world().instance(instance)?.spec.denied),
        None => !denies(&caller.denied),
    })
}

/// Who calls, as a refusal names them.
fn arn(core: &Core, caller: &Issued) -> String {
    let role = caller.instance.as_ref().map(|instance| {
        let world = core.world();
        world
            .instance(instance)
            .ok()
            .and_then(|instance| instance.spec.role.clone())
            .unwrap_or_else(|| "none".to_owned())
    });
    match role {
        Some(role) => format!("arn:aws:sts::{}:assumed-role/{role}/instance", ec2::ACCOUNT),
        None => format!("arn:aws:iam::{}:user/{}", ec2::ACCOUNT, caller.name),
    }
}

fn s3_call(core: &Core, name: &str, request: &Request) -> Result<Response, ApiError> {
    let response = s3::get(core, request)?;
    Ok(if name == "s3:HeadObject" { response.head_only() } else { response })
}

fn invalid_action(name: &str) -> ApiError {
    ApiError::client("InvalidAction", format!("The action {name} is not valid for this web service."))
}

/// A parameter's value, or the error for its absence.
pub(crate) fn require<'a>(params: &'a Params, name: &str) -> Result<&'a str, ApiError> {
    params.get(name).filter(|value| !value.is_empty()).ok_or_else(|| {
        let message = format!("The request must contain the parameter {name}");
        ApiError::client("MissingParameter", message)
    })
}

/// Tags as both services list them.
pub(crate) fn tag_items(tags: &BTreeMap<String, String>) -> impl Iterator<Item = Node> {
    tags.iter().map(|(key, value)| Node::new("item").with("key", key).with("value", value))
}
