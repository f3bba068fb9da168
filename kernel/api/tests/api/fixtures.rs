//! Upstream's round-trip fixtures: every field of every stable kind set at once.

use pintle_api::Schema;
use pintle_api::decode::conform_resource;
use serde_json::Value;

#[test]
fn fixtures_decode_without_an_unknown_field() {
    let Some(folder) = crate::shared_data("api-fixtures") else { return };
    let schema = Schema::builtin();
    let (mut held, mut failures) = (0, Vec::new());
    for entry in std::fs::read_dir(folder).expect("readable").flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let mut value: Value = serde_json::from_slice(&std::fs::read(&path).expect("readable")).expect("JSON");
        let name = path.file_stem().and_then(|n| n.to_str()).unwrap_or_default().to_owned();
        let api_version = value["apiVersion"].as_str().unwrap_or_default().to_owned();
        let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
        let Some(resource) = schema.resource_for_kind(group, version, value["kind"].as_str().unwrap_or_default()) else {
            println!("not a resource of ours: {name}");
            continue;
        };
        held += 1;
        match conform_resource(schema, resource, &mut value) {
            Ok(issues) => failures.extend(issues.iter().map(|issue| format!("{name}: {issue}"))),
            Err(error) => failures.push(format!("{name}: {error}")),
        }
    }
    println!("{held} fixtures held");
    assert!(held > 60 && failures.is_empty(), "{}", failures.join("\n"));
}
