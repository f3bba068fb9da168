use pintle_sdk::prelude::*;
use pintle_sdk::serde_json::Value;
use pintle_sdk::storage::{PROVISIONED_BY, PROVISIONER, SELECTED_NODE};
use pintle_sdk::testing::{Disturbed, FakeKernel};

use crate::Volumes;

const MANIFEST: &str = include_str!("../module.json");
const CLAIMS: &str = "/persistentvolumeclaims";
const VOLUMES: &str = "/persistentvolumes";

fn claim(name: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": "shop", "finalizers": ["kubernetes.io/pvc-protection"]},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "volumeMode": "Filesystem"},
        "status": {"phase": "Pending"},
    });
    change(&mut claim);
    claim
}

fn volume(name: &str, size: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut volume = json!({
        "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": name, "labels": {"disk": name}, "finalizers": ["kubernetes.io/pv-protection"]},
        "spec": {
            "capacity": {"storage": size}, "accessModes": ["ReadWriteOnce", "ReadOnlyMany"], "volumeMode": "Filesystem",
            "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": "/data"},
        },
        "status": {"phase": "Pending"},
    });
    change(&mut volume);
    volume
}

fn class(name: &str, provisioner: &str, mode: &str) -> Value {
    json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": mode})
}

fn of_class(name: &str) -> impl FnOnce(&mut Value) {
    let name = json!(name);
    move |object| object["spec"]["storageClassName"] = name
}

fn kernel(objects: &[Value]) -> Result<FakeKernel> {
    let mut kernel = FakeKernel::new(MANIFEST)?;
    for object in objects {
        kernel.put(object.clone())?;
    }
    Ok(kernel)
}

/// What the store says after everything has come to rest: of each claim `name phase volume`, of each volume `name phase claim`.
fn ends(kernel: &FakeKernel) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let claims =
        kernel.list(CLAIMS).into_iter().map(|c| [&c["metadata"]["name"], &c["status"]["phase"], &c["spec"]["volumeName"]].map(text));
    let volumes =
        kernel.list(VOLUMES).into_iter().map(|v| [&v["metadata"]["name"], &v["status"]["phase"], &v["spec"]["claimRef"]["name"]].map(text));
    claims.chain(volumes).map(|row| row.join(" ")).collect()
}

fn check(objects: &[Value], expected: &[&str]) -> Result<FakeKernel> {
    let mut kernel = kernel(objects)?;
    kernel.settle(&mut Volumes)?;
    assert_eq!(ends(&kernel), expected, "{objects:?}");
    Ok(kernel)
}

fn told(kernel: &FakeKernel, words: &str) -> bool {
    kernel.events.iter().any(|event| format!("{} {}", event.reason, event.message).contains(words))
}

#[test]
fn a_claim_gets_the_smallest_volume_that_is_what_it_wants() -> Result<()> {
    let wants = |change: fn(&mut Value)| claim("c", change);
    let all = [volume("large", "9Gi", |_| {}), volume("small", "2Gi", |_| {}), volume("tiny", "1Mi", |_| {})];
    let with = |claim: Value| [&[claim], &all[..]].concat();
    let kernel = check(&with(wants(|_| {})), &["c Bound small", "large Available -", "small Bound c", "tiny Available -"])?;
    let bound = kernel.get(CLAIMS, "shop", "c").cloned().unwrap_or_default();
    assert_eq!(bound["status"]["capacity"]["storage"], "2Gi");
    assert_eq!(bound["status"]["accessModes"], json!(["ReadWriteOnce", "ReadOnlyMany"]));
    for key in ["pv.kubernetes.io/bind-completed", "pv.kubernetes.io/bound-by-controller"] {
        assert_eq!(bound["metadata"]["annotations"][key], "yes", "{key}");
    }
    let selects = wants(|c| c["spec"]["selector"] = json!({"matchLabels": {"disk": "large"}}));
    check(&with(selects), &["c Bound large", "large Bound c", "small Available -", "tiny Available -"])?;
    let names = wants(|c| c["spec"]["volumeName"] = json!("large"));
    check(&with(names), &["c Bound large", "large Bound c", "small Available -", "tiny Available -"])?;
    for unfit in [
        |c: &mut Value| c["spec"]["accessModes"] = json!(["ReadWriteMany"]),
        |c: &mut Value| c["spec"]["volumeMode"] = json!("Block"),
        |c: &mut Value| c["spec"]["resources"]["requests"]["storage"] = json!("10Gi"),
        |c: &mut Value| c["spec"]["storageClassName"] = json!("fast"),
        |c: &mut Value| c["spec"]["volumeName"] = json!("tiny"),
    ] {
        let mut kernel = super::tests::kernel(&with(wants(unfit)))?;
        kernel.settle(&mut Volumes)?;
        assert_eq!(kernel.get(CLAIMS, "shop", "c").map(|c| &c["status"]["phase"]), Some(&json!("Pending")));
        assert!(kernel.list(VOLUMES).iter().all(|v| v["status"]["phase"] == "Available"));
        assert!(!kernel.events.is_empty(), "it is told why");
    }
    Ok(())
}

