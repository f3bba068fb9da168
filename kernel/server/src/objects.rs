//! Objects: get, list, create, update, patch, delete and their subresources, from a request to the registry and back.
//!
//! This only reads query parameters and bodies into the registry's words. What a write means is the registry's business.

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use pintle_api::apply::MANAGER_BYTES_MAX;
use pintle_api::patch::PatchType;
use pintle_api::resource::Is;
use pintle_api::{ApiError, FieldError, FieldErrorKind, Resource, Schema, TypeView, Verb, decode, proto, strategy};
use pintle_registry as registry;
use pintle_registry::{
    Body as Content, DeleteOptions, DryRun, FieldValidation, Force, GetOptions, ListOptions, Missing, Patch, Propagation, Registry, Target,
    VersionMatch, WriteOptions, audit,
};
use serde::Deserialize;
use serde_json::Value;

use crate::body::Body;
use crate::encode::{self, Answer};
use crate::identity::escalation;
use crate::identity::rbac::Action;
use crate::limits::{BODY_BYTES_MAX, DRAIN_BYTES_MAX, DRAIN_TIME_MAX};
use crate::negotiate::{self, Format, Shape};
use crate::pipeline::Exchange;
use crate::request::{Query, RequestInfo};
use crate::server::Shared;
use crate::shape;

/// Tell who uses a kind that is on its way out.
pub(crate) fn warn_of_end(resource: &Resource, response: &mut Response<Body>) {
    let text = resource.facts().deprecated;
    if !text.is_empty() {
        encode::add_warnings(response.headers_mut(), &[text.to_owned()]);
    }
}

/// Answer a request about objects.
pub(crate) async fn serve(server: &Shared, exchange: Exchange) -> Result<Response<Body>, ApiError> {
    let target = target(&server.registry, &exchange.info)?;
    check_verb(&target.resource, &exchange.info)?;
    let shapes: &[Shape] = match exchange.info.verb {
        _ if exchange.info.subresource == "scale" => &[],
        "list" | "deletecollection" => &[Shape::Table, Shape::MetadataList],
        _ => &[Shape::Table, Shape::Metadata],
    };
    let wanted = exchange.wanted(shapes)?;
    if wanted.format == Format::Protobuf && !proto::has_form(&target.resource) {
        return Err(ApiError::not_acceptable(&["application/json", "application/yaml"]));
    }
    let include = shape::include(exchange.query.text("includeObject"))?;
    let answer = match exchange.info.verb {
        "get" => get(server, &exchange, &target).await,
        "list" => list(server, &exchange, &target).await,
        "create" => create(server, exchange, &target).await,
        "update" => update(server, exchange, &target).await,
        "patch" => patch(server, exchange, &target).await,
        "delete" => delete(server, exchange, &target).await,
        "deletecollection" => delete_collection(server, exchange, &target).await,
        _ => Err(ApiError::method_not_allowed_path()),
    }?;
    let mut response = encode::encode(answer, wanted, include)?;
    warn_of_end(&target.resource, &mut response);
    Ok(response)
}

/// What a request's path names. A namespace is not in a namespace, though its path reads so.
pub(crate) fn target(registry: &Registry, info: &RequestInfo) -> registry::Result<Target> {
    let namespace = if info.group.is_empty() && info.resource == "namespaces" { "" } else { &info.namespace };
    if !info.rest.is_empty() {
        return Err(ApiError::no_route());
    }
    // A list's name comes from its field selector; it is not in the path.
    let name = if matches!(info.verb, "list" | "deletecollection" | "watch") { "" } else { &info.name };
    registry.resolve(&info.group, &info.version, &info.resource, &info.subresource, namespace, name)
}

/// Some kinds cannot be written, some not read.
fn check_verb(resource: &Resource, info: &RequestInfo) -> Result<(), ApiError> {
    let verbs = match info.subresource.as_str() {
        "" => resource.verbs,
        subresource => resource.subresource(subresource).ok_or_else(ApiError::no_route)?.verbs,
    };
    let verb = match info.verb {
        "get" => Verb::Get,
        "list" => Verb::List,
        "watch" => Verb::Watch,
        "create" => Verb::Create,
        "update" => Verb::Update,
        "patch" => Verb::Patch,
        "delete" => Verb::Delete,
        "deletecollection" => Verb::DeleteCollection,
        _ => return Err(ApiError::method_not_allowed_path()),
    };
    // A collection is not replaced, and nothing is created under the name of what is there.
    let misplaced = match verb {
        Verb::Update | Verb::Patch => info.name.is_empty(),
        Verb::Create => !info.name.is_empty() && info.subresource.is_empty(),
        _ => false,
    };
    if misplaced {
        return Err(ApiError::method_not_allowed_path());
    }
    if verbs.contains(verb) { Ok(()) } else { Err(ApiError::method_not_allowed_path()) }
}

