//! Questions about identity and access: the review kinds, which are answered and never stored, and tokens for service accounts.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Response, StatusCode};
use pintle_api::printer::IncludeObject;
use pintle_api::{ApiError, FieldError, Schema};
use pintle_registry::{Caller, Object, Registry, ResourceKey};
use serde_json::{Value, json};

use crate::body::Body;
use crate::encode::{self, Answer};
use crate::identity::authz;
use crate::identity::rbac::Action;
use crate::identity::token::{Bound, Claims, ISSUER, Reference, now_seconds};
use crate::objects::{self, Encoding};
use crate::pipeline::Exchange;
use crate::server::Shared;

/// A kind that is answered on the spot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Review {
    SelfSubject,
    Token,
    SubjectAccess,
    SelfSubjectAccess,
    LocalSubjectAccess,
    SelfSubjectRules,
}

const REVIEWS: [(&str, &str, &str, Review); 6] = [
    ("authentication.k8s.io", "selfsubjectreviews", "SelfSubjectReview", Review::SelfSubject),
    ("authentication.k8s.io", "tokenreviews", "TokenReview", Review::Token),
    ("authorization.k8s.io", "subjectaccessreviews", "SubjectAccessReview", Review::SubjectAccess),
    ("authorization.k8s.io", "selfsubjectaccessreviews", "SelfSubjectAccessReview", Review::SelfSubjectAccess),
    ("authorization.k8s.io", "localsubjectaccessreviews", "LocalSubjectAccessReview", Review::LocalSubjectAccess),
    ("authorization.k8s.io", "selfsubjectrulesreviews", "SelfSubjectRulesReview", Review::SelfSubjectRules),
];

impl Review {
    /// The review that is posted to this resource.
    pub(crate) fn find(group: &str, version: &str, resource: &str) -> Option<Review> {
        REVIEWS.iter().find(|row| row.0 == group && row.1 == resource && version == "v1").map(|row| row.3)
    }

    fn kind(self) -> (&'static str, &'static str) {
        REVIEWS.iter().find(|row| row.3 == self).map_or(("", ""), |row| (row.0, row.2))
    }
}

/// Answer a review.
pub(crate) async fn serve(server: &Shared, review: Review, exchange: Exchange) -> Result<Response<Body>, ApiError> {
    if exchange.parts.method != Method::POST || !exchange.info.name.is_empty() {
        return Err(ApiError::method_not_allowed_path());
    }
    let wanted = exchange.wanted(&[])?;
    let (group, kind) = review.kind();
    let caller = exchange.caller.clone();
    let namespace = exchange.info.namespace.clone();
    let mut value = read(exchange, group, kind).await?;
    value["kind"] = json!(kind);
    value["apiVersion"] = json!(format!("{group}/v1"));
    if !value["metadata"].is_object() {
        value["metadata"] = json!({ "creationTimestamp": null });
    }
    value["status"] = match review {
        Review::SelfSubject => json!({ "userInfo": caller.info() }),
        Review::Token => token_review(server, &value["spec"])?,
        Review::SelfSubjectAccess => access(server, &caller, &value["spec"])?,
        Review::SubjectAccess => access(server, &subject(kind, &value["spec"])?, &value["spec"])?,
        Review::LocalSubjectAccess => {
            if value.pointer("/spec/resourceAttributes/namespace").and_then(Value::as_str).unwrap_or_default() != namespace {
                return Err(ApiError::bad_request(format!("spec.resourceAttributes.namespace must match namespace: {namespace}")));
            }
            access(server, &subject(kind, &value["spec"])?, &value["spec"])?
        }
        Review::SelfSubjectRules => rules(server, &caller, &value["spec"]),
    };
    encode::encode(Answer::value(StatusCode::CREATED, value), wanted, IncludeObject::default())
}

/// The body as an object of this kind.
async fn read(exchange: Exchange, group: &str, kind: &str) -> Result<Value, ApiError> {
    let encoding = Encoding::of(exchange.headers())?;
    let text = objects::read(exchange).await?;
    let view = pintle_api::resource::kind_type(group, "v1", kind).and_then(|id| Schema::builtin().get(id));
    encoding.value(&text, kind, view)
}

fn token_review(server: &Shared, spec: &Value) -> Result<Value, ApiError> {
    let token = spec["token"].as_str().unwrap_or_default();
    if token.is_empty() {
        return Err(ApiError::bad_request("token is required for TokenReview in authentication"));
    }
    let asked = strings(&spec["audiences"]);
    let audiences: Vec<&str> = if asked.is_empty() { vec![ISSUER] } else { asked.iter().map(String::as_str).collect() };
    Ok(match server.tokens.caller(&server.registry, token, &audiences) {
        Some((caller, audiences)) => json!({ "authenticated": true, "user": caller.info(), "audiences": audiences }),
        None => json!({ "user": {}, "error": "invalid bearer token" }),
    })
}

