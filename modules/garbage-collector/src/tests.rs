use super::*;
use crate::GarbageCollector;
use pintle_sdk::serde_json::Value;
use pintle_sdk::testing::{Disturbed, FakeKernel};

fn object(api_version: &str, kind: &str, name: &str, owners: &[(&str, &ObjectRef)]) -> Value {
    let refs: Vec<Value> = owners
        .iter()
        .map(|(kind, owner)| json!({"apiVersion": "apps/v1", "kind": kind, "name": owner.name, "uid": owner.uid, "controller": false, "blockOwnerDeletion": true}))
        .collect();
    json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name, "namespace": "shop", "ownerReferences": refs}, "spec": {}})
}

/// A Deployment, its ReplicaSet, two pods of that, and a ConfigMap that nobody owns.
fn family() -> Result<(FakeKernel, ObjectRef)> {
    let mut kernel = FakeKernel::new(include_str!("../module.json"))?;
    let deployment = kernel.put(object("apps/v1", "Deployment", "d", &[]))?;
    let set = kernel.put(object("apps/v1", "ReplicaSet", "rs", &[("Deployment", &deployment)]))?;
    for name in ["p1", "p2"] {
        kernel.put(object("v1", "Pod", name, &[("ReplicaSet", &set)]))?;
    }
    kernel.put(object("v1", "ConfigMap", "free", &[]))?;
    Ok((kernel, deployment))
}

fn names(kernel: &FakeKernel) -> Vec<String> {
    kernel.store.iter().map(|(key, _)| key.name.clone()).collect()
}

fn delete_with(kernel: &mut FakeKernel, target: ObjectRef, propagation: Propagation) -> Result<()> {
    let finalizer = if propagation == Propagation::Foreground { FOREGROUND } else { ORPHAN };
    let resource = format!("{}/{}", target.group, target.resource);
    kernel.edit(&resource, &target.namespace, &target.name, |o| {
        o["metadata"]["finalizers"] = json!([finalizer]);
        o["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    });
    Ok(())
}

#[test]
fn a_family_that_is_whole_is_left_alone() -> Result<()> {
    let (mut kernel, _) = family()?;
    kernel.settle(&mut GarbageCollector)?;
    assert!(kernel.writes.is_empty());
    Ok(())
}

#[test]
fn in_the_background_all_generations_follow() -> Result<()> {
    let (mut kernel, _) = family()?;
    kernel.remove("apps/deployments", "shop", "d");
    kernel.settle(&mut GarbageCollector)?;
    assert_eq!(names(&kernel), ["free"]);
    Ok(())
}

#[test]
fn in_the_foreground_the_owner_goes_last() -> Result<()> {
    let (mut kernel, deployment) = family()?;
    delete_with(&mut kernel, deployment, Propagation::Foreground)?;
    kernel.check_each_write(Box::new(|store| {
        let pods = store.list("/pods").count();
        let sets = store.list("apps/replicasets").count();
        let deployments = store.list("apps/deployments").count();
        let order = (pods == 0 || sets == 1) && (sets == 0 || deployments == 1);
        order.then_some(()).ok_or(format!("{deployments} {sets} {pods}"))
    }));
    kernel.settle(&mut GarbageCollector)?;
    assert_eq!(names(&kernel), ["free"]);
    Ok(())
}

#[test]
fn orphaning_frees_the_dependents_first() -> Result<()> {
    let (mut kernel, deployment) = family()?;
    delete_with(&mut kernel, deployment, Propagation::Orphan)?;
    kernel.settle(&mut GarbageCollector)?;
    assert_eq!(names(&kernel), ["free", "p1", "p2", "rs"]);
    assert_eq!(kernel.get("apps/replicasets", "shop", "rs").map(|s| s["metadata"]["ownerReferences"].clone()), Some(json!([])));
    Ok(())
}

#[test]
fn one_living_owner_keeps_a_dependent_and_the_dead_one_is_struck_off() -> Result<()> {
    let (mut kernel, deployment) = family()?;
    let dead = ObjectRef { name: "dead".into(), uid: "nobody".into(), ..ObjectRef::default() };
    kernel.put(object("v1", "Secret", "s", &[("Deployment", &deployment), ("Deployment", &dead)]))?;
    kernel.settle(&mut GarbageCollector)?;
    let owners = kernel.get("/secrets", "shop", "s").map(|s| s["metadata"]["ownerReferences"].as_array().map_or(0, Vec::len));
    assert_eq!(owners, Some(1));
    Ok(())
}

#[test]
fn a_dependent_of_two_goes_with_the_second() -> Result<()> {
    let (mut kernel, deployment) = family()?;
    let other = kernel.put(object("apps/v1", "Deployment", "e", &[]))?;
    kernel.put(object("v1", "Secret", "s", &[("Deployment", &deployment), ("Deployment", &other)]))?;
    kernel.remove("apps/deployments", "shop", "d");
    kernel.settle(&mut GarbageCollector)?;
    assert!(kernel.get("/secrets", "shop", "s").is_some());
    kernel.remove("apps/deployments", "shop", "e");
    kernel.settle(&mut GarbageCollector)?;
    assert!(kernel.get("/secrets", "shop", "s").is_none());
    Ok(())
}

#[test]
fn both_owners_gone_at_once_leave_no_orphan() -> Result<()> {
    let (mut kernel, deployment) = family()?;
    let other = kernel.put(object("apps/v1", "Deployment", "e", &[]))?;
    kernel.put(object("v1", "Secret", "s", &[("Deployment", &deployment), ("Deployment", &other)]))?;
    kernel.freeze_view();
    kernel.remove("apps/deployments", "shop", "d");
    kernel.remove("apps/deployments", "shop", "e");
    kernel.round(&mut GarbageCollector)?;
    kernel.thaw_view();
    kernel.settle(&mut GarbageCollector)?;
    assert_eq!(names(&kernel), ["free"]);
    Ok(())
}

#[test]
fn the_same_name_with_another_uid_is_no_owner() -> Result<()> {
    let (mut kernel, _) = family()?;
    kernel.remove("apps/deployments", "shop", "d");
    kernel.put(object("apps/v1", "Deployment", "d", &[]))?;
    kernel.settle(&mut GarbageCollector)?;
    assert_eq!(names(&kernel), ["free", "d"]);
    Ok(())
}

#[test]
fn an_owner_in_another_namespace_is_no_owner() -> Result<()> {
    let (mut kernel, deployment) = family()?;
    let mut stranger = object("v1", "Secret", "s", &[("Deployment", &deployment)]);
    stranger["metadata"]["namespace"] = json!("elsewhere");
    kernel.put(stranger)?;
    kernel.settle(&mut GarbageCollector)?;
    assert!(kernel.get("/secrets", "elsewhere", "s").is_none());
    Ok(())
}

#[test]
fn a_cluster_scoped_object_is_not_collected_for_an_owner_with_a_namespace() -> Result<()> {
    let (mut kernel, deployment) = family()?;
    kernel.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n", "ownerReferences": [
        {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d", "uid": deployment.uid}]}}))?;
    kernel.remove("apps/deployments", "shop", "d");
    kernel.settle(&mut GarbageCollector)?;
    assert!(kernel.get("/namespaces", "", "n").is_some());
    assert!(kernel.events.iter().any(|event| event.reason == "OwnerRefInvalidNamespace"));
    Ok(())
}

#[test]
fn a_cluster_scoped_owner_takes_its_cluster_scoped_dependents_along() -> Result<()> {
    let (mut kernel, _) = family()?;
    let node = kernel.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}))?;
    kernel.put(json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSINode", "metadata": {"name": "n1", "ownerReferences": [
        {"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": node.uid}]}}))?;
    kernel.settle(&mut GarbageCollector)?;
    assert!(kernel.writes.is_empty());
    kernel.remove("/nodes", "", "n1");
    kernel.settle(&mut GarbageCollector)?;
    assert_eq!(kernel.list("storage.k8s.io/csinodes").len(), 0);
    Ok(())
}

