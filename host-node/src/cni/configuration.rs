//! The network that a directory of configurations names: the first by file name that can be read, whole lists and single plugins alike.
//!
//! Pure but for reading the files. Facts: the CNI specification 1.1.0, "Network configuration format" and its older versions.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::error::{Error, Result, Step};

/// Versions of the specification that this node speaks, oldest first.
const VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// A network: plugins that are asked one after the other.
#[derive(Clone, Debug, PartialEq)]
pub struct NetworkList {
    /// Its name.
    pub name: String,
    /// The version of the specification that its plugins are spoken to in.
    pub version: &'static str,
    /// CHECK is not asked for.
    pub disable_check: bool,
    /// GC is not asked for.
    pub disable_gc: bool,
    plugins: Vec<Plugin>,
}

#[derive(Clone, Debug, PartialEq)]
struct Plugin {
    kind: String,
    object: Map<String, Value>,
}

impl NetworkList {
    /// Reads a list, or a single plugin as a list of one.
    ///
    /// # Errors
    /// A name, a type or the plugins are missing, or a version that is not spoken here.
    pub fn parse(value: &Value) -> Result<Self> {
        let bad = |reason: &str| Error::invalid("network configuration", reason);
        let name = value["name"].as_str().filter(|name| is_name(name)).ok_or_else(|| bad("its name is missing, or no name"))?;
        let plugins: Vec<Value> = match &value["plugins"] {
            Value::Null => vec![value.clone()],
            Value::Array(list) if !list.is_empty() => list.clone(),
            _ => return Err(bad("plugins is not a list of at least one")),
        };
        let plugin = |value: Value| {
            let Value::Object(object) = value else { return Err(bad("a plugin is not an object")) };
            let kind = object.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
            // It becomes a program's name in the directories of plugins.
            if kind.is_empty() || kind.contains('/') || kind == "." || kind == ".." {
                return Err(bad("a plugin's type is missing, or not a program's name"));
            }
            Ok(Plugin { kind, object })
        };
        let told = |key: &str| value[key].as_bool().unwrap_or_else(|| value[key] == "true");
        Ok(Self {
            name: name.to_owned(),
            version: version(value)?,
            disable_check: told("disableCheck"),
            disable_gc: told("disableGC"),
            plugins: plugins.into_iter().map(plugin).collect::<Result<_>>()?,
        })
    }

    /// Whether the list's version is this one or a later one.
    pub fn is_at_least(&self, version: &str) -> bool {
        let rank = |text: &str| VERSIONS.iter().position(|known| *known == text);
        rank(self.version) >= rank(version)
    }

    /// How many plugins there are.
    pub fn len(&self) -> usize {
        self.plugins.len()
    }

    /// Never: a list has a plugin at least.
    pub fn is_empty(&self) -> bool {
        self.plugins.is_empty()
    }

    /// The program of a plugin.
    pub fn kind(&self, index: usize) -> &str {
        self.plugins.get(index).map_or("", |plugin| &plugin.kind)
    }

    /// Whether some plugin wants this of the runtime.
    pub fn wants(&self, capability: &str) -> bool {
        self.plugins.iter().any(|plugin| plugin.wants(capability))
    }

    /// What a plugin reads: its part, with the list's name and version, what it wants of `offered`, and what the one before it said.
    pub fn input(&self, index: usize, offered: &Map<String, Value>, previous: Option<&Value>) -> Value {
        let Some(plugin) = self.plugins.get(index) else { return Value::Null };
        let mut object = plugin.object.clone();
        object.insert("name".into(), json!(self.name));
        object.insert("cniVersion".into(), json!(self.version));
        let wanted: Map<String, Value> =
            offered.iter().filter(|(key, _)| plugin.wants(key)).map(|(key, value)| (key.clone(), value.clone())).collect();
        if !wanted.is_empty() {
            object.insert("runtimeConfig".into(), Value::Object(wanted));
        }
        if let Some(previous) = previous {
            object.insert("prevResult".into(), previous.clone());
        }
        Value::Object(object)
    }

    /// As it is kept for the day on which it is taken back, whatever the directory says then.
    pub fn to_value(&self) -> Value {
        let plugins: Vec<_> = self.plugins.iter().map(|plugin| &plugin.object).collect();
        json!({ "name": self.name, "cniVersion": self.version, "disableCheck": self.disable_check, "disableGC": self.disable_gc, "plugins": plugins })
    }
}

impl Plugin {
    fn wants(&self, capability: &str) -> bool {
        self.object.get("capabilities").is_some_and(|all| all[capability] == true)
    }
}

/// A network's name: as the specification's, letters, digits, `_`, `.` and `-`, the first a letter or digit.
fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

/// The highest version that list and node speak; a list that says nothing means the first.
fn version(value: &Value) -> Result<&'static str> {
    let said = value["cniVersion"].as_str().filter(|text| !text.is_empty());
    let offered: Vec<&str> = value["cniVersions"].as_array().into_iter().flatten().filter_map(Value::as_str).chain(said).collect();
    let offered = if offered.is_empty() { vec![VERSIONS[0]] } else { offered };
    let known = VERSIONS.iter().rev().find(|known| offered.contains(known));
    let unknown = || Error::invalid("network configuration", format!("cniVersion {} is not spoken here", offered.join(", ")));
    known.copied().ok_or_else(unknown)
}

