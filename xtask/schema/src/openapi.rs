//! Reads k8s-openapi: one file a type, `pub struct` first, then its impls.

use crate::model::{Container, Element, FieldDef, KindDef, Model, Scope, Shape, TypeDef};
use std::path::Path;

/// Every type below `dir` (one Kubernetes version's folder) and the kinds of its stable group versions.
pub fn read(dir: &Path) -> Model {
    let mut model = Model::default();
    let mut files = Vec::new();
    walk(dir, &mut files);
    files.sort();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        if let Some(name) = text.strip_prefix("// Generated from definition ").and_then(|rest| rest.lines().next()) {
            read_type(&mut model, name.trim(), &text);
        }
    }
    assert!(model.types.len() > 600 && model.kinds.len() > 70, "k8s-openapi's layout changed: {} types", model.types.len());
    model.kinds.sort_by(|a, b| (&a.group, &a.version, &a.plural).cmp(&(&b.group, &b.version, &b.plural)));
    model
}

fn walk(dir: &Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())).flatten() {
        let path = entry.path();
        if path.is_dir() {
            walk(&path, files);
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
}

fn read_type(model: &mut Model, name: &str, text: &str) {
    if let Some(kind) = read_kind(name, text) {
        model.kinds.push(kind);
    }
    if element_of(name).is_some() {
        return;
    }
    let Some(start) = text.find("\npub struct ") else { return };
    let (head, body) = text.split_at(start + 1);
    let first = body.lines().next().unwrap_or_default();
    if first.contains('<') {
        return;
    }
    if first.contains("(pub ") {
        // A struct without fields upstream: its presence is its meaning.
        model.types.insert(name.to_owned(), TypeDef { doc: docs(head.lines()), ..TypeDef::default() });
        return;
    }
    let mut def = TypeDef { doc: docs(head.lines()), ..TypeDef::default() };
    let required = required_list(text);
    let names = json_names(text);
    let mut doc = Vec::new();
    for line in body.lines().skip(1).take_while(|line| *line != "}") {
        let line = line.trim();
        if line.starts_with("///") {
            doc.push(line);
        } else if let Some(rest) = line.strip_prefix("pub ") {
            let (rust, type_text) = rest.split_once(": ").unwrap_or_else(|| panic!("{name}: {line}"));
            let json = names.iter().find(|(_, r)| r == rust).unwrap_or_else(|| panic!("{name}: no JSON name for {rust}")).0.clone();
            let mut field =
                FieldDef { doc: docs(doc.drain(..)), shape: shape(name, type_text.trim_end_matches(',')), ..FieldDef::default() };
            // The source marks metadata and spec as required for its users' comfort; upstream's schema does not.
            field.required = required.contains(&json) && json != "metadata" && !(json == "spec" && names.iter().any(|(j, _)| j == "kind"));
            field.inline = matches!(json.as_str(), "metadata" | "spec" | "status") && field.shape.element == Element::Object;
            field.json = json;
            merge_strategy(text, rust, &mut field);
            def.fields.push(field);
        }
    }
    if text.contains("impl crate::Resource for") {
        for (json, doc) in TYPE_META {
            if !def.fields.iter().any(|field| field.json == json) {
                let shape = Shape { element: Element::String, ..Shape::default() };
                def.fields.push(FieldDef { json: json.into(), doc: doc.into(), shape, ..FieldDef::default() });
            }
        }
    }
    def.fields.sort_by(|a, b| a.json.cmp(&b.json));
    model.types.insert(name.to_owned(), def);
}

/// The two fields that every object carries.
pub const TYPE_META: [(&str, &str); 2] = [
    (
        "apiVersion",
        "APIVersion names the versioned schema that this representation of an object follows. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources",
    ),
    (
        "kind",
        "Kind names the REST resource that this object represents, in CamelCase. It cannot be updated. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds",
    ),
];

fn read_kind(name: &str, text: &str) -> Option<KindDef> {
    let body = text.split("\nimpl crate::Resource for ").nth(1)?;
    let constant = |key: &str| {
        let rest = body.split(&format!("const {key}: &'static str = \"")).nth(1)?;
        rest.split('"').next().map(str::to_owned)
    };
    let version = constant("VERSION")?;
    let stable = version.starts_with('v') && version[1..].chars().all(|c| c.is_ascii_digit());
    let plural = constant("URL_PATH_SEGMENT")?;
    let machinery = name.starts_with("io.k8s.apimachinery.");
    let scope = match body.split("type Scope = crate::").nth(1)?.split(';').next()? {
        "ClusterResourceScope" => Scope::Cluster,
        "NamespaceResourceScope" => Scope::Namespaced,
        "SubResourceScope" => Scope::Subresource,
        other => panic!("{name}: scope {other}"),
    };
    (stable && !plural.is_empty() && !machinery).then(|| KindDef {
        group: constant("GROUP").unwrap_or_default(),
        version,
        kind: constant("KIND").unwrap_or_default(),
        plural,
        scope,
        type_name: name.to_owned(),
    })
}

fn required_list(text: &str) -> Vec<String> {
    let Some(rest) = text.split("\n            \"required\": [\n").nth(1) else { return Vec::new() };
    let list = rest.split("\n            ]").next().unwrap_or_default();
    list.lines().map(|line| line.trim().trim_matches([',', '"']).to_owned()).collect()
}

/// (JSON name, Rust name) pairs from the deserializer's key match.
fn json_names(text: &str) -> Vec<(String, String)> {
    text.lines()
        .filter_map(|line| {
            let (json, key) = line.trim().strip_prefix('"')?.split_once("\" => Field::Key_")?;
            Some((json.to_owned(), key.trim_end_matches(',').to_owned()))
        })
        .collect()
}

/// The list's or map's relationship as the source's deep merge knows it: the fallback where k8s-pb is older.
fn merge_strategy(text: &str, rust: &str, field: &mut FieldDef) {
    const PREFIX: &str = "crate::merge_strategies::";
    for (how, element) in [("list::atomic", "atomic"), ("list::set", "set"), ("map::atomic", "atomic"), ("map::granular", "granular")] {
        if text.contains(&format!("{PREFIX}{how}(&mut self.{rust}, ")) {
            field.element = element.to_owned();
        }
    }
    let Some(rest) = text.split(&format!("{PREFIX}list::map(\n            &mut self.{rust},\n")).nth(1) else { return };
    let keys = rest.lines().nth(1).unwrap_or_default();
    field.element = "map".to_owned();
    field.list_keys = keys.split("lhs.").skip(1).filter_map(|part| part.split(' ').next()).map(camel).collect();
    if let [key] = field.list_keys.as_slice() {
        field.merge_key = key.clone();
        field.strategy = "merge".to_owned();
    }
}

/// `device_id` to `deviceId`; good for the merge keys, which have no acronyms (asserted against upstream's table by a test).
fn camel(rust: &str) -> String {
    let mut out = String::new();
    let mut upper = false;
    for c in rust.trim_end_matches('_').chars() {
        match c {
            '_' => upper = true,
            c if upper => {
                out.extend(c.to_uppercase());
                upper = false;
            }
            c => out.push(c),
        }
    }
    out
}

fn docs<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    let lines: Vec<&str> =
        lines.filter_map(|line| line.trim().strip_prefix("///")).map(|line| line.strip_prefix(' ').unwrap_or(line)).collect();
    let mut text = lines.join("\n");
    for c in ["[", "]", "<", ">"] {
        text = text.replace(&format!("\\{c}"), c);
    }
    text.trim().to_owned()
}

