//! What is served under which path: one row a resource. Kinds, plurals and scopes come from the schema table;
//! `schema/resources.rows` adds what no source carries, as [`Facts`]: short names, verbs, subresources, columns, what may not change, and so on.
//!
//! Not here: how a resource is stored or who may see it.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use crate::custom;
use crate::printer::{Cell, Column, cells, pods};
use crate::table::{KINDS, KindRow, Schema, TypeId};
use crate::validate::{Succession, devices, immutable, metadata, names};

/// Whether objects live in a namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// One name space for the whole cluster.
    Cluster,
    /// A name space in each namespace.
    Namespaced,
    /// Not a resource: only posted to another resource's subresource.
    Subresource,
}

/// What can be done to a resource, in discovery's words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Verb {
    Create,
    Delete,
    DeleteCollection,
    Get,
    List,
    Patch,
    Update,
    Watch,
}

/// A set of verbs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verbs(u8);

/// A path below an object, such as `status` or `exec`.
#[derive(Clone, Debug)]
pub struct Subresource {
    /// Last part of the path.
    pub name: Cow<'static, str>,
    /// API group of `kind`.
    pub group: Cow<'static, str>,
    /// API version of `kind`.
    pub version: Cow<'static, str>,
    /// Kind of what is read or posted.
    pub kind: Cow<'static, str>,
    /// What can be done.
    pub verbs: Verbs,
}

/// One resource: what `/apis/{group}/{version}/{plural}` serves.
#[derive(Clone, Debug)]
pub struct Resource {
    /// API group; "" is the core group.
    pub group: Cow<'static, str>,
    /// API version.
    pub version: Cow<'static, str>,
    /// Kind of one object.
    pub kind: Cow<'static, str>,
    /// Name in paths.
    pub plural: Cow<'static, str>,
    /// Singular name for people.
    pub singular: Cow<'static, str>,
    /// Kind of a list of objects.
    pub list_kind: Cow<'static, str>,
    /// Abbreviations that clients accept.
    pub short_names: Vec<Cow<'static, str>>,
    /// Groups of resources that clients accept, such as `all`.
    pub categories: Vec<Cow<'static, str>>,
    /// Where objects live.
    pub scope: Scope,
    /// What can be done.
    pub verbs: Verbs,
    /// Paths below an object.
    pub subresources: Vec<Subresource>,
    /// Type of one object; `None` for schemaless custom resources.
    pub type_id: Option<TypeId>,
    /// Group under whose name the objects are stored: equal to `group`, except for a second face of the same objects.
    pub storage_group: Cow<'static, str>,
    /// Version in which the objects are stored.
    pub storage_version: Cow<'static, str>,
    /// What the definition of a custom resource says; `None` for built-in ones.
    pub custom: Option<Arc<custom::Version>>,
}

impl Resource {
    /// What is known of it beyond the type of its objects.
    pub fn facts(&self) -> &'static Facts {
        facts(&self.group, &self.plural)
    }

    /// Whether objects live in a namespace.
    pub fn namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    /// `group/version`, or `version` for the core group: what objects say in `apiVersion`.
    pub fn api_version(&self) -> Cow<'static, str> {
        if self.group.is_empty() { self.version.clone() } else { Cow::Owned(format!("{}/{}", self.group, self.version)) }
    }

    /// `plural.group`, or `plural` for the core group: how messages name the resource.
    pub fn group_resource(&self) -> String {
        if self.group.is_empty() { self.plural.to_string() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// The subresource called `name`.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// Whether status is written through its own path, and ignored elsewhere.
    pub fn has_status(&self) -> bool {
        self.subresource("status").is_some()
    }
}

/// The built-in resources, sorted by group, version and plural.
pub fn resources() -> &'static [Resource] {
    static RESOURCES: LazyLock<Vec<Resource>> =
        LazyLock::new(|| KINDS.iter().filter(|kind| kind.scope != Scope::Subresource).map(from_rows).collect());
    &RESOURCES
}

/// The type of a built-in kind, including kinds that are only posted to subresources (`Scale`, `Eviction`, `TokenRequest`).
pub fn kind_type(group: &str, version: &str, kind: &str) -> Option<TypeId> {
    KINDS.iter().find(|row| row.names()[..3] == [group, version, kind]).map(KindRow::type_id)
}

fn from_rows(kind: &'static KindRow) -> Resource {
    let [group, version, name, plural] = kind.names();
    let extra = facts(group, plural);
    let subresource = |part: &Part| {
        let (group, version, kind) = part.target.unwrap_or((group, version, name));
        Subresource { name: part.name.into(), group: group.into(), version: version.into(), kind: kind.into(), verbs: part.verbs }
    };
    let mut subresources: Vec<Subresource> = extra.parts.iter().map(subresource).collect();
    let has_status = Schema::builtin().get(kind.type_id()).and_then(|t| t.field("status")).is_some_and(|f| f.target.is_some());
    if has_status && extra.verbs.contains(Verb::Update) {
        subresources.push(subresource(&Part { name: "status", verbs: READ_WRITE, ..PART }));
        subresources.sort_by(|a, b| a.name.cmp(&b.name));
    }
    let (storage_group, storage_version) = extra.stored_as.unwrap_or((group, version));
    Resource {
        group: group.into(),
        version: version.into(),
        kind: name.into(),
        plural: plural.into(),
        singular: name.to_ascii_lowercase().into(),
        list_kind: format!("{name}List").into(),
        short_names: extra.short_names.iter().map(|&s| s.into()).collect(),
        categories: extra.categories.iter().map(|&s| s.into()).collect(),
        scope: kind.scope,
        verbs: extra.verbs,
        subresources,
        type_id: Some(kind.type_id()),
        storage_group: storage_group.into(),
        storage_version: storage_version.into(),
        custom: None,
    }
}