#[test]
fn a_volume_that_names_a_claim_waits_for_it_and_goes_to_no_other() -> Result<()> {
    let meant = volume("v", "1Gi", |v| v["spec"]["claimRef"] = json!({"namespace": "shop", "name": "b"}));
    check(&[claim("a", |_| {}), meant.clone()], &["a Pending -", "v Available b"])?;
    check(&[claim("a", |_| {}), claim("b", |_| {}), meant], &["a Pending -", "b Bound v", "v Bound b"])?;
    let too_small = volume("v", "1Mi", |v| v["spec"]["claimRef"] = json!({"namespace": "shop", "name": "a"}));
    let kernel = check(&[claim("a", |_| {}), too_small], &["a Pending -", "v Available a"])?;
    assert!(told(&kernel, "requested PV is too small"));
    Ok(())
}

#[test]
fn of_two_claims_one_gets_the_volume_and_the_other_is_told() -> Result<()> {
    let kernel = check(&[claim("a", |_| {}), claim("b", |_| {}), volume("v", "1Gi", |_| {})], &["a Bound v", "b Pending -", "v Bound a"])?;
    assert!(told(&kernel, "no persistent volumes available for this claim and no storage class is set"));
    let both = |name: &str| claim(name, |c| c["spec"]["volumeName"] = json!("v"));
    let kernel = check(&[both("a"), both("b"), volume("v", "1Gi", |_| {})], &["a Bound v", "b Pending v", "v Bound a"])?;
    assert!(told(&kernel, "already bound to a different claim"));
    let kernel = check(&[claim("a", of_class("none"))], &["a Pending -"])?;
    assert!(told(&kernel, "storageclass.storage.k8s.io \"none\" not found"));
    Ok(())
}

#[test]
fn claims_of_a_class_that_waits_are_left_to_the_scheduler() -> Result<()> {
    let local = class("local", "kubernetes.io/no-provisioner", "WaitForFirstConsumer");
    let free = volume("v", "1Gi", of_class("local"));
    let kernel = check(&[local.clone(), claim("a", of_class("local")), free], &["a Pending -", "v Available -"])?;
    assert!(told(&kernel, "waiting for first consumer"));
    let chosen = volume("v", "1Gi", |v| {
        of_class("local")(v);
        v["spec"]["claimRef"] = json!({"namespace": "shop", "name": "a"});
    });
    check(&[local, claim("a", of_class("local")), chosen], &["a Bound v", "v Bound a"])?;
    Ok(())
}

/// A provisioner as this module sees one: it answers claims that name it.
fn provision(kernel: &mut FakeKernel) -> Result<()> {
    let wanted: Vec<Value> = kernel.list(CLAIMS).into_iter().cloned().collect();
    for claim in wanted {
        let (meta, name) = (&claim["metadata"], format!("pvc-{}", claim["metadata"]["name"].as_str().unwrap_or_default()));
        let asked = meta["annotations"][PROVISIONER] == "x.y/made" && meta["annotations"][SELECTED_NODE] != Value::Null;
        if asked && claim["spec"]["volumeName"].is_null() && kernel.get(VOLUMES, "", &name).is_none() {
            let reference = json!({"namespace": "shop", "name": meta["name"], "uid": meta["uid"]});
            kernel.put(volume(&name, "1Gi", |v| {
                v["metadata"]["annotations"] = json!({PROVISIONED_BY: "x.y/made"});
                v["spec"]["storageClassName"] = json!("made");
                v["spec"]["persistentVolumeReclaimPolicy"] = json!("Delete");
                v["spec"]["claimRef"] = reference;
            }))?;
        }
    }
    Ok(())
}

