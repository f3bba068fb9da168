use pintle_sdk::prelude::*;
use pintle_sdk::serde_json::Value;
use pintle_sdk::storage::{BIND_COMPLETED, PROVISIONER, SELECTED_NODE};
use pintle_sdk::testing::{Disturbed, FakeKernel};
use pintle_sdk::{PROVISIONED_FINALIZER, Provisioned};

use pintle_sdk::{Failure, Provisioner, VolumeRemoval, VolumeRequest};

use crate::{COPIED, COPY_OF, DIRECTORY, LocalPath, NAME, NOT_COPIED};

const MANIFEST: &str = include_str!("../module.json");
const CLAIMS: &str = "/persistentvolumeclaims";
const VOLUMES: &str = "/persistentvolumes";

fn claim(change: impl FnOnce(&mut Value)) -> Value {
    let mut claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "a", "namespace": "shop", "annotations": {PROVISIONER: NAME, SELECTED_NODE: "n1"}},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "local-path", "resources": {"requests": {"storage": "1Gi"}}},
        "status": {"phase": "Pending"},
    });
    change(&mut claim);
    claim
}

fn class(change: impl FnOnce(&mut Value)) -> Value {
    let mut class = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "local-path"},
        "provisioner": NAME, "volumeBindingMode": "WaitForFirstConsumer", "reclaimPolicy": "Delete", "allowVolumeExpansion": true,
    });
    change(&mut class);
    class
}

fn node(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}, "annotations": {DIRECTORY: "/v"}}})
}

fn start(class: Value, claim: Value) -> Result<FakeKernel> {
    let mut kernel = FakeKernel::new(MANIFEST)?;
    for object in [class, claim, node("n1"), node("n2")] {
        kernel.put(object)?;
    }
    Ok(kernel)
}

fn provisioner() -> Result<Provisioned<LocalPath>> {
    Provisioned::start(&Start::default())
}

fn first_volume(kernel: &FakeKernel) -> Value {
    kernel.list(VOLUMES).first().map(|volume| (*volume).clone()).unwrap_or_default()
}

/// The claim's binder, and the machine: it names a volume from its first mount until it has removed it.
fn play(kernel: &mut FakeKernel) -> Result<()> {
    let volume = first_volume(kernel);
    let Some(name) = volume["metadata"]["name"].as_str().map(str::to_owned) else {
        kernel.edit("/nodes", "", "n1", |node| node["status"]["volumesInUse"] = json!([]));
        return Ok(());
    };
    if volume["metadata"]["deletionTimestamp"].is_null() {
        kernel.edit("/nodes", "", "n1", |node| node["status"]["volumesInUse"] = json!([format!("{NAME}/{name}")]));
        kernel.edit(CLAIMS, "shop", "a", |claim| {
            claim["metadata"]["annotations"][BIND_COMPLETED] = json!("yes");
            claim["spec"]["volumeName"] = json!(name);
            if claim["status"]["phase"] != "Bound" {
                claim["status"] = json!({"phase": "Bound", "capacity": volume["spec"]["capacity"]});
            }
        });
    }
    Ok(())
}

#[test]
fn a_directory_is_made_where_the_pod_will_be() -> Result<()> {
    let mut kernel = start(class(|_| {}), claim(|_| {}))?;
    kernel.settle(&mut provisioner()?)?;
    let volume = first_volume(&kernel);
    let name = format!("pvc-{}", kernel.get(CLAIMS, "shop", "a").and_then(|c| c["metadata"]["uid"].as_str()).unwrap_or_default());
    assert_eq!(volume["metadata"]["name"], name);
    assert_eq!(volume["metadata"]["finalizers"], json!([PROVISIONED_FINALIZER]));
    let spec = &volume["spec"];
    assert_eq!(spec["local"]["path"], format!("/v/{name}"));
    assert_eq!(spec["nodeAffinity"]["required"]["nodeSelectorTerms"][0]["matchExpressions"][0]["values"], json!(["n1"]));
    assert_eq!((&spec["claimRef"]["name"], &spec["capacity"]["storage"]), (&json!("a"), &json!("1Gi")));
    assert_eq!((&spec["storageClassName"], &spec["persistentVolumeReclaimPolicy"]), (&json!("local-path"), &json!("Delete")));
    Ok(())
}

