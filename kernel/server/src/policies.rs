//! Admission policies: what the registered policies and bindings say about a request. They edit and judge after the modules and before the webhooks.
//!
//! The objects are followed from the registry and kept compiled. What a policy means is `pintle_policies`' business; here is which policies a request
//! meets, and with which parameters. Policies never judge the objects that register policies, nor what the kernel does on its own account. A
//! mutating policy is asked once more, if it wants that, when a later policy changed the object; not for what webhooks change.

use std::sync::{Arc, Weak};

use futures::future::BoxFuture;
use parking_lot::RwLock;
use pintle_api::selector::LabelSelector;
use pintle_api::{ApiError, apply, openapi};
use pintle_policies::{
    Binding, Bound, Met, MutatingPolicy, Refusal, Surroundings, ValidatingPolicy, Views, bound, difference, param_kind, schema_of,
    type_checking, types_named, view_of,
};
use pintle_registry::{
    Admission, AdmissionRequest, Caller, Edit, EditOp, Failure, Index, Matching, Object, Operation, Patch, Phase, Registry, ResourceInfo,
    ResourceKey, SubscriptionFilter, Verdict, WriteOptions, audit, edited, review_of,
};
use serde_json::{Value, json};

use crate::identity::authz::asking;
use crate::server::Shared;
use crate::webhook::judged;

const GROUP: &str = "admissionregistration.k8s.io";
/// Policies and bindings, in the order of the phases.
const KINDS: [[&str; 2]; 2] = [
    ["mutatingadmissionpolicies", "mutatingadmissionpolicybindings"],
    ["validatingadmissionpolicies", "validatingadmissionpolicybindings"],
];

/// Judges by who judged before, then by policies.
pub(crate) struct Policies {
    server: Weak<Shared>,
    before: Option<Arc<dyn Admission>>,
    lists: RwLock<Arc<Lists>>,
}

struct Lists {
    mutating: Vec<Bound<MutatingPolicy, Matching>>,
    validating: Vec<Bound<ValidatingPolicy, Matching>>,
}

impl Policies {
    /// Put them behind who judges already, and follow the policies until the server stops.
    pub(crate) fn install(server: &Arc<Shared>) {
        let registry = server.registry.clone();
        let keys = KINDS.as_flattened().iter().map(|kind| ResourceKey::new(GROUP, *kind));
        let mut changes = registry.subscribe(SubscriptionFilter::Resources(keys.collect()));
        let lists = RwLock::new(Arc::new(Lists::new(&registry)));
        let policies = Arc::new(Policies { server: Arc::downgrade(server), before: registry.admission(), lists });
        registry.set_admission(policies.clone());
        let mut stopping = server.stopping();
        server.tasks.spawn(async move {
            loop {
                check_types(&registry).await;
                tokio::select! {
                    change = changes.next() => if change.is_none() { return },
                    () = stopping.wait() => return,
                }
                while changes.try_next().is_some() {}
                *policies.lists.write() = Arc::new(Lists::new(&registry));
            }
        });
    }

    fn wanted(&self, resource: &ResourceInfo, subresource: &str, operation: Operation, phase: Phase) -> bool {
        let lists = self.lists.read().clone();
        if resource.group == GROUP && KINDS.as_flattened().contains(&&*resource.plural) {
            return false;
        }
        let Some(server) = self.server.upgrade() else { return false };
        let wants = |matching: &Matching| matching.version(&server.registry, (resource, subresource, None), operation).is_some();
        match phase {
            Phase::Mutating => lists.mutating.iter().any(|policy| wants(&policy.matching)),
            Phase::Validating => lists.validating.iter().any(|policy| wants(&policy.matching)),
        }
    }

    /// What is to be asked, if the request is not refused already and anybody may be asked.
    fn asked(&self, request: &AdmissionRequest<'_>, phase: Phase, sum: &Verdict) -> Option<(Arc<Shared>, Arc<Lists>)> {
        let target = request.target;
        let ask = sum.refused.is_none()
            && !request.caller.is_kernel()
            && self.wanted(&target.resource, &target.subresource, request.operation, phase);
        Some((self.server.upgrade().filter(|_| ask)?, self.lists.read().clone()))
    }

