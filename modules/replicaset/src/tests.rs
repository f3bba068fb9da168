use super::*;
use crate::ReplicaSets;
use pintle_sdk::serde_json::Value;
use pintle_sdk::testing::{Disturbed, FakeKernel, Round};

const MANIFEST: &str = include_str!("../module.json");
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

fn kernel() -> Result<FakeKernel> {
    FakeKernel::new(MANIFEST)
}

fn set(replicas: u32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
        },
    })
}

fn pod(name: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": "web"}},
        "spec": {"nodeName": "n1"},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
    });
    change(&mut pod);
    pod
}

fn names(kernel: &FakeKernel) -> BTreeSet<String> {
    kernel.list("/pods").iter().map(|pod| pod["metadata"]["name"].as_str().unwrap_or_default().to_owned()).collect()
}

fn status(kernel: &FakeKernel) -> Value {
    kernel.get("apps/replicasets", "shop", "web").map(|set| set["status"].clone()).unwrap_or_default()
}

#[test]
fn pods_are_made_from_the_template_and_counted() -> Result<()> {
    let mut kernel = kernel()?;
    kernel.put(set(3))?;
    kernel.settle(&mut ReplicaSets)?;
    let pods = kernel.list("/pods");
    assert_eq!(pods.len(), 3);
    let pod = pods[0];
    assert_eq!(pod["metadata"]["generateName"], "web-");
    assert_eq!(pod["metadata"]["labels"]["app"], "web");
    assert_eq!(pod["metadata"]["ownerReferences"][0]["kind"], "ReplicaSet");
    assert_eq!(pod["metadata"]["ownerReferences"][0]["controller"], true);
    assert_eq!(pod["spec"]["containers"][0]["image"], "i");
    assert_eq!((&status(&kernel)["replicas"], &status(&kernel)["readyReplicas"]), (&json!(3), &json!(0)));
    assert_eq!(status(&kernel)["observedGeneration"], 1);
    Ok(())
}

#[test]
fn a_replication_controller_is_the_same_under_another_name() -> Result<()> {
    let mut kernel = kernel()?;
    let mut controller = set(2);
    (controller["apiVersion"], controller["kind"]) = (json!("v1"), json!("ReplicationController"));
    controller["spec"]["selector"] = json!({"app": "web"});
    kernel.put(controller)?;
    kernel.put(pod("orphan", |_| {}))?;
    kernel.put(pod("stranger", |pod| pod["metadata"]["labels"]["app"] = json!("other")))?;
    kernel.settle(&mut ReplicaSets)?;
    let owned = |pod: &&&Value| pod["metadata"]["ownerReferences"][0]["kind"] == "ReplicationController";
    assert_eq!((kernel.list("/pods").len(), kernel.list("/pods").iter().filter(owned).count()), (3, 2));
    let status = kernel.get("/replicationcontrollers", "shop", "web").map(|set| set["status"].clone()).unwrap_or_default();
    assert_eq!((&status["replicas"], &status["readyReplicas"], &status["terminatingReplicas"]), (&json!(2), &json!(1), &Value::Null));
    kernel.edit("/pods", "shop", "orphan", |pod| pod["metadata"]["labels"]["app"] = json!("released"));
    kernel.settle(&mut ReplicaSets)?;
    assert_eq!(kernel.get("/pods", "shop", "orphan").map(|pod| pod["metadata"]["ownerReferences"].clone()), Some(json!([])));
    assert_eq!(kernel.list("/pods").len(), 4);
    Ok(())
}

#[test]
fn a_pod_that_vanishes_is_replaced_under_another_name() -> Result<()> {
    let mut kernel = kernel()?;
    kernel.put(set(2))?;
    kernel.settle(&mut ReplicaSets)?;
    let before = names(&kernel);
    for name in &before {
        kernel.remove("/pods", "shop", name);
        kernel.settle(&mut ReplicaSets)?;
    }
    assert!(names(&kernel).is_disjoint(&before), "{before:?} {:?}", names(&kernel));
    assert_eq!(names(&kernel).len(), 2);
    Ok(())
}

