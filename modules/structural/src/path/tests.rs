use super::Path;

#[test]
fn a_path_displays_as_upstream_writes_it() {
    let (spec, containers) = (Path::Root.key("spec"), "containers");
    let list = spec.key(containers);
    let first = list.index(0);
    assert_eq!(first.key("image").to_string(), "spec.containers[0].image");
    assert_eq!(spec.key("nodeSelector").map_key("a/b").to_string(), "spec.nodeSelector[a/b]");
}
