//! Objects as modules read and write them: a name, the metadata that every object has, and JSON that a module need not understand.
//!
//! A module that only reads three fields declares a struct of three fields; what it does not name is not parsed into memory. What it writes
//! back whole it keeps as [`Untyped`], so that fields it has never heard of survive.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::{Error, Result, Time};

/// Names one object. Empty `namespace`: a cluster-scoped kind. Empty `uid`: whichever bears the name; else a precondition.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectRef {
    /// The API group; empty for the core group.
    pub group: String,
    /// The lower-case plural, e.g. `replicasets`.
    pub resource: String,
    /// The namespace, if the kind has one.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// The identity, if it matters.
    pub uid: String,
}

impl ObjectRef {
    /// A reference by name alone.
    pub fn named(group: &str, resource: &str, namespace: &str, name: &str) -> Self {
        ObjectRef { group: group.into(), resource: resource.into(), namespace: namespace.into(), name: name.into(), uid: String::new() }
    }

    /// The reference narrowed to the object with these metadata.
    pub fn of(group: &str, resource: &str, metadata: &Metadata) -> Self {
        ObjectRef { uid: metadata.uid.clone(), ..ObjectRef::named(group, resource, &metadata.namespace, &metadata.name) }
    }

    /// The same with the uid as a precondition.
    #[must_use]
    pub fn with_uid(mut self, uid: &str) -> Self {
        self.uid = uid.into();
        self
    }
}

/// A value that can be written to the kernel.
pub trait Object {
    /// Which object it is.
    fn target(&self) -> ObjectRef;
    /// The whole of it, with `apiVersion` and `kind`.
    fn to_json(&self) -> Result<Value>;
}

#[cfg(feature = "k8s")]
impl<T> Object for T
where
    T: k8s_openapi::Resource + k8s_openapi::Metadata<Ty = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta> + Serialize,
{
    fn target(&self) -> ObjectRef {
        let meta = self.metadata();
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        ObjectRef {
            group: T::GROUP.into(),
            resource: T::URL_PATH_SEGMENT.into(),
            namespace: text(&meta.namespace),
            name: text(&meta.name),
            uid: text(&meta.uid),
        }
    }

    fn to_json(&self) -> Result<Value> {
        serde_json::to_value(self).map_err(Error::Encode)
    }
}

/// An object whose shape the module does not need to know.
#[derive(Clone, Debug, PartialEq)]
pub struct Untyped {
    target: ObjectRef,
    value: Value,
}

impl Untyped {
    /// An object from JSON with `apiVersion`, `kind` and `metadata`. Its resource is the usual plural of its kind (see [`plural`]).
    pub fn new(value: Value) -> Result<Self> {
        let resource = plural(value["kind"].as_str().ok_or_else(|| missing("kind"))?);
        Self::of_resource(&resource, value)
    }

    /// The same for a kind whose plural is not the usual one.
    pub fn of_resource(resource: &str, value: Value) -> Result<Self> {
        let api_version = value["apiVersion"].as_str().ok_or_else(|| missing("apiVersion"))?;
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let text = |field: &str| value["metadata"][field].as_str().unwrap_or_default();
        let target = ObjectRef::named(group, resource, text("namespace"), text("name")).with_uid(text("uid"));
        Ok(Untyped { target, value })
    }

    /// The JSON.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// The JSON, to be changed. The target stays.
    pub fn value_mut(&mut self) -> &mut Value {
        &mut self.value
    }
}

impl Object for Untyped {
    fn target(&self) -> ObjectRef {
        self.target.clone()
    }

    fn to_json(&self) -> Result<Value> {
        Ok(self.value.clone())
    }
}

fn missing(field: &'static str) -> Error {
    Error::Missing { what: "the object".into(), field }
}

/// The resource name of a kind by the usual rule: lower case, English plural. Right for every built-in kind and for what code generators
/// make; a CRD may choose otherwise.
pub fn plural(kind: &str) -> String {
    let lower = kind.to_ascii_lowercase();
    let consonant_y = lower.ends_with('y') && !["ay", "ey", "oy", "uy"].iter().any(|end| lower.ends_with(end));
    if lower == "endpoints" {
        lower
    } else if consonant_y {
        format!("{}ies", &lower[..lower.len() - 1])
    } else if ["s", "x", "ch", "sh"].iter().any(|end| lower.ends_with(end)) {
        format!("{lower}es")
    } else {
        format!("{lower}s")
    }
}

/// An object of any kind, of which only the metadata are read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Partial {
    /// `group/version`, or `version` for the core group.
    pub api_version: String,
    /// The kind.
    pub kind: String,
    /// The plural that the kernel names it by; empty when it did not say.
    #[serde(skip)]
    pub resource: String,
    /// What every object has.
    pub metadata: Metadata,
}

impl Partial {
    /// Reads one from JSON.
    pub fn read(row: &[u8]) -> Result<Self> {
        serde_json::from_slice(row).map_err(|source| Error::Shape { what: "an object".into(), source })
    }

