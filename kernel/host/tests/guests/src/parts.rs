#![allow(dead_code, reason = "not every capability that is granted is used")]
//! The honest parts: a controller that makes one child for each parent, an admission plugin, a scheduler.

use crate::{config, configure, mode, sins};
use capnp::{message, serialize, traits::HasTypeId};
use pintle_wit::{admission_capnp as admission, controller_capnp as controller, module_capnp as module, objects_capnp as objects, scheduler_capnp as scheduler};
use serde_json::{json, Value};
use std::{cell::{Cell, RefCell}, collections::BTreeMap, rc::Rc};

thread_local! {
    /// Which instance this is, and how many reviews it has answered.
    static GENERATION: Cell<u64> = const { Cell::new(0) };
    static ANSWERED: Cell<u64> = const { Cell::new(0) };
    /// How many pods it knows to be bound.
    static BOUND: Cell<u64> = const { Cell::new(0) };
}

#[derive(Default)]
pub struct Part {
    pub exports: RefCell<Vec<Granted>>,
}

#[derive(Clone)]
pub enum Granted {
    Reader(String, objects::object_reader::Client),
    Writer(String, objects::object_writer::Client),
    Timer(module::timer::Client),
    Logger(module::logger::Client),
}

impl module::module::Server for Part {
    async fn start(self: Rc<Self>, params: module::module::StartParams, mut results: module::module::StartResults) -> Result<(), capnp::Error> {
        let hello = params.get()?.get_hello()?;
        configure(hello.get_config()?);
        GENERATION.set(hello.get_generation());
        for export in hello.get_exports()? {
            let name = export.get_name()?.to_string()?;
            let granted = match export.which()? {
                module::export::ObjectReader(c) => Granted::Reader(name, c?),
                module::export::ObjectWriter(c) => Granted::Writer(name, c?),
                module::export::Timer(c) => Granted::Timer(c?),
                module::export::Logger(c) => Granted::Logger(c?),
                module::export::Unspecified(()) => continue,
            };
            self.exports.borrow_mut().push(granted);
        }
        sins::on_start(&mode());
        let mut info = results.get().init_info();
        info.set_api_level(1);
        info.set_sdk("host-test-guest");
        let mut ids = info.init_interfaces(3);
        ids.set(0, controller::controller::Client::TYPE_ID);
        ids.set(1, admission::admission::Client::TYPE_ID);
        ids.set(2, scheduler::scheduler::Client::TYPE_ID);
        Ok(())
    }

    async fn controller(self: Rc<Self>, _: module::module::ControllerParams, mut results: module::module::ControllerResults) -> Result<(), capnp::Error> {
        results.get().set_controller(capnp_rpc::new_client(Reconciler { part: self.clone() }));
        Ok(())
    }
}

struct Reconciler {
    part: Rc<Part>,
}

impl controller::controller::Server for Reconciler {
    async fn reconcile(self: Rc<Self>, params: controller::controller::ReconcileParams, mut results: controller::controller::ReconcileResults) -> Result<(), capnp::Error> {
        let requests = params.get()?.get_requests()?;
        sins::on_reconcile(&mode(), &self.part.exports.borrow()).await?;
        let mut out = results.get().init_results(requests.len());
        for (i, request) in requests.iter().enumerate() {
            reconcile(request, out.reborrow().get(i as u32))?;
        }
        Ok(())
    }
}

/// A test overwrites the end of this in the compiled module, to make a version that says something else about what is called odd.
static WORDS: &[u8; 22] = b"pintle-guest-says-one!";

fn words(name: &str) -> &'static str {
    match name.contains("odd") && std::hint::black_box(WORDS).ends_with(b"two!") {
        true => "two",
        false => "one",
    }
}

