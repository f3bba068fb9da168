//! `metadata.managedFields`: who owns which fields of an object, read, changed and written.

use serde_json::{Value, json};

use super::set::FieldSet;

/// Most managers with operation Update that an object names; the oldest of more are put together.
pub const UPDATE_MANAGERS_MAX: usize = 10;
/// Under whose name the oldest are put together.
const ANCIENT: &str = "ancient-changes";

/// How a manager writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Apply,
    Update,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Manager {
    pub(super) name: String,
    pub(super) operation: Operation,
    pub(super) api_version: String,
    pub(super) subresource: String,
    /// RFC 3339; `None` when the client that wrote the entry gave none.
    pub(super) time: Option<String>,
    pub(super) fields: FieldSet,
}

/// Every entry of an object. No two are of the same manager.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Managers(pub(super) Vec<Manager>);

impl Manager {
    /// Whether both are the same manager's: one that applies is the same in every version.
    pub(super) fn is(&self, other: &Manager) -> bool {
        self.name == other.name
            && self.operation == other.operation
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }

    fn read(entry: &Value) -> Option<Manager> {
        let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let operation = match text("operation").as_str() {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return None,
        };
        if text("apiVersion").is_empty() || text("fieldsType") != "FieldsV1" {
            return None;
        }
        Some(Manager {
            name: text("manager"),
            operation,
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time: entry.get("time").and_then(Value::as_str).map(str::to_owned),
            fields: FieldSet::from_json(entry.get("fieldsV1")?)?,
        })
    }

    fn into_json(self) -> Value {
        let operation = if self.operation == Operation::Apply { "Apply" } else { "Update" };
        let mut entry = json!({"manager": self.name, "operation": operation, "apiVersion": self.api_version, "fieldsType": "FieldsV1"});
        entry["fieldsV1"] = self.fields.into_json();
        if let Some(time) = self.time {
            entry["time"] = json!(time);
        }
        if !self.subresource.is_empty() {
            entry["subresource"] = json!(self.subresource);
        }
        entry
    }

    /// The manager as messages name it.
    pub(super) fn spelled(&self) -> String {
        let subresource = if self.subresource.is_empty() { String::new() } else { format!(" with subresource {:?}", self.subresource) };
        let version = if self.operation == Operation::Update { format!(" using {}", self.api_version) } else { String::new() };
        format!("{:?}{subresource}{version}", self.name)
    }
}

impl Managers {
    /// Reads `metadata.managedFields`. `None`: it is not well-formed.
    pub(super) fn read(entries: Option<&Value>) -> Option<Managers> {
        let Some(entries) = entries else { return Some(Managers::default()) };
        let mut managers = Managers::default();
        for entry in entries.as_array()? {
            let manager = Manager::read(entry)?;
            managers.0.retain(|other| !other.is(&manager));
            managers.0.push(manager);
        }
        Some(managers)
    }

    /// Takes out the entry of the manager of `own`.
    pub(super) fn take(&mut self, own: &Manager) -> Option<Manager> {
        self.0.iter().position(|manager| manager.is(own)).map(|at| self.0.remove(at))
    }

    /// Adds an entry, if it owns anything.
    pub(super) fn add(&mut self, manager: Manager) {
        if !manager.fields.is_empty() {
            self.0.push(manager);
        }
    }

    /// Takes the fields out of what every manager owns.
    pub(super) fn lose(&mut self, fields: &FieldSet) {
        self.0.iter_mut().for_each(|manager| manager.fields.subtract(fields));
        self.0.retain(|manager| !manager.fields.is_empty());
    }

    /// Puts the oldest updaters of each version together until there are no more than may be.
    pub(super) fn cap(&mut self) {
        let updates = |managers: &Managers| managers.0.iter().filter(|manager| manager.operation == Operation::Update).count();
        if updates(self) <= UPDATE_MANAGERS_MAX {
            return;
        }
        self.0.sort_by(|a, b| (a.operation, &a.time, &a.name).cmp(&(b.operation, &b.time, &b.name)));
        let mut at = self.0.len() - updates(self);
        while at < self.0.len() && updates(self) > UPDATE_MANAGERS_MAX {
            let version = self.0[at].api_version.clone();
            let older = self.0[..at].iter().position(|other| other.operation == Operation::Update && other.api_version == version);
            let Some(older) = older else {
                at += 1;
                continue;
            };
            let merged = self.0.remove(at);
            let bucket = &mut self.0[older];
            bucket.fields.add(&merged.fields);
            bucket.time = merged.time;
            bucket.subresource.clear();
            ANCIENT.clone_into(&mut bucket.name);
        }
    }

    /// Writes `metadata.managedFields`: those that apply first, then by time.
    pub(super) fn into_json(mut self) -> Vec<Value> {
        self.0.sort_by(|a, b| {
            let key = |m: &Manager| (m.operation, m.time.clone(), m.name.clone(), m.api_version.clone(), m.subresource.clone());
            key(a).cmp(&key(b))
        });
        self.0.into_iter().map(Manager::into_json).collect()
    }
}