async fn get(server: &Shared, exchange: &Exchange, target: &Target) -> Result<Answer, ApiError> {
    let options = GetOptions { resource_version: exchange.query.text("resourceVersion").to_owned() };
    let object = server.registry.get(target, &options).await?;
    Ok(Answer::Object { code: StatusCode::OK, object, warnings: Vec::new() })
}

async fn list(server: &Shared, exchange: &Exchange, target: &Target) -> Result<Answer, ApiError> {
    let page = server.registry.list(target, &list_options(&exchange.query)?).await?;
    Ok(Answer::List { resource: target.resource.clone(), page })
}

async fn create(server: &Shared, exchange: Exchange, target: &Target) -> Result<Answer, ApiError> {
    let options = write_options(&exchange, "CreateOptions")?;
    let caller = exchange.caller.clone();
    let content = content(exchange).await?;
    if escalation::concerns(&caller, &target.resource.group) {
        let would_be = server.registry.create(&caller, target, content.clone(), &dry(&options)).await?;
        escalation::check(&server.authorizer, &caller, &would_be.object)?;
    }
    let written = server.registry.create(&caller, target, content, &options).await?;
    Ok(match target.subresource.as_str() {
        "binding" | "eviction" => Answer::Value { code: StatusCode::CREATED, value: encode::success(201), warnings: written.warnings },
        _ => Answer::Object { code: StatusCode::CREATED, object: written.object, warnings: written.warnings },
    })
}

async fn update(server: &Shared, exchange: Exchange, target: &Target) -> Result<Answer, ApiError> {
    let mut options = write_options(&exchange, "UpdateOptions")?;
    if strategy::created_by_update(&target.resource) {
        options.missing = may_create(server, &exchange, target)?;
    }
    let caller = exchange.caller.clone();
    let content = content(exchange).await?;
    if escalation::concerns(&caller, &target.resource.group) {
        let would_be = server.registry.update(&caller, target, content.clone(), &dry(&options)).await?;
        escalation::check(&server.authorizer, &caller, &would_be.object)?;
    }
    let written = server.registry.update(&caller, target, content, &options).await?;
    Ok(written_answer(written))
}

async fn patch(server: &Shared, exchange: Exchange, target: &Target) -> Result<Answer, ApiError> {
    let mut options = write_options(&exchange, "PatchOptions")?;
    let kind = match negotiate::content_type(exchange.headers()) {
        "application/json-patch+json" => Patch::Json,
        "application/merge-patch+json" => Patch::Merge,
        "application/strategic-merge-patch+json" => Patch::Strategic,
        PatchType::APPLY => Patch::Apply,
        _ => return Err(ApiError::unsupported_media_type(&PatchType::MEDIA_TYPES)),
    };
    let applies = negotiate::content_type(exchange.headers()) == PatchType::APPLY;
    check_manager(&exchange.query, applies)?;
    options.force = if exchange.query.flag("force") { Force::Yes } else { Force::No };
    if applies {
        options.missing = may_create(server, &exchange, target)?;
    }
    let caller = exchange.caller.clone();
    let patch = kind(read(exchange).await?);
    if escalation::concerns(&caller, &target.resource.group) {
        let would_be = server.registry.patch(&caller, target, patch.clone(), &dry(&options)).await?;
        escalation::check(&server.authorizer, &caller, &would_be.object)?;
    }
    let written = server.registry.patch(&caller, target, patch, &options).await?;
    Ok(written_answer(written))
}

/// Whether the write may make its object. If it would have to and may not, that is the answer.
fn may_create(server: &Shared, exchange: &Exchange, target: &Target) -> Result<Missing, ApiError> {
    let create = Action { verb: "create", ..Action::of(&exchange.info) };
    match server.authorizer.check(&exchange.caller, &create) {
        Ok(()) => Ok(Missing::Create),
        Err(refused) => match server.registry.get_cached(target.resource.key(), &target.namespace, &target.name) {
            Some(_) => Ok(Missing::Refuse),
            None if target.subresource.is_empty() => Err(refused),
            None => Ok(Missing::Refuse),
        },
    }
}