/// One child ConfigMap (named `child-<parent>`) for each parent, made once, holding the version of the module that made it.
fn reconcile(request: controller::request::Reader, mut result: controller::result::Builder) -> Result<(), capnp::Error> {
    let target = request.get_ref()?;
    let (namespace, name) = (target.get_namespace()?.to_string()?, target.get_name()?.to_string()?);
    if request.get_object()?.is_empty() || !name.starts_with("parent-") {
        return Ok(());
    }
    let parent: Value = serde_json::from_slice(request.get_object()?).map_err(|e| capnp::Error::failed(e.to_string()))?;
    let child = format!("child-{}", &name["parent-".len()..]);
    let mut children = 0;
    for related in request.get_related()? {
        for object in related.get_objects()? {
            let object: Value = serde_json::from_slice(object?).map_err(|e| capnp::Error::failed(e.to_string()))?;
            children += usize::from(object["metadata"]["name"] == child);
        }
    }
    if children > 0 {
        return Ok(());
    }
    let resource = config("childResource").as_str().unwrap_or("configmaps").to_owned();
    let kind = if resource == "secrets" { "Secret" } else { "ConfigMap" };
    let body = json!({
        "apiVersion": "v1", "kind": kind,
        "metadata": {"name": child, "namespace": namespace, "ownerReferences": [{
            "apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": parent["metadata"]["uid"], "controller": true }]},
        "data": if kind == "ConfigMap" { json!({"madeBy": config("version").as_str().unwrap_or("1"), "words": words(&name)}) } else { json!({}) },
    });
    let mut write = result.reborrow().init_writes(1).get(0);
    let mut to = write.reborrow().init_target();
    to.set_resource(&resource);
    to.set_namespace(&namespace);
    to.set_name(&child);
    write.set_create(body.to_string().as_bytes());
    let mut event = result.init_events(1).get(0);
    event.set_reason("ChildMade");
    event.set_message(format!("Made {child}"));
    Ok(())
}

type Hot = fn(&[u8], &mut message::Builder<message::HeapAllocator>) -> Result<(), capnp::Error>;

/// The hot lane: (interface, method) to code.
pub fn hot(iface: u64, method: u16, params: &[u8]) -> Result<Vec<u8>, capnp::Error> {
    let plugin = scheduler::scheduler_plugin::Client::TYPE_ID;
    let table: [(u64, u16, Hot); 13] = [
        (admission::admission::Client::TYPE_ID, 0, review),
        (scheduler::scheduler::Client::TYPE_ID, 0, sync),
        (scheduler::scheduler::Client::TYPE_ID, 1, schedule),
        (plugin, 0, sync),
        (plugin, 3, evaluate),
        (plugin, 4, pre_enqueue),
        (plugin, 6, reserve),
        (plugin, 7, unreserve),
        (plugin, 8, permit),
        (plugin, 9, pre_bind),
        (plugin, 10, sort_keys),
        (plugin, 11, bind),
        (plugin, 12, post_bind),
    ];
    let Some((_, _, run)) = table.iter().find(|(i, m, _)| *i == iface && *m == method) else {
        return Err(capnp::Error::unimplemented("no such method".into()));
    };
    let mut out = message::Builder::new_default();
    run(params, &mut out)?;
    Ok(serialize::write_message_to_words(&out))
}

fn read(mut params: &[u8]) -> Result<message::Reader<serialize::BufferSegments<&[u8]>>, capnp::Error> {
    let mut options = message::ReaderOptions::new();
    options.traversal_limit_in_words(Some(4 << 20));
    serialize::read_message_from_flat_slice(&mut params, options)
}

fn read_message_error(e: serde_json::Error) -> capnp::Error {
    capnp::Error::failed(e.to_string())
}

