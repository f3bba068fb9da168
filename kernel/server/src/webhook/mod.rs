//! Webhooks: other people's judges, asked over HTTPS after the modules; and, in `conversion`, who converts custom resources.
//!
//! The registered configurations are followed from the registry and kept compiled, so a write that no webhook wants costs one look at a list. Order, as
//! upstream: modules and policies edit, then mutating webhooks one after the other (once more those that asked for it, when a later one edited); modules
//! and policies judge, then validating webhooks all at once. Webhooks never judge the objects that register judges, nor what the kernel does on its own account: it must start
//! without the pods that serve them.
//!
//! Facts: <https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/>.

mod config;
mod conversion;
mod review;

use std::sync::{Arc, Weak};

use bytes::Bytes;
use futures::future::{BoxFuture, join_all};
use parking_lot::RwLock;
use pintle_registry::{
    Admission, AdmissionRequest, DryRun, Failure, Index, Operation, Phase, Registry, ResourceInfo, ResourceKey, SubscriptionFilter,
    Verdict, edited, review_of,
};
use serde_json::Value;

use self::config::Webhook;
use self::conversion::Conversions;
use crate::identity::authz::asking;
use crate::outbound::https::Connections;
use crate::server::Shared;

const GROUP: &str = "admissionregistration.k8s.io";
/// The kinds that register webhooks, in the order of the phases.
const KINDS: [&str; 2] = ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"];

/// The webhooks of each phase, in the order of their configurations' names.
type Lists = [Vec<Arc<Webhook>>; 2];

/// Judges by who judged before, then by webhooks.
pub(crate) struct Webhooks {
    server: Weak<Shared>,
    /// Who judges before them: policies, and before these modules.
    before: Option<Arc<dyn Admission>>,
    lists: RwLock<Arc<Lists>>,
    connections: Connections,
}

impl Webhooks {
    /// Put them behind who judges already, and follow the configurations until the server stops.
    pub(crate) fn install(server: &Arc<Shared>) {
        let registry = server.registry.clone();
        let keys = KINDS.map(|kind| ResourceKey::new(GROUP, kind));
        let mut changes = registry.subscribe(SubscriptionFilter::Resources(keys.to_vec()));
        let webhooks = Arc::new(Webhooks {
            server: Arc::downgrade(server),
            before: registry.admission(),
            lists: RwLock::new(Arc::new(lists(&registry))),
            connections: Connections::default(),
        });
        registry.set_admission(webhooks.clone());
        registry.set_converter(Arc::new(Conversions::new(server)));
        let mut stopping = server.stopping();
        server.tasks.spawn(async move {
            loop {
                tokio::select! {
                    change = changes.next() => if change.is_none() { return },
                    () = stopping.wait() => return,
                }
                while changes.try_next().is_some() {}
                *webhooks.lists.write() = Arc::new(lists(&registry));
            }
        });
    }

    /// The webhooks that want this request.
    fn asked_by(&self, request: &AdmissionRequest<'_>, phase: Phase) -> Vec<Arc<Webhook>> {
        let target = request.target;
        if request.caller.is_kernel() { Vec::new() } else { self.wanting(&target.resource, &target.subresource, request.operation, phase) }
    }

    fn wanting(&self, resource: &ResourceInfo, subresource: &str, operation: Operation, phase: Phase) -> Vec<Arc<Webhook>> {
        let lists = self.lists.read().clone();
        if resource.group == GROUP {
            return Vec::new();
        }
        let list = &lists[usize::from(phase == Phase::Validating)];
        let Some(server) = self.server.upgrade().filter(|_| !list.is_empty()) else { return Vec::new() };
        let wants =
            |webhook: &&Arc<Webhook>| webhook.matching.version(&server.registry, (resource, subresource, None), operation).is_some();
        list.iter().filter(wants).cloned().collect()
    }

    /// Ask one. `None`: its selectors or conditions leave the request alone.
    async fn ask(&self, server: &Arc<Shared>, webhook: &Webhook, request: &AdmissionRequest<'_>, object: &Bytes) -> Option<Verdict> {
        if !webhook.matching.selectors.select(&server.registry, request, object) {
            return None;
        }
        let target = request.target;
        let version = webhook.matching.version(&server.registry, (&target.resource, &target.subresource, None), request.operation)?;
        let body = review::question(review_of(request, object, &version));
        match webhook.conditions.hold(&body["request"], Some(&asking(&server.authorizer, request.caller))) {
            Ok(true) => {}
            Ok(false) => return None,
            Err(why) => return Some(webhook.failed(&why)),
        }
        if request.dry_run == DryRun::All && !webhook.dry_run_safe {
            let message = format!("admission webhook {:?} does not support dry run", webhook.name);
            return Some(Verdict { refused: Some(Failure { code: 400, reason: "BadRequest".into(), message }), ..Verdict::default() });
        }
        let answer = self.connections.post(server, &webhook.callee, &body, webhook.timeout).await;
        let answer = answer.map_err(|why| format!("failed to call webhook: {why}"));
        Some(match answer.and_then(|answer| review::read(&webhook.name, &body, &answer, object)) {
            Ok(verdict) => verdict,
            Err(why) => webhook.failed(&why),
        })
    }

