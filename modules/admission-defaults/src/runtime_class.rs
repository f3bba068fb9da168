//! RuntimeClass: a pod names one that exists, and carries its overhead and where it may run.
//!
//! Facts: <https://kubernetes.io/docs/concepts/containers/runtime-class/>.

use std::collections::BTreeMap;

use pintle_sdk::prelude::*;
use pintle_sdk::serde_json::Value;
use serde::Deserialize;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Class {
    metadata: Metadata,
    overhead: Option<Overhead>,
    scheduling: Option<Scheduling>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Overhead {
    pod_fixed: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Scheduling {
    node_selector: BTreeMap<String, String>,
    tolerations: Vec<Value>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Pod {
    spec: Spec,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    runtime_class_name: Option<String>,
    overhead: Option<BTreeMap<String, String>>,
    node_selector: BTreeMap<String, String>,
}

/// The edits for one pod that has a list of tolerations; or the refusal of a class that does not exist or an overhead that is not the
/// class's.
pub fn edits(review: &Review<'_>) -> Result<Result<Vec<Edit>, Verdict>> {
    let Some(pod) = review.object::<Pod>()? else { return Ok(Ok(Vec::new())) };
    let Some(name) = pod.spec.runtime_class_name.filter(|name| !name.is_empty()) else {
        let said = pod.spec.overhead.is_some_and(|overhead| !overhead.is_empty());
        return Ok(if said {
            Err(Verdict::deny("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"))
        } else {
            Ok(Vec::new())
        });
    };
    let classes = review.related::<Class>("runtimeclasses")?.unwrap_or_default();
    let Some(class) = classes.into_iter().find(|class| class.metadata.name == name) else {
        return Ok(Err(Verdict::deny(format!("pod rejected: RuntimeClass {name:?} not found"))));
    };
    let mut edits = Vec::new();
    let fixed = class.overhead.unwrap_or_default().pod_fixed;
    match pod.spec.overhead {
        Some(said) if said != fixed => {
            return Ok(Err(Verdict::deny("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")));
        }
        None if !fixed.is_empty() => edits.push(Edit::add("/spec/overhead", &fixed)),
        _ => {}
    }
    let scheduling = class.scheduling.unwrap_or_default();
    let mut selector = pod.spec.node_selector.clone();
    for (label, value) in scheduling.node_selector {
        match selector.insert(label.clone(), value.clone()) {
            Some(said) if said != value => {
                let why = format!(
                    "pod rejected: conflict: runtimeClass.scheduling.nodeSelector[{label}] = {value}; pod.spec.nodeSelector[{label}] = {said}"
                );
                return Ok(Err(Verdict::deny(why)));
            }
            _ => {}
        }
    }
    if selector != pod.spec.node_selector {
        edits.push(Edit::add("/spec/nodeSelector", &selector));
    }
    edits.extend(scheduling.tolerations.iter().map(|toleration| Edit::add("/spec/tolerations/-", toleration)));
    Ok(Ok(edits))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pintle_sdk::Operation;

    fn ask(spec: Value) -> Result<std::result::Result<Vec<Edit>, String>> {
        let class = json!({
            "metadata": {"name": "small"}, "overhead": {"podFixed": {"cpu": "10m"}},
            "scheduling": {"nodeSelector": {"kind": "small"}, "tolerations": [{"key": "small"}]},
        });
        let (class, pod) = (class.to_string(), json!({"spec": spec}).to_string());
        let review = Review::new(Operation::Create, ObjectRef::named("", "pods", "shop", "a"), pod.as_bytes(), b"")
            .with_related("runtimeclasses", vec![class.as_bytes()]);
        Ok(edits(&review)?.map_err(|verdict| verdict.failure.unwrap_or_default().message))
    }

    #[test]
    fn a_pod_carries_what_its_class_says() -> Result<()> {
        let edited = ask(json!({"runtimeClassName": "small"}))?;
        let expected = vec![
            Edit::add("/spec/overhead", &json!({"cpu": "10m"})),
            Edit::add("/spec/nodeSelector", &json!({"kind": "small"})),
            Edit::add("/spec/tolerations/-", &json!({"key": "small"})),
        ];
        assert_eq!(edited, Ok(expected));
        assert_eq!(ask(json!({}))?, Ok(Vec::new()));
        Ok(())
    }

    #[test]
    fn what_its_class_does_not_say_is_refused() -> Result<()> {
        let refused = |spec: Value, why: &str| ask(spec).map(|answer| answer.is_err_and(|said| said.contains(why)));
        assert!(refused(json!({"runtimeClassName": "none"}), r#"RuntimeClass "none" not found"#)?);
        assert!(refused(json!({"runtimeClassName": "small", "overhead": {"cpu": "1"}}), "doesn't match")?);
        assert!(refused(json!({"overhead": {"cpu": "1"}}), "without corresponding RuntimeClass")?);
        assert!(refused(json!({"runtimeClassName": "small", "nodeSelector": {"kind": "big"}}), "conflict")?);
        Ok(())
    }
}