fn review(params: &[u8], out: &mut message::Builder<message::HeapAllocator>) -> Result<(), capnp::Error> {
    let message = read(params)?;
    let review = message.get_root::<admission::admission::review_params::Reader>()?.get_review()?;
    let mut verdict = out.init_root::<admission::admission::review_results::Builder>().init_verdict();
    let object: Value = if review.get_object()?.is_empty() { Value::Null } else { serde_json::from_slice(review.get_object()?).map_err(read_message_error)? };
    let privileged = object["spec"]["containers"].as_array().is_some_and(|c| c.iter().any(|c| c["securityContext"]["privileged"] == true));
    let forbidden = object["metadata"]["labels"]["forbidden"] == "true";
    verdict.set_allowed(!privileged && !forbidden);
    if privileged || forbidden {
        verdict.reborrow().init_failure().set_message("privileged containers are not allowed");
        return Ok(());
    }
    let mut note = verdict.reborrow().init_audit_annotations(1).get(0);
    note.set_name("judged");
    note.set_value("by the guest");
    let mut warnings = verdict.reborrow().init_warnings(1);
    if mode() == "count" {
        ANSWERED.set(ANSWERED.get() + 1);
        warnings.set(0, format!("{}:{}", GENERATION.get(), ANSWERED.get()));
        return Ok(());
    }
    warnings.set(0, words(object["metadata"]["name"].as_str().unwrap_or("")));
    let label = config("label").as_str().unwrap_or("seen-by").to_owned();
    if review.get_phase()? == admission::Phase::Mutating && object["metadata"]["labels"][&label].is_null() {
        let has_labels = object["metadata"]["labels"].is_object();
        let mut edit = verdict.init_edits(1).get(0);
        edit.set_op(admission::edit::Op::Add);
        edit.set_path(if has_labels { format!("/metadata/labels/{label}") } else { "/metadata/labels".to_owned() });
        edit.set_value(if has_labels { json!("guest") } else { json!({label: "guest"}) }.to_string().as_bytes());
    }
    Ok(())
}

#[derive(Default)]
struct Snapshot {
    generation: u64,
    nodes: BTreeMap<String, u64>,
    pods: BTreeMap<String, String>,
}

thread_local!(static SNAPSHOT: RefCell<Snapshot> = RefCell::default());

fn sync(params: &[u8], out: &mut message::Builder<message::HeapAllocator>) -> Result<(), capnp::Error> {
    let message = read(params)?;
    let delta = message.get_root::<scheduler::scheduler::sync_params::Reader>()?.get_delta()?;
    SNAPSHOT.with(|s| {
        let mut s = s.borrow_mut();
        let stale = delta.get_base_generation() != 0 && delta.get_base_generation() != s.generation;
        out.init_root::<scheduler::scheduler::sync_results::Builder>().set_stale(stale);
        if stale {
            return Ok(());
        }
        if delta.get_base_generation() == 0 {
            *s = Snapshot::default();
        }
        s.generation = delta.get_generation();
        for node in delta.get_nodes()? {
            let node: Value = serde_json::from_slice(node?).map_err(read_message_error)?;
            let room = if node["spec"]["unschedulable"] == true { 0 } else { config("podsPerNode").as_u64().unwrap_or(1000) };
            s.nodes.insert(node["metadata"]["name"].as_str().unwrap_or("").to_owned(), room);
        }
        for gone in delta.get_gone_nodes()? {
            s.nodes.remove(gone?.to_str()?);
        }
        for pod in delta.get_pods()? {
            let pod: Value = serde_json::from_slice(pod?).map_err(read_message_error)?;
            s.pods.insert(pod["metadata"]["uid"].as_str().unwrap_or("").to_owned(), pod["spec"]["nodeName"].as_str().unwrap_or("").to_owned());
        }
        for gone in delta.get_gone_pods()? {
            s.pods.remove(gone?.to_str()?);
        }
        Ok(())
    })
}