    async fn mutate_all(&self, request: &AdmissionRequest<'_>) -> Verdict {
        let mut sum = judged(self.before.as_ref(), request, Phase::Mutating).await;
        let webhooks = self.asked_by(request, Phase::Mutating);
        let Some(server) = self.server.upgrade().filter(|_| sum.refused.is_none() && !webhooks.is_empty()) else { return sum };
        let mut object = match edited(&request.object, &sum.edits) {
            Ok(object) => object,
            Err(why) => return Verdict { refused: Some(Failure { code: 500, reason: "InternalError".into(), message: why }), ..sum },
        };
        // How many edits there were when each had been asked.
        let mut seen = vec![usize::MAX; webhooks.len()];
        for round in 0..2 {
            for (index, webhook) in webhooks.iter().enumerate() {
                if round == 1 && !(webhook.reinvoke && sum.edits.len() > seen[index]) {
                    continue;
                }
                let Some(verdict) = self.ask(&server, webhook, request, &object).await else { continue };
                sum.warnings.extend(verdict.warnings);
                sum.refused = verdict.refused;
                if sum.refused.is_none() && !verdict.edits.is_empty() {
                    match edited(&object, &verdict.edits) {
                        Ok(next) => {
                            object = next;
                            sum.edits.extend(verdict.edits);
                        }
                        Err(why) => sum.refused = webhook.failed(&why).refused,
                    }
                }
                if sum.refused.is_some() {
                    return sum;
                }
                seen[index] = sum.edits.len();
            }
        }
        sum
    }

    async fn validate_all(&self, request: &AdmissionRequest<'_>) -> Verdict {
        let mut sum = judged(self.before.as_ref(), request, Phase::Validating).await;
        let webhooks = self.asked_by(request, Phase::Validating);
        let Some(server) = self.server.upgrade().filter(|_| sum.refused.is_none() && !webhooks.is_empty()) else { return sum };
        let answers = join_all(webhooks.iter().map(|webhook| self.ask(&server, webhook, request, &request.object))).await;
        for verdict in answers.into_iter().flatten() {
            sum.warnings.extend(verdict.warnings);
            sum.refused = sum.refused.or(verdict.refused);
        }
        sum
    }
}

/// What those say who judge before somebody.
pub(crate) async fn judged(before: Option<&Arc<dyn Admission>>, request: &AdmissionRequest<'_>, phase: Phase) -> Verdict {
    let target = request.target;
    match before.filter(|judges| judges.wants(&target.resource, &target.subresource, request.operation, phase)) {
        None => Verdict::allowed(),
        Some(judges) if phase == Phase::Mutating => judges.mutate(request).await,
        Some(judges) => judges.validate(request).await,
    }
}

/// Every registered webhook, compiled.
fn lists(registry: &Registry) -> Lists {
    KINDS.map(|kind| {
        // Objects without a namespace are under the empty one, in the order of their names.
        let (objects, _) = registry.list_index(&ResourceKey::new(GROUP, kind), &Index::Namespace, "");
        objects.iter().filter_map(|object| object.value().ok()).flat_map(|value| webhooks_of(&value)).map(Arc::new).collect()
    })
}

fn webhooks_of(configuration: &Value) -> Vec<Webhook> {
    configuration["webhooks"].as_array().into_iter().flatten().map(Webhook::new).collect()
}

impl Admission for Webhooks {
    fn wants(&self, resource: &ResourceInfo, subresource: &str, operation: Operation, phase: Phase) -> bool {
        self.before.as_ref().is_some_and(|judges| judges.wants(resource, subresource, operation, phase))
            || !self.wanting(resource, subresource, operation, phase).is_empty()
    }

    fn mutate<'a>(&'a self, request: &'a AdmissionRequest<'a>) -> BoxFuture<'a, Verdict> {
        Box::pin(self.mutate_all(request))
    }

    fn validate<'a>(&'a self, request: &'a AdmissionRequest<'a>) -> BoxFuture<'a, Verdict> {
        Box::pin(self.validate_all(request))
    }
}
