//! What the server refuses, in one line a failure.

use pintle_api::{Schema, defaults, validate};

const DEPLOYMENT: &str = "{metadata: {name: web, namespace: d}, spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}}}";

#[track_caller]
fn check(path: &str, yaml: &str, expected: &[&str]) {
    let mut object = crate::object(path, yaml);
    defaults::apply(Schema::builtin(), crate::resource(path), &mut object);
    let found: Vec<String> = validate::create(Schema::builtin(), crate::resource(path), &object).iter().map(ToString::to_string).collect();
    assert_eq!(found, expected, "{yaml}");
}

#[track_caller]
fn check_update(path: &str, old: &str, new: &str, expected: &[&str]) {
    let objects = [new, old].map(|yaml| {
        let mut object = crate::object(path, yaml);
        defaults::apply(Schema::builtin(), crate::resource(path), &mut object);
        object
    });
    let found: Vec<String> =
        validate::update(Schema::builtin(), crate::resource(path), &objects[0], &objects[1]).iter().map(ToString::to_string).collect();
    assert_eq!(found, expected, "{old} to {new}");
}

/// A pod with one container; `more` follows in the pod spec.
fn pod(container: &str, more: &str) -> String {
    format!("{{metadata: {{name: p, namespace: d}}, spec: {{containers: [{{{container}}}], {more}}}}}")
}

#[test]
fn a_deployment_without_an_image_is_refused_as_upstream_words_it() {
    let mut object = crate::object("apps/v1/deployments", &DEPLOYMENT.replace(", image: i", ""));
    let resource = crate::resource("apps/v1/deployments");
    defaults::apply(Schema::builtin(), resource, &mut object);
    let failures = validate::create(Schema::builtin(), resource, &object);
    let error = validate::settle(resource, &object, &failures).expect_err("refused");
    assert_eq!(error.message, "Deployment.apps \"web\" is invalid: spec.template.spec.containers[0].image: Required value");
}

#[test]
fn good_objects_pass() {
    check("apps/v1/deployments", DEPLOYMENT, &[]);
    check(
        "v1/pods",
        &pod("name: a, image: i, env: [{name: A, value: b}], ports: [{containerPort: 1, name: web}]", "volumes: [{name: v, emptyDir: {}}]"),
        &[],
    );
    check("v1/services", "{metadata: {name: s, namespace: d}, spec: {ports: [{port: 80}], selector: {a: b}}}", &[]);
    check("v1/configmaps", "{metadata: {name: s, namespace: d}, data: {a.b: c}}", &[]);
    check("v1/nodes", "{metadata: {name: n}}", &[]);
    check(
        "batch/v1/jobs",
        "{metadata: {name: s, namespace: d}, spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: i}]}}}}",
        &[],
    );
    check(
        "pintle.dev/v1/modules",
        "{metadata: {name: m}, spec: {type: controller, controller: {primary: apps/deployments}, source: {file: a.wasm}, permissions: [{apiGroups: [apps], resources: [deployments], verbs: [get]}]}}",
        &[],
    );
    check(
        "rbac.authorization.k8s.io/v1/clusterroles",
        "{metadata: {name: 'system:node'}, rules: [{apiGroups: [''], resources: [pods], verbs: ['*']}]}",
        &[],
    );
}

#[test]
fn names_labels_and_owners_are_held_to_their_formats() {
    check("v1/configmaps", "{metadata: {namespace: d}}", &["metadata.name: Required value: name or generateName is required"]);
    let label = "a lowercase RFC 1123 label consists of lower case letters, digits and '-', and starts and ends with a letter or digit (such as 'my-name' or '123-abc')";
    check("v1/namespaces", "{metadata: {name: a.b}}", &[&format!("metadata.name: Invalid value: \"a.b\": {label}")]);
    check(
        "v1/configmaps",
        "{metadata: {name: a, namespace: d, labels: {'a b': c}, finalizers: [x], ownerReferences: [{apiVersion: v1, kind: Pod, name: p, uid: ''}]}}",
        &[
            "metadata.labels: Invalid value: \"a b\": name part consists of letters, digits, '-', '_' and '.', and starts and ends with a letter or digit (such as 'MyName' or 'my.name' or '123-abc')",
            "metadata.finalizers[0]: Invalid value: \"x\": name is neither a standard finalizer name nor is it fully qualified",
            "metadata.ownerReferences[0].uid: Invalid value: \"\": must not be empty",
        ],
    );
}

