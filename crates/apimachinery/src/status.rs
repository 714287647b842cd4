//! `Status` errors: what the API answers when it does not answer with an object
//! (`k8s.io/apimachinery/pkg/api/errors`).

use std::collections::HashSet;
use std::fmt;

use crate::field::FieldError;
use crate::{GroupKind, GroupResource, Value, json};

/// Upstream's `metav1.StatusReason`, with its HTTP code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    Unknown,
    Unauthorized,
    Forbidden,
    NotFound,
    AlreadyExists,
    Conflict,
    Gone,
    Invalid,
    ServerTimeout,
    Timeout,
    TooManyRequests,
    BadRequest,
    MethodNotAllowed,
    NotAcceptable,
    RequestEntityTooLarge,
    UnsupportedMediaType,
    InternalError,
    Expired,
    ServiceUnavailable,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "",
            Self::Unauthorized => "Unauthorized",
            Self::Forbidden => "Forbidden",
            Self::NotFound => "NotFound",
            Self::AlreadyExists => "AlreadyExists",
            Self::Conflict => "Conflict",
            Self::Gone => "Gone",
            Self::Invalid => "Invalid",
            Self::ServerTimeout => "ServerTimeout",
            Self::Timeout => "Timeout",
            Self::TooManyRequests => "TooManyRequests",
            Self::BadRequest => "BadRequest",
            Self::MethodNotAllowed => "MethodNotAllowed",
            Self::NotAcceptable => "NotAcceptable",
            Self::RequestEntityTooLarge => "RequestEntityTooLarge",
            Self::UnsupportedMediaType => "UnsupportedMediaType",
            Self::InternalError => "InternalError",
            Self::Expired => "Expired",
            Self::ServiceUnavailable => "ServiceUnavailable",
        }
    }

    /// The reason a `Status` body names; [`Reason::Unknown`] for one this list does not know.
    pub fn parse(reason: &str) -> Self {
        use Reason::*;
        [
            Unauthorized,
            Forbidden,
            NotFound,
            AlreadyExists,
            Conflict,
            Gone,
            Invalid,
            ServerTimeout,
            Timeout,
            TooManyRequests,
            BadRequest,
            MethodNotAllowed,
            NotAcceptable,
            RequestEntityTooLarge,
            UnsupportedMediaType,
            InternalError,
            Expired,
            ServiceUnavailable,
        ]
        .into_iter()
        .find(|r| r.as_str() == reason)
        .unwrap_or(Unknown)
    }

    pub fn code(self) -> u16 {
        match self {
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::NotAcceptable => 406,
            Self::AlreadyExists | Self::Conflict => 409,
            Self::Gone | Self::Expired => 410,
            Self::RequestEntityTooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::Invalid => 422,
            Self::TooManyRequests => 429,
            Self::BadRequest => 400,
            Self::Unknown | Self::InternalError | Self::ServerTimeout => 500,
            Self::ServiceUnavailable => 503,
            Self::Timeout => 504,
        }
    }
}

/// An API error: everything a `Status` body carries. Boxed by callers only if clippy finds a `Result` too large.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiError(Box<StatusParts>);

#[derive(Clone, Debug, PartialEq)]
struct StatusParts {
    code: u16,
    reason: Reason,
    message: String,
    details: Option<Value>,
    /// A reason that is none of upstream's: webhooks make up their own.
    other_reason: Option<String>,
}