/// `?fieldManager=` is asked of an apply, and `?force=` is an apply's alone.
fn check_manager(query: &Query, applies: bool) -> Result<(), ApiError> {
    let invalid = |error| Err(ApiError::invalid_kind("meta.k8s.io", "PatchOptions", "", &[error]));
    if applies && query.text("fieldManager").is_empty() {
        return invalid(FieldError::required("fieldManager", "is required for apply patch"));
    }
    if !applies && query.get("force").is_some() {
        return invalid(FieldError::forbidden("force", "may not be specified for non-apply patch"));
    }
    Ok(())
}

/// The same write, not carried out.
fn dry(options: &WriteOptions) -> WriteOptions {
    WriteOptions { dry_run: DryRun::All, ..options.clone() }
}

fn written_answer(written: registry::Written) -> Answer {
    let code = if written.created { StatusCode::CREATED } else { StatusCode::OK };
    Answer::Object { code, object: written.object, warnings: written.warnings }
}

async fn delete(server: &Shared, exchange: Exchange, target: &Target) -> Result<Answer, ApiError> {
    let caller = exchange.caller.clone();
    let Deletion { options, orphans_kept } = delete_options(exchange).await?;
    let deleted = server.registry.delete(&caller, target, &options).await?;
    let whole = target.resource.facts().is(Is::ShownWhenDeleted);
    if deleted.gone && !whole {
        let value = pintle_api::status::success(&target.resource, &target.name, &deleted.object.meta().uid);
        return Ok(Answer::Value { code: StatusCode::OK, value, warnings: deleted.warnings });
    }
    let code = if !deleted.gone && orphans_kept == Some(false) { StatusCode::ACCEPTED } else { StatusCode::OK };
    Ok(Answer::Object { code, object: deleted.object, warnings: deleted.warnings })
}

async fn delete_collection(server: &Shared, exchange: Exchange, target: &Target) -> Result<Answer, ApiError> {
    let selected = list_options(&exchange.query)?;
    let caller = exchange.caller.clone();
    let Deletion { options, .. } = delete_options(exchange).await?;
    let page = server.registry.delete_collection(&caller, target, &options, &selected).await?;
    Ok(Answer::List { resource: target.resource.clone(), page })
}

/// The body of a create or update, by its content type.
async fn content(exchange: Exchange) -> Result<Content, ApiError> {
    let make = match Encoding::of(exchange.headers())? {
        Encoding::Json => Content::Json,
        Encoding::Yaml => Content::Yaml,
        Encoding::Protobuf => Content::Protobuf,
    };
    Ok(make(read(exchange).await?))
}

/// What a body is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    Yaml,
    Protobuf,
}

impl Encoding {
    /// By the content type; none is JSON.
    ///
    /// # Errors
    /// 415.
    pub(crate) fn of(headers: &http::HeaderMap) -> Result<Encoding, ApiError> {
        match negotiate::content_type(headers) {
            "" | "application/json" => Ok(Encoding::Json),
            "application/yaml" => Ok(Encoding::Yaml),
            "application/vnd.kubernetes.protobuf" => Ok(Encoding::Protobuf),
            _ => Err(ApiError::unsupported_media_type(&["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"])),
        }
    }

    /// Read a body that is not a stored object: a review, options. `view` is its type.
    ///
    /// # Errors
    /// 400.
    pub(crate) fn value(self, text: &[u8], kind: &str, view: Option<TypeView<'_>>) -> Result<Value, ApiError> {
        let bad = |error: &dyn std::fmt::Display| {
            ApiError::bad_request(format!("the object provided is unrecognized (must be a {kind}): {error}"))
        };
        let value = match self {
            Encoding::Json => decode::parse(text, decode::Format::Json).map_err(|error| bad(&error))?.0,
            Encoding::Yaml => decode::parse(text, decode::Format::Yaml).map_err(|error| bad(&error))?.0,
            Encoding::Protobuf => proto::decode_kind(view.ok_or_else(|| bad(&"its type is not known"))?, text)?,
        };
        let said = value["kind"].as_str().filter(|said| !said.is_empty()).unwrap_or(kind);
        audit::request(&value);
        if value.is_object() && said == kind { Ok(value) } else { Err(bad(&format_args!("its kind is {said:?}"))) }
    }
}

