use super::*;

fn rule(verbs: &str, groups: &str, resources: &str, names: &str) -> Rule {
    let list = |text: &str| {
        text.split(' ').filter(|word| !word.is_empty()).map(|word| if word == "core" { String::new() } else { word.to_owned() }).collect()
    };
    Rule {
        verbs: list(verbs),
        api_groups: list(groups),
        resources: list(resources),
        resource_names: list(names),
        non_resource_urls: vec![],
    }
}

fn check(rule: &Rule, verb: &str, group: &str, resource: &str, name: &str, expected: bool) {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let action = Action { verb, is_resource: true, group, resource, subresource, name, ..Action::default() };
    assert_eq!(rule.allows(&action), expected, "{rule:?} {action:?}");
}

#[test]
fn rules_match_verbs_groups_resources_subresources_and_names() {
    let pods = rule("get list", "core", "pods pods/log", "");
    check(&pods, "get", "", "pods", "p", true);
    check(&pods, "get", "", "pods/log", "p", true);
    check(&pods, "get", "", "pods/exec", "p", false);
    check(&pods, "delete", "", "pods", "p", false);
    check(&pods, "get", "apps", "pods", "p", false);
    check(&rule("*", "*", "*", ""), "escalate", "x", "y/z", "", true);
    check(&rule("update", "*", "*/scale", ""), "update", "apps", "deployments/scale", "d", true);
    check(&rule("update", "*", "*/scale", ""), "update", "apps", "deployments", "d", false);
    check(&rule("get", "core", "secrets", "one"), "get", "", "secrets", "one", true);
    check(&rule("get", "core", "secrets", "one"), "list", "", "secrets", "", false);
}

#[test]
fn paths_match_exactly_or_by_prefix() {
    assert!(url_matches("/healthz", "/healthz"));
    assert!(url_matches("/openapi/*", "/openapi/v3"));
    assert!(!url_matches("/healthz", "/healthz/x"));
}

#[test]
fn a_binding_names_users_groups_and_service_accounts() {
    let binding: Binding = serde_json::from_value(serde_json::json!({
        "roleRef": { "kind": "Role", "name": "r" },
        "subjects": [{ "kind": "ServiceAccount", "name": "s" }, { "kind": "Group", "name": "g" }],
    }))
    .unwrap();
    let account = Caller::user("system:serviceaccount:ns:s", Vec::<String>::new());
    let names = |caller, namespace| binding.subject(caller, namespace).map(|subject| subject.name.as_str());
    assert_eq!(names(&account, "ns"), Some("s"));
    assert_eq!(names(&account, "other"), None);
    assert_eq!(names(&account, ""), None);
    assert_eq!(names(&Caller::user("u", ["g"]), "other"), Some("g"));
}
