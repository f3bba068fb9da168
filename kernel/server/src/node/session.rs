//! What a machine may do: every method of `NodeSession`, through the registry, with the node's identity and no more than `NodeAuthority` allows.

use std::sync::Arc;

use capnp::capability::Rc as CapRc;
use pintle_api::{ApiError, Schema};
use pintle_registry::{Body, Caller, DeleteOptions, Object, Patch, ResourceKey, WriteOptions};
use pintle_wit::common_capnp::{self as common, failure, object_ref, outcome};
use pintle_wit::node_capnp::node_session as rpc;
use pintle_wit::objects_capnp::row_sink;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::status;
use super::subscription::{self, Watched};
use crate::identity::authz;
use crate::identity::node::{LEASE_NAMESPACE, NodeAuthority};
use crate::identity::rbac::Action;
use crate::reviews;
use crate::server::Shared;

/// Pod statuses of one call.
const STATUSES_MAX: u32 = 1000;
/// Largest Event.
const EVENT_BYTES_MAX: usize = 64 * 1024;
/// What a machine is told of other nodes.
const NODE_FIELDS: [&str; 5] = ["/metadata/name", "/metadata/labels", "/spec/podCIDR", "/spec/podCIDRs", "/status/addresses"];

/// What a machine follows of the whole cluster, for its network and its volumes: group, resource, and which fields (none: whole objects).
const NETWORK: [(&str, &str, &[&str]); 8] = [
    ("", "services", &[]),
    ("discovery.k8s.io", "endpointslices", &[]),
    ("networking.k8s.io", "networkpolicies", &[]),
    ("", "namespaces", &["/metadata/name", "/metadata/labels"]),
    ("", "pods", &POD_FIELDS),
    ("certificates.k8s.io", "clustertrustbundles", &[]),
    ("", "persistentvolumes", &[]),
    ("pintle.dev", "routetables", &[]),
];
/// What policies select pods by.
const POD_FIELDS: [&str; 6] = ["/metadata", "/spec/nodeName", "/spec/hostNetwork", "/spec/containers", "/status/phase", "/status/podIPs"];

/// What every method ends with.
type Answer = Result<(), capnp::Error>;

/// A machine's session.
pub(super) struct Session {
    shared: Arc<Shared>,
    node: String,
    caller: Caller,
    ended: CancellationToken,
}

/// Names an object; read from the machine.
struct Reference {
    group: String,
    resource: String,
    namespace: String,
    name: String,
    uid: String,
}

impl Reference {
    fn read(reader: object_ref::Reader<'_>) -> Result<Reference, capnp::Error> {
        Ok(Reference {
            group: reader.get_group()?.to_string()?,
            resource: reader.get_resource()?.to_string()?,
            namespace: reader.get_namespace()?.to_string()?,
            name: reader.get_name()?.to_string()?,
            uid: reader.get_uid()?.to_string()?,
        })
    }
}

impl Session {
    pub(super) fn new(shared: Arc<Shared>, node: String, caller: Caller, ended: CancellationToken) -> Session {
        Session { shared, node, caller, ended }
    }

    /// A session that a newer one has replaced can do nothing more.
    fn current(&self) -> Result<(), capnp::Error> {
        if self.ended.is_cancelled() { Err(capnp::Error::disconnected("this session was replaced by a newer one".into())) } else { Ok(()) }
    }

    fn check(&self, action: &Action<'_>) -> Result<(), ApiError> {
        if NodeAuthority::named(&self.node).allows(&self.shared.registry, action) {
            return Ok(());
        }
        let why = authz::reason(&self.caller, action);
        Err(ApiError::from_code(403, "Forbidden", format!("{} {:?} is forbidden: {why}", action.resource, action.name)))
    }

