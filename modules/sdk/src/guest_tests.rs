//! A guest and a kernel's end of the pipe in one thread, without WebAssembly.

use super::*;
use crate::{Delta, Freshness, Plan, Query, Request, Review, Untyped, Verdict};
use capnp::message::Builder;
use pintle_wit::common_capnp::object_ref;
use pintle_wit::objects_capnp::object_reader;
use serde_json::json;

struct Echo {
    text: String,
}

impl Controller for Echo {
    fn start(start: &Start) -> Result<Self> {
        let config: std::collections::BTreeMap<String, String> = start.config()?;
        config.get("text").cloned().map(|text| Echo { text }).ok_or_else(|| Error::undecided("no text"))
    }

    fn reconcile(&mut self, now: Time, request: &Request<'_>) -> Result<Plan> {
        crate::info!("looking at {}", request.target.name);
        let Some(object) = request.object::<crate::Partial>()? else { return Err(Error::undecided("it is gone")) };
        let count = request.related::<crate::Partial>("others")?.len();
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": object.metadata.name}, "data": {"text": self.text, "n": count, "now": now.0}});
        Ok(Plan::new().create(&Untyped::new(map)?).event("Echoed", "done").requeue_after(std::time::Duration::from_secs(2)))
    }
}

struct Yes;

impl Admission for Yes {
    fn start(_: &Start) -> Result<Self> {
        Ok(Yes)
    }

    fn review(&self, review: &Review<'_>) -> Result<Verdict> {
        Ok(if review.user_name == "eve" { Verdict::deny("not you") } else { Verdict::allow().warn("careful") })
    }
}

struct Nowhere(u64);

impl Scheduler for Nowhere {
    fn start(_: &Start) -> Result<Self> {
        Ok(Nowhere(0))
    }

    fn sync(&mut self, delta: &Delta<'_>) -> Result<Freshness> {
        self.0 = delta.generation;
        Ok(Freshness::Fresh)
    }

    fn schedule(&mut self, generation: u64, _: Time, pods: &[&[u8]]) -> Result<Option<Vec<crate::Decision>>> {
        Ok((generation == self.0).then(|| pods.iter().map(|_| crate::Decision::Unschedulable("full".into())).collect()))
    }
}

#[derive(Default)]
struct Lines(Rc<RefCell<Vec<String>>>);

impl logger::Server for Lines {
    async fn log(self: Rc<Self>, params: logger::LogParams, _: logger::LogResults) -> Result<(), capnp::Error> {
        let line = params.get()?.get_message()?.to_string().map_err(capnp::Error::from)?;
        self.0.borrow_mut().push(line);
        Ok(())
    }
}

/// Adds up what it reads: a secret by its name, then all with the label that is in it, then what it may not.
struct Looks;

impl Controller for Looks {
    fn start(_: &Start) -> Result<Self> {
        Ok(Looks)
    }

    fn reconcile(&mut self, _: Time, request: &Request<'_>) -> Result<Plan> {
        let named: Vec<crate::Partial> = request.read(&Query::one("", "secrets", "n", &request.target.name))?;
        let Some(first) = named.first() else { return Ok(Plan::new().event("Alone", "there is none")) };
        let label = first.metadata.labels.get("of").cloned().unwrap_or_default();
        let all: Vec<crate::Partial> = request.read(&Query::all("", "secrets", "n").labelled(&format!("of={label}")))?;
        if label == "strangers" {
            request.read::<crate::Partial>(&Query::all("apps", "deployments", ""))?;
        }
        Ok(Plan::new().event("Counted", all.len().to_string()))
    }
}

/// Two secrets, `a` and `b`; whatever labels are asked for, both have them.
struct Secrets;