#[test]
fn finished_and_terminating_pods_do_not_count() -> Result<()> {
    let mut kernel = kernel()?;
    kernel.put(set(1))?;
    kernel.settle(&mut ReplicaSets)?;
    let first = names(&kernel).into_iter().next().unwrap_or_default();
    kernel.edit("/pods", "shop", &first, |pod| pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"));
    kernel.settle(&mut ReplicaSets)?;
    assert_eq!(names(&kernel).len(), 2);
    assert_eq!((&status(&kernel)["replicas"], &status(&kernel)["terminatingReplicas"]), (&json!(1), &json!(1)));
    Ok(())
}

#[test]
fn scaling_down_takes_the_cheapest_pods() -> Result<()> {
    let mut kernel = kernel()?;
    let owner = kernel.put(set(8))?;
    let owned = |change: fn(&mut Value)| {
        let uid = owner.uid.clone();
        move |pod: &mut Value| {
            pod["metadata"]["ownerReferences"] =
                json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": uid, "controller": true}]);
            change(pod);
        }
    };
    kernel.put(pod("keep", owned(|_| {})))?;
    kernel.put(pod("a-unassigned", owned(|p| p["spec"] = json!({}))))?;
    kernel.put(pod("b-pending", owned(|p| p["status"]["phase"] = json!("Pending"))))?;
    kernel.put(pod("c-unready", owned(|p| p["status"]["conditions"] = json!([]))))?;
    kernel.put(pod("d-cheap", owned(|p| p["metadata"]["annotations"] = json!({DELETION_COST: "-5"}))))?;
    kernel.put(pod(
        "f-restarted",
        owned(|p| {
            p["spec"]["nodeName"] = json!("n2");
            p["status"]["containerStatuses"] = json!([{"restartCount": 4}]);
        }),
    ))?;
    kernel.put(pod("e-fresh", owned(|p| p["status"]["conditions"][0]["lastTransitionTime"] = json!("2026-01-01T00:09:00Z"))))?;
    kernel.put(pod("z-dear", owned(|p| p["metadata"]["annotations"] = json!({DELETION_COST: "9"}))))?;
    let mut order = Vec::new();
    for replicas in (0..8).rev() {
        kernel.put(set(replicas))?;
        kernel.settle_with(&mut ReplicaSets, |kernel| {
            let gone: Vec<String> = terminating(kernel);
            for name in gone {
                kernel.remove("/pods", "shop", &name);
                order.push(name);
            }
            Ok(())
        })?;
    }
    assert_eq!(order, ["b-pending", "c-unready", "d-cheap", "e-fresh", "keep", "f-restarted", "z-dear"]);
    assert!(kernel.list("/pods").is_empty());
    Ok(())
}

fn terminating(kernel: &FakeKernel) -> Vec<String> {
    let going = kernel.list("/pods").into_iter().filter(|pod| !pod["metadata"]["deletionTimestamp"].is_null());
    going.map(|pod| pod["metadata"]["name"].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn orphans_that_match_are_adopted_and_pods_that_stop_matching_are_let_go() -> Result<()> {
    let mut kernel = kernel()?;
    kernel.put(set(1))?;
    kernel.put(pod("orphan", |_| {}))?;
    kernel.put(pod("stranger", |p| p["metadata"]["labels"] = json!({"app": "db"})))?;
    kernel.settle(&mut ReplicaSets)?;
    assert_eq!(names(&kernel).len(), 2, "the orphan is the one replica");
    assert_eq!(kernel.get("/pods", "shop", "orphan").map(|p| p["metadata"]["ownerReferences"][0]["name"].clone()), Some(json!("web")));
    kernel.edit("/pods", "shop", "orphan", |pod| pod["metadata"]["labels"] = json!({"app": "x"}));
    kernel.settle(&mut ReplicaSets)?;
    assert_eq!(kernel.get("/pods", "shop", "orphan").map(|p| p["metadata"]["ownerReferences"].clone()), Some(json!([])));
    assert_eq!(names(&kernel).len(), 3, "a new pod takes its place");
    Ok(())
}

#[test]
fn a_pod_is_available_when_it_has_been_ready_for_long_enough() -> Result<()> {
    let mut kernel = kernel()?;
    let mut set = set(1);
    set["spec"]["minReadySeconds"] = json!(30);
    kernel.put(set)?;
    kernel.put(pod("orphan", |_| {}))?;
    kernel.settle(&mut ReplicaSets)?;
    assert_eq!((&status(&kernel)["readyReplicas"], &status(&kernel)["availableReplicas"]), (&json!(1), &json!(0)));
    kernel.pass(&mut ReplicaSets, Duration::from_secs(31))?;
    assert_eq!(status(&kernel)["availableReplicas"], 1);
    Ok(())
}

#[test]
fn a_set_on_its_way_out_creates_nothing() -> Result<()> {
    let mut kernel = kernel()?;
    let mut set = set(3);
    set["metadata"]["finalizers"] = json!(["foregroundDeletion"]);
    set["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    kernel.put(set)?;
    kernel.settle(&mut ReplicaSets)?;
    assert!(kernel.list("/pods").is_empty());
    Ok(())
}

#[test]
fn a_crash_after_any_write_loses_and_doubles_nothing() -> Result<()> {
    for writes in 0..12 {
        let mut kernel = kernel()?;
        kernel.put(set(10))?;
        kernel.crash_after(writes);
        kernel.check_each_write(Box::new(|store| {
            let pods = store.list("/pods").count();
            (pods <= 10).then_some(()).ok_or(format!("{pods} pods"))
        }));
        assert_eq!(kernel.settle(&mut ReplicaSets)?, if writes < 12 { Round::Crashed } else { Round::Quiet });
        kernel.settle(&mut ReplicaSets)?;
        assert_eq!(names(&kernel).len(), 10);
    }
    Ok(())
}

#[test]
fn growing_and_shrinking_end_the_same_under_every_disturbance() -> Result<()> {
    let stopped = |kernel: &mut FakeKernel| {
        terminating(kernel).iter().for_each(|name| kernel.remove("/pods", "shop", name));
        Ok(())
    };
    let grow = || {
        let mut kernel = kernel()?;
        kernel.put(set(6))?;
        Ok(kernel)
    };
    let shrink = || {
        let mut kernel = grow()?;
        kernel.settle(&mut ReplicaSets)?;
        kernel.put(set(2))?;
        Ok(kernel)
    };
    Disturbed::new(grow, || Ok(ReplicaSets)).with_others(stopped).check()?;
    Disturbed::new(shrink, || Ok(ReplicaSets)).with_others(stopped).check()?;
    Ok(())
}

#[test]
fn a_view_that_lacks_the_newest_pods_makes_none_twice() -> Result<()> {
    let mut kernel = kernel()?;
    kernel.put(set(5))?;
    kernel.freeze_view();
    for _ in 0..3 {
        kernel.round(&mut ReplicaSets)?;
        assert_eq!(names(&kernel).len(), 5);
    }
    kernel.thaw_view();
    kernel.settle(&mut ReplicaSets)?;
    assert_eq!(names(&kernel).len(), 5);
    Ok(())
}

#[test]
fn refused_creates_are_tried_again() -> Result<()> {
    let mut kernel = kernel()?;
    kernel.put(set(3))?;
    kernel.refuse_creates_of(Some("/pods"));
    kernel.round(&mut ReplicaSets)?;
    assert_eq!((kernel.refusals.len(), names(&kernel).len()), (1, 0), "one refusal, not three");
    kernel.refuse_creates_of(None);
    kernel.settle(&mut ReplicaSets)?;
    assert_eq!(names(&kernel).len(), 3);
    Ok(())
}
