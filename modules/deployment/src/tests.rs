use super::*;
use crate::Deployments;
use pintle_sdk::testing::{Disturbed, FakeKernel, Store};

const MANIFEST: &str = include_str!("../module.json");
const RESOURCE: &str = "apps/replicasets";

fn deployment(image: &str, replicas: i64) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "shop", "annotations": {"team": "a", "kubectl.kubernetes.io/last-applied-configuration": "{}"}},
        "spec": {
            "replicas": replicas, "progressDeadlineSeconds": 600, "revisionHistoryLimit": 2,
            "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}},
        },
    })
}

/// Applies as kubectl does: what the controller keeps in annotations and status stays.
fn apply(kernel: &mut FakeKernel, new: Value) -> Result<()> {
    if kernel.get("apps/deployments", "shop", "web").is_none() {
        return kernel.put(new).map(|_| ());
    }
    kernel.edit("apps/deployments", "shop", "web", |old| old["spec"] = new["spec"].clone());
    Ok(())
}

/// Plays the ReplicaSets: all pods asked for are there, and of those of a working image one more is ready each time.
fn play(kernel: &mut FakeKernel) -> Result<()> {
    let sets: Vec<(String, Value)> = kernel
        .list(RESOURCE)
        .into_iter()
        .map(|set| (set["metadata"]["name"].as_str().unwrap_or_default().to_owned(), set.clone()))
        .collect();
    for (name, set) in sets {
        let asked = set["spec"]["replicas"].as_i64().unwrap_or(0);
        let broken = set["spec"]["template"]["spec"]["containers"][0]["image"] == "broken";
        let ready = set["status"]["readyReplicas"].as_i64().unwrap_or(0);
        let ready = if broken { 0 } else { (ready + 1).min(asked) };
        let generation = set["metadata"]["generation"].clone();
        kernel.edit(RESOURCE, "shop", &name, |set| {
            set["status"] = json!({
                "replicas": asked, "readyReplicas": ready, "availableReplicas": ready, "observedGeneration": generation,
            });
        });
    }
    Ok(())
}

fn roll(kernel: &mut FakeKernel, image: &str, replicas: i64) -> Result<()> {
    apply(kernel, deployment(image, replicas))?;
    kernel.settle_with(&mut Deployments, play)?;
    Ok(())
}