fn shape(owner: &str, text: &str) -> Shape {
    let text = unwrap_generic(text, "Option").unwrap_or(text);
    if let Some(inner) = unwrap_generic(text, "std::vec::Vec") {
        return Shape { container: Container::List, ..element(owner, inner) };
    }
    if let Some(inner) = unwrap_generic(text, "std::collections::BTreeMap") {
        let value = inner.split_once(", ").unwrap_or_else(|| panic!("{owner}: {text}")).1;
        return match unwrap_generic(value, "std::vec::Vec") {
            Some(item) => Shape { container: Container::MapOfList, ..element(owner, item) },
            None => Shape { container: Container::Map, ..element(owner, value) },
        };
    }
    element(owner, unwrap_generic(text, "std::boxed::Box").unwrap_or(text))
}

fn unwrap_generic<'a>(text: &'a str, outer: &str) -> Option<&'a str> {
    text.strip_prefix(outer)?.strip_prefix('<')?.strip_suffix('>')
}

fn element(owner: &str, text: &str) -> Shape {
    let simple = |element| Shape { element, ..Shape::default() };
    match text {
        "bool" => simple(Element::Bool),
        "i32" => simple(Element::Int32),
        "i64" => simple(Element::Int64),
        "f64" => simple(Element::Float),
        "std::string::String" => simple(Element::String),
        "crate::ByteString" => simple(Element::Bytes),
        "crate::serde_json::Value" => simple(Element::Any),
        path => {
            let path = path.strip_prefix("crate::").unwrap_or_else(|| panic!("{owner}: type {text}"));
            let name = definition_name(path);
            match element_of(&name) {
                Some(element) => Shape { element, target: schema_target(element), ..Shape::default() },
                None => Shape { element: Element::Object, target: name, ..Shape::default() },
            }
        }
    }
}

fn definition_name(path: &str) -> String {
    let dotted = path.replace("::", ".");
    let dotted = dotted.replacen("apiextensions_apiserver.", "apiextensions-apiserver.", 1);
    format!("io.k8s.{}", dotted.replacen("kube_aggregator.", "kube-aggregator.", 1))
}

const JSON_SCHEMA: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";

fn schema_target(element: Element) -> String {
    let union = matches!(element, Element::SchemaOrBool | Element::SchemaOrArray | Element::SchemaOrStrings);
    if union { JSON_SCHEMA.to_owned() } else { String::new() }
}

/// Definitions that are values rather than objects with fields.
fn element_of(name: &str) -> Option<Element> {
    Some(match name.rsplit('.').next().unwrap_or_default() {
        "Time" => Element::Time,
        "MicroTime" => Element::MicroTime,
        "Duration" => Element::Duration,
        "Quantity" => Element::Quantity,
        "IntOrString" => Element::IntOrString,
        "JSON" => Element::Any,
        "FieldsV1" | "RawExtension" => Element::AnyObject,
        "JSONSchemaPropsOrBool" => Element::SchemaOrBool,
        "JSONSchemaPropsOrArray" => Element::SchemaOrArray,
        "JSONSchemaPropsOrStringArray" => Element::SchemaOrStrings,
        _ => return None,
    })
}
