use super::*;

fn check(json: &'static str, pointers: &[&str], expected: &str) {
    let projected = project(&Bytes::from_static(json.as_bytes()), pointers).expect("projects");
    assert_eq!(std::str::from_utf8(&projected).expect("text"), expected);
}

#[test]
fn a_projection_holds_what_the_pointers_name_and_nothing_else() {
    let json =
        r#"{"kind":"Pod","metadata":{"name":"a","labels":{"x/y":"1"}},"spec":{"nodeName":"n","containers":[{"name":"c"}]},"status":{}}"#;
    check(json, &["/metadata/name", "/spec/nodeName"], r#"{"metadata":{"name":"a"},"spec":{"nodeName":"n"}}"#);
    check(json, &["/metadata/labels/x~1y"], r#"{"metadata":{"labels":{"x/y":"1"}}}"#);
    check(json, &["/metadata", "/metadata/name"], r#"{"metadata":{"name":"a","labels":{"x/y":"1"}}}"#);
    check(json, &["/spec/containers/0/name"], r#"{"spec":{"containers":[{"name":"c"}]}}"#);
    check(json, &["/absent"], "{}");
    check(json, &[], json);
}