fn schedule(params: &[u8], out: &mut message::Builder<message::HeapAllocator>) -> Result<(), capnp::Error> {
    let message = read(params)?;
    let params = message.get_root::<scheduler::scheduler::schedule_params::Reader>()?;
    let mut results = out.init_root::<scheduler::scheduler::schedule_results::Builder>();
    SNAPSHOT.with(|s| {
        let mut s = s.borrow_mut();
        if params.get_generation() != s.generation {
            results.set_stale(true);
            return Ok(());
        }
        let pods = params.get_pods()?;
        let mut decisions = results.init_decisions(pods.len());
        let mut points: BTreeMap<String, i64> = s.nodes.keys().map(|name| (name.clone(), 0)).collect();
        for opinion in params.get_opinions()? {
            for (name, score) in s.nodes.keys().zip(opinion.get_scores()?.iter()) {
                match points.get_mut(name) {
                    _ if score < 0 => drop(points.remove(name)),
                    Some(sum) => *sum += i64::from(score) * i64::from(opinion.get_weight()),
                    None => {}
                }
            }
        }
        for (i, pod) in pods.iter().enumerate() {
            let pod: Value = serde_json::from_slice(pod?).map_err(read_message_error)?;
            let mut decision = decisions.reborrow().get(i as u32);
            let used = |s: &Snapshot, node: &str| s.pods.values().filter(|n| *n == node).count() as u64;
            let best = s.nodes.iter().filter(|(n, room)| points.contains_key(*n) && used(&s, n) < **room);
            let best = match words(pod["metadata"]["name"].as_str().unwrap_or("")) {
                "two" => best.last(),
                _ => best.min_by_key(|(n, _)| (-points[*n], used(&s, n))),
            };
            let best = best.map(|(n, _)| n.clone());
            match best {
                Some(node) => {
                    s.pods.insert(pod["metadata"]["uid"].as_str().unwrap_or("").to_owned(), node.clone());
                    decision.set_node(&node);
                }
                None => decision.set_unschedulable(format!("0/{} nodes are available: {} Too many pods.", s.nodes.len(), s.nodes.len())),
            }
        }
        Ok(())
    })
}

fn pod_of(pod: capnp::Result<&[u8]>) -> Result<Value, capnp::Error> {
    serde_json::from_slice(pod?).map_err(read_message_error)
}

/// A plugin: one node is denied, another preferred.
fn evaluate(params: &[u8], out: &mut message::Builder<message::HeapAllocator>) -> Result<(), capnp::Error> {
    let message = read(params)?;
    let params = message.get_root::<scheduler::scheduler_plugin::evaluate_params::Reader>()?;
    let mut results = out.init_root::<scheduler::scheduler_plugin::evaluate_results::Builder>();
    SNAPSHOT.with(|s| {
        let s = s.borrow();
        if params.get_generation() != s.generation {
            results.set_stale(true);
            return Ok(());
        }
        let pod = pod_of(params.get_pod())?;
        let prefer = config(if words(pod["metadata"]["name"].as_str().unwrap_or("")) == "two" { "preferTwo" } else { "prefer" });
        let mut scores = results.reborrow().init_scores(s.nodes.len() as u32);
        for (i, name) in s.nodes.keys().enumerate() {
            let score = if config("deny") == name.as_str() { -1 } else if prefer == name.as_str() { 100 } else { 0 };
            scores.set(i as u32, score);
        }
        results.init_reasons(1).set(0, "node(s) were denied");
        Ok(())
    })
}

fn pre_enqueue(params: &[u8], out: &mut message::Builder<message::HeapAllocator>) -> Result<(), capnp::Error> {
    let message = read(params)?;
    let pod = pod_of(message.get_root::<scheduler::scheduler_plugin::pre_enqueue_params::Reader>()?.get_pod())?;
    let mut results = out.init_root::<scheduler::scheduler_plugin::pre_enqueue_results::Builder>();
    results.set_refused(if pod["metadata"]["labels"]["held"] == "true" { "it is held" } else { "" });
    Ok(())
}

fn reserve(params: &[u8], out: &mut message::Builder<message::HeapAllocator>) -> Result<(), capnp::Error> {
    let message = read(params)?;
    let pod = pod_of(message.get_root::<scheduler::scheduler_plugin::reserve_params::Reader>()?.get_pod())?;
    let mut results = out.init_root::<scheduler::scheduler_plugin::reserve_results::Builder>();
    results.set_refused(if pod["metadata"]["labels"]["unwanted"] == "true" { "it is not wanted there" } else { "" });
    Ok(())
}

fn unreserve(_: &[u8], out: &mut message::Builder<message::HeapAllocator>) -> Result<(), capnp::Error> {
    out.init_root::<scheduler::scheduler_plugin::unreserve_results::Builder>();
    Ok(())
}

