//! Field ownership and server-side apply: what stands, what is written by whom, and what stands then.

use pintle_api::apply::{Force, Ownership, Writer, applied, created, read_config, updated};
use pintle_api::{Schema, defaults};
use serde_json::{Value, json};

const NOW: &str = "2026-01-02T03:04:05Z";

/// An object and the requests that were made of it.
struct Story {
    path: &'static str,
    object: Value,
    now: String,
}

impl Story {
    fn of(path: &'static str) -> Story {
        Story { path, object: json!({}), now: NOW.to_owned() }
    }

    /// `kubectl/status`: the manager, and the subresource that it writes.
    fn writer<'a>(&'a self, who: &'a str) -> Writer<'a> {
        let (manager, subresource) = who.split_once('/').unwrap_or((who, ""));
        Writer { manager, subresource, now: &self.now }
    }

    fn at(mut self, now: &str) -> Story {
        now.clone_into(&mut self.now);
        self
    }

    fn take(mut self, mut object: Value, ownership: Ownership) -> Story {
        ownership.put_into(&mut object);
        self.object = object;
        self
    }

    #[track_caller]
    fn update(self, who: &str, yaml: &str) -> Story {
        let mut new = crate::object(self.path, yaml);
        if self.object.get("metadata").is_some() {
            new["metadata"]["managedFields"] = self.object["metadata"]["managedFields"].clone();
        }
        let resource = crate::resource(self.path);
        defaults::apply(Schema::builtin(), resource, &mut new);
        let ownership = match self.object.get("metadata") {
            None => created(Schema::builtin(), resource, self.writer(who), &new),
            Some(_) => updated(Schema::builtin(), resource, self.writer(who), &self.object, &new),
        };
        self.take(new, ownership)
    }

    fn try_apply(&self, who: &str, force: Force, yaml: &str) -> Result<(Value, Ownership), pintle_api::ApiError> {
        let resource = crate::resource(self.path);
        let (config, _) = read_config(Schema::builtin(), resource, "x", yaml.as_bytes())?;
        applied(Schema::builtin(), resource, self.writer(who), force, &self.object, &config)
    }

    #[track_caller]
    fn apply(self, who: &str, yaml: &str) -> Story {
        let (object, ownership) = self.try_apply(who, Force::No, yaml).unwrap_or_else(|e| panic!("{e}"));
        self.take(object, ownership)
    }

    #[track_caller]
    fn force(self, who: &str, yaml: &str) -> Story {
        let (object, ownership) = self.try_apply(who, Force::Yes, yaml).unwrap_or_else(|e| panic!("{e}"));
        self.take(object, ownership)
    }

    /// The apply is refused with this message.
    #[track_caller]
    fn refuses(self, who: &str, yaml: &str, message: &str) -> Story {
        let error = self.try_apply(who, Force::No, yaml).expect_err("refused");
        assert_eq!(error.message, message);
        self
    }

    /// What is at the pointer.
    #[track_caller]
    fn has(self, pointer: &str, expected: Value) -> Story {
        assert_eq!(self.object.pointer(pointer), Some(&expected).filter(|value| !value.is_null()), "{:#}", self.object);
        self
    }

    /// The entries, each as `Operation manager[/subresource]: fields`.
    #[track_caller]
    fn owned(self, expected: &[(&str, Value)]) -> Story {
        let entries = self.object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
        let text = |entry: &Value, key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        let seen: Vec<(String, Value)> = entries
            .iter()
            .map(|entry| {
                let subresource = entry["subresource"].as_str().map(|s| format!("/{s}")).unwrap_or_default();
                (format!("{} {}{subresource}", text(entry, "operation"), text(entry, "manager")), entry["fieldsV1"].clone())
            })
            .collect();
        let expected: Vec<(String, Value)> = expected.iter().map(|(who, fields)| ((*who).to_owned(), fields.clone())).collect();
        assert_eq!(seen, expected, "{:#}", self.object);
        self
    }
}

