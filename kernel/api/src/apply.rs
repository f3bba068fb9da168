//! Who owns which field: `metadata.managedFields`, and server-side apply, which goes by it.
//!
//! The problem: several parties write one object, each the fields that are its business. So every write notes which fields its
//! manager set. A manager that *applies* sends all fields that it wants and nothing else: what it no longer sends goes, unless somebody
//! else owns it; what another owns with another value is a conflict, unless it is taken by force. A manager that *updates*
//! takes what it changes, without asking.
//!
//! The lists and maps that are owned element by element, and by which keys, are facts of the schema table (`shape`).
//!
//! Not here: whether a write may change a field at all (`strategy`), and what is stored. Entries of other versions of the
//! object are held against the same paths: there is no conversion between the paths of two versions.

mod managers;
mod set;
mod shape;
mod walk;

use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::decode::{self, FieldIssue, Format};
use crate::resource::Resource;
use crate::status::{ApiError, Cause, Details, Reason};
use crate::strategy;
use crate::table::Schema;

use managers::{Manager, Managers, Operation};
use shape::Shape;
use walk::Diff;

pub use managers::UPDATE_MANAGERS_MAX;
pub use set::FieldSet;

/// The longest name of a manager, bytes.
pub const MANAGER_BYTES_MAX: usize = 128;
/// Who owns what was there before anybody applied.
const BEFORE_APPLY: &str = "before-first-apply";
/// Where kubectl's client-side apply keeps what it sent.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The manager that takes over from client-side apply.
const KUBECTL: &str = "kubectl";

/// What nobody owns.
static UNOWNED: LazyLock<FieldSet> = LazyLock::new(|| {
    let metadata = json!({
        ".": {}, "f:name": {}, "f:namespace": {}, "f:creationTimestamp": {}, "f:selfLink": {}, "f:uid": {}, "f:clusterName": {},
        "f:generation": {}, "f:managedFields": {}, "f:resourceVersion": {},
    });
    FieldSet::from_json(&json!({"f:apiVersion": {}, "f:kind": {}, "f:metadata": metadata})).unwrap_or_default()
});

/// Who writes what, and when.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// Name of the manager.
    pub manager: &'a str,
    /// The subresource that is written; empty for the object itself.
    pub subresource: &'a str,
    /// Now, RFC 3339 with seconds.
    pub now: &'a str,
}

/// Whether conflicts are refused, or settled in the writer's favour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Force {
    /// Refused.
    #[default]
    No,
    /// The writer takes the fields.
    Yes,
}

/// Who owns what after a write.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ownership {
    /// The new `metadata.managedFields`.
    pub entries: Vec<Value>,
    /// Whether anything but the times of entries is new.
    pub changed: bool,
}

impl Ownership {
    /// Writes it into the object.
    pub fn put_into(self, object: &mut Value) {
        let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
        if self.entries.is_empty() {
            metadata.remove("managedFields");
        } else {
            metadata.insert("managedFields".to_owned(), Value::Array(self.entries));
        }
    }

    /// `live` are the entries so far.
    fn new(managers: Managers, live: Option<&Value>) -> Ownership {
        let entries = managers.into_json();
        let live = live.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let known = |entry: &Value| live.iter().any(|other| untimed(other).eq(untimed(entry)));
        let changed = entries.len() != live.len() || !entries.iter().all(known);
        Ownership { entries, changed }
    }
}

/// An entry but for its time.
fn untimed(entry: &Value) -> impl Iterator<Item = (&String, &Value)> {
    entry.as_object().into_iter().flatten().filter(|(key, _)| *key != "time")
}

/// Who owns the fields of a new object.
pub fn created(schema: &Schema, resource: &Resource, writer: Writer<'_>, new: &Value) -> Ownership {
    updated(schema, resource, writer, &json!({}), new)
}

/// Who owns what after an update or a patch that makes `new` of `old`. Both are conformed and defaulted; `new` may carry
/// `managedFields` of its own, as clients send back what they read.
pub fn updated(schema: &Schema, resource: &Resource, writer: Writer<'_>, old: &Value, new: &Value) -> Ownership {
    let live = old.pointer("/metadata/managedFields");
    let sent = new.pointer("/metadata/managedFields").filter(|_| writer.subresource.is_empty());
    let is_new = old.get("metadata").is_none();
    let reset = sent == Some(&json!([{}]));
    let of_live = || Managers::read(live).unwrap_or_default();
    let mut managers = match sent {
        Some(_) if reset => Managers::default(),
        Some(sent) if !is_new && Some(sent) != live => Managers::read(Some(sent)).filter(|m| !m.0.is_empty()).unwrap_or_else(of_live),
        _ => of_live(),
    };
    if managers.0.is_empty() && !is_new {
        // Whose fields nobody knows is not followed until somebody applies.
        return Ownership::new(managers, live);
    }
    let shape = Shape::of(schema, resource);
    let diff = restrict(resource, writer.subresource, walk::compare(shape, old, new));
    let mut own = writer.entry(Operation::Update, resource);
    let last = managers.take(&own);
    managers.lose(&diff.changed);
    managers.lose(&diff.removed);
    own.fields = diff.changed;
    own.fields.subtract(&UNOWNED);
    if let Some(mut last) = last {
        last.fields.subtract(&diff.removed);
        if own.fields.is_empty() {
            own.time = last.time;
        }
        own.fields.add(&last.fields);
    }
    managers.add(own);
    managers.cap();
    Ownership::new(managers, live)
}

