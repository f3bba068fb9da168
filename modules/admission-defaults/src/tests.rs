use super::*;
use crate::Defaults;
use pintle_sdk::Operation;

/// A request to the module, and what the cluster holds.
struct Ask {
    operation: Operation,
    target: ObjectRef,
    object: Value,
    namespaces: Vec<Value>,
    accounts: Vec<Value>,
    classes: Vec<Value>,
}

fn create(resource: &str, object: Value) -> Ask {
    let name = object["metadata"]["name"].as_str().unwrap_or("").to_owned();
    Ask {
        operation: Operation::Create,
        target: ObjectRef::named("", resource, if resource == "nodes" { "" } else { "shop" }, &name),
        object,
        namespaces: vec![json!({"metadata": {"name": "shop"}, "status": {"phase": "Active"}})],
        accounts: vec![json!({"metadata": {"name": "default"}})],
        classes: vec![],
    }
}

impl Ask {
    fn verdict(&self) -> Result<Verdict> {
        let rows = |list: &[Value]| list.iter().map(|v| v.to_string().into_bytes()).collect::<Vec<_>>();
        let (object, namespaces) = (self.object.to_string(), rows(&self.namespaces));
        let (accounts, classes) = (rows(&self.accounts), rows(&self.classes));
        fn slices(rows: &[Vec<u8>]) -> Vec<&[u8]> {
            rows.iter().map(Vec::as_slice).collect()
        }
        let review = Review::new(self.operation, self.target.clone(), object.as_bytes(), b"")
            .with_related("namespace", slices(&namespaces))
            .with_related("serviceaccounts", slices(&accounts))
            .with_related("priorityclasses", slices(&classes));
        Defaults::start(&Start::default())?.review(&review)
    }

    /// The object as it is after the edits.
    fn edited(&self) -> Result<Value> {
        let verdict = self.verdict()?;
        assert_eq!(verdict.failure, None);
        let mut object = self.object.clone();
        verdict.edits.iter().for_each(|edit| apply(&mut object, edit));
        Ok(object)
    }

    fn refusal(&self) -> Result<(u16, String)> {
        let failure = self.verdict()?.failure.unwrap_or_default();
        Ok((failure.code, failure.message))
    }
}

fn apply(object: &mut Value, edit: &Edit) {
    let Edit::Add(path, value) = edit else { panic!("only additions: {edit:?}") };
    let (parent, member) = path.rsplit_once('/').unwrap_or(("", path));
    let parent = object.pointer_mut(parent).unwrap_or_else(|| panic!("{path} has no parent"));
    match parent {
        Value::Array(items) => items.push(value.clone()),
        other => other[member] = value.clone(),
    }
}

fn pod(change: impl FnOnce(&mut Value)) -> Value {
    let mut pod = json!({"metadata": {"name": "p", "namespace": "shop"}, "spec": {"containers": [{"name": "c"}]}});
    change(&mut pod);
    pod
}

#[test]
fn a_plain_pod_gets_its_account_token_priority_and_tolerations() -> Result<()> {
    let pod = create("pods", pod(|_| {})).edited()?;
    let spec = &pod["spec"];
    assert_eq!((&spec["serviceAccountName"], &spec["serviceAccount"]), (&json!("default"), &json!("default")));
    assert_eq!((&spec["priority"], &spec["preemptionPolicy"]), (&json!(0), &json!("PreemptLowerPriority")));
    let keys: Vec<&Value> = spec["tolerations"].as_array().into_iter().flatten().map(|t| &t["key"]).collect();
    assert_eq!(keys, [NOT_READY, UNREACHABLE]);
    assert_eq!(spec["tolerations"][0]["tolerationSeconds"], 300);
    let volume = &spec["volumes"][0];
    assert!(volume["name"].as_str().is_some_and(|name| name.starts_with("kube-api-access-") && name.len() == 21));
    let sources: Vec<&String> =
        volume["projected"]["sources"].as_array().into_iter().flatten().filter_map(|s| s.as_object()?.keys().next()).collect();
    assert_eq!(sources, ["serviceAccountToken", "configMap", "downwardAPI"]);
    let mount = &spec["containers"][0]["volumeMounts"][0];
    assert_eq!((&mount["name"], &mount["mountPath"]), (&volume["name"], &json!("/var/run/secrets/kubernetes.io/serviceaccount")));
    Ok(())
}

