//! The schema table: one row a field, for every kind that the API serves.
//!
//! Built-in rows come from the build (integers and two text blobs, so that starting costs nothing and idle pages stay
//! on disk); rows of custom resources are added at runtime by [`Schema::with_types`]. Both are read through [`TypeView`]
//! and [`Field`], so no code above can tell them apart.
//!
//! Invariant: within one type, fields are sorted by JSON name and names are unique.

use std::sync::Arc;

use crate::resource::{Resource, Scope};

/// Identity of a type within a [`Schema`]. Built-in types come first, and keep their number for the life of the binary.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct TypeId(pub(crate) u32);

/// How a field's value is repeated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Container {
    /// One value.
    Single,
    /// A JSON array of values.
    List,
    /// A JSON object whose values are the element.
    Map,
    /// A JSON object whose values are arrays of the element.
    MapOfList,
}

/// What one value is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Element {
    /// Any JSON.
    Any,
    /// Any JSON object.
    AnyObject,
    /// true or false.
    Bool,
    /// A 32-bit integer.
    Int32,
    /// A 64-bit integer.
    Int64,
    /// A double.
    Float,
    /// Text.
    String,
    /// Bytes, base64 in JSON.
    Bytes,
    /// RFC 3339 with seconds.
    Time,
    /// RFC 3339 with microseconds.
    MicroTime,
    /// Go's duration syntax.
    Duration,
    /// A quantity such as `100m` or `1Gi`; JSON numbers are accepted.
    Quantity,
    /// A 32-bit integer or text.
    IntOrString,
    /// An object with fields of its own.
    Object,
    /// A JSON schema or a boolean.
    SchemaOrBool,
    /// A JSON schema or a list of them.
    SchemaOrArray,
    /// A JSON schema or a list of names.
    SchemaOrStrings,
}

/// Relation of a list's or a map's elements: what server-side apply and list validation go by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Relation {
    /// Nothing said: lists are atomic, maps and structs granular.
    Unset,
    /// Replaced as a whole.
    Atomic,
    /// A list of distinct scalars.
    Set,
    /// A list of objects told apart by [`Field::list_keys`].
    Map,
    /// A map or struct merged key by key.
    Granular,
}

/// One row of the table, as text is read back from it.
#[derive(Clone, Copy, Debug)]
pub struct Field<'a> {
    /// The JSON name.
    pub name: &'a str,
    /// Documentation; empty when upstream has none.
    pub doc: &'a str,
    /// How the value is repeated.
    pub container: Container,
    /// What one value is.
    pub element: Element,
    /// The type of one value, for elements that are objects.
    pub target: Option<TypeId>,
    /// Whether OpenAPI names the field as required.
    pub required: bool,
    /// Whether upstream's struct holds the value itself, not a pointer to it: for field ownership it is there even when empty.
    pub inline: bool,
    /// Whether a zero value in protobuf says that nothing was said.
    pub zero_is_absent: bool,
    /// Relation of the elements.
    pub relation: Relation,
    /// Comma-separated keys of a [`Relation::Map`] list, as the table stores them.
    keys: &'a str,
    /// The strategic merge key; empty when there is none.
    pub merge_key: &'a str,
    /// The strategic merge strategies: some of `merge`, `replace`, `retainKeys`, comma-separated.
    pub strategy: &'a str,
    /// The declared default as JSON text; empty when there is none.
    pub default: &'a str,
    /// Protobuf tag; 0 when unknown.
    pub tag: u16,
    /// Tags of the embedded messages that hold the field in protobuf, outermost first; 0 ends.
    pub outer: [u8; 2],
}

/// One type of a [`Schema`].
#[derive(Clone, Copy)]
pub struct TypeView<'a> {
    schema: &'a Schema,
    /// The type's identity.
    pub id: TypeId,
}

/// A type that was added at runtime.
#[derive(Clone, Debug, Default)]
pub struct DynamicType {
    /// OpenAPI definition name.
    pub name: String,
    /// Documentation.
    pub doc: String,
    /// Rows; [`Schema::with_types`] sorts them.
    pub fields: Vec<DynamicField>,
}

/// A row that was added at runtime. The fields mean what they mean in [`Field`].
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "each is told in Field")]
pub struct DynamicField {
    pub name: String,
    pub doc: String,
    pub container: Container,
    pub element: Element,
    pub target: Option<TypeId>,
    pub required: bool,
    pub relation: Relation,
    /// Comma-separated.
    pub list_keys: String,
    pub merge_key: String,
    pub strategy: String,
    pub default: String,
}

/// Every type and every resource that is served at one moment: the built-in rows and those of custom resources.
/// A change makes a new value; readers keep the one they have.
#[derive(Clone, Default)]
pub struct Schema {
    types: Vec<Arc<DynamicType>>,
    resources: Vec<Arc<Resource>>,
}

/// Offset and length in one of the two blobs.
#[derive(Clone, Copy)]
pub(crate) struct Text(u32, u32);

pub(crate) struct TypeRow {
    name: Text,
    doc: Text,
    start: u32,
    len: u32,
    atomic: bool,
}

