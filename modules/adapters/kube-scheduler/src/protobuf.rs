//! Pods and Nodes as Kubernetes writes them in protobuf, out of JSON: by a table of the messages, because guests read nothing else.
//!
//! A line of the table is a message: its name, and for each field `JSON name:tags:element`. Tags are those of the messages that JSON leaves out, outermost first, and
//! the field's own, with dots between; an element is a letter or the name of a message, after `[]` in a list and `{}` in a map. The tests write the table out of
//! the kernel's schema, and hold what is written here to what the kernel writes.

use pintle_sdk::{Time, serde_json::Value};
use std::{collections::HashMap, sync::LazyLock};

const TABLE: &str = include_str!("messages.rows");

static MESSAGES: LazyLock<HashMap<&str, HashMap<&str, Field>>> = LazyLock::new(|| TABLE.lines().filter_map(line).collect());

struct Field {
    /// Outermost first, its own last.
    tags: Vec<u32>,
    container: Container,
    element: &'static str,
}

#[derive(PartialEq)]
enum Container {
    Single,
    List,
    Map,
}

fn line(text: &'static str) -> Option<(&'static str, HashMap<&'static str, Field>)> {
    let mut words = text.split(' ');
    Some((words.next()?, words.filter_map(field).collect()))
}

fn field(word: &'static str) -> Option<(&'static str, Field)> {
    let (name, rest) = word.split_once(':')?;
    let (tags, element) = rest.split_once(':')?;
    let (container, element) = match element.get(..2) {
        Some("[]") => (Container::List, &element[2..]),
        Some("{}") => (Container::Map, &element[2..]),
        _ => (Container::Single, element),
    };
    Some((name, Field { tags: tags.split('.').filter_map(|tag| tag.parse().ok()).collect(), container, element }))
}

/// The message `name` of an object; what does not fit it is left out.
pub fn message(name: &str, object: &Value) -> Vec<u8> {
    let (Some(fields), Some(object)) = (MESSAGES.get(name), object.as_object()) else { return Vec::new() };
    let mut parts: Vec<(&[u32], Vec<u8>)> = object
        .iter()
        .filter_map(|(key, value)| {
            let field = fields.get(key.as_str())?;
            Some((&field.tags[..], written(field, *field.tags.last()?, value)))
        })
        .collect();
    parts.sort_by_key(|(tags, _)| *tags);
    let mut out = Vec::new();
    nest(&parts, 0, &mut out);
    out
}

/// Fields with their tags from `depth` on, sorted: those that share a message get one.
fn nest(parts: &[(&[u32], Vec<u8>)], depth: usize, out: &mut Vec<u8>) {
    for group in parts.chunk_by(|(one, _), (other, _)| one.len() > depth + 1 && other.len() > depth + 1 && one[depth] == other[depth]) {
        if let [(tags, bytes)] = group
            && tags.len() == depth + 1
        {
            out.extend_from_slice(bytes);
            continue;
        }
        let mut inner = Vec::new();
        nest(group, depth + 1, &mut inner);
        put_bytes(out, group[0].0[depth], &inner);
    }
}

fn written(field: &Field, tag: u32, value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    match (&field.container, value) {
        (Container::Single, value) => element(field.element, tag, value, &mut out),
        (Container::List, Value::Array(list)) => list.iter().for_each(|item| element(field.element, tag, item, &mut out)),
        (Container::Map, Value::Object(map)) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            for (key, value) in entries {
                let mut entry = Vec::new();
                put_bytes(&mut entry, 1, key.as_bytes());
                element(field.element, 2, value, &mut entry);
                put_bytes(&mut out, tag, &entry);
            }
        }
        _ => {}
    }
    out
}

fn element(kind: &str, tag: u32, value: &Value, out: &mut Vec<u8>) {
    match (kind, value) {
        ("b", Value::Bool(flag)) => put_number(out, tag, u64::from(*flag)),
        ("i", Value::Number(number)) => put_number(out, tag, number.as_i64().unwrap_or(0) as u64),
        ("s", Value::String(text)) => put_bytes(out, tag, text.as_bytes()),
        ("q", Value::String(text)) => {
            let mut quantity = Vec::new();
            put_bytes(&mut quantity, 1, text.as_bytes());
            put_bytes(out, tag, &quantity);
        }
        ("t", Value::String(text)) => {
            let millis = Time::parse(text).map_or(0, |time| time.0);
            let mut time = Vec::new();
            put_number(&mut time, 1, millis.div_euclid(1000) as u64);
            put_number(&mut time, 2, millis.rem_euclid(1000) as u64 * 1_000_000);
            put_bytes(out, tag, &time);
        }
        ("t", Value::Null) => put_bytes(out, tag, b""),
        ("n", Value::Number(_) | Value::String(_)) => {
            let text = value.as_str();
            let mut either = Vec::new();
            put_number(&mut either, 1, u64::from(text.is_some()));
            put_number(&mut either, 2, value.as_i64().unwrap_or(0) as u64);
            put_bytes(&mut either, 3, text.unwrap_or_default().as_bytes());
            put_bytes(out, tag, &either);
        }
        (name, value) if name.len() > 1 => put_bytes(out, tag, &message(name, value)),
        _ => {}
    }
}