/// The whole body, within the limit.
///
/// # Errors
/// 413 beyond the limit; 400 when the client breaks off.
pub(crate) async fn read(exchange: Exchange) -> Result<Bytes, ApiError> {
    let mut body = exchange.body;
    match Limited::new(&mut body, BODY_BYTES_MAX).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            drain(body).await;
            Err(ApiError::too_large(BODY_BYTES_MAX))
        }
        Err(_) => Err(ApiError::bad_request("the request's body ended early")),
    }
}

/// Reads on for a while and keeps nothing: most clients look for the answer only when they have sent what they have to say, and a
/// connection that is closed under them looks to them like a network error.
async fn drain(body: Incoming) {
    let reading = Limited::new(body, DRAIN_BYTES_MAX);
    let mut reading = std::pin::pin!(reading);
    let _ = tokio::time::timeout(DRAIN_TIME_MAX, async { while let Some(Ok(_)) = reading.frame().await {} }).await;
}

fn dry_run(words: &[&str], options: &str) -> Result<DryRun, ApiError> {
    match words {
        [] => Ok(DryRun::No),
        words if words.iter().all(|word| *word == "All") => Ok(DryRun::All),
        words => {
            let error = FieldError::new("dryRun", FieldErrorKind::NotSupported, words.join(","), "supported values: \"All\"");
            Err(ApiError::invalid_kind("meta.k8s.io", options, "", &[error]))
        }
    }
}

fn write_options(exchange: &Exchange, options: &str) -> Result<WriteOptions, ApiError> {
    let query = &exchange.query;
    let field_validation = match query.text("fieldValidation") {
        "" | "Warn" => FieldValidation::Warn,
        "Ignore" => FieldValidation::Ignore,
        "Strict" => FieldValidation::Strict,
        other => {
            let detail = "supported values: \"Ignore\", \"Strict\", \"Warn\"";
            let error = FieldError::new("fieldValidation", FieldErrorKind::NotSupported, other, detail);
            return Err(ApiError::invalid_kind("meta.k8s.io", options, "", &[error]));
        }
    };
    let words: Vec<&str> = query.all("dryRun").filter(|word| !word.is_empty()).collect();
    let field_manager = field_manager(exchange, options)?;
    Ok(WriteOptions { dry_run: dry_run(&words, options)?, field_validation, field_manager, ..WriteOptions::default() })
}