    /// A pod that is bound to this node, by its reference.
    fn own_pod(&self, pod: &Reference) -> Result<Arc<Object>, ApiError> {
        let object = self.shared.registry.get_cached(&ResourceKey::new("", "pods"), &pod.namespace, &pod.name);
        let object = object.filter(|object| object.field("spec.nodeName") == Some(&self.node));
        let object = object.filter(|object| pod.uid.is_empty() || *object.meta().uid == *pod.uid);
        object.ok_or_else(|| not_found("pods", &pod.name))
    }

    fn follow(&self, watched: Watched, sink: row_sink::Client) -> common::subscription::Client {
        subscription::begin(self.shared.clone(), watched, sink, self.ended.clone())
    }

    /// Creates an object of a built-in kind, version v1 of its group.
    async fn create(&self, group: &str, plural: &str, namespace: &str, object: Value) -> Result<Arc<Object>, ApiError> {
        let target = self.shared.registry.resolve(group, "v1", plural, "", namespace, "")?;
        self.shared
            .registry
            .create(&self.caller, &target, Body::Value(object), &WriteOptions::default())
            .await
            .map(|written| written.object)
    }

    /// Whom an object belongs to that is this node's.
    fn as_owner(&self) -> Result<Value, ApiError> {
        let node = reviews::object(&self.shared.registry, "nodes", "", &self.node)?;
        Ok(json!({ "apiVersion": "v1", "kind": "Node", "name": self.node, "uid": &*node.meta().uid }))
    }