#[test]
fn what_a_directory_cannot_be_is_said_on_the_claim() -> Result<()> {
    let as_is = |_: &mut Value| {};
    let cases: [(fn(&mut Value), fn(&mut Value), &str); 7] = [
        (as_is, |c| c["spec"]["volumeMode"] = json!("Block"), "volumeMode Block is not supported"),
        (as_is, |c| c["spec"]["accessModes"] = json!(["ReadWriteMany"]), "accessModes must be ReadWriteOnce"),
        (
            as_is,
            |c| c["spec"]["dataSource"] = json!({"kind": "Well", "apiGroup": "x.y", "name": "x"}),
            "a source of kind \"Well\" is not supported",
        ),
        (
            as_is,
            |c| c["spec"]["dataSource"] = json!({"kind": "PersistentVolumeClaim", "name": "x"}),
            "persistentvolumeclaim \"x\" is not found",
        ),
        (as_is, |c| c["spec"]["selector"] = json!({"matchLabels": {"a": "b"}}), "selector is not supported"),
        (|s| s["mountOptions"] = json!(["noatime"]), as_is, "mountOptions are not supported"),
        (
            |s| s["volumeBindingMode"] = json!("Immediate"),
            |c| c["metadata"]["annotations"][SELECTED_NODE] = json!(""),
            "must have volumeBindingMode WaitForFirstConsumer",
        ),
    ];
    for (of_class, of_claim, words) in cases {
        let mut kernel = start(class(of_class), claim(of_claim))?;
        kernel.settle(&mut provisioner()?)?;
        assert!(kernel.list(VOLUMES).is_empty(), "{words}");
        assert!(
            kernel.events.iter().any(|e| e.reason == "ProvisioningFailed" && e.message.contains(words)),
            "{words}: {:?}",
            kernel.events
        );
    }
    Ok(())
}

#[test]
fn a_node_that_is_gone_is_not_waited_for() -> Result<()> {
    let mut kernel = start(class(|_| {}), claim(|c| c["metadata"]["annotations"][SELECTED_NODE] = json!("n9")))?;
    kernel.settle(&mut provisioner()?)?;
    assert!(kernel.list(VOLUMES).is_empty());
    let claim = kernel.get(CLAIMS, "shop", "a").cloned().unwrap_or_default();
    assert!(claim["metadata"]["annotations"].get(SELECTED_NODE).is_none_or(Value::is_null), "the scheduler may choose again");
    Ok(())
}

#[test]
fn claims_that_ask_others_or_wait_for_a_pod_are_left_alone() -> Result<()> {
    for change in [
        (|c| c["metadata"]["annotations"][PROVISIONER] = json!("x.y/z")) as fn(&mut Value),
        |c| c["metadata"]["annotations"][SELECTED_NODE] = json!(""),
        |c| c["spec"]["storageClassName"] = json!("other"),
    ] {
        let mut kernel = start(class(|_| {}), claim(change))?;
        kernel.settle(&mut provisioner()?)?;
        assert!(kernel.writes.is_empty() && kernel.events.is_empty());
    }
    Ok(())
}

