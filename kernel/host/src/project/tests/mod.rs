use super::*;

fn check(pointers: &[&str], object: &str, expected: &str) {
    let pointers: Vec<String> = pointers.iter().map(|p| (*p).to_owned()).collect();
    let row = match Projection::new(&pointers) {
        Projection::Fields(fields) => serde_json::from_str::<&RawValue>(object).ok().and_then(|raw| fields.cut(raw)).unwrap_or_default(),
        Projection::Metadata => metadata_only(object.as_bytes(), object.find("\"metadata\"").unwrap_or(0)).unwrap_or_default(),
        Projection::Whole => object.into(),
    };
    assert_eq!(String::from_utf8_lossy(&row), expected);
}

#[test]
fn a_row_carries_the_named_fields_and_the_type() {
    let pod = r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a","labels":{"x/y":"}"}},"spec":{"nodeName":"n","containers":[{"name":"c"}]},"status":{"phase":"Running"}}"#;
    check(&[], pod, pod);
    check(&["/metadata"], pod, r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a","labels":{"x/y":"}"}}}"#);
    check(
        &["/metadata/name", "/spec/nodeName", "/absent"],
        pod,
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{"nodeName":"n"}}"#,
    );
    check(
        &["/metadata/labels/x~1y", "/status"],
        pod,
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"labels":{"x/y":"}"}},"status":{"phase":"Running"}}"#,
    );
    check(&["/spec/nodeName/deeper"], pod, r#"{"apiVersion":"v1","kind":"Pod","spec":{"nodeName":null}}"#);
}