#[test]
fn a_create_owns_what_it_sets_as_upstream_lists_it() {
    // The list that a v1.3x cluster shows for `kubectl run x --image=i --labels app=x --port=80`.
    let fields = json!({
        "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
        "f:spec": {
            "f:containers": {"k:{\"name\":\"x\"}": {
                ".": {}, "f:image": {}, "f:imagePullPolicy": {}, "f:name": {},
                "f:ports": {".": {}, "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}, "f:protocol": {}}},
                "f:resources": {}, "f:terminationMessagePath": {}, "f:terminationMessagePolicy": {},
            }},
            "f:dnsPolicy": {}, "f:enableServiceLinks": {}, "f:restartPolicy": {}, "f:schedulerName": {}, "f:securityContext": {},
            "f:terminationGracePeriodSeconds": {},
        },
    });
    let story = Story::of("v1/pods").update(
        "kubectl-run",
        "metadata: {name: x, namespace: n, labels: {app: x}}\nspec: {containers: [{name: x, image: i, ports: [{containerPort: 80}]}]}",
    );
    let entry = &story.object["metadata"]["managedFields"][0];
    let rest = (&entry["apiVersion"], &entry["time"], &entry["fieldsType"], &entry["operation"]);
    assert_eq!(rest, (&json!("v1"), &json!(NOW), &json!("FieldsV1"), &json!("Update")));
    story.owned(&[("Update kubectl-run", fields)]);
}

#[test]
fn an_update_takes_what_it_changes_and_drops_what_it_removes() {
    Story::of("v1/configmaps")
        .update("a", "metadata: {name: x}\ndata: {one: '1', two: '2', three: '3'}")
        .owned(&[("Update a", json!({"f:data": {".": {}, "f:one": {}, "f:three": {}, "f:two": {}}}))])
        .at("2026-01-02T04:00:00Z")
        .update("b", "metadata: {name: x}\ndata: {one: '1', two: changed}")
        .owned(&[("Update a", json!({"f:data": {".": {}, "f:one": {}}})), ("Update b", json!({"f:data": {"f:two": {}}}))])
        // Nothing changes: no entry, no time.
        .at("2026-01-02T05:00:00Z")
        .update("c", "metadata: {name: x}\ndata: {one: '1', two: changed}")
        .has("/metadata/managedFields/1/time", json!("2026-01-02T04:00:00Z"))
        .has("/metadata/managedFields/2", Value::Null);
}

#[test]
fn two_managers_own_different_keys_of_one_config_map() {
    Story::of("v1/configmaps")
        .apply("a", "{apiVersion: v1, kind: ConfigMap, metadata: {name: x}, data: {one: '1'}}")
        .apply("b", "{apiVersion: v1, kind: ConfigMap, metadata: {name: x}, data: {two: '2'}}")
        .has("/data", json!({"one": "1", "two": "2"}))
        .owned(&[("Apply a", json!({"f:data": {"f:one": {}}})), ("Apply b", json!({"f:data": {"f:two": {}}}))])
        // What a manager no longer sends goes; what the other sends stays.
        .apply("a", "{apiVersion: v1, kind: ConfigMap, metadata: {name: x}, data: {three: '3'}}")
        .has("/data", json!({"two": "2", "three": "3"}))
        // Both may say the same.
        .apply("b", "{apiVersion: v1, kind: ConfigMap, metadata: {name: x}, data: {two: '2', three: '3'}}")
        .apply("a", "{apiVersion: v1, kind: ConfigMap, metadata: {name: x}}")
        .has("/data", json!({"two": "2", "three": "3"}))
        .owned(&[("Apply b", json!({"f:data": {"f:three": {}, "f:two": {}}}))]);
}

#[test]
fn another_value_for_anothers_field_is_a_conflict_unless_it_is_taken_by_force() {
    let deployment = |replicas: &str, image: &str| {
        format!(
            "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: x}}, spec: {{replicas: {replicas}, selector: {{matchLabels: {{a: b}}}}, \
             template: {{metadata: {{labels: {{a: b}}}}, spec: {{containers: [{{name: c, image: {image}}}]}}}}}}}}"
        )
    };
    let story = Story::of("apps/v1/deployments").apply("first", &deployment("1", "i"));
    let error = story.try_apply("second", Force::No, &deployment("2", "i")).expect_err("a conflict");
    let status = error.to_status();
    assert_eq!((&status["code"], &status["reason"]), (&json!(409), &json!("Conflict")));
    let cause = json!({"reason": "FieldManagerConflict", "message": "conflict with \"first\"", "field": ".spec.replicas"});
    assert_eq!(status["details"]["causes"], json!([cause]));
    story
        .refuses("second", &deployment("2", "i"), "Apply failed with 1 conflict: conflict with \"first\": .spec.replicas")
        .refuses(
            "second",
            &deployment("2", "j"),
            "Apply failed with 2 conflicts: conflicts with \"first\":\n- .spec.replicas\n- .spec.template.spec.containers[name=\"c\"].image",
        )
        .force("second", &deployment("2", "i"))
        .has("/spec/replicas", json!(2))
        .refuses("first", &deployment("1", "i"), "Apply failed with 1 conflict: conflict with \"second\": .spec.replicas")
        .update("scaler/scale", &deployment("5", "i"))
        .refuses(
            "second",
            &deployment("2", "i"),
            "Apply failed with 1 conflict: conflict with \"scaler\" with subresource \"scale\" using apps/v1: .spec.replicas",
        );
}

#[test]
fn lists_with_two_keys_are_told_apart_by_both() {
    let dns = "{apiVersion: v1, kind: Service, metadata: {name: x}, spec: {ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53}]}}";
    Story::of("v1/services")
        .apply("a", dns)
        .has("/spec/ports", json!([{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53}]))
        .owned(&[(
            "Apply a",
            json!({"f:spec": {"f:ports": {
                "k:{\"port\":53,\"protocol\":\"TCP\"}": {".": {}, "f:name": {}, "f:port": {}},
                "k:{\"port\":53,\"protocol\":\"UDP\"}": {".": {}, "f:name": {}, "f:port": {}, "f:protocol": {}},
            }}}),
        )])
        .apply("b", "{apiVersion: v1, kind: Service, metadata: {name: x}, spec: {ports: [{port: 80, protocol: TCP}]}}")
        .apply("a", "{apiVersion: v1, kind: Service, metadata: {name: x}, spec: {ports: [{name: dns-tcp, port: 53, protocol: TCP}]}}")
        .has("/spec/ports", json!([{"name": "dns-tcp", "port": 53, "protocol": "TCP"}, {"port": 80, "protocol": "TCP"}]))
        .refuses(
            "a",
            "{apiVersion: v1, kind: Service, metadata: {name: x, namespace: n}, spec: {ports: [{port: 80}, {port: 80, protocol: TCP}]}}",
            "failed to create typed patch object (n/x; /v1, Kind=Service): .spec.ports: duplicate entries for key [port=80,protocol=\"TCP\"]",
        );
}

#[test]
fn sets_merge_and_atomic_lists_are_replaced() {
    Story::of("v1/configmaps")
        .apply("a", "{apiVersion: v1, kind: ConfigMap, metadata: {name: x, finalizers: [f/a]}}")
        .apply("b", "{apiVersion: v1, kind: ConfigMap, metadata: {name: x, finalizers: [f/b]}}")
        .has("/metadata/finalizers", json!(["f/a", "f/b"]))
        .apply("a", "{apiVersion: v1, kind: ConfigMap, metadata: {name: x}}")
        .has("/metadata/finalizers", json!(["f/b"]))
        .owned(&[("Apply b", json!({"f:metadata": {"f:finalizers": {"v:\"f/b\"": {}}}}))]);
    let pod =
        |args: &str| format!("{{apiVersion: v1, kind: Pod, metadata: {{name: x}}, spec: {{containers: [{{name: c, args: {args}}}]}}}}");
    Story::of("v1/pods")
        .apply("a", &pod("[one, two]"))
        .apply("a", &pod("[three]"))
        .has("/spec/containers/0/args", json!(["three"]))
        .refuses("b", &pod("[four]"), "Apply failed with 1 conflict: conflict with \"a\": .spec.containers[name=\"c\"].args");
}

#[test]
fn elements_keep_their_places_and_only_the_owners_go() {
    let env = |names: &[&str]| {
        let list: Vec<String> = names.iter().map(|name| format!("{{name: {name}, value: v}}")).collect();
        format!("{{apiVersion: v1, kind: Pod, metadata: {{name: x}}, spec: {{containers: [{{name: c, env: [{}]}}]}}}}", list.join(", "))
    };
    let names = |story: &Story| -> Vec<String> {
        let list = story.object["spec"]["containers"][0]["env"].as_array().cloned().unwrap_or_default();
        list.iter().map(|item| item["name"].as_str().unwrap_or_default().to_owned()).collect()
    };
    let story = Story::of("v1/pods").apply("a", &env(&["A", "B", "C"])).apply("b", &env(&["X", "B", "Y"]));
    assert_eq!(names(&story), ["A", "X", "B", "C", "Y"]);
    let story = story.apply("a", &env(&["C", "A"]));
    assert_eq!(names(&story), ["X", "B", "C", "Y", "A"]);
}

#[test]
fn status_is_owned_by_who_writes_the_status() {
    Story::of("apps/v1/deployments")
        .apply("a", "{apiVersion: apps/v1, kind: Deployment, metadata: {name: x}, spec: {replicas: 1}, status: {replicas: 7}}")
        .owned(&[("Apply a", json!({"f:spec": {"f:replicas": {}}}))])
        .apply("c/status", "{apiVersion: apps/v1, kind: Deployment, metadata: {name: x}, spec: {replicas: 9}, status: {replicas: 7}}")
        .owned(&[("Apply a", json!({"f:spec": {"f:replicas": {}}})), ("Apply c/status", json!({"f:status": {"f:replicas": {}}}))]);
}

#[test]
fn what_was_there_before_the_first_apply_is_held_against_it() {
    let mut story = Story::of("v1/configmaps").update("a", "metadata: {name: x}\ndata: {k: old, l: l}");
    story.object["metadata"].as_object_mut().expect("metadata").remove("managedFields");
    // Nobody follows an object that has no entries until somebody applies.
    let story = story.update("b", "metadata: {name: x}\ndata: {k: older, l: l}").owned(&[]);
    story
        .refuses(
            "c",
            "{apiVersion: v1, kind: ConfigMap, metadata: {name: x}, data: {k: new}}",
            "Apply failed with 1 conflict: conflict with \"before-first-apply\" using v1: .data.k",
        )
        .apply("c", "{apiVersion: v1, kind: ConfigMap, metadata: {name: x}, data: {k: older}}")
        .owned(&[
            ("Apply c", json!({"f:data": {"f:k": {}}})),
            ("Update before-first-apply", json!({"f:data": {".": {}, "f:k": {}, "f:l": {}}})),
        ]);
}

#[test]
fn one_empty_entry_resets_the_list() {
    let story = Story::of("v1/configmaps").update("a", "metadata: {name: x}\ndata: {k: v}");
    let new = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "managedFields": [{}]}, "data": {"k": "v"}});
    let ownership = updated(Schema::builtin(), crate::resource("v1/configmaps"), story.writer("b"), &story.object, &new);
    assert_eq!((ownership.entries.len(), ownership.changed), (0, true));
    // A subresource's writer cannot.
    let ownership = updated(Schema::builtin(), crate::resource("v1/configmaps"), story.writer("b/status"), &story.object, &new);
    assert_eq!((ownership.entries.len(), ownership.changed), (1, false));
}

