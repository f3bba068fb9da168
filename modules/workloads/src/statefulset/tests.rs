use pintle_sdk::prelude::*;
use pintle_sdk::serde_json::Value;
use pintle_sdk::testing::{Disturbed, FakeKernel};

use crate::Workloads;

const MANIFEST: &str = include_str!("../../module.json");
const SETS: &str = "apps/statefulsets";

fn start(replicas: usize, spec: Value) -> Result<FakeKernel> {
    let mut set = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": {"name": "db", "namespace": "shop"},
        "spec": {
            "replicas": replicas, "serviceName": "db", "podManagementPolicy": "OrderedReady", "revisionHistoryLimit": 2,
            "selector": {"matchLabels": {"app": "db"}},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
            "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{"name": "c", "image": "one"}]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"resources": {"requests": {"storage": "1Gi"}}}, "status": {"phase": "Pending"}}],
        },
    });
    for (key, value) in spec.as_object().into_iter().flatten() {
        set["spec"][key] = value.clone();
    }
    let mut kernel = FakeKernel::new(MANIFEST)?;
    kernel.put(set)?;
    Ok(kernel)
}

/// Pods are bound and become ready, unless their image is broken; deleted ones go.
fn play(kernel: &mut FakeKernel) -> Result<()> {
    let (pods, now): (Vec<Value>, _) = (kernel.list("/pods").into_iter().cloned().collect(), kernel.now());
    for pod in pods {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if !pod["metadata"]["deletionTimestamp"].is_null() {
            kernel.remove("/pods", "shop", &name);
        } else if pod["status"].is_null() && pod["spec"]["containers"][0]["image"] != "broken" {
            kernel.edit("/pods", "shop", &name, |pod| {
                pod["spec"]["nodeName"] = json!("n");
                pod["status"] = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": now}]});
            });
        }
    }
    Ok(())
}

fn settle(kernel: &mut FakeKernel) -> Result<()> {
    kernel.settle_with(&mut Workloads, play).map(drop)
}

fn change(kernel: &mut FakeKernel, change: impl FnOnce(&mut Value)) -> Result<()> {
    kernel.edit(SETS, "shop", "db", |set| change(&mut set["spec"]));
    settle(kernel)
}

fn set_image(image: &str) -> impl FnOnce(&mut Value) {
    let image = json!(image);
    move |spec| spec["template"]["spec"]["containers"][0]["image"] = image
}

/// `name=image` of the pods.
fn pods(kernel: &FakeKernel) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    kernel
        .list("/pods")
        .iter()
        .map(|p| format!("{}={}", text(&p["metadata"]["name"]), text(&p["spec"]["containers"][0]["image"])))
        .collect()
}

fn status(kernel: &FakeKernel) -> Value {
    kernel.get(SETS, "shop", "db").map(|set| set["status"].clone()).unwrap_or_default()
}