fn put_number(out: &mut Vec<u8>, tag: u32, value: u64) {
    put_varint(out, u64::from(tag) << 3);
    put_varint(out, value);
}

/// A field of bytes: a text or a message.
pub fn put_bytes(out: &mut Vec<u8>, tag: u32, bytes: &[u8]) {
    put_varint(out, u64::from(tag) << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use pintle_api::{Container, Element, Field, Schema, TypeView, proto};
    use pintle_sdk::serde_json::json;
    use std::{collections::BTreeMap, fs};

    fn view(name: &str) -> TypeView<'static> {
        Schema::builtin().type_named(&format!("io.k8s.api.core.v1.{name}")).expect("a type")
    }

    /// The table of the messages that these types lead to.
    fn table(mut queue: Vec<TypeView<'static>>) -> String {
        let mut lines: BTreeMap<&str, (&str, String)> = BTreeMap::new();
        while let Some(view) = queue.pop() {
            if let Some((known, _)) = lines.get(view.short_name()) {
                assert_eq!(*known, view.name(), "two messages of one name");
                continue;
            }
            let words: Vec<String> = view.fields().filter_map(|field| word(view, &field)).collect();
            lines.insert(view.short_name(), (view.name(), format!("{} {}\n", view.short_name(), words.join(" "))));
            queue.extend(
                view.fields().filter(|field| field.element == Element::Object && field.tag != 0).filter_map(|field| view.target(&field)),
            );
        }
        lines.into_values().map(|(_, line)| line).collect()
    }

    fn word(view: TypeView<'_>, field: &Field<'_>) -> Option<String> {
        let container = match field.container {
            Container::Single => "",
            Container::List => "[]",
            Container::Map => "{}",
            Container::MapOfList => return None,
        };
        let element = match field.element {
            Element::Bool => "b",
            Element::Int32 | Element::Int64 => "i",
            Element::String => "s",
            Element::Time | Element::MicroTime => "t",
            Element::Quantity => "q",
            Element::IntOrString => "n",
            Element::Object => view.target(field)?.short_name(),
            _ => return None,
        };
        let outer: String = field.outer.iter().filter(|tag| **tag != 0).map(|tag| format!("{tag}.")).collect();
        (field.tag != 0).then(|| format!("{}:{outer}{}:{container}{element}", field.name, field.tag))
    }

    #[test]
    fn the_table_is_that_of_the_kernels_schema() {
        let (file, wanted) = (concat!(env!("CARGO_MANIFEST_DIR"), "/src/messages.rows"), table(vec![view("Pod"), view("Node")]));
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            fs::write(file, &wanted).expect("written");
        }
        assert!(fs::read_to_string(file).expect("the table") == wanted, "{file} is stale: run this test with UPDATE_EXPECT=1");
    }

    fn check(name: &str, object: &Value) {
        let kernels = proto::encode_kind(view(name), object);
        assert_eq!(message(name, object), proto::unwrap(&kernels).expect("an envelope").raw);
    }

    #[test]
    fn what_is_written_is_what_the_kernel_writes() {
        let pod = json!({
            "metadata": {"name": "p", "namespace": "default", "labels": {"b": "2", "a": "1"}, "deletionTimestamp": "2026-01-02T03:04:05Z"},
            "spec": {
                "containers": [{
                    "name": "c", "image": "web:1",
                    "ports": [{"containerPort": 80}],
                    "resources": {"requests": {"cpu": "100m", "memory": "1Gi"}},
                    "livenessProbe": {"httpGet": {"port": "http", "path": "/"}, "periodSeconds": 3},
                    "readinessProbe": {"tcpSocket": {"port": 80}},
                }],
                "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}, {"name": "w", "configMap": {"name": "m", "defaultMode": 420}}],
                "tolerations": [{"key": "k", "operator": "Exists", "tolerationSeconds": -1}],
                "hostNetwork": true,
                "nodeName": "n1",
                "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a", "b"]}]}
                ]}}},
            },
            "status": {"phase": "Running"},
        });
        check("Pod", &pod);
        let node = json!({
            "metadata": {"name": "n1", "annotations": {"x": "y"}},
            "spec": {"taints": [{"key": "k", "effect": "NoSchedule", "timeAdded": "2026-01-02T03:04:05Z"}], "unschedulable": true},
            "status": {
                "allocatable": {"cpu": "4", "pods": "110"},
                "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": null}],
                "images": [{"names": ["web:1"], "sizeBytes": 5_000_000_000_u64}],
            },
        });
        check("Node", &node);
    }
}