fn release(kernel: &mut FakeKernel) {
    let name = first_volume(kernel)["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    kernel.edit(VOLUMES, "", &name, |volume| volume["status"] = json!({"phase": "Released"}));
}

#[test]
fn a_volume_goes_when_its_machine_has_removed_it_or_is_gone() -> Result<()> {
    for machine_goes in [false, true] {
        let (mut kernel, mut module) = (start(class(|_| {}), claim(|_| {}))?, provisioner()?);
        kernel.settle_with(&mut module, play)?;
        release(&mut kernel);
        kernel.settle(&mut module)?;
        assert!(!first_volume(&kernel)["metadata"]["deletionTimestamp"].is_null(), "it is on its way out, and waits for its machine");
        match machine_goes {
            true => kernel.remove("/nodes", "", "n1"),
            false => kernel.edit("/nodes", "", "n1", |node| node["status"]["volumesInUse"] = json!([])),
        }
        kernel.settle(&mut module)?;
        assert!(kernel.list(VOLUMES).is_empty(), "{machine_goes}");
    }
    Ok(())
}

#[test]
fn what_is_retained_is_not_touched_and_can_be_deleted_by_hand() -> Result<()> {
    let (mut kernel, mut module) = (start(class(|c| c["reclaimPolicy"] = json!("Retain")), claim(|_| {}))?, provisioner()?);
    kernel.settle_with(&mut module, play)?;
    release(&mut kernel);
    kernel.settle(&mut module)?;
    let volume = first_volume(&kernel);
    assert!(volume["metadata"]["deletionTimestamp"].is_null());
    let name = volume["metadata"]["name"].as_str().unwrap_or_default();
    assert_eq!(kernel.delete(ObjectRef::named("", "persistentvolumes", "", name)), Ok(()));
    kernel.settle(&mut module)?;
    assert!(kernel.list(VOLUMES).is_empty(), "the object goes, the directory stays its machine's");
    Ok(())
}

#[test]
fn a_bound_claim_that_asks_for_more_gets_it() -> Result<()> {
    let (mut kernel, mut module) = (start(class(|_| {}), claim(|_| {}))?, provisioner()?);
    kernel.settle_with(&mut module, play)?;
    kernel.edit(CLAIMS, "shop", "a", |claim| claim["spec"]["resources"]["requests"]["storage"] = json!("3Gi"));
    kernel.settle_with(&mut module, play)?;
    let size = 3u64 << 30;
    assert_eq!(first_volume(&kernel)["spec"]["capacity"]["storage"], size.to_string());
    assert_eq!(kernel.get(CLAIMS, "shop", "a").map(|c| &c["status"]["capacity"]["storage"]), Some(&json!(size.to_string())));
    Ok(())
}

#[test]
fn volumes_are_made_grown_and_removed_once_under_every_disturbance() -> Result<()> {
    let begin = || start(class(|_| {}), claim(|_| {}));
    assert!(Disturbed::new(begin, provisioner).with_others(play).check()? > 10);
    let grown = || {
        let mut kernel = begin()?;
        kernel.settle_with(&mut provisioner()?, play)?;
        kernel.edit(CLAIMS, "shop", "a", |claim| claim["spec"]["resources"]["requests"]["storage"] = json!("2Gi"));
        Ok(kernel)
    };
    Disturbed::new(grown, provisioner).with_others(play).check()?;
    let released = || {
        let mut kernel = begin()?;
        kernel.settle_with(&mut provisioner()?, play)?;
        kernel.remove(CLAIMS, "shop", "a");
        release(&mut kernel);
        Ok(kernel)
    };
    let machine = |kernel: &mut FakeKernel| {
        if !first_volume(kernel)["metadata"]["deletionTimestamp"].is_null() {
            kernel.edit("/nodes", "", "n1", |node| node["status"]["volumesInUse"] = json!([]));
        }
        Ok(())
    };
    Disturbed::new(released, provisioner).with_others(machine).check()?;
    Ok(())
}

const SNAPSHOTS: &str = "snapshot.storage.k8s.io/volumesnapshots";
const CONTENTS: &str = "snapshot.storage.k8s.io/volumesnapshotcontents";

fn of_snapshots(kind: &str, meta: Value, more: Value) -> Value {
    let mut object = json!({"apiVersion": "snapshot.storage.k8s.io/v1", "kind": kind, "metadata": meta});
    object.as_object_mut().into_iter().for_each(|fields| fields.extend(more.as_object().cloned().unwrap_or_default()));
    object
}

/// A bound claim, both classes of snapshots, and a snapshot.
fn with_snapshot(class_name: &str, change: impl FnOnce(&mut Value)) -> Result<FakeKernel> {
    let mut kernel = start(class(|_| {}), claim(|_| {}))?;
    kernel.settle_with(&mut provisioner()?, play_all)?;
    for (name, policy, driver) in [("copies", "Delete", NAME), ("kept", "Retain", NAME), ("theirs", "Delete", "x.y/z")] {
        kernel.put(of_snapshots("VolumeSnapshotClass", json!({"name": name}), json!({"driver": driver, "deletionPolicy": policy})))?;
    }
    let spec = json!({"spec": {"volumeSnapshotClassName": class_name, "source": {"persistentVolumeClaimName": "a"}}});
    let mut snapshot = of_snapshots("VolumeSnapshot", json!({"name": "s", "namespace": "shop"}), spec);
    change(&mut snapshot);
    kernel.put(snapshot)?;
    Ok(kernel)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The binder, the protector of volumes, and the machine n1: it has each volume that is live or not let go by all others, and has copied every snapshot.
fn play_all(kernel: &mut FakeKernel) -> Result<()> {
    let volumes: Vec<Value> = kernel.list(VOLUMES).into_iter().cloned().collect();
    let mut told = Vec::new();
    for volume in &volumes {
        let (meta, of) = (&volume["metadata"], &volume["spec"]["claimRef"]);
        let name = text(&meta["name"]);
        let live = meta["deletionTimestamp"].is_null();
        if live || meta["finalizers"] != json!([PROVISIONED_FINALIZER]) {
            told.push(format!("{NAME}/{name}"));
        }
        let is_snapshot = of["kind"] == "VolumeSnapshot";
        let has_claim = !is_snapshot && kernel.get(CLAIMS, text(&of["namespace"]), text(&of["name"])).is_some();
        if is_snapshot && live {
            told.push(format!("{COPIED}/{name}"));
        }
        if has_claim {
            kernel.edit(CLAIMS, text(&of["namespace"]), text(&of["name"]), |claim| {
                claim["metadata"]["annotations"][BIND_COMPLETED] = json!("yes");
                claim["spec"]["volumeName"] = json!(name);
                claim["status"] = json!({"phase": "Bound", "capacity": volume["spec"]["capacity"]});
            });
        }
        let phase = if has_claim { "Bound" } else { "Released" };
        kernel.edit(VOLUMES, "", name, |volume| volume["status"] = json!({"phase": phase}));
    }
    kernel.edit("/nodes", "", "n1", |node| node["status"]["volumesInUse"] = json!(told));
    Ok(())
}

fn content(kernel: &FakeKernel) -> Value {
    kernel.list(CONTENTS).first().map(|content| (*content).clone()).unwrap_or_default()
}

fn snapshot(kernel: &FakeKernel) -> Value {
    kernel.get(SNAPSHOTS, "shop", "s").cloned().unwrap_or_default()
}

fn restore(kernel: &mut FakeKernel, node: &str, source: Value) -> Result<()> {
    kernel.put(claim(|c| {
        (c["metadata"]["name"], c["metadata"]["annotations"][SELECTED_NODE]) = (json!("b"), json!(node));
        c["spec"]["dataSourceRef"] = source;
    }))?;
    Ok(())
}

fn of_snapshot() -> Value {
    json!({"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "s"})
}

fn volume_of_b(kernel: &FakeKernel) -> Value {
    kernel.list(VOLUMES).into_iter().find(|volume| volume["spec"]["claimRef"]["name"] == "b").cloned().unwrap_or_default()
}

#[test]
fn a_snapshot_is_a_directory_beside_its_volume_and_volumes_begin_with_it() -> Result<()> {
    let (mut kernel, mut module) = (with_snapshot("copies", |_| {})?, provisioner()?);
    kernel.settle_with(&mut module, play_all)?;
    let (snapshot, content, source) = (snapshot(&kernel), content(&kernel), first_volume(&kernel));
    let name = format!("snapcontent-{}", text(&snapshot["metadata"]["uid"]));
    assert_eq!(content["metadata"]["name"], name);
    assert_eq!(
        (&content["spec"]["source"]["volumeHandle"], &content["spec"]["deletionPolicy"]),
        (&source["metadata"]["name"], &json!("Delete"))
    );
    assert_eq!(content["spec"]["volumeSnapshotRef"]["uid"], snapshot["metadata"]["uid"]);
    let said = json!({
        "boundVolumeSnapshotContentName": name, "readyToUse": true, "creationTime": "2026-01-01T00:00:00Z", "restoreSize": (1 << 30).to_string(),
    });
    assert_eq!(snapshot["status"], said);
    let record = kernel.get(VOLUMES, "", &name).cloned().unwrap_or_default();
    assert_eq!(
        (&record["spec"]["local"]["path"], &record["metadata"]["annotations"][COPY_OF]),
        (&json!(format!("/v/{name}")), &source["metadata"]["name"])
    );
    assert_eq!(record["spec"]["nodeAffinity"], source["spec"]["nodeAffinity"]);
    assert!(record["metadata"]["deletionTimestamp"].is_null(), "it stays, whatever its phase: {record}");
    restore(&mut kernel, "n1", of_snapshot())?;
    kernel.settle_with(&mut module, play_all)?;
    assert_eq!(volume_of_b(&kernel)["metadata"]["annotations"][COPY_OF], name);
    assert_eq!(kernel.get(CLAIMS, "shop", "b").map(|b| &b["status"]["phase"]), Some(&json!("Bound")));
    Ok(())
}

#[test]
fn a_copy_is_made_where_its_original_is_and_holds_as_much() -> Result<()> {
    let clone = json!({"kind": "PersistentVolumeClaim", "name": "a"});
    for source in [of_snapshot(), clone] {
        let (mut kernel, mut module) = (with_snapshot("copies", |_| {})?, provisioner()?);
        kernel.settle_with(&mut module, play_all)?;
        restore(&mut kernel, "n2", source.clone())?;
        kernel.settle_with(&mut module, play_all)?;
        let b = kernel.get(CLAIMS, "shop", "b").cloned().unwrap_or_default();
        assert!(b["metadata"]["annotations"].get(SELECTED_NODE).is_none_or(Value::is_null) && volume_of_b(&kernel).is_null(), "{source}");
        assert!(kernel.events.iter().any(|e| e.message.contains("on another machine than node n2")), "{:?}", kernel.events);
        kernel.edit(CLAIMS, "shop", "b", |b| {
            b["metadata"]["annotations"][SELECTED_NODE] = json!("n1");
            b["spec"]["resources"]["requests"]["storage"] = json!("1Mi");
        });
        kernel.settle_with(&mut module, play_all)?;
        assert!(kernel.events.iter().any(|e| e.message.contains("requested volume size 1048576 is less than")), "{:?}", kernel.events);
        kernel.edit(CLAIMS, "shop", "b", |b| b["spec"]["resources"]["requests"]["storage"] = json!("2Gi"));
        kernel.settle_with(&mut module, play_all)?;
        let of = volume_of_b(&kernel)["metadata"]["annotations"][COPY_OF].clone();
        assert!(text(&of).starts_with(if source["kind"] == "VolumeSnapshot" { "snapcontent-" } else { "pvc-" }), "{of}");
    }
    Ok(())
}

#[test]
fn a_snapshot_that_cannot_be_says_why() -> Result<()> {
    let cases: [(&str, fn(&mut Value), &str); 4] = [
        ("none", |_| {}, "volumesnapshotclass.snapshot.storage.k8s.io \"none\" not found"),
        ("copies", |s| s["spec"]["source"]["persistentVolumeClaimName"] = json!("z"), "persistentvolumeclaim \"z\" not found"),
        (
            "copies",
            |s| drop(s["spec"].as_object_mut().map(|spec| spec.remove("volumeSnapshotClassName"))),
            "cannot find default snapshot class",
        ),
        ("copies", |s| s["metadata"]["name"] = json!("failing"), "node n1: no space left"),
    ];
    for (class_name, change, words) in cases {
        let mut kernel = with_snapshot(class_name, change)?;
        let machine = |kernel: &mut FakeKernel| {
            let name = text(&content(kernel)["metadata"]["name"]).to_owned();
            let failed = json!([format!("{NOT_COPIED}/{name}: no space left")]);
            kernel.edit("/nodes", "", "n1", |node| node["status"]["volumesInUse"] = failed);
            Ok(())
        };
        kernel.settle_with(&mut provisioner()?, machine)?;
        let status = kernel.list(SNAPSHOTS).first().map(|s| s["status"].clone()).unwrap_or_default();
        assert!(text(&status["error"]["message"]).contains(words) && status["readyToUse"] == false, "{words}: {status}");
        assert!(kernel.events.iter().any(|e| e.warning && e.message.contains(words)), "{words}: {:?}", kernel.events);
    }
    let mut kernel = with_snapshot("theirs", |_| {})?;
    let writes = kernel.writes.len();
    kernel.settle_with(&mut provisioner()?, play_all)?;
    assert_eq!(kernel.writes.len(), writes, "another driver's snapshots are left alone");
    Ok(())
}

#[test]
fn a_snapshot_takes_its_bytes_along_or_leaves_them() -> Result<()> {
    for policy in ["copies", "kept"] {
        let (mut kernel, mut module) = (with_snapshot(policy, |_| {})?, provisioner()?);
        kernel.settle_with(&mut module, play_all)?;
        let name = text(&content(&kernel)["metadata"]["name"]).to_owned();
        assert_eq!(kernel.delete(ObjectRef::named("", "persistentvolumes", "", &name)), Ok(()));
        kernel.settle_with(&mut module, play_all)?;
        assert!(kernel.get(VOLUMES, "", &name).is_some(), "the record stays while its content does");
        assert_eq!(kernel.delete(ObjectRef::named("snapshot.storage.k8s.io", "volumesnapshots", "shop", "s")), Ok(()));
        kernel.settle_with(&mut module, play_all)?;
        assert!(snapshot(&kernel).is_null(), "{policy}");
        if policy == "kept" {
            assert!(content(&kernel)["metadata"]["deletionTimestamp"].is_null() && kernel.get(VOLUMES, "", &name).is_some());
            assert_eq!(kernel.delete(ObjectRef::named("snapshot.storage.k8s.io", "volumesnapshotcontents", "", &name)), Ok(()));
            kernel.settle_with(&mut module, play_all)?;
            let of_record = |w: &&Write| w.target.resource == "persistentvolumes" && w.target.name == name;
            let retained = kernel.writes.iter().filter(of_record).any(|w| format!("{:?}", w.action).contains("Retain"));
            assert!(retained, "its machine keeps what is retained");
        }
        assert!(content(&kernel).is_null() && kernel.get(VOLUMES, "", &name).is_none(), "{policy}");
        assert_eq!(kernel.list(VOLUMES).len(), 1, "the volume itself stays");
    }
    Ok(())
}

#[test]
fn a_provisioner_that_does_not_copy_says_so() -> Result<()> {
    struct Plain;
    impl Provisioner for Plain {
        fn start(_: &Start) -> Result<Self> {
            Ok(Plain)
        }
        fn name(&self) -> &str {
            NAME
        }
        fn provision(&mut self, _: &VolumeRequest<'_>) -> Result<Value, Failure> {
            Ok(json!({"spec": {"hostPath": {"path": "/x"}}}))
        }
        fn delete(&mut self, _: &VolumeRemoval<'_>) -> Result<(), Failure> {
            Ok(())
        }
    }
    let mut kernel = with_snapshot("copies", |_| {})?;
    restore(&mut kernel, "n1", json!({"kind": "PersistentVolumeClaim", "name": "a"}))?;
    kernel.settle_with(&mut Provisioned::<Plain>::start(&Start::default())?, play_all)?;
    assert!(text(&snapshot(&kernel)["status"]["error"]["message"]).contains("snapshots are not supported by this provisioner"));
    assert!(kernel.events.iter().any(|e| e.message.contains("volumes of this class cannot begin with a copy")), "{:?}", kernel.events);
    assert_eq!(kernel.delete(ObjectRef::named("snapshot.storage.k8s.io", "volumesnapshots", "shop", "s")), Ok(()));
    kernel.settle_with(&mut Provisioned::<Plain>::start(&Start::default())?, play_all)?;
    assert!(snapshot(&kernel).is_null() && content(&kernel).is_null(), "what never was need not be removed");
    Ok(())
}

#[test]
fn snapshots_are_taken_restored_and_removed_once_under_every_disturbance() -> Result<()> {
    let begin = || with_snapshot("copies", |_| {});
    assert!(Disturbed::new(begin, provisioner).with_others(play_all).check()? > 10);
    let restored = || {
        let mut kernel = begin()?;
        kernel.settle_with(&mut provisioner()?, play_all)?;
        restore(&mut kernel, "n1", of_snapshot())?;
        Ok(kernel)
    };
    Disturbed::new(restored, provisioner).with_others(play_all).check()?;
    for policy in ["copies", "kept"] {
        let removed = || {
            let mut kernel = with_snapshot(policy, |_| {})?;
            kernel.settle_with(&mut provisioner()?, play_all)?;
            let content = text(&content(&kernel)["metadata"]["name"]).to_owned();
            let targets = [("volumesnapshots", "shop", "s"), ("volumesnapshotcontents", "", &content)];
            for (resource, namespace, name) in targets {
                let target = ObjectRef::named("snapshot.storage.k8s.io", resource, namespace, name);
                kernel.delete(target).map_err(|refusal| Error::undecided(refusal.to_string()))?;
            }
            Ok(kernel)
        };
        Disturbed::new(removed, provisioner).with_others(play_all).check()?;
    }
    Ok(())
}

#[test]
fn a_content_that_a_user_made_is_bound_to_the_snapshot_that_names_it() -> Result<()> {
    let given = json!({"source": {"volumeSnapshotContentName": "mine"}});
    let (mut kernel, mut module) = (with_snapshot("copies", |s| s["spec"] = given)?, provisioner()?);
    let of = first_volume(&kernel)["metadata"]["name"].clone();
    let spec = json!({
        "driver": NAME, "deletionPolicy": "Delete", "source": {"volumeHandle": of}, "volumeSnapshotRef": {"namespace": "shop", "name": "s"},
    });
    kernel.put(of_snapshots("VolumeSnapshotContent", json!({"name": "mine"}), json!({"spec": spec})))?;
    kernel.settle_with(&mut module, play_all)?;
    let status = &snapshot(&kernel)["status"];
    assert_eq!((&status["boundVolumeSnapshotContentName"], &status["readyToUse"]), (&json!("mine"), &json!(true)));
    assert_eq!(content(&kernel)["spec"]["volumeSnapshotRef"]["uid"], snapshot(&kernel)["metadata"]["uid"]);
    assert_eq!(kernel.delete(ObjectRef::named("snapshot.storage.k8s.io", "volumesnapshots", "shop", "s")), Ok(()));
    kernel.settle_with(&mut module, play_all)?;
    assert!(snapshot(&kernel).is_null() && content(&kernel).is_null() && kernel.list(VOLUMES).len() == 1);
    Ok(())
}