/// As said, else the user agent up to its first slash.
fn field_manager(exchange: &Exchange, options: &str) -> Result<String, ApiError> {
    let said = exchange.query.text("fieldManager");
    let invalid = |error| Err(ApiError::invalid_kind("meta.k8s.io", options, "", &[error]));
    match said.chars().position(char::is_control) {
        _ if said.len() > MANAGER_BYTES_MAX => return invalid(FieldError::too_long("fieldManager", MANAGER_BYTES_MAX)),
        Some(at) => return invalid(FieldError::invalid("fieldManager", said, format!("invalid character (at position {at})"))),
        None if !said.is_empty() => return Ok(said.to_owned()),
        None => {}
    }
    let agent = exchange.headers().get(http::header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    // A header's text is ASCII: any cut falls between characters.
    let agent = agent.split('/').next().unwrap_or_default();
    let agent = agent.get(..MANAGER_BYTES_MAX).unwrap_or(agent);
    Ok(if agent.is_empty() { "unknown" } else { agent }.to_owned())
}

/// # Errors
/// 400 for numbers that are none.
pub(crate) fn list_options(query: &Query) -> Result<ListOptions, ApiError> {
    if query.get("sendInitialEvents").is_some() {
        let error = FieldError::forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list");
        return Err(ApiError::invalid_kind("meta.k8s.io", "ListOptions", "", &[error]));
    }
    let limit = query.text("limit");
    Ok(ListOptions {
        label_selector: query.text("labelSelector").to_owned(),
        field_selector: query.text("fieldSelector").to_owned(),
        limit: if limit.is_empty() { 0 } else { limit.parse().map_err(|_| bad_parameter("limit", limit))? },
        continue_token: query.text("continue").to_owned(),
        resource_version: query.text("resourceVersion").to_owned(),
        version_match: version_match(query)?,
    })
}

pub(crate) fn version_match(query: &Query) -> Result<Option<VersionMatch>, ApiError> {
    match query.text("resourceVersionMatch") {
        "" => Ok(None),
        "Exact" => Ok(Some(VersionMatch::Exact)),
        "NotOlderThan" => Ok(Some(VersionMatch::NotOlderThan)),
        other => {
            let detail = "supported values: \"Exact\", \"NotOlderThan\"";
            let error = FieldError::new("resourceVersionMatch", FieldErrorKind::NotSupported, other, detail);
            Err(ApiError::invalid_kind("meta.k8s.io", "ListOptions", "", &[error]))
        }
    }
}

/// 400 for a parameter that does not parse.
pub(crate) fn bad_parameter(name: &str, value: &str) -> ApiError {
    ApiError::bad_request(format!("unable to decode query parameter {name}: {value:?}"))
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DeleteBody {
    grace_period_seconds: Option<i64>,
    preconditions: Option<Preconditions>,
    orphan_dependents: Option<bool>,
    propagation_policy: Option<String>,
    dry_run: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Preconditions {
    uid: Option<String>,
    resource_version: Option<String>,
}

struct Deletion {
    options: DeleteOptions,
    orphans_kept: Option<bool>,
}

/// From the body, or from the query when there is none.
async fn delete_options(exchange: Exchange) -> Result<Deletion, ApiError> {
    let encoding = Encoding::of(exchange.headers());
    let mut body = query_delete_body(&exchange.query)?;
    let text = read(exchange).await?;
    if !text.is_empty() {
        let view = Schema::builtin().type_named("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions");
        let value = encoding?.value(&text, "DeleteOptions", view)?;
        body = serde_json::from_value(value).map_err(|error| ApiError::bad_request(format!("unable to decode DeleteOptions: {error}")))?;
    }
    let invalid = |field: &str, value: &str, detail: &str| {
        let error = FieldError::new(field, FieldErrorKind::NotSupported, value, detail);
        ApiError::invalid_kind("meta.k8s.io", "DeleteOptions", "", &[error])
    };
    let propagation = match (body.propagation_policy.as_deref(), body.orphan_dependents) {
        (Some(both), Some(_)) => {
            let why = "orphanDependents and deletionPropagation cannot be both set";
            let error = FieldError::invalid("propagationPolicy", both, why);
            return Err(ApiError::invalid_kind("meta.k8s.io", "DeleteOptions", "", &[error]));
        }
        (None | Some(""), None) => None,
        (Some("Background"), _) | (None, Some(false)) => Some(Propagation::Background),
        (Some("Foreground"), _) => Some(Propagation::Foreground),
        (Some("Orphan"), _) | (None, Some(true)) => Some(Propagation::Orphan),
        (Some(other), None) => {
            return Err(invalid("propagationPolicy", other, "supported values: \"Foreground\", \"Background\", \"Orphan\""));
        }
    };
    let words: Vec<&str> = body.dry_run.iter().flatten().map(String::as_str).collect();
    let preconditions = body.preconditions.unwrap_or_default();
    let options = DeleteOptions {
        grace_period_seconds: body.grace_period_seconds,
        precondition_uid: preconditions.uid,
        precondition_resource_version: preconditions.resource_version,
        propagation,
        dry_run: dry_run(&words, "DeleteOptions")?,
    };
    Ok(Deletion { options, orphans_kept: body.orphan_dependents })
}

fn query_delete_body(query: &Query) -> Result<DeleteBody, ApiError> {
    let grace = query.get("gracePeriodSeconds");
    let orphans = query.get("orphanDependents");
    let dry_run: Vec<String> = query.all("dryRun").filter(|word| !word.is_empty()).map(str::to_owned).collect();
    Ok(DeleteBody {
        grace_period_seconds: grace.map(|text| text.parse().map_err(|_| bad_parameter("gracePeriodSeconds", text))).transpose()?,
        orphan_dependents: orphans.map(|_| query.flag("orphanDependents")),
        propagation_policy: query.get("propagationPolicy").map(str::to_owned),
        dry_run: (!dry_run.is_empty()).then_some(dry_run),
        ..DeleteBody::default()
    })
}
