//! The audit log: what is kept of whom, what decides, what files become.

use std::path::Path;
use std::sync::Arc;

use pintle_registry::audit::{About, Auditor, LogConfig, Policy, Stage};
use pintle_registry::{ApiError, Body, Caller, WriteOptions};
use serde_json::{Value, json};

use crate::cluster::{Answer, As, Client, Cluster, stop, until};
use crate::webhooks;

const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  nonResourceURLs: ["/version", "/healthz*"]
- level: None
  verbs: [get]
  resources: [{group: "", resources: ["pods/*", "nodes"]}]
- level: Metadata
  resources: [{group: "", resources: [secrets]}]
- level: RequestResponse
  omitManagedFields: true
  namespaces: [default]
  resources: [{group: "", resources: [configmaps], resourceNames: [shown]}, {group: "", resources: [serviceaccounts]}]
- level: Request
  verbs: [create, patch]
  omitStages: []
- level: Metadata
  userGroups: ["system:masters", "system:authenticated"]
- level: Metadata
"#;

/// A cluster that audits by `policy`, and its log.
async fn audited(policy: &str) -> (Cluster, Arc<Auditor>, std::path::PathBuf) {
    let cluster = Cluster::start().await;
    let path = cluster.dir().join("audit/audit.log");
    let auditor =
        Auditor::start(Policy::parse(policy.as_bytes()).unwrap(), LogConfig { path: path.clone(), ..LogConfig::default() }).unwrap();
    cluster.registry.set_auditor(auditor.clone());
    (cluster, auditor, path)
}