    async fn renew(&self) -> Result<(), ApiError> {
        let registry = &self.shared.registry;
        let renew_time = micro_time();
        let exists = registry.get_cached(&ResourceKey::new("coordination.k8s.io", "leases"), LEASE_NAMESPACE, &self.node).is_some();
        if exists {
            let target = registry.resolve("coordination.k8s.io", "v1", "leases", "", LEASE_NAMESPACE, &self.node)?;
            let seconds = self.shared.cluster.lease_seconds;
            let patch =
                json!({ "spec": { "renewTime": renew_time, "holderIdentity": self.node, "leaseDurationSeconds": seconds } }).to_string();
            registry.patch(&self.caller, &target, Patch::Merge(patch.into()), &WriteOptions::default()).await?;
            return Ok(());
        }
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": { "name": self.node, "namespace": LEASE_NAMESPACE, "ownerReferences": [self.as_owner()?] },
            "spec": { "holderIdentity": self.node, "leaseDurationSeconds": self.shared.cluster.lease_seconds, "renewTime": renew_time },
        });
        self.create("coordination.k8s.io", "leases", LEASE_NAMESPACE, lease).await.map(drop)
    }

    async fn update_pod(&self, pod: &Reference, text: &[u8]) -> Result<Arc<Object>, ApiError> {
        let object = self.own_pod(pod)?;
        let said = parse(text, "a pod's status")?;
        status::update_pod(&self.shared.registry, &self.caller, &pod.namespace, &pod.name, &object.meta().uid, &said).await
    }

    async fn remove(&self, pod: &Reference) -> Result<(), ApiError> {
        let object = self.own_pod(pod)?;
        let target = self.shared.registry.resolve("", "v1", "pods", "", &pod.namespace, &pod.name)?;
        let options = DeleteOptions {
            grace_period_seconds: Some(0),
            precondition_uid: Some(object.meta().uid.to_string()),
            ..DeleteOptions::default()
        };
        self.shared.registry.delete(&self.caller, &target, &options).await.map(drop)
    }

    fn read(&self, of: &Reference) -> Result<Arc<Object>, ApiError> {
        let action = Action {
            verb: "get",
            is_resource: true,
            group: &of.group,
            resource: &of.resource,
            namespace: &of.namespace,
            name: &of.name,
            ..Action::default()
        };
        self.check(&action)?;
        let object = self.shared.registry.get_cached(&ResourceKey::new(of.group.as_str(), of.resource.as_str()), &of.namespace, &of.name);
        let object = object.filter(|object| of.uid.is_empty() || *object.meta().uid == *of.uid);
        object.ok_or_else(|| match Schema::builtin().resource(&of.group, "v1", &of.resource) {
            Some(resource) => ApiError::not_found(resource, &of.name),
            None => ApiError::no_route(),
        })
    }

    fn token(&self, pod: &Reference, account: &str, audiences: &[String], seconds: u64) -> Result<Value, ApiError> {
        let object = self.own_pod(pod)?;
        let value = object.value().map_err(|error| ApiError::internal(format_args!("stored text: {error}")))?;
        if value.pointer("/spec/serviceAccountName").and_then(Value::as_str).unwrap_or("default") != account {
            return Err(ApiError::from_code(403, "Forbidden", format!("pod {:?} does not run as service account {account:?}", pod.name)));
        }
        let mut spec = json!({ "boundObjectRef": { "kind": "Pod", "apiVersion": "v1", "name": pod.name, "uid": &*object.meta().uid }, "audiences": audiences });
        if seconds > 0 {
            spec["expirationSeconds"] = json!(seconds);
        }
        reviews::issue_token(&self.shared, &pod.namespace, account, json!({ "spec": spec }))
    }

    /// A certificate request for a pod of this node; who asks for whom is not for the machine to say.
    async fn certificate(&self, pod: &Reference, text: &[u8]) -> Result<Arc<Object>, ApiError> {
        let (object, said) = (self.own_pod(pod)?, parse(text, "a certificate request")?);
        let value = object.value().map_err(|error| ApiError::internal(format_args!("stored text: {error}")))?;
        let name = value.pointer("/spec/serviceAccountName").and_then(Value::as_str).unwrap_or("default");
        let registry = &self.shared.registry;
        let account = reviews::object(registry, "serviceaccounts", &pod.namespace, name)?;
        let node = reviews::object(registry, "nodes", "", &self.node)?;
        let uid = &*object.meta().uid;
        let mut spec = json!({
            "podName": pod.name, "podUID": uid, "serviceAccountName": name, "serviceAccountUID": &*account.meta().uid,
            "nodeName": self.node, "nodeUID": &*node.meta().uid,
        });
        for key in ["signerName", "maxExpirationSeconds", "stubPKCS10Request", "unverifiedUserAnnotations"] {
            spec[key] = said[key].clone();
        }
        let owner = json!({ "apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": uid });
        let metadata = json!({ "generateName": "req-", "namespace": pod.namespace, "ownerReferences": [owner] });
        let request =
            json!({ "apiVersion": "certificates.k8s.io/v1", "kind": "PodCertificateRequest", "metadata": metadata, "spec": spec });
        self.create("certificates.k8s.io", "podcertificaterequests", &pod.namespace, request).await
    }

    /// The API's picture of a pod that the machine runs by itself; the node owns it, and it goes with the node.
    async fn mirror(&self, text: &[u8]) -> Result<Arc<Object>, ApiError> {
        let mut pod = parse(text, "a mirror pod")?;
        NodeAuthority::named(&self.node).check_mirror(&pod).map_err(|why| ApiError::from_code(403, "Forbidden", why))?;
        let mut owner = self.as_owner()?;
        owner["controller"] = json!(true);
        pod["metadata"]["ownerReferences"] = json!([owner]);
        let namespace = pod.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or("default").to_owned();
        self.create("", "pods", &namespace, pod).await
    }

    /// Create the event; one of that name is replaced.
    async fn record(&self, text: &[u8]) -> Result<(), ApiError> {
        if text.len() > EVENT_BYTES_MAX {
            return Err(ApiError::too_large(EVENT_BYTES_MAX));
        }
        let mut event = parse(text, "an event")?;
        let field = |key: &str| event.pointer(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (namespace, name) = (field("/metadata/namespace"), field("/metadata/name"));
        let registry = &self.shared.registry;
        if registry.get_cached(&ResourceKey::new("", "events"), &namespace, &name).is_some() {
            let target = registry.resolve("", "v1", "events", "", &namespace, &name)?;
            if let Some(metadata) = event["metadata"].as_object_mut() {
                metadata.remove("resourceVersion");
                metadata.remove("uid");
            }
            return registry.update(&self.caller, &target, Body::Value(event), &WriteOptions::default()).await.map(drop);
        }
        self.create("", "events", &namespace, event).await.map(drop)
    }
}

