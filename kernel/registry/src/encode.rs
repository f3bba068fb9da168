//! Objects to bytes and back, once each. The layout is told in `object.rs`.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use bytes::{BufMut, Bytes, BytesMut};
use pintle_store::Revision;
use serde_json::Value;

use crate::extract;
use crate::object::Object;
use crate::target::ResourceInfo;

const METADATA: &str = r#""metadata":{"#;

/// The stored form of an object: without resourceVersion, with kind and apiVersion of `resource`, metadata first.
pub(crate) fn encode(resource: &ResourceInfo, object: &Value) -> Result<Bytes, serde_json::Error> {
    let mut out = Vec::with_capacity(1024);
    out.extend_from_slice(resource.type_prefix.as_bytes());
    out.extend_from_slice(METADATA.as_bytes());
    let empty = serde_json::Map::new();
    let metadata = object.get("metadata").and_then(Value::as_object).unwrap_or(&empty);
    let mut first = true;
    for (key, value) in metadata.iter().filter(|(key, _)| *key != "resourceVersion") {
        write_member(&mut out, key, value, first)?;
        first = false;
    }
    out.push(b'}');
    for (key, value) in object.as_object().unwrap_or(&empty) {
        if !matches!(key.as_str(), "kind" | "apiVersion" | "metadata") {
            write_member(&mut out, key, value, false)?;
        }
    }
    out.push(b'}');
    Ok(out.into())
}

fn write_member(out: &mut Vec<u8>, key: &str, value: &Value, first: bool) -> Result<(), serde_json::Error> {
    if !first {
        out.push(b',');
    }
    serde_json::to_writer(&mut *out, key)?;
    out.push(b':');
    serde_json::to_writer(out, value)
}

/// The shared form: the stored bytes with their resourceVersion put in.
pub(crate) fn publish(resource: &Arc<ResourceInfo>, stored: &[u8], revision: Revision) -> Result<Object, Unreadable> {
    let written = resource.written_as(stored);
    let fresh = &*refreshed(written, stored)?;
    let stale = fresh != stored || !Arc::ptr_eq(written, resource);
    let (resource, stored) = (written, fresh);
    let (at, cut) = check_start(resource, stored)?;
    let meta = read_meta(resource, stored)?;
    let number = revision.to_string();
    let mut body = BytesMut::with_capacity(stored.len() + number.len() + 21);
    body.put_slice(&stored[..cut]);
    body.put_slice(br#""resourceVersion":""#);
    body.put_slice(number.as_bytes());
    body.put_slice(if stored.get(cut) == Some(&b'}') { br#"""# } else { br#"","# });
    body.put_slice(&stored[cut..]);
    Ok(Object { resource: Arc::clone(resource), body: body.freeze(), metadata_at: at, revision, meta, stale, protobuf: OnceLock::new() })
}

/// A stored custom resource as its definition says it now: in the version that is stored today, with the defaults that
/// came since. Everything else is as it was written.
fn refreshed<'a>(resource: &ResourceInfo, stored: &'a [u8]) -> Result<Cow<'a, [u8]>, Unreadable> {
    let Some(version) =
        resource.custom.as_ref().filter(|version| version.has_defaults() || !stored.starts_with(resource.type_prefix.as_bytes()))
    else {
        return Ok(Cow::Borrowed(stored));
    };
    let unreadable = |err: serde_json::Error| Unreadable { detail: err.to_string() };
    let mut value: Value = serde_json::from_slice(stored).map_err(unreadable)?;
    version.default(&mut value);
    encode(resource, &value).map(|bytes| Cow::Owned(bytes.into())).map_err(unreadable)
}

/// An object that is not stored (dry run of a create): without a resourceVersion.
pub(crate) fn unstored(resource: &Arc<ResourceInfo>, stored: &Bytes) -> Result<Object, Unreadable> {
    let (at, _) = check_start(resource, stored)?;
    let meta = read_meta(resource, stored)?;
    Ok(Object {
        resource: Arc::clone(resource),
        body: stored.clone(),
        metadata_at: at,
        revision: Revision::default(),
        meta,
        stale: false,
        protobuf: OnceLock::new(),
    })
}

/// Where `"metadata":{` begins and ends.
fn check_start(resource: &ResourceInfo, stored: &[u8]) -> Result<(usize, usize), Unreadable> {
    let at = resource.type_prefix.len();
    let cut = at + METADATA.len();
    if !stored.starts_with(resource.type_prefix.as_bytes()) || stored.get(at..cut) != Some(METADATA.as_bytes()) {
        return Err(Unreadable { detail: format!("does not begin as a {} does", resource.kind) });
    }
    Ok((at, cut))
}

fn read_meta(resource: &ResourceInfo, stored: &[u8]) -> Result<crate::object::Meta, Unreadable> {
    extract::meta(resource, stored).map_err(|err| Unreadable { detail: err.to_string() })
}

/// The same object at another revision: the last state of a deleted one carries the revision of its delete.
pub(crate) fn restamp(object: &Object, revision: Revision) -> Object {
    let cut = object.metadata_at + METADATA.len();
    let old = format!(r#""resourceVersion":"{}""#, object.revision);
    let number = format!(r#""resourceVersion":"{revision}""#);
    let mut body = BytesMut::with_capacity(object.body.len() + 20);
    body.put_slice(&object.body[..cut]);
    body.put_slice(number.as_bytes());
    body.put_slice(&object.body[cut + old.len()..]);
    Object {
        resource: Arc::clone(&object.resource),
        body: body.freeze(),
        metadata_at: object.metadata_at,
        revision,
        meta: object.meta.clone(),
        stale: object.stale,
        protobuf: OnceLock::new(),
    }
}

/// Stored bytes that are no object.
#[derive(Debug, thiserror::Error)]
#[error("{detail}")]
pub(crate) struct Unreadable {
    /// What is wrong.
    pub(crate) detail: String,
}
