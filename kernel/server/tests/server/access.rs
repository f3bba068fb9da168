//! Who may what.

use serde_json::{Value, json};

use crate::cluster::{As, Client, Cluster, until};
use crate::transcript::check;

async fn bearer(cluster: &Cluster, token: &str) -> Client {
    let mut client = cluster.connect(As::Nobody).await;
    client.headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
    client
}

/// A service account's token.
async fn token(cluster: &Cluster, account: &str, spec: Value) -> String {
    let mut admin = cluster.admin().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    admin.post(accounts, json!({ "metadata": { "name": account } })).await;
    let answer = admin.post(&format!("{accounts}/{account}/token"), json!({ "spec": spec })).await;
    assert_eq!(answer.status, 201, "{:?}", answer.body);
    answer.json()["status"]["token"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_401_and_a_bad_token_too() {
    let cluster = Cluster::start().await;
    let mut nobody = cluster.connect(As::Nobody).await;
    let text = r#"
        GET /api/v1/pods
        => 401
        /reason = "Unauthorized"
        /kind = "Status"

        GET /metrics
        => 401

        POST /version
        => 401
        "#;
    check(&mut nobody, text).await;
    assert_eq!(bearer(&cluster, "not.a.token").await.get("/version").await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_patch_but_not_create_cannot_create_by_an_apply() {
    let cluster = Cluster::start().await;
    let token = token(&cluster, "robot", json!({})).await;
    check(
        &mut cluster.admin().await,
        r#"
        POST /apis/rbac.authorization.k8s.io/v1/namespaces/default/roles
        {"metadata":{"name":"patcher"},"rules":[{"apiGroups":[""],"resources":["configmaps"],"verbs":["patch"]}]}
        => 201

        POST /apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings
        {"metadata":{"name":"patcher"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"Role","name":"patcher"},"subjects":[{"kind":"ServiceAccount","name":"robot","namespace":"default"}]}
        => 201

        POST /api/v1/namespaces/default/configmaps
        {"metadata":{"name":"there"}}
        => 201
        "#,
    )
    .await;
    check(
        &mut bearer(&cluster, &token).await,
        r#"
        PATCH /api/v1/namespaces/default/configmaps/there?fieldManager=m
        Content-Type: application/apply-patch+yaml
        {"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"there"},"data":{"k":"v"}}
        => 200

        PATCH /api/v1/namespaces/default/configmaps/absent?fieldManager=m
        Content-Type: application/apply-patch+yaml
        {"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"absent"},"data":{"k":"v"}}
        => 403
        /reason = "Forbidden"
        "#,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_account_may_what_a_role_grants_and_no_more() {
    let cluster = Cluster::start().await;
    let token = token(&cluster, "robot", json!({})).await;
    let mut robot = bearer(&cluster, &token).await;
    check(
        &mut robot,
        r#"
        GET /api/v1/namespaces/default/pods
        => 403
        /reason = "Forbidden"
        /message = "pods is forbidden: User \"system:serviceaccount:default:robot\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""

        POST /apis/authentication.k8s.io/v1/selfsubjectreviews
        {}
        => 201
        /status/userInfo/username = "system:serviceaccount:default:robot"
        "#,
    )
    .await;
    check(
        &mut cluster.admin().await,
        r#"
        POST /apis/rbac.authorization.k8s.io/v1/namespaces/default/roles
        {"metadata":{"name":"reader"},"rules":[{"apiGroups":[""],"resources":["pods"],"verbs":["list"]}]}
        => 201

        POST /apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings
        {"metadata":{"name":"reader"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"Role","name":"reader"},"subjects":[{"kind":"ServiceAccount","name":"robot","namespace":"default"}]}
        => 201
        "#,
    )
    .await;
    let is = |wanted: u16, status: u16| if status == wanted { Ok(()) } else { Err(status) };
    until("the role is granted", async || is(200, robot.get("/api/v1/namespaces/default/pods").await.status)).await;
    let mut admin = cluster.admin().await;
    check(
        &mut admin,
        r#"
        POST /apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings
        {"metadata":{"name":"robot-admin"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"admin"},"subjects":[{"kind":"ServiceAccount","name":"robot","namespace":"default"}]}
        => 201
        "#,
    )
    .await;
    let binding = |role: &str| json!({ "metadata": { "generateName": "b-" }, "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role } });
    let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
    until("what it holds it may give", async || is(201, robot.post(bindings, binding("view")).await.status)).await;
    let more = robot.post(bindings, binding("cluster-admin")).await;
    assert_eq!(more.status, 403, "what it does not hold it may not");
    assert!(more.json()["message"].as_str().unwrap().contains("attempting to grant RBAC permissions not currently held"));
    assert_eq!(robot.get("/api/v1/namespaces/kube-system/pods").await.status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_ends_with_its_account_and_its_pod() {
    let cluster = Cluster::start().await;
    let mut admin = cluster.admin().await;
    let pod = json!({ "metadata": { "name": "p" }, "spec": { "containers": [{ "name": "c", "image": "i" }] } });
    assert_eq!(admin.post("/api/v1/namespaces/default/pods", pod).await.status, 201);
    let bound = json!({ "boundObjectRef": { "kind": "Pod", "apiVersion": "v1", "name": "p" } });
    let bound = token(&cluster, "robot", bound).await;
    let free = token(&cluster, "robot", json!({ "audiences": ["https://kubernetes.default.svc"] })).await;
    let foreign = token(&cluster, "robot", json!({ "audiences": ["vault"] })).await;
    for (token, expected) in [(&bound, 200), (&free, 200), (&foreign, 401)] {
        assert_eq!(bearer(&cluster, token).await.get("/api").await.status, expected);
    }
    let review = json!({ "spec": { "token": foreign, "audiences": ["vault"] } });
    let answer = admin.post("/apis/authentication.k8s.io/v1/tokenreviews", review).await.json();
    assert_eq!((&answer["status"]["authenticated"], &answer["status"]["audiences"][0]), (&json!(true), &json!("vault")));
    admin.send("DELETE", "/api/v1/namespaces/default/pods/p?gracePeriodSeconds=0", &[], "").await;
    assert_eq!(bearer(&cluster, &bound).await.get("/api").await.status, 401);
    assert_eq!(bearer(&cluster, &free).await.get("/api").await.status, 200);
    admin.send("DELETE", "/api/v1/namespaces/default/serviceaccounts/robot", &[], "").await;
    assert_eq!(bearer(&cluster, &free).await.get("/api").await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn impersonation_and_reviews_answer_for_others() {
    let cluster = Cluster::start().await;
    check(
        &mut cluster.admin().await,
        r#"
        GET /api/v1/namespaces/default/secrets
        Impersonate-User: jane
        => 403

        POST /apis/authorization.k8s.io/v1/subjectaccessreviews
        {"spec":{"user":"jane","resourceAttributes":{"verb":"get","resource":"secrets","namespace":"default"}}}
        => 201
        /status/allowed = false

        POST /apis/authorization.k8s.io/v1/subjectaccessreviews
        {"spec":{"user":"jane","groups":["system:masters"],"resourceAttributes":{"verb":"get","resource":"secrets","namespace":"default"}}}
        => 201
        /status/allowed = true

        POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews
        {"spec":{"nonResourceAttributes":{"verb":"get","path":"/metrics"}}}
        => 201
        /status/allowed = true

        GET /.well-known/openid-configuration
        => 200
        /issuer = "https://kubernetes.default.svc"

        GET /openid/v1/jwks
        => 200
        /keys/0/kty = "EC"
        "#,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_may_touch_its_own_node_only() {
    let cluster = Cluster::start().await;
    let mut admin = cluster.admin().await;
    for node in ["n1", "n2"] {
        assert_eq!(admin.post("/api/v1/nodes", json!({ "metadata": { "name": node } })).await.status, 201);
    }
    let issued = cluster.server.pki().issue_node_cert("n1").unwrap();
    let mut machine = cluster.connect(As::Certificate(&issued)).await;
    assert_eq!(machine.get("/api/v1/nodes/n1").await.status, 200);
    assert_eq!(machine.get("/api/v1/nodes/n2").await.status, 403);
    assert_eq!(machine.get("/api/v1/namespaces/default/secrets/s").await.status, 403);
    assert_eq!(machine.get("/api/v1/pods").await.status, 403);
}