impl rpc::Server for Session {
    async fn renew_lease(self: CapRc<Self>, _: rpc::RenewLeaseParams, mut results: rpc::RenewLeaseResults) -> Answer {
        self.current()?;
        write_failure(self.renew().await, || results.get().init_failure());
        Ok(())
    }

    async fn update_node_status(
        self: CapRc<Self>,
        params: rpc::UpdateNodeStatusParams,
        mut results: rpc::UpdateNodeStatusResults,
    ) -> Answer {
        self.current()?;
        let said = parse(params.get()?.get_status()?, "a node's status");
        let updated = match said {
            Ok(said) => status::update_node(&self.shared.registry, &self.caller, &self.node, &said).await,
            Err(error) => Err(error),
        };
        write_outcome(updated.as_ref().map(|object| &object.body()[..]), results.get().init_outcome());
        Ok(())
    }

    async fn watch_pods(self: CapRc<Self>, params: rpc::WatchPodsParams, mut results: rpc::WatchPodsResults) -> Answer {
        self.current()?;
        let watched = Watched { group: "", resource: "pods", field_selector: format!("spec.nodeName={}", self.node), fields: &[] };
        results.get().set_subscription(self.follow(watched, params.get()?.get_sink()?));
        Ok(())
    }

    async fn watch_nodes(self: CapRc<Self>, params: rpc::WatchNodesParams, mut results: rpc::WatchNodesResults) -> Answer {
        self.current()?;
        let watched = Watched { group: "", resource: "nodes", field_selector: String::new(), fields: &NODE_FIELDS };
        results.get().set_subscription(self.follow(watched, params.get()?.get_sink()?));
        Ok(())
    }

    async fn watch_network(self: CapRc<Self>, params: rpc::WatchNetworkParams, mut results: rpc::WatchNetworkResults) -> Answer {
        self.current()?;
        let asked = params.get()?.get_resource()?.to_string()?;
        let Some((group, resource, fields)) = NETWORK.into_iter().find(|(_, resource, _)| *resource == asked) else {
            let refused = ApiError::from_code(403, "Forbidden", format!("a node's network does not follow {asked:?}"));
            fill(&refused, results.get().init_failure());
            return Ok(());
        };
        let watched = Watched { group, resource, field_selector: String::new(), fields };
        results.get().set_subscription(self.follow(watched, params.get()?.get_sink()?));
        Ok(())
    }

    async fn update_pod_statuses(
        self: CapRc<Self>,
        params: rpc::UpdatePodStatusesParams,
        mut results: rpc::UpdatePodStatusesResults,
    ) -> Answer {
        self.current()?;
        let statuses = params.get()?.get_statuses()?;
        if statuses.len() > STATUSES_MAX {
            return Err(capnp::Error::failed(format!("more than {STATUSES_MAX} statuses")));
        }
        let pods = statuses
            .iter()
            .map(|status| Ok((Reference::read(status.get_pod()?)?, status.get_status()?)))
            .collect::<Result<Vec<_>, capnp::Error>>()?;
        // Together: the store commits them as one.
        let updated = futures::future::join_all(pods.iter().map(|(pod, status)| self.update_pod(pod, status))).await;
        let mut outcomes = results.get().init_outcomes(updated.len() as u32);
        for (index, updated) in updated.iter().enumerate() {
            write_outcome(updated.as_ref().map(|object| &object.body()[..]), outcomes.reborrow().get(index as u32));
        }
        Ok(())
    }