/// Whom a SubjectAccessReview asks about.
fn subject(kind: &str, spec: &Value) -> Result<Caller, ApiError> {
    let user = spec["user"].as_str().unwrap_or_default();
    let groups = strings(&spec["groups"]);
    if user.is_empty() && groups.is_empty() {
        let error =
            FieldError::new("spec.user", pintle_api::FieldErrorKind::Invalid, "", "at least one of user or group must be specified");
        return Err(ApiError::invalid_kind("authorization.k8s.io", kind, "", &[error]));
    }
    Ok(Caller { user: user.to_owned(), groups, ..Caller::default() })
}

fn access(server: &Shared, caller: &Caller, spec: &Value) -> Result<Value, ApiError> {
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    if resource.is_object() == path.is_object() {
        return Err(ApiError::bad_request("exactly one of nonResourceAttributes or resourceAttributes must be specified"));
    }
    let of = if resource.is_object() { resource } else { path };
    let [verb, group, name, namespace, plural, subresource, path] =
        ["verb", "group", "name", "namespace", "resource", "subresource", "path"].map(|key| text(of, key));
    let action = Action {
        verb: &verb,
        is_resource: resource.is_object(),
        group: &group,
        resource: &plural,
        subresource: &subresource,
        namespace: &namespace,
        name: &name,
        path: &path,
    };
    Ok(match server.authorizer.allows(caller, &action) {
        true => json!({ "allowed": true }),
        false => json!({ "allowed": false, "reason": authz::reason(caller, &action) }),
    })
}

