//! Failures as clients see them: `Status` objects of meta/v1, built here and nowhere else.
//!
//! Codes, reasons and message shapes are upstream's, because clients match on them. Not here: HTTP types.

use std::fmt;

use serde_json::{Map, Value, json};

use crate::resource::Resource;
pub use pintle_structural::{FieldError, FieldErrorKind};

/// Why a request failed. Displays as its message; [`ApiError::to_status`] is what travels.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status code.
    pub code: u16,
    /// The machine's word for the failure.
    pub reason: Reason,
    /// For people.
    pub message: String,
    /// What it is about; boxed because most results are not errors.
    pub details: Option<Box<Details>>,
    /// A fresh continue token, for an expired list that can go on inconsistently.
    pub continue_token: Option<String>,
    /// For `Warning` headers beside it; boxed as `details`.
    pub warnings: Option<Box<[String]>>,
}

/// What a failure is about.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Details {
    /// Name of the object.
    pub name: String,
    /// API group.
    pub group: String,
    /// Resource (plural) or, for invalid objects, kind.
    pub kind: String,
    /// Uid of the object.
    pub uid: String,
    /// One entry a field.
    pub causes: Vec<Cause>,
    /// Seconds to wait before another try; 0 says nothing.
    pub retry_after_seconds: u32,
}

/// One field's failure.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cause {
    /// The machine's word.
    pub reason: String,
    /// For people.
    pub message: String,
    /// Path of the field.
    pub field: String,
}

/// meta/v1 StatusReason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Reason {
    Unknown,
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    AlreadyExists,
    Conflict,
    Gone,
    Expired,
    Invalid,
    MethodNotAllowed,
    NotAcceptable,
    RequestEntityTooLarge,
    UnsupportedMediaType,
    TooManyRequests,
    InternalError,
    ServiceUnavailable,
    Timeout,
    ServerTimeout,
}

impl Reason {
    /// The word that travels; "" for [`Reason::Unknown`].
    pub fn as_str(self) -> &'static str {
        REASONS.iter().find(|row| row.1 == self).map_or("", |row| row.2)
    }
}

impl ApiError {
    pub(crate) fn new(code: u16, reason: Reason, message: impl Into<String>) -> ApiError {
        ApiError { code, reason, message: message.into(), details: None, continue_token: None, warnings: None }
    }

    fn about(mut self, resource: &Resource, name: &str) -> ApiError {
        self.details = Some(Box::new(Details {
            name: name.into(),
            group: resource.group.to_string(),
            kind: resource.plural.to_string(),
            ..Details::default()
        }));
        self
    }

    /// The same, with what the client was to be warned of until then.
    #[must_use]
    pub fn beside(mut self, warnings: Vec<String>) -> ApiError {
        self.warnings = (!warnings.is_empty()).then(|| warnings.into());
        self
    }

    /// The same with one more cause: its word, what it says to people, and the field that it is about ("" for none).
    #[must_use]
    pub fn because(mut self, reason: &str, message: &str, field: &str) -> ApiError {
        let cause = Cause { reason: reason.into(), message: message.into(), field: field.into() };
        self.details.get_or_insert_default().causes.push(cause);
        self
    }

    /// 404: the object is not there.
    pub fn not_found(resource: &Resource, name: &str) -> ApiError {
        ApiError::new(404, Reason::NotFound, format!("{} {name:?} not found", resource.group_resource())).about(resource, name)
    }

    /// 404: no such path.
    pub fn no_route() -> ApiError {
        let mut error = ApiError::new(404, Reason::NotFound, "the server could not find the requested resource");
        error.details = Some(Box::default());
        error
    }

    /// 409: the name is taken.
    pub fn already_exists(resource: &Resource, name: &str) -> ApiError {
        ApiError::new(409, Reason::AlreadyExists, format!("{} {name:?} already exists", resource.group_resource())).about(resource, name)
    }

    /// 409: `why` says what stood in the way.
    pub fn conflict(resource: &Resource, name: &str, why: &str) -> ApiError {
        let message = format!("Operation cannot be fulfilled on {} {name:?}: {why}", resource.group_resource());
        ApiError::new(409, Reason::Conflict, message).about(resource, name)
    }

    /// 409: the object changed since the caller read it.
    pub fn stale(resource: &Resource, name: &str) -> ApiError {
        ApiError::conflict(resource, name, "the object has been modified; please apply your changes to the latest version and try again")
    }

    /// 422: fields of the object are wrong.
    pub fn invalid(resource: &Resource, name: &str, errors: &[FieldError]) -> ApiError {
        ApiError::invalid_kind(&resource.group, &resource.kind, name, errors)
    }

