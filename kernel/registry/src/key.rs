//! Keys of the store: `/registry/GROUP/PLURAL/NAMESPACE/NAME`, without the namespace for cluster-scoped resources, with
//! `core` for the core group. What follows the plural is the object's suffix: its key in the cache, and what continue
//! tokens carry.
//!
//! Invariant: the cache sorts suffixes as the store sorts keys (by bytes), so a page of one continues in the other.

use std::sync::Arc;

use bytes::Bytes;

use crate::target::ResourceKey;

const ROOT: &str = "/registry/";
const CORE: &str = "core";

/// Longest name and namespace that a key takes, in bytes; DNS subdomains end at 253.
pub(crate) const NAME_BYTES_MAX: usize = 253;

/// Every key of every object begins so.
pub(crate) fn root() -> Bytes {
    Bytes::from_static(ROOT.as_bytes())
}

/// What the keys of a resource begin with.
pub(crate) fn prefix(resource: &ResourceKey) -> String {
    let group = if resource.group.is_empty() { CORE } else { &resource.group };
    format!("{ROOT}{group}/{}/", resource.resource)
}

/// The suffix of an object.
pub(crate) fn suffix(namespace: &str, name: &str) -> Arc<str> {
    if namespace.is_empty() { Arc::from(name) } else { Arc::from(format!("{namespace}/{name}")) }
}

/// The key of an object.
pub(crate) fn of(resource: &ResourceKey, suffix: &str) -> Bytes {
    let mut key = prefix(resource);
    key.push_str(suffix);
    key.into()
}

/// The resource and suffix of a key; `None` if it is not an object's.
pub(crate) fn parse(key: &[u8]) -> Option<(ResourceKey, &str)> {
    let rest = std::str::from_utf8(key).ok()?.strip_prefix(ROOT)?;
    let (group, rest) = rest.split_once('/')?;
    let (resource, suffix) = rest.split_once('/')?;
    let group = if group == CORE { "" } else { group };
    (!suffix.is_empty()).then(|| (ResourceKey::new(group, resource), suffix))
}

/// Whether a name or namespace can stand in a key: what a kind demands beyond that is the API's business.
pub(crate) fn is_segment(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && name != "."
        && name != ".."
        && !name.bytes().any(|b| b == b'/' || b == b'%' || b < 0x20)
}

#[cfg(test)]
mod tests;