/// The first network of a directory, by file name. Files that cannot be used are passed over, and told when there is no other.
///
/// # Errors
/// None can be used, or the directory cannot be read.
pub fn first(directory: &Path) -> Result<NetworkList> {
    let shown = directory.display();
    let entries = std::fs::read_dir(directory).step(|| format!("reading {shown}"))?;
    let fits = |path: &std::path::PathBuf| path.extension().is_some_and(|kind| kind == "conflist" || kind == "conf" || kind == "json");
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).filter(fits).collect();
    files.sort();
    let mut trouble = None;
    for file in files {
        let read = || -> Result<NetworkList> {
            let bytes = std::fs::read(&file).step(|| "reading it".into())?;
            let malformed = |source| Error::Malformed { what: "JSON".into(), source };
            NetworkList::parse(&serde_json::from_slice(&bytes).map_err(malformed)?)
        };
        match read() {
            Ok(list) => return Ok(list),
            Err(error) => {
                let words = format!("{}: {}", file.display(), Error::chain(&error));
                trouble.get_or_insert(words);
            }
        }
    }
    Err(Error::NoCniNetwork(trouble.unwrap_or_else(|| format!("no networks found in {shown}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_single_plugins_are_read_and_nonsense_is_told() {
        let check = |value: Value, expected: Result<(&str, &str, usize), &str>| {
            let found = NetworkList::parse(&value);
            match (found, expected) {
                (Ok(list), Ok(expected)) => assert_eq!((list.name.as_str(), list.version, list.len()), expected),
                (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{error}"),
                (found, expected) => panic!("{value}: {found:?}, not {expected:?}"),
            }
        };
        let bridge = json!({ "type": "bridge" });
        check(json!({ "name": "n", "cniVersion": "1.0.0", "plugins": [bridge, { "type": "portmap" }] }), Ok(("n", "1.0.0", 2)));
        check(json!({ "name": "n", "type": "bridge" }), Ok(("n", "0.1.0", 1)));
        check(json!({ "name": "n", "cniVersion": "0.4.0", "cniVersions": ["1.1.0", "1.0.0"], "plugins": [bridge] }), Ok(("n", "1.1.0", 1)));
        check(json!({ "name": "n", "cniVersion": "7.0.0", "plugins": [bridge] }), Err("7.0.0"));
        check(json!({ "name": "a/b", "plugins": [bridge] }), Err("name"));
        check(json!({ "plugins": [bridge] }), Err("name"));
        check(json!({ "name": "n", "plugins": [] }), Err("plugins"));
        check(json!({ "name": "n", "plugins": [{}] }), Err("type"));
        check(json!({ "name": "n", "plugins": [{ "type": "../sh" }] }), Err("type"));
        check(json!([]), Err("name"));
    }

    #[test]
    fn a_plugin_reads_its_part_with_what_it_wants_and_what_was_said_before() {
        let list = json!({ "name": "n", "cniVersion": "1.0.0", "plugins": [
            { "type": "bridge", "bridge": "b0" }, { "type": "portmap", "capabilities": { "portMappings": true, "ips": false } } ] });
        let list = NetworkList::parse(&list).expect("a list");
        let offered = json!({ "portMappings": [1], "ips": [2], "bandwidth": {} }).as_object().cloned().expect("an object");
        assert_eq!(list.input(0, &offered, None), json!({ "name": "n", "cniVersion": "1.0.0", "type": "bridge", "bridge": "b0" }));
        let second = list.input(1, &offered, Some(&json!({ "ips": [] })));
        assert_eq!((&second["runtimeConfig"], &second["prevResult"]), (&json!({ "portMappings": [1] }), &json!({ "ips": [] })));
        assert!(list.wants("portMappings") && !list.wants("ips"));
        assert_eq!(NetworkList::parse(&list.to_value()).ok(), Some(list));
    }

    #[test]
    fn the_first_file_that_can_be_used_counts() {
        let dir = crate::file::TestDir::new("cni-configurations");
        let write = |name: &str, text: &str| std::fs::write(dir.0.join(name), text).expect("written");
        assert!(matches!(first(&dir.0), Err(Error::NoCniNetwork(words)) if words.contains("no networks found")));
        write("10-broken.conflist", "{");
        assert!(matches!(first(&dir.0), Err(Error::NoCniNetwork(words)) if words.contains("10-broken.conflist")));
        write("05-readme.txt", r#"{ "name": "not-this", "type": "t" }"#);
        write("30-later.conf", r#"{ "name": "later", "type": "t" }"#);
        write("20-first.conflist", r#"{ "name": "first", "plugins": [{ "type": "t" }] }"#);
        assert_eq!(first(&dir.0).expect("a list").name, "first");
    }
}
