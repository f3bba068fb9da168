//! What rules are written in: quantities, CEL, structural schemas, definitions of kinds, paths, schedules.

use std::sync::Arc;

use pintle_api::custom::{self, Version};
use pintle_api::decode::{self, Format};
use pintle_api::printer::{self, IncludeObject};
use pintle_api::quantity::Quantity;
use pintle_api::{defaults, validate};
use pintle_cel::{Budget, Program, Value as Cel};
use pintle_module_workloads::Schedule;
use pintle_sdk::prelude::Time;
use pintle_structural::{FAILURES_MAX, JsonPath, Structural, structure};
use serde_json::{Value, json};

use crate::input::{chosen, halves, schema, text, texts};

/// A quantity's canonical form is a quantity, the same amount, and canonical.
pub fn quantity(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let Some(quantity) = Quantity::parse(text) else { return };
    let canonical = quantity.canonical();
    let again = Quantity::parse(&canonical).unwrap_or_else(|| panic!("{text:?} became {canonical:?}"));
    assert!(again.compare(quantity).is_eq(), "{text:?} became {canonical:?}");
    // 31.25Ki is 32000, which reads as a decimal number and then is 32k: upstream, too, needs two rounds to settle.
    let settled = again.canonical();
    let last = Quantity::parse(&settled).unwrap_or_else(|| panic!("{text:?} became {settled:?}"));
    assert!(last.compare(quantity).is_eq() && last.canonical() == settled, "{text:?} became {canonical:?}, then {settled:?}");
    assert!(quantity.units() >= quantity.millis() / 1000, "{text:?}");
}

/// Each notation.
pub fn quantity_seeds() -> Vec<Vec<u8>> {
    texts(&[
        "100m",
        "1Gi",
        "2e3",
        "-1.5",
        "+.5k",
        "0.0000000001",
        "9223372036854775807",
        "1E",
        "1E3",
        "8Ei",
        "1.25Ki",
        "12345678901234567890123456789012n",
    ])
}

/// An expression that compiles gives the same each time, within what it may cost.
pub fn cel(data: &[u8]) {
    let Some(source) = text(data) else { return };
    let schema = json!({"type": "object", "properties": {
        "n": {"type": "integer"}, "s": {"type": "string"}, "l": {"type": "array", "items": {"type": "string"}},
        "m": {"type": "object", "additionalProperties": {"type": "integer"}}, "t": {"type": "string", "format": "date-time"},
        "o": {"type": "object", "properties": {"p": {"x-kubernetes-int-or-string": true}}}, "any": {"x-kubernetes-preserve-unknown-fields": true},
    }});
    let object = json!({"n": 3, "s": "web-1", "l": ["a", "b"], "m": {"x": 1}, "t": "2026-01-02T03:04:05Z", "o": {"p": "q"}, "any": {"z": [1.5, null]}});
    let run = || {
        let program = Program::compile(source, &[("self", &schema), ("free", &Value::Null)], "bool")?;
        let budget = Budget::default();
        program.run(&[("self", Cel::of(&object, &schema)), ("free", Cel::free(&object))], &budget).map(|value| format!("{value:?}"))
    };
    assert_eq!(run(), run());
}