/// What `config` makes of `live` when it is applied, and who owns what then. `live` is an empty object where there is none.
/// `config` is conformed. The object comes with its old `managedFields`.
pub fn applied(
    schema: &Schema,
    resource: &Resource,
    writer: Writer<'_>,
    force: Force,
    live: &Value,
    config: &Value,
) -> Result<(Value, Ownership), ApiError> {
    let shape = Shape::of(schema, resource);
    let entries = live.pointer("/metadata/managedFields");
    let mut managers = Managers::read(entries).unwrap_or_default();
    if managers.0.is_empty() {
        let before = Writer { manager: BEFORE_APPLY, ..writer };
        let mut all = restrict(resource, writer.subresource, walk::compare(shape, &json!({}), live)).changed;
        all.subtract(&UNOWNED);
        managers.add(Manager { fields: all, ..before.entry(Operation::Update, resource) });
    }
    let all = walk::asked(shape, config).map_err(|why| untyped(resource, config, &why))?;
    let mut own = writer.entry(Operation::Apply, resource);
    let last = managers.take(&own);
    own.fields = confine(resource, writer.subresource, all.clone());
    own.fields.subtract(&UNOWNED);

    let mut merged = walk::merge(shape, live.clone(), config);
    if let Some(last) = &last {
        let mut kept = all;
        managers.0.iter().for_each(|manager| kept.add(&manager.fields));
        walk::with_structs(shape, &mut kept);
        let mut gone = last.fields.clone();
        walk::with_structs(shape, &mut gone);
        gone.subtract(&kept);
        walk::remove(shape, &mut merged, &gone);
    }
    let diff = restrict(resource, writer.subresource, walk::compare(shape, live, &merged));
    if force == Force::No {
        let took_over = if writer.manager == KUBECTL { of_client_side_apply(shape, resource, live) } else { FieldSet::default() };
        refuse_conflicts(&managers, &diff.changed, &took_over)?;
    }
    managers.lose(&diff.changed);
    managers.lose(&diff.removed);
    own.time = match last {
        Some(last) if last.fields == own.fields && diff.changed.is_empty() && diff.removed.is_empty() => last.time,
        _ => own.time,
    };
    managers.add(own);
    if writer.manager == KUBECTL {
        note_last_applied(&mut merged, config);
    }
    Ok((merged, Ownership::new(managers, entries)))
}

/// `live` with a configuration laid over it, whose fields nobody comes to own: what mutating policies do.
///
/// # Errors
/// The configuration does not fit the type, or would replace a list, map or struct as a whole.
pub fn overlaid(schema: &Schema, resource: &Resource, live: &Value, config: &Value) -> Result<Value, String> {
    let mut config = config.clone();
    config["apiVersion"] = json!(resource.api_version());
    config["kind"] = json!(resource.kind);
    let untyped = |why: String| format!("failed to convert patch object to typed object: {why}");
    let unknown = decode::conform_resource(schema, resource, &mut config).map_err(|error| untyped(error.message))?;
    if let Some(issue) = unknown.first() {
        return Err(untyped(format!(".{}: field not declared in schema", issue.path)));
    }
    let shape = Shape::of(schema, resource);
    walk::asked(shape, &config).map_err(untyped)?;
    let whole = walk::replaced(shape, &config);
    if !whole.is_empty() {
        return Err(format!("invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {}", whole.join(", ")));
    }
    Ok(walk::merge(shape, live.clone(), &config))
}

impl Writer<'_> {
    fn entry(self, operation: Operation, resource: &Resource) -> Manager {
        Manager {
            name: if self.manager.is_empty() { "unknown" } else { self.manager }.to_owned(),
            operation,
            api_version: resource.api_version().into_owned(),
            subresource: self.subresource.to_owned(),
            time: Some(self.now.to_owned()),
            fields: FieldSet::default(),
        }
    }
}

/// The part of a set that a write to the object, or to a subresource of it, can change.
fn confine(resource: &Resource, subresource: &str, mut fields: FieldSet) -> FieldSet {
    if let Some(writable) = strategy::writable(resource, subresource) {
        return fields.only(&writable);
    }
    if resource.has_status() {
        fields.below.remove("f:status");
    }
    fields
}

fn restrict(resource: &Resource, subresource: &str, diff: Diff) -> Diff {
    Diff { changed: confine(resource, subresource, diff.changed), removed: confine(resource, subresource, diff.removed) }
}