impl object_reader::Server for Secrets {
    async fn get(self: Rc<Self>, params: object_reader::GetParams, mut results: object_reader::GetResults) -> Result<(), capnp::Error> {
        let name = params.get()?.get_refs()?.get(0).get_name()?.to_string()?;
        let mut outcome = results.get().init_outcomes(1).get(0);
        match name.as_str() {
            "a" => outcome.set_object(br#"{"metadata": {"name": "a", "labels": {"of": "friends"}}}"#),
            "b" => outcome.set_object(br#"{"metadata": {"name": "b", "labels": {"of": "strangers"}}}"#),
            _ => outcome.init_failure().set_code(404),
        }
        Ok(())
    }

    async fn list(self: Rc<Self>, params: object_reader::ListParams, mut results: object_reader::ListResults) -> Result<(), capnp::Error> {
        let query = params.get()?.get_query()?;
        assert!(query.get_label_selector()?.to_str()?.starts_with("of=") && query.get_target()?.get_namespace()? == "n");
        let mut objects = results.get().init_page().init_objects(2);
        (0..2).for_each(|i| objects.set(i, b"{}"));
        Ok(())
    }
}

/// The kernel's end.
struct Kernel {
    guest: Guest,
    pipe: Pipe,
    pool: LocalPool,
    module: module::Client,
    lines: Rc<RefCell<Vec<String>>>,
}

impl Kernel {
    fn new(factory: Factory) -> Self {
        let pipe = Pipe::default();
        let network = twoparty::VatNetwork::new(pipe.clone(), pipe.clone(), Side::Client, Default::default());
        let mut system = RpcSystem::new(Box::new(network), None);
        let module = system.bootstrap(Side::Server);
        let pool = LocalPool::new();
        let _ = pool.spawner().spawn_local(system.map(|_| ()));
        Kernel { guest: Guest::new(factory), pipe, pool, module, lines: Rc::default() }
    }

    /// Carries bytes to and fro until the answer is there or nothing moves any more.
    fn wait<T: 'static>(&mut self, answer: impl Future<Output = T> + 'static) -> Option<T> {
        let slot = Rc::new(RefCell::new(None));
        let filled = slot.clone();
        let _ = self.pool.spawner().spawn_local(async move {
            *filled.borrow_mut() = Some(answer.await);
        });
        loop {
            self.pool.run_until_stalled();
            let out = std::mem::take(&mut self.pipe.0.borrow_mut().outgoing);
            let back = self.guest.pump(out);
            if back.is_empty() {
                return slot.borrow_mut().take();
            }
            let mut queues = self.pipe.0.borrow_mut();
            queues.incoming.extend(back);
            if let Some(reader) = queues.reader.take() {
                reader.wake();
            }
        }
    }

    fn start(&mut self, config: &str) -> Option<Result<Vec<u64>, capnp::Error>> {
        let mut request = self.module.start_request();
        let mut hello = request.get().init_hello();
        hello.set_module_name("test");
        hello.set_config(config.as_bytes());
        let mut exports = hello.init_exports(2);
        let mut export = exports.reborrow().get(0);
        export.set_name("logger");
        export.set_logger(capnp_rpc::new_client(Lines(self.lines.clone())));
        let mut export = exports.get(1);
        export.set_name("/secrets");
        export.set_object_reader(capnp_rpc::new_client(Secrets));
        let promise = request.send().promise;
        self.wait(async move { promise.await?.get()?.get_info()?.get_interfaces().map(|ids| ids.iter().collect()) })
    }
}

fn name(mut target: object_ref::Builder<'_>, name: &str) {
    target.set_resource("configmaps");
    target.set_name(name);
}

#[test]
fn a_controller_answers_each_request_in_order_and_its_lines_reach_the_logger() -> Result<()> {
    let mut kernel = Kernel::new(start_controller::<Echo>);
    assert_eq!(kernel.start(r#"{"text": "hi"}"#).and_then(Result::ok), Some(vec![controller::Client::TYPE_ID]));
    let promise = kernel.module.controller_request().send().promise;
    let client = kernel.wait(async move { promise.await?.get()?.get_controller() }).ok_or(Error::undecided("no answer"))??;
    let mut call = client.reconcile_request();
    call.get().set_now_millis(7);
    let mut requests = call.get().init_requests(2);
    let mut first = requests.reborrow().get(0);
    name(first.reborrow().init_ref(), "a");
    first.set_object(br#"{"metadata": {"name": "a"}}"#);
    let mut related = first.init_related(1).get(0);
    related.set_name("others");
    related.init_objects(1).set(0, b"{}");
    name(requests.get(1).init_ref(), "b");
    let promise = call.send().promise;
    let reply = kernel.wait(promise).ok_or(Error::undecided("no answer"))??;
    let results = reply.get()?.get_results()?;
    let (done, failed) = (results.get(0), results.get(1));
    let pintle_wit::objects_capnp::write::Create(body) = done.get_writes()?.get(0).which().map_err(capnp::Error::from)? else {
        return Err(Error::undecided("not a create"));
    };
    let body: serde_json::Value = serde_json::from_slice(body?).map_err(Error::Encode)?;
    assert_eq!(body["data"], json!({"text": "hi", "n": 1, "now": 7}));
    assert_eq!((done.get_requeue_after_millis(), done.get_events()?.len()), (2_000, 1));
    assert_eq!((failed.get_writes()?.len(), failed.get_failure()?.to_str().ok()), (0, Some("it is gone")));
    kernel.wait(async {});
    assert_eq!(*kernel.lines.borrow(), ["looking at a", "looking at b"]);
    Ok(())
}

#[test]
fn what_a_controller_reads_is_read_for_it_and_told_with_its_answer() -> Result<()> {
    let mut kernel = Kernel::new(start_controller::<Looks>);
    kernel.start("").ok_or(Error::undecided("no answer"))??;
    let promise = kernel.module.controller_request().send().promise;
    let client = kernel.wait(async move { promise.await?.get()?.get_controller() }).ok_or(Error::undecided("no answer"))??;
    let by_name = |name: &str| format!("/secrets n/{name}");
    for (asked, given, says, fails, read) in [
        ("a", None, "2", "", vec![(by_name("a"), 1), ("/secrets n/?of=friends".into(), 2)]),
        ("c", None, "there is none", "", vec![(by_name("c"), 0)]),
        (
            "b",
            None,
            "",
            "apps/deployments / cannot be read: it is not granted",
            vec![(by_name("b"), 1), ("/secrets n/?of=strangers".into(), 2)],
        ),
        // What the request brings is not read again.
        ("a", Some(by_name("a")), "there is none", "", vec![]),
    ] {
        let mut call = client.reconcile_request();
        let mut request = call.get().init_requests(1).get(0);
        name(request.reborrow().init_ref(), asked);
        if let Some(given) = given {
            request.init_related(1).get(0).set_name(&given);
        }
        let promise = call.send().promise;
        let reply = kernel.wait(promise).ok_or(Error::undecided("no answer"))??;
        let result = reply.get()?.get_results()?.get(0);
        let event = result.get_events()?.iter().next();
        let said = event.map(|event| event.get_message()?.to_string().map_err(capnp::Error::from)).transpose()?;
        assert_eq!(said.unwrap_or_default(), says, "{asked}");
        let failure = result.get_failure()?.to_string().map_err(capnp::Error::from)?;
        assert!(failure.starts_with(fails) && failure.is_empty() == fails.is_empty(), "{asked}: {failure}");
        let told = |one: pintle_wit::controller_capnp::related::Reader<'_>| Ok((one.get_name()?.to_string()?, one.get_objects()?.len()));
        let reads = result.get_reads()?.iter().map(told).collect::<Result<Vec<_>, capnp::Error>>()?;
        assert_eq!(reads, read, "{asked}");
    }
    Ok(())
}

#[test]
fn a_config_that_the_module_refuses_keeps_it_from_starting() {
    let mut kernel = Kernel::new(start_controller::<Echo>);
    let refusal = kernel.start("{}").and_then(Result::err).map(|error| error.to_string()).unwrap_or_default();
    assert!(refusal.contains("no text"), "{refusal}");
    let promise = kernel.module.controller_request().send().promise;
    assert!(kernel.wait(async move { promise.await.map(|_| ()) }).is_some_and(|answer| answer.is_err()));
}

#[test]
fn the_hot_lane_needs_a_start_and_serves_what_the_module_is() -> Result<()> {
    let mut kernel = Kernel::new(start_admission::<Yes>);
    let mut message = Builder::new_default();
    message.init_root::<admission::review_params::Builder<'_>>().init_review().set_user_name("eve");
    let params = serialize::write_message_to_words(&message);
    assert!(kernel.guest.call(admission::Client::TYPE_ID, 0, &params).is_err());
    assert_eq!(kernel.start("").and_then(Result::ok), Some(vec![admission::Client::TYPE_ID]));
    let out = kernel.guest.call(admission::Client::TYPE_ID, 0, &params).map_err(Error::undecided)?;
    let reply = serialize::read_message_from_flat_slice(&mut &out[..], ReaderOptions::new())?;
    let verdict = reply.get_root::<admission::review_results::Reader<'_>>()?.get_verdict()?;
    assert!(!verdict.get_allowed());
    assert_eq!(verdict.get_failure()?.get_message()?.to_str().ok(), Some("not you"));
    assert!(kernel.guest.call(admission::Client::TYPE_ID, 9, &params).is_err());
    assert!(kernel.guest.call(scheduler::Client::TYPE_ID, 0, &params).is_err());
    assert!(kernel.guest.call(admission::Client::TYPE_ID, 0, b"rubbish!").is_err());
    Ok(())
}

#[test]
fn a_scheduler_says_stale_for_another_generation() -> Result<()> {
    let mut kernel = Kernel::new(start_scheduler::<Nowhere>);
    kernel.start("");
    let mut sync = Builder::new_default();
    sync.init_root::<scheduler::sync_params::Builder<'_>>().init_delta().set_generation(3);
    kernel.guest.call(scheduler::Client::TYPE_ID, 0, &serialize::write_message_to_words(&sync)).map_err(Error::undecided)?;
    for (generation, stale) in [(3, false), (4, true)] {
        let mut ask = Builder::new_default();
        let mut params = ask.init_root::<scheduler::schedule_params::Builder<'_>>();
        params.set_generation(generation);
        params.init_pods(1).set(0, b"{}");
        let out = kernel.guest.call(scheduler::Client::TYPE_ID, 1, &serialize::write_message_to_words(&ask)).map_err(Error::undecided)?;
        let reply = serialize::read_message_from_flat_slice(&mut &out[..], ReaderOptions::new())?;
        let results = reply.get_root::<scheduler::schedule_results::Reader<'_>>()?;
        assert_eq!((results.get_stale(), results.get_decisions()?.len()), (stale, u32::from(!stale)));
    }
    Ok(())
}

#[test]
fn rubbish_frames_end_the_vat_and_nothing_else() {
    let mut kernel = Kernel::new(start_admission::<Yes>);
    kernel.guest.pump(vec![0xff; 4096]);
    assert!(kernel.guest.pump(vec![0; 64]).len() < 4096);
}