#[test]
fn every_container_without_the_mount_gets_it_and_others_keep_theirs() -> Result<()> {
    let own = json!({"name": "mine", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"});
    let pod = create(
        "pods",
        pod(|p| {
            p["spec"]["containers"] =
                json!([{"name": "a", "volumeMounts": [{"name": "x", "mountPath": "/x"}]}, {"name": "b", "volumeMounts": [own]}]);
            p["spec"]["initContainers"] = json!([{"name": "i"}]);
            p["spec"]["volumes"] = json!([{"name": "x"}]);
        }),
    )
    .edited()?;
    assert_eq!(pod["spec"]["containers"][0]["volumeMounts"].as_array().map(Vec::len), Some(2));
    assert_eq!(pod["spec"]["containers"][1]["volumeMounts"], json!([own]));
    assert_eq!(pod["spec"]["initContainers"][0]["volumeMounts"].as_array().map(Vec::len), Some(1));
    assert_eq!(pod["spec"]["volumes"].as_array().map(Vec::len), Some(2));
    Ok(())
}

#[test]
fn a_pod_or_an_account_can_do_without_the_token() -> Result<()> {
    let of_pod = create("pods", pod(|p| p["spec"]["automountServiceAccountToken"] = json!(false))).edited()?;
    assert!(of_pod["spec"].get("volumes").is_none());
    let mut ask = create("pods", pod(|_| {}));
    ask.accounts =
        vec![json!({"metadata": {"name": "default"}, "automountServiceAccountToken": false, "imagePullSecrets": [{"name": "r"}]})];
    let of_account = ask.edited()?;
    assert!(of_account["spec"].get("volumes").is_none());
    assert_eq!(of_account["spec"]["imagePullSecrets"], json!([{"name": "r"}]));
    Ok(())
}

#[test]
fn an_account_that_does_not_exist_is_refused_but_the_default_one_may_come_later() -> Result<()> {
    let mut ask = create("pods", pod(|p| p["spec"]["serviceAccountName"] = json!("ghost")));
    assert_eq!(ask.refusal()?, (0, r#"error looking up service account shop/ghost: serviceaccount "ghost" not found"#.into()));
    ask = create("pods", pod(|_| {}));
    ask.accounts.clear();
    assert!(ask.verdict()?.allowed());
    Ok(())
}

#[test]
fn own_tolerations_are_kept_and_not_doubled() -> Result<()> {
    let pod = create(
        "pods",
        pod(|p| {
            p["spec"]["tolerations"] = json!([{"key": NOT_READY, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}])
        }),
    )
    .edited()?;
    let tolerations = pod["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
    assert_eq!((tolerations.len(), &tolerations[0]["tolerationSeconds"]), (2, &json!(5)));
    let all = json!([{"operator": "Exists"}]);
    let daemon = create("pods", self::pod(|p| p["spec"]["tolerations"] = all.clone())).edited()?;
    assert_eq!(daemon["spec"]["tolerations"], all);
    Ok(())
}

#[test]
fn priority_classes_become_numbers() -> Result<()> {
    let classes = vec![
        json!({"metadata": {"name": "high"}, "value": 1000, "preemptionPolicy": "Never"}),
        json!({"metadata": {"name": "usual"}, "value": 7, "globalDefault": true}),
    ];
    let ask = |change: fn(&mut Value)| Ask { classes: classes.clone(), ..create("pods", pod(change)) };
    let high = ask(|p| p["spec"]["priorityClassName"] = json!("high")).edited()?;
    assert_eq!((&high["spec"]["priority"], &high["spec"]["preemptionPolicy"]), (&json!(1000), &json!("Never")));
    let usual = ask(|_| {}).edited()?;
    assert_eq!((&usual["spec"]["priority"], &usual["spec"]["priorityClassName"]), (&json!(7), &json!("usual")));
    let system = ask(|p| p["spec"]["priorityClassName"] = json!("system-node-critical")).edited()?;
    assert_eq!(system["spec"]["priority"], 2_000_001_000);
    let ghost = ask(|p| p["spec"]["priorityClassName"] = json!("ghost")).refusal()?;
    assert_eq!(ghost, (0, r#"no PriorityClass with name ghost was found"#.into()));
    assert!(ask(|p| p["spec"]["priority"] = json!(5)).refusal()?.1.contains("must not be provided in pod spec"));
    Ok(())
}

#[test]
fn nothing_is_created_where_no_namespace_is() -> Result<()> {
    let mut ask = create("configmaps", json!({"metadata": {"name": "c"}}));
    assert!(ask.verdict()?.allowed());
    ask.namespaces.clear();
    assert_eq!(ask.refusal()?, (404, r#"namespaces "shop" not found"#.into()));
    ask.namespaces =
        vec![json!({"metadata": {"name": "shop", "deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": "Terminating"}})];
    let expected = r#"unable to create new content in namespace shop because it is being terminated"#;
    assert_eq!(ask.refusal()?, (0, expected.into()));
    Ok(())
}

#[test]
fn some_namespaces_stay() -> Result<()> {
    let delete = |name: &str| Ask {
        operation: Operation::Delete,
        target: ObjectRef::named("", "namespaces", "", name),
        ..create("namespaces", json!({}))
    };
    assert_eq!(delete("kube-system").refusal()?, (0, "this namespace may not be deleted".into()));
    assert!(delete("shop").verdict()?.allowed());
    Ok(())
}

#[test]
fn a_new_node_is_tainted_until_it_is_ready() -> Result<()> {
    for spec in [
        json!({"metadata": {"name": "n"}}),
        json!({"metadata": {"name": "n"}, "spec": {}}),
        json!({"metadata": {"name": "n"}, "spec": {"taints": [{"key": "mine", "effect": "NoExecute"}]}}),
    ] {
        let node = create("nodes", spec).edited()?;
        assert!(
            node["spec"]["taints"]
                .as_array()
                .is_some_and(|taints| taints.iter().any(|t| t["key"] == NOT_READY && t["effect"] == "NoSchedule"))
        );
    }
    Ok(())
}

#[test]
fn a_mirror_pod_keeps_what_it_has() -> Result<()> {
    let pod = create("pods", pod(|p| p["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"}))).edited()?;
    assert!(pod["spec"].get("serviceAccountName").is_none());
    Ok(())
}

#[test]
fn a_changed_pod_keeps_the_tolerations_that_every_pod_has() -> Result<()> {
    let pod = json!({"metadata": {"name": "p"}, "spec": {"tolerations": [{"key": "mine", "operator": "Exists"}]}});
    let mut ask = create("pods", pod);
    ask.operation = Operation::Update;
    let changed = ask.edited()?;
    let keys: Vec<&str> = changed["spec"]["tolerations"].as_array().into_iter().flatten().filter_map(|t| t["key"].as_str()).collect();
    assert_eq!(keys, ["mine", NOT_READY, UNREACHABLE]);
    assert_eq!(changed["spec"].get("serviceAccountName"), None, "nothing else is decided again");
    Ok(())
}
