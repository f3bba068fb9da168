//! Claims for volumes that live as long as their pod: named after both, owned by the pod, gone with it.

use pintle_sdk::prelude::*;
use pintle_sdk::serde_json::Value;
use serde::Deserialize;

#[derive(Deserialize)]
struct Pod {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Spec {
    volumes: Vec<Volume>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Volume {
    name: String,
    ephemeral: Option<Ephemeral>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Ephemeral {
    volume_claim_template: Value,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    phase: String,
}

/// Decides about one pod; nearly all have nothing to decide, and are not parsed.
pub fn reconcile(request: &Request<'_>) -> Result<Plan> {
    const WORD: &[u8] = b"\"ephemeral\"";
    if !request.bytes().windows(WORD.len()).any(|at| at == WORD) {
        return Ok(Plan::new());
    }
    let Some(pod) = request.object::<Pod>()? else { return Ok(Plan::new()) };
    if pod.metadata.is_terminating() || matches!(pod.status.phase.as_str(), "Succeeded" | "Failed") {
        return Ok(Plan::new());
    }
    let claims = request.related_partials("claims")?;
    let mut plan = Plan::new();
    for volume in &pod.spec.volumes {
        let Some(ephemeral) = &volume.ephemeral else { continue };
        let name = format!("{}-{}", pod.metadata.name, volume.name);
        if claims.iter().all(|claim| claim.metadata.name != name) {
            plan = plan.create(&claim(&pod.metadata, &name, &ephemeral.volume_claim_template)?);
        }
    }
    Ok(plan)
}

fn claim(pod: &Metadata, name: &str, template: &Value) -> Result<Untyped> {
    Untyped::new(json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": name, "namespace": pod.namespace,
            "labels": template["metadata"]["labels"], "annotations": template["metadata"]["annotations"],
            "ownerReferences": [pod.as_controller("v1", "Pod")],
        },
        "spec": template["spec"],
    }))
}