#[test]
fn the_oldest_updaters_of_many_are_put_together() {
    let mut story = Story::of("v1/configmaps").apply("apply", "{apiVersion: v1, kind: ConfigMap, metadata: {name: x}, data: {a: a}}");
    let mut data = String::from("a: a");
    for at in 0..14 {
        data = format!("{data}, k{at:02}: v");
        story = story
            .at(&format!("2026-01-02T04:00:{at:02}Z"))
            .update(&format!("u{at:02}"), &format!("metadata: {{name: x}}\ndata: {{{data}}}"));
    }
    let names: Vec<&str> =
        story.object["metadata"]["managedFields"].as_array().expect("entries").iter().filter_map(|e| e["manager"].as_str()).collect();
    assert_eq!(names, ["apply", "ancient-changes", "u05", "u06", "u07", "u08", "u09", "u10", "u11", "u12", "u13"]);
    let ancient = &story.object["metadata"]["managedFields"][1];
    assert_eq!(ancient["fieldsV1"], json!({"f:data": {"f:k00": {}, "f:k01": {}, "f:k02": {}, "f:k03": {}, "f:k04": {}}}));
    assert_eq!(ancient["time"], "2026-01-02T04:00:04Z");
}

#[test]
fn kubectl_takes_over_from_its_own_client_side_apply() {
    let sent = r#"{"apiVersion":"v1","data":{"k":"old","l":"l"},"kind":"ConfigMap","metadata":{"annotations":{},"name":"x"}}"#;
    let mut live = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"k": "old", "l": "l"}});
    live["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/last-applied-configuration": sent});
    let story = Story::of("v1/configmaps").update("kubectl-client-side-apply", &live.to_string());
    let config = "{apiVersion: v1, kind: ConfigMap, metadata: {name: x}, data: {k: new}}";
    // Any other manager conflicts; kubectl does not.
    let story =
        story.refuses("other", config, "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using v1: .data.k");
    let story = story.apply("kubectl", config).has("/data/k", json!("new"));
    let note = story.object["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"].as_str().expect("noted");
    assert_eq!(serde_json::from_str::<Value>(note).expect("JSON")["data"], json!({"k": "new"}));
    // What client-side apply did not send is anybody's.
    let story = story.at("2026-01-03T00:00:00Z").update("b", "{metadata: {name: x}, data: {k: elses, l: l}}");
    story.refuses("kubectl", config, "Apply failed with 1 conflict: conflict with \"b\" using v1: .data.k");
}