fn rules(server: &Shared, caller: &Caller, spec: &Value) -> Value {
    let namespace = spec["namespace"].as_str().unwrap_or_default();
    let (mut resources, mut paths) = (Vec::new(), Vec::new());
    for rule in server.authorizer.rules_of(caller, namespace) {
        if !rule.resources.is_empty() {
            let mut value = json!({ "verbs": rule.verbs, "apiGroups": rule.api_groups, "resources": rule.resources });
            if !rule.resource_names.is_empty() {
                value["resourceNames"] = json!(rule.resource_names);
            }
            resources.push(value);
        }
        if !rule.non_resource_urls.is_empty() {
            paths.push(json!({ "verbs": rule.verbs, "nonResourceURLs": rule.non_resource_urls }));
        }
    }
    json!({ "resourceRules": resources, "nonResourceRules": paths, "incomplete": false })
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// `POST .../serviceaccounts/{name}/token`.
pub(crate) async fn token_request(server: &Shared, exchange: Exchange) -> Result<Response<Body>, ApiError> {
    if exchange.parts.method != Method::POST {
        return Err(ApiError::method_not_allowed_path());
    }
    let wanted = exchange.wanted(&[])?;
    let (namespace, name) = (exchange.info.namespace.clone(), exchange.info.name.clone());
    let value = read(exchange, "authentication.k8s.io", "TokenRequest").await?;
    let value = issue_token(server, &namespace, &name, value)?;
    encode::encode(Answer::value(StatusCode::CREATED, value), wanted, IncludeObject::default())
}

/// Shortest and longest life of a token, and what it is when nothing is said; seconds.
const TOKEN_SECONDS: (u64, u64, u64) = (600, 1 << 32, 3600);

/// Carry out a TokenRequest: the same object with its status filled in.
///
/// # Errors
/// 404 for an account that does not exist, 422 for a request that is not valid, 409 when a bound object has another uid.
pub(crate) fn issue_token(server: &Shared, namespace: &str, name: &str, mut request: Value) -> Result<Value, ApiError> {
    let registry = &server.registry;
    let account = object(registry, "serviceaccounts", namespace, name)?;
    let (shortest, longest, usual) = TOKEN_SECONDS;
    let seconds = match &request["spec"]["expirationSeconds"] {
        Value::Null => usual,
        value => value.as_u64().filter(|seconds| (shortest..=longest).contains(seconds)).ok_or_else(|| {
            let error = FieldError::invalid(
                "spec.expirationSeconds",
                value.clone(),
                "may not specify a duration less than 10 minutes or larger than 2^32 seconds",
            );
            ApiError::invalid_kind("authentication.k8s.io", "TokenRequest", "", &[error])
        })?,
    };
    let mut audiences = strings(&request["spec"]["audiences"]);
    if audiences.is_empty() {
        audiences.push(ISSUER.to_owned());
    }
    let now = now_seconds();
    let claims = Claims {
        aud: audiences.clone(),
        exp: now + seconds,
        iat: now,
        iss: ISSUER.to_owned(),
        jti: uuid::Uuid::new_v4().to_string(),
        bound: bound(registry, namespace, &account, &request["spec"]["boundObjectRef"])?,
        nbf: now,
        sub: format!("system:serviceaccount:{namespace}:{name}"),
    };
    let expires = jiff::Timestamp::from_second(i64::try_from(claims.exp).unwrap_or(i64::MAX)).map_err(ApiError::internal)?;
    request["kind"] = json!("TokenRequest");
    request["apiVersion"] = json!("authentication.k8s.io/v1");
    request["metadata"] = json!({ "name": name, "namespace": namespace, "creationTimestamp": jiff::Timestamp::from_second(i64::try_from(now).unwrap_or(0)).map_err(ApiError::internal)?.to_string() });
    request["spec"]["audiences"] = json!(audiences);
    request["spec"]["expirationSeconds"] = json!(seconds);
    request["status"] = json!({ "token": server.tokens.sign(&claims)?, "expirationTimestamp": expires.to_string() });
    Ok(request)
}

/// What the token is bound to besides its account.
fn bound(registry: &Registry, namespace: &str, account: &Object, reference: &Value) -> Result<Bound, ApiError> {
    let mut bound = Bound { namespace: namespace.to_owned(), node: None, pod: None, secret: None, serviceaccount: Reference::of(account) };
    if reference.is_null() {
        return Ok(bound);
    }
    let name = reference["name"].as_str().unwrap_or_default();
    let resource = match (reference["kind"].as_str(), reference["apiVersion"].as_str()) {
        (Some("Pod"), Some("v1")) => "pods",
        (Some("Secret"), Some("v1")) => "secrets",
        (Some("Node"), Some("v1")) => "nodes",
        _ => {
            return Err(ApiError::bad_request("cannot bind token to this kind of object: only Pod, Secret and Node of v1 can be bound to"));
        }
    };
    let object = object(registry, resource, if resource == "nodes" { "" } else { namespace }, name)?;
    let uid = reference["uid"].as_str().unwrap_or_default();
    if !uid.is_empty() && *object.meta().uid != *uid {
        let message = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(ApiError::from_code(409, "Conflict", message));
    }
    let found = Some(Reference::of(&object));
    match resource {
        "pods" => {
            let node = object.field("spec.nodeName").unwrap_or_default();
            bound.node = registry.get_cached(&ResourceKey::new("", "nodes"), "", node).map(|node| Reference::of(&node));
            bound.pod = found;
        }
        "secrets" => bound.secret = found,
        _ => bound.node = found,
    }
    Ok(bound)
}

/// An object of the core group, or 404.
pub(crate) fn object(registry: &Registry, resource: &str, namespace: &str, name: &str) -> Result<Arc<Object>, ApiError> {
    registry.get_cached(&ResourceKey::new("", resource), namespace, name).ok_or_else(|| {
        match Schema::builtin().resource("", "v1", resource) {
            Some(resource) => ApiError::not_found(resource, name),
            None => ApiError::no_route(),
        }
    })
}

/// `/.well-known/openid-configuration`.
pub(crate) fn openid_configuration(exchange: &Exchange) -> Result<Response<Body>, ApiError> {
    let host = exchange.headers().get(http::header::HOST).and_then(|host| host.to_str().ok());
    let host = host.or(exchange.parts.uri.authority().map(|authority| authority.as_str())).unwrap_or("kubernetes.default.svc");
    Ok(public(
        json!({
            "issuer": ISSUER, "jwks_uri": format!("https://{host}/openid/v1/jwks"), "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["ES256"],
        }),
        "application/json",
    ))
}

/// `/openid/v1/jwks`.
pub(crate) fn jwks(server: &Shared) -> Result<Response<Body>, ApiError> {
    let key = server.tokens.public();
    let key = json!({ "use": "sig", "kty": "EC", "kid": key.kid, "crv": "P-256", "alg": "ES256", "x": key.x, "y": key.y });
    Ok(public(json!({ "keys": [key] }), "application/jwk-set+json"))
}

fn public(value: Value, content_type: &'static str) -> Response<Body> {
    let mut response = Response::new(Bytes::from(value.to_string()).into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
    response
}