fn choose_node(claim: &mut Value) {
    of_class("made")(claim);
    claim["metadata"]["annotations"] = json!({SELECTED_NODE: "n"});
}

#[test]
fn a_provisioner_is_asked_once_the_node_is_known() -> Result<()> {
    let made = class("made", "x.y/made", "WaitForFirstConsumer");
    let mut kernel = kernel(&[made, claim("a", of_class("made"))])?;
    kernel.settle_with(&mut Volumes, provision)?;
    assert_eq!(ends(&kernel), ["a Pending -"]);
    kernel.edit(CLAIMS, "shop", "a", |claim| claim["metadata"]["annotations"][SELECTED_NODE] = json!("n"));
    kernel.settle_with(&mut Volumes, provision)?;
    assert_eq!(ends(&kernel), ["a Bound pvc-a", "pvc-a Bound a"]);
    assert!(told(&kernel, "external provisioner 'x.y/made'"));
    Ok(())
}

fn delete(kernel: &mut FakeKernel, resource: &str, name: &str) {
    let namespace = if resource == CLAIMS { "shop" } else { "" };
    assert_eq!(kernel.delete(ObjectRef::named("", &resource[1..], namespace, name)), Ok(()));
}

#[test]
fn a_volume_whose_claim_is_gone_is_left_or_removed_as_it_says() -> Result<()> {
    for (policy, made, end, why) in [
        ("Retain", false, "v Released a", ""),
        ("Delete", true, "v Released a", ""),
        ("Delete", false, "v Failed a", "no provisioner made it"),
        ("Recycle", false, "v Failed a", "not supported"),
    ] {
        let volume = volume("v", "1Gi", |v| {
            v["spec"]["persistentVolumeReclaimPolicy"] = json!(policy);
            if made {
                v["metadata"]["annotations"] = json!({PROVISIONED_BY: "x.y/made"});
            }
        });
        let mut kernel = check(&[claim("a", |_| {}), volume], &["a Bound v", "v Bound a"])?;
        delete(&mut kernel, VOLUMES, "v");
        kernel.settle(&mut Volumes)?;
        assert_eq!(ends(&kernel).len(), 2, "a bound volume is protected");
        kernel.edit(VOLUMES, "", "v", |v| v["metadata"]["deletionTimestamp"] = Value::Null);
        delete(&mut kernel, CLAIMS, "a");
        kernel.settle(&mut Volumes)?;
        assert_eq!(ends(&kernel), [end], "{policy}");
        assert!(why.is_empty() || told(&kernel, why));
        delete(&mut kernel, VOLUMES, "v");
        kernel.settle(&mut Volumes)?;
        assert!(ends(&kernel).is_empty(), "{policy}: nothing protects it any more");
    }
    Ok(())
}

#[test]
fn a_claim_without_its_volume_is_lost() -> Result<()> {
    let mut kernel = check(&[claim("a", |_| {}), volume("v", "1Gi", |_| {})], &["a Bound v", "v Bound a"])?;
    kernel.remove(VOLUMES, "", "v");
    kernel.settle(&mut Volumes)?;
    assert_eq!(ends(&kernel), ["a Lost v"]);
    assert!(told(&kernel, "ClaimLost"));
    Ok(())
}

fn pod(name: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"nodeName": "n", "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "a"}}]},
        "status": {"phase": "Running"},
    });
    change(&mut pod);
    pod
}

