//! The cluster's ClusterTrustBundles, for projected volumes.
//!
//! Followed like the network's objects, because a volume may select bundles by signer and labels. What a pod gets is each certificate once.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ClusterTrustBundleProjection;
use serde::Deserialize;

use crate::follow::Followed;
use crate::policy::plan::matches;

/// The bundles that are known.
pub type Bundles = Followed<Bundle>;

/// What matters of a ClusterTrustBundle.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Bundle {
    metadata: Metadata,
    spec: Spec,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
struct Metadata {
    labels: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    signer_name: String,
    trust_bundle: String,
}

/// The certificates that a projection selects, as PEM; `None`: no bundle is selected.
pub fn selected(bundles: &Bundles, wanted: &ClusterTrustBundleProjection) -> Option<String> {
    let chosen = bundles.iter().filter(|((_, name), bundle)| match (&wanted.name, &wanted.signer_name) {
        (Some(wanted), _) => wanted == name,
        (None, Some(signer)) => {
            let labels = &bundle.metadata.labels;
            *signer == bundle.spec.signer_name && wanted.label_selector.as_ref().is_some_and(|selector| matches(selector, labels))
        }
        (None, None) => false,
    });
    let mut blocks = Vec::new();
    let mut any = false;
    for (_, bundle) in chosen {
        any = true;
        for block in pem_blocks(&bundle.spec.trust_bundle) {
            if !blocks.contains(&block) {
                blocks.push(block);
            }
        }
    }
    any.then(|| blocks.concat())
}

/// The PEM blocks of a text, each with its line end; what stands between them is dropped.
fn pem_blocks(text: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut open: Option<String> = None;
    for line in text.lines().map(str::trim_end) {
        if line.starts_with("-----BEGIN ") {
            open = Some(String::new());
        }
        if let Some(block) = &mut open {
            block.push_str(line);
            block.push('\n');
        }
        if line.starts_with("-----END ") {
            blocks.extend(open.take());
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::Row;
    use serde_json::{Value, json};

    fn known() -> Bundles {
        let block = |name: &str| format!("-----BEGIN CERTIFICATE-----\n{name}\n-----END CERTIFICATE-----\n");
        let bundle = |name: &str, signer: &str, label: &str, text: String| json!({ "metadata": { "name": name, "labels": { "alive": label } }, "spec": { "signerName": signer, "trustBundle": text } });
        let mut bundles = Bundles::default();
        for object in [
            bundle("one", "s/a", "yes", block("A") + "words between\n" + &block("B")),
            bundle("two", "s/a", "no", block("B")),
            bundle("three", "", "yes", block("C")),
        ] {
            bundles.take(Row::Put(object.to_string().into_bytes()), |_, _| {});
        }
        bundles
    }

    #[test]
    fn bundles_are_chosen_by_name_or_by_signer_and_labels() {
        let check = |projection: Value, expected: Option<&str>| {
            let wanted: ClusterTrustBundleProjection = serde_json::from_value(projection.clone()).expect("a projection");
            let found = selected(&known(), &wanted).map(|pem| pem.lines().filter(|l| l.len() == 1).collect::<String>());
            assert_eq!(found.as_deref(), expected, "{projection}");
        };
        check(json!({ "path": "p", "name": "three" }), Some("C"));
        check(json!({ "path": "p", "name": "none" }), None);
        check(json!({ "path": "p", "signerName": "s/a", "labelSelector": {} }), Some("AB"));
        check(json!({ "path": "p", "signerName": "s/a", "labelSelector": { "matchLabels": { "alive": "no" } } }), Some("B"));
        check(json!({ "path": "p", "signerName": "s/a" }), None);
    }
}