#[test]
fn pods_are_held_to_upstreams_rules() {
    for (container, more, expected) in [
        ("image: i", "", &["spec.containers[0].name: Required value"][..]),
        (
            "name: a, image: i",
            "restartPolicy: Sometimes",
            &["spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\""],
        ),
        (
            "name: a, image: i, ports: [{containerPort: 70000}]",
            "",
            &["spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive"],
        ),
        ("name: a, image: i, env: [{value: x}]", "", &["spec.containers[0].env[0].name: Required value"]),
        ("name: a, image: i, volumeMounts: [{name: v, mountPath: /x}]", "", &["spec.containers[0].volumeMounts[0].name: Not found: \"v\""]),
        (
            "name: a, image: i",
            "volumes: [{name: v, emptyDir: {}, hostPath: {path: /x}}]",
            &["spec.volumes[0].hostPath: Forbidden: may not specify more than 1 of them"],
        ),
        ("name: a, image: i", "initContainers: [{name: a, image: i}]", &["spec.containers[0].name: Duplicate value: \"a\""]),
        (
            "name: a, image: i, resources: {requests: {cpu: 2}, limits: {cpu: 1}}",
            "",
            &["spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1"],
        ),
        ("name: a, image: i, livenessProbe: {}", "", &["spec.containers[0].livenessProbe: Required value: must specify a handler type"]),
        ("name: a, image: ' i'", "", &["spec.containers[0].image: Invalid value: \" i\": must not have leading or trailing whitespace"]),
    ] {
        check("v1/pods", &pod(container, more), expected);
    }
    check("v1/pods", "{metadata: {name: p, namespace: d}, spec: {containers: []}}", &["spec.containers: Required value"]);
}

#[test]
fn workloads_are_held_to_upstreams_rules() {
    check(
        "apps/v1/deployments",
        &DEPLOYMENT.replace("labels: {a: b}", "labels: {a: c}"),
        &["spec.template.metadata.labels: Invalid value: {\"a\":\"c\"}: `selector` does not match template `labels`"],
    );
    check(
        "apps/v1/deployments",
        &DEPLOYMENT.replace("spec: {selector", "spec: {replicas: -1, strategy: {type: Recreate, rollingUpdate: {maxSurge: 1}}, selector"),
        &[
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            "spec.strategy.rollingUpdate: Forbidden: may not be specified unless `type` is 'RollingUpdate'",
        ],
    );
    check(
        "batch/v1/jobs",
        "{metadata: {name: s, namespace: d}, spec: {template: {spec: {containers: [{name: c, image: i}]}}}}",
        &["spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""],
    );
    check_update(
        "apps/v1/deployments",
        DEPLOYMENT,
        &DEPLOYMENT.replace("a: b", "a: x"),
        &["spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"x\"}}: field is immutable"],
    );
}

#[test]
fn a_stateful_sets_pods_may_mount_what_it_claims() {
    let mount = "{name: v, mountPath: /x}";
    let set = |claim: &str, mounts: &str| {
        format!(
            "{{metadata: {{name: n, namespace: d}}, spec: {{serviceName: s, selector: {{matchLabels: {{a: b}}}},
               template: {{metadata: {{labels: {{a: b}}}}, spec: {{containers: [{{name: a, image: i, volumeMounts: [{mounts}]}}]}}}},
               volumeClaimTemplates: [{{metadata: {{name: {claim}}}, spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Gi}}}}}}}}]}}}}"
        )
    };
    check("apps/v1/statefulsets", &set("v", mount), &[]);
    check("apps/v1/statefulsets", &set("w", mount), &["spec.template.spec.containers[0].volumeMounts[0].name: Not found: \"v\""]);
    // However many mounts are in order, one that is not is found.
    let many: String = (0..250).map(|n| format!("{{name: v, mountPath: /x/{n}}}, ")).collect();
    let unknown = "spec.template.spec.containers[0].volumeMounts[250].name: Not found: \"u\"";
    check("apps/v1/statefulsets", &set("v", &(many + "{name: u, mountPath: /y}")), &[unknown]);
}

#[test]
fn the_rest_is_held_to_upstreams_rules() {
    check(
        "v1/services",
        "{metadata: {name: s, namespace: d}, spec: {ports: [{port: 80}, {port: 80}]}}",
        &[
            "spec.ports[0].name: Required value",
            "spec.ports[1].name: Required value",
            "spec.ports[1]: Duplicate value: {\"port\":80,\"protocol\":\"TCP\"}",
        ],
    );
    check("v1/services", "{metadata: {name: s, namespace: d}, spec: {}}", &["spec.ports: Required value"]);
    check(
        "v1/secrets",
        "{metadata: {name: s, namespace: d}, type: kubernetes.io/tls}",
        &["data[tls.crt]: Required value", "data[tls.key]: Required value"],
    );
    check(
        "pintle.dev/v1/modules",
        "{metadata: {name: m}, spec: {type: daemon, source: {}, digest: 'sha256:1'}}",
        &[
            "spec.type: Unsupported value: \"daemon\": supported values: \"admission\", \"controller\", \"scheduler\", \"schedulerPlugin\"",
            "spec.digest: Invalid value: \"sha256:1\": must be sha256: followed by 64 lower case hexadecimal digits",
            "spec.source: Required value: must specify one of: `file`, `inline` or `oci`",
        ],
    );
    check_update(
        "v1/configmaps",
        "{metadata: {name: a, namespace: d}, immutable: true, data: {a: b}}",
        "{metadata: {name: a, namespace: d}, immutable: true, data: {a: c}}",
        &["data: Forbidden: field is immutable when `immutable` is set"],
    );
    let (old, new) = (pod("name: a, image: i", ""), pod("name: a, image: j", "nodeSelector: {a: b}"));
    check_update("v1/pods", &old, &new.replace("nodeSelector: {a: b}", ""), &[]);
    let found = {
        let [new, old] = [&new, &old].map(|yaml| crate::object("v1/pods", yaml));
        validate::update(Schema::builtin(), crate::resource("v1/pods"), &new, &old)
    };
    assert!(found[0].to_string().starts_with("spec: Forbidden: pod updates may not change fields other than"), "{found:?}");
}

