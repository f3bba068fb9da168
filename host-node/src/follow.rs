//! A set of objects as the kernel tells it, row by row.
//!
//! Invariant: between a reset and the next `synced` nothing is forgotten, so whoever reads sees what was before until the new set is whole.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;

use crate::link::Row;

/// Namespace and name.
pub type Key = (String, String);

/// The objects of one resource.
pub struct Followed<T> {
    objects: BTreeMap<Key, T>,
    /// Names seen since the last reset; `None`: the set is complete.
    seen: Option<BTreeSet<Key>>,
    synced: bool,
}

impl<T> Default for Followed<T> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), seen: None, synced: false }
    }
}

impl<T: DeserializeOwned + PartialEq> Followed<T> {
    /// Whether everything that existed has been told once.
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// One object.
    pub fn get(&self, key: &Key) -> Option<&T> {
        self.objects.get(key)
    }

    /// All objects.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &T)> {
        self.objects.iter()
    }

    /// Takes a row; `changed` is told of each object that is another than before, with what it was.
    pub fn take(&mut self, row: Row, mut changed: impl FnMut(&Key, Option<&T>)) {
        match row {
            Row::Put(bytes) => match (name(&bytes), serde_json::from_slice::<T>(&bytes)) {
                (Some(key), Ok(object)) => {
                    if let Some(seen) = &mut self.seen {
                        seen.insert(key.clone());
                    }
                    if self.objects.get(&key) != Some(&object) {
                        let before = self.objects.insert(key.clone(), object);
                        changed(&key, before.as_ref());
                    }
                }
                (key, parsed) => {
                    let error = parsed.err().map(|error| error.to_string()).unwrap_or_default();
                    tracing::warn!(?key, error, "an object that cannot be read stays as it was");
                }
            },
            Row::Delete(bytes) => {
                if let Some((key, before)) = name(&bytes).and_then(|key| Some((key.clone(), self.objects.remove(&key)?))) {
                    changed(&key, Some(&before));
                }
            }
            Row::Reset => self.seen = Some(BTreeSet::new()),
            Row::Synced => {
                self.synced = true;
                let Some(seen) = self.seen.take() else { return };
                let gone: Vec<Key> = self.objects.keys().filter(|key| !seen.contains(*key)).cloned().collect();
                for key in gone {
                    let before = self.objects.remove(&key);
                    changed(&key, before.as_ref());
                }
            }
        }
    }
}

fn name(bytes: &[u8]) -> Option<Key> {
    #[derive(serde::Deserialize)]
    struct Named {
        metadata: Meta,
    }
    #[derive(serde::Deserialize)]
    struct Meta {
        #[serde(default)]
        namespace: String,
        name: String,
    }
    let named: Named = serde_json::from_slice(bytes).ok()?;
    Some((named.metadata.namespace, named.metadata.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn row(name: &str, value: u32) -> Row {
        Row::Put(json!({ "metadata": { "namespace": "n", "name": name }, "value": value }).to_string().into_bytes())
    }

    #[test]
    fn what_a_new_set_lacks_is_gone_when_it_is_whole_and_not_before() {
        let mut followed = Followed::<Value>::default();
        let mut told = Vec::new();
        let mut take = |followed: &mut Followed<Value>, row: Row| followed.take(row, |key, _| told.push(key.1.clone()));
        for next in [row("a", 1), row("b", 1), Row::Synced, row("a", 1), Row::Reset, row("b", 2)] {
            take(&mut followed, next);
        }
        assert_eq!(followed.iter().count(), 2);
        take(&mut followed, Row::Synced);
        assert_eq!(followed.iter().map(|(key, _)| key.1.clone()).collect::<Vec<_>>(), ["b"]);
        take(&mut followed, Row::Put(b"{".to_vec()));
        take(&mut followed, Row::Delete(json!({ "metadata": { "namespace": "n", "name": "b" } }).to_string().into_bytes()));
        assert_eq!((followed.iter().count(), followed.is_synced()), (0, true));
        assert_eq!(told, ["a", "b", "b", "a", "b"]);
    }
}