    /// 422 for a kind that has no resource row of its own.
    pub fn invalid_kind(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> ApiError {
        let mut texts: Vec<String> = Vec::new();
        for text in errors.iter().map(ToString::to_string) {
            if !texts.contains(&text) {
                texts.push(text);
            }
        }
        let list = match texts.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let causes = errors.iter().map(|e| Cause { reason: e.kind.reason().into(), message: e.body(), field: e.path.clone() }).collect();
        let mut error = ApiError::new(422, Reason::Invalid, format!("{qualified} {name:?} is invalid: {list}"));
        error.details = Some(Box::new(Details { name: name.into(), group: group.into(), kind: kind.into(), causes, ..Details::default() }));
        error
    }

    /// 400: the request makes no sense.
    pub fn bad_request(message: impl Into<String>) -> ApiError {
        ApiError::new(400, Reason::BadRequest, message)
    }

    /// 401.
    pub fn unauthorized() -> ApiError {
        ApiError::new(401, Reason::Unauthorized, "Unauthorized")
    }

    /// 403: `why` follows the name of what was refused.
    pub fn forbidden(resource: &Resource, name: &str, why: &str) -> ApiError {
        let subject = resource.group_resource();
        let message =
            if name.is_empty() { format!("{subject} is forbidden: {why}") } else { format!("{subject} {name:?} is forbidden: {why}") };
        ApiError::new(403, Reason::Forbidden, message).about(resource, name)
    }

    /// 403 for a path that is no resource.
    pub fn forbidden_path(message: impl Into<String>) -> ApiError {
        let mut error = ApiError::new(403, Reason::Forbidden, format!("forbidden: {}", message.into()));
        error.details = Some(Box::default());
        error
    }

    /// 405.
    pub fn method_not_allowed(resource: &Resource, action: &str) -> ApiError {
        let message = format!("{action} is not supported on resources of kind {:?}", resource.group_resource());
        ApiError::new(405, Reason::MethodNotAllowed, message).about(resource, "")
    }

    /// 405 for a path that is no resource.
    pub fn method_not_allowed_path() -> ApiError {
        ApiError::new(405, Reason::MethodNotAllowed, "the server does not allow this method on the requested resource")
    }

    /// 406: none of the accepted media types can be served; `served` are those that can.
    pub fn not_acceptable(served: &[&str]) -> ApiError {
        ApiError::new(406, Reason::NotAcceptable, format!("only the following media types are accepted: {}", served.join(", ")))
    }

    /// 415: the body's media type is not understood.
    pub fn unsupported_media_type(served: &[&str]) -> ApiError {
        let message = format!("the body of the request was in an unknown format - accepted media types include: {}", served.join(", "));
        ApiError::new(415, Reason::UnsupportedMediaType, message)
    }

    /// 413: the body or the object exceeds `limit` bytes.
    pub fn too_large(limit: usize) -> ApiError {
        ApiError::new(413, Reason::RequestEntityTooLarge, format!("Request entity too large: limit is {limit}"))
    }

    /// 410: the revision is compacted, or the continue token is too old.
    pub fn expired(message: impl Into<String>) -> ApiError {
        ApiError::new(410, Reason::Expired, message)
    }

    /// 410 for a list; `token` goes on from the same key at the newest revision.
    pub fn expired_list(token: Option<String>) -> ApiError {
        let message = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, \
                       or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list";
        let mut error = ApiError::expired(message);
        error.continue_token = token;
        error
    }

    /// 410 for a watch that starts before the oldest revision that is kept.
    pub fn too_old_resource_version(asked: u64, oldest: u64) -> ApiError {
        ApiError::expired(format!("too old resource version: {asked} ({oldest})"))
    }

    /// 504: the revision is not there yet.
    pub fn too_large_resource_version(asked: u64, current: u64) -> ApiError {
        let mut error = ApiError::new(504, Reason::Timeout, format!("Timeout: Too large resource version: {asked}, current: {current}"));
        let cause = Cause { reason: "ResourceVersionTooLarge".into(), message: "Too large resource version".into(), field: String::new() };
        error.details = Some(Box::new(Details { causes: vec![cause], retry_after_seconds: 1, ..Details::default() }));
        error
    }

    /// 504: the request took too long.
    pub fn timeout(message: impl Into<String>) -> ApiError {
        ApiError::new(504, Reason::Timeout, format!("Timeout: {}", message.into()))
    }

    /// 429, with the seconds to wait.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> ApiError {
        let mut error = ApiError::new(429, Reason::TooManyRequests, message);
        error.details = Some(Box::new(Details { retry_after_seconds, ..Details::default() }));
        error
    }

