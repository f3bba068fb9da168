//! Rows instead of objects: an object's JSON cut down to the fields that a manifest names, without building values.

use bytes::Bytes;
use pintle_registry::Object;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;
use std::{borrow::Cow, collections::BTreeMap};

/// Which fields a row carries. `kind` and `apiVersion` always travel.
#[derive(Clone, Debug, PartialEq)]
pub enum Projection {
    /// The whole object.
    Whole,
    /// `kind`, `apiVersion` and `metadata`: cut out of the text without parsing the rest.
    Metadata,
    /// These fields.
    Fields(Fields),
}

/// A tree of member names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fields {
    whole: bool,
    members: BTreeMap<String, Fields>,
}

impl Projection {
    /// Of JSON pointers; none means the whole object.
    pub fn new(pointers: &[String]) -> Self {
        let of_metadata = |p: &String| p == "/metadata";
        if pointers.is_empty() {
            return Self::Whole;
        }
        if pointers.iter().all(of_metadata) {
            return Self::Metadata;
        }
        let mut root = Fields::default();
        for pointer in pointers.iter().map(String::as_str).chain(["/kind", "/apiVersion"]) {
            let mut at = &mut root;
            for member in pointer.split('/').skip(1) {
                at = at.members.entry(member.replace("~1", "/").replace("~0", "~")).or_default();
            }
            at.whole = true;
        }
        Self::Fields(root)
    }

    /// The row of an object. An object of the cache is JSON; should it not be, the whole text travels.
    pub fn row(&self, object: &Object) -> Bytes {
        let body = object.body();
        let row = match self {
            Self::Whole => None,
            Self::Metadata => metadata_only(body, body.len() - object.body_without_type().len()),
            Self::Fields(fields) => serde_json::from_slice::<&RawValue>(body).ok().and_then(|raw| fields.cut(raw)),
        };
        row.map_or_else(|| body.clone(), Bytes::from)
    }
}

fn metadata_only(body: &[u8], metadata_at: usize) -> Option<Vec<u8>> {
    let value_at = metadata_at + body.get(metadata_at..)?.iter().position(|b| *b == b':')? + 1;
    let mut rest = serde_json::Deserializer::from_slice(body.get(value_at..)?).into_iter::<IgnoredAny>();
    rest.next()?.ok()?;
    let end = value_at + rest.byte_offset();
    let mut row = Vec::with_capacity(end + 1);
    row.extend_from_slice(&body[..end]);
    row.push(b'}');
    Some(row)
}

impl Fields {
    fn cut(&self, raw: &RawValue) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(raw.get().len() / 2);
        self.write(raw, &mut out)?;
        Some(out)
    }

    fn write(&self, raw: &RawValue, out: &mut Vec<u8>) -> Option<()> {
        if self.whole {
            out.extend_from_slice(raw.get().as_bytes());
            return Some(());
        }
        let Ok(members) = serde_json::from_str::<Members<'_>>(raw.get()) else {
            out.extend_from_slice(b"null");
            return Some(());
        };
        out.push(b'{');
        let mut first = true;
        for (name, value) in &members.0 {
            let Some(fields) = self.members.get(name.as_ref()) else { continue };
            if !std::mem::take(&mut first) {
                out.push(b',');
            }
            serde_json::to_writer(&mut *out, name).ok()?;
            out.push(b':');
            fields.write(value, out)?;
        }
        out.push(b'}');
        Some(())
    }
}

#[derive(Deserialize)]
struct Members<'a>(#[serde(borrow)] BTreeMap<Cow<'a, str>, &'a RawValue>);

#[cfg(test)]
mod tests;