    async fn mutate_all(&self, request: &AdmissionRequest<'_>) -> Verdict {
        let mut sum = judged(self.before.as_ref(), request, Phase::Mutating).await;
        let Some((server, lists)) = self.asked(request, Phase::Mutating, &sum) else { return sum };
        let registry = &server.registry;
        let Ok(body) = edited(&request.object, &sum.edits) else { return sum };
        // On delete there is nothing to edit.
        let Ok(object) = serde_json::from_slice::<Value>(&body) else { return sum };
        let schema = registry.schema();
        let merge = |live: &Value, config: &Value| apply::overlaid(&schema, &request.target.resource, live, config);
        let met = met(registry, &lists.mutating, request, &body);
        let (views, namespace) = (views(&met, request, &body), namespace(registry, request));
        let around = Surroundings { views: &views, namespace: &namespace, authorize: Some(&asking(&server.authorizer, request.caller)) };
        match pintle_policies::mutate(&met, around, &object, &merge) {
            Ok(changed) => sum.edits.extend(difference(&object, &changed).into_iter().map(|(key, value)| Edit {
                op: if value.is_some() { EditOp::Add } else { EditOp::Remove },
                path: format!("/{}", key.replace('~', "~0").replace('/', "~1")),
                value: value.cloned().unwrap_or_default(),
            })),
            Err(Refusal { code, reason, message }) => sum.refused = Some(Failure { code, reason, message }),
        }
        sum
    }

    async fn validate_all(&self, request: &AdmissionRequest<'_>) -> Verdict {
        let mut sum = judged(self.before.as_ref(), request, Phase::Validating).await;
        let Some((server, lists)) = self.asked(request, Phase::Validating, &sum) else { return sum };
        let registry = &server.registry;
        let met = met(registry, &lists.validating, request, &request.object);
        let (views, namespace) = (views(&met, request, &request.object), namespace(registry, request));
        let around = Surroundings { views: &views, namespace: &namespace, authorize: Some(&asking(&server.authorizer, request.caller)) };
        let settled = pintle_policies::validate(&met, around);
        sum.warnings.extend(settled.warnings);
        settled.audit.iter().for_each(|(key, value)| audit::annotate(key, value));
        sum.refused = settled.refused.map(|refusal| {
            let message = ApiError::forbidden(&request.target.resource, &request.target.name, &refusal.message).message;
            Failure { code: refusal.code, reason: refusal.reason, message }
        });
        sum
    }
}

/// Note in the status of validating policies what their expressions get wrong about types.
async fn check_types(registry: &Registry) {
    let schema = registry.schema();
    let named = |resource: Arc<ResourceInfo>| {
        let document = openapi::v3(&schema, &resource.group, &resource.version)?;
        let types = schema_of(&serde_json::from_slice(&document).ok()?, &resource.group, &resource.version, &resource.kind)?;
        Some((format!("{}, Kind={}", resource.api_version(), resource.kind), types))
    };
    let (policies, _) = registry.list_index(&ResourceKey::new(GROUP, KINDS[1][0]), &Index::Namespace, "");
    for policy in policies.iter().filter_map(|policy| policy.value().ok()) {
        let (generation, spec) = (&policy["metadata"]["generation"], &policy["spec"]);
        let name = policy["metadata"]["name"].as_str().unwrap_or_default();
        let Ok(target) = registry.resolve(GROUP, "v1", KINDS[1][0], "status", "", name) else { continue };
        if policy["status"]["observedGeneration"] == *generation {
            continue;
        }
        let kinds = types_named(spec).into_iter().filter_map(|(group, version, plural)| named(registry.resource(group, version, plural)?));
        let kind = |key: &str| spec["paramKind"][key].as_str().unwrap_or_default();
        let params = registry.resource_for_kind(kind("apiVersion"), kind("kind")).and_then(named).map(|(_, types)| types);
        let checked = type_checking(spec, &kinds.collect::<Vec<_>>(), &params.unwrap_or_default());
        let status = json!({"status": {"observedGeneration": generation, "typeChecking": checked}}).to_string();
        let written = registry.patch(&Caller::kernel(), &target, Patch::Merge(status.into()), &WriteOptions::default()).await;
        if let Err(error) = written {
            tracing::debug!(policy = name, %error, "the status of a policy is not written");
        }
    }
}

