//! Label selectors.

use pintle_values::selector::LabelSelector;
use serde_json::json;

/// Whether `text` matches the labels `a=b, n=5`, or the message that refuses it.
fn run(text: &str) -> String {
    match LabelSelector::parse(text) {
        Ok(selector) => selector.matches_labels(&json!({"a": "b", "n": "5", "x.io/y": ""})).to_string(),
        Err(error) => error.message,
    }
}

#[test]
fn label_selectors_match_as_upstreams_do() {
    for (text, expected) in [
        ("", "true"),
        ("a=b", "true"),
        ("a==b", "true"),
        ("a = b", "true"),
        ("a!=b", "false"),
        ("z!=b", "true"),
        ("a", "true"),
        ("!a", "false"),
        ("!z", "true"),
        ("a in (b,c)", "true"),
        ("a in(c)", "false"),
        ("a notin (c, d)", "true"),
        ("z notin (c)", "true"),
        ("n>4", "true"),
        ("n<4", "false"),
        ("a>4", "false"),
        ("a=b,n=5", "true"),
        ("a=b,n=6", "false"),
        ("x.io/y", "true"),
        ("x.io/y=", "true"),
        ("in=x", "false"),
        ("a in b", "unable to parse requirement: found 'b', expected: '('"),
        ("=b", "unable to parse requirement: found '=b', expected: identifier"),
        ("n>x", "unable to parse requirement: values[0][n]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer"),
    ] {
        assert_eq!(run(text), expected, "{text}");
    }
    assert!(run("a/b/c=d").starts_with("unable to parse requirement: key: Invalid value: \"a/b/c\""));
    assert_eq!(LabelSelector::parse("a=b,c in (d,e),!f,g").expect("valid").to_string(), "a=b,c in (d,e),!f,g");
}

#[test]
fn selector_objects_match_and_an_absent_one_matches_nothing() {
    let labels = json!({"a": "b"});
    let matches = |selector| LabelSelector::from_object(&selector).map(|s| s.matches_labels(&labels)).map_err(|e| e.message);
    assert_eq!(matches(json!({})), Ok(true));
    assert_eq!(matches(json!(null)), Ok(false));
    assert_eq!(matches(json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "DoesNotExist"}]})), Ok(true));
    assert_eq!(matches(json!({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["b"]}]})), Ok(false));
    assert!(matches(json!({"matchExpressions": [{"key": "a", "operator": "Like"}]})).is_err());
}