pub(crate) struct FieldRow {
    name: Text,
    doc: Text,
    container: Container,
    element: Element,
    target: u16,
    required: bool,
    inline: bool,
    zero_is_absent: bool,
    relation: Text,
    keys: Text,
    merge_key: Text,
    strategy: Text,
    default: Text,
    tag: u16,
    outer: [u8; 2],
}

pub(crate) struct KindRow {
    group: Text,
    version: Text,
    kind: Text,
    plural: Text,
    pub(crate) scope: Scope,
    type_index: u32,
}

include!(concat!(env!("OUT_DIR"), "/table.rs"));
static STRINGS: &str = include_str!(concat!(env!("OUT_DIR"), "/strings.txt"));
static DOCS: &str = include_str!(concat!(env!("OUT_DIR"), "/docs.txt"));
static BUILTIN: Schema = Schema { types: Vec::new(), resources: Vec::new() };

impl Schema {
    /// The schema without custom resources.
    pub fn builtin() -> &'static Schema {
        &BUILTIN
    }

    /// This schema with more types. Returns their identities, in the order given: the first is [`Schema::next_type`],
    /// the others follow it by one each, so that targets may point at types of the same call.
    pub fn with_types(&self, types: Vec<DynamicType>) -> (Schema, Vec<TypeId>) {
        let mut next = self.clone();
        let first = self.next_type().0;
        let ids = (0..types.len() as u32).map(|i| TypeId(first + i)).collect();
        for mut added in types {
            added.fields.sort_by(|a, b| a.name.cmp(&b.name));
            added.fields.dedup_by(|a, b| a.name == b.name);
            next.types.push(Arc::new(added));
        }
        (next, ids)
    }

    /// The identity that the first type of the next [`Schema::with_types`] gets.
    pub fn next_type(&self) -> TypeId {
        TypeId((TYPES.len() + self.types.len()) as u32)
    }

    /// This schema with one more resource row.
    pub fn with_resource(&self, resource: Resource) -> Schema {
        let mut next = self.clone();
        next.resources.push(Arc::new(resource));
        next
    }

    /// Every resource: built-in rows first, then those added at runtime.
    pub fn resources(&self) -> impl Iterator<Item = &Resource> {
        crate::resource::resources().iter().chain(self.resources.iter().map(Arc::as_ref))
    }

    /// The resource that serves `group`, `version`, `plural`; the core group is "".
    pub fn resource(&self, group: &str, version: &str, plural: &str) -> Option<&Resource> {
        self.resources().find(|r| r.plural == plural && r.group == group && r.version == version)
    }

    /// The resource whose objects say `kind` and `group`/`version`.
    pub fn resource_for_kind(&self, group: &str, version: &str, kind: &str) -> Option<&Resource> {
        self.resources().find(|r| r.kind == kind && r.group == group && r.version == version)
    }

    /// The identity `offset` places after `first`.
    pub fn type_after(first: TypeId, offset: usize) -> TypeId {
        TypeId(first.0 + offset as u32)
    }

    /// The type with this identity. Identities of another schema may not exist here.
    pub fn get(&self, id: TypeId) -> Option<TypeView<'_>> {
        ((id.0 as usize) < TYPES.len() + self.types.len()).then_some(TypeView { schema: self, id })
    }

    /// The type with this OpenAPI definition name.
    pub fn type_named(&self, name: &str) -> Option<TypeView<'_>> {
        if let Ok(index) = TYPES.binary_search_by(|row| row.name.string().cmp(name)) {
            return self.get(TypeId(index as u32));
        }
        let index = self.types.iter().position(|t| t.name == name)?;
        self.get(TypeId((TYPES.len() + index) as u32))
    }

    /// Every type.
    pub fn types(&self) -> impl Iterator<Item = TypeView<'_>> {
        (0..self.next_type().0).filter_map(|id| self.get(TypeId(id)))
    }
}

