//! CustomResourceDefinitions and the objects that they make: what is refused and in which words, what is pruned and
//! filled in, how it is shown.

use std::sync::Arc;

use pintle_api::custom::{self, Version};
use pintle_api::decode::{self, Format};
use pintle_api::{Container, Element, Relation, Resource, Schema, defaults, discovery, openapi, printer, validate};
use serde_json::{Value, json};

fn definition(schema: Value) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "widgets.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList", "shortNames": ["wd"], "categories": ["all"]},
            "conversion": {"strategy": "None"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
        },
    })
}

fn spec(properties: Value) -> Value {
    json!({"type": "object", "properties": {"spec": {"type": "object", "properties": properties}}})
}

fn serve(definition: &Value) -> (Schema, Resource) {
    let entries = definition["spec"]["versions"].as_array().expect("versions");
    let versions: Vec<_> = entries.iter().map(|entry| Arc::new(Version::new(&definition["spec"], entry))).collect();
    let (schema, rows) = custom::add(Schema::builtin(), definition, &definition["spec"]["names"], &versions);
    (schema, rows.into_iter().find(|row| row.version == row.storage_version).expect("a stored version"))
}

fn refusals(definition: &Value) -> Vec<String> {
    let builtin = Schema::builtin();
    let resource = builtin.resource("apiextensions.k8s.io", "v1", "customresourcedefinitions").expect("definitions");
    validate::create(builtin, resource, definition).iter().map(ToString::to_string).collect()
}

fn widget(spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w", "namespace": "d"}, "spec": spec})
}

/// What is wrong with a widget of which the schema knows these properties of its spec.
fn wrong(properties: &Value, spec_value: &Value) -> Vec<String> {
    let (schema, resource) = serve(&definition(spec(properties.clone())));
    let mut found: Vec<String> =
        validate::create(&schema, &resource, &widget(spec_value.clone())).iter().map(ToString::to_string).collect();
    found.sort();
    found
}

