//! Label and field selectors: read once, held against the parsed facts of many objects.

use std::collections::BTreeSet;
use std::sync::Arc;

use pintle_api::ApiError;

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
    labels: Vec<LabelTerm>,
    fields: Vec<FieldTerm>,
    /// Set apart from `fields`: the path names it, so it does not count as a selector.
    namespace: Option<Box<str>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct LabelTerm {
    key: Box<str>,
    test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    In(Vec<Box<str>>),
    NotIn(Vec<Box<str>>),
    Exists,
    Absent,
    Greater(i64),
    Less(i64),
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
        Ok(Self { labels: parse_labels(labels)?, fields: parse_fields(resource, fields)?, namespace: None })
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

    pub(crate) fn matches(&self, object: &Object) -> bool {
        let meta = &object.meta;
        self.namespace.as_ref().is_none_or(|namespace| *namespace == meta.namespace)
            && self.fields.iter().all(|term| term.matches(object))
            && self.labels.iter().all(|term| term.matches(meta.label(&term.key)))
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
        let by_label = self.labels.iter().filter_map(|term| match &term.test {
            Test::In(values) if values.len() == 1 => Some(indexes.label(&term.key, &values[0]).unwrap_or(&NONE)),
            _ => None,
        });
        by_field.chain(by_label).min_by_key(|suffixes| suffixes.len())
    }
}

impl LabelTerm {
    fn matches(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match &self.test {
            Test::In(values) => value.is_some_and(|value| values.iter().any(|one| **one == *value)),
            Test::NotIn(values) => value.is_none_or(|value| values.iter().all(|one| **one != *value)),
            Test::Exists => value.is_some(),
            Test::Absent => value.is_none(),
            Test::Greater(bound) => number().is_some_and(|number| number > *bound),
            Test::Less(bound) => number().is_some_and(|number| number < *bound),
        }
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

fn parse_labels(text: &str) -> Result<Vec<LabelTerm>> {
    let mut rest = text.trim();
    let mut terms = Vec::new();
    while !rest.is_empty() {
        let (term, after) = label_term(rest).ok_or_else(|| ApiError::bad_request(format!("unable to parse requirement: invalid label selector {text:?}")))?;
        terms.push(term);
        rest = after.trim_start();
        match rest.strip_prefix(',') {
            Some(more) if !more.trim().is_empty() => rest = more.trim_start(),
            None if rest.is_empty() => {}
            _ => return Err(ApiError::bad_request(format!("unable to parse requirement: invalid label selector {text:?}"))),
        }
    }
    Ok(terms)
}

/// One requirement, and what follows it.
fn label_term(text: &str) -> Option<(LabelTerm, &str)> {
    if let Some(after) = text.strip_prefix('!') {
        let (key, rest) = word(after.trim_start(), is_key)?;
        return Some((LabelTerm { key: key.into(), test: Test::Absent }, rest));
    }
    let (key, rest) = word(text, is_key)?;
    let rest = rest.trim_start();
    let term = |test: Test| LabelTerm { key: key.into(), test };
    for (operator, set) in [("notin", false), ("in", true)] {
        if let Some(list) = rest.strip_prefix(operator)
            && let Some(list) = list.trim_start().strip_prefix('(')
        {
            let (values, after) = list.split_once(')')?;
            let values: Option<Vec<Box<str>>> = values.split(',').map(|value| label_value(value.trim())).collect();
            let values = values?;
            return Some((term(if set { Test::In(values) } else { Test::NotIn(values) }), after));
        }
    }
    for operator in ["==", "!=", "=", ">", "<"] {
        let Some(after) = rest.strip_prefix(operator) else { continue };
        let after = after.trim_start();
        let end = after.find(',').unwrap_or(after.len());
        let value = label_value(after[..end].trim())?;
        let test = match operator {
            "!=" => Test::NotIn(vec![value]),
            ">" => Test::Greater(value.parse().ok()?),
            "<" => Test::Less(value.parse().ok()?),
            _ => Test::In(vec![value]),
        };
        return Some((term(test), &after[end..]));
    }
    (rest.is_empty() || rest.starts_with(',')).then(|| (term(Test::Exists), rest))
}

fn word(text: &str, allowed: impl Fn(char) -> bool) -> Option<(&str, &str)> {
    let end = text.find(|c| !allowed(c)).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    (!word.is_empty() && word.len() <= 317 && word.starts_with(|c: char| c.is_ascii_alphanumeric())).then_some((word, rest))
}

fn is_key(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/')
}

fn label_value(text: &str) -> Option<Box<str>> {
    let fits = text.len() <= 63 && text.chars().all(|c| is_key(c) && c != '/');
    fits.then(|| text.into())
}

fn parse_fields(resource: &ResourceInfo, text: &str) -> Result<Vec<FieldTerm>> {
    let mut terms = Vec::new();
    for term in split_terms(text) {
        let term = term.trim();
        if term.is_empty() {
            continue;
        }
        let (label, value, equal) = field_term(term)
            .ok_or_else(|| ApiError::bad_request(format!("invalid selector: {term:?}; can't understand {term:?}")))?;
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
mod tests {
    use super::*;

    fn check(text: &str, labels: &[(&str, &str)], expected: bool) {
        let terms = parse_labels(text).expect("parses");
        let value = |key: &str| labels.iter().find(|(have, _)| *have == key).map(|(_, value)| *value);
        assert_eq!(terms.iter().all(|term| term.matches(value(&term.key))), expected, "{text}");
    }

    #[test]
    fn label_selectors_read_as_upstream_reads_them() {
        let labels = [("app", "web"), ("tier", "a"), ("n", "5")];
        for text in ["", "app=web", "app==web,tier=a", "app", "app in (web, x)", "tier notin (b,c)", "!gone", "gone!=x", "n>4,n<6", " app = web , tier "] {
            check(text, &labels, true);
        }
        for text in ["app=x", "app!=web", "!app", "gone", "app in (x)", "tier notin (a)", "n>5", "app="] {
            check(text, &labels, false);
        }
        for bad in ["app=web,", ",", "=x", "a b", "app in web", "app=x y", "n>x", "!"] {
            assert!(parse_labels(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_label_key_may_begin_like_an_operator() {
        check("index=1", &[("index", "1")], true);
        check("notina", &[("notina", "")], true);
    }

    #[test]
    fn field_terms_keep_escaped_commas() {
        assert_eq!(split_terms(r"a=b\,c,d!=e"), [r"a=b\,c", "d!=e"]);
        assert_eq!(field_term(r"a=b\,c"), Some(("a", "b,c".to_owned(), true)));
        assert_eq!(field_term("d!=e"), Some(("d", "e".to_owned(), false)));
        assert_eq!(field_term("d"), None);
    }
}
