//! Custom resources: rows added at runtime are treated like those made at compile time.

use pintle_api::table::{DynamicField, DynamicType};
use pintle_api::{
    Container, Element, Relation, Resource, Schema, Scope, TypeId, Verbs, decode, defaults, discovery, openapi, patch, validate,
};
use serde_json::{Value, json};

fn field(name: &str, element: Element, target: Option<TypeId>, default: &str) -> DynamicField {
    DynamicField {
        name: name.into(),
        doc: format!("What {name} is."),
        container: Container::Single,
        element,
        target,
        required: false,
        relation: Relation::Unset,
        list_keys: String::new(),
        merge_key: String::new(),
        strategy: String::new(),
        default: default.into(),
    }
}

/// The built-in schema with `widgets` of `example.com/v1`, whose spec has a size that defaults to 3.
fn schema() -> Schema {
    let builtin = Schema::builtin();
    let metadata = builtin.type_named("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta").expect("ObjectMeta").id;
    let first = builtin.next_type();
    let spec = Schema::type_after(first, 1);
    let widget = DynamicType {
        name: "com.example.v1.Widget".into(),
        doc: "A widget.".into(),
        fields: vec![
            field("spec", Element::Object, Some(spec), ""),
            field("metadata", Element::Object, Some(metadata), ""),
            field("kind", Element::String, None, ""),
            field("apiVersion", Element::String, None, ""),
        ],
    };
    let spec = DynamicType {
        name: "com.example.v1.WidgetSpec".into(),
        doc: String::new(),
        fields: vec![field("size", Element::Int32, None, "3")],
    };
    let (schema, ids) = builtin.with_types(vec![widget, spec]);
    schema.with_resource(Resource {
        group: "example.com".into(),
        version: "v1".into(),
        kind: "Widget".into(),
        plural: "widgets".into(),
        singular: "widget".into(),
        list_kind: "WidgetList".into(),
        short_names: vec!["wd".into()],
        categories: Vec::new(),
        scope: Scope::Namespaced,
        verbs: Verbs::ALL,
        subresources: Vec::new(),
        type_id: Some(ids[0]),
        storage_group: "example.com".into(),
        storage_version: "v1".into(),
        custom: None,
    })
}

#[test]
fn a_row_added_at_runtime_drives_decoding_defaulting_and_validation() {
    let schema = schema();
    let widgets = schema.resource("example.com", "v1", "widgets").expect("widgets");
    let body = br#"{"metadata": {"name": "w", "namespace": "d"}, "spec": {"colour": "red"}}"#;
    let (mut widget, issues) = decode::decode(&schema, widgets, body, decode::Format::Json).expect("decoded");
    assert_eq!(issues.iter().map(ToString::to_string).collect::<Vec<_>>(), ["unknown field \"spec.colour\""]);
    defaults::apply(&schema, widgets, &mut widget);
    assert_eq!(widget["spec"], json!({"size": 3}));
    assert!(validate::create(&schema, widgets, &widget).is_empty());
    let wrong = decode::decode(&schema, widgets, br#"{"spec": {"size": "big"}}"#, decode::Format::Json).expect_err("refused");
    assert!(
        wrong.message.ends_with("cannot unmarshal string into Go struct field WidgetSpec.spec.size of type int32"),
        "{}",
        wrong.message
    );
    let strategic = patch::apply(&schema, widgets, patch::PatchType::Strategic, b"{}", &widget).expect_err("refused");
    assert_eq!(strategic.code, 415);
}

#[test]
fn a_row_added_at_runtime_is_discovered_and_documented() {
    let schema = schema();
    let list = discovery::resource_list(&schema, "example.com", "v1").expect("a list");
    assert_eq!(list["resources"][0]["shortNames"], json!(["wd"]));
    let document: Value = serde_json::from_slice(&openapi::v3(&schema, "example.com", "v1").expect("a document")).expect("JSON");
    let spec = &document["components"]["schemas"]["com.example.v1.WidgetSpec"];
    assert_eq!(spec["properties"]["size"]["default"], 3);
    assert!(document["components"]["schemas"]["com.example.v1.WidgetList"].is_object());
    assert_ne!(openapi::v2_hash(&schema), openapi::v2_hash(Schema::builtin()));
    assert_eq!(openapi::v2_hash(Schema::builtin()), openapi::v2_hash(Schema::builtin()));
}