/// Expressions of each library.
pub fn cel_seeds() -> Vec<Vec<u8>> {
    texts(&[
        "self.n == 3 && self.s.startsWith('web') || size(self.l) > 1",
        "self.l.all(x, x.size() == 1) && self.l.exists_one(x, x == 'a') && self.l.map(x, x + x).filter(y, y != '').size() == 2",
        "has(self.o.p) ? self.o.p == 'q' : self.m['x'] in [1, 2]",
        "self.t < timestamp('2027-01-01T00:00:00Z') && self.t + duration('1h30m') > self.t && self.t.getFullYear() == 2026",
        "self.s.matches('^[a-z]+-[0-9]$') && self.s.split('-').join('_').upperAscii().replace('WEB', 'x').substring(1) == '_1'",
        "sets.contains(self.l, ['a']) && self.?o.?p.orValue('') == 'q' && [1, 2].sum() == 3 && !sets.intersects([1], [2.0])",
        "free.any.z[0] * 2.0 == 3.0 && type(free) == map && dyn(1) == 1u && int('7') % 4 == 3 && -1 < 0",
        "self.l.map(a, self.l.map(b, self.l.map(c, a + b + c))).size() == 2 && {'a': [1]}['a'][0] == 1",
        "isURL('https://x.example.com/a?b') && b'abc'.size() == 3 && r'\\d' != \"\\u00e9\" && self.s.format(['x']) == ''",
        "self.m.all(k, self.m[k] >= 1) && 9223372036854775807 + 1 == 0",
    ])
}

/// A pruned value has nothing more to prune, a filled one nothing more to fill; a check says no more than it may.
pub fn structural(data: &[u8]) {
    let (rules, value) = halves(data);
    let (Ok((rules, _)), Ok((mut value, _))) = (decode::parse(rules, Format::Json), decode::parse(value, Format::Json)) else { return };
    if !structure(&rules, "").is_empty() {
        return;
    }
    let schema = Structural::new(&rules);
    schema.prune(&mut value);
    let mut again = value.clone();
    assert!(schema.prune(&mut again).is_empty(), "pruned twice");
    assert_eq!(value, again, "pruned twice");
    schema.default(&mut value);
    let mut again = value.clone();
    schema.default(&mut again);
    assert_eq!(value, again, "filled in twice");
    let failures = schema.check(&value, Some(&again));
    assert!(failures.len() <= FAILURES_MAX, "{} failures", failures.len());
}

fn rich() -> Value {
    json!({"type": "object", "required": ["a"], "x-kubernetes-validations": [{"rule": "self.a >= 0", "message": "no"}], "properties": {
        "a": {"type": "integer", "minimum": 0, "maximum": 9, "multipleOf": 3, "default": 3},
        "b": {"type": "string", "pattern": "^x+$", "maxLength": 5, "enum": ["x", "xx"], "nullable": true},
        "c": {"type": "array", "maxItems": 3, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "required": ["k"], "properties": {"k": {"type": "string", "default": "d"}, "v": {"x-kubernetes-int-or-string": true}}}},
        "d": {"type": "object", "additionalProperties": {"type": "number"}, "maxProperties": 2},
        "e": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"f": {"type": "boolean"}}},
        "g": {"type": "string", "format": "date-time"},
        "h": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true},
        "i": {"type": "integer", "anyOf": [{"minimum": 1}, {"maximum": -1}], "not": {"enum": [5]}},
    }})
}

/// A schema with everything, and values that do and do not fit.
pub fn structural_seeds() -> Vec<Vec<u8>> {
    let values = [
        json!({"a": 3, "b": "xx", "c": [{"k": "1", "v": 2, "w": 3}, {"v": "x"}], "d": {"p": 1.5}, "e": {"f": true, "q": 1}, "g": "2024-01-02T03:04:05Z",
            "h": {"apiVersion": "v1", "kind": "X", "metadata": {"name": "n"}, "z": 1}, "i": 7}),
        json!({"a": "no", "b": null, "c": {}, "unknown": [], "i": 0}),
    ];
    values.iter().map(|value| format!("{}\0{value}", rich()).into_bytes()).collect()
}

