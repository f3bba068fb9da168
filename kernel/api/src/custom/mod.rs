//! Custom resources: what a CustomResourceDefinition adds to the schema.
//!
//! [`add`] turns a definition into resource rows that nothing above the table tells from built-in ones. A row carries its
//! [`Version`]: the structural schema as the user
//! wrote it, compiled, by which objects are pruned, filled in and validated (`pintle_structural`), and what it says of scale,
//! columns and selectable fields. [`rows`] also gives the schema as rows of the table, which is what server-side apply goes
//! by. [`definition`] validates definitions themselves.

mod columns;
pub mod definition;
mod rows;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use pintle_structural::Structural;
use serde_json::Value;

use crate::decode::{self, FieldIssue, IssueKind, TypeMismatch};
use crate::resource::{READ_WRITE, Resource, Scope, Subresource, Verb, Verbs};
use crate::status::FieldError;
use crate::table::Schema;

pub(crate) use columns::{cells, definitions};

/// Where a custom resource's `scale` is in its objects, as JSON pointers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScalePaths {
    /// Wanted replicas.
    pub spec_replicas: String,
    /// Replicas that there are.
    pub status_replicas: String,
    /// A selector as text; empty when the definition names none.
    pub selector: String,
}

/// One version of a definition, ready for use.
pub struct Version {
    /// The entry of `spec.versions`.
    source: Value,
    /// `spec.conversion` of the definition.
    conversion: Value,
    schema: Structural,
}

impl Version {
    /// Compiles an entry of the `versions` of a definition's `spec`. What does not compile was refused with the definition,
    /// and is left out.
    pub fn new(spec: &Value, entry: &Value) -> Version {
        let schema = Structural::new(&entry["schema"]["openAPIV3Schema"]);
        Version { source: entry.clone(), conversion: spec["conversion"].clone(), schema }
    }

    /// Its name, such as `v1`.
    pub fn name(&self) -> &str {
        self.source["name"].as_str().unwrap_or_default()
    }

    /// `openAPIV3Schema`; null when the definition has none.
    pub fn schema(&self) -> &Value {
        self.schema.root()
    }

    /// Whether objects may lack what the schema gives by default: they are filled in when they are read from storage.
    pub fn has_defaults(&self) -> bool {
        self.schema.has_defaults()
    }

    /// Holds an object's metadata against their type, and removes what the schema does not know, with a note for each.
    pub(crate) fn conform(&self, types: &Schema, object: &mut Value) -> Result<Vec<FieldIssue>, TypeMismatch> {
        let mut issues = Vec::new();
        if let Some(metadata) = object.get_mut("metadata")
            && let Some(view) = types.type_named("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta")
        {
            let found = decode::conform(view, metadata)?;
            issues.extend(found.into_iter().map(|issue| FieldIssue { path: format!("metadata.{}", issue.path), ..issue }));
        }
        issues.extend(self.schema.prune(object).into_iter().map(|path| FieldIssue { path, kind: IssueKind::Unknown }));
        Ok(issues)
    }

    /// Fills the schema's defaults in.
    pub fn default(&self, object: &mut Value) {
        self.schema.default(object);
    }

    /// Makes an object that was converted one of this version: what the schema does not know goes, its defaults come.
    pub fn settle(&self, object: &mut Value) {
        self.schema.prune(object);
        self.schema.default(object);
    }

    /// What the schema says against an object: a new one, or the successor of `old`.
    pub(crate) fn check(&self, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
        self.schema.check(object, old)
    }

    /// Whether its objects become those of another version by their apiVersion alone.
    pub fn converts_by_name(&self) -> bool {
        self.conversion["strategy"] != "Webhook"
    }

    /// How its objects become those of another version: `spec.conversion` of the definition.
    pub fn conversion(&self) -> &Value {
        &self.conversion
    }