const ALL: Verbs = Verbs(0xff);
pub(crate) const READ_WRITE: Verbs = Verbs::of(&[Verb::Get, Verb::Patch, Verb::Update]);

/// What is known of a resource beyond the type of its objects: a row of `schema/resources.rows`.
pub struct Facts {
    short_names: &'static [&'static str],
    categories: &'static [&'static str],
    verbs: Verbs,
    parts: &'static [Part],
    /// Group and version of the face that is stored, when it is another.
    stored_as: Option<(&'static str, &'static str)>,
    pub(crate) columns: &'static [Column],
    /// Format of names.
    pub(crate) named: names::Check,
    /// JSON of a new object's status; empty: none.
    pub(crate) status: &'static str,
    /// JSON pointers of fields that never change.
    pub(crate) fixed: &'static [&'static str],
    /// JSON pointers of fields that never change once they have a value.
    pub(crate) once_set: &'static [&'static str],
    /// What else an update is held to.
    pub(crate) update: Option<Succession>,
    /// What else a write to the status is held to.
    pub(crate) update_status: Option<Succession>,
    is: &'static [Is],
    /// Which fields selectors may name: `label`, `label=path`, `...|absent`, `...|@label`.
    pub selectable: &'static [&'static str],
    /// What its users are told, if it is on its way out.
    pub deprecated: &'static str,
}

/// A fact that holds for some resources.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Is {
    /// The status may come with a new object: a node tells its own.
    StatusOnCreate,
    /// Wanted state is not counted in `metadata.generation`.
    NoGeneration,
    /// An update of an object that is not there creates it.
    CreatedByUpdate,
    /// An update must name the resourceVersion that it replaces.
    NeedsVersion,
    /// A deletion is answered with the object, not a Status.
    ShownWhenDeleted,
}

/// A subresource, as rows tell it.
pub(crate) struct Part {
    name: &'static str,
    /// Group, version and kind of what is read or posted, if it is not the object itself.
    target: Option<(&'static str, &'static str, &'static str)>,
    verbs: Verbs,
    /// JSON pointers of the fields that a write to it may change.
    pub(crate) writes: &'static [&'static str],
    /// What a write to it is held to.
    pub(crate) check: Option<Succession>,
}

const PART: Part = Part { name: "", target: None, verbs: ALL, writes: &[], check: None };

static PLAIN_FACTS: Facts = PLAIN;

const PLAIN: Facts = Facts {
    short_names: &[],
    categories: &[],
    verbs: ALL,
    parts: &[],
    stored_as: None,
    columns: &[Column::NAME, Column::AGE],
    named: names::dns_subdomain,
    status: "",
    fixed: &[],
    once_set: &[],
    update: None,
    update_status: None,
    is: &[],
    selectable: &[],
    deprecated: "",
};

include!(concat!(env!("OUT_DIR"), "/resources.rs"));

/// What is known of a resource, in whatever version.
fn facts(group: &str, plural: &str) -> &'static Facts {
    FACTS.iter().find(|row| row.0 == group && row.1 == plural).map_or(&PLAIN_FACTS, |(_, _, facts)| facts)
}

impl Facts {
    /// Whether the fact holds.
    pub fn is(&self, fact: Is) -> bool {
        self.is.contains(&fact)
    }

    /// What is known of the subresource called `name`.
    pub(crate) fn part(&self, name: &str) -> Option<&Part> {
        self.parts.iter().find(|part| part.name == name)
    }
}

const VERBS: [Verb; 8] =
    [Verb::Create, Verb::Delete, Verb::DeleteCollection, Verb::Get, Verb::List, Verb::Patch, Verb::Update, Verb::Watch];

impl Verb {
    /// Discovery's and RBAC's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Create => "create",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Patch => "patch",
            Verb::Update => "update",
            Verb::Watch => "watch",
        }
    }
}

impl Verbs {
    /// Every verb.
    pub const ALL: Verbs = ALL;

    /// The set of `verbs`.
    pub const fn of(verbs: &[Verb]) -> Verbs {
        let (mut bits, mut i) = (0, 0);
        while i < verbs.len() {
            bits |= 1 << verbs[i] as u8;
            i += 1;
        }
        Verbs(bits)
    }

    /// Whether `verb` is in the set.
    pub const fn contains(self, verb: Verb) -> bool {
        self.0 & (1 << verb as u8) != 0
    }

    /// The verbs in discovery's order, which is the alphabet's.
    pub fn iter(self) -> impl Iterator<Item = Verb> {
        VERBS.into_iter().filter(move |verb| self.contains(*verb))
    }
}