impl std::error::Error for ApiError {}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl ApiError {
    /// An error with a reason's own code and any message.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self(Box::new(StatusParts {
            code: reason.code(),
            reason,
            message: message.into(),
            details: None,
            other_reason: None,
        }))
    }

    pub fn code(&self) -> u16 {
        self.0.code
    }

    pub fn reason(&self) -> Reason {
        self.0.reason
    }

    pub fn message(&self) -> &str {
        &self.0.message
    }

    pub fn details(&self) -> Option<&Value> {
        self.0.details.as_ref()
    }

    pub fn with_details(mut self, details: Value) -> Self {
        self.0.details = Some(details);
        self
    }

    /// With a reason by its name, which may be none of [`Reason`]'s.
    pub fn with_reason(mut self, reason: &str) -> Self {
        self.0.reason = Reason::parse(reason);
        self.0.other_reason = (self.0.reason == Reason::Unknown && !reason.is_empty()).then(|| reason.to_owned());
        self
    }

    pub fn with_code(mut self, code: u16) -> Self {
        self.0.code = code;
        self
    }

    fn about(reason: Reason, resource: &GroupResource, name: &str, message: String) -> Self {
        Self::new(reason, message).with_details(named(name, &resource.group, &resource.resource))
    }

    /// `pods "a" not found`.
    pub fn not_found(resource: &GroupResource, name: &str) -> Self {
        Self::about(Reason::NotFound, resource, name, format!("{resource} {name:?} not found"))
    }

    /// The answer to a path that no resource serves.
    pub fn no_such_path() -> Self {
        Self::new(Reason::NotFound, "the server could not find the requested resource").with_details(json!({}))
    }

    /// `pods "a" already exists`.
    pub fn already_exists(resource: &GroupResource, name: &str) -> Self {
        Self::about(Reason::AlreadyExists, resource, name, format!("{resource} {name:?} already exists"))
    }

    /// `Operation cannot be fulfilled on pods "a": CAUSE`.
    pub fn conflict(resource: &GroupResource, name: &str, cause: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {resource} {name:?}: {cause}");
        Self::about(Reason::Conflict, resource, name, message)
    }

    /// The conflict of a stale `resourceVersion`.
    pub fn stale(resource: &GroupResource, name: &str) -> Self {
        let cause = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(resource, name, cause)
    }

    /// `pods "a" is forbidden: CAUSE`. With an empty name upstream omits it.
    pub fn forbidden(resource: &GroupResource, name: &str, cause: &str) -> Self {
        let message = match (resource.resource.is_empty(), name.is_empty()) {
            (true, _) => format!("forbidden: {cause}"),
            (false, true) => format!("{resource} is forbidden: {cause}"),
            (false, false) => format!("{resource} {name:?} is forbidden: {cause}"),
        };
        Self::about(Reason::Forbidden, resource, name, message)
    }

    pub fn unauthorized() -> Self {
        Self::new(Reason::Unauthorized, "Unauthorized")
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(Reason::BadRequest, message)
    }

    /// `Internal error occurred: CAUSE`.
    pub fn internal(cause: impl fmt::Display) -> Self {
        Self::new(Reason::InternalError, format!("Internal error occurred: {cause}"))
            .with_details(json!({"causes": [{"message": cause.to_string()}]}))
    }

    /// The answer to a method that a path is not served for.
    pub fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(Reason::MethodNotAllowed, message).with_details(json!({}))
    }

    /// A revision older than the history window: the client must list again.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(Reason::Expired, message)
    }

    /// A request that may be repeated after `seconds`.
    pub fn too_many_requests(message: impl Into<String>, seconds: u32) -> Self {
        Self::new(Reason::TooManyRequests, message).with_details(json!({"retryAfterSeconds": seconds}))
    }

    /// `Pod "a" is invalid: …`: the errors, one inline, several in brackets; each also a cause in the details.
    pub fn invalid(kind: &GroupKind, name: &str, errors: &[FieldError]) -> Self {
        let causes: Vec<Value> = errors
            .iter()
            .map(|e| json!({"reason": e.kind.reason(), "message": e.body(), "field": e.path.to_string()}))
            .collect();
        // Each is a cause; the text says what it says once.
        let mut told = HashSet::new();
        let texts: Vec<String> =
            errors.iter().map(ToString::to_string).filter(|text| told.insert(text.clone())).collect();
        let text = match texts.as_slice() {
            [] => "<nil>".to_owned(),
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let mut details = named(name, &kind.group, &kind.kind);
        details["causes"] = Value::Array(causes);
        Self::new(Reason::Invalid, format!("{kind} {name:?} is invalid: {text}")).with_details(details)
    }

    /// The `Status` object.
    pub fn to_status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.0.message, "code": self.0.code,
        });
        let reason = self.0.other_reason.as_deref().unwrap_or(self.0.reason.as_str());
        if !reason.is_empty() {
            status["reason"] = reason.into();
        }
        if let Some(details) = &self.0.details {
            status["details"] = details.clone();
        }
        status
    }

    /// Reads a `Status` body; for a body that is none, keeps the code and the text.
    pub fn from_response(code: u16, body: &[u8]) -> Self {
        Self::from_status_body(code, body).unwrap_or_else(|| {
            let text = String::from_utf8_lossy(&body[..body.len().min(1024)]).trim().to_owned();
            Self::new(Reason::Unknown, text).with_code(code)
        })
    }

    /// Reads a body that is a `Status`.
    pub fn from_status_body(code: u16, body: &[u8]) -> Option<Self> {
        let status = serde_json::from_slice::<Value>(body).ok().filter(|v| v["kind"] == "Status")?;
        let reason = Reason::parse(status["reason"].as_str().unwrap_or(""));
        let mut error = Self::new(reason, status["message"].as_str().unwrap_or("")).with_code(code);
        error = error.with_reason(status["reason"].as_str().unwrap_or(""));
        error.0.details = status.get("details").cloned();
        Some(error)
    }

    /// What the code alone of an error response to a POST says, with the text of its body
    /// (`NewGenericServerResponse`).
    pub fn generic_response(code: u16, text: &str, retry_after_seconds: u64) -> Self {
        let unlisted = format!("the server responded with the status code {code} but did not return more information");
        let (reason, message) = match code {
            409 => (Reason::AlreadyExists, "the server reported a conflict"),
            404 => (Reason::NotFound, "the server could not find the requested resource"),
            400 => (Reason::BadRequest, "the server rejected our request for an unknown reason"),
            401 => (Reason::Unauthorized, "the server has asked for the client to provide credentials"),
            403 => (Reason::Forbidden, text),
            406 if text.is_empty() || text == "unknown" => {
                let message = "the server was unable to respond with a content type that the client supports";
                (Reason::NotAcceptable, message)
            }
            406 => (Reason::NotAcceptable, text),
            415 => (Reason::UnsupportedMediaType, text),
            405 => (Reason::MethodNotAllowed, "the server does not allow this method on the requested resource"),
            422 => (Reason::Invalid, "the server rejected our request due to an error in our request"),
            503 => (Reason::ServiceUnavailable, "the server is currently unable to handle the request"),
            504 => {
                let message = "the server was unable to return a response in the time allotted, but may still be processing the request";
                (Reason::Timeout, message)
            }
            429 => {
                let message = "the server has received too many requests and has asked us to try again later";
                (Reason::TooManyRequests, message)
            }
            500.. => {
                let message = format!("an error on the server ({text:?}) has prevented the request from succeeding");
                return Self::unexpected(Reason::InternalError, code, message, text, retry_after_seconds);
            }
            _ => (Reason::Unknown, unlisted.as_str()),
        };
        Self::unexpected(reason, code, message.to_owned(), text, retry_after_seconds)
    }

    fn unexpected(reason: Reason, code: u16, message: String, text: &str, retry_after_seconds: u64) -> Self {
        let mut details = json!({"causes": [{"reason": "UnexpectedServerResponse", "message": text}]});
        if retry_after_seconds > 0 {
            details["retryAfterSeconds"] = retry_after_seconds.into();
        }
        Self::new(reason, message).with_code(code).with_details(details)
    }
}