#[test]
fn a_crash_after_any_write_changes_nothing_about_the_end() -> Result<()> {
    for propagation in [Propagation::Foreground, Propagation::Orphan] {
        for writes in 0..8 {
            let (mut kernel, deployment) = family()?;
            delete_with(&mut kernel, deployment, propagation)?;
            kernel.crash_after(writes);
            kernel.settle(&mut GarbageCollector)?;
            kernel.settle(&mut GarbageCollector)?;
            let expected: &[&str] = if propagation == Propagation::Orphan { &["free", "p1", "p2", "rs"] } else { &["free"] };
            assert_eq!(names(&kernel), expected, "{propagation:?}, crash after {writes} writes");
        }
    }
    Ok(())
}

#[test]
fn every_propagation_ends_the_same_under_every_disturbance() -> Result<()> {
    for propagation in [Propagation::Background, Propagation::Foreground, Propagation::Orphan] {
        let begin = || {
            let (mut kernel, deployment) = family()?;
            match propagation {
                Propagation::Background => kernel.remove("apps/deployments", "shop", "d"),
                _ => delete_with(&mut kernel, deployment, propagation)?,
            }
            Ok(kernel)
        };
        Disturbed::new(begin, || Ok(GarbageCollector)).check()?;
    }
    Ok(())
}

#[test]
fn an_old_view_deletes_nothing_that_has_found_a_new_owner() -> Result<()> {
    let (mut kernel, _) = family()?;
    kernel.remove("apps/deployments", "shop", "d");
    kernel.freeze_view();
    let heir = kernel.put(object("apps/v1", "Deployment", "heir", &[]))?;
    kernel.edit("apps/replicasets", "shop", "rs", |set| set["metadata"]["ownerReferences"][0]["uid"] = json!(heir.uid));
    kernel.round(&mut GarbageCollector)?;
    kernel.thaw_view();
    kernel.settle(&mut GarbageCollector)?;
    assert!(kernel.get("apps/replicasets", "shop", "rs").is_some());
    Ok(())
}