    /// 500. The message must not leak what only the log may say.
    pub fn internal(message: impl fmt::Display) -> ApiError {
        let mut error = ApiError::new(500, Reason::InternalError, format!("Internal error occurred: {message}"));
        let cause = Cause { message: message.to_string(), ..Cause::default() };
        error.details = Some(Box::new(Details { causes: vec![cause], ..Details::default() }));
        error
    }

    /// 503.
    pub fn service_unavailable(message: impl Into<String>) -> ApiError {
        ApiError::new(503, Reason::ServiceUnavailable, message)
    }

    /// Any other HTTP code, such as a module's own verdict. The reason follows from the code.
    pub fn from_code(code: u16, reason: &str, message: impl Into<String>) -> ApiError {
        let known = REASONS.iter().find(|row| row.2 == reason).or_else(|| REASONS.iter().find(|row| row.0 == code));
        let code = if (400..600).contains(&code) { code } else { 500 };
        ApiError::new(code, known.map_or(Reason::Unknown, |row| row.1), message)
    }

    /// The meta/v1 Status that travels.
    pub fn to_status(&self) -> Value {
        let mut metadata = Map::new();
        if let Some(token) = &self.continue_token {
            metadata.insert("continue".into(), json!(token));
        }
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": metadata, "status": "Failure",
            "message": self.message, "code": self.code,
        });
        if self.reason != Reason::Unknown {
            status["reason"] = json!(self.reason.as_str());
        }
        if let Some(details) = &self.details {
            status["details"] = details.to_value();
        }
        status
    }
}

/// The Status of a deletion that left nothing to return.
pub fn success(resource: &Resource, name: &str, uid: &str) -> Value {
    let details = Details {
        name: name.into(),
        group: resource.group.to_string(),
        kind: resource.plural.to_string(),
        uid: uid.into(),
        ..Details::default()
    };
    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details.to_value() })
}

/// Codes, reasons and their words; of several reasons for a code the first is the usual one.
const REASONS: &[(u16, Reason, &str)] = &[
    (400, Reason::BadRequest, "BadRequest"),
    (401, Reason::Unauthorized, "Unauthorized"),
    (403, Reason::Forbidden, "Forbidden"),
    (404, Reason::NotFound, "NotFound"),
    (405, Reason::MethodNotAllowed, "MethodNotAllowed"),
    (406, Reason::NotAcceptable, "NotAcceptable"),
    (409, Reason::Conflict, "Conflict"),
    (409, Reason::AlreadyExists, "AlreadyExists"),
    (410, Reason::Gone, "Gone"),
    (410, Reason::Expired, "Expired"),
    (413, Reason::RequestEntityTooLarge, "RequestEntityTooLarge"),
    (415, Reason::UnsupportedMediaType, "UnsupportedMediaType"),
    (422, Reason::Invalid, "Invalid"),
    (429, Reason::TooManyRequests, "TooManyRequests"),
    (500, Reason::InternalError, "InternalError"),
    (500, Reason::ServerTimeout, "ServerTimeout"),
    (503, Reason::ServiceUnavailable, "ServiceUnavailable"),
    (504, Reason::Timeout, "Timeout"),
];

/// A query or an object asks for labels in words that are none: 400.
impl From<pintle_values::selector::Malformed> for ApiError {
    fn from(why: pintle_values::selector::Malformed) -> ApiError {
        ApiError::bad_request(why.message)
    }
}

impl Details {
    fn to_value(&self) -> Value {
        let mut map = Map::new();
        for (key, text) in [("name", &self.name), ("group", &self.group), ("kind", &self.kind), ("uid", &self.uid)] {
            if !text.is_empty() {
                map.insert(key.into(), json!(text));
            }
        }
        if !self.causes.is_empty() {
            map.insert("causes".into(), self.causes.iter().map(Cause::to_value).collect());
        }
        if self.retry_after_seconds > 0 {
            map.insert("retryAfterSeconds".into(), json!(self.retry_after_seconds));
        }
        Value::Object(map)
    }
}

impl Cause {
    fn to_value(&self) -> Value {
        let pairs = [("reason", &self.reason), ("message", &self.message), ("field", &self.field)];
        pairs.into_iter().filter(|(_, text)| !text.is_empty()).map(|(key, text)| (key.to_owned(), json!(text))).collect()
    }
}
