use std::collections::BTreeMap;

use pintle_sdk::prelude::*;
use pintle_sdk::serde_json::Value;
use pintle_sdk::testing::{Disturbed, FakeKernel};

use super::model::HASH_LABEL;
use crate::Workloads;

const MANIFEST: &str = include_str!("../../module.json");

fn set(image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {"name": "agent", "namespace": "shop"},
        "spec": {
            "selector": {"matchLabels": {"app": "agent"}},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}},
            "revisionHistoryLimit": 1,
            "template": {"metadata": {"labels": {"app": "agent"}}, "spec": {"containers": [{"name": "c", "image": image}]}},
        },
    })
}

fn start(nodes: usize) -> Result<FakeKernel> {
    let mut kernel = FakeKernel::new(MANIFEST)?;
    for n in 0..nodes {
        kernel.put(
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": format!("n{n}"), "labels": {"n": n.to_string()}}, "spec": {}}),
        )?;
    }
    kernel.put(set("one"))?;
    Ok(kernel)
}

/// Plays the scheduler and the machines: pods get to the node that they are pinned to, become ready unless their image is broken, and go
/// when they are deleted.
fn play(kernel: &mut FakeKernel) -> Result<()> {
    let (pods, now): (Vec<Value>, _) = (kernel.list("/pods").into_iter().cloned().collect(), kernel.now());
    for pod in pods {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if !pod["metadata"]["deletionTimestamp"].is_null() {
            kernel.remove("/pods", "shop", &name);
        } else if pod["spec"]["nodeName"].is_null() {
            kernel.edit("/pods", "shop", &name, |pod| {
                let pin =
                    "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms/0/matchFields/0/values/0";
                pod["spec"]["nodeName"] = pod.pointer(pin).cloned().unwrap_or_default();
            });
        } else if pod["status"].is_null() && pod["spec"]["containers"][0]["image"] != "broken" {
            kernel.edit("/pods", "shop", &name, |pod| {
                pod["status"] = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": now}]});
            });
        }
    }
    Ok(())
}