/// `StatusDetails` of one object; empty parts are left out, as upstream's `omitempty` does.
fn named(name: &str, group: &str, kind: &str) -> Value {
    let mut details = serde_json::Map::new();
    for (key, value) in [("name", name), ("group", group), ("kind", kind)] {
        if !value.is_empty() {
            details.insert(key.to_owned(), value.into());
        }
    }
    Value::Object(details)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::FieldPath;

    #[test]
    fn messages_are_upstreams() {
        let pods = GroupResource::new("", "pods");
        let deployments = GroupResource::new("apps", "deployments");
        assert_eq!(ApiError::not_found(&pods, "a").message(), "pods \"a\" not found");
        assert_eq!(ApiError::already_exists(&deployments, "d").message(), "deployments.apps \"d\" already exists");
        let kind = GroupKind::new("apps", "Deployment");
        let errors = [
            FieldError::required(&FieldPath::new("spec.selector"), ""),
            FieldError::forbidden(&FieldPath::new("a"), "no"),
        ];
        let error = ApiError::invalid(&kind, "d", &errors);
        assert_eq!(
            error.message(),
            "Deployment.apps \"d\" is invalid: [spec.selector: Required value, a: Forbidden: no]"
        );
        assert_eq!(error.code(), 422);
        let twice = [&errors[..1], &errors[..1]].concat();
        let error = ApiError::invalid(&kind, "d", &twice);
        assert_eq!(error.message(), "Deployment.apps \"d\" is invalid: spec.selector: Required value");
        assert_eq!(error.details().unwrap()["causes"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn a_status_survives_the_wire() {
        let error = ApiError::not_found(&GroupResource::new("", "pods"), "a");
        let read = ApiError::from_response(404, error.to_status().to_string().as_bytes());
        assert_eq!(read, error);
    }
}