#[test]
fn a_claim_stays_while_a_pod_uses_it() -> Result<()> {
    for (change, uses) in [
        ((|_| {}) as fn(&mut Value), true),
        (|p| p["status"]["phase"] = json!("Succeeded"), false),
        (|p| p["spec"]["nodeName"] = json!(""), false),
        (|p| p["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] = json!("b"), false),
    ] {
        let mut kernel = kernel(&[claim("a", |_| {}), pod("p", change)])?;
        kernel.settle(&mut Volumes)?;
        delete(&mut kernel, CLAIMS, "a");
        kernel.settle(&mut Volumes)?;
        assert_eq!(kernel.list(CLAIMS).len(), usize::from(uses));
        kernel.remove("/pods", "shop", "p");
        kernel.settle(&mut Volumes)?;
        assert!(kernel.list(CLAIMS).is_empty());
    }
    Ok(())
}

#[test]
fn a_pods_own_claim_is_made_once_and_belongs_to_it() -> Result<()> {
    let template = json!({"metadata": {"labels": {"x": "y"}}, "spec": claim("", of_class("made"))["spec"]});
    let own = |p: &mut Value| p["spec"]["volumes"] = json!([{"name": "scratch", "ephemeral": {"volumeClaimTemplate": template}}]);
    let mut kernel = check(&[pod("p", own)], &["p-scratch - -"])?;
    let made = kernel.get(CLAIMS, "shop", "p-scratch").cloned().unwrap_or_default();
    assert_eq!((&made["metadata"]["labels"]["x"], &made["spec"]["storageClassName"]), (&json!("y"), &json!("made")));
    assert_eq!(made["metadata"]["ownerReferences"][0]["name"], "p");
    kernel.settle(&mut Volumes)?;
    assert_eq!(kernel.list(CLAIMS).len(), 1);
    Ok(())
}

#[test]
fn claims_end_bound_under_every_disturbance() -> Result<()> {
    let objects = [
        class("made", "x.y/made", "WaitForFirstConsumer"),
        claim("a", |_| {}),
        claim("b", choose_node),
        claim("c", |c| c["spec"]["volumeName"] = json!("v2")),
        volume("v1", "1Gi", |_| {}),
        volume("v2", "2Gi", |_| {}),
        pod("p", |p| {
            p["spec"]["volumes"] = json!([{"name": "s", "ephemeral": {"volumeClaimTemplate": {"spec": {"storageClassName": "none"}}}}])
        }),
    ];
    let runs = Disturbed::new(|| kernel(&objects), || Ok(Volumes)).with_others(provision).check()?;
    assert!(runs > 10);
    Ok(())
}

#[test]
fn what_is_deleted_goes_in_order_under_every_disturbance() -> Result<()> {
    let begin = || {
        let mut kernel = kernel(&[claim("a", |_| {}), volume("v", "1Gi", |_| {}), pod("p", |_| {})])?;
        kernel.settle(&mut Volumes)?;
        delete(&mut kernel, CLAIMS, "a");
        delete(&mut kernel, VOLUMES, "v");
        Ok(kernel)
    };
    let others = |kernel: &mut FakeKernel| {
        if kernel.get("/pods", "shop", "p").is_some() {
            kernel.remove("/pods", "shop", "p");
        }
        Ok(())
    };
    let mut kernel = begin()?;
    kernel.settle_with(&mut Volumes, others)?;
    assert!(ends(&kernel).is_empty(), "{:?}", ends(&kernel));
    Disturbed::new(begin, || Ok(Volumes)).with_others(others).check()?;
    Ok(())
}

#[test]
fn an_object_of_another_shape_is_an_error_and_no_panic() {
    let broken = br#"{"metadata": {"name": "a"}, "spec": "x"}"#;
    let request = Request::new(ObjectRef::named("", "persistentvolumeclaims", "shop", "a"), broken, Vec::new());
    assert!(Volumes.reconcile(Time::default(), &request).is_err());
}

const ATTACHMENTS: &str = "storage.k8s.io/volumeattachments";

fn of_driver(name: &str, claim: &str) -> Value {
    volume(name, "1Gi", |v| {
        v["spec"]["hostPath"] = Value::Null;
        v["spec"]["csi"] = json!({"driver": "d.test", "volumeHandle": format!("h-{name}")});
        v["spec"]["accessModes"] = json!(["ReadWriteOnce"]);
        v["spec"]["claimRef"] = json!({"namespace": "shop", "name": claim, "uid": "x"});
    })
}

fn on(node: &str, name: &str, claim: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"nodeName": node, "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]}, "status": {"phase": "Running"},
    })
}

fn machine(name: &str) -> [Value; 2] {
    [
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}),
        json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSINode", "metadata": {"name": name}, "spec": {"drivers": []}}),
    ]
}