    /// The API group.
    pub fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }

    /// Which object it is: by the plural that the kernel says, or by the usual one of its kind.
    pub fn target(&self) -> ObjectRef {
        let usual;
        let resource = if self.resource.is_empty() {
            usual = plural(&self.kind);
            &usual
        } else {
            &self.resource
        };
        ObjectRef::of(self.group(), resource, &self.metadata)
    }
}

/// The metadata of an object, as far as modules use them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    /// Unique in its namespace and kind.
    pub name: String,
    /// What the name was made from, if it was made.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub generate_name: String,
    /// Empty for cluster-scoped kinds.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Unique for ever.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Changes with each write.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    /// Changes with each change of the spec.
    #[serde(skip_serializing_if = "is_zero")]
    pub generation: i64,
    /// When it was created.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<Time>,
    /// When it is to be gone; set once deletion has been asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deletion_timestamp: Option<Time>,
    /// Labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// What it belongs to.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub owner_references: Vec<OwnerReference>,
    /// What must happen before it can go.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub finalizers: Vec<String>,
}

impl Metadata {
    /// The owner that manages this object, if one does.
    pub fn controller(&self) -> Option<&OwnerReference> {
        self.owner_references.iter().find(|owner| owner.controller)
    }

    /// Whether the object with this uid manages this one.
    pub fn is_controlled_by(&self, uid: &str) -> bool {
        self.controller().is_some_and(|owner| owner.uid == uid)
    }

    /// Whether deletion has been asked for.
    pub fn is_terminating(&self) -> bool {
        self.deletion_timestamp.is_some()
    }

    /// A reference for the objects that this one manages.
    pub fn as_controller(&self, api_version: &str, kind: &str) -> OwnerReference {
        OwnerReference {
            api_version: api_version.into(),
            kind: kind.into(),
            name: self.name.clone(),
            uid: self.uid.clone(),
            controller: true,
            block_owner_deletion: true,
        }
    }
}

/// Says what an object belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OwnerReference {
    /// Of the owner.
    pub api_version: String,
    /// Of the owner.
    pub kind: String,
    /// Of the owner, in the same namespace or cluster-scoped.
    pub name: String,
    /// Of the owner.
    pub uid: String,
    /// Whether the owner manages the object. At most one does.
    #[serde(deserialize_with = "null_is_empty")]
    pub controller: bool,
    /// Whether a foreground deletion of the owner waits for the object.
    #[serde(deserialize_with = "null_is_empty")]
    pub block_owner_deletion: bool,
}

impl OwnerReference {
    /// The API group of the owner.
    pub fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }
}

/// One entry of `status.conditions`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// What it is about.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: Cow<'static, str>,
    /// When `status` or the reason last changed, where the kind keeps that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_update_time: Option<Time>,
    /// When it was last heard of, where the kind keeps that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_heartbeat_time: Option<Time>,
    /// When `status` last changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<Time>,
    /// For programs.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub reason: Cow<'static, str>,
    /// For people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// Reads an explicit `null` as the empty value: clients in Go write `null` for what they leave empty.
pub(crate) fn null_is_empty<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn plurals_are_the_usual_ones() {
        for (kind, expected) in [
            ("Pod", "pods"),
            ("Ingress", "ingresses"),
            ("NetworkPolicy", "networkpolicies"),
            ("Endpoints", "endpoints"),
            ("Gateway", "gateways"),
            ("EndpointSlice", "endpointslices"),
            ("StorageClass", "storageclasses"),
        ] {
            assert_eq!(plural(kind), expected);
        }
    }

    #[test]
    fn a_row_is_named_by_what_the_kernel_says_or_else_by_the_usual_plural() -> Result<()> {
        let person = json!({"apiVersion": "x.y/v1", "kind": "Person", "metadata": {"name": "a"}});
        let mut row: Partial = serde_json::from_value(person).map_err(Error::Config)?;
        assert_eq!(row.target(), ObjectRef::named("x.y", "persons", "", "a"));
        row.resource = "people".into();
        assert_eq!(row.target(), ObjectRef::named("x.y", "people", "", "a"));
        Ok(())
    }

    #[test]
    fn an_untyped_object_knows_its_target() -> Result<()> {
        let object = Untyped::new(json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "a", "namespace": "b"}}))?;
        assert_eq!(object.target(), ObjectRef::named("apps", "replicasets", "b", "a"));
        assert!(Untyped::new(json!({"kind": "Pod"})).is_err());
        Ok(())
    }

    #[test]
    fn null_collections_read_as_empty() {
        let meta: Metadata = serde_json::from_str(r#"{"name":"x","labels":null,"ownerReferences":null}"#).unwrap_or_default();
        assert_eq!((meta.name.as_str(), meta.labels.len()), ("x", 0));
    }
}