#[test]
fn pods_start_one_after_the_other_with_names_and_claims_of_their_own() -> Result<()> {
    let mut kernel = start(3, json!({}))?;
    kernel.settle(&mut Workloads)?;
    assert_eq!(pods(&kernel), ["db-0=one"]);
    settle(&mut kernel)?;
    assert_eq!(pods(&kernel), ["db-0=one", "db-1=one", "db-2=one"]);
    let pod = kernel.get("/pods", "shop", "db-1").cloned().unwrap_or_default();
    assert_eq!((&pod["spec"]["hostname"], &pod["spec"]["subdomain"]), (&json!("db-1"), &json!("db")));
    assert_eq!(pod["spec"]["volumes"], json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data-db-1"}}]));
    assert_eq!(pod["metadata"]["labels"]["apps.kubernetes.io/pod-index"], "1");
    let claim = kernel.get("/persistentvolumeclaims", "shop", "data-db-2").cloned().unwrap_or_default();
    assert_eq!((&claim["metadata"]["labels"]["app"], &claim["status"]), (&json!("db"), &Value::Null));
    let status = status(&kernel);
    assert_eq!((&status["replicas"], &status["readyReplicas"], &status["currentReplicas"]), (&json!(3), &json!(3), &json!(3)));
    assert_eq!(status["currentRevision"], status["updateRevision"]);
    assert_eq!(pod["metadata"]["labels"]["controller-revision-hash"], status["updateRevision"]);
    Ok(())
}

#[test]
fn scaling_goes_up_and_down_in_order_and_halts_when_a_pod_does_not_work() -> Result<()> {
    let mut kernel = start(3, json!({}))?;
    settle(&mut kernel)?;
    let sick = |kernel: &mut FakeKernel, status: &str| {
        for name in ["db-0", "db-1", "db-2"] {
            kernel.edit("/pods", "shop", name, |pod| pod["status"]["conditions"][0]["status"] = json!(status));
        }
    };
    sick(&mut kernel, "False");
    change(&mut kernel, |spec| spec["replicas"] = json!(5))?;
    assert_eq!(pods(&kernel).len(), 3);
    change(&mut kernel, |spec| spec["replicas"] = json!(0))?;
    assert_eq!(pods(&kernel).len(), 3);
    sick(&mut kernel, "True");
    kernel.round(&mut Workloads)?;
    let going = kernel.list("/pods").iter().filter(|p| !p["metadata"]["deletionTimestamp"].is_null()).count();
    assert_eq!(going, 1);
    settle(&mut kernel)?;
    assert!(pods(&kernel).is_empty());
    assert_eq!(kernel.list("/persistentvolumeclaims").len(), 3);
    Ok(())
}

#[test]
fn a_parallel_set_starts_all_at_once() -> Result<()> {
    let mut kernel = start(4, json!({"podManagementPolicy": "Parallel"}))?;
    kernel.settle(&mut Workloads)?;
    assert_eq!(pods(&kernel).len(), 4);
    change(&mut kernel, |spec| spec["replicas"] = json!(1))?;
    assert_eq!(pods(&kernel), ["db-0=one"]);
    Ok(())
}

#[test]
fn an_update_goes_downwards_and_back_and_the_partition_stops_it() -> Result<()> {
    let mut kernel = start(3, json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}}))?;
    settle(&mut kernel)?;
    let first = status(&kernel)["currentRevision"].clone();
    change(&mut kernel, set_image("two"))?;
    assert_eq!(pods(&kernel), ["db-0=one", "db-1=one", "db-2=two"]);
    assert_eq!((&status(&kernel)["currentReplicas"], &status(&kernel)["updatedReplicas"]), (&json!(2), &json!(1)));
    // A pod below the partition comes back as it was.
    kernel.remove("/pods", "shop", "db-0");
    settle(&mut kernel)?;
    assert_eq!(pods(&kernel)[0], "db-0=one");
    change(&mut kernel, |spec| spec["updateStrategy"]["rollingUpdate"]["partition"] = json!(0))?;
    assert_eq!(pods(&kernel), ["db-0=two", "db-1=two", "db-2=two"]);
    assert_ne!(status(&kernel)["currentRevision"], first);
    change(&mut kernel, set_image("one"))?;
    assert_eq!((pods(&kernel)[1].as_str(), &status(&kernel)["currentRevision"]), ("db-1=one", &first));
    assert_eq!(kernel.list("apps/controllerrevisions").len(), 2);
    Ok(())
}

#[test]
fn a_broken_update_stops_at_its_first_pod() -> Result<()> {
    let mut kernel = start(3, json!({}))?;
    settle(&mut kernel)?;
    change(&mut kernel, set_image("broken"))?;
    assert_eq!(pods(&kernel), ["db-0=one", "db-1=one", "db-2=broken"]);
    Ok(())
}

#[test]
fn a_failed_pod_is_made_again_and_on_delete_nothing_is_replaced() -> Result<()> {
    let mut kernel = start(2, json!({"updateStrategy": {"type": "OnDelete"}}))?;
    settle(&mut kernel)?;
    kernel.edit("/pods", "shop", "db-0", |pod| pod["status"]["phase"] = json!("Failed"));
    change(&mut kernel, set_image("two"))?;
    assert_eq!(pods(&kernel), ["db-0=two", "db-1=one"]);
    Ok(())
}

#[test]
fn claims_go_with_the_set_or_the_pod_where_the_policy_says_so() -> Result<()> {
    let policy = json!({"whenDeleted": "Delete", "whenScaled": "Delete"});
    let mut kernel = start(2, json!({"persistentVolumeClaimRetentionPolicy": policy, "ordinals": {"start": 5}}))?;
    settle(&mut kernel)?;
    let owners = |kernel: &FakeKernel, name: &str| -> Vec<Value> {
        let claim = kernel.get("/persistentvolumeclaims", "shop", name).cloned().unwrap_or_default();
        claim["metadata"]["ownerReferences"].as_array().into_iter().flatten().map(|owner| owner["kind"].clone()).collect()
    };
    assert_eq!(pods(&kernel), ["db-5=one", "db-6=one"]);
    assert_eq!(owners(&kernel, "data-db-6"), [json!("StatefulSet")]);
    change(&mut kernel, |spec| spec["replicas"] = json!(1))?;
    assert_eq!(owners(&kernel, "data-db-6"), [json!("StatefulSet"), json!("Pod")]);
    Ok(())
}

#[test]
fn a_rollout_ends_the_same_under_every_disturbance() -> Result<()> {
    let begin = || {
        let mut kernel = start(3, json!({}))?;
        settle(&mut kernel)?;
        kernel.edit(SETS, "shop", "db", |set| set["spec"]["template"]["spec"]["containers"][0]["image"] = json!("two"));
        Ok(kernel)
    };
    Disturbed::new(begin, || Ok(Workloads)).with_others(play).check()?;
    Ok(())
}
