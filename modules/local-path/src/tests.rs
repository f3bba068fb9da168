use pintle_sdk::prelude::*;
use pintle_sdk::serde_json::Value;
use pintle_sdk::storage::{BIND_COMPLETED, PROVISIONER, SELECTED_NODE};
use pintle_sdk::testing::{Disturbed, FakeKernel};
use pintle_sdk::{PROVISIONED_FINALIZER, Provisioned};

use crate::{DIRECTORY, LocalPath, NAME};

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
    let cases: [(fn(&mut Value), fn(&mut Value), &str); 6] = [
        (as_is, |c| c["spec"]["volumeMode"] = json!("Block"), "volumeMode Block is not supported"),
        (as_is, |c| c["spec"]["accessModes"] = json!(["ReadWriteMany"]), "accessModes must be ReadWriteOnce"),
        (as_is, |c| c["spec"]["dataSource"] = json!({"name": "x"}), "cannot begin with a copy"),
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
