//! Sets of field paths, as `fieldsV1` writes them.
//!
//! A path's parts are written `f:name` (a member of an object), `k:{...}` (the element of a list with these keys) and `v:...` (the
//! element of a set with this value). In JSON a set is a tree of such names; `.` says that a place with more below it is itself in
//! the set, and an empty object is a place with nothing below.
//!
//! Invariant: a node below the root is in the set itself, or has something below it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Map, Value};

/// A set of paths below one place, and whether that place is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    pub(super) member: bool,
    pub(super) below: BTreeMap<String, FieldSet>,
}

impl FieldSet {
    /// A place with nothing below it.
    pub(super) fn leaf() -> FieldSet {
        FieldSet { member: true, below: BTreeMap::new() }
    }

    /// Whether nothing is in the set.
    pub fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }

    /// Puts what is not empty under `part`.
    pub(super) fn put(&mut self, part: String, set: FieldSet) {
        if !set.is_empty() {
            self.below.insert(part, set);
        }
    }

    /// Reads `fieldsV1`. `None`: it is none.
    pub fn from_json(value: &Value) -> Option<FieldSet> {
        let mut set = FieldSet::default();
        for (part, below) in value.as_object()? {
            if part == "." {
                set.member = true;
                continue;
            }
            let mut below = FieldSet::from_json(below)?;
            below.member |= below.below.is_empty();
            set.below.insert(part.clone(), below);
        }
        Some(set)
    }

    /// Writes `fieldsV1`.
    pub fn into_json(self) -> Value {
        let mut map = Map::new();
        if self.member && !self.below.is_empty() {
            map.insert(".".to_owned(), Value::Object(Map::new()));
        }
        map.extend(self.below.into_iter().map(|(part, below)| (part, below.into_json())));
        Value::Object(map)
    }

    /// Adds every path of `other`.
    pub(super) fn add(&mut self, other: &FieldSet) {
        self.member |= other.member;
        for (part, below) in &other.below {
            match self.below.get_mut(part) {
                Some(mine) => mine.add(below),
                None => {
                    self.below.insert(part.clone(), below.clone());
                }
            }
        }
    }

    /// Takes every path of `other` out. Paths below them stay.
    pub(super) fn subtract(&mut self, other: &FieldSet) {
        self.member &= !other.member;
        for (part, below) in &other.below {
            let Some(mine) = self.below.get_mut(part) else { continue };
            mine.subtract(below);
            if mine.is_empty() {
                self.below.remove(part);
            }
        }
    }

    /// The paths that are in both.
    pub(super) fn common(&self, other: &FieldSet) -> FieldSet {
        let mut set = FieldSet { member: self.member && other.member, below: BTreeMap::new() };
        for (part, below) in &self.below {
            if let Some(theirs) = other.below.get(part) {
                set.put(part.clone(), below.common(theirs));
            }
        }
        set
    }

    /// The part of the set at these JSON pointers (one or two members deep) and below them.
    pub(super) fn only(&self, pointers: &[&str]) -> FieldSet {
        let mut kept = FieldSet::default();
        for pointer in pointers {
            let mut found = Some(self);
            let parts: Vec<String> = pointer.split('/').skip(1).map(|name| format!("f:{name}")).collect();
            parts.iter().for_each(|part| found = found.and_then(|set| set.below.get(part)));
            let Some(found) = found else { continue };
            let one = parts.into_iter().rev().fold(found.clone(), |set, part| FieldSet { member: false, below: [(part, set)].into() });
            kept.add(&one);
        }
        kept
    }

    /// Every path as messages spell it, such as `.spec.ports[port=53,protocol="UDP"].name`: those of one level before those below.
    pub fn paths(&self) -> Vec<String> {
        let mut found = Vec::new();
        self.spell("", &mut found);
        found
    }

    fn spell(&self, prefix: &str, found: &mut Vec<String>) {
        let spelled: Vec<(String, &FieldSet)> =
            self.below.iter().map(|(part, below)| (format!("{prefix}{}", spell_part(part)), below)).collect();
        found.extend(spelled.iter().filter(|(_, below)| below.member).map(|(path, _)| path.clone()));
        spelled.iter().for_each(|(path, below)| below.spell(path, found));
    }
}

/// One part as messages spell it.
pub(super) fn spell_part(part: &str) -> String {
    match part.split_once(':') {
        Some(("f", name)) => format!(".{name}"),
        Some(("k", keys)) => {
            let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let mut text = String::from("[");
            for (key, value) in keys {
                let comma = if text.len() == 1 { "" } else { "," };
                let _ = write!(text, "{comma}{key}={value}");
            }
            text.push(']');
            text
        }
        Some(("v", value)) => format!("[={value}]"),
        Some((_, index)) => format!("[{index}]"),
        None => part.to_owned(),
    }
}