/// The Namespace of the request's object.
fn namespace(registry: &Registry, request: &AdmissionRequest<'_>) -> Value {
    let found = registry.get_cached(&ResourceKey::new("", "namespaces"), "", &request.target.namespace);
    found.and_then(|namespace| namespace.value().ok()).unwrap_or_default()
}

fn views<P>(met: &[Met<'_, P, Matching>], request: &AdmissionRequest<'_>, object: &[u8]) -> Views {
    let mut views = Views::new();
    for met in met {
        views.entry(met.version.clone()).or_insert_with(|| view_of(review_of(request, object, &met.version)));
    }
    views
}

/// The policies that a request meets; its object is `object`.
fn met<'l, P>(
    registry: &Registry,
    policies: &'l [Bound<P, Matching>],
    request: &AdmissionRequest<'_>,
    object: &[u8],
) -> Vec<Met<'l, P, Matching>> {
    let target = request.target;
    let name = (&*target.resource, &*target.subresource, Some(&*target.name));
    let meets = |matching: &Matching| {
        matching.version(registry, name, request.operation).filter(|_| matching.selectors.select(registry, request, object))
    };
    let mut found = Vec::new();
    for policy in policies {
        let Some(version) = meets(&policy.matching) else { continue };
        for binding in policy.bindings.iter().filter(|binding| binding.matching.as_ref().is_none_or(|matching| meets(matching).is_some())) {
            let params = params(registry, policy, binding, &target.namespace);
            let each = params.map_or_else(|why| vec![Err(why)], |all| all.into_iter().map(Ok).collect());
            found.extend(each.into_iter().map(|params| Met { policy, binding, version: version.clone(), params }));
        }
    }
    found
}

/// The parameter objects of a binding; one null where there are to be none.
fn params<P>(registry: &Registry, policy: &Bound<P, Matching>, binding: &Binding<Matching>, namespace: &str) -> Result<Vec<Value>, String> {
    let Some((api_version, kind)) = param_kind(policy, binding) else { return Ok(vec![Value::Null]) };
    let resource = registry.resource_for_kind(api_version, kind);
    let resource = resource.ok_or_else(|| format!("paramKind kind `{api_version}, Kind={kind}` not known"))?;
    let found = match binding.place(resource.namespaced(), namespace)? {
        (namespace, "") => {
            let selector = LabelSelector::from_object(&binding.reference["selector"]).map_err(|error| error.message)?;
            let (all, _) = registry.list_index(resource.key(), &Index::Namespace, namespace);
            all.into_iter().filter(|object| selector.matches_with(|label| object.meta().label(label))).collect()
        }
        (namespace, name) => Vec::from_iter(registry.get_cached(resource.key(), namespace, name)),
    };
    if found.is_empty() {
        return binding.not_found();
    }
    let read = |object: &Arc<Object>| {
        let mut value = object.value().ok()?;
        value["apiVersion"] = api_version.into();
        Some(value)
    };
    Ok(found.iter().filter_map(read).collect())
}

impl Lists {
    fn new(registry: &Registry) -> Self {
        // Objects without a namespace are under the empty one, in the order of their names.
        let all = |kind: &str| -> Vec<Value> {
            let (objects, _) = registry.list_index(&ResourceKey::new(GROUP, kind), &Index::Namespace, "");
            objects.iter().filter_map(|object| object.value().ok()).collect()
        };
        let matching = |object: &Value| Matching::new(object, "resourceRules");
        let [[mutating, mutators], [validating, validators]] = KINDS.map(|kinds| kinds.map(all));
        Self {
            mutating: bound(&mutating, &mutators, MutatingPolicy::new, matching),
            validating: bound(&validating, &validators, ValidatingPolicy::new, matching),
        }
    }
}

impl Admission for Policies {
    fn wants(&self, resource: &ResourceInfo, subresource: &str, operation: Operation, phase: Phase) -> bool {
        self.before.as_ref().is_some_and(|judges| judges.wants(resource, subresource, operation, phase))
            || self.wanted(resource, subresource, operation, phase)
    }

    fn mutate<'a>(&'a self, request: &'a AdmissionRequest<'a>) -> BoxFuture<'a, Verdict> {
        Box::pin(self.mutate_all(request))
    }

    fn validate<'a>(&'a self, request: &'a AdmissionRequest<'a>) -> BoxFuture<'a, Verdict> {
        Box::pin(self.validate_all(request))
    }
}
