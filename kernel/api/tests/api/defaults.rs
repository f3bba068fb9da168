//! What the server fills in.

use pintle_api::{Schema, defaults};
use serde_json::Value;

/// Defaults `yaml` and compares what is at `pointer`.
#[track_caller]
fn check(path: &str, yaml: &str, pointer: &str, expected: &str) {
    let mut object = crate::object(path, yaml);
    defaults::apply(Schema::builtin(), crate::resource(path), &mut object);
    let expected: Value = serde_json::from_str(expected).expect("JSON");
    assert_eq!(object.pointer(pointer).unwrap_or(&Value::Null), &expected, "{pointer} of {object:#}");
    let once = object.clone();
    defaults::apply(Schema::builtin(), crate::resource(path), &mut object);
    assert_eq!(object, once, "defaulting twice changes nothing more");
}

#[test]
fn a_pod_is_defaulted_wherever_its_spec_occurs() {
    let pod = "spec: {containers: [{name: a, image: nginx, ports: [{containerPort: 80}], livenessProbe: {httpGet: {port: 80}}}], \
               volumes: [{name: v}, {name: s, secret: {secretName: x}}, {name: p, projected: {sources: [{serviceAccountToken: {path: t}}]}}]}";
    let spec = r#"{"containers":[{"name":"a","image":"nginx","imagePullPolicy":"Always","ports":[{"containerPort":80,"protocol":"TCP"}],
        "livenessProbe":{"httpGet":{"path":"/","port":80,"scheme":"HTTP"},"timeoutSeconds":1,"periodSeconds":10,"successThreshold":1,"failureThreshold":3},
        "terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File","resources":{}}],
        "volumes":[{"name":"v","emptyDir":{}},{"name":"s","secret":{"secretName":"x","defaultMode":420}},
                   {"name":"p","projected":{"sources":[{"serviceAccountToken":{"path":"t","expirationSeconds":3600}}],"defaultMode":420}}],
        "restartPolicy":"Always","dnsPolicy":"ClusterFirst","terminationGracePeriodSeconds":30,"schedulerName":"default-scheduler","securityContext":{},"enableServiceLinks":true}"#;
    check("v1/pods", pod, "/spec", spec);
    check("apps/v1/deployments", &format!("spec: {{template: {{{pod}}}}}"), "/spec/template/spec", spec);
}

#[test]
fn an_image_is_pulled_by_its_tag() {
    for (image, policy) in [
        ("nginx", "Always"),
        ("nginx:latest", "Always"),
        ("nginx:1.2", "IfNotPresent"),
        ("localhost:5000/nginx", "Always"),
        ("localhost:5000/nginx:1", "IfNotPresent"),
        ("nginx@sha256:0", "IfNotPresent"),
    ] {
        check(
            "v1/pods",
            &format!("spec: {{containers: [{{name: a, image: '{image}'}}]}}"),
            "/spec/containers/0/imagePullPolicy",
            &format!("{policy:?}"),
        );
    }
}

#[test]
fn limits_become_requests_and_the_hosts_network_the_hosts_ports() {
    check(
        "v1/pods",
        "spec: {containers: [{name: a, resources: {limits: {cpu: 1, memory: 1Gi}, requests: {cpu: 500m}}}]}",
        "/spec/containers/0/resources/requests",
        r#"{"cpu":"500m","memory":"1Gi"}"#,
    );
    check(
        "v1/pods",
        "spec: {hostNetwork: true, containers: [{name: a, ports: [{containerPort: 80}]}]}",
        "/spec/containers/0/ports/0/hostPort",
        "80",
    );
    check("v1/pods", "spec: {serviceAccountName: x, containers: []}", "/spec/serviceAccount", "\"x\"");
}

#[test]
fn empty_text_and_a_probes_zeros_count_as_unset() {
    check("v1/pods", "spec: {restartPolicy: '', containers: []}", "/spec/restartPolicy", "\"Always\"");
    check(
        "v1/pods",
        "spec: {containers: [{name: a, livenessProbe: {timeoutSeconds: 0}}]}",
        "/spec/containers/0/livenessProbe/timeoutSeconds",
        "1",
    );
    check("v1/pods", "spec: {terminationGracePeriodSeconds: 0, containers: []}", "/spec/terminationGracePeriodSeconds", "0");
}

