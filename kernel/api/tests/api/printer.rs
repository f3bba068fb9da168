//! Tables, as `kubectl get` would print them.

use pintle_api::printer::{IncludeObject, table};
use serde_json::{Value, json};

/// The table of `objects` as lines: columns of priority 0, separated by two spaces.
fn print(path: &str, objects: &[Value], wide: bool) -> String {
    let now = "2026-01-02T00:00:00Z".parse().expect("a time");
    let table = table(crate::resource(path), objects, json!({}), IncludeObject::None, "v1", now);
    let shown: Vec<usize> = table["columnDefinitions"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
        .filter(|(_, c)| wide || c["priority"] == 0)
        .map(|(i, _)| i)
        .collect();
    let cell = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let head = shown.iter().map(|i| cell(&table["columnDefinitions"][i]["name"]).to_uppercase()).collect::<Vec<_>>().join("  ");
    let rows = table["rows"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|row| shown.iter().map(|i| cell(&row["cells"][i])).collect::<Vec<_>>().join("  "));
    std::iter::once(head).chain(rows).collect::<Vec<_>>().join("\n")
}

#[track_caller]
fn check(path: &str, objects: &[Value], expected: &str) {
    assert_eq!(print(path, objects, false), expected);
}

fn pod(status: Value) -> Value {
    json!({"metadata": {"name": "p", "creationTimestamp": "2026-01-01T23:58:00Z"},
           "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]}, "status": status})
}

#[test]
fn pods_show_the_status_that_users_know() {
    let running = |ready: bool, restarts: u32| json!({"ready": ready, "restartCount": restarts, "state": {"running": {}}, "lastState": {"terminated": {"finishedAt": "2026-01-01T23:59:00Z"}}});
    let waiting = json!({"restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}}});
    let ended = json!({"restartCount": 0, "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}});
    let initialized = json!({"restartCount": 0, "state": {"terminated": {"exitCode": 0}}});
    let mut leaving = pod(json!({"phase": "Running", "containerStatuses": [running(true, 0), running(true, 0)]}));
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-02T00:00:00Z");
    check(
        "v1/pods",
        &[
            pod(json!({"phase": "Pending"})),
            pod(json!({"phase": "Pending", "initContainerStatuses": [{"state": {"running": {}}}]})),
            pod(
                json!({"phase": "Pending", "initContainerStatuses": [{"restartCount": 2, "state": {"waiting": {"reason": "ImagePullBackOff"}}}]}),
            ),
            pod(
                json!({"phase": "Running", "initContainerStatuses": [initialized], "containerStatuses": [running(true, 0), running(false, 1)]}),
            ),
            pod(json!({"phase": "Running", "containerStatuses": [running(true, 0), waiting]})),
            pod(
                json!({"phase": "Running", "containerStatuses": [ended, running(true, 0)], "conditions": [{"type": "Ready", "status": "False"}]}),
            ),
            pod(json!({"phase": "Failed", "reason": "Evicted"})),
            leaving,
        ],
        "NAME  READY  STATUS  RESTARTS  AGE\n\
         p  0/2  Pending  0  2m\n\
         p  0/2  Init:0/1  0  2m\n\
         p  0/2  Init:ImagePullBackOff  2  2m\n\
         p  1/2  Running  1 (60s ago)  2m\n\
         p  1/2  CrashLoopBackOff  3 (60s ago)  2m\n\
         p  1/2  NotReady  0  2m\n\
         p  0/2  Evicted  0  2m\n\
         p  2/2  Terminating  0  2m",
    );
}

#[test]
fn the_kinds_a_user_sees_first_have_upstreams_columns() {
    let metadata = json!({"name": "x", "creationTimestamp": "2026-01-01T00:00:00Z"});
    check(
        "apps/v1/deployments",
        &[
            json!({"metadata": metadata, "spec": {"replicas": 3}, "status": {"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 2}}),
        ],
        "NAME  READY  UP-TO-DATE  AVAILABLE  AGE\nx  2/3  3  2  24h",
    );
    check(
        "v1/services",
        &[
            json!({"metadata": metadata, "spec": {"type": "NodePort", "clusterIP": "10.0.0.1", "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}]}}),
            json!({"metadata": metadata, "spec": {"type": "LoadBalancer", "ports": [{"port": 53, "protocol": "UDP"}]}}),
        ],
        "NAME  TYPE  CLUSTER-IP  EXTERNAL-IP  PORT(S)  AGE\nx  NodePort  10.0.0.1  <none>  80:30080/TCP  24h\nx  LoadBalancer  <none>  <pending>  53/UDP  24h",
    );
    check(
        "v1/nodes",
        &[json!({"metadata": {"name": "n", "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"node-role.kubernetes.io/worker": ""}},
                 "spec": {"unschedulable": true}, "status": {"conditions": [{"type": "Ready", "status": "True"}], "nodeInfo": {"kubeletVersion": "v1"}}})],
        "NAME  STATUS  ROLES  AGE  VERSION\nn  Ready,SchedulingDisabled  worker  24h  v1",
    );
    check("v1/configmaps", &[json!({"metadata": metadata, "data": {"a": "", "b": ""}})], "NAME  DATA  AGE\nx  2  24h");
    check(
        "batch/v1/jobs",
        &[json!({"metadata": metadata, "spec": {"completions": 2}, "status": {"succeeded": 1, "startTime": "2026-01-01T23:59:00Z"}})],
        "NAME  STATUS  COMPLETIONS  DURATION  AGE\nx  Running  1/2  60s  24h",
    );
    check(
        "pintle.dev/v1/modules",
        &[json!({"metadata": metadata, "spec": {"type": "controller"},
                 "status": {"state": "Running", "digest": "sha256:0123456789abcdef", "calls": 12, "p99Micros": 1250, "memoryBytes": 1_572_864, "traps": 0}})],
        "NAME  TYPE  STATE  DIGEST  CALLS  P99  MEMORY  TRAPS  AGE\nx  controller  Running  0123456789ab  12  1.2ms  1.5Mi  0  24h",
    );
    check(
        "networking.k8s.io/v1/servicecidrs",
        &[json!({"metadata": metadata, "spec": {"cidrs": ["10.0.0.0/8"]}})],
        "NAME  CIDRS  AGE\nx  10.0.0.0/8  24h",
    );
    check("resource.k8s.io/v1/deviceclasses", &[json!({"metadata": metadata})], "NAME  AGE\nx  24h");
    assert_eq!(print("v1/pods", &[], true), "NAME  READY  STATUS  RESTARTS  AGE  IP  NODE  NOMINATED NODE  READINESS GATES");
}

#[test]
fn events_of_either_group_print_alike() {
    let head = "LAST SEEN  TYPE  REASON  OBJECT  MESSAGE\n60s  Normal  Pulled  pod/p  done";
    check(
        "v1/events",
        &[
            json!({"type": "Normal", "reason": "Pulled", "message": "done", "involvedObject": {"kind": "Pod", "name": "p"}, "lastTimestamp": "2026-01-01T23:59:00Z"}),
        ],
        head,
    );
    check(
        "events.k8s.io/v1/events",
        &[
            json!({"type": "Normal", "reason": "Pulled", "note": "done", "regarding": {"kind": "Pod", "name": "p"}, "eventTime": "2026-01-01T23:59:00.000000Z"}),
        ],
        head,
    );
}
