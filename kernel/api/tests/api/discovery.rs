//! What clients learn before they ask for anything.

use pintle_api::Schema;
use pintle_api::discovery::{self, Root};
use serde_json::{Value, json};

fn find<'a>(list: &'a Value, key: &str, name: &str) -> &'a Value {
    list.as_array().into_iter().flatten().find(|entry| entry[key] == name).unwrap_or(&Value::Null)
}

#[test]
fn resource_lists_say_what_clients_need_to_find_a_resource() {
    let apps = discovery::resource_list(Schema::builtin(), "apps", "v1").expect("apps/v1");
    assert_eq!((&apps["kind"], &apps["groupVersion"]), (&json!("APIResourceList"), &json!("apps/v1")));
    assert_eq!(
        find(&apps["resources"], "name", "deployments"),
        &json!({"name": "deployments", "singularName": "deployment", "namespaced": true, "kind": "Deployment",
                "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"],
                "shortNames": ["deploy"], "categories": ["all"], "storageVersionHash": "8aSe+NMegvE="})
    );
    assert_eq!(
        find(&apps["resources"], "name", "deployments/scale"),
        &json!({"name": "deployments/scale", "singularName": "", "namespaced": true, "group": "autoscaling", "version": "v1", "kind": "Scale", "verbs": ["get", "patch", "update"]})
    );
    let core = discovery::resource_list(Schema::builtin(), "", "v1").expect("v1");
    assert_eq!(find(&core["resources"], "name", "pods")["storageVersionHash"], "xPOwRZ+Yhw8=");
    assert_eq!(discovery::resource_list(Schema::builtin(), "apps", "v9"), None);
}

#[test]
fn groups_come_in_the_order_in_which_clients_try_them() {
    let groups = discovery::group_list(Schema::builtin());
    let names: Vec<&str> = groups["groups"].as_array().into_iter().flatten().filter_map(|g| g["name"].as_str()).collect();
    assert_eq!(names[..4], ["apiregistration.k8s.io", "apps", "events.k8s.io", "authentication.k8s.io"]);
    assert!(names.contains(&"pintle.dev") && !names.contains(&""));
    let autoscaling = discovery::group(Schema::builtin(), "autoscaling").expect("autoscaling");
    assert_eq!(autoscaling["preferredVersion"], json!({"groupVersion": "autoscaling/v2", "version": "v2"}));
    assert_eq!(autoscaling["versions"].as_array().map(Vec::len), Some(2));
}

#[test]
fn aggregated_discovery_tells_everything_at_once() {
    let core = discovery::aggregated(Schema::builtin(), Root::Core);
    assert_eq!(core["items"].as_array().map(Vec::len), Some(1));
    let pods = find(&core["items"][0]["versions"][0]["resources"], "resource", "pods");
    assert_eq!((&pods["scope"], &pods["responseKind"]), (&json!("Namespaced"), &json!({"group": "", "version": "v1", "kind": "Pod"})));
    assert_eq!(find(&pods["subresources"], "subresource", "eviction")["responseKind"]["kind"], "Eviction");
    let groups = discovery::aggregated(Schema::builtin(), Root::Groups);
    assert_eq!(groups["items"].as_array().map(Vec::len), discovery::group_list(Schema::builtin())["groups"].as_array().map(Vec::len));
}
