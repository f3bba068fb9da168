//! What the sources say, before it is laid out as rows. Types are keyed by their OpenAPI definition name.

use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
pub struct Model {
    pub types: BTreeMap<String, TypeDef>,
    pub kinds: Vec<KindDef>,
}

#[derive(Default, Clone)]
pub struct TypeDef {
    pub doc: String,
    /// Whether the struct is replaced as a whole.
    pub atomic: bool,
    pub fields: Vec<FieldDef>,
}

#[derive(Clone)]
pub struct KindDef {
    pub group: String,
    pub version: String,
    pub kind: String,
    pub plural: String,
    pub scope: Scope,
    pub type_name: String,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Scope {
    Cluster,
    Namespaced,
    Subresource,
}

#[derive(Default, Clone)]
pub struct FieldDef {
    pub json: String,
    pub doc: String,
    pub shape: Shape,
    pub required: bool,
    /// Whether upstream's struct holds the value itself, not a pointer to it: it is there even where nobody set it.
    pub inline: bool,
    /// Whether a zero value in protobuf says that nothing was said.
    pub zero_is_absent: bool,
    /// "", "atomic", "set" or "map": of the list, or "atomic" or "granular" of the map or struct.
    pub element: String,
    pub list_keys: Vec<String>,
    pub merge_key: String,
    /// "", "merge", "replace", "retainKeys" or "merge,retainKeys".
    pub strategy: String,
    /// JSON text.
    pub default: String,
    /// Protobuf tag, 0 when unknown.
    pub tag: u16,
    /// Tags of the embedded messages that the field sits in, outermost first; 0 ends.
    pub outer: [u8; 2],
}

#[derive(Default, Clone)]
pub struct Shape {
    pub container: Container,
    pub element: Element,
    /// Definition name, for `Element::Object` and the JSON schema unions.
    pub target: String,
}

#[derive(Default, Clone, Copy, PartialEq)]
pub enum Container {
    #[default]
    Single,
    List,
    Map,
    MapOfList,
}

#[derive(Default, Clone, Copy, PartialEq, Debug)]
pub enum Element {
    #[default]
    Any,
    AnyObject,
    Bool,
    Int32,
    Int64,
    Float,
    String,
    Bytes,
    Time,
    MicroTime,
    Duration,
    Quantity,
    IntOrString,
    Object,
    SchemaOrBool,
    SchemaOrArray,
    SchemaOrStrings,
}

impl Model {
    /// The definition name of a type that is written without the leading `io.k8s.`, after `prefix` or whole.
    pub fn full_name(&self, prefix: &str, name: &str, at: &str) -> String {
        let candidates = [format!("io.k8s.{prefix}{name}"), format!("{prefix}{name}"), format!("io.k8s.{name}")];
        candidates.into_iter().find(|full| self.types.contains_key(full)).unwrap_or_else(|| panic!("{at}: no type {name}"))
    }

    /// Stops the build unless one of the types has the field.
    pub fn assert_field(&self, types: &[String], field: &str, at: &str) {
        let has = |name: &String| self.types.get(name).is_some_and(|def| def.fields.iter().any(|known| known.json == field));
        assert!(types.iter().any(has), "{at}: {types:?}: no field {field}");
    }

    /// Drops types that no kind (nor a root of the API machinery) leads to.
    pub fn keep_reachable(&mut self) {
        const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
        const ROOTS: &[&str] = &[
            "Status",
            "DeleteOptions",
            "ListMeta",
            "ObjectMeta",
            "APIGroup",
            "APIGroupList",
            "APIResourceList",
            "APIVersions",
            "LabelSelector",
        ];
        let mut queue: Vec<String> = self.kinds.iter().map(|kind| kind.type_name.clone()).collect();
        queue.extend(ROOTS.iter().map(|name| format!("{META}{name}")));
        let mut seen = BTreeSet::new();
        while let Some(name) = queue.pop() {
            if name.is_empty() || !seen.insert(name.clone()) {
                continue;
            }
            let def = self.types.get(&name).unwrap_or_else(|| panic!("no type {name}"));
            queue.extend(def.fields.iter().map(|field| field.shape.target.clone()));
        }
        self.types.retain(|name, _| seen.contains(name));
    }
}