    async fn remove_pod(self: CapRc<Self>, params: rpc::RemovePodParams, mut results: rpc::RemovePodResults) -> Answer {
        self.current()?;
        let pod = Reference::read(params.get()?.get_pod()?)?;
        write_failure(self.remove(&pod).await, || results.get().init_failure());
        Ok(())
    }

    async fn get(self: CapRc<Self>, params: rpc::GetParams, mut results: rpc::GetResults) -> Answer {
        self.current()?;
        let object = self.read(&Reference::read(params.get()?.get_ref()?)?);
        write_outcome(object.as_ref().map(|object| &object.body()[..]), results.get().init_outcome());
        Ok(())
    }

    async fn service_account_token(
        self: CapRc<Self>,
        params: rpc::ServiceAccountTokenParams,
        mut results: rpc::ServiceAccountTokenResults,
    ) -> Answer {
        self.current()?;
        let params = params.get()?;
        let pod = Reference::read(params.get_pod()?)?;
        let audiences = params.get_audiences()?.iter().map(|text| Ok(text?.to_string()?)).collect::<Result<Vec<String>, capnp::Error>>()?;
        let account = params.get_service_account()?.to_string()?;
        let token = self.token(&pod, &account, &audiences, params.get_expiration_seconds()).map(|value| value.to_string());
        write_outcome(token.as_ref().map(|text| text.as_bytes()), results.get().init_outcome());
        Ok(())
    }

    async fn request_certificate(
        self: CapRc<Self>,
        params: rpc::RequestCertificateParams,
        mut results: rpc::RequestCertificateResults,
    ) -> Answer {
        self.current()?;
        let params = params.get()?;
        let made = self.certificate(&Reference::read(params.get_pod()?)?, params.get_request()?).await;
        write_outcome(made.as_ref().map(|object| &object.body()[..]), results.get().init_outcome());
        Ok(())
    }

    async fn create_mirror_pod(self: CapRc<Self>, params: rpc::CreateMirrorPodParams, mut results: rpc::CreateMirrorPodResults) -> Answer {
        self.current()?;
        let made = self.mirror(params.get()?.get_pod()?).await;
        write_outcome(made.as_ref().map(|object| &object.body()[..]), results.get().init_outcome());
        Ok(())
    }

    async fn record_event(self: CapRc<Self>, params: rpc::RecordEventParams, mut results: rpc::RecordEventResults) -> Answer {
        self.current()?;
        let recorded = self.record(params.get()?.get_event()?).await;
        write_failure(recorded, || results.get().init_failure());
        Ok(())
    }
}

fn parse(text: &[u8], what: &str) -> Result<Value, ApiError> {
    let value: Value = serde_json::from_slice(text).map_err(|error| ApiError::bad_request(format!("{what}: {error}")))?;
    if value.is_object() { Ok(value) } else { Err(ApiError::bad_request(format!("{what} is not an object"))) }
}

/// 404 for an object of the core group.
pub(super) fn not_found(resource: &str, name: &str) -> ApiError {
    Schema::builtin().resource("", "v1", resource).map_or_else(ApiError::no_route, |resource| ApiError::not_found(resource, name))
}

fn micro_time() -> String {
    format!("{:.6}", jiff::Timestamp::now())
}

fn write_outcome(outcome: Result<&[u8], &ApiError>, mut to: outcome::Builder<'_>) {
    match outcome {
        Ok(object) => to.set_object(object),
        Err(error) => fill(error, to.init_failure()),
    }
}

fn write_failure<'a>(outcome: Result<(), ApiError>, to: impl FnOnce() -> failure::Builder<'a>) {
    if let Err(error) = outcome {
        fill(&error, to());
    }
}

fn fill(error: &ApiError, mut to: failure::Builder<'_>) {
    to.set_code(error.code);
    to.set_reason(error.reason.as_str());
    to.set_message(error.message.as_str());
    let seconds = error.details.as_ref().map_or(0, |details| details.retry_after_seconds);
    to.set_retry_after_millis(seconds.saturating_mul(1000));
}
