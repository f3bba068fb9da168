//! The capabilities a module can hold: readers and writers of objects, a logger, a timer. Each is made for one resource and the grants of
//! one module, and is handed out behind the membrane.

use crate::{
    grants::{Access, Use},
    limits::{MODULE_TIMERS_MAX, MODULE_WATCHES_MAX, RECONCILE_BYTES_MAX, WRITES_PER_CALL_MAX},
    membrane::{Gate, Held, behind},
    project::Projection,
    write::{ObjectName, Write, WriteError, Writer},
};
use futures::FutureExt;
use pintle_api::ApiError;
use pintle_registry::{Bookmarks, Index, InitialEvents, ListOptions, Object, ResourceKey, Target, VersionMatch, WatchEvent, WatchOptions};
use pintle_wit::{
    common_capnp::{outcome, subscription},
    module_capnp as module, objects_capnp as wire,
};
use std::{cell::RefCell, rc::Rc, sync::Arc, time::Duration};

/// Rows in one push of a watch, at most.
const PUSH_ROWS_MAX: usize = 256;
/// Objects named in one `get`, at most.
const REFS_MAX: u32 = 1000;

/// What every capability of one instance shares.
pub struct Holder {
    pub writer: Rc<Writer>,
    pub gate: Rc<Gate>,
    /// Lines go to the module's log.
    pub log: Rc<RefCell<crate::engine::ModuleLog>>,
}

/// Makes the list of exports for `Hello`: one for each granted resource, then the other grants.
pub fn exports(holder: &Rc<Holder>, grants: &[String]) -> Vec<(String, ExportedCap)> {
    let gate = &holder.gate;
    let mut list = Vec::new();
    for granted in holder.writer.grants.exports() {
        let name = format!("{}/{}", granted.resource.group, granted.resource.resource);
        let bound = Bound { holder: holder.clone(), resource: granted.resource };
        list.push((
            name,
            match granted.access {
                Access::Read => ExportedCap::Reader(behind(gate, capnp_rpc::new_client(bound))),
                Access::Write => ExportedCap::Writer(behind(gate, capnp_rpc::new_client(bound))),
            },
        ));
    }
    for grant in grants {
        match grant.as_str() {
            "logger" => {
                list.push((grant.clone(), ExportedCap::Logger(behind(gate, capnp_rpc::new_client(LogLines { holder: holder.clone() })))))
            }
            "timer" => {
                list.push((grant.clone(), ExportedCap::Timer(behind(gate, capnp_rpc::new_client(Clock { holder: holder.clone() })))))
            }
            _ => {}
        }
    }
    list
}

/// A capability ready to be put into `Hello`.
pub enum ExportedCap {
    Reader(wire::object_reader::Client),
    Writer(wire::object_writer::Client),
    Logger(module::logger::Client),
    Timer(module::timer::Client),
}

impl ExportedCap {
    /// Puts it into its place.
    pub fn fill(self, mut export: module::export::Builder<'_>) {
        match self {
            Self::Reader(c) => export.set_object_reader(c),
            Self::Writer(c) => export.set_object_writer(c),
            Self::Logger(c) => export.set_logger(c),
            Self::Timer(c) => export.set_timer(c),
        }
    }
}

/// A reader or writer of one resource, or of everything that the grants name (`*/*`).
struct Bound {
    holder: Rc<Holder>,
    resource: ResourceKey,
}

impl Bound {
    /// The resource that a request is about: the bound one, or for `*/*` the one it names.
    fn aim(&self, name: &mut ObjectName) {
        if self.resource.resource != "*" {
            name.group.clone_from(&self.resource.group);
            name.resource.clone_from(&self.resource.resource);
        }
    }

    fn may(&self, verb: &str, name: &ObjectName) -> bool {
        let asked =
            Use { verb, group: &name.group, resource: &name.resource, subresource: "", namespace: &name.namespace, name: &name.name };
        self.holder.writer.grants.allow(&asked)
    }

    fn may_see(&self, verb: &str, object: &Object) -> bool {
        let key = object.resource().key();
        let meta = object.meta();
        let asked = Use { verb, group: &key.group, resource: &key.resource, subresource: "", namespace: &meta.namespace, name: &meta.name };
        self.holder.writer.grants.allow(&asked)
    }