impl<'a> TypeView<'a> {
    /// OpenAPI definition name, such as `io.k8s.api.core.v1.Pod`.
    pub fn name(self) -> &'a str {
        match self.rows() {
            Rows::Builtin(row) => row.name.string(),
            Rows::Dynamic(def) => &def.name,
        }
    }

    /// The last part of the name: what Go calls the struct.
    pub fn short_name(self) -> &'a str {
        self.name().rsplit('.').next().unwrap_or_default()
    }

    /// Documentation.
    pub fn doc(self) -> &'a str {
        match self.rows() {
            Rows::Builtin(row) => row.doc.doc(),
            Rows::Dynamic(def) => &def.doc,
        }
    }

    /// Whether values of the type are replaced as a whole rather than merged field by field.
    pub fn is_atomic(self) -> bool {
        matches!(self.rows(), Rows::Builtin(TypeRow { atomic: true, .. }))
    }

    /// The row of `name`.
    pub fn field(self, name: &str) -> Option<Field<'a>> {
        match self.rows() {
            Rows::Builtin(row) => {
                let rows = row.fields();
                let index = rows.binary_search_by(|f| f.name.string().cmp(name)).ok()?;
                Some(rows[index].view())
            }
            Rows::Dynamic(def) => {
                let index = def.fields.binary_search_by(|f| f.name.as_str().cmp(name)).ok()?;
                Some(def.fields[index].view())
            }
        }
    }

    /// The built-in row with a protobuf tag inside the embedded messages `outer`.
    pub(crate) fn field_tagged(self, outer: [u8; 2], tag: u32) -> Option<Field<'static>> {
        let Rows::Builtin(row) = self.rows() else { return None };
        row.fields().iter().find(|f| u32::from(f.tag) == tag && f.tag != 0 && f.outer == outer).map(FieldRow::view)
    }

    /// Whether `tag` inside `outer` is an embedded message: one that JSON flattens.
    pub(crate) fn embeds(self, outer: [u8; 2], tag: u32) -> Option<[u8; 2]> {
        let Rows::Builtin(row) = self.rows() else { return None };
        let tag = u8::try_from(tag).ok().filter(|tag| *tag != 0)?;
        let inner = match outer {
            [0, 0] => [tag, 0],
            [first, 0] => [first, tag],
            _ => return None,
        };
        let depth = if inner[1] == 0 { 1 } else { 2 };
        row.fields().iter().any(|f| f.outer[..depth] == inner[..depth]).then_some(inner)
    }

    /// Every row, sorted by name.
    pub fn fields(self) -> Box<dyn Iterator<Item = Field<'a>> + 'a> {
        match self.rows() {
            Rows::Builtin(row) => Box::new(row.fields().iter().map(|row| -> Field<'a> { row.view() })),
            Rows::Dynamic(def) => Box::new(def.fields.iter().map(DynamicField::view)),
        }
    }

    /// The type that `field`'s values have.
    pub fn target(self, field: &Field<'_>) -> Option<TypeView<'a>> {
        self.schema.get(field.target?)
    }

    /// The schema that the type is read from.
    pub fn schema(self) -> &'a Schema {
        self.schema
    }

    fn rows(self) -> Rows<'a> {
        let index = self.id.0 as usize;
        match TYPES.get(index) {
            Some(row) => Rows::Builtin(row),
            None => Rows::Dynamic(&self.schema.types[index - TYPES.len()]),
        }
    }
}

enum Rows<'a> {
    Builtin(&'static TypeRow),
    Dynamic(&'a DynamicType),
}

impl<'a> Field<'a> {
    /// The keys that tell a [`Relation::Map`] list's elements apart.
    pub fn list_keys(&self) -> impl Iterator<Item = &'a str> {
        self.keys.split(',').filter(|key| !key.is_empty())
    }

    /// Whether a strategic merge merges this list element by element.
    pub fn merges(&self) -> bool {
        self.strategy.split(',').any(|s| s == "merge")
    }
}

impl TypeRow {
    fn fields(&self) -> &'static [FieldRow] {
        &FIELDS[self.start as usize..(self.start + self.len) as usize]
    }
}

impl FieldRow {
    fn view(&self) -> Field<'static> {
        Field {
            name: self.name.string(),
            doc: self.doc.doc(),
            container: self.container,
            element: self.element,
            target: (self.target != u16::MAX).then_some(TypeId(u32::from(self.target))),
            required: self.required,
            inline: self.inline,
            zero_is_absent: self.zero_is_absent,
            relation: Relation::parse(self.relation.string()),
            keys: self.keys.string(),
            merge_key: self.merge_key.string(),
            strategy: self.strategy.string(),
            default: self.default.string(),
            tag: self.tag,
            outer: self.outer,
        }
    }
}

impl DynamicField {
    fn view(&self) -> Field<'_> {
        Field {
            name: &self.name,
            doc: &self.doc,
            container: self.container,
            element: self.element,
            target: self.target,
            required: self.required,
            inline: false,
            zero_is_absent: false,
            relation: self.relation,
            keys: &self.list_keys,
            merge_key: &self.merge_key,
            strategy: &self.strategy,
            default: &self.default,
            tag: 0,
            outer: [0, 0],
        }
    }
}

impl KindRow {
    pub(crate) fn names(&self) -> [&'static str; 4] {
        [self.group.string(), self.version.string(), self.kind.string(), self.plural.string()]
    }

    pub(crate) fn type_id(&self) -> TypeId {
        TypeId(self.type_index)
    }
}

impl Relation {
    pub(crate) fn parse(text: &str) -> Relation {
        match text {
            "atomic" => Relation::Atomic,
            "set" => Relation::Set,
            "map" => Relation::Map,
            "granular" => Relation::Granular,
            _ => Relation::Unset,
        }
    }
}

impl Text {
    fn string(self) -> &'static str {
        &STRINGS[self.0 as usize..(self.0 + self.1) as usize]
    }

    fn doc(self) -> &'static str {
        &DOCS[self.0 as usize..(self.0 + self.1) as usize]
    }
}

impl TypeId {
    /// The place in tables that have a row a type.
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }

    /// Whether the type was made at compile time, so that its rows carry merge keys and protobuf tags.
    pub fn is_builtin(self) -> bool {
        (self.0 as usize) < TYPES.len()
    }
}
