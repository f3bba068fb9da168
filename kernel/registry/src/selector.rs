//! Label and field selectors: read once, held against the parsed facts of many objects. The grammar of labels is the
//! API's; fields are turned into places among the facts, so that matching looks nothing up by name.

use std::collections::BTreeSet;
use std::sync::Arc;

use pintle_api::ApiError;
use pintle_api::selector::LabelSelector;

use crate::index::Indexes;
use crate::object::Object;
use crate::registry::Result;
use crate::target::ResourceInfo;
use crate::watchers::Trigger;

/// Longest selector text, bytes.
const TEXT_BYTES_MAX: usize = 64 * 1024;

/// Everything that a read asks of an object.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selector {
    labels: LabelSelector,
    fields: Vec<FieldTerm>,
    /// Set apart from `fields`: the path names it, so it does not count as a selector.
    namespace: Option<Box<str>>,
}

#[derive(Debug, Clone)]
struct FieldTerm {
    place: Place,
    value: Box<str>,
    equal: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Name,
    Namespace,
    Slot(usize),
}

impl Selector {
    /// Read both texts; empty ones select everything.
    pub(crate) fn parse(resource: &ResourceInfo, labels: &str, fields: &str) -> Result<Self> {
        if labels.len() > TEXT_BYTES_MAX || fields.len() > TEXT_BYTES_MAX {
            return Err(ApiError::bad_request("the selector is too long"));
        }
        Ok(Self { labels: LabelSelector::parse(labels)?, fields: parse_fields(resource, fields)?, namespace: None })
    }

    /// Also: only this name, unless empty.
    pub(crate) fn naming(mut self, name: &str) -> Self {
        if !name.is_empty() {
            self.fields.push(FieldTerm { place: Place::Name, value: name.into(), equal: true });
        }
        self
    }

    /// Also: only this namespace, unless empty.
    pub(crate) fn within(mut self, namespace: &str) -> Self {
        self.namespace = (!namespace.is_empty()).then(|| namespace.into());
        self
    }

    /// Whether it selects at all.
    pub(crate) fn is_selective(&self) -> bool {
        !self.labels.is_empty() || !self.fields.is_empty()
    }

    /// Whether it asks more of objects than name and namespace, which are the same in all versions.
    pub(crate) fn is_about_content(&self) -> bool {
        !self.labels.is_empty() || self.fields.iter().any(|term| matches!(term.place, Place::Slot(_)))
    }

    /// What it asks of names and namespaces.
    pub(crate) fn without_content(&self) -> Self {
        let fields = self.fields.iter().filter(|term| !matches!(term.place, Place::Slot(_))).cloned().collect();
        Self { labels: LabelSelector::default(), fields, namespace: self.namespace.clone() }
    }

    /// The one name that it selects, if it does.
    pub(crate) fn name(&self) -> Option<&str> {
        self.fields.iter().find(|term| term.equal && term.place == Place::Name).map(|term| &*term.value)
    }

    pub(crate) fn matches(&self, object: &Object) -> bool {
        let meta = &object.meta;
        self.namespace.as_ref().is_none_or(|namespace| *namespace == meta.namespace)
            && self.fields.iter().all(|term| term.matches(object))
            && self.labels.matches_with(|key| meta.label(key))
    }

    /// The narrowest trigger that covers it.
    pub(crate) fn trigger(&self, resource: &ResourceInfo, namespace: &str) -> Trigger {
        let equal = |place: &dyn Fn(Place) -> bool| self.fields.iter().find(|term| term.equal && place(term.place));
        if let Some(term) = equal(&|place| place == Place::Name) {
            return Trigger::Name(term.value.clone());
        }
        if let Some(FieldTerm { place: Place::Slot(slot), value, .. }) = equal(&|place| matches!(place, Place::Slot(_)))
            && *slot < resource.selectable.len()
        {
            return Trigger::Field(*slot, value.clone());
        }
        if let Some(term) = equal(&|place| place == Place::Namespace) {
            return Trigger::Namespace(term.value.clone());
        }
        if namespace.is_empty() { Trigger::Any } else { Trigger::Namespace(namespace.into()) }
    }

    /// Suffixes among which all matches are, from the smallest index that applies; `None` when no index does.
    pub(crate) fn candidates<'a>(&self, indexes: &'a Indexes) -> Option<&'a BTreeSet<Arc<str>>> {
        static NONE: BTreeSet<Arc<str>> = BTreeSet::new();
        let by_field = self.fields.iter().filter_map(|term| match (term.equal, term.place) {
            (true, Place::Slot(slot)) => Some(indexes.field(slot, &term.value).unwrap_or(&NONE)),
            _ => None,
        });
        by_field.min_by_key(|suffixes| suffixes.len())
    }
}

impl FieldTerm {
    fn matches(&self, object: &Object) -> bool {
        let have = match self.place {
            Place::Name => &object.meta.name,
            Place::Namespace => &object.meta.namespace,
            Place::Slot(slot) => match object.meta.fields.get(slot) {
                Some(value) => value,
                None => return false,
            },
        };
        (*have == self.value) == self.equal
    }
}

fn parse_fields(resource: &ResourceInfo, text: &str) -> Result<Vec<FieldTerm>> {
    let mut terms = Vec::new();
    for term in split_terms(text) {
        let term = term.trim();
        if term.is_empty() {
            continue;
        }
        let (label, value, equal) =
            field_term(term).ok_or_else(|| ApiError::bad_request(format!("invalid selector: {term:?}; can't understand {term:?}")))?;
        let place = match label {
            "metadata.name" => Place::Name,
            "metadata.namespace" if resource.namespaced() => Place::Namespace,
            _ => {
                let slot = resource.selectable.iter().position(|field| field.label == label);
                Place::Slot(slot.ok_or_else(|| ApiError::bad_request(format!("field label not supported: {label}")))?)
            }
        };
        terms.push(FieldTerm { place, value: value.into(), equal });
    }
    Ok(terms)
}

fn field_term(term: &str) -> Option<(&str, String, bool)> {
    let at = term.find(['=', '!'])?;
    let (label, rest) = term.split_at(at);
    let (value, equal) = match rest.as_bytes() {
        [b'!', b'=', ..] => (&rest[2..], false),
        [b'=', b'=', ..] => (&rest[2..], true),
        [b'=', ..] => (&rest[1..], true),
        _ => return None,
    };
    Some((label.trim(), unescape(value), equal))
}

/// Split at commas that are not escaped.
fn split_terms(text: &str) -> Vec<&str> {
    let (mut terms, mut start, mut escaped) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn unescape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        out.push(if c == '\\' { chars.next().unwrap_or('\\') } else { c });
    }
    out
}

#[cfg(test)]
mod tests;