#[test]
fn a_definition_that_is_not_structural_is_refused_with_the_place() {
    let at = "spec.versions[0].schema.openAPIV3Schema";
    for (schema, expected) in [
        (json!({"type": "string"}), "{at}.type: Invalid value: \"string\": must be object at the root"),
        (json!({"properties": {}}), "{at}.type: Required value: must not be empty at the root"),
        (spec(json!({"a": {}})), "{at}.properties[spec].properties[a].type: Required value: must not be empty for specified object fields"),
        (spec(json!({"a": {"type": "array"}})), "{at}.properties[spec].properties[a].items: Required value: must be specified"),
        (
            spec(json!({"a": {"type": "array", "items": {}}})),
            "{at}.properties[spec].properties[a].items.type: Required value: must not be empty for specified array items",
        ),
        (
            spec(json!({"a": {"type": "thing"}})),
            "{at}.properties[spec].properties[a].type: Unsupported value: \"thing\": supported values: \"array\", \"boolean\"",
        ),
        (
            spec(json!({"a": {"type": "string", "pattern": "("}})),
            "{at}.properties[spec].properties[a].pattern: Invalid value: \"(\": must be a valid regular expression",
        ),
        (
            spec(json!({"a": {"type": "object", "properties": {}, "additionalProperties": {"type": "string"}}})),
            "additionalProperties and properties are mutual exclusive",
        ),
        (spec(json!({"a": {"type": "object", "additionalProperties": false}})), "additionalProperties cannot be set to false"),
        (spec(json!({"a": {"type": "array", "uniqueItems": true, "items": {"type": "string"}}})), "uniqueItems cannot be set to true"),
        (spec(json!({"a": {"$ref": "#/x", "type": "string"}})), "{at}.properties[spec].properties[a].$ref: Forbidden"),
        (
            spec(json!({"a": {"type": "string", "anyOf": [{"type": "string"}]}})),
            "{at}.properties[spec].properties[a].anyOf[0].type: Forbidden: must be empty to be structural",
        ),
        (
            spec(json!({"a": {"type": "object", "anyOf": [{"properties": {"b": {}}}]}})),
            "anyOf[0].properties[b]: Required value: because it is defined",
        ),
        (
            spec(json!({"a": {"type": "array", "x-kubernetes-list-type": "map", "items": {"type": "object"}}})),
            "x-kubernetes-list-map-keys: Required value",
        ),
        (
            spec(json!({"a": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["n"],
            "items": {"type": "object", "properties": {"n": {"type": "string"}}}}})),
            "so it must have a default or be a required property",
        ),
        (
            spec(json!({"a": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "object"}}})),
            "must be atomic as item of a list",
        ),
        (
            spec(json!({"a": {"type": "integer", "default": "x"}})),
            "default: Invalid value: \"string\": {at}.properties[spec].properties[a].default in body must be of type integer: \"string\"",
        ),
        (spec(json!({"a": {"type": "object", "default": {"b": 1}}})), "must not have fields that the schema does not know"),
        (
            json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}}}),
            "must not specify anything other than name and generateName",
        ),
        (
            spec(json!({"a": {"type": "integer", "x-kubernetes-validations": [{"rule": "self.b > 1"}]}})),
            "{at}.properties[spec].properties[a].x-kubernetes-validations[0].rule: Invalid value: \"self.b > 1\": compilation failed",
        ),
        (spec(json!({"a": {"type": "integer", "x-kubernetes-validations": [{"rule": ""}]}})), "rule: Required value"),
        (
            spec(
                json!({"a": {"type": "array", "items": {"type": "string"}, "x-kubernetes-validations": [{"rule": "self.all(x, self.all(y, x == y))"}]}}),
            ),
            "properties[a].x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds budget by factor of more than 100x",
        ),
        (
            // Cheap by itself, but nothing says how many there are.
            spec(
                json!({"a": {"type": "array", "items": {"type": "array", "maxItems": 9, "items": {"type": "integer"}, "x-kubernetes-validations": [{"rule": "self.all(x, x > 3)"}]}}}),
            ),
            "properties[a].items.x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds budget by factor of",
        ),
        (
            spec(json!({"a": {"type": "integer", "x-kubernetes-validations": [{"rule": "self > 1", "optionalOldSelf": true}]}})),
            "may not be set when oldSelf is not used",
        ),
    ] {
        let (expected, found) = (expected.replace("{at}", at), refusals(&definition(schema.clone())));
        assert!(found.iter().any(|line| line.contains(&expected)), "{schema}\nwants {expected}\nfound {found:#?}");
    }
}