fn events(path: &Path) -> Vec<Value> {
    std::fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The events of a request, once they are written.
async fn of(auditor: &Auditor, path: &Path, id: &str) -> Vec<Value> {
    auditor.flush().await;
    events(path).into_iter().filter(|event| event["auditID"] == id).collect()
}

async fn create(admin: &mut Client, plural: &str, id: &str, object: Value) -> Answer {
    let headers = [("content-type", "application/json"), ("audit-id", id)];
    admin.send("POST", &format!("/api/v1/namespaces/default/{plural}"), &headers, object.to_string()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_level_says_what_is_kept_of_a_request() {
    let (cluster, auditor, path) = audited(POLICY).await;
    let mut admin = cluster.admin().await;
    admin.headers.insert("user-agent", "audit-test/1".parse().unwrap());
    // Metadata: whose it is and what became of it, nothing of the object.
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"password": "hush"}});
    let answer = create(&mut admin, "secrets", "id-secret", secret).await;
    assert_eq!((answer.status, answer.headers["audit-id"].to_str().unwrap()), (201, "id-secret"));
    let [event] = &of(&auditor, &path, "id-secret").await[..] else { panic!("one event") };
    assert!(!event.to_string().contains("hush") && event["requestObject"].is_null() && event["responseObject"].is_null(), "{event}");
    assert_eq!(
        (&event["kind"], &event["apiVersion"], &event["level"], &event["stage"], &event["verb"]),
        (&json!("Event"), &json!("audit.k8s.io/v1"), &json!("Metadata"), &json!("ResponseComplete"), &json!("create"))
    );
    assert_eq!(event["requestURI"], "/api/v1/namespaces/default/secrets");
    assert_eq!(event["objectRef"], json!({"resource": "secrets", "namespace": "default", "name": "s", "apiVersion": "v1"}));
    assert_eq!((&event["user"]["username"], &event["userAgent"]), (&json!("kubernetes-admin"), &json!("audit-test/1")));
    assert_eq!((&event["sourceIPs"], &event["responseStatus"]), (&json!(["127.0.0.1"]), &json!({"metadata": {}, "code": 201})));
    assert_eq!(event["annotations"]["authorization.k8s.io/decision"], "allow");
    let reason = event["annotations"]["authorization.k8s.io/reason"].as_str().unwrap();
    assert_eq!(reason, r#"RBAC: allowed by ClusterRoleBinding "cluster-admin" of ClusterRole "cluster-admin" to Group "system:masters""#);
    let time = |key: &str| event[key].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert!(time("requestReceivedTimestamp") <= time("stageTimestamp"));
    assert_eq!(event["stageTimestamp"].as_str().unwrap().len(), "2026-01-01T00:00:00.000000Z".len());

    // Request and answer, without the names of managers where the rule says so.
    let account = json!({"metadata": {"name": "robot"}});
    assert_eq!(create(&mut admin, "serviceaccounts", "id-account", account.clone()).await.status, 201);
    let [event] = &of(&auditor, &path, "id-account").await[..] else { panic!("one event") };
    assert_eq!(event["requestObject"]["metadata"]["name"], "robot");
    assert!(
        event["responseObject"]["metadata"]["uid"].is_string() && event["responseObject"]["metadata"]["managedFields"].is_null(),
        "{event}"
    );

    // The rule of that name is not about this one: the request alone is kept. A patch is kept as it was sent.
    assert_eq!(create(&mut admin, "configmaps", "id-map", json!({"metadata": {"name": "other"}, "data": {"a": "1"}})).await.status, 201);
    let headers = [("content-type", "application/merge-patch+json"), ("audit-id", "id-patch")];
    let answer = admin.send("PATCH", "/api/v1/namespaces/default/configmaps/other", &headers, r#"{"data":{"a":"2"}}"#).await;
    assert_eq!(answer.status, 200);
    let [event] = &of(&auditor, &path, "id-map").await[..] else { panic!("one event") };
    assert_eq!((&event["requestObject"]["data"]["a"], &event["responseObject"]), (&json!("1"), &Value::Null));
    let [event] = &of(&auditor, &path, "id-patch").await[..] else { panic!("one event") };
    assert_eq!((&event["requestObject"], &event["verb"]), (&json!({"data": {"a": "2"}}), &json!("patch")));

    // No rule, no event.
    let before = events(&path).len();
    assert_eq!(admin.get("/version").await.status, 200);
    assert_eq!(admin.get("/api/v1/nodes/n1").await.status, 404);
    auditor.flush().await;
    assert_eq!(events(&path).len(), before);
    assert_eq!(auditor.counts(), (before as u64, 0));
    stop(cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_strangers_and_long_requests_are_told() {
    let (cluster, auditor, path) = audited(POLICY).await;
    let mut admin = cluster.admin().await;
    // Who acts as another is both.
    let headers = [("impersonate-user", "bob"), ("audit-id", "id-bob")];
    assert_eq!(admin.send("DELETE", "/api/v1/namespaces/default/configmaps/x", &headers, "").await.status, 403);
    let [event] = &of(&auditor, &path, "id-bob").await[..] else { panic!("one event") };
    assert_eq!((&event["user"]["username"], &event["impersonatedUser"]["username"]), (&json!("kubernetes-admin"), &json!("bob")));
    assert_eq!(event["annotations"]["authorization.k8s.io/decision"], "forbid");
    let status = &event["responseStatus"];
    assert_eq!((&status["code"], &status["reason"], &status["status"]), (&json!(403), &json!("Forbidden"), &json!("Failure")));
    assert!(status["message"].as_str().unwrap().contains(r#"User "bob" cannot delete resource"#), "{status}");

    // Nobody is told of, too.
    let mut nobody = cluster.connect(As::Nobody).await;
    let headers = [("authorization", "Bearer wrong"), ("audit-id", "id-nobody")];
    assert_eq!(nobody.send("GET", "/api/v1/secrets", &headers, "").await.status, 401);
    let [event] = &of(&auditor, &path, "id-nobody").await[..] else { panic!("one event") };
    assert_eq!((&event["responseStatus"]["code"], &event["stage"]), (&json!(401), &json!("ResponseStarted")));
    assert_eq!(event["responseStatus"]["message"], "Authentication failed, attempted: bearer");

    // A watch has a beginning and an end.
    let headers = [("audit-id", "id-watch")];
    let watch = admin.open("GET", "/api/v1/configmaps?watch=true", &headers, "").await;
    assert_eq!(watch.status(), 200);
    let stages = |events: &[Value]| events.iter().map(|event| event["stage"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(stages(&of(&auditor, &path, "id-watch").await), ["ResponseStarted"]);
    drop((watch, admin));
    let told = until("the end of the watch is told", async || {
        let told = stages(&of(&auditor, &path, "id-watch").await);
        if told.len() < 2 { Err(told.concat()) } else { Ok(told) }
    })
    .await;
    assert_eq!(told, ["ResponseStarted", "ResponseComplete"]);
    stop(cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_by_other_doors_are_audited_under_their_own_names() {
    let (cluster, auditor, path) = audited("{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{level: RequestResponse}]}").await;
    let registry = &cluster.registry;
    let target = registry.resolve("", "v1", "configmaps", "", "default", "").unwrap();
    let body = Body::Value(json!({"metadata": {"name": "by-module"}}));
    registry.create(&Caller::module("tidy"), &target, body.clone(), &WriteOptions::default()).await.unwrap();
    let refused: Result<_, ApiError> = registry.create(&Caller::module("tidy"), &target, body, &WriteOptions::default()).await;
    assert_eq!(refused.unwrap_err().code, 409);
    auditor.flush().await;
    let told: Vec<Value> = events(&path).into_iter().filter(|event| event["user"]["username"] == "system:pintle-module:tidy").collect();
    let stages: Vec<_> = told.iter().map(|event| (event["stage"].as_str().unwrap(), event["responseStatus"]["code"].as_u64())).collect();
    let (received, complete) = ("RequestReceived", "ResponseComplete");
    assert_eq!(stages, [(received, None), (complete, Some(201)), (received, None), (complete, Some(409))]);
    assert_eq!((&told[1]["requestURI"], &told[1]["verb"]), (&json!("/api/v1/namespaces/default/configmaps"), &json!("create")));
    assert_eq!((&told[1]["objectRef"]["name"], &told[1]["responseObject"]["kind"]), (&json!("by-module"), &json!("ConfigMap")));
    assert_eq!((&told[0]["auditID"], &told[0]["sourceIPs"]), (&told[1]["auditID"], &Value::Null));
    stop(cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn judges_have_their_notes_in_the_log() {
    let (cluster, auditor, path) =
        audited("{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{level: Metadata, verbs: [create]}]}").await;
    let (mut admin, judge) = (cluster.admin().await, webhooks::judge().await);
    webhooks::register(&mut admin, "Validating", json!([judge.webhook("/note", json!({}))])).await;
    let root = "/apis/admissionregistration.k8s.io/v1";
    let rules = json!([{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]);
    let spec = json!({
        "matchConstraints": {"resourceRules": rules},
        "validations": [{"expression": "true"}, {"expression": "object.metadata.name == 'x'", "message": "must be x"}],
        "auditAnnotations": [{"key": "name", "valueExpression": "object.metadata.name"}],
    });
    let policy = json!({"metadata": {"name": "named.example.com"}, "spec": spec});
    assert_eq!(admin.post(&format!("{root}/validatingadmissionpolicies"), policy).await.status, 201);
    let binding = json!({"metadata": {"name": "b"}, "spec": {"policyName": "named.example.com", "validationActions": ["Audit"]}});
    assert_eq!(admin.post(&format!("{root}/validatingadmissionpolicybindings"), binding).await.status, 201);
    let mut attempts = 0..;
    let (attempt, notes) = until("both are asked", async || {
        let attempt = attempts.next().unwrap();
        let body = json!({"metadata": {"name": format!("n-{attempt}")}});
        let answer = admin.post("/api/v1/namespaces/default/configmaps", body).await;
        assert_eq!(answer.status, 201);
        let id = answer.headers["audit-id"].to_str().unwrap().to_owned();
        let notes = of(&auditor, &path, &id).await.pop().unwrap()["annotations"].clone();
        let both = notes["judge.example.com/why"].is_string() && notes["named.example.com/name"].is_string();
        if both { Ok((attempt, notes)) } else { Err(notes) }
    })
    .await;
    assert_eq!((&notes["judge.example.com/why"], &notes["named.example.com/name"]), (&json!("because"), &json!(format!("n-{attempt}"))));
    let failures: Value = serde_json::from_str(notes["validation.policy.admission.k8s.io/validation_failure"].as_str().unwrap()).unwrap();
    let failure = json!({"message": "must be x", "policy": "named.example.com", "binding": "b", "expressionIndex": 1, "validationActions": ["Audit"]});
    assert_eq!(failures, json!([failure]));
    stop(cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_are_turned_over_and_a_full_queue_loses_nothing() {
    let dir = std::env::temp_dir().join(format!("pintle-audit-{}", std::process::id()));
    let policy = || Policy::parse(b"{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{level: Metadata}]}").unwrap();
    let caller = Caller::kernel();
    let uri = format!("/{}", "x".repeat(200));
    let parts = ["verb", "group", "version", "resource", "subresource", "namespace", "name", "path"];
    let [verb, group, version, resource, subresource, namespace, name, path] = parts;
    let about = About { caller: &caller, verb, is_resource: false, group, version, resource, subresource, namespace, name, path };
    let fill = |log: LogConfig, count: usize| {
        let (auditor, about, uri) = (Auditor::start(policy(), log).unwrap(), &about, &uri);
        async move {
            for number in 0..count {
                auditor.begin(about, &number.to_string(), uri).unwrap().write(Stage::ResponseComplete).await;
            }
            auditor.flush().await;
            auditor.counts()
        }
    };
    let files = |name: &str| -> Vec<std::path::PathBuf> {
        let mut files: Vec<_> = std::fs::read_dir(dir.join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    };
    // More events than the queue holds, all kept.
    let all = LogConfig { path: dir.join("all/audit.log"), megabytes_max: 1, ..LogConfig::default() };
    assert_eq!(fill(all, 15_000).await, (15_000, 0));
    let written = files("all");
    assert!(written.len() > 3, "{written:?}");
    let mut ids: Vec<u64> =
        written.iter().flat_map(|file| events(file)).map(|event| event["auditID"].as_str().unwrap().parse().unwrap()).collect();
    ids.sort_unstable();
    assert!(ids.iter().copied().eq(0..15_000), "every event once");
    assert!(written.iter().all(|file| file.metadata().unwrap().len() <= 1 << 20));
    // Two old files are kept, the youngest ones.
    let few = LogConfig { path: dir.join("few/audit.log"), megabytes_max: 1, files_max: 2, ..LogConfig::default() };
    fill(few.clone(), 15_000).await;
    assert_eq!(files("few").len(), 3, "{:?}", files("few"));
    let last = events(&dir.join("few/audit.log")).pop().unwrap();
    assert_eq!(last["auditID"], "14999");
    // What lies there is added to; what is none of ours stays.
    std::fs::write(dir.join("few/audit-of-mine.log"), "mine").unwrap();
    let before = events(&dir.join("few/audit.log")).len();
    fill(few, 1).await;
    assert_eq!(events(&dir.join("few/audit.log")).len(), before + 1);
    assert!(dir.join("few/audit-of-mine.log").exists());
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_policy_that_cannot_be_acted_on_is_refused_by_the_fields_name() {
    let policy = |rules: &str| format!("{{apiVersion: audit.k8s.io/v1, kind: Policy, rules: {rules}}}");
    let cases = [
        ("{apiVersion: v1, kind: Policy, rules: [{level: None}]}".to_owned(), "apiVersion: must be audit.k8s.io/v1, not \"v1\""),
        ("{apiVersion: audit.k8s.io/v1, kind: Role, rules: [{level: None}]}".to_owned(), "kind: must be Policy, not \"Role\""),
        (policy("[]"), "rules: there must be at least one"),
        (policy("[{level: None}, {level: Loud}]"), "rules[1].level: unknown variant `Loud`"),
        (policy("[{verbs: [get]}]"), "rules[0].level: must be None, Metadata, Request or RequestResponse"),
        (policy("[{level: None, verb: [get]}]"), "rules[0].verb: unknown field `verb`"),
        (policy("[{level: None, omitStages: [Later]}]"), "rules[0].omitStages[0]: unknown variant `Later`"),
        (policy("[{level: None, users: bob}]"), "rules[0].users: invalid type: string \"bob\""),
        (policy("[{level: None, nonResourceURLs: [version]}]"), "rules[0].nonResourceURLs: \"version\" must begin with a '/'"),
        (policy("[{level: None, nonResourceURLs: ['/a*b']}]"), "rules[0].nonResourceURLs: \"/a*b\""),
        (policy("[{level: None, nonResourceURLs: [/], namespaces: [a]}]"), "rules[0].nonResourceURLs: rules cannot apply to both"),
        (policy("[{level: None, resources: [{group: '', resourceNames: [a]}]}]"), "rules[0].resources[0].resourceNames: using"),
        ("rules: [".to_owned(), "YAML"),
    ];
    for (text, expected) in cases {
        let error = Policy::parse(text.as_bytes()).map(|_| ()).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }
}