    /// Where the scale is, if there is one.
    pub fn scale(&self) -> Option<ScalePaths> {
        let scale = self.source["subresources"].get("scale").filter(|scale| scale.is_object())?;
        let pointer = |key: &str| scale[key].as_str().unwrap_or_default().replace('.', "/");
        Some(ScalePaths {
            spec_replicas: pointer("specReplicasPath"),
            status_replicas: pointer("statusReplicasPath"),
            selector: pointer("labelSelectorPath"),
        })
    }

    /// Fields that field selectors may name, as `spec.color`.
    pub fn selectable_fields(&self) -> impl Iterator<Item = &str> {
        let fields = self.source["selectableFields"].as_array().into_iter().flatten();
        fields.filter_map(|field| field["jsonPath"].as_str()).map(|path| path.trim_start_matches('.'))
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The hash of a document that shows the version is made of this.
        self.source.fmt(f)
    }
}

fn list<'a>(node: &'a Value, key: &str) -> &'a [Value] {
    node[key].as_array().map_or(&[], Vec::as_slice)
}

fn flag(node: &Value, key: &str) -> bool {
    node[key] == Value::Bool(true)
}

fn text<'a>(node: &'a Value, key: &str) -> &'a str {
    node[key].as_str().unwrap_or_default()
}

/// `schema` with the served versions of `definition`, and the rows of all its versions, served or not: one of them is that in
/// which objects are stored. `versions` are those of the definition, `names` the accepted ones (`status.acceptedNames`).
pub fn add(schema: &Schema, definition: &Value, names: &Value, versions: &[Arc<Version>]) -> (Schema, Vec<Resource>) {
    let (mut next, mut rows) = (schema.clone(), Vec::new());
    let storage = versions.iter().find(|version| flag(&version.source, "storage")).map_or("", |version| version.name());
    for version in versions {
        let mut row = row(definition, names, version, storage);
        if flag(&version.source, "served") || version.name() == storage {
            let types = rows::of(&next, &row, version.schema());
            let (with, ids) = next.with_types(types);
            row.type_id = ids.first().copied();
            next = if flag(&version.source, "served") { with.with_resource(row.clone()) } else { with };
        }
        rows.push(row);
    }
    (next, rows)
}

/// Nothing is created any more while the definition is being deleted.
const ENDING: Verbs = Verbs::of(&[Verb::Delete, Verb::DeleteCollection, Verb::Get, Verb::List, Verb::Patch, Verb::Update, Verb::Watch]);

fn row(definition: &Value, names: &Value, version: &Arc<Version>, storage: &str) -> Resource {
    let own = |text: &str| -> Cow<'static, str> { Cow::Owned(text.to_owned()) };
    let texts = |key: &str| list(names, key).iter().filter_map(Value::as_str).map(own).collect();
    let (group, kind) = (text(&definition["spec"], "group"), text(names, "kind"));
    let wanted = version.source["subresources"].as_object();
    let subresource = |name: &str, group: &str, version: &str, kind: &str| {
        let asked = wanted.is_some_and(|wanted| wanted.get(name).is_some_and(Value::is_object));
        asked.then(|| Subresource { name: own(name), group: own(group), version: own(version), kind: own(kind), verbs: READ_WRITE })
    };
    let subresources = [subresource("scale", "autoscaling", "v1", "Scale"), subresource("status", group, version.name(), kind)];
    Resource {
        group: own(group),
        version: own(version.name()),
        kind: own(kind),
        plural: own(text(names, "plural")),
        singular: own(text(names, "singular")),
        list_kind: own(text(names, "listKind")),
        short_names: texts("shortNames"),
        categories: texts("categories"),
        scope: if definition["spec"]["scope"] == "Namespaced" { Scope::Namespaced } else { Scope::Cluster },
        verbs: if definition["metadata"].get("deletionTimestamp").is_some() { ENDING } else { Verbs::ALL },
        subresources: subresources.into_iter().flatten().collect(),
        type_id: None,
        storage_group: own(group),
        storage_version: own(storage),
        custom: Some(Arc::clone(version)),
    }
}
