//! Reads a few facts out of an object's JSON in one pass, without building the rest: what the cache keeps parsed
//! ([`Meta`]), and projections for modules and machines ([`project`]).

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::object::{Meta, Owner};
use crate::target::ResourceInfo;

/// Parse the facts of an object.
pub(crate) fn meta(resource: &ResourceInfo, json: &[u8]) -> Result<Meta, serde_json::Error> {
    let mut found = Found { metadata: None, fields: resource.selectable.iter().map(|field| field.absent.clone()).collect() };
    let paths: Vec<(usize, &[String])> = resource.selectable.iter().enumerate().map(|(at, field)| (at, field.path.as_slice())).collect();
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    Seed { paths: &paths, depth: 0, found: &mut found }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    for (at, field) in resource.selectable.iter().enumerate() {
        if let Some(label) = field.absent.strip_prefix('@')
            && (found.fields[at].is_empty() || found.fields[at] == field.absent)
            && let Some(other) = resource.selectable.iter().position(|field| field.label == label)
        {
            found.fields[at] = found.fields[other].clone();
        }
    }
    let metadata = found.metadata.unwrap_or_default();
    Ok(metadata.into_meta(found.fields.into()))
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct MetadataText<'a> {
    #[serde(borrow)]
    namespace: Cow<'a, str>,
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    uid: Cow<'a, str>,
    labels: Option<std::collections::BTreeMap<Box<str>, Option<Box<str>>>>,
    owner_references: Option<Vec<OwnerText<'a>>>,
    finalizers: Option<Vec<Box<str>>>,
    generation: Option<i64>,
    creation_timestamp: Option<Box<str>>,
    deletion_timestamp: Option<Box<str>>,
    deletion_grace_period_seconds: Option<i64>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct OwnerText<'a> {
    #[serde(borrow)]
    uid: Cow<'a, str>,
    #[serde(borrow)]
    api_version: Cow<'a, str>,
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    name: Cow<'a, str>,
    controller: Option<bool>,
    block_owner_deletion: Option<bool>,
}

impl MetadataText<'_> {
    fn into_meta(self, fields: Box<[Box<str>]>) -> Meta {
        Meta {
            namespace: self.namespace.into(),
            name: self.name.into(),
            uid: self.uid.into(),
            labels: self.labels.unwrap_or_default().into_iter().map(|(key, value)| (key, value.unwrap_or_default())).collect(),
            owners: self.owner_references.unwrap_or_default().into_iter().map(OwnerText::into_owner).collect(),
            finalizers: self.finalizers.unwrap_or_default().into(),
            generation: self.generation.unwrap_or_default(),
            creation_timestamp: self.creation_timestamp.unwrap_or_default(),
            deletion_timestamp: self.deletion_timestamp,
            deletion_grace_period_seconds: self.deletion_grace_period_seconds,
            fields,
        }
    }
}

impl OwnerText<'_> {
    fn into_owner(self) -> Owner {
        Owner {
            uid: self.uid.into(),
            api_version: self.api_version.into(),
            kind: self.kind.into(),
            name: self.name.into(),
            controller: self.controller.unwrap_or_default(),
            block_owner_deletion: self.block_owner_deletion.unwrap_or_default(),
        }
    }
}

/// Text that is borrowed from the input when it has no escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

struct Found<'a> {
    metadata: Option<MetadataText<'a>>,
    fields: Vec<Box<str>>,
}

/// Walks along `paths` (each with its slot), `depth` members down, and gathers their scalars as text.
struct Seed<'p, 'f, 'a> {
    paths: &'p [(usize, &'p [String])],
    depth: usize,
    found: &'f mut Found<'a>,
}

impl<'a> DeserializeSeed<'a> for Seed<'_, '_, 'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Seed<'_, '_, '_> {
    fn scalar(self, text: &str) {
        for (slot, path) in self.paths {
            if path.len() == self.depth {
                self.found.fields[*slot] = text.into();
            }
        }
    }
}

impl<'a> Visitor<'a> for Seed<'_, '_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Text(key)) = map.next_key()? {
            if self.depth == 0 && key == "metadata" {
                self.found.metadata = Some(map.next_value()?);
                continue;
            }
            let below: Vec<(usize, &[String])> =
                self.paths.iter().filter(|(_, path)| path.get(self.depth).is_some_and(|name| *name == key)).copied().collect();
            if below.is_empty() {
                map.next_value::<IgnoredAny>()?;
            } else {
                map.next_value_seed(Seed { paths: &below, depth: self.depth + 1, found: &mut *self.found })?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut seq: A) -> Result<(), A::Error> {
        for at in 0_usize.. {
            let named = |path: &&[String]| path.get(self.depth).is_some_and(|name| *name == at.to_string());
            let below: Vec<(usize, &[String])> = self.paths.iter().filter(|(_, path)| named(path)).copied().collect();
            let more = match below.is_empty() {
                true => seq.next_element::<IgnoredAny>()?.is_some(),
                false => seq.next_element_seed(Seed { paths: &below, depth: self.depth + 1, found: &mut *self.found })?.is_some(),
            };
            if !more {
                break;
            }
        }
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.scalar(text);
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.scalar(if value { "true" } else { "false" });
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.scalar(&value.to_string());
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.scalar(&value.to_string());
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.scalar(&value.to_string());
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

/// What modules and machines see of an object: only the members that the JSON pointers name, each at its place, as they
/// are written. A pointer that ends inside an array takes the whole array. No pointers: the whole object, shared.
///
/// # Errors
/// If `json` is not a JSON object.
pub fn project(json: &Bytes, pointers: &[impl AsRef<str>]) -> Result<Bytes, serde_json::Error> {
    if pointers.is_empty() {
        return Ok(json.clone());
    }
    let paths: Vec<Vec<String>> = pointers
        .iter()
        .map(|pointer| pointer.as_ref().split('/').skip(1).map(|part| part.replace("~1", "/").replace("~0", "~")).collect())
        .collect();
    if paths.iter().any(Vec::is_empty) {
        return Ok(json.clone());
    }
    let borrowed: Vec<&[String]> = paths.iter().map(Vec::as_slice).collect();
    let mut out = Vec::with_capacity(256);
    write_projection(json, &borrowed, &mut out)?;
    Ok(out.into())
}

/// Writes the members that `paths` lead to. `json` must be an object.
fn write_projection(json: &[u8], paths: &[&[String]], out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    let members: Members<'_> = serde_json::from_slice(json)?;
    out.push(b'{');
    let mut first = true;
    for (key, value) in members.0 {
        let below: Vec<&[String]> =
            paths.iter().filter(|path| path.first().is_some_and(|name| *name == key)).map(|path| &path[1..]).collect();
        if below.is_empty() {
            continue;
        }
        if !first {
            out.push(b',');
        }
        first = false;
        serde_json::to_writer(&mut *out, &key)?;
        out.push(b':');
        if below.iter().any(|path| path.is_empty()) || !value.get().starts_with('{') {
            out.extend_from_slice(value.get().as_bytes());
        } else {
            write_projection(value.get().as_bytes(), &below, out)?;
        }
    }
    out.push(b'}');
    Ok(())
}

/// The members of a JSON object in their order, unparsed.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some((Text(key), value)) = map.next_entry()? {
                    members.push((key, value));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Read)
    }
}

#[cfg(test)]
mod tests;