#[test]
fn a_definition_is_held_to_its_names_versions_and_paths() {
    let good = definition(spec(json!({"size": {"type": "integer"}})));
    assert_eq!(refusals(&good), Vec::<String>::new());
    let cases: Vec<(fn(&mut Value), &str)> = vec![
        (|d| d["metadata"]["name"] = json!("x.example.com"), "must be spec.names.plural+\".\"+spec.group"),
        (|d| d["spec"]["names"]["kind"] = json!("Wid_get"), "spec.names.kind: Invalid value: \"Wid_get\": may have mixed case"),
        (|d| d["spec"]["versions"][0]["storage"] = json!(false), "spec.versions"),
        (|d| d["spec"]["versions"][0]["schema"] = json!({}), "openAPIV3Schema: Required value: schemas are required"),
        (|d| d["spec"]["preserveUnknownFields"] = json!(true), "spec.preserveUnknownFields: Invalid value: true"),
        (
            |d| d["spec"]["conversion"] = json!({"strategy": "Webhook"}),
            "spec.conversion.webhookClientConfig: Required value: required when strategy is set to Webhook",
        ),
        (
            |d| {
                d["spec"]["conversion"] =
                    json!({"strategy": "Webhook", "webhook": {"clientConfig": {"url": "https://x"}, "conversionReviewVersions": ["v7"]}})
            },
            "spec.conversion.conversionReviewVersions: Invalid value: [\"v7\"]: must include at least one of v1, v1beta1",
        ),
        (
            |d| d["spec"]["conversion"] = json!({"strategy": "None", "webhook": {"conversionReviewVersions": ["v1"]}}),
            "spec.conversion.conversionReviewVersions: Forbidden: should not be set when strategy is not set to Webhook",
        ),
        (
            |d| d["status"] = json!({"storedVersions": ["v0"]}),
            "status.storedVersions[0]: Invalid value: \"v0\": missing from spec.versions",
        ),
        (
            |d| d["spec"]["versions"][0]["additionalPrinterColumns"] = json!([{"name": "A", "type": "text", "jsonPath": ".a"}]),
            "additionalPrinterColumns[0].type: Unsupported value",
        ),
        (
            |d| d["spec"]["versions"][0]["additionalPrinterColumns"] = json!([{"name": "A", "type": "string", "jsonPath": "a b"}]),
            "must be a simple json path",
        ),
        (
            |d| d["spec"]["versions"][0]["subresources"] = json!({"scale": {"specReplicasPath": ".a", "statusReplicasPath": ".status.b"}}),
            "must be a json path under .spec",
        ),
        (
            |d| d["spec"]["versions"][0]["selectableFields"] = json!([{"jsonPath": ".spec.none"}]),
            "selectableFields[0].jsonPath: Invalid value",
        ),
        (|d| d["spec"]["names"]["plural"] = json!("Widgets"), "spec.names.plural"),
    ];
    for (change, expected) in cases {
        let mut changed = good.clone();
        change(&mut changed);
        let found = refusals(&changed);
        assert!(found.iter().any(|line| line.contains(expected)), "wants {expected}\nfound {found:#?}");
    }
    let mut protected = good;
    protected["spec"]["group"] = json!("x.k8s.io");
    protected["metadata"]["name"] = json!("widgets.x.k8s.io");
    assert!(refusals(&protected).iter().any(|line| line.starts_with("metadata.annotations[api-approved.kubernetes.io]: Required value")));
    protected["metadata"]["annotations"] = json!({"api-approved.kubernetes.io": "https://github.com/x"});
    assert_eq!(refusals(&protected), Vec::<String>::new());
}

