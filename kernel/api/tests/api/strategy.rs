//! Which parts of a write count.

use pintle_api::strategy::{Stamp, is_noop, prepare_create, prepare_update};
use serde_json::{Value, json};

const STAMP: Stamp<'_> = Stamp { uid: "u-1", now: "2026-01-01T00:00:00Z", suffix: "abcdefgh" };

fn stored() -> Value {
    json!({"metadata": {"name": "web", "namespace": "d", "uid": "u-1", "generation": 1, "resourceVersion": "7", "creationTimestamp": "2026-01-01T00:00:00Z"},
           "spec": {"replicas": 1}, "status": {"replicas": 1}})
}

#[test]
fn a_create_is_stamped_and_loses_what_is_the_servers() {
    let mut object = json!({"metadata": {"generateName": "web-", "uid": "x", "managedFields": [], "generation": 9}, "spec": {}, "status": {"replicas": 5}});
    prepare_create(crate::resource("apps/v1/deployments"), &mut object, "d", STAMP).expect("prepared");
    assert_eq!(
        object,
        json!({"metadata": {"generateName": "web-", "name": "web-abcde", "namespace": "d", "uid": "u-1", "creationTimestamp": "2026-01-01T00:00:00Z", "generation": 1}, "spec": {}})
    );
    let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"resources": {"requests": {"cpu": "1"}}}]}});
    prepare_create(crate::resource("v1/pods"), &mut pod, "d", STAMP).expect("prepared");
    assert_eq!(pod["status"], json!({"phase": "Pending", "qosClass": "Burstable"}));
    let mut other = json!({"metadata": {"name": "p", "namespace": "elsewhere"}});
    let error = prepare_create(crate::resource("v1/pods"), &mut other, "d", STAMP).expect_err("refused");
    assert_eq!(error.message, "the namespace of the provided object does not match the namespace sent on the request");
    let mut versioned = json!({"metadata": {"name": "p", "resourceVersion": "5"}});
    assert!(prepare_create(crate::resource("v1/pods"), &mut versioned, "d", STAMP).is_err());
}

#[test]
fn a_job_selects_its_own_pods() {
    let mut job = json!({"metadata": {"name": "j"}, "spec": {"template": {"spec": {}}}});
    prepare_create(crate::resource("batch/v1/jobs"), &mut job, "d", STAMP).expect("prepared");
    assert_eq!(job["spec"]["selector"], json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u-1"}}));
    assert_eq!(job["spec"]["template"]["metadata"]["labels"]["job-name"], "j");
}

#[test]
fn an_update_keeps_status_and_counts_changes_of_the_spec() {
    let deployments = crate::resource("apps/v1/deployments");
    let mut new =
        json!({"metadata": {"name": "web", "namespace": "d", "labels": {"a": "b"}}, "spec": {"replicas": 2}, "status": {"replicas": 9}});
    prepare_update(deployments, None, &mut new, &stored()).expect("prepared");
    assert_eq!(
        (&new["status"], &new["metadata"]["generation"], &new["metadata"]["uid"]),
        (&json!({"replicas": 1}), &json!(2), &json!("u-1"))
    );
    let mut new = json!({"metadata": {"name": "web", "labels": {"a": "b"}}, "spec": {"replicas": 1}});
    prepare_update(deployments, None, &mut new, &stored()).expect("prepared");
    assert_eq!(new["metadata"]["generation"], json!(1));
    let mut new = json!({"metadata": {"name": "web", "resourceVersion": "7"}, "spec": {"replicas": 5}, "status": {"replicas": 2}});
    prepare_update(deployments, Some("status"), &mut new, &stored()).expect("prepared");
    assert_eq!(
        (&new["spec"], &new["status"], &new["metadata"]["generation"]),
        (&json!({"replicas": 1}), &json!({"replicas": 2}), &json!(1))
    );
    let mut new = json!({"metadata": {"name": "other"}});
    assert!(prepare_update(deployments, None, &mut new, &stored()).is_err());
    let mut new = json!({"metadata": {"name": "web", "uid": "another"}});
    assert_eq!(prepare_update(deployments, None, &mut new, &stored()).expect_err("refused").code, 409);
}

#[test]
fn a_write_that_changes_nothing_is_recognized() {
    let mut same = stored();
    same["metadata"]["resourceVersion"] = json!("9");
    assert!(is_noop(&same, &stored()));
    same["metadata"]["labels"] = json!({"a": "b"});
    assert!(!is_noop(&same, &stored()));
    let mut status = stored();
    status["status"]["replicas"] = json!(3);
    assert!(!is_noop(&status, &stored()));
}