/// `volume@node` of every attachment that is not on its way out.
fn attached(kernel: &FakeKernel) -> Vec<String> {
    let there = kernel.list(ATTACHMENTS).into_iter().filter(|a| a["metadata"]["deletionTimestamp"].is_null());
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let mut all: Vec<String> =
        there.map(|a| format!("{}@{}", text(&a["spec"]["source"]["persistentVolumeName"]), text(&a["spec"]["nodeName"]))).collect();
    all.sort();
    all
}

#[test]
fn a_drivers_volume_is_attached_where_its_pod_is_and_stays_while_it_is_in_use() -> Result<()> {
    let [node, csi_node] = machine("a");
    let mut kernel =
        kernel(&[node, csi_node, of_driver("v", "c"), of_driver("w", "other"), volume("plain", "1Gi", |_| {}), on("a", "p", "c")])?;
    kernel.settle(&mut Volumes)?;
    assert_eq!(attached(&kernel), ["v@a"]);
    let name = kernel.list(ATTACHMENTS)[0]["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    // sha256 of handle, driver and node, as upstream names it.
    assert_eq!(name, "csi-e9c2a5c3116c058774c1a00c5263980f263ff774f2908258be42d334d561ebcb");
    kernel.edit(ATTACHMENTS, "", &name, |a| a["status"] = json!({"attached": true}));
    kernel.edit("/nodes", "", "a", |n| n["status"] = json!({"volumesInUse": ["kubernetes.io/csi/d.test^h-v"]}));
    kernel.settle(&mut Volumes)?;
    let told = kernel.get("/nodes", "", "a").map(|node| node["status"]["volumesAttached"].clone());
    assert_eq!(told, Some(json!([{"name": "kubernetes.io/csi/d.test^h-v", "devicePath": ""}])));
    kernel.remove("/pods", "shop", "p");
    kernel.settle(&mut Volumes)?;
    assert_eq!(attached(&kernel), ["v@a"], "the machine has it mounted");
    kernel.edit("/nodes", "", "a", |n| n["status"]["volumesInUse"] = json!([]));
    kernel.settle(&mut Volumes)?;
    assert_eq!(attached(&kernel), Vec::<String>::new());
    let told = kernel.get("/nodes", "", "a").map(|node| node["status"]["volumesAttached"].clone());
    assert_eq!(told, Some(json!([])));
    Ok(())
}

#[test]
fn a_volume_for_one_machine_waits_for_the_other_one_to_let_go() -> Result<()> {
    let ([a, csi_a], [b, csi_b]) = (machine("a"), machine("b"));
    let many = |mut v: Value| {
        v["spec"]["accessModes"] = json!(["ReadWriteMany"]);
        v
    };
    let all = [a, csi_a, b, csi_b, of_driver("v", "c"), many(of_driver("m", "d")), on("a", "p", "c"), on("b", "q", "d"), on("a", "r", "d")];
    let mut kernel = kernel(&all)?;
    kernel.settle(&mut Volumes)?;
    assert_eq!(attached(&kernel), ["m@a", "m@b", "v@a"]);
    kernel.put(on("b", "s", "c"))?;
    kernel.settle(&mut Volumes)?;
    assert!(told(&kernel, "Multi-Attach error for volume \"v\"") && attached(&kernel).len() == 3);
    // The machine is gone: so is what it had.
    kernel.remove("/pods", "shop", "p");
    kernel.remove("/pods", "shop", "r");
    kernel.remove("/nodes", "", "a");
    kernel.remove("storage.k8s.io/csinodes", "", "a");
    kernel.settle(&mut Volumes)?;
    kernel.advance(Duration::from_secs(5));
    kernel.settle(&mut Volumes)?;
    assert_eq!(attached(&kernel), ["m@b", "v@b"]);
    Ok(())
}

#[test]
fn a_driver_that_attaches_nothing_is_not_asked_to() -> Result<()> {
    let [node, csi_node] = machine("a");
    let driver =
        json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": {"name": "d.test"}, "spec": {"attachRequired": false}});
    let mut kernel = kernel(&[node, csi_node, driver, of_driver("v", "c"), on("a", "p", "c")])?;
    kernel.settle(&mut Volumes)?;
    assert_eq!(attached(&kernel), Vec::<String>::new());
    Ok(())
}
