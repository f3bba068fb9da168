//! The real kubectl against the server; skipped where it is not installed.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use crate::cluster::Cluster;
use crate::machine::Machine;
use crate::node::running_pod;

struct Kubectl<'a>(&'a Cluster);

impl Kubectl<'_> {
    fn command(&self, line: &str) -> Command {
        let mut command = Command::new("kubectl");
        command.args(line.split(' ')).env("KUBECONFIG", self.0.kubeconfig()).env("HOME", self.0.dir());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    /// Exit code, and output with errors behind it.
    async fn run(&self, line: &str) -> (i32, String) {
        self.run_with(line, "").await
    }

    async fn run_with(&self, line: &str, stdin: &str) -> (i32, String) {
        self.run_in(line, stdin, &[]).await
    }

    async fn run_in(&self, line: &str, stdin: &str, environment: &[(&str, &str)]) -> (i32, String) {
        let mut command = self.command(line);
        command.envs(environment.iter().copied()).stdin(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(stdin.as_bytes()).await.unwrap();
        let output = tokio::time::timeout(std::time::Duration::from_secs(60), child.wait_with_output()).await.expect(line).unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.code().unwrap_or(-1), text)
    }

    async fn ok(&self, line: &str, expected: &str) {
        let (code, text) = self.run(line).await;
        assert!(code == 0 && text.contains(expected), "kubectl {line}\nexit {code}\n{text}");
    }
}

fn missing() -> bool {
    let missing = std::process::Command::new("kubectl").arg("version").arg("--client").output().is_err();
    if missing {
        eprintln!("skipped: no kubectl on the PATH");
    }
    missing
}

