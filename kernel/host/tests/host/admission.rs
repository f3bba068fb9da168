//! Admission by a module: verdicts, edits, policies, order.

use crate::world::{World, admission, pod};
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_edits_and_refuses_pods() {
    let world = World::new().await;
    world.apply(admission("gate", json!({}))).await;
    world.until_state("gate", "Running").await;
    let made = world.create("", "pods", pod("fine")).await.expect("allowed");
    assert_eq!(made.meta().label("seen-by"), Some("guest"));
    let mut bad = pod("bad");
    bad["spec"]["containers"][0]["securityContext"]["privileged"] = json!(true);
    let refused = world.create("", "pods", bad).await.expect_err("refused");
    assert_eq!(refused.code, 403);
    assert!(refused.message.contains("privileged containers are not allowed"), "{}", refused.message);
    assert!(world.get("", "pods", "default", "bad").is_none());
    let stats = world.stats("gate");
    assert!(stats.calls >= 3 && stats.p50.as_micros() > 0, "{stats:?}");
    world.delete("pintle.dev", "modules", "", "gate").await;
    world.until("nobody judges any more", || world.host.stats().modules.is_empty().then_some(())).await;
    world.until_allowed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_module_notes_stands_in_the_audit_log_under_its_name() {
    use pintle_registry::audit::{Auditor, LogConfig, Policy};
    let world = World::new().await;
    let path = crate::world::scratch("audit").join("audit.log");
    let policy =
        Policy::parse(b"{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{level: Metadata, verbs: [create]}]}").expect("a policy");
    let auditor = Auditor::start(policy, LogConfig { path: path.clone(), ..LogConfig::default() }).expect("a log");
    world.registry.set_auditor(auditor.clone());
    world.apply(admission("gate", json!({}))).await;
    world.until_state("gate", "Running").await;
    world.create("", "pods", pod("fine")).await.expect("allowed");
    auditor.flush().await;
    let log = std::fs::read_to_string(&path).expect("a log");
    let events: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let of_pod = |event: &&serde_json::Value| event["objectRef"]["resource"] == "pods" && event["stage"] == "ResponseComplete";
    let event = events.iter().find(of_pod).expect("the create is told");
    assert_eq!(event["annotations"], json!({"gate.modules.pintle.dev/judged": "by the guest"}));
    assert!(event["requestObject"].is_null(), "{event}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_judge_refuses_or_is_ignored_as_its_policy_says() {
    let world = World::new().await;
    for (name, policy, sin) in [("strict", "Fail", "trap"), ("lenient", "Ignore", "trap"), ("slow", "Ignore", "loop")] {
        let mut module = admission(name, json!({"mode": sin}));
        module["spec"]["admission"]["failurePolicy"] = json!(policy);
        module["spec"]["admission"]["timeoutMilliseconds"] = json!(50);
        world.apply(module).await;
        world.until_state(name, "Running").await;
        let result = world.create("", "pods", pod(&format!("p-{name}"))).await;
        match policy {
            "Fail" => {
                let refused = result.expect_err("refused");
                assert_eq!((refused.code, refused.message.contains("could not judge")), (500, true), "{refused}");
                assert!(!refused.message.contains("gives up"), "what the guest said stays inside");
            }
            _ => assert!(result.is_ok(), "{result:?}"),
        }
        world.until("the fault is counted", || (world.stats(name).traps > 0).then_some(())).await;
        world
            .until("and shown", || {
                world.status(name)["message"].as_str().filter(|m| m.contains("trap") || m.contains("deadline")).map(|_| ())
            })
            .await;
        world.delete("pintle.dev", "modules", "", name).await;
        world.until("it is gone", || world.host.stats().modules.is_empty().then_some(())).await;
        world.until_allowed().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_threads_are_judged_at_once() {
    let world = World::new().await;
    world.apply(admission("gate", json!({}))).await;
    world.until_state("gate", "Running").await;
    let creates = (0..200).map(|n| {
        let registry = world.registry.clone();
        tokio::spawn(async move {
            let target = registry.resolve("", "v1", "pods", "", "default", "").expect("served");
            let body = pintle_registry::Body::Value(pod(&format!("p-{n}")));
            registry
                .create(&pintle_registry::Caller::kernel(), &target, body, &Default::default())
                .await
                .map(|w| w.object.meta().label("seen-by").map(str::to_owned))
        })
    });
    for create in futures::future::join_all(creates).await {
        assert_eq!(create.expect("it ran").expect("allowed"), Some("guest".to_owned()));
    }
    assert_eq!(world.stats("gate").traps, 0);
}

/// Which of these two pods and one namespace a judge with this `spec.admission` edits: labelled pod, plain pod, namespace.
async fn check_matching(change: serde_json::Value, expected: [bool; 3]) {
    let world = World::new().await;
    let mut module = admission("gate", json!({}));
    let spec = module["spec"]["admission"].as_object_mut().expect("an object");
    spec.insert("phases".into(), json!(["mutating"]));
    spec.extend(change.as_object().expect("an object").clone());
    world.apply(module).await;
    world.until_state("gate", "Running").await;
    let edited = |made: std::sync::Arc<pintle_registry::Object>| made.meta().label("seen-by").is_some();
    let mut labelled = pod("labelled");
    labelled["metadata"]["labels"] = json!({"tier": "front"});
    let found = [
        edited(world.create("", "pods", labelled).await.expect("allowed")),
        edited(world.create("", "pods", pod("plain")).await.expect("allowed")),
        edited(world.create("", "namespaces", json!({"metadata": {"name": "shop", "labels": {"tier": "front"}}})).await.expect("allowed")),
    ];
    assert_eq!(found, expected, "{change}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_judge_is_asked_about_what_its_rules_and_selectors_match() {
    let rule = |change: serde_json::Value| {
        let mut rule = json!({"apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"], "operations": ["CREATE"]});
        rule.as_object_mut().expect("an object").extend(change.as_object().expect("an object").clone());
        json!([rule])
    };
    let only = |expression: &str| json!([{"name": "only", "expression": expression}]);
    let front = json!({"matchLabels": {"tier": "front"}});
    let default = json!({"matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["default"]}]});
    for (change, expected) in [
        (json!({"rules": rule(json!({}))}), [true, true, true]),
        (json!({"rules": rule(json!({"resources": ["pods/*"]}))}), [true, true, false]),
        (json!({"rules": rule(json!({"resources": ["pods/status", "namespaces"]}))}), [false, false, true]),
        (json!({"rules": rule(json!({"scope": "Cluster"}))}), [false, false, true]),
        (json!({"rules": rule(json!({"scope": "Namespaced"}))}), [true, true, false]),
        (json!({"rules": rule(json!({})), "objectSelector": front}), [true, false, true]),
        (json!({"rules": rule(json!({})), "namespaceSelector": front}), [false, false, true]),
        (json!({"rules": rule(json!({})), "namespaceSelector": default}), [true, true, false]),
        (json!({"rules": rule(json!({})), "namespaceSelector": default, "objectSelector": front}), [true, false, false]),
        (
            json!({"rules": rule(json!({})), "matchConditions": only(r#"request.resource.resource == "pods" && object.metadata.name == 'labelled'"#)}),
            [true, false, false],
        ),
    ] {
        check_matching(change, expected).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_judge_that_asks_for_it_sees_what_later_ones_edited() {
    let world = World::new().await;
    for (name, order, policy) in [("first", 1, "IfNeeded"), ("second", 2, "IfNeeded"), ("third", 3, "Never")] {
        let mut module = admission(name, json!({"label": format!("by-{name}")}));
        let spec = &mut module["spec"]["admission"];
        (spec["phases"], spec["order"], spec["reinvocationPolicy"]) = (json!(["mutating"]), json!(order), json!(policy));
        world.apply(module).await;
        world.until_state(name, "Running").await;
    }
    let made = world.create("", "pods", pod("seen")).await.expect("allowed");
    assert!(["by-first", "by-second", "by-third"].iter().all(|label| made.meta().label(label) == Some("guest")));
    let calls = ["first", "second", "third"].map(|name| world.stats(name).calls);
    assert_eq!(calls, [2, 2, 1], "the last one's edits concern those before it");
}

impl World {
    /// Waits until a pod can be created without being edited by anyone.
    pub async fn until_allowed(&self) {
        for attempt in 0..1000 {
            let name = format!("probe-{attempt}-{}", self.registry.revision());
            if let Ok(made) = self.create("", "pods", pod(&name)).await
                && made.meta().label("seen-by").is_none()
            {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        panic!("somebody still judges");
    }
}
