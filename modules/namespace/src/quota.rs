//! Adds up what a namespace uses of its ResourceQuotas.

use std::collections::BTreeMap;

use pintle_sdk::prelude::*;
use pintle_sdk::serde_json::Value;
use pintle_sdk::workload::quota::{Amounts, Quota, quantity, usage};

/// Kinds whose content matters, by the name of their list; of all others only the number does.
const WEIGHED: [&str; 3] = ["pods", "services", "persistentvolumeclaims"];

/// Decides about one ResourceQuota.
pub fn reconcile(request: &Request<'_>) -> Result<Plan> {
    let Some(quota) = request.object::<Quota>()? else { return Ok(Plan::new()) };
    let mut used: Amounts = quota.spec.hard.keys().map(|name| (name.clone(), 0)).collect();
    let mut add = |group: &str, resource: &str, object: &Value| {
        if quota.covers(group, resource, object) {
            for (name, amount) in quota.limited(usage(group, resource, object)) {
                *used.entry(name).or_default() += amount;
            }
        }
    };
    for resource in WEIGHED {
        for object in request.related::<Value>(resource)? {
            add("", resource, &object);
        }
    }
    for row in request.related_partials("content")? {
        let target = row.target();
        if !(target.group.is_empty() && WEIGHED.contains(&target.resource.as_str())) {
            add(&target.group, &target.resource, &Value::Null);
        }
    }
    let used: BTreeMap<String, String> = used.iter().map(|(name, amount)| (name.clone(), quantity(name, *amount))).collect();
    if used == quota.status.used && quota.spec.hard == quota.status.hard {
        return Ok(Plan::new());
    }
    // Whole lists: what is not limited any more is null in the patch.
    let whole = |new: &BTreeMap<String, String>, old: &BTreeMap<String, String>| -> Value {
        let gone = old.keys().filter(|name| !new.contains_key(*name)).map(|name| (name.clone(), Value::Null));
        new.iter().map(|(name, value)| (name.clone(), json!(value))).chain(gone).collect()
    };
    let status = json!({"hard": whole(&quota.spec.hard, &quota.status.hard), "used": whole(&used, &quota.status.used)});
    Ok(Plan::new().patch_status(ObjectRef::of("", "resourcequotas", &quota.metadata), status))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Namespaces;
    use pintle_sdk::testing::{Disturbed, FakeKernel};

    fn start() -> Result<FakeKernel> {
        let mut kernel = FakeKernel::new(include_str!("../module.json"))?;
        let meta = |name: &str| json!({"name": name, "namespace": "shop"});
        let hard = json!({"pods": "3", "requests.cpu": "1", "configmaps": "5", "count/replicasets.apps": "2", "services.nodeports": "1"});
        kernel.put(json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": meta("q"), "spec": {"hard": hard}}))?;
        for name in ["a", "b"] {
            let spec = json!({"containers": [{"resources": {"requests": {"cpu": "250m"}}}]});
            kernel.put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": meta(name), "spec": spec}))?;
        }
        kernel.put(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta("c")}))?;
        kernel.put(json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": meta("r")}))?;
        kernel.put(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "other", "namespace": "elsewhere"}}))?;
        Ok(kernel)
    }

    fn status(kernel: &FakeKernel) -> Value {
        kernel.get("/resourcequotas", "shop", "q").map(|quota| quota["status"].clone()).unwrap_or_default()
    }

    #[test]
    fn everything_in_the_namespace_that_the_quota_limits_is_added_up() -> Result<()> {
        let mut kernel = start()?;
        kernel.settle(&mut Namespaces)?;
        let used =
            json!({"pods": "2", "requests.cpu": "500m", "configmaps": "1", "count/replicasets.apps": "1", "services.nodeports": "0"});
        assert_eq!(status(&kernel)["used"], used);
        kernel.remove("/pods", "shop", "a");
        kernel.edit("/resourcequotas", "shop", "q", |quota| quota["spec"]["hard"] = json!({"pods": "3"}));
        kernel.settle(&mut Namespaces)?;
        assert_eq!(status(&kernel), json!({"hard": {"pods": "3"}, "used": {"pods": "1"}}));
        Ok(())
    }

    #[test]
    fn the_sum_is_the_same_under_every_disturbance() -> Result<()> {
        Disturbed::new(start, || Ok(Namespaces)).check()?;
        Ok(())
    }
}
