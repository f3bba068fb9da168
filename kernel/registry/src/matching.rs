//! Which requests a judge wants to see: the vocabulary that admission webhooks and admission modules share; and the request as both can read it.
//!
//! Facts: <https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/#matching-requests-rules>.

use pintle_api::Scope;
use pintle_api::selector::LabelSelector;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::HashMap;

use crate::admission::{AdmissionRequest, Operation};
use crate::options::DryRun;
use crate::registry::Registry;
use crate::target::{ResourceInfo, ResourceKey};

impl Operation {
    /// As clients write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }
}

/// Which requests; `*` matches anything. Without groups the core group is meant, without versions all are.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct AdmissionRule {
    /// API groups.
    pub api_groups: Vec<String>,
    /// API versions.
    pub api_versions: Vec<String>,
    /// `pods`, `pods/log`, `*/scale`, `*`, `*/*`.
    pub resources: Vec<String>,
    /// `CREATE` and the like.
    pub operations: Vec<String>,
    /// `Cluster`, `Namespaced`, or everything.
    pub scope: String,
    /// Names of objects; without any, all. Policies only.
    pub resource_names: Vec<String>,
}

impl AdmissionRule {
    /// Whether it names the request, its version aside.
    #[must_use]
    pub fn matches_any_version(&self, resource: &ResourceInfo, subresource: &str, operation: Operation) -> bool {
        let named = self.resources.iter().any(|entry| match entry.split_once('/') {
            Some((r, s)) => (r == "*" || r == resource.plural) && (s == "*" || s == subresource),
            None => subresource.is_empty() && (entry == "*" || *entry == resource.plural),
        });
        let groups_match = if self.api_groups.is_empty() { resource.group.is_empty() } else { has(&self.api_groups, &resource.group) };
        let scope_matches = match self.scope.as_str() {
            "Cluster" => resource.scope == Scope::Cluster,
            "Namespaced" => resource.scope == Scope::Namespaced,
            _ => true,
        };
        named && scope_matches && groups_match && has(&self.operations, operation.name())
    }

    /// Whether it names the request.
    #[must_use]
    pub fn matches(&self, resource: &ResourceInfo, subresource: &str, operation: Operation) -> bool {
        (self.api_versions.is_empty() || has(&self.api_versions, &resource.version))
            && self.matches_any_version(resource, subresource, operation)
    }
}

fn has(list: &[String], word: &str) -> bool {
    list.iter().any(|entry| entry == "*" || entry == word)
}

/// Which of them by labels: of the object (as it is or as it was), and of its namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Selectors {
    /// Against the labels of the object's namespace; of the object, if that is a Namespace.
    pub namespace: LabelSelector,
    /// Against the object's labels, the new ones or the old.
    pub object: LabelSelector,
}

impl Selectors {
    /// Whether the request is selected; `object` is its object with the edits so far.
    #[must_use]
    pub fn select(&self, registry: &Registry, request: &AdmissionRequest<'_>, object: &[u8]) -> bool {
        let old = |selector: &LabelSelector| request.old.as_ref().is_some_and(|o| selector.matches_with(|l| o.meta().label(l)));
        let target = request.target;
        let is_namespace = target.resource.group.is_empty() && &*target.resource.plural == "namespaces";
        let by_namespace = match target.resource.scope {
            _ if self.namespace.is_empty() => true,
            Scope::Namespaced => registry
                .get_cached(&ResourceKey::new("", "namespaces"), "", &target.namespace)
                .is_some_and(|namespace| self.namespace.matches_with(|label| namespace.meta().label(label))),
            // A Namespace is held against its own labels; on delete there are only the old ones.
            _ if is_namespace && object.is_empty() => old(&self.namespace),
            _ => !is_namespace || matches_body(&self.namespace, object),
        };
        by_namespace && (self.object.is_empty() || matches_body(&self.object, object) || old(&self.object))
    }
}

/// Whether the labels of an object's text match; what cannot be read has none.
fn matches_body(selector: &LabelSelector, body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Labelled {
        metadata: Metadata,
    }
    #[derive(Deserialize)]
    struct Metadata {
        #[serde(default)]
        labels: HashMap<String, String>,
    }
    let labels = serde_json::from_slice(body).map(|object: Labelled| object.metadata.labels).unwrap_or_default();
    !body.is_empty() && selector.matches_with(|label| labels.get(label).map(String::as_str))
}

/// Which requests by rules and labels: what webhooks, policies and bindings of policies say alike.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Matching {
    /// One of these names the request; `None` names every request.
    pub rules: Option<Vec<AdmissionRule>>,
    /// None of these does.
    pub excluded: Vec<AdmissionRule>,
    /// `matchPolicy: Equivalent`: a rule that names another version of the resource counts too.
    pub equivalent: bool,
    /// By labels.
    pub selectors: Selectors,
}

