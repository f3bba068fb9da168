//! From code to a running incarnation: instantiate, open the lane, hand over what was granted, take what it serves.

use crate::{
    audit::Audit,
    counters::Counters,
    engine::{Code, Engine, Instance, ModuleLog, Vat},
    fault::{Fault, Generation, HostError, ModuleId},
    grants::Grants,
    host::ClusterFacts,
    judge::Judges,
    limits::ModuleLimits,
    membrane::Gate,
    objects::{Holder, exports},
    policy::Policies,
    scheduler::Plugins,
    source::Sources,
    spec::{ModuleSpec, ModuleType},
    state::{ModuleState, Past},
    tap::{self, Tap},
    write::Writer,
};
use pintle_registry::{Caller, Index, Object, Registry, ResourceKey};
use pintle_wit::{
    API_LEVEL, PIPE_VERSION,
    controller_capnp::controller,
    module_capnp::{hello, module},
};
use std::{
    cell::{Cell, RefCell},
    path::PathBuf,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::Notify;

type StartRequest = capnp::capability::Request<module::start_params::Owned, module::start_results::Owned>;

/// What every supervisor needs.
pub struct Context {
    pub registry: Arc<Registry>,
    pub engine: Engine,
    pub sources: Sources,
    pub cluster: ClusterFacts,
    pub judges: Arc<Judges>,
    pub plugins: Arc<Plugins>,
    pub policies: Policies,
    /// Where records of modules are kept; `None`: nothing is recorded.
    pub record_dir: Option<PathBuf>,
    pub generations: AtomicU64,
}

impl Context {
    /// Throws the files of versions away that the module cannot go back to any more, unless it needs one of them otherwise, or another module does: as
    /// what runs, shadows, or is named anywhere in its object.
    pub fn forget(&self, state: &ModuleState, surplus: impl IntoIterator<Item = Past>) {
        let (objects, _) = self.registry.list_index(&ResourceKey::new("pintle.dev", "modules"), &Index::Namespace, "");
        let facts = state.facts();
        let own = facts.history.iter().map(|past| &past.digest).chain([&facts.digest, &facts.last_good_digest]);
        let own: Vec<&String> = own.chain(facts.shadow.iter().map(|shadow| &shadow.digest)).collect();
        let names = |object: &Object, digest: &str| {
            let spec = || object.value().is_ok_and(|value| value["spec"].to_string().contains(digest));
            let all = || object.body().windows(digest.len()).any(|window| window == digest.as_bytes());
            if *object.meta().name == *state.name { spec() } else { all() }
        };
        for Past { digest, .. } in surplus {
            if !own.contains(&&digest) && !objects.iter().any(|object| names(object, &digest)) {
                self.sources.forget(&digest);
                self.engine.forget(&digest);
            }
        }
    }
}

/// One version of a module, ready to be started any number of times.
pub struct Launcher<'a> {
    pub context: &'a Context,
    pub id: &'a ModuleId,
    pub spec: &'a ModuleSpec,
    pub code: &'a Code,
    pub counters: &'a Arc<Counters>,
    /// Shared by everything the instance will hold.
    pub grants: &'a Grants,
    /// The manifest's, within what policies allow.
    pub limits: &'a ModuleLimits,
    pub audit: &'a Rc<Audit>,
}

/// An instance that has answered `Module.start`.
pub struct Started {
    pub generation: Generation,
    pub vat: Vat,
    pub gate: Rc<Gate>,
    pub writer: Rc<Writer>,
    pub module: module::Client,
}

/// An instance that serves the hot lane on one thread.
pub struct HotInstance {
    pub generation: Generation,
    pub writer: Rc<Writer>,
    /// The snapshot it holds; 0: none.
    pub synced: Cell<u64>,
    /// Whether it ever answered a call.
    pub answered: Cell<bool>,
    instance: RefCell<Instance>,
    fault: RefCell<Option<Fault>>,
    faulted: Notify,
    tap: Arc<Tap>,
}

/// The parameters of `Module.start`, without capabilities: what a record of an incarnation begins with.
pub fn hello_of(context: &Context, id: &ModuleId, spec: &ModuleSpec, generation: Generation) -> Vec<u8> {
    let mut message = capnp::message::Builder::new_default();
    let params = message.init_root::<module::start_params::Builder<'_>>();
    fill_hello(context, id, spec, generation, params.init_hello());
    capnp::serialize::write_message_to_words(&message)
}

fn fill_hello(context: &Context, id: &ModuleId, spec: &ModuleSpec, generation: Generation, mut hello: hello::Builder<'_>) {
    hello.set_pipe_version(PIPE_VERSION);
    hello.set_api_level(API_LEVEL);
    hello.set_module_name(id.as_str());
    hello.set_generation(generation.0);
    hello.set_config(spec.config.as_bytes());
    let facts = &context.cluster;
    let mut cluster = hello.init_cluster();
    cluster.set_root_ca_pem(&facts.root_ca_pem);
    cluster.set_cluster_domain(&facts.cluster_domain);
    cluster.set_pod_cidr(&facts.pod_cidr);
    cluster.set_service_cidr(&facts.service_cidr);
}