/// `image -> replicas` of the sets that ask for pods.
fn sizes(store: &Store) -> Vec<(String, i64)> {
    let mut sizes: Vec<(String, i64)> = store
        .list(RESOURCE)
        .map(|set| {
            let image = set["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap_or_default();
            (image.to_owned(), set["spec"]["replicas"].as_i64().unwrap_or(0))
        })
        .filter(|(_, size)| *size > 0)
        .collect();
    sizes.sort();
    sizes
}

fn status(kernel: &FakeKernel) -> Value {
    kernel.get("apps/deployments", "shop", "web").map(|d| d["status"].clone()).unwrap_or_default()
}

fn condition(kernel: &FakeKernel, kind: &str) -> (String, String) {
    let status = status(kernel);
    let found = status["conditions"].as_array().and_then(|list| list.iter().find(|c| c["type"] == kind)).cloned().unwrap_or_default();
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    (text("status"), text("reason"))
}

/// Fails when more pods are asked for than the surge allows, or fewer are available than must be. A set's availability counts at most what
/// it still asks for.
fn within(most: i64, least: i64) -> pintle_sdk::testing::Invariant {
    Box::new(move |store| {
        let asked: i64 = store.list(RESOURCE).map(|set| set["spec"]["replicas"].as_i64().unwrap_or(0)).sum();
        let available: i64 = store
            .list(RESOURCE)
            .map(|set| set["status"]["availableReplicas"].as_i64().unwrap_or(0).min(set["spec"]["replicas"].as_i64().unwrap_or(0)))
            .sum();
        if asked > most || available < least {
            Err(format!("{asked} asked for, {available} available: {:?}", sizes(store)))
        } else {
            Ok(())
        }
    })
}

#[test]
fn a_new_deployment_gets_one_set_named_by_its_template() -> Result<()> {
    let mut kernel = FakeKernel::new(MANIFEST)?;
    roll(&mut kernel, "one", 3)?;
    let set = kernel.list(RESOURCE)[0];
    let hash = set["metadata"]["labels"][HASH_LABEL].as_str().unwrap_or_default();
    assert_eq!(set["metadata"]["name"], format!("web-{hash}"));
    assert_eq!(set["spec"]["selector"]["matchLabels"], json!({"app": "web", HASH_LABEL: hash}));
    assert_eq!(set["spec"]["template"]["metadata"]["labels"][HASH_LABEL], hash);
    let annotations = &set["metadata"]["annotations"];
    assert_eq!((&annotations[REVISION], &annotations[DESIRED], &annotations[MAX]), (&json!("1"), &json!("3"), &json!("4")));
    assert_eq!((&annotations["team"], annotations.get("kubectl.kubernetes.io/last-applied-configuration")), (&json!("a"), None));
    assert_eq!(condition(&kernel, "Available"), ("True".into(), "MinimumReplicasAvailable".into()));
    assert_eq!(condition(&kernel, "Progressing"), ("True".into(), "NewReplicaSetAvailable".into()));
    let status = status(&kernel);
    assert_eq!(
        (&status["updatedReplicas"], &status["availableReplicas"], &status["unavailableReplicas"]),
        (&json!(3), &json!(3), &json!(0))
    );
    Ok(())
}

#[test]
fn a_rollout_stays_within_surge_and_availability_at_every_write() -> Result<()> {
    for (surge, unavailable, most, least) in [
        (json!("25%"), json!("25%"), 13, 8),
        (json!(0), json!(1), 10, 9),
        (json!(1), json!(0), 11, 10),
        (json!("100%"), json!(0), 20, 10),
        (json!(0), json!(0), 10, 9),
    ] {
        let mut kernel = FakeKernel::new(MANIFEST)?;
        let mut one = deployment("one", 10);
        one["spec"]["strategy"]["rollingUpdate"] = json!({"maxSurge": surge, "maxUnavailable": unavailable});
        let mut two = one.clone();
        two["spec"]["template"]["spec"]["containers"][0]["image"] = json!("two");
        apply(&mut kernel, one)?;
        kernel.settle_with(&mut Deployments, play)?;
        kernel.check_each_write(within(most, least));
        apply(&mut kernel, two)?;
        kernel.settle_with(&mut Deployments, play)?;
        assert_eq!(sizes(&kernel.store), [("two".to_owned(), 10)]);
    }
    Ok(())
}

#[test]
fn a_broken_image_stops_the_rollout_and_times_out() -> Result<()> {
    let mut kernel = FakeKernel::new(MANIFEST)?;
    roll(&mut kernel, "one", 4)?;
    kernel.check_each_write(within(5, 3));
    roll(&mut kernel, "broken", 4)?;
    assert_eq!(sizes(&kernel.store), [("broken".to_owned(), 2), ("one".to_owned(), 3)]);
    assert_eq!(condition(&kernel, "Progressing").1, "ReplicaSetUpdated");
    kernel.pass(&mut Deployments, Duration::from_secs(700))?;
    assert_eq!(condition(&kernel, "Progressing"), ("False".into(), "ProgressDeadlineExceeded".into()));
    roll(&mut kernel, "one", 4)?;
    assert_eq!(sizes(&kernel.store), [("one".to_owned(), 4)]);
    assert_eq!(condition(&kernel, "Progressing"), ("True".into(), "NewReplicaSetAvailable".into()));
    Ok(())
}

#[test]
fn going_back_takes_the_old_set_into_use_under_a_new_revision() -> Result<()> {
    let mut kernel = FakeKernel::new(MANIFEST)?;
    for image in ["one", "two", "one"] {
        roll(&mut kernel, image, 2)?;
    }
    let set = kernel.list(RESOURCE).into_iter().find(|set| set["spec"]["replicas"] == 2).cloned().unwrap_or_default();
    let annotations = &set["metadata"]["annotations"];
    assert_eq!((&annotations[REVISION], &annotations[REVISION_HISTORY]), (&json!("3"), &json!("1")));
    assert_eq!(kernel.list(RESOURCE).len(), 2);
    let deployment = kernel.get("apps/deployments", "shop", "web").cloned().unwrap_or_default();
    assert_eq!(deployment["metadata"]["annotations"][REVISION], "3");
    Ok(())
}

#[test]
fn old_revisions_beyond_the_limit_are_deleted() -> Result<()> {
    let mut kernel = FakeKernel::new(MANIFEST)?;
    for image in ["one", "two", "three", "four", "five"] {
        roll(&mut kernel, image, 2)?;
    }
    let mut revisions: Vec<String> =
        kernel.list(RESOURCE).iter().map(|set| set["metadata"]["annotations"][REVISION].as_str().unwrap_or_default().to_owned()).collect();
    revisions.sort();
    assert_eq!(revisions, ["3", "4", "5"]);
    Ok(())
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() -> Result<()> {
    let mut kernel = FakeKernel::new(MANIFEST)?;
    roll(&mut kernel, "one", 2)?;
    let mut paused = deployment("two", 5);
    paused["spec"]["paused"] = json!(true);
    apply(&mut kernel, paused)?;
    kernel.settle_with(&mut Deployments, play)?;
    assert_eq!(sizes(&kernel.store), [("one".to_owned(), 5)]);
    assert_eq!(condition(&kernel, "Progressing"), ("Unknown".into(), "DeploymentPaused".into()));
    roll(&mut kernel, "two", 5)?;
    assert_eq!(sizes(&kernel.store), [("two".to_owned(), 5)]);
    Ok(())
}

#[test]
fn scaling_in_the_middle_of_a_rollout_shares_by_proportion() -> Result<()> {
    let mut kernel = FakeKernel::new(MANIFEST)?;
    roll(&mut kernel, "one", 8)?;
    roll(&mut kernel, "broken", 8)?;
    assert_eq!(sizes(&kernel.store), [("broken".to_owned(), 4), ("one".to_owned(), 6)]);
    roll(&mut kernel, "broken", 16)?;
    let total: i64 = sizes(&kernel.store).iter().map(|(_, size)| size).sum();
    assert_eq!(total, 20, "{:?}", sizes(&kernel.store));
    assert!(sizes(&kernel.store)[1].1 >= 12, "{:?}", sizes(&kernel.store));
    Ok(())
}

#[test]
fn scaling_to_zero_and_back_keeps_the_set() -> Result<()> {
    let mut kernel = FakeKernel::new(MANIFEST)?;
    for replicas in [3, 0, 3] {
        roll(&mut kernel, "one", replicas)?;
        assert_eq!(sizes(&kernel.store).iter().map(|(_, size)| size).sum::<i64>(), replicas);
    }
    assert_eq!(kernel.list(RESOURCE).len(), 1);
    Ok(())
}

#[test]
fn recreate_waits_until_the_last_old_pod_is_gone() -> Result<()> {
    let mut kernel = FakeKernel::new(MANIFEST)?;
    let recreate = |image| {
        let mut d = deployment(image, 3);
        d["spec"]["strategy"] = json!({"type": "Recreate"});
        d
    };
    apply(&mut kernel, recreate("one"))?;
    kernel.settle_with(&mut Deployments, play)?;
    apply(&mut kernel, recreate("two"))?;
    let old = only_set(&kernel);
    for _ in 0..3 {
        kernel.round(&mut Deployments)?;
        play(&mut kernel)?;
        kernel.edit(RESOURCE, "shop", &old, |set| set["status"]["terminatingReplicas"] = json!(1));
    }
    assert_eq!(sizes(&kernel.store), []);
    kernel.settle_with(&mut Deployments, play)?;
    assert_eq!(sizes(&kernel.store), [("two".to_owned(), 3)]);
    Ok(())
}

fn only_set(kernel: &FakeKernel) -> String {
    kernel.list(RESOURCE)[0]["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn an_orphaned_set_is_adopted() -> Result<()> {
    let mut kernel = FakeKernel::new(MANIFEST)?;
    roll(&mut kernel, "one", 2)?;
    let name = kernel.list(RESOURCE)[0]["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    kernel.edit(RESOURCE, "shop", &name, |set| set["metadata"]["ownerReferences"] = json!([]));
    kernel.settle_with(&mut Deployments, play)?;
    assert_eq!(kernel.list(RESOURCE).len(), 1);
    assert_eq!(kernel.list(RESOURCE)[0]["metadata"]["ownerReferences"][0]["name"], "web");
    Ok(())
}

#[test]
fn a_name_that_is_taken_is_passed_over() -> Result<()> {
    let mut kernel = FakeKernel::new(MANIFEST)?;
    let wanted = deployment("one", 1);
    let name = format!("web-{}", template::hash(&wanted["spec"]["template"], None));
    let mut squatter = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": name, "namespace": "shop", "labels": {"app": "web"}},
        "spec": {"replicas": 0, "template": {"spec": {"containers": [{"image": "other"}]}}}});
    let owner = kernel.put(wanted)?;
    squatter["metadata"]["ownerReferences"] = json!([{"uid": owner.uid, "controller": true, "kind": "Deployment", "name": "web"}]);
    kernel.put(squatter)?;
    kernel.settle_with(&mut Deployments, play)?;
    assert_eq!(sizes(&kernel.store), [("one".to_owned(), 1)]);
    assert_eq!(status(&kernel)["collisionCount"], 1);
    Ok(())
}

#[test]
fn a_crash_after_any_write_of_a_rollout_changes_nothing_about_its_end() -> Result<()> {
    for writes in 0..25 {
        let mut kernel = FakeKernel::new(MANIFEST)?;
        roll(&mut kernel, "one", 6)?;
        kernel.check_each_write(within(8, 5));
        apply(&mut kernel, deployment("two", 6))?;
        kernel.crash_after(writes);
        kernel.settle_with(&mut Deployments, play)?;
        kernel.settle_with(&mut Deployments, play)?;
        assert_eq!(sizes(&kernel.store), [("two".to_owned(), 6)], "crash after {writes} writes");
        assert_eq!(kernel.list(RESOURCE).len(), 2);
    }
    Ok(())
}

#[test]
fn a_rollout_ends_the_same_under_every_disturbance() -> Result<()> {
    let begin = || {
        let mut kernel = FakeKernel::new(MANIFEST)?;
        roll(&mut kernel, "one", 6)?;
        kernel.check_each_write(within(8, 5));
        apply(&mut kernel, deployment("two", 6))?;
        Ok(kernel)
    };
    Disturbed::new(begin, || Ok(Deployments)).with_others(play).check()?;
    Ok(())
}

#[test]
fn old_views_in_the_middle_of_a_rollout_break_no_limit() -> Result<()> {
    for fresh_rounds in 0..12 {
        let mut kernel = FakeKernel::new(MANIFEST)?;
        roll(&mut kernel, "one", 6)?;
        kernel.check_each_write(within(8, 5));
        apply(&mut kernel, deployment("two", 6))?;
        for _ in 0..fresh_rounds {
            kernel.round(&mut Deployments)?;
            play(&mut kernel)?;
        }
        kernel.freeze_view();
        for _ in 0..3 {
            kernel.round(&mut Deployments)?;
        }
        kernel.thaw_view();
        kernel.settle_with(&mut Deployments, play)?;
        assert_eq!(sizes(&kernel.store), [("two".to_owned(), 6)]);
        assert_eq!(kernel.list(RESOURCE).len(), 2);
    }
    Ok(())
}