/// A definition that is accepted gives a kind whose objects meet the same steps as others.
pub fn definition(data: &[u8]) {
    let (text, body) = halves(data);
    let (_, definitions) = chosen("CustomResourceDefinition");
    let Ok((mut definition, _)) = decode::decode(schema(), definitions, text, Format::Json) else { return };
    defaults::apply(schema(), definitions, &mut definition);
    if !validate::create(schema(), definitions, &definition).is_empty() {
        return;
    }
    let spec = &definition["spec"];
    let versions: Vec<_> = spec["versions"].as_array().into_iter().flatten().map(|entry| Arc::new(Version::new(spec, entry))).collect();
    let (all, rows) = custom::add(schema(), &definition, &spec["names"], &versions);
    let resource = rows.into_iter().find(|row| row.version == row.storage_version).expect("a version is stored");
    let Ok((mut value, _)) = decode::decode(&all, &resource, body, Format::Json) else { return };
    let issues = decode::conform_resource(&all, &resource, &mut value).expect("it conformed before");
    assert!(issues.is_empty(), "{issues:?}");
    defaults::apply(&all, &resource, &mut value);
    validate::create(&all, &resource, &value);
    let row = printer::row(&resource, &value, IncludeObject::None, "v1", jiff::Timestamp::UNIX_EPOCH);
    assert_eq!(row["cells"].as_array().map(Vec::len), printer::column_definitions(&resource).as_array().map(Vec::len));
}

/// A definition with everything, and an object of it.
pub fn definition_seeds() -> Vec<Vec<u8>> {
    let definition = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "things.example.com"}, "spec": {
    "group": "example.com", "scope": "Namespaced", "names": {"plural": "things", "kind": "Thing", "shortNames": ["th"]}, "versions": [
        {"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": rich()}}},
         "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.a", "statusReplicasPath": ".status.a"}},
         "selectableFields": [{"jsonPath": ".spec.b"}],
         "additionalPrinterColumns": [{"name": "A", "type": "integer", "jsonPath": ".spec.a"}, {"name": "When", "type": "date", "jsonPath": ".spec.g"}]},
    ]}});
    let thing = json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "x"}, "spec": {"a": 3, "c": [{"k": "1"}], "g": "2024-01-02T03:04:05Z"}});
    vec![format!("{definition}\0{thing}").into_bytes()]
}

/// What a path finds is in the object.
pub fn json_path(data: &[u8]) {
    let Some(path) = text(data).and_then(JsonPath::parse) else { return };
    let object =
        json!({"metadata": {"name": "n", "labels": {"a.b/c": "d"}}, "spec": {"list": [{"type": "A", "v": 1}, {"type": "B", "v": [2, 3]}]}});
    let whole = object.to_string();
    for found in path.find(&object).into_iter().take(1000) {
        assert!(whole.contains(&found.to_string()), "{found}");
    }
}

/// Paths of each form.
pub fn json_path_seeds() -> Vec<Vec<u8>> {
    texts(&[
        ".metadata.name",
        "{.spec.list[?(@.type==\"A\")].v}",
        ".metadata.labels['a.b/c']",
        "$.spec.list[*].v[0]",
        ".spec.list[-1:].v",
        ".metadata.labels.a\\.b/c",
    ])
}

/// The next time of a schedule is after now, and is the last one then.
pub fn cron(data: &[u8]) {
    let (schedule, zone) = halves(data);
    let (Some(schedule), Some(zone)) = (text(schedule), text(zone)) else { return };
    let Ok(schedule) = Schedule::parse(schedule, zone) else { return };
    let now = Time::parse("2026-03-29T00:30:00Z").expect("a time");
    let Some(next) = schedule.next(now) else { return };
    assert!(next > now, "{schedule:?}");
    assert_eq!(schedule.last(now, next), Some(next), "{schedule:?}");
    assert_eq!(schedule.last(now, Time(next.0 - 1)), None, "{schedule:?}");
}

/// Schedules of each form, in some zones.
pub fn cron_seeds() -> Vec<Vec<u8>> {
    texts(&[
        "*/15 3-4 * jan-mar mon\0Europe/Berlin",
        "30 2 29 2 *\0",
        "@hourly\0UTC",
        "5/20,1-9/2 0 13 * fri,7\0America/New_York",
        "0 0 ? * ?\0Asia/Kolkata",
    ])
}