#[test]
fn workloads_are_defaulted() {
    check(
        "apps/v1/deployments",
        "spec: {template: {}}",
        "/spec/strategy",
        r#"{"type":"RollingUpdate","rollingUpdate":{"maxUnavailable":"25%","maxSurge":"25%"}}"#,
    );
    check("apps/v1/deployments", "spec: {strategy: {type: Recreate}}", "/spec/strategy", r#"{"type":"Recreate"}"#);
    for (field, value) in [("replicas", "1"), ("revisionHistoryLimit", "10"), ("progressDeadlineSeconds", "600")] {
        check("apps/v1/deployments", "spec: {}", &format!("/spec/{field}"), value);
    }
    check("apps/v1/deployments", "spec: {replicas: 0}", "/spec/replicas", "0");
    check("apps/v1/statefulsets", "spec: {}", "/spec/updateStrategy", r#"{"type":"RollingUpdate","rollingUpdate":{"partition":0}}"#);
    check(
        "apps/v1/daemonsets",
        "spec: {}",
        "/spec/updateStrategy",
        r#"{"type":"RollingUpdate","rollingUpdate":{"maxUnavailable":1,"maxSurge":0}}"#,
    );
    check("batch/v1/jobs", "spec: {}", "/spec/completions", "1");
    check("batch/v1/jobs", "spec: {parallelism: 2}", "/spec/completions", "null");
    check("batch/v1/jobs", "spec: {}", "/spec/backoffLimit", "6");
    check("batch/v1/cronjobs", "spec: {jobTemplate: {spec: {}}}", "/spec/jobTemplate/spec/backoffLimit", "6");
    check("batch/v1/cronjobs", "spec: {}", "/spec/concurrencyPolicy", "\"Allow\"");
}

#[test]
fn fields_that_say_the_same_are_kept_alike() {
    check("v1/secrets", "{data: {a: eA==}, stringData: {a: y, b: z}}", "/data", r#"{"a":"eQ==","b":"eg=="}"#);
    check("v1/secrets", "{stringData: {a: y}}", "/stringData", "null");
    check(
        "v1/pods",
        "{status: {podIP: 10.0.0.1, hostIPs: [{ip: 10.1.0.1}]}, spec: {containers: []}}",
        "/status",
        r#"{"podIP":"10.0.0.1","podIPs":[{"ip":"10.0.0.1"}],"hostIP":"10.1.0.1","hostIPs":[{"ip":"10.1.0.1"}]}"#,
    );
    check("v1/nodes", "spec: {podCIDR: 10.0.0.0/24}", "/spec/podCIDRs", r#"["10.0.0.0/24"]"#);
    check("batch/v1/jobs", "{metadata: {name: a}, spec: {template: {metadata: {labels: {a: b}}}}}", "/metadata/labels", r#"{"a":"b"}"#);
}

#[test]
fn services_and_the_rest_are_defaulted() {
    check(
        "v1/services",
        "spec: {ports: [{port: 80}]}",
        "/spec",
        r#"{"ports":[{"port":80,"targetPort":80,"protocol":"TCP"}],"sessionAffinity":"None","type":"ClusterIP","internalTrafficPolicy":"Cluster"}"#,
    );
    check("v1/services", "spec: {type: NodePort, ports: [{port: 80, targetPort: web}]}", "/spec/externalTrafficPolicy", "\"Cluster\"");
    check(
        "v1/services",
        "spec: {type: ClusterIP, sessionAffinity: None, internalTrafficPolicy: Local, sessionAffinityConfig: {clientIP: {timeoutSeconds: 9}}}",
        "/spec",
        r#"{"type":"ClusterIP","sessionAffinity":"None","internalTrafficPolicy":"Local"}"#,
    );
    check("v1/services", "spec: {sessionAffinity: ClientIP}", "/spec/sessionAffinityConfig", r#"{"clientIP":{"timeoutSeconds":10800}}"#);
    check(
        "v1/namespaces",
        "metadata: {name: a}",
        "",
        r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"a","labels":{"kubernetes.io/metadata.name":"a"}},"spec":{"finalizers":["kubernetes"]}}"#,
    );
    check("v1/secrets", "{}", "/type", "\"Opaque\"");
    check("v1/persistentvolumes", "spec: {}", "/spec", r#"{"persistentVolumeReclaimPolicy":"Retain","volumeMode":"Filesystem"}"#);
    check("networking.k8s.io/v1/networkpolicies", "spec: {egress: [{}]}", "/spec/policyTypes", r#"["Ingress","Egress"]"#);
    check(
        "rbac.authorization.k8s.io/v1/rolebindings",
        "{roleRef: {kind: Role, name: a}, subjects: [{kind: User, name: u}]}",
        "/subjects/0/apiGroup",
        "\"rbac.authorization.k8s.io\"",
    );
    check("autoscaling/v2/horizontalpodautoscalers", "spec: {maxReplicas: 3}", "/spec/minReplicas", "1");
    check("pintle.dev/v1/modules", "spec: {type: scheduler}", "/spec/schedulerName", "\"default-scheduler\"");
}

#[test]
fn every_row_names_a_field_and_a_value_of_it() {
    let (schema, mut of) = (Schema::builtin(), None);
    for line in include_str!("../../schema/defaults.rows").lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split_ascii_whitespace();
        if !line.starts_with(' ')
            && let Some(name) = words.next()
        {
            of = schema.type_named(&format!("io.k8s.{name}")).or_else(|| schema.type_named(name));
            assert!(of.is_some(), "there is no type {name}");
        }
        for word in words {
            let (field, json) = word.split_once('=').unwrap_or_else(|| panic!("{word} is not field=JSON"));
            assert!(of.is_some_and(|view| view.field(field).is_some()), "{line:?}: there is no field {field}");
            serde_json::from_str::<Value>(json).unwrap_or_else(|error| panic!("{word}: {error}"));
        }
    }
}
