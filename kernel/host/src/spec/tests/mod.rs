use super::*;
use serde_json::json;

fn check_says(spec: serde_json::Value, expected: Result<(), &str>) {
    let result = ModuleSpec::parse(&spec).map(|_| ()).map_err(|e| e.to_string());
    match (expected, result) {
        (Ok(()), Ok(())) => {}
        (Err(part), Err(text)) if text.contains(part) => {}
        (expected, result) => panic!("{spec}: expected {expected:?}, got {result:?}"),
    }
}

#[test]
fn a_spec_that_cannot_be_acted_on_names_its_field() {
    let controller = json!({"primary": "/pods", "watches": [{"resource": "apps/replicasets", "map": "owner"}], "related": [{"name": "x", "resource": "/pods", "by": "field:spec.nodeName"}]});
    let reads = |group: &str, resources: &[&str]| json!([{"apiGroups": [group], "resources": resources, "verbs": ["list"]}]);
    let all = reads("*", &["*"]);
    check_says(json!({"type": "controller", "source": {"builtin": "x"}, "permissions": all, "controller": controller}), Ok(()));
    check_says(
        json!({"type": "controller", "source": {"builtin": "x"}, "permissions": reads("", &["pods"]), "controller": controller}),
        Err("apps/replicasets"),
    );
    check_says(
        json!({"type": "controller", "source": {"builtin": "x"}, "permissions": reads("apps", &["*"]), "controller": {"primary": "*/*"}}),
        Err("*/*"),
    );
    let two = json!([{"primary": "/pods"}, {"primary": "apps/replicasets"}]);
    check_says(json!({"type": "controller", "source": {"builtin": "x"}, "permissions": all, "controllers": two}), Ok(()));
    check_says(
        json!({"type": "controller", "source": {"builtin": "x"}, "permissions": reads("", &["pods"]), "controllers": two}),
        Err("apps/replicasets"),
    );
    check_says(json!({"type": "controller", "source": {"builtin": "x"}, "controllers": []}), Err("spec.controller"));
    check_says(json!({"type": "scheduler", "source": {"file": "x"}, "permissions": reads("", &["pods", "nodes", "namespaces"])}), Ok(()));
    check_says(json!({"type": "scheduler", "source": {"file": "x"}, "permissions": reads("", &["pods", "nodes"])}), Err("namespaces"));
    check_says(json!({"type": "scheduler", "source": {"file": "x"}, "permissions": all, "mirror": true}), Err("mirror"));
    check_says(json!({"type": "scheduler", "source": {"file": "x"}, "permissions": all, "limits": {"cores": 1}}), Err("cores"));
    check_says(json!({"type": "scheduler", "source": {"file": "x"}, "apiLevel": 99}), Err("spec.apiLevel"));
    check_says(json!({"type": "admission", "source": {"file": "x"}, "admission": {"rules": []}}), Ok(()));
    check_says(json!({"type": "controller", "source": {"builtin": "x"}}), Err("spec.controller"));
    check_says(json!({"type": "gizmo", "source": {"builtin": "x"}}), Err("spec.type"));
    check_says(json!({"type": "scheduler", "source": {}}), Err("spec.source"));
    check_says(json!({"type": "scheduler", "source": {"file": "a", "oci": "b"}}), Err("spec.source"));
    check_says(json!({"type": "scheduler", "source": {"file": "a"}, "limits": {"memoryBytes": 1}}), Err("spec.limits.memoryBytes"));
    check_says(json!({"type": "scheduler", "source": {"file": "a"}, "grants": ["network"]}), Err("spec.grants"));
    check_says(json!({"type": "admission", "source": {"file": "x"}, "admission": {"phases": ["later"]}}), Err("spec.admission.phases"));
    check_says(json!({"type": "admission", "source": {"file": "x"}, "admission": {"rules": [{"scope": "Galaxy"}]}}), Err("rules.scope"));
    check_says(
        json!({"type": "admission", "source": {"file": "x"}, "admission": {"objectSelector": {"matchExpressions": [{"key": "a", "operator": "Likes"}]}}}),
        Err("objectSelector"),
    );
    check_says(
        json!({"type": "controller", "source": {"file": "x"}, "controller": {"primary": "/pods", "watches": [{"resource": "/pods", "map": "telepathy"}]}}),
        Err("map"),
    );
}

#[test]
fn the_modules_that_ship_are_granted_what_they_are_shown() {
    for folder in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../../modules")).expect("modules/").flatten() {
        let Ok(text) = std::fs::read(folder.path().join("module.json")) else { continue };
        let mut module: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
        module["spec"]["source"] = json!({"builtin": "x"});
        ModuleSpec::parse(&module["spec"]).unwrap_or_else(|e| panic!("{}: {e}", folder.path().display()));
    }
}