fn untyped(resource: &Resource, config: &Value, why: &str) -> ApiError {
    let text = |key: &str| config.get("metadata").and_then(|m| m.get(key)).and_then(Value::as_str).unwrap_or_default();
    let place = if text("namespace").is_empty() { text("name").to_owned() } else { format!("{}/{}", text("namespace"), text("name")) };
    let kind = format!("{}/{}, Kind={}", resource.group, resource.version, resource.kind);
    // Upstream has no reason for it, and so no better code.
    ApiError::new(500, Reason::Unknown, format!("failed to create typed patch object ({place}; {kind}): {why}"))
}

/// What client-side apply sent last, as far as the object still says so.
fn of_client_side_apply(shape: Shape<'_>, resource: &Resource, live: &Value) -> FieldSet {
    let sent = live.get("metadata").and_then(|m| m.get("annotations")?.get(LAST_APPLIED)?.as_str());
    let sent: Value = sent.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    if sent["apiVersion"] != json!(resource.api_version()) {
        return FieldSet::default();
    }
    let mut fields = walk::asked(shape, &sent).unwrap_or_default();
    let diff = walk::compare(shape, &sent, live);
    fields.subtract(&diff.changed);
    fields.subtract(&diff.removed);
    fields
}

/// Keeps client-side apply's note true, where there is one.
fn note_last_applied(object: &mut Value, config: &Value) {
    let Some(note) = object.get_mut("metadata").and_then(|m| m.get_mut("annotations")?.get_mut(LAST_APPLIED)) else { return };
    let mut config = config.clone();
    if let Some(annotations) = config.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(LAST_APPLIED);
    }
    *note = json!(format!("{config}\n"));
}

/// 409 if others own what changes, but for what `took_over` names.
fn refuse_conflicts(managers: &Managers, changed: &FieldSet, took_over: &FieldSet) -> Result<(), ApiError> {
    let mut conflicts: Vec<(String, Vec<String>)> = Vec::new();
    for manager in &managers.0 {
        let mut fields = manager.fields.common(changed);
        fields.subtract(took_over);
        if !fields.is_empty() {
            conflicts.push((manager.spelled(), fields.paths()));
        }
    }
    if conflicts.is_empty() {
        return Ok(());
    }
    conflicts.sort();
    let count: usize = conflicts.iter().map(|(_, paths)| paths.len()).sum();
    let each = || conflicts.iter().flat_map(|(manager, paths)| paths.iter().map(move |path| (manager, path)));
    let message = match each().next() {
        Some((manager, path)) if count == 1 => format!("Apply failed with 1 conflict: conflict with {manager}: {path}"),
        _ => {
            let lines = conflicts.iter().map(|(manager, paths)| format!("conflicts with {manager}:\n- {}", paths.join("\n- ")));
            format!("Apply failed with {count} conflicts: {}", lines.collect::<Vec<_>>().join("\n"))
        }
    };
    let causes = each().map(|(manager, path)| Cause {
        reason: "FieldManagerConflict".to_owned(),
        message: format!("conflict with {manager}"),
        field: path.clone(),
    });
    let mut error = ApiError::from_code(409, Reason::Conflict.as_str(), message);
    error.details = Some(Box::new(Details { causes: causes.collect(), ..Details::default() }));
    Err(error)
}

/// Reads the configuration that is applied to the object `name` of `resource`, YAML or JSON, with a note for each duplicate key.
/// A field that its type does not have is an error, whatever the client thinks of unknown fields.
pub fn read_config(schema: &Schema, resource: &Resource, name: &str, text: &[u8]) -> Result<(Value, Vec<FieldIssue>), ApiError> {
    let (mut config, issues) = read_version(&resource.api_version(), text)?;
    decode::check_type_meta(resource, &mut config)?;
    let metadata = config.as_object_mut().map(|config| config.entry("metadata").or_insert_with(|| json!({})));
    match metadata {
        Some(Value::Object(metadata)) if metadata.get("managedFields").is_none_or(Value::is_null) => {
            metadata.entry("name").or_insert_with(|| json!(name));
        }
        Some(Value::Object(_)) => return Err(ApiError::bad_request("metadata.managedFields must be nil")),
        _ => return Err(ApiError::bad_request("metadata is not an object")),
    }
    let unknown = decode::conform_resource(schema, resource, &mut config)?;
    let why = unknown.iter().map(|issue| format!(".{}: field not declared in schema", issue.path)).collect::<Vec<_>>();
    match why.as_slice() {
        [] => Ok((config, issues)),
        [one] => Err(untyped(resource, &config, one)),
        many => Err(untyped(resource, &config, &format!("errors:\n  {}", many.join("\n  ")))),
    }
}

/// Reads an applied configuration of a version.
pub fn read_version(api_version: &str, text: &[u8]) -> Result<(Value, Vec<FieldIssue>), ApiError> {
    // JSON is YAML; but most clients send JSON, and it is read faster as what it is.
    let (config, issues) = decode::parse(text, Format::Json).or_else(|_| decode::parse(text, Format::Yaml))?;
    let said = config.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    if said != api_version {
        let why = format!("Incorrect version specified in apply patch. Specified patch version: {said}, expected: {api_version}");
        return Err(ApiError::bad_request(why));
    }
    Ok((config, issues))
}
