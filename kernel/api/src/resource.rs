//! What is served under which path: one row a resource. Kinds, plurals and scopes come from the schema table;
//! [`ROWS`] adds what no source carries: short names, categories, verbs and subresources.
//!
//! Not here: how a resource is stored or who may see it.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use crate::custom;
use crate::table::{KINDS, KindRow, Schema, TypeId};

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
        join_group(&self.plural, &self.group)
    }

    /// `Kind.group`, or `Kind` for the core group: how messages name the kind.
    pub fn group_kind(&self) -> String {
        join_group(&self.kind, &self.group)
    }

    /// What the objects are stored under: the same for every face of one set of objects.
    pub fn storage_key(&self) -> String {
        if self.storage_group.is_empty() { self.plural.to_string() } else { format!("{}/{}", self.storage_group, self.plural) }
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
    let extra = ROWS.iter().find(|row| row.group == group && row.plural == plural).unwrap_or(&PLAIN);
    let mut subresources: Vec<Subresource> = extra
        .subresources
        .iter()
        .map(|&(sub, target, verbs)| {
            let (group, version, kind) = target.unwrap_or((group, version, name));
            Subresource { name: sub.into(), group: group.into(), version: version.into(), kind: kind.into(), verbs }
        })
        .collect();
    let has_status = Schema::builtin().get(kind.type_id()).and_then(|t| t.field("status")).is_some_and(|f| f.target.is_some());
    if has_status && extra.verbs.contains(Verb::Update) {
        subresources.push(Subresource {
            name: "status".into(),
            group: group.into(),
            version: version.into(),
            kind: name.into(),
            verbs: READ_WRITE,
        });
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

fn join_group(name: &str, group: &str) -> String {
    if group.is_empty() { name.to_owned() } else { format!("{name}.{group}") }
}

const ALL: Verbs = Verbs(0xff);
const CREATE: Verbs = Verbs::of(&[Verb::Create]);
const GET: Verbs = Verbs::of(&[Verb::Get]);
const READ: Verbs = Verbs::of(&[Verb::Get, Verb::List]);
const UPDATE: Verbs = Verbs::of(&[Verb::Update]);
pub(crate) const READ_WRITE: Verbs = Verbs::of(&[Verb::Get, Verb::Patch, Verb::Update]);
const STREAM: Verbs = Verbs::of(&[Verb::Create, Verb::Get]);
const PROXY: Verbs = Verbs::of(&[Verb::Create, Verb::Delete, Verb::Get, Verb::Patch, Verb::Update]);

type Target = Option<(&'static str, &'static str, &'static str)>;
const SCALE: (&str, Target, Verbs) = ("scale", Some(("autoscaling", "v1", "Scale")), READ_WRITE);

/// What is known about a resource beyond the schema table.
struct Row {
    group: &'static str,
    plural: &'static str,
    short_names: &'static [&'static str],
    categories: &'static [&'static str],
    verbs: Verbs,
    subresources: &'static [(&'static str, Target, Verbs)],
    stored_as: Option<(&'static str, &'static str)>,
}

const PLAIN: Row = Row { group: "", plural: "", short_names: &[], categories: &[], verbs: ALL, subresources: &[], stored_as: None };

const fn row(group: &'static str, plural: &'static str, short_names: &'static [&'static str], categories: &'static [&'static str]) -> Row {
    Row { group, plural, short_names, categories, ..PLAIN }
}

const fn review(group: &'static str, plural: &'static str) -> Row {
    Row { group, plural, verbs: CREATE, ..PLAIN }
}

const EXTENSIONS: &[&str] = &["api-extensions"];