    fn get_one(&self, mut name: ObjectName) -> Result<Arc<Object>, WriteError> {
        self.aim(&mut name);
        let target = self.holder.writer.registry.resolve(&name.group, "", &name.resource, "", &name.namespace, &name.name)?;
        let missing = || ApiError::not_found(&target.resource, &name.name);
        if !self.may("get", &name) {
            self.holder.gate.misuse(&format!("get {}/{}", name.group, name.resource));
            return Err(missing().into());
        }
        let object = self.holder.writer.registry.get_cached(target.resource.key(), &name.namespace, &name.name).ok_or_else(missing)?;
        if !name.uid.is_empty() && *object.meta().uid != *name.uid { Err(missing().into()) } else { Ok(object) }
    }

    fn target(&self, query: wire::query::Reader<'_>) -> capnp::Result<Result<Target, ApiError>> {
        let mut name = ObjectName::read(query.get_target()?)?;
        self.aim(&mut name);
        Ok(self.holder.writer.registry.resolve(&name.group, "", &name.resource, "", &name.namespace, ""))
    }
}

fn fill_failure(error: &ApiError, mut failure: pintle_wit::common_capnp::failure::Builder<'_>) {
    failure.set_code(error.code);
    failure.set_reason(error.reason.as_str());
    failure.set_message(&error.message);
}

fn fill_outcome(result: Result<Option<Arc<Object>>, WriteError>, mut outcome: outcome::Builder<'_>) {
    match result {
        Ok(Some(object)) => outcome.set_object(object.body()),
        Ok(None) => outcome.set_object(&[]),
        Err(error) => error.fill(outcome.init_failure()),
    }
}

fn text_list(list: capnp::text_list::Reader<'_>) -> capnp::Result<Vec<String>> {
    list.iter().map(|t| Ok(t?.to_string()?)).collect()
}

fn index_of(query: wire::query::Reader<'_>) -> capnp::Result<Option<(Index, String)>> {
    let setting = query.get_index()?;
    let (name, value) = (setting.get_name()?.to_string()?, setting.get_value()?.to_string()?);
    let index = match name.split_once(':') {
        None if name.is_empty() => return Ok(None),
        None if name == "owner" => Index::Owner,
        None if name == "namespace" => Index::Namespace,
        Some(("label", key)) => Index::Label(key.to_owned()),
        Some(("field", path)) => Index::Field(path.to_owned()),
        _ => return Err(capnp::Error::failed(format!("there is no index {name:?}"))),
    };
    Ok(Some((index, value)))
}

impl wire::object_reader::Server for Bound {
    async fn get(
        self: Rc<Self>,
        params: wire::object_reader::GetParams,
        mut results: wire::object_reader::GetResults,
    ) -> Result<(), capnp::Error> {
        let refs = params.get()?.get_refs()?;
        if refs.len() > REFS_MAX {
            return Err(capnp::Error::overloaded(format!("more than {REFS_MAX} objects in one get")));
        }
        let mut outcomes = results.get().init_outcomes(refs.len());
        for (i, name) in (0..).zip(refs) {
            fill_outcome(self.get_one(ObjectName::read(name)?).map(Some), outcomes.reborrow().get(i));
        }
        Ok(())
    }

    async fn list(
        self: Rc<Self>,
        params: wire::object_reader::ListParams,
        mut results: wire::object_reader::ListResults,
    ) -> Result<(), capnp::Error> {
        let query = params.get()?.get_query()?;
        let target = match self.target(query)? {
            Ok(target) => target,
            Err(error) => {
                fill_failure(&error, results.get().init_failure());
                return Ok(());
            }
        };
        let registry = &self.holder.writer.registry;
        let (objects, revision, next) = if let Some((index, value)) = index_of(query)? {
            let (objects, revision) = registry.list_index(target.resource.key(), &index, &value);
            (objects, revision, String::new())
        } else {
            let options = ListOptions {
                label_selector: query.get_label_selector()?.to_string()?,
                field_selector: query.get_field_selector()?.to_string()?,
                limit: query.get_limit() as usize,
                continue_token: query.get_continue()?.to_string()?,
                ..ListOptions::default()
            };
            match registry.list(&target, &options).await {
                Ok(page) => (page.items, page.revision, page.continue_token),
                Err(error) => {
                    fill_failure(&error, results.get().init_failure());
                    return Ok(());
                }
            }
        };
        let projection = Projection::new(&text_list(query.get_fields()?)?);
        let in_namespace = |o: &Object| target.namespace.is_empty() || *o.meta().namespace == *target.namespace;
        let visible: Vec<_> = objects.iter().filter(|o| in_namespace(o) && self.may_see("list", o)).collect();
        let rows: Vec<_> = visible.iter().map(|o| projection.row(o)).collect();
        let weight = rows.iter().map(|r| r.len()).sum::<usize>();
        self.holder.gate.charge(weight);
        if weight > RECONCILE_BYTES_MAX {
            fill_failure(&ApiError::too_large(RECONCILE_BYTES_MAX), results.get().init_failure());
            return Ok(());
        }
        let mut page = results.get().init_page();
        page.set_revision(revision.0);
        page.set_continue(&next);
        let mut list = page.init_objects(u32::try_from(rows.len()).unwrap_or(u32::MAX));
        for (i, row) in (0..).zip(&rows) {
            list.set(i, row);
        }
        Ok(())
    }