const OBJECTS: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: i}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {k: v}
";

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_applies_gets_explains_and_deletes() {
    if missing() {
        return;
    }
    let cluster = Cluster::start().await;
    let kubectl = Kubectl(&cluster);
    kubectl.ok("version", "Server Version: v1.37.0+pintle").await;
    kubectl.ok("api-resources", "deployments").await;
    kubectl.ok("explain deployment.spec.replicas", "replicas <integer>").await;
    let (code, text) = kubectl.run_with("apply -f -", OBJECTS).await;
    assert!(code == 0 && text.contains("deployment.apps/web created") && text.contains("configmap/settings created"), "{text}");
    let changed = OBJECTS.replace("replicas: 2", "replicas: 3");
    let (code, text) = kubectl.run_with("apply -f -", &changed).await;
    assert!(code == 0 && text.contains("deployment.apps/web configured") && text.contains("configmap/settings unchanged"), "{text}");
    let bad = OBJECTS.replace("replicas: 2", "replicaz: 2");
    let (code, text) = kubectl.run_with("apply -f -", &bad).await;
    assert!(code == 1 && text.contains("replicaz"), "{text}");
    kubectl.ok("get deployments", "0/3").await;
    kubectl.ok("get deployment web -o jsonpath={.spec.replicas}", "3").await;
    kubectl.ok("scale deployment web --replicas=4", "deployment.apps/web scaled").await;
    kubectl.ok("label configmap settings a=b", "labeled").await;
    kubectl.ok("get configmaps -l a=b -o name", "configmap/settings").await;
    kubectl.ok("describe deployment web", "Replicas:").await;
    kubectl.ok("auth can-i create pods", "yes").await;
    kubectl.ok("auth whoami", "kubernetes-admin").await;
    kubectl.ok("delete configmap settings", "deleted").await;
    let (code, text) = kubectl.run("get configmap settings").await;
    assert!(code == 1 && text.contains("Error from server (NotFound): configmaps \"settings\" not found"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_applies_on_the_server_and_sees_conflicts() {
    if missing() {
        return;
    }
    let cluster = Cluster::start().await;
    let kubectl = Kubectl(&cluster);
    let (code, text) = kubectl.run_with("apply --server-side -f -", OBJECTS).await;
    assert!(code == 0 && text.contains("deployment.apps/web serverside-applied"), "{text}");
    let changed = OBJECTS.replace("replicas: 2", "replicas: 3").replace("k: v", "k: w");
    let (code, text) = kubectl.run_with("diff --server-side -f -", &changed).await;
    assert!(code == 1 && text.contains("-  replicas: 2") && text.contains("+  replicas: 3"), "{code} {text}");
    let (code, text) = kubectl.run_with("apply --server-side --field-manager=other -f -", &changed).await;
    assert!(code == 1 && text.contains("conflict with \"kubectl\": .spec.replicas"), "{text}");
    let (code, text) = kubectl.run_with("apply --server-side --field-manager=other --force-conflicts -f -", &changed).await;
    assert!(code == 0, "{text}");
    kubectl.ok("get configmap settings -o jsonpath={.data.k}", "w").await;
    // An object of client-side apply is taken over without a conflict.
    let own = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: own}\ndata: {k: v}\n";
    let (code, text) = kubectl.run_with("apply -f -", own).await;
    assert!(code == 0, "{text}");
    let (code, text) = kubectl.run_with("apply --server-side -f -", &own.replace("k: v", "k: w")).await;
    assert!(code == 0 && text.contains("configmap/own serverside-applied"), "{text}");
    kubectl.ok("get configmap own -o jsonpath={.data.k}", "w").await;
    let (code, text) = kubectl.run_with("apply -f -", &own.replace("k: v", "k: x")).await;
    assert!(code == 0, "{text}");
    let (code, text) = kubectl.run_with("apply --server-side -f -", &own.replace("\ndata:", "\ndta:")).await;
    assert!(code == 1 && text.contains(".dta: field not declared in schema"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_watches_tables() {
    if missing() {
        return;
    }
    let cluster = Cluster::start().await;
    let kubectl = Kubectl(&cluster);
    kubectl.ok("create configmap first", "created").await;
    let mut child = kubectl.command("get configmaps -w").spawn().unwrap();
    let mut lines = tokio::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = async || tokio::time::timeout(std::time::Duration::from_secs(30), lines.next_line()).await.unwrap().unwrap().unwrap();
    assert!(next().await.starts_with("NAME"));
    assert!(next().await.starts_with("first"));
    kubectl.ok("create configmap second", "created").await;
    assert!(next().await.starts_with("second"));
    child.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_logs_execs_and_forwards_over_websockets_and_spdy() {
    if missing() {
        return;
    }
    let cluster = Cluster::start().await;
    let _machine = Machine::connect(&cluster, "n1").await;
    running_pod(&cluster, "p", "n1", &["c"]).await;
    let kubectl = Kubectl(&cluster);
    kubectl.ok("logs p --tail=2", "two\nthree\n").await;
    for websockets in ["true", "false"] {
        let environment = [("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets), ("KUBECTL_PORT_FORWARD_WEBSOCKETS", websockets)];
        let (code, text) = kubectl.run_in("exec p -- hello there", "", &environment).await;
        assert_eq!((code, text.as_str()), (0, "hello there\n"), "websockets={websockets}");
        let (code, text) = kubectl.run_in("exec p -- exit 7", "", &environment).await;
        assert_eq!(code, 7, "websockets={websockets}: {text}");
        let (code, text) = kubectl.run_in("exec -i p -- cat", "through", &environment).await;
        assert_eq!((code, text.as_str()), (0, "through"), "websockets={websockets}");
        forward(&kubectl, &environment).await;
    }
}

async fn forward(kubectl: &Kubectl<'_>, environment: &[(&str, &str)]) {
    let mut child = kubectl.command("port-forward p :80").envs(environment.iter().copied()).spawn().unwrap();
    let mut lines = tokio::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let line = tokio::time::timeout(std::time::Duration::from_secs(30), lines.next_line()).await.unwrap().unwrap().expect("an address");
    let address = line.strip_prefix("Forwarding from ").and_then(|rest| rest.split(' ').next()).unwrap();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(b"echo").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut text = String::new();
    tokio::time::timeout(std::time::Duration::from_secs(30), stream.read_to_string(&mut text)).await.unwrap().unwrap();
    assert_eq!(text, "port 80\necho", "{environment:?}");
    child.kill().await.unwrap();
}

const DEFINITION: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: crontabs.stable.example.com}
spec:
  group: stable.example.com
  scope: Namespaced
  names: {plural: crontabs, singular: crontab, kind: CronTab, shortNames: [ct], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}, scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas}}
    additionalPrinterColumns:
    - {name: Spec, type: string, jsonPath: .spec.cronSpec}
    - {name: Replicas, type: integer, jsonPath: .spec.replicas}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            description: What the tab wants.
            required: [cronSpec]
            x-kubernetes-validations:
            - {rule: self.replicas <= 10, message: no more than ten}
            properties:
              cronSpec: {type: string, pattern: '^[0-9* ]+$', description: When it runs.}
              replicas: {type: integer, default: 1}
              items:
                type: array
                items: {type: object, properties: {name: {type: string}}}
          status: {type: object, properties: {replicas: {type: integer}}}
";
const TAB: &str = "
apiVersion: stable.example.com/v1
kind: CronTab
metadata: {name: nightly}
spec: {cronSpec: '0 3 * * *'}
";

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_works_with_a_custom_resource() {
    if missing() {
        return;
    }
    let cluster = Cluster::start().await;
    let kubectl = Kubectl(&cluster);
    let (code, text) = kubectl.run_with("apply -f -", DEFINITION).await;
    assert!(code == 0 && text.contains("crontabs.stable.example.com created"), "{text}");
    kubectl.ok("wait --for=condition=Established crd/crontabs.stable.example.com --timeout=30s", "condition met").await;
    kubectl.ok("api-resources --api-group=stable.example.com", "crontabs").await;
    kubectl.ok("explain crontab.spec", "What the tab wants.").await;
    kubectl.ok("explain crontab.spec.cronSpec", "When it runs.").await;
    let (code, text) = kubectl.run_with("apply -f -", TAB).await;
    assert!(code == 0 && text.contains("crontab.stable.example.com/nightly created"), "{text}");
    let (_, text) = kubectl.run("get ct").await;
    let words: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words, [vec!["NAME", "SPEC", "REPLICAS"], vec!["nightly", "0", "3", "*", "*", "*", "1"]], "{text}");
    kubectl.ok("get all", "crontab.stable.example.com/nightly").await;
    kubectl.ok("scale ct/nightly --replicas=4", "scaled").await;
    kubectl.ok("get ct nightly -o jsonpath={.spec.replicas}", "4").await;
    kubectl.ok(r#"patch ct nightly --type=json -p [{"op":"replace","path":"/spec/replicas","value":5}]"#, "patched").await;
    kubectl.ok(r#"patch ct nightly --type=merge -p {"spec":{"replicas":6}}"#, "patched").await;
    for (change, expected) in [
        (TAB.replace("0 3 * * *", "daily"), "spec.cronSpec in body should match '^[0-9* ]+$'"),
        (TAB.replace("{cronSpec: '0 3 * * *'}", "{replicas: 1}"), "cronSpec"),
        (TAB.replace("cronSpec:", "replicas: 11, cronSpec:"), "no more than ten"),
    ] {
        let (code, text) = kubectl.run_with("apply --validate=false -f -", &change).await;
        assert!(code == 1 && text.contains(expected), "{change}\n{text}");
    }
    kubectl.ok("delete crd crontabs.stable.example.com", "deleted").await;
    let (code, text) = kubectl.run("get crontabs").await;
    assert!(code == 1 && text.contains("crontabs"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn custom_resources_answer_as_upstream_does_over_http() {
    let cluster = Cluster::start().await;
    let mut client = cluster.admin().await;
    let root = "/apis/stable.example.com/v1/namespaces/default/crontabs";
    let yaml = [("content-type", "application/yaml")];
    let made = client.send("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &yaml, DEFINITION).await;
    assert_eq!(made.status, 201, "{:?}", made.body);
    let mut tries = 0;
    while client.send("GET", root, &[], "").await.status != 200 {
        tries += 1;
        assert!(tries < 500, "it is never served");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let strict =
        client.send("POST", &format!("{root}?fieldValidation=Strict"), &yaml, TAB.replace("cronSpec:", "extra: 1, cronSpec:")).await;
    assert_eq!(strict.status, 400);
    assert!(strict.json()["message"].as_str().is_some_and(|text| text.contains("unknown field \"spec.extra\"")), "{:?}", strict.body);
    let warned = client.send("POST", &format!("{root}?fieldValidation=Warn"), &yaml, TAB.replace("cronSpec:", "extra: 1, cronSpec:")).await;
    assert!(warned.status == 201 && warned.headers["warning"].to_str().is_ok_and(|text| text.contains("spec.extra")), "{warned:?}");
    assert!(warned.json()["spec"]["extra"].is_null());
    let refused = client.send("POST", root, &yaml, TAB.replace("'0 3 * * *'", "7").replace("nightly", "other")).await;
    let status = refused.json();
    assert_eq!(
        (refused.status, &status["reason"], &status["details"]["causes"][0]["field"]),
        (422, &"Invalid".into(), &"spec.cronSpec".into())
    );
    let strategic = [("content-type", "application/strategic-merge-patch+json")];
    assert_eq!(client.send("PATCH", &format!("{root}/nightly"), &strategic, "{}").await.status, 415);
    let protobuf = [("accept", "application/vnd.kubernetes.protobuf")];
    assert_eq!(client.send("GET", root, &protobuf, "").await.status, 406);
    let index = client.get("/openapi/v3").await.json();
    let address = index["paths"]["apis/stable.example.com/v1"]["serverRelativeURL"].as_str().expect("an address").to_owned();
    let document = client.get(&address).await;
    assert!(document.status == 200 && document.headers.contains_key("etag"));
    assert!(document.json()["paths"]["/apis/stable.example.com/v1/namespaces/{namespace}/crontabs/{name}"]["patch"].is_object());
    let deleted = client.send("DELETE", root, &[], "").await;
    assert_eq!(deleted.status, 200);
}
