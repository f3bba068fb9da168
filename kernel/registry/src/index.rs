//! Indexes of one resource's objects: by label and by selectable field, kept up to date change by change.
//!
//! Invariant: a suffix is listed under a value exactly when the object of that suffix has it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::object::{Meta, Object};

type Suffixes = BTreeSet<Arc<str>>;

/// The indexes of one resource.
#[derive(Default)]
pub(crate) struct Indexes {
    labels: HashMap<Box<str>, HashMap<Box<str>, Suffixes>>,
    fields: Vec<HashMap<Box<str>, Suffixes>>,
}

impl Indexes {
    /// For a resource with this many selectable fields.
    pub(crate) fn new(fields: usize) -> Self {
        Self { labels: HashMap::new(), fields: vec![HashMap::new(); fields] }
    }

    /// An object went from `before` to `after`.
    pub(crate) fn change(&mut self, suffix: &Arc<str>, before: Option<&Object>, after: Option<&Object>) {
        let (before, after) = (before.map(|object| &object.meta), after.map(|object| &object.meta));
        self.change_labels(suffix, before, after);
        for (slot, values) in self.fields.iter_mut().enumerate() {
            let old = before.and_then(|meta| meta.fields.get(slot));
            let new = after.and_then(|meta| meta.fields.get(slot));
            if old != new {
                old.inspect(|value| leave(values, value, suffix));
                new.inspect(|value| enter(values, value, suffix));
            }
        }
    }

    fn change_labels(&mut self, suffix: &Arc<str>, before: Option<&Meta>, after: Option<&Meta>) {
        let none: &[(Box<str>, Box<str>)] = &[];
        let (old, new) = (before.map_or(none, |meta| &meta.labels), after.map_or(none, |meta| &meta.labels));
        if old == new {
            return;
        }
        for (key, value) in old {
            if let Some(values) = self.labels.get_mut(key) {
                leave(values, value, suffix);
                if values.is_empty() {
                    self.labels.remove(key);
                }
            }
        }
        for (key, value) in new {
            enter(self.labels.entry(key.clone()).or_default(), value, suffix);
        }
    }

    /// Suffixes of objects whose label `key` is `value`.
    pub(crate) fn label(&self, key: &str, value: &str) -> Option<&Suffixes> {
        self.labels.get(key)?.get(value)
    }

    /// Suffixes of objects whose selectable field at `slot` is `value`.
    pub(crate) fn field(&self, slot: usize, value: &str) -> Option<&Suffixes> {
        self.fields.get(slot)?.get(value)
    }
}

fn enter(values: &mut HashMap<Box<str>, Suffixes>, value: &str, suffix: &Arc<str>) {
    match values.get_mut(value) {
        Some(suffixes) => {
            suffixes.insert(Arc::clone(suffix));
        }
        None => {
            values.insert(value.into(), BTreeSet::from([Arc::clone(suffix)]));
        }
    }
}

fn leave(values: &mut HashMap<Box<str>, Suffixes>, value: &str, suffix: &Arc<str>) {
    if let Some(suffixes) = values.get_mut(value) {
        suffixes.remove(suffix);
        if suffixes.is_empty() {
            values.remove(value);
        }
    }
}
