//! What a namespace's certificate map should be.

use std::collections::BTreeMap;

use pintle_sdk::prelude::*;
use serde::Deserialize;

const NAME: &str = "kube-root-ca.crt";
const ENTRY: &str = "ca.crt";
const ABOUT: (&str, &str) = (
    "kubernetes.io/description",
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or \
     kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.",
);

/// A ConfigMap, as far as it is read.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct ConfigMap {
    metadata: Metadata,
    data: Option<BTreeMap<String, String>>,
}

/// Creates the map of a live namespace when it is missing, and mends its certificate when it is another.
pub fn plan(pem: &str, namespace: &Metadata, maps: &[ConfigMap]) -> Result<Plan> {
    if namespace.is_terminating() {
        return Ok(Plan::new());
    }
    let Some(map) = maps.iter().find(|map| map.metadata.name == NAME) else {
        let map = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": NAME, "namespace": namespace.name, "annotations": {ABOUT.0: ABOUT.1}},
            "data": {ENTRY: pem},
        });
        return Ok(Plan::new().create(&Untyped::new(map)?));
    };
    let published = map.data.as_ref().and_then(|data| data.get(ENTRY));
    if map.metadata.is_terminating() || published.is_some_and(|published| published == pem) {
        return Ok(Plan::new());
    }
    Ok(Plan::new().patch(ObjectRef::of("", "configmaps", &map.metadata), json!({"data": {ENTRY: pem}})))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RootCaPublisher;
    use pintle_sdk::testing::{Disturbed, FakeKernel};

    fn settled() -> Result<FakeKernel> {
        let mut kernel = FakeKernel::new(include_str!("../module.json"))?;
        kernel.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}))?;
        kernel.settle(&mut publisher())?;
        Ok(kernel)
    }

    fn publisher() -> RootCaPublisher {
        RootCaPublisher { pem: "PEM".into() }
    }

    fn published(kernel: &FakeKernel) -> Option<pintle_sdk::serde_json::Value> {
        kernel.get("/configmaps", "shop", NAME).map(|map| map["data"].clone())
    }

    #[test]
    fn every_namespace_gets_the_certificate_and_gets_it_back_when_it_is_deleted() -> Result<()> {
        let mut kernel = settled()?;
        assert_eq!(published(&kernel), Some(json!({"ca.crt": "PEM"})));
        kernel.remove("/configmaps", "shop", NAME);
        kernel.settle(&mut publisher())?;
        assert_eq!(published(&kernel), Some(json!({"ca.crt": "PEM"})));
        Ok(())
    }

    #[test]
    fn it_is_published_the_same_way_under_every_disturbance() -> Result<()> {
        let begin = || {
            let mut kernel = settled()?;
            kernel.edit("/configmaps", "shop", NAME, |map| map["data"] = json!({"ca.crt": "FORGED", "mine": "x"}));
            kernel.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "more"}}))?;
            Ok(kernel)
        };
        Disturbed::new(begin, || Ok(publisher())).check()?;
        Ok(())
    }

    #[test]
    fn a_changed_certificate_is_mended_and_other_entries_stay() -> Result<()> {
        let mut kernel = settled()?;
        kernel.edit("/configmaps", "shop", NAME, |map| map["data"] = json!({"ca.crt": "FORGED", "mine": "x"}));
        kernel.settle(&mut publisher())?;
        assert_eq!(published(&kernel), Some(json!({"ca.crt": "PEM", "mine": "x"})));
        Ok(())
    }

    #[test]
    fn a_namespace_that_is_going_gets_none() -> Result<()> {
        let mut kernel = settled()?;
        kernel.edit("/namespaces", "", "shop", |namespace| namespace["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"));
        kernel.remove("/configmaps", "shop", NAME);
        kernel.settle(&mut publisher())?;
        assert_eq!(published(&kernel), None);
        Ok(())
    }

    #[test]
    fn without_a_certificate_it_does_not_start() {
        assert!(RootCaPublisher::start(&Start::default()).is_err());
    }
}