fn permit(params: &[u8], out: &mut message::Builder<message::HeapAllocator>) -> Result<(), capnp::Error> {
    let message = read(params)?;
    let params = message.get_root::<scheduler::scheduler_plugin::permit_params::Reader>()?;
    let pod = pod_of(params.get_pod())?;
    let mut results = out.init_root::<scheduler::scheduler_plugin::permit_results::Builder>();
    if pod["metadata"]["labels"]["forbidden-at-last"] == "true" {
        results.set_refused("it has no permit");
    } else if params.get_waited_millis() < config("permitMillis").as_u64().unwrap_or(0) {
        results.set_wait_millis(5);
    }
    Ok(())
}

fn pre_bind(params: &[u8], out: &mut message::Builder<message::HeapAllocator>) -> Result<(), capnp::Error> {
    let message = read(params)?;
    let params = message.get_root::<scheduler::scheduler_plugin::pre_bind_params::Reader>()?;
    let pod = pod_of(params.get_pod())?;
    let name = format!("bound-{}", pod["metadata"]["name"].as_str().unwrap_or(""));
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "default"}, "data": {"node": params.get_node()?.to_str()?, "bound": BOUND.get().to_string()}});
    let results = out.init_root::<scheduler::scheduler_plugin::pre_bind_results::Builder>();
    let mut write = results.init_writes(1).get(0);
    let mut to = write.reborrow().init_target();
    to.set_resource("configmaps");
    to.set_namespace("default");
    to.set_name(&name);
    write.set_create(body.to_string().as_bytes());
    Ok(())
}

/// Pods go by the names that their labels `turn` have; without one it cannot say.
fn sort_keys(params: &[u8], out: &mut message::Builder<message::HeapAllocator>) -> Result<(), capnp::Error> {
    let message = read(params)?;
    let pods = message.get_root::<scheduler::scheduler_plugin::sort_keys_params::Reader>()?.get_pods()?;
    let mut keys = out.init_root::<scheduler::scheduler_plugin::sort_keys_results::Builder>().init_keys(pods.len());
    for (i, pod) in pods.iter().enumerate() {
        let pod = pod_of(pod)?;
        let turn = pod["metadata"]["labels"]["turn"].as_str().ok_or_else(|| capnp::Error::failed("a pod without a turn".into()))?;
        keys.set(i as u32, turn.as_bytes());
    }
    Ok(())
}

/// It binds those with a label `bound-by`, by a write or only by word, and sends them where it was told.
fn bind(params: &[u8], out: &mut message::Builder<message::HeapAllocator>) -> Result<(), capnp::Error> {
    let message = read(params)?;
    let params = message.get_root::<scheduler::scheduler_plugin::bind_params::Reader>()?;
    let (pod, node) = (pod_of(params.get_pod())?, params.get_node()?.to_str()?);
    let mut results = out.init_root::<scheduler::scheduler_plugin::bind_results::Builder>();
    let (name, how) = (pod["metadata"]["name"].as_str().unwrap_or(""), pod["metadata"]["labels"]["bound-by"].as_str());
    results.set_binds(how.is_some());
    if how == Some("write") {
        let body = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name, "namespace": "default"}, "target": {"kind": "Node", "name": node}});
        let mut write = results.init_writes(1).get(0);
        let mut to = write.reborrow().init_target();
        to.set_resource("pods");
        to.set_namespace("default");
        to.set_name(name);
        write.set_subresource("binding");
        write.set_create(body.to_string().as_bytes());
    } else if how == Some("nobody") {
        results.set_refused("nobody may bind it");
    }
    Ok(())
}

fn post_bind(params: &[u8], out: &mut message::Builder<message::HeapAllocator>) -> Result<(), capnp::Error> {
    let message = read(params)?;
    let params = message.get_root::<scheduler::scheduler_plugin::post_bind_params::Reader>()?;
    if pod_of(params.get_pod())?["metadata"]["name"].is_string() && !params.get_node()?.is_empty() {
        BOUND.set(BOUND.get() + 1);
    }
    out.init_root::<scheduler::scheduler_plugin::post_bind_results::Builder>();
    Ok(())
}