impl Launcher<'_> {
    /// Starts an instance: it has its grants and its configuration.
    ///
    /// # Errors
    /// The fault that ended it, or `Refused` when the module does not want to start so.
    pub async fn start(&self) -> Result<Started, HostError> {
        let generation = Generation(self.context.generations.fetch_add(1, Ordering::Relaxed) + 1);
        let limits = self.limits;
        let instance = Instance::new(self.code, self.id.clone(), generation, limits.memory_bytes, limits.slice_deadline)?
            .limited_to(limits.message_bytes)
            .sharing(self.counters.cpu.clone());
        self.counters.memory_bytes.store(instance.memory_bytes() as u64, Ordering::Relaxed);
        let vat = Vat::open(instance, limits.slice_deadline);
        let audit = self.audit.clone();
        let denied = move |what: &str| audit.denied(generation, what);
        let gate = Gate::new(self.id.clone(), generation, limits.clone(), self.counters.clone(), denied, vat.ender());
        let grants = self.grants.clone();
        let writer = Rc::new(Writer {
            registry: self.context.registry.clone(),
            caller: Caller::module(self.id.as_str()),
            grants,
            gate: gate.clone(),
        });
        let module: module::Client = vat.bootstrap();
        let request = self.hello(&module, generation, &gate, &writer);
        let answer = vat.run(async move { request.send().promise.await?.get()?.get_info().map(|info| info.get_api_level()) }).await?;
        match answer {
            Ok(level) if level > API_LEVEL => {
                Err(HostError::Refused(format!("it was built for api level {level}, this kernel has {API_LEVEL}")))
            }
            Ok(_) => Ok(Started { generation, vat, gate, writer, module }),
            Err(error) => Err(HostError::Refused(error.to_string())),
        }
    }

    fn hello(&self, module: &module::Client, generation: Generation, gate: &Rc<Gate>, writer: &Rc<Writer>) -> StartRequest {
        let mut request = module.start_request();
        let mut hello = request.get().init_hello();
        fill_hello(self.context, self.id, self.spec, generation, hello.reborrow());
        // A module of the hot lane gets data only: its capabilities would end with the handshake.
        if self.spec.kind == ModuleType::Controller {
            let log = Rc::new(RefCell::new(ModuleLog::new(self.id.clone(), generation)));
            let holder = Rc::new(Holder { writer: writer.clone(), gate: gate.clone(), log });
            let capabilities = exports(&holder, &self.spec.grants);
            let mut list = hello.init_exports(u32::try_from(capabilities.len()).unwrap_or(u32::MAX));
            for (i, (name, capability)) in (0..).zip(capabilities) {
                let mut export = list.reborrow().get(i);
                export.set_name(&name);
                capability.fill(export);
            }
        }
        request
    }
}

impl Started {
    /// The controller that the module serves.
    ///
    /// # Errors
    /// As for starting.
    pub async fn controller(&self) -> Result<controller::Client, HostError> {
        let request = self.module.controller_request();
        let answer = self.vat.run(async move { request.send().promise.await?.get()?.get_controller() }).await?;
        answer.map_err(|error| HostError::Refused(format!("it serves no controller: {error}")))
    }

    /// The instance alone, for the hot lane.
    ///
    /// # Errors
    /// The fault that ended it meanwhile.
    pub async fn into_hot(self) -> Result<(Instance, Generation, Rc<Writer>), HostError> {
        self.gate.revoke();
        let fault = futures::FutureExt::now_or_never(self.vat.fault());
        match (fault, self.vat.into_instance()) {
            (None, Some(instance)) => Ok((instance, self.generation, self.writer)),
            (Some(fault), _) => Err(fault.into()),
            (None, None) => Err(HostError::Refused("it ended while it was started".into())),
        }
    }
}

impl HotInstance {
    /// An instance for one thread.
    pub fn new(instance: Instance, generation: Generation, writer: Rc<Writer>, tap: Arc<Tap>) -> Self {
        Self {
            generation,
            writer,
            synced: Cell::new(0),
            instance: RefCell::new(instance),
            fault: RefCell::default(),
            answered: Cell::new(false),
            faulted: Notify::new(),
            tap,
        }
    }

    /// One call on the hot lane.
    ///
    /// # Errors
    /// The fault that ended the instance.
    pub fn call(
        &self,
        interface: u64,
        method: u16,
        params: &[u8],
        deadline: std::time::Duration,
    ) -> Result<Result<Vec<u8>, String>, Fault> {
        let answer = self.instance.borrow_mut().call(interface, method, params, deadline);
        if self.tap.is_on() {
            self.tap.saw(self.generation, interface, method, params.to_vec(), tap::outcome(&answer));
        }
        answer.inspect_err(|fault| {
            self.fault.borrow_mut().get_or_insert(fault.clone());
            self.faulted.notify_waiters();
        })
    }

    /// Ends it as the caller judges.
    pub fn end(&self, kind: crate::FaultKind, message: String) -> Fault {
        let fault = self.instance.borrow().fault(kind, message);
        self.fault.borrow_mut().get_or_insert(fault.clone());
        self.faulted.notify_waiters();
        fault
    }

    /// Waits for its end.
    pub async fn fault(&self) -> Fault {
        loop {
            let faulted = self.faulted.notified();
            if let Some(fault) = self.fault.borrow().clone() {
                return fault;
            }
            faulted.await;
        }
    }

    /// The most linear memory it has had, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.instance.borrow().memory_bytes()
    }
}