    async fn watch(
        self: Rc<Self>,
        params: wire::object_reader::WatchParams,
        mut results: wire::object_reader::WatchResults,
    ) -> Result<(), capnp::Error> {
        let params = params.get()?;
        let query = params.get_query()?;
        let held = self.holder.gate.hold(MODULE_WATCHES_MAX)?;
        let target = self.target(query)?.map_err(|e| capnp::Error::failed(e.message))?;
        let options = WatchOptions {
            label_selector: query.get_label_selector()?.to_string()?,
            field_selector: query.get_field_selector()?.to_string()?,
            version_match: Some(VersionMatch::NotOlderThan),
            bookmarks: Bookmarks::Yes,
            initial_events: Some(InitialEvents::Send),
            ..WatchOptions::default()
        };
        let feed = RowFeed {
            bound: self.clone(),
            target,
            options,
            sink: params.get_sink()?,
            projection: Projection::new(&text_list(query.get_fields()?)?),
            held,
        };
        let task = tokio::task::spawn_local(feed.run());
        let subscription = behind(&self.holder.gate, capnp_rpc::new_client(Watching { task: RefCell::new(Some(task)) }));
        results.get().set_subscription(subscription);
        Ok(())
    }

    async fn resources(
        self: Rc<Self>,
        _: wire::object_reader::ResourcesParams,
        mut results: wire::object_reader::ResourcesResults,
    ) -> Result<(), capnp::Error> {
        let all = self.holder.writer.registry.resources();
        let visible = |r: &Arc<pintle_registry::ResourceInfo>| {
            self.resource.resource == "*" || (*r.group == *self.resource.group && *r.plural == *self.resource.resource)
        };
        let visible: Vec<_> = all.iter().filter(|r| visible(r)).collect();
        let mut list = results.get().init_resources(u32::try_from(visible.len()).unwrap_or(u32::MAX));
        for (i, info) in (0..).zip(visible) {
            let mut entry = list.reborrow().get(i);
            entry.set_group(&*info.group);
            entry.set_version(&*info.version);
            entry.set_resource(&*info.plural);
            entry.set_kind(&*info.kind);
            entry.set_namespaced(info.scope == pintle_api::Scope::Namespaced);
        }
        Ok(())
    }
}

type Row = (wire::row_event::Kind, Option<Arc<Object>>);

/// A running watch of a guest: rows go to its sink, each push waiting for the one before.
struct RowFeed {
    bound: Rc<Bound>,
    target: Target,
    options: WatchOptions,
    sink: wire::row_sink::Client,
    projection: Projection,
    held: Held,
}

impl RowFeed {
    async fn run(self) {
        let mut generation = 0u64;
        while !self.bound.holder.gate.is_revoked() {
            generation += 1;
            if self.follow(generation).await.is_err() {
                break;
            }
        }
        drop(self.held);
    }

    /// One stream until it ends. `Err`: the guest's end is gone.
    async fn follow(&self, generation: u64) -> Result<(), capnp::Error> {
        let mut stream = match self.bound.holder.writer.registry.watch(&self.target, &self.options).await {
            Ok(stream) => stream,
            Err(error) => return Err(capnp::Error::failed(error.message)),
        };
        let mut rows = if generation > 1 { vec![(wire::row_event::Kind::Reset, None)] } else { Vec::new() };
        loop {
            let Some(Ok(event)) = stream.next().await else { return Ok(()) };
            self.note(event, &mut rows);
            while rows.len() < PUSH_ROWS_MAX
                && let Some(Some(Ok(event))) = stream.next().now_or_never()
            {
                self.note(event, &mut rows);
            }
            if !rows.is_empty() {
                self.push(generation, std::mem::take(&mut rows)).await?;
            }
        }
    }