/// Resources without a row here have all verbs, no abbreviation and no subresource but status.
#[rustfmt::skip]
static ROWS: &[Row] = &[
    Row { verbs: CREATE, ..row("", "bindings", &[], &[]) },
    Row { verbs: READ, ..row("", "componentstatuses", &["cs"], &[]) },
    row("", "configmaps", &["cm"], &[]),
    row("", "endpoints", &["ep"], &[]),
    row("", "events", &["ev"], &[]),
    row("", "limitranges", &["limits"], &[]),
    Row { subresources: &[("finalize", None, UPDATE)],
        verbs: Verbs::of(&[Verb::Create, Verb::Delete, Verb::Get, Verb::List, Verb::Patch, Verb::Update, Verb::Watch]),
        ..row("", "namespaces", &["ns"], &[]) },
    Row { subresources: &[("proxy", Some(("", "v1", "NodeProxyOptions")), PROXY)], ..row("", "nodes", &["no"], &[]) },
    row("", "persistentvolumeclaims", &["pvc"], &[]),
    row("", "persistentvolumes", &["pv"], &[]),
    Row { subresources: &[
        ("attach", Some(("", "v1", "PodAttachOptions")), STREAM),
        ("binding", Some(("", "v1", "Binding")), CREATE),
        ("ephemeralcontainers", None, READ_WRITE),
        ("eviction", Some(("policy", "v1", "Eviction")), CREATE),
        ("exec", Some(("", "v1", "PodExecOptions")), STREAM),
        ("log", None, GET),
        ("portforward", Some(("", "v1", "PodPortForwardOptions")), STREAM),
        ("proxy", Some(("", "v1", "PodProxyOptions")), PROXY),
        ("resize", None, READ_WRITE),
    ], ..row("", "pods", &["po"], &["all"]) },
    Row { subresources: &[SCALE], ..row("", "replicationcontrollers", &["rc"], &["all"]) },
    row("", "resourcequotas", &["quota"], &[]),
    Row { subresources: &[("token", Some(("authentication.k8s.io", "v1", "TokenRequest")), CREATE)], ..row("", "serviceaccounts", &["sa"], &[]) },
    Row { subresources: &[("proxy", Some(("", "v1", "ServiceProxyOptions")), PROXY)], ..row("", "services", &["svc"], &["all"]) },
    row("admissionregistration.k8s.io", "mutatingadmissionpolicies", &[], EXTENSIONS),
    row("admissionregistration.k8s.io", "mutatingadmissionpolicybindings", &[], EXTENSIONS),
    row("admissionregistration.k8s.io", "mutatingwebhookconfigurations", &[], EXTENSIONS),
    row("admissionregistration.k8s.io", "validatingadmissionpolicies", &[], EXTENSIONS),
    row("admissionregistration.k8s.io", "validatingadmissionpolicybindings", &[], EXTENSIONS),
    row("admissionregistration.k8s.io", "validatingwebhookconfigurations", &[], EXTENSIONS),
    row("apiextensions.k8s.io", "customresourcedefinitions", &["crd", "crds"], EXTENSIONS),
    row("apiregistration.k8s.io", "apiservices", &[], EXTENSIONS),
    row("apps", "daemonsets", &["ds"], &["all"]),
    Row { subresources: &[SCALE], ..row("apps", "deployments", &["deploy"], &["all"]) },
    Row { subresources: &[SCALE], ..row("apps", "replicasets", &["rs"], &["all"]) },
    Row { subresources: &[SCALE], ..row("apps", "statefulsets", &["sts"], &["all"]) },
    review("authentication.k8s.io", "selfsubjectreviews"),
    review("authentication.k8s.io", "tokenreviews"),
    review("authorization.k8s.io", "localsubjectaccessreviews"),
    review("authorization.k8s.io", "selfsubjectaccessreviews"),
    review("authorization.k8s.io", "selfsubjectrulesreviews"),
    review("authorization.k8s.io", "subjectaccessreviews"),
    Row { stored_as: Some(("autoscaling", "v2")), ..row("autoscaling", "horizontalpodautoscalers", &["hpa"], &["all"]) },
    row("batch", "cronjobs", &["cj"], &["all"]),
    row("batch", "jobs", &[], &["all"]),
    Row { subresources: &[("approval", None, READ_WRITE)], ..row("certificates.k8s.io", "certificatesigningrequests", &["csr"], &[]) },
    row("certificates.k8s.io", "podcertificaterequests", &["pcr"], &[]),
    Row { stored_as: Some(("", "v1")), ..row("events.k8s.io", "events", &["ev"], &[]) },
    row("networking.k8s.io", "ingresses", &["ing"], &[]),
    row("networking.k8s.io", "ipaddresses", &["ip"], &[]),
    row("networking.k8s.io", "networkpolicies", &["netpol"], &[]),
    row("policy", "poddisruptionbudgets", &["pdb"], &[]),
    row("scheduling.k8s.io", "priorityclasses", &["pc"], &[]),
    row("storage.k8s.io", "storageclasses", &["sc"], &[]),
    row("storage.k8s.io", "volumeattributesclasses", &["vac"], &[]),
    row("pintle.dev", "modules", &["mod"], &["pintle"]),
    row("pintle.dev", "modulepolicies", &["modpol"], &["pintle"]),
    row("pintle.dev", "routetables", &["rt"], &["pintle"]),
];

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