fn roll(kernel: &mut FakeKernel, image: &str) -> Result<()> {
    kernel.edit("apps/daemonsets", "shop", "agent", |set| set["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image));
    kernel.settle_with(&mut Workloads, play).map(drop)
}

/// `node -> images` of the pods there.
fn images(kernel: &FakeKernel) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for pod in kernel.list("/pods") {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        found.entry(text(&pod["spec"]["nodeName"])).or_default().push(text(&pod["spec"]["containers"][0]["image"]));
    }
    found
}

fn all(kernel: &FakeKernel, nodes: usize, image: &str) -> bool {
    let found = images(kernel);
    found.len() == nodes && found.values().all(|images| *images == [image])
}

fn status(kernel: &FakeKernel) -> Value {
    kernel.get("apps/daemonsets", "shop", "agent").map(|set| set["status"].clone()).unwrap_or_default()
}

#[test]
fn every_node_that_fits_gets_one() -> Result<()> {
    let mut kernel = start(3)?;
    kernel.settle_with(&mut Workloads, play)?;
    assert!(all(&kernel, 3, "one"), "{:?}", images(&kernel));
    let status = status(&kernel);
    for field in ["desiredNumberScheduled", "currentNumberScheduled", "numberReady", "numberAvailable", "updatedNumberScheduled"] {
        assert_eq!(status[field], 3, "{field}");
    }
    let tolerations = kernel.list("/pods")[0]["spec"]["tolerations"].as_array().map(Vec::len);
    assert_eq!(tolerations, Some(6));
    kernel.edit("apps/daemonsets", "shop", "agent", |set| set["spec"]["template"]["spec"]["nodeSelector"] = json!({"n": "1"}));
    kernel.settle_with(&mut Workloads, play)?;
    assert_eq!(images(&kernel).into_keys().collect::<Vec<_>>(), ["n1"]);
    Ok(())
}

#[test]
fn taints_keep_new_daemons_away_and_no_execute_drives_them_out() -> Result<()> {
    let mut kernel = start(2)?;
    kernel.settle_with(&mut Workloads, play)?;
    kernel.edit("/nodes", "", "n0", |node| node["spec"]["taints"] = json!([{"key": "k", "effect": "NoSchedule"}]));
    kernel.settle_with(&mut Workloads, play)?;
    assert_eq!((images(&kernel).len(), &status(&kernel)["numberMisscheduled"]), (2, &json!(1)));
    kernel.edit("/nodes", "", "n0", |node| node["spec"]["taints"] = json!([{"key": "k", "effect": "NoExecute"}]));
    kernel.settle_with(&mut Workloads, play)?;
    assert_eq!(images(&kernel).into_keys().collect::<Vec<_>>(), ["n1"]);
    Ok(())
}

#[test]
fn a_failed_daemon_and_one_on_a_node_that_is_gone_are_replaced_or_deleted() -> Result<()> {
    let mut kernel = start(2)?;
    kernel.settle_with(&mut Workloads, play)?;
    let name = kernel.list("/pods")[0]["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    kernel.edit("/pods", "shop", &name, |pod| pod["status"]["phase"] = json!("Failed"));
    kernel.pass(&mut Workloads, Duration::from_secs(2))?;
    kernel.settle_with(&mut Workloads, play)?;
    assert!(kernel.get("/pods", "shop", &name).is_none());
    assert!(all(&kernel, 2, "one"));
    kernel.remove("/nodes", "", "n0");
    kernel.settle_with(&mut Workloads, play)?;
    assert!(all(&kernel, 1, "one"));
    Ok(())
}

#[test]
fn an_update_takes_one_node_at_a_time_and_going_back_restarts_nothing_needlessly() -> Result<()> {
    let mut kernel = start(4)?;
    kernel.settle_with(&mut Workloads, play)?;
    kernel.check_each_write(Box::new(|store| {
        let ready =
            store.list("/pods").filter(|p| p["status"]["phase"] == "Running" && p["metadata"]["deletionTimestamp"].is_null()).count();
        if ready >= 3 { Ok(()) } else { Err(format!("{ready} of 4 daemons run")) }
    }));
    roll(&mut kernel, "two")?;
    assert!(all(&kernel, 4, "two"), "{:?}", images(&kernel));
    let before: Vec<Value> = kernel.list("/pods").iter().map(|pod| pod["metadata"]["uid"].clone()).collect();
    roll(&mut kernel, "broken")?;
    assert_eq!(images(&kernel).values().filter(|images| *images == &["broken"]).count(), 1);
    roll(&mut kernel, "two")?;
    assert!(all(&kernel, 4, "two"));
    let kept = kernel.list("/pods").iter().filter(|pod| before.contains(&pod["metadata"]["uid"])).count();
    assert_eq!(kept, 3);
    let mut revisions: Vec<(i64, String)> = kernel
        .list("apps/controllerrevisions")
        .iter()
        .map(|r| {
            let image = &r["data"]["spec"]["template"]["spec"]["containers"][0]["image"];
            (r["revision"].as_i64().unwrap_or(0), image.as_str().unwrap_or_default().to_owned())
        })
        .collect();
    revisions.sort();
    assert_eq!(revisions, [(3, "broken".to_owned()), (4, "two".to_owned())]);
    let hash = kernel.list("/pods")[0]["metadata"]["labels"][HASH_LABEL].clone();
    assert!(kernel.list("apps/controllerrevisions").iter().any(|r| r["metadata"]["labels"][HASH_LABEL] == hash));
    Ok(())
}

#[test]
fn an_update_with_surge_never_leaves_a_node_without() -> Result<()> {
    let mut kernel = start(3)?;
    kernel.edit("apps/daemonsets", "shop", "agent", |set| {
        set["spec"]["updateStrategy"]["rollingUpdate"] = json!({"maxUnavailable": 0, "maxSurge": 1});
    });
    kernel.settle_with(&mut Workloads, play)?;
    kernel.check_each_write(Box::new(|store| {
        let alive = |p: &&Value| p["metadata"]["deletionTimestamp"].is_null();
        let ready = store.list("/pods").filter(alive).filter(|p| p["status"]["phase"] == "Running").count();
        let total = store.list("/pods").filter(alive).count();
        if ready >= 3 && total <= 4 { Ok(()) } else { Err(format!("{ready} of {total} daemons run")) }
    }));
    roll(&mut kernel, "two")?;
    assert!(all(&kernel, 3, "two"), "{:?}", images(&kernel));
    Ok(())
}

#[test]
fn an_update_ends_the_same_under_every_disturbance() -> Result<()> {
    let begin = || {
        let mut kernel = start(3)?;
        kernel.settle_with(&mut Workloads, play)?;
        kernel.edit("apps/daemonsets", "shop", "agent", |set| set["spec"]["template"]["spec"]["containers"][0]["image"] = json!("two"));
        Ok(kernel)
    };
    Disturbed::new(begin, || Ok(Workloads)).with_others(play).check()?;
    Ok(())
}