#[test]
fn objects_are_refused_in_upstreams_words() {
    let text = json!({"s": {"type": "string", "minLength": 2, "maxLength": 4, "pattern": "^a"}});
    let number = json!({"n": {"type": "integer", "minimum": 1, "maximum": 10, "multipleOf": 2}});
    let strict = json!({"n": {"type": "number", "minimum": 1, "exclusiveMinimum": true, "maximum": 2, "exclusiveMaximum": true}});
    let list = json!({"l": {"type": "array", "minItems": 1, "maxItems": 2, "items": {"type": "string"}}});
    let map = json!({"m": {"type": "object", "minProperties": 1, "maxProperties": 1, "additionalProperties": {"type": "integer"}}});
    let set = json!({"l": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}}});
    let keyed = json!({"l": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["n"],
        "items": {"type": "object", "required": ["n"], "properties": {"n": {"type": "string"}, "v": {"type": "integer"}}}}});
    let one = json!({"o": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}, "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}});
    let any = json!({"o": {"type": "string", "anyOf": [{"pattern": "^x"}, {"pattern": "^y"}]}});
    let not = json!({"o": {"type": "string", "not": {"enum": ["bad"]}}});
    let all = json!({"o": {"type": "integer", "allOf": [{"minimum": 3}]}});
    let formats = json!({"t": {"type": "string", "format": "date-time"}, "i": {"type": "string", "format": "ipv4"}, "u": {"type": "string", "format": "uuid"}, "x": {"type": "string", "format": "unknown"}});
    let embedded = json!({"e": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}});
    let needs = json!({"a": {"type": "object", "required": ["b"], "properties": {"b": {"type": "string", "enum": ["x", "y"]}}}});
    let ios = json!({"p": {"x-kubernetes-int-or-string": true}, "z": {"type": "string", "nullable": true}, "w": {"type": "string"}});
    let cases: Vec<(&Value, Value, Vec<&str>)> = vec![
        (&number, json!({"n": "x"}), vec!["spec.n: Invalid value: \"string\": spec.n in body must be of type integer: \"string\""]),
        (&number, json!({"n": 4}), vec![]),
        (&number, json!({"n": 4.0}), vec![]),
        (&number, json!({"n": 1.5}), vec!["spec.n: Invalid value: \"number\": spec.n in body must be of type integer: \"number\""]),
        (&number, json!({"n": 0}), vec!["spec.n: Invalid value: 0: spec.n in body should be greater than or equal to 1"]),
        (&number, json!({"n": 12}), vec!["spec.n: Invalid value: 12: spec.n in body should be less than or equal to 10"]),
        (&number, json!({"n": 3}), vec!["spec.n: Invalid value: 3: spec.n in body should be a multiple of 2"]),
        (&strict, json!({"n": 1}), vec!["spec.n: Invalid value: 1: spec.n in body should be greater than 1"]),
        (&strict, json!({"n": 2}), vec!["spec.n: Invalid value: 2: spec.n in body should be less than 2"]),
        (&text, json!({"s": "a"}), vec!["spec.s: Invalid value: \"a\": spec.s in body should be at least 2 chars long"]),
        (&text, json!({"s": "aaaaa"}), vec!["spec.s: Too long: may not be more than 4 bytes"]),
        (&text, json!({"s": "bb"}), vec!["spec.s: Invalid value: \"bb\": spec.s in body should match '^a'"]),
        (&list, json!({"l": []}), vec!["spec.l: Invalid value: 0: spec.l in body should have at least 1 items"]),
        (&list, json!({"l": ["a", "b", "c"]}), vec!["spec.l: Too many: 3: must have at most 2 items"]),
        (
            &list,
            json!({"l": ["a", 1]}),
            vec!["spec.l[1]: Invalid value: \"integer\": spec.l[1] in body must be of type string: \"integer\""],
        ),
        (&map, json!({"m": {}}), vec!["spec.m: Invalid value: 0: spec.m in body should have at least 1 properties"]),
        (&map, json!({"m": {"a": 1, "b": 2}}), vec!["spec.m: Too many: 2: must have at most 1 items"]),
        (
            &map,
            json!({"m": {"a": true}}),
            vec!["spec.m.a: Invalid value: \"boolean\": spec.m.a in body must be of type integer: \"boolean\""],
        ),
        (&set, json!({"l": ["a", "b", "a"]}), vec!["spec.l[2]: Duplicate value: \"a\""]),
        (&keyed, json!({"l": [{"n": "a"}, {"n": "a", "v": 1}]}), vec!["spec.l[1]: Duplicate value: {\"n\":\"a\"}"]),
        (&needs, json!({"a": {}}), vec!["spec.a.b: Required value"]),
        (&needs, json!({"a": {"b": "z"}}), vec!["spec.a.b: Unsupported value: \"z\": supported values: \"x\", \"y\""]),
        (
            &one,
            json!({"o": {}}),
            vec![
                "spec.o: Invalid value: \"\": \"spec.o\" must validate one and only one schema (oneOf). Found none valid",
                "spec.o.a: Required value",
            ],
        ),
        (
            &one,
            json!({"o": {"a": "1", "b": "2"}}),
            vec!["spec.o: Invalid value: \"\": \"spec.o\" must validate one and only one schema (oneOf). Found 2 valid alternatives"],
        ),
        (
            &any,
            json!({"o": "z"}),
            vec![
                "spec.o: Invalid value: \"\": \"spec.o\" must validate at least one schema (anyOf)",
                "spec.o: Invalid value: \"z\": spec.o in body should match '^x'",
            ],
        ),
        (&not, json!({"o": "bad"}), vec!["spec.o: Invalid value: \"\": \"spec.o\" must not validate the schema (not)"]),
        (
            &all,
            json!({"o": 2}),
            vec![
                "spec.o: Invalid value: \"\": \"spec.o\" must validate all the schemas (allOf)",
                "spec.o: Invalid value: 2: spec.o in body should be greater than or equal to 3",
            ],
        ),
        (
            &formats,
            json!({"t": "noon", "i": "1.2.3", "u": "x", "x": "anything"}),
            vec![
                "spec.i: Invalid value: \"1.2.3\": spec.i in body must be of type ipv4: \"1.2.3\"",
                "spec.t: Invalid value: \"noon\": spec.t in body must be of type date-time: \"noon\"",
                "spec.u: Invalid value: \"x\": spec.u in body must be of type uuid: \"x\"",
            ],
        ),
        (&ios, json!({"p": "80%", "z": null}), vec![]),
        (
            &ios,
            json!({"p": true, "w": null}),
            vec![
                "spec.p: Invalid value: \"boolean\": spec.p in body must be of type integer,string: \"boolean\"",
                "spec.w: Invalid value: \"null\": spec.w in body must be of type string: \"null\"",
            ],
        ),
        (&embedded, json!({"e": {"kind": "Pod"}}), vec!["spec.e.apiVersion: Required value: must not be empty"]),
    ];
    for (properties, value, mut expected) in cases {
        expected.sort_unstable();
        assert_eq!(wrong(properties, &value), expected, "{properties} {value}");
    }
}