/// The cases of `cases/validation.txt`; the file says how one is written.
#[test]
fn each_rule_refuses_its_case_in_upstreams_words() {
    const SHORT: [(&str, &str); 5] = [
        ("META", "metadata: {name: n, namespace: d}"),
        ("NAMED", "metadata: {name: n}"),
        ("POD", "containers: [{name: c, image: i}]"),
        ("TPL", "template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}"),
        ("SEL", "selector: {matchLabels: {a: b}}"),
    ];
    let schema = Schema::builtin();
    let mut wrong = String::new();
    for case in include_str!("../cases/validation.txt").split("\n\n") {
        let mut lines = case.lines().filter(|line| !line.starts_with("# ")).peekable();
        let Some(resource) = lines.next().map(crate::resource) else { continue };
        let path = case.lines().find(|line| !line.starts_with("# ")).unwrap_or_default();
        let object = |text: &str| {
            let yaml = SHORT.iter().fold(text.to_owned(), |text, (short, long)| text.replace(short, long));
            let mut object = crate::object(path, &yaml);
            defaults::apply(schema, resource, &mut object);
            object
        };
        let new = object(lines.next().expect("an object"));
        let old = lines.next_if(|line| line.starts_with("from ")).map(|line| object(&line[5..]));
        let found = match &old {
            Some(old) => validate::update(schema, resource, &new, old),
            None => validate::create(schema, resource, &new),
        };
        let mut found: Vec<String> = found.iter().map(ToString::to_string).collect();
        let mut expected: Vec<&str> = lines.map(|line| line.strip_prefix("! ").expect("a failure")).collect();
        (found.sort(), expected.sort_unstable());
        if found.len() != expected.len() || !found.iter().zip(&expected).all(|(found, expected)| found.starts_with(expected)) {
            wrong.push_str(&format!("{case}\nfound:\n! {}\n\n", found.join("\n! ")));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn a_status_is_held_to_its_rules_too() {
    let check = |path: &str, old: &str, new: &str, expected: &[&str]| {
        let objects = [new, old].map(|yaml| crate::object(path, &format!("{{metadata: {{name: a, namespace: d}}, {yaml}}}")));
        let found: Vec<String> = validate::update_status(Schema::builtin(), crate::resource(path), &objects[0], &objects[1])
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(found, expected, "{old} to {new}");
    };
    check("apps/v1/deployments", "spec: {}", "status: {replicas: 2, readyReplicas: 2, availableReplicas: 1}", &[]);
    check(
        "apps/v1/deployments",
        "spec: {}",
        "status: {replicas: -1, readyReplicas: 1, availableReplicas: 2}",
        &[
            "status.replicas: Invalid value: -1: must be greater than or equal to 0",
            "status.readyReplicas: Invalid value: 1: cannot be greater than status.replicas",
            "status.availableReplicas: Invalid value: 2: cannot be greater than status.replicas",
            "status.availableReplicas: Invalid value: 2: cannot be greater than readyReplicas",
        ],
    );
    let claims = "resource.k8s.io/v1/resourceclaims";
    let spec = "spec: {devices: {requests: [{name: r, firstAvailable: [{name: s, deviceClassName: c}]}]}}";
    let user = "{resource: pods, name: p, uid: u}";
    let result = "{request: r/s, driver: d, pool: p, device: x}";
    let allocated = format!(
        "{spec}, status: {{allocation: {{devices: {{results: [{result}]}}}}, reservedFor: [{user}], devices: [{{driver: d, pool: p, device: x}}]}}"
    );
    check(claims, spec, &allocated, &[]);
    check(
        claims,
        spec,
        &format!("{spec}, status: {{reservedFor: [{user}, {user}]}}"),
        &[
            "status.reservedFor[1].uid: Duplicate value: \"u\"",
            "status.reservedFor: Forbidden: may not be specified when `allocated` is not set",
        ],
    );
    let other = allocated.replace("r/s", "r/t").replace("devices: [{driver: d", "devices: [{driver: e");
    let shown = "status.allocation: Invalid value: {\"devices\":{\"results\":[{\"request\":\"r/t\",\"driver\":\"d\",\"pool\":\"p\",\"device\":\"x\"}]}}";
    let strange = "status.devices[0]: Invalid value: \"e/p/x\": must be an allocated device in the claim";
    check(claims, &allocated, &other, &[&format!("{shown}: field is immutable"), strange]);
    let unknown = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
    check(claims, spec, &other, &[&format!("status.allocation.devices.results[0].request: Invalid value: \"r/t\": {unknown}"), strange]);
}
