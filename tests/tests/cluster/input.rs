//! What is refused, and how it says so: a clear error that names the field, nothing stored.

use crate::{Outcome, Test, ensure, setup::Setup};
use pintle_tests::{https::Api, kubectl::items};
use std::time::Duration;

pub const TESTS: &[Test] = &[
    ("input_malformed_yaml_is_refused_with_its_line", malformed),
    ("input_an_unknown_field_is_named", unknown_field),
    ("input_a_wrong_type_is_named", wrong_type),
    ("input_an_invalid_value_is_named_with_its_path", invalid_value),
    ("input_an_anonymous_request_gets_401", anonymous),
    ("input_ranges_of_services_and_pods_that_overlap_are_refused", overlapping_ranges),
    ("input_a_bad_image_name_and_a_missing_image_show_on_the_pod", bad_images),
];

fn refused(setup: &Setup, manifest: &str, expected: &[&str]) -> Outcome {
    match setup.kubectl.apply(manifest) {
        Ok(printed) => Err(format!("accepted: {printed}").into()),
        Err(error) => {
            let text = error.to_string();
            for word in expected {
                ensure!(text.contains(word), "the error lacks {word:?}: {text}");
            }
            Ok(())
        }
    }
}

/// A kernel that could not tell a Service from a pod does not start.
fn overlapping_ranges(_: &Setup) -> Outcome {
    let folder = std::env::temp_dir().join(format!("pintle-overlap-{}", std::process::id()));
    let mut kernel = std::process::Command::new(pintle_tests::programs().join("pintle"));
    kernel.arg("kernel").arg("--data-dir").arg(&folder).args([
        "--service-cluster-ip-range",
        "10.244.128.0/20",
        "--cluster-cidr",
        "10.244.0.0/16",
    ]);
    let output = kernel.output()?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        !output.status.success() && told.contains("--service-cluster-ip-range 10.244.128.0/20 and --cluster-cidr 10.244.0.0/16 overlap"),
        "{told}"
    );
    ensure!(!folder.exists(), "it has made {}", folder.display());
    Ok(())
}

fn malformed(setup: &Setup) -> Outcome {
    refused(setup, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x\ndata: [\n", &["error"])?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut connection = Api::new(&setup.cluster)?.connect().await?;
        let answer = connection
            .request(http::Method::POST, "/api/v1/namespaces/default/configmaps", "application/yaml", "a: [b\nc: }".into())
            .await?;
        let status = answer.json();
        ensure!(answer.status == 400 && status["kind"] == "Status" && status["reason"] == "BadRequest", "{} {status}", answer.status);
        Ok(())
    })
}

fn unknown_field(setup: &Setup) -> Outcome {
    refused(setup, "{apiVersion: v1, kind: ConfigMap, metadata: {name: unknown}, dada: {a: b}}", &["unknown field", "dada"])
}

fn wrong_type(setup: &Setup) -> Outcome {
    let manifest = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: wrong}, spec: {replicas: many, selector: {matchLabels: {a: b}}, \
                    template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}}}";
    refused(setup, manifest, &["replicas"])
}

fn invalid_value(setup: &Setup) -> Outcome {
    let pod = |fields: &str| format!("{{apiVersion: v1, kind: Pod, metadata: {{name: invalid}}, spec: {{{fields}}}}}");
    refused(setup, &pod("restartPolicy: Sometimes, containers: [{name: c, image: i}]"), &["spec.restartPolicy", "Unsupported value"])?;
    refused(setup, &pod("containers: [{name: c, image: i}, {name: c, image: i}]"), &["spec.containers[1].name", "Duplicate value"])?;
    refused(setup, &pod("containers: [{name: c}]"), &["spec.containers[0].image", "Required value"])?;
    refused(setup, "{apiVersion: v1, kind: ConfigMap, metadata: {name: Not_A_Name}}", &["metadata.name", "Invalid value"])?;
    refused(setup, "{apiVersion: v1, kind: ConfigMap, metadata: {name: x, namespace: nowhere}}", &["namespaces \"nowhere\" not found"])?;
    let none = setup.kubectl.run(&["get", "pod", "invalid", "--ignore-not-found"])?;
    ensure!(none.is_empty(), "a refused pod was stored: {none}");
    Ok(())
}

fn anonymous(setup: &Setup) -> Outcome {
    let url = format!("https://127.0.0.1:{}/api/v1/pods", setup.cluster.port());
    let body = pintle_tests::run(std::process::Command::new("curl").args(["-sk", "-w", "%{http_code}", &url]))?;
    ensure!(body.ends_with("401") && body.contains("\"Unauthorized\""), "an anonymous list answered {body}");
    Ok(())
}

fn bad_images(setup: &Setup) -> Outcome {
    for (name, image, reasons) in [
        ("bad-name", "UPPER CASE!", &["InvalidImageName"][..]),
        ("no-image", "registry.pintle.test/absent:1", &["ErrImagePull", "ImagePullBackOff"][..]),
    ] {
        let manifest =
            format!("{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{containers: [{{name: c, image: '{image}'}}]}}}}");
        setup.kubectl.apply(&manifest)?;
        setup.kubectl.wait_for("the container waits with the reason", &["pod", name], Duration::from_secs(60), |p| {
            let waiting = &p["status"]["containerStatuses"][0]["state"]["waiting"];
            let named = waiting["reason"].as_str().is_some_and(|r| reasons.contains(&r));
            if named && waiting["message"].as_str().is_some_and(|m| !m.is_empty()) { Ok(()) } else { Err(p["status"].to_string()) }
        })?;
        let events = setup.kubectl.wait_for("an event says so", &["events"], Duration::from_secs(30), |l| {
            let about = |e: &serde_json::Value| e["involvedObject"]["name"] == name && e["type"] == "Warning";
            if items(l).iter().any(about) { Ok(()) } else { Err(format!("{} events", items(l).len())) }
        });
        setup.kubectl.run(&["delete", "pod", name, "--timeout=30s"])?;
        events?;
    }
    Ok(())
}