    fn note(&self, event: WatchEvent, rows: &mut Vec<Row>) {
        use wire::row_event::Kind;
        match event {
            WatchEvent::Added(o) | WatchEvent::Modified(o) if self.bound.may_see("watch", &o) => rows.push((Kind::Put, Some(o))),
            WatchEvent::Deleted(o) if self.bound.may_see("watch", &o) => rows.push((Kind::Delete, Some(o))),
            WatchEvent::Bookmark { initial_events_end: true, .. } => rows.push((Kind::Synced, None)),
            _ => {}
        }
    }

    async fn push(&self, generation: u64, rows: Vec<Row>) -> Result<(), capnp::Error> {
        let mut request = self.sink.push_request();
        let mut params = request.get();
        params.set_generation(generation);
        let mut events = params.init_events(u32::try_from(rows.len()).unwrap_or(u32::MAX));
        for (i, (kind, object)) in (0..).zip(&rows) {
            let mut event = events.reborrow().get(i);
            event.set_kind(*kind);
            if let Some(object) = object {
                event.set_row(&self.projection.row(object));
            }
        }
        request.send().promise.await.map(|_| ())
    }
}

struct Watching {
    task: RefCell<Option<tokio::task::JoinHandle<()>>>,
}

impl subscription::Server for Watching {
    async fn cancel(self: Rc<Self>, _: subscription::CancelParams, _: subscription::CancelResults) -> Result<(), capnp::Error> {
        if let Some(task) = self.task.borrow_mut().take() {
            task.abort();
        }
        Ok(())
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        if let Some(task) = self.task.borrow_mut().take() {
            task.abort();
        }
    }
}

impl wire::object_writer::Server for Bound {
    async fn write(
        self: Rc<Self>,
        params: wire::object_writer::WriteParams,
        mut results: wire::object_writer::WriteResults,
    ) -> Result<(), capnp::Error> {
        let writes = params.get()?.get_writes()?;
        if writes.len() as usize > WRITES_PER_CALL_MAX {
            return Err(capnp::Error::overloaded(format!("more than {WRITES_PER_CALL_MAX} writes in one call")));
        }
        self.holder.gate.take_writes(writes.len())?;
        let mut outcomes = results.get().init_outcomes(writes.len());
        for (i, write) in (0..).zip(writes) {
            let mut write = Write::read(write)?;
            self.aim(&mut write.target);
            fill_outcome(self.holder.writer.carry_out(write).await, outcomes.reborrow().get(i));
        }
        Ok(())
    }
}

struct LogLines {
    holder: Rc<Holder>,
}

impl module::logger::Server for LogLines {
    async fn log(self: Rc<Self>, params: module::logger::LogParams, _: module::logger::LogResults) -> Result<(), capnp::Error> {
        let params = params.get()?;
        let level = match params.get_level()? {
            module::logger::Level::Error => tracing::Level::ERROR,
            module::logger::Level::Warn => tracing::Level::WARN,
            module::logger::Level::Info | module::logger::Level::Unspecified => tracing::Level::INFO,
            module::logger::Level::Debug => tracing::Level::DEBUG,
        };
        self.holder.log.borrow_mut().line(level, params.get_message()?.to_str()?);
        Ok(())
    }
}

struct Clock {
    holder: Rc<Holder>,
}

impl module::timer::Server for Clock {
    async fn after(self: Rc<Self>, params: module::timer::AfterParams, _: module::timer::AfterResults) -> Result<(), capnp::Error> {
        let params = params.get()?;
        let (delay, wake) = (Duration::from_millis(params.get_millis()), params.get_wake()?);
        let held = self.holder.gate.hold(MODULE_TIMERS_MAX)?;
        let gate = self.holder.gate.clone();
        tokio::task::spawn_local(async move {
            tokio::time::sleep(delay).await;
            drop(held);
            if !gate.is_revoked() {
                let mut request = wake.wake_request();
                request.get().set_now_millis(crate::now_millis());
                let _ = request.send().promise.await;
            }
        });
        Ok(())
    }
}