impl Matching {
    /// From an object as it is stored, validated and defaulted, whose rules stand under this key. No `resourceRules` are all; no `rules` are none.
    #[must_use]
    pub fn new(object: &Value, rules: &str) -> Self {
        let selector = |key: &str| LabelSelector::from_object(&object[key]).unwrap_or_default();
        let rules_of = |key: &str| serde_json::from_value::<Vec<AdmissionRule>>(object[key].clone()).unwrap_or_default();
        Self {
            rules: Some(rules_of(rules)).filter(|all| rules == "rules" || !all.is_empty()),
            excluded: rules_of("excludeResourceRules"),
            equivalent: object["matchPolicy"] != "Exact",
            selectors: Selectors { namespace: selector("namespaceSelector"), object: selector("objectSelector") },
        }
    }

    /// The version in which it wants to see the object; `None`: it does not want it. Without a name, one of a name that it wants.
    #[must_use]
    pub fn version(&self, registry: &Registry, target: (&ResourceInfo, &str, Option<&str>), operation: Operation) -> Option<String> {
        let (resource, _, _) = target;
        let excluded = |rule: &AdmissionRule| rule.resource_names.is_empty() || target.2.is_some();
        if self.by_rules(registry, self.excluded.iter().filter(|rule| excluded(rule)), target, operation).is_some() {
            return None;
        }
        let Some(rules) = &self.rules else { return Some(resource.version.to_string()) };
        self.by_rules(registry, rules.iter(), target, operation)
    }

    fn by_rules<'r>(
        &self,
        registry: &Registry,
        rules: impl Iterator<Item = &'r AdmissionRule> + Clone,
        (resource, subresource, name): (&ResourceInfo, &str, Option<&str>),
        operation: Operation,
    ) -> Option<String> {
        let mut named = rules.filter(|rule| name.is_none_or(|name| rule.resource_names.is_empty() || has(&rule.resource_names, name)));
        if named.clone().any(|rule| rule.matches(resource, subresource, operation)) {
            return Some(resource.version.to_string());
        }
        let served = |version: &&String| registry.resource(&resource.group, version, &resource.plural).is_some();
        named.find_map(|rule| {
            let matches = self.equivalent && rule.matches_any_version(resource, subresource, operation);
            rule.api_versions.iter().filter(|_| matches).find(served).cloned()
        })
    }
}

/// `AdmissionReview.request` (`admission.k8s.io/v1`), without its uid: a request whose object, with the edits so far, is `object`, in `version`
/// of its resource.
#[must_use]
pub fn review_of(request: &AdmissionRequest<'_>, object: &[u8], version: &str) -> Value {
    let target = request.target;
    let resource = &target.resource;
    let parsed = |body: &[u8]| -> Value {
        let mut value: Value = serde_json::from_slice(body).unwrap_or_default();
        // Versions of a custom resource differ in their name alone, unless a webhook converts them.
        if *version != *resource.version && value.is_object() {
            value["apiVersion"] = format!("{}/{version}", resource.group).into();
        }
        value
    };
    let (new, old) = (parsed(object), request.old.as_ref().map_or(Value::Null, |old| parsed(old.body())));
    // What is posted to a subresource has a kind of its own.
    let own = if new.is_object() { &new } else { &old };
    let api_version = own["apiVersion"].as_str().unwrap_or(version);
    let (group, of_version) = api_version.split_once('/').unwrap_or(("", api_version));
    let request_version = if *group == *resource.group { &*resource.version } else { of_version };
    let kind = own["kind"].as_str().unwrap_or(&resource.kind);
    let dry_run = request.dry_run == DryRun::All;
    let options = match request.operation {
        Operation::Create => json!({"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"}),
        Operation::Update => json!({"kind": "UpdateOptions", "apiVersion": "meta.k8s.io/v1"}),
        Operation::Delete => json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1"}),
        Operation::Connect => Value::Null,
    };
    let mut review = json!({
        "kind": {"group": group, "version": of_version, "kind": kind},
        "resource": {"group": &*resource.group, "version": version, "resource": &*resource.plural},
        "requestKind": {"group": group, "version": request_version, "kind": kind},
        "requestResource": {"group": &*resource.group, "version": &*resource.version, "resource": &*resource.plural},
        "name": target.name,
        "operation": request.operation.name(),
        "userInfo": request.caller.info(),
        "dryRun": dry_run,
        "options": options,
    });
    if dry_run && !review["options"].is_null() {
        review["options"]["dryRun"] = json!(["All"]);
    }
    let is_namespace = resource.group.is_empty() && &*resource.plural == "namespaces";
    let namespace = if is_namespace { &target.name } else { &target.namespace };
    let texts = [("namespace", namespace), ("subResource", &target.subresource), ("requestSubResource", &target.subresource)];
    for (key, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
        review[key] = text.as_str().into();
    }
    review["object"] = new;
    review["oldObject"] = old;
    review
}