#[test]
fn an_apply_that_says_nothing_new_changes_nothing() {
    let config = "{apiVersion: v1, kind: ConfigMap, metadata: {name: x, labels: {a: b}}, data: {k: v}}";
    let story = Story::of("v1/configmaps").apply("a", config).at("2027-01-01T00:00:00Z");
    let (object, ownership) = story.try_apply("a", Force::No, config).expect("applied");
    assert_eq!((&object["data"], ownership.changed), (&json!({"k": "v"}), false));
    assert_eq!(ownership.entries[0]["time"], NOW);
    let (_, ownership) = story.try_apply("b", Force::No, config).expect("applied");
    assert!(ownership.changed && ownership.entries.len() == 2);
}

#[test]
fn configurations_that_cannot_be_are_refused() {
    let story = || Story::of("v1/configmaps");
    for (config, message) in [
        (
            "{apiVersion: apps/v1, kind: ConfigMap, metadata: {name: x}}",
            "Incorrect version specified in apply patch. Specified patch version: apps/v1, expected: v1",
        ),
        ("{kind: ConfigMap, metadata: {name: x}}", "Incorrect version specified in apply patch. Specified patch version: , expected: v1"),
        (
            "{apiVersion: v1, kind: Secret, metadata: {name: x}}",
            "the kind in the data (Secret) does not match the expected kind (ConfigMap)",
        ),
        ("{apiVersion: v1, kind: ConfigMap, metadata: {name: x, managedFields: []}}", "metadata.managedFields must be nil"),
        ("{apiVersion: v1, kind: ConfigMap, metadata: 7}", "metadata is not an object"),
        (
            "{apiVersion: v1, kind: ConfigMap, metadata: {name: x}, dta: {}}",
            "failed to create typed patch object (x; /v1, Kind=ConfigMap): .dta: field not declared in schema",
        ),
    ] {
        let error = story().try_apply("a", Force::No, config).expect_err(config);
        // Upstream has no reason for a configuration without a type, and so no better code.
        let code = if message.starts_with("failed to create typed") { 500 } else { 400 };
        assert_eq!((error.code, error.message.as_str()), (code, message));
        assert_eq!(error.reason.as_str(), if code == 500 { "" } else { "BadRequest" });
    }
    assert_eq!(story().try_apply("a", Force::No, "[]").expect_err("a list").code, 400);
    assert_eq!(story().try_apply("a", Force::No, "{").expect_err("broken").code, 400);
}

#[test]
fn objects_without_a_type_are_taken_apart_as_far_as_they_are_objects() {
    let mut resource = crate::resource("v1/configmaps").clone();
    resource.type_id = None;
    let schema = Schema::builtin();
    let writer = |manager| Writer { manager, subresource: "", now: NOW };
    let one = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "spec": {"list": [1, 2], "deep": {"a": 1}}});
    let two = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "spec": {"deep": {"b": 2}}});
    let (mut object, ownership) = applied(schema, &resource, writer("a"), Force::No, &json!({}), &one).expect("applied");
    ownership.put_into(&mut object);
    let (object, ownership) = applied(schema, &resource, writer("b"), Force::No, &object, &two).expect("applied");
    assert_eq!(object["spec"], json!({"list": [1, 2], "deep": {"a": 1, "b": 2}}));
    assert_eq!(ownership.entries[0]["fieldsV1"], json!({"f:spec": {".": {}, "f:deep": {".": {}, "f:a": {}}, "f:list": {}}}));
}
