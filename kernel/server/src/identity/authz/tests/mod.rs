use super::*;

#[test]
fn a_refusal_says_who_cannot_do_what_where() {
    let caller = Caller::user("jane", Vec::<String>::new());
    let action =
        Action { verb: "get", is_resource: true, resource: "pods", subresource: "log", namespace: "a", name: "p", ..Action::default() };
    let error = forbidden(&caller, &action);
    let expected = r#"pods "p" is forbidden: User "jane" cannot get resource "pods/log" in API group "" in the namespace "a""#;
    assert_eq!(error.message, expected);
    let action = Action { verb: "list", is_resource: true, group: "apps", resource: "deployments", ..Action::default() };
    let expected =
        r#"deployments.apps is forbidden: User "jane" cannot list resource "deployments" in API group "apps" at the cluster scope"#;
    assert_eq!(forbidden(&caller, &action).message, expected);
    let action = Action { verb: "get", path: "/metrics", ..Action::default() };
    assert_eq!(forbidden(&caller, &action).message, r#"forbidden: User "jane" cannot get path "/metrics""#);
}