#[test]
fn rules_judge_what_is_new_and_how_it_changed() {
    let properties = json!({
        "min": {"type": "integer"}, "max": {"type": "integer"},
        "fixed": {"type": "string", "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "fixed is immutable"}]},
        "grows": {"type": "integer", "x-kubernetes-validations": [{"rule": "!oldSelf.hasValue() || self >= oldSelf.value()", "optionalOldSelf": true, "messageExpression": "'must not shrink below ' + string(oldSelf.value())"}]},
    });
    let mut schema = spec(properties);
    schema["properties"]["spec"]["x-kubernetes-validations"] =
        json!([{"rule": "!has(self.min) || !has(self.max) || self.min <= self.max", "fieldPath": ".min", "reason": "FieldValueForbidden"}]);
    let definition = definition(schema);
    assert_eq!(refusals(&definition), Vec::<String>::new());
    let (schema, resource) = serve(&definition);
    let create =
        |spec: Value| -> Vec<String> { validate::create(&schema, &resource, &widget(spec)).iter().map(ToString::to_string).collect() };
    let update = |new: Value, old: Value| -> Vec<String> {
        let named = |spec| {
            let mut widget = widget(spec);
            widget["metadata"]["uid"] = json!("u");
            widget
        };
        validate::update(&schema, &resource, &named(new), &named(old)).iter().map(ToString::to_string).collect()
    };
    let none: Vec<String> = Vec::new();
    assert_eq!(create(json!({"min": 1, "max": 2, "fixed": "a", "grows": 1})), none);
    assert_eq!(
        create(json!({"min": 3, "max": 2})),
        ["spec.min: Forbidden: failed rule: !has(self.min) || !has(self.max) || self.min <= self.max"]
    );
    assert_eq!(update(json!({"fixed": "b"}), json!({"fixed": "a"})), ["spec.fixed: Invalid value: \"string\": fixed is immutable"]);
    assert_eq!(update(json!({"grows": 1}), json!({"grows": 2})), ["spec.grows: Invalid value: \"integer\": must not shrink below 2"]);
    assert_eq!(update(json!({"grows": 3}), json!({"grows": 2})), none);
    // What was wrong before and is as it was does not stand in the way of other changes.
    assert_eq!(update(json!({"min": "x", "grows": 3}), json!({"min": "x", "grows": 2})), none);
    let broken = create(json!({"min": "x"}));
    assert!(broken.iter().any(|line| line.contains("some validation rules were not checked")), "{broken:?}");
}

#[test]
fn a_rule_that_was_let_in_stays_and_a_new_one_is_judged() {
    let builtin = Schema::builtin();
    let resource = builtin.resource("apiextensions.k8s.io", "v1", "customresourcedefinitions").expect("definitions");
    let dear = json!([{"rule": "self.all(x, self.all(y, x == y))"}]);
    let of =
        |name: &str| definition(spec(json!({(name): {"type": "array", "items": {"type": "string"}, "x-kubernetes-validations": dear}})));
    let (old, mut new) = (of("a"), of("a"));
    new["metadata"]["labels"] = json!({"changed": "yes"});
    assert_eq!(validate::update(builtin, resource, &new, &old), []);
    assert!(validate::update(builtin, resource, &of("b"), &old).iter().any(|failure| failure.detail.contains("exceeds budget")));
}

#[test]
fn unknown_fields_are_pruned_with_a_note_and_defaults_filled_in() {
    let (schema, resource) = serve(&definition(spec(json!({
        "size": {"type": "integer", "default": 3},
        "nested": {"type": "object", "default": {}, "properties": {"on": {"type": "boolean", "default": true}}},
        "items": {"type": "array", "items": {"type": "object", "properties": {"n": {"type": "string", "default": "x"}}}},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"k": {"type": "object", "properties": {}}}},
        "map": {"type": "object", "additionalProperties": {"type": "string"}},
        "pod": {"type": "object", "x-kubernetes-embedded-resource": true, "properties": {"spec": {"type": "object", "properties": {}}}},
    }))));
    let body = json!({
        "metadata": {"name": "w", "lables": {}}, "extra": 1,
        "spec": {"size": null, "colour": "red", "items": [{"m": 1}], "free": {"any": 1, "k": {"gone": 1}}, "map": {"a": "b"},
            "pod": {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p"}, "spec": {"x": 1}, "other": 2}},
    });
    let (mut object, issues) = decode::decode(&schema, &resource, body.to_string().as_bytes(), Format::Json).expect("decoded");
    let mut issues: Vec<String> = issues.iter().map(ToString::to_string).collect();
    issues.sort();
    let expected = ["extra", "metadata.lables", "spec.colour", "spec.free.k.gone", "spec.items[0].m", "spec.pod.other", "spec.pod.spec.x"];
    assert_eq!(issues, expected.map(|path| format!("unknown field {path:?}")));
    defaults::apply(&schema, &resource, &mut object);
    assert_eq!(
        object["spec"],
        json!({"size": 3, "nested": {"on": true}, "items": [{"n": "x"}], "free": {"any": 1, "k": {}}, "map": {"a": "b"},
            "pod": {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p"}, "spec": {}}})
    );
    let again = object.clone();
    defaults::apply(&schema, &resource, &mut object);
    assert_eq!(object, again);
}

#[test]
fn a_schema_is_also_rows_of_the_table() {
    let (schema, resource) = serve(&definition(spec(json!({
        "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["port", "protocol"],
            "items": {"type": "object", "required": ["port", "protocol"], "properties": {"port": {"type": "integer"}, "protocol": {"type": "string"}}}},
        "finalizers": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
        "atom": {"type": "object", "x-kubernetes-map-type": "atomic", "properties": {"a": {"type": "string"}}},
        "matrix": {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
    }))));
    let view = schema.get(resource.type_id.expect("a type")).expect("the type");
    assert_eq!(view.name(), "com.example.v1.Widget");
    assert!(view.field("metadata").is_some_and(|field| field.target.is_some_and(|id| id.is_builtin())));
    let spec = view.target(&view.field("spec").expect("spec")).expect("the spec's type");
    let ports = spec.field("ports").expect("ports");
    assert_eq!((ports.container, ports.relation), (Container::List, Relation::Map));
    assert_eq!(ports.list_keys().collect::<Vec<_>>(), ["port", "protocol"]);
    assert!(spec.target(&ports).expect("a port's type").field("protocol").is_some());
    assert_eq!(spec.field("finalizers").expect("finalizers").relation, Relation::Set);
    assert_eq!(spec.field("atom").expect("atom").relation, Relation::Atomic);
    assert_eq!(spec.field("matrix").expect("matrix").element, Element::Any);
}

#[test]
fn columns_discovery_and_documents_show_what_the_definition_says() {
    let mut definition = definition(spec(json!({"size": {"type": "integer", "description": "How large it is."}})));
    definition["spec"]["versions"][0]["subresources"] =
        json!({"status": {}, "scale": {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size"}});
    definition["spec"]["versions"][0]["additionalPrinterColumns"] = json!([
        {"name": "Size", "type": "integer", "jsonPath": ".spec.size"},
        {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"},
        {"name": "First", "type": "string", "jsonPath": ".spec.list[0]", "priority": 1},
        {"name": "All", "type": "string", "jsonPath": ".spec.list[*]"},
        {"name": "Label", "type": "string", "jsonPath": ".metadata.labels.a\\.b/c"},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
        {"name": "None", "type": "string", "jsonPath": ".spec.none"},
    ]);
    assert_eq!(refusals(&definition), Vec::<String>::new());
    let (schema, resource) = serve(&definition);
    let object = json!({
        "metadata": {"name": "w", "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"a.b/c": "x"}},
        "spec": {"size": 3, "list": ["p", "q"]}, "status": {"conditions": [{"type": "Other", "status": "False"}, {"type": "Ready", "status": "True"}]},
    });
    let now = "2026-01-01T00:01:00Z".parse().expect("a time");
    let row = printer::row(&resource, &object, printer::IncludeObject::None, "v1", now);
    assert_eq!(row["cells"], json!(["w", 3, "True", "p", "p q", "x", "60s", null]));
    assert_eq!(
        printer::column_definitions(&resource)[3],
        json!({"name": "First", "type": "string", "format": "", "description": "", "priority": 1})
    );
    let list = discovery::resource_list(&schema, "example.com", "v1").expect("a list");
    let names: Vec<&str> = list["resources"].as_array().expect("resources").iter().filter_map(|entry| entry["name"].as_str()).collect();
    assert_eq!(names, ["widgets", "widgets/scale", "widgets/status"]);
    assert_eq!((&list["resources"][0]["shortNames"], &list["resources"][0]["categories"]), (&json!(["wd"]), &json!(["all"])));
    let document: Value = serde_json::from_slice(&openapi::v3(&schema, "example.com", "v1").expect("a document")).expect("JSON");
    let shown = &document["components"]["schemas"]["com.example.v1.Widget"];
    assert_eq!(shown["properties"]["spec"]["properties"]["size"]["description"], "How large it is.");
    assert_eq!(shown["x-kubernetes-group-version-kind"][0]["kind"], "Widget");
    assert!(document["components"]["schemas"]["io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"].is_object());
    let second: Value = serde_json::from_slice(&openapi::v2_json(&schema)).expect("JSON");
    assert!(second["definitions"]["com.example.v1.Widget"]["properties"]["spec"].is_object());
    // Documents of other groups stay what they were.
    assert_eq!(openapi::v3_hash(&schema, "apps", "v1"), openapi::v3_hash(Schema::builtin(), "apps", "v1"));
    assert_ne!(openapi::v2_hash(&schema), openapi::v2_hash(Schema::builtin()));
}
