use super::*;

#[test]
fn a_key_parses_back_into_resource_and_suffix() {
    for (group, plural, namespace, name) in [("", "pods", "default", "web-1"), ("apps", "deployments", "a", "b"), ("", "nodes", "", "n1")] {
        let resource = ResourceKey::new(group, plural);
        let suffix = suffix(namespace, name);
        let key = of(&resource, &suffix);
        assert_eq!(parse(&key), Some((resource, suffix.as_ref())));
    }
    assert_eq!(parse(b"/registry/core/pods/"), None);
    assert_eq!(parse(b"/other"), None);
}

#[test]
fn a_segment_is_never_a_path() {
    for bad in ["", ".", "..", "a/b", "a%2f", "a\n"] {
        assert!(!is_segment(bad), "{bad:?}");
    }
    assert!(is_segment("system:controller:x"));
}
