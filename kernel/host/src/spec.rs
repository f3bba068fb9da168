//! A Module object's `spec`, read and checked once. What comes out can be acted on without looking at JSON again.

use crate::{
    engine::Answers,
    fault::HostError,
    grants::{Permission, could_show},
    limits::{INSTANCE_MEMORY_BYTES_MAX, ModuleLimits},
};
use pintle_api::selector::LabelSelector;
use pintle_registry::{AdmissionRule, Conditions, ResourceKey, Selectors};
use serde::Deserialize;
use std::time::Duration;

/// What a module is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModuleType {
    Controller,
    Scheduler,
    SchedulerPlugin,
    Admission,
}

impl ModuleType {
    /// As manifests say it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Controller => "controller",
            Self::Scheduler => "scheduler",
            Self::SchedulerPlugin => "schedulerPlugin",
            Self::Admission => "admission",
        }
    }

    /// The lane that it answers on.
    pub fn answers(self) -> Answers {
        if self == Self::Controller { Answers::Reconcile } else { Answers::Hot }
    }

    /// What one call may take.
    pub fn deadline(self, limits: &ModuleLimits) -> Duration {
        match self {
            Self::Controller => limits.slice_deadline,
            Self::Scheduler | Self::SchedulerPlugin => limits.scheduler_deadline,
            Self::Admission => limits.admission_deadline,
        }
    }
}

/// Where its bytes are.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    File(String),
    Inline(String),
    Oci(String),
    Builtin(String),
    /// A version that this kernel has run, by its digest.
    Kept(String),
}

impl Source {
    fn read(value: serde_json::Value) -> Result<Self, HostError> {
        serde_json::from_value(value).map_err(|_| bad("spec.source", "exactly one of file, inline, oci, builtin and kept must be set"))
    }

    /// The manifest's word for it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::File(_) => "file",
            Self::Inline(_) => "inline",
            Self::Oci(_) => "oci",
            Self::Builtin(_) => "builtin",
            Self::Kept(_) => "kept",
        }
    }
}

/// Everything the host needs to know to run a module.
#[derive(Clone, Debug, PartialEq)]
pub struct ModuleSpec {
    pub kind: ModuleType,
    pub source: Source,
    /// Empty: any.
    pub digest: String,
    pub permissions: Vec<Permission>,
    /// Names of capabilities that are not objects: `logger`, `timer`.
    pub grants: Vec<String>,
    pub limits: ModuleLimits,
    /// JSON text.
    pub config: String,
    /// Of a controller module: each has its queue, all are served by one instance.
    pub controllers: Vec<ControllerSpec>,
    pub admission: Option<AdmissionSpec>,
    pub scheduler_name: String,
    pub plugin: Option<PluginSpec>,
    pub suspend: bool,
    /// What a record of its calls may hold, in bytes; `None`: nothing is recorded.
    pub record: Option<u64>,
    /// Another version that is asked the same; it answers for nobody.
    pub shadow: Option<ShadowSpec>,
}

/// `spec.plugin`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginSpec {
    pub points: Vec<Point>,
    /// Of its scores.
    pub weight: i32,
    pub order: i64,
    /// Go on without it when it fails.
    pub ignore_failures: bool,
}

/// Where a scheduler asks its plugins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Point {
    PreEnqueue,
    QueueSort,
    Filter,
    PostFilter,
    Score,
    Reserve,
    Permit,
    PreBind,
    Bind,
    PostBind,
}

/// `spec.shadow.takeOver`: whose requests a shadow answers for real.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct TakeOver {
    pub namespaces: Vec<String>,
    /// Of the objects elsewhere, always the same ones.
    pub percent: u64,
}

impl TakeOver {
    /// Whether the object is one of its.
    pub fn takes(&self, namespace: &str, name: &str) -> bool {
        let bytes = namespace.bytes().chain(*b"/").chain(name.bytes());
        // FNV-1a, so that a kernel's restart moves nobody.
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        self.namespaces.iter().any(|taken| taken == namespace) || (hash >> 32) % 100 < self.percent
    }
}

/// `spec.shadow`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShadowSpec {
    pub source: Source,
    /// Empty: any.
    pub digest: String,
    pub take_over: Option<TakeOver>,
}

/// A resource of a manifest: `group/plural`, or `*/*` for the metadata of everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ResourcePattern {
    Everything,
    One(ResourceKey),
}

/// `spec.controller`.
#[derive(Clone, Debug, PartialEq)]
pub struct ControllerSpec {
    pub primary: ResourcePattern,
    /// Label selector in the query parameter's syntax; empty selects everything.
    pub selector: String,
    pub watches: Vec<WatchSpec>,
    pub related: Vec<RelatedSpec>,
    pub batch: usize,
    pub resync: Option<Duration>,
}

/// What puts keys into the queue beside the primary objects themselves.
#[derive(Clone, Debug, PartialEq)]
pub struct WatchSpec {
    pub resource: ResourcePattern,
    pub map: Mapping,
}

/// How a changed object leads to keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mapping {
    Own,
    Owner,
    Name,
    Namespace,
    Selector,
    Field(String),
    /// An object reference at this path, with name and namespace.
    Reference(String),
    All,
}

/// Objects that travel with a request.
#[derive(Clone, Debug, PartialEq)]
pub struct RelatedSpec {
    pub name: String,
    pub resource: ResourcePattern,
    pub by: Relation,
    /// Empty: any.
    pub namespace: String,
    /// JSON pointers; empty: whole objects.
    pub fields: Vec<String>,
    pub when: When,
}

/// When related objects travel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum When {
    Always,
    /// While the object is being deleted.
    Deleting,
    /// The primary is there.
    Present,
    /// When the entry of this name, above it, has found something.
    Found(String),
}

/// How related objects are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Relation {
    Owner,
    OwnerOrSelector,
    Selector,
    Owners,
    Dependents,
    Namespace,
    NamespaceObject,
    /// Of the object's own resource and namespace.
    Siblings,
    Name,
    Field(String),
    /// At this path the centre has an object reference, or the name of a neighbour.
    Reference(String),
    All,
    /// Of the resource that `spec.resource` names: those stored in another form than they would be now.
    Outdated,
}

/// `spec.admission`.
#[derive(Clone, Debug, PartialEq)]
pub struct AdmissionSpec {
    pub mutating: bool,
    pub validating: bool,
    pub rules: Vec<AdmissionRule>,
    /// Let requests through that the module fails to judge.
    pub ignore_failures: bool,
    pub order: i64,
    pub related: Vec<RelatedSpec>,
    pub selectors: Selectors,
    /// CEL; all must hold.
    pub conditions: Conditions,
    /// Ask once more when a later module edited the object.
    pub reinvoke: bool,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct RawSpec {
    r#type: String,
    source: serde_json::Value,
    digest: String,
    permissions: Vec<Permission>,
    grants: Vec<String>,
    limits: RawLimits,
    config: Option<serde_json::Value>,
    controller: Option<RawController>,
    controllers: Vec<RawController>,
    admission: Option<RawAdmission>,
    scheduler_name: String,
    plugin: Option<RawPlugin>,
    api_level: Option<u16>,
    suspend: bool,
    record: Option<RawRecord>,
    shadow: Option<RawShadow>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct RawShadow {
    source: serde_json::Value,
    digest: String,
    take_over: Option<TakeOver>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct RawRecord {
    max_bytes: Option<u64>,
}

/// `spec.limits`, of a module or of a policy.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct RawLimits {
    memory_bytes: Option<usize>,
    call_milliseconds: Option<u32>,
    calls_per_second: Option<u32>,
    burst: Option<u32>,
    writes_per_second: Option<u32>,
    message_bytes: Option<usize>,
    capabilities: Option<u32>,
    workers: Option<usize>,
    cpu_millicores: Option<u32>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct RawController {
    primary: String,
    selector: String,
    watches: Vec<RawWatch>,
    related: Vec<RawRelated>,
    batch: Option<u32>,
    resync_seconds: Option<u32>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct RawWatch {
    resource: String,
    map: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct RawRelated {
    name: String,
    resource: String,
    by: String,
    namespace: String,
    fields: Vec<String>,
    when: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct RawAdmission {
    rules: Vec<AdmissionRule>,
    phase: String,
    phases: Vec<String>,
    failure_policy: String,
    timeout_milliseconds: Option<u32>,
    order: Option<i64>,
    related: Vec<RawRelated>,
    namespace_selector: Option<serde_json::Value>,
    object_selector: Option<serde_json::Value>,
    match_conditions: serde_json::Value,
    reinvocation_policy: String,
}

const BATCH_DEFAULT: u32 = 64;
const BATCH_MAX: u32 = 1024;
const ORDER_DEFAULT: i64 = 1000;
const CALL_MILLISECONDS_MAX: u32 = 30_000;
const MESSAGE_BYTES_MIN: usize = 1024;

fn bad(field: &'static str, problem: impl Into<String>) -> HostError {
    HostError::BadSpec { field, problem: problem.into() }
}

/// Whether the second of two words is said; the first may go unsaid.
fn either(field: &'static str, said: &str, [first, second]: [&str; 2]) -> Result<bool, HostError> {
    match said {
        "" => Ok(false),
        said if said == first || said == second => Ok(said == second),
        other => Err(bad(field, format!("must be {first} or {second}, not {other:?}"))),
    }
}

impl ModuleSpec {
    /// Reads the `spec` of a Module object.
    ///
    /// # Errors
    /// `BadSpec` naming the field that cannot be acted on.
    pub fn parse(spec: &serde_json::Value) -> Result<Self, HostError> {
        let raw: RawSpec = serde_json::from_value(spec.clone()).map_err(|e| bad("spec", e.to_string()))?;
        let kind = match raw.r#type.as_str() {
            "controller" => ModuleType::Controller,
            "scheduler" => ModuleType::Scheduler,
            "schedulerPlugin" => ModuleType::SchedulerPlugin,
            "admission" => ModuleType::Admission,
            other => return Err(bad("spec.type", format!("must be controller, scheduler, schedulerPlugin or admission, not {other:?}"))),
        };
        if let Some(level) = raw.api_level.filter(|level| *level > pintle_wit::API_LEVEL) {
            return Err(bad("spec.apiLevel", format!("this kernel has level {}, not {level}", pintle_wit::API_LEVEL)));
        }
        let controllers: Vec<_> = raw.controller.into_iter().chain(raw.controllers).map(ControllerSpec::check).collect::<Result<_, _>>()?;
        let timeout = raw.admission.as_ref().and_then(|a| a.timeout_milliseconds);
        let admission = raw.admission.map(AdmissionSpec::check).transpose()?;
        let plugin = raw.plugin.map(RawPlugin::check).transpose()?;
        match kind {
            ModuleType::SchedulerPlugin if plugin.is_none() => return Err(bad("spec.plugin", "is required for a scheduler plugin")),
            ModuleType::Controller if controllers.is_empty() => return Err(bad("spec.controller", "is required for a controller")),
            ModuleType::Admission if admission.is_none() => return Err(bad("spec.admission", "is required for an admission module")),
            _ => {}
        }
        for grant in &raw.grants {
            if !["logger", "timer"].contains(&grant.as_str()) {
                return Err(bad("spec.grants", format!("{grant:?} is not something that can be granted; logger and timer are")));
            }
        }
        let scheduler_name = if raw.scheduler_name.is_empty() { "default-scheduler".to_owned() } else { raw.scheduler_name };
        let spec = Self {
            kind,
            source: Source::read(raw.source)?,
            digest: raw.digest,
            permissions: raw.permissions,
            grants: raw.grants,
            limits: raw.limits.check(timeout)?,
            config: raw.config.map_or_else(|| "{}".to_owned(), |c| c.to_string()),
            controllers,
            admission,
            scheduler_name,
            plugin,
            suspend: raw.suspend,
            shadow: raw.shadow.map(RawShadow::check).transpose()?,
            record: raw.record.map(|record| record.max_bytes.unwrap_or(pintle_record::BYTES_DEFAULT)),
        };
        must_see(spec.kind, &spec.controllers, &spec.permissions)?;
        Ok(spec)
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct RawPlugin {
    points: Vec<Point>,
    weight: Option<i32>,
    order: Option<i64>,
    failure_policy: String,
}

impl RawPlugin {
    fn check(self) -> Result<PluginSpec, HostError> {
        if self.points.is_empty() {
            return Err(bad("spec.plugin.points", "must name at least one"));
        }
        let ignore_failures = either("spec.plugin.failurePolicy", &self.failure_policy, ["Fail", "Ignore"])?;
        Ok(PluginSpec {
            points: self.points,
            weight: self.weight.unwrap_or(1),
            order: self.order.unwrap_or(ORDER_DEFAULT),
            ignore_failures,
        })
    }
}

impl RawShadow {
    fn check(self) -> Result<ShadowSpec, HostError> {
        Ok(ShadowSpec { source: Source::read(self.source)?, digest: self.digest, take_over: self.take_over })
    }
}

/// Nobody is shown what nothing grants: the manifest must say so.
pub fn must_see(kind: ModuleType, controllers: &[ControllerSpec], permissions: &[Permission]) -> Result<(), HostError> {
    let core = |resource| ResourcePattern::One(ResourceKey::new("", resource));
    let shown = |spec: &ControllerSpec| std::iter::once(&spec.primary).chain(spec.watches.iter().map(|w| &w.resource)).cloned().collect();
    let seen: Vec<ResourcePattern> = match kind {
        ModuleType::Scheduler | ModuleType::SchedulerPlugin => ["pods", "nodes", "namespaces"].map(core).into(),
        ModuleType::Controller => controllers.iter().flat_map(|spec| -> Vec<_> { shown(spec) }).collect(),
        ModuleType::Admission => Vec::new(),
    };
    for pattern in &seen {
        let key = if let ResourcePattern::One(key) = pattern { Some(key) } else { None };
        if !could_show(permissions, key) {
            let name = key.map_or_else(|| "*/*".to_owned(), |key| format!("{}/{}", key.group, key.resource));
            return Err(bad("spec.permissions", format!("nothing grants get, list or watch of {name:?}, which the module is shown")));
        }
    }
    Ok(())
}

impl RawLimits {
    fn check(self, admission_timeout: Option<u32>) -> Result<ModuleLimits, HostError> {
        let mut limits = ModuleLimits::default();
        if let Some(bytes) = self.memory_bytes {
            if !(1 << 16..=INSTANCE_MEMORY_BYTES_MAX).contains(&bytes) {
                return Err(bad("spec.limits.memoryBytes", format!("must be 65536 to {INSTANCE_MEMORY_BYTES_MAX}")));
            }
            limits.memory_bytes = bytes;
        }
        if let Some(milliseconds) = self.call_milliseconds {
            let deadline = milliseconds_up_to_max("spec.limits.callMilliseconds", milliseconds)?;
            (limits.slice_deadline, limits.scheduler_deadline, limits.admission_deadline) = (deadline, deadline, deadline);
        }
        if let Some(milliseconds) = admission_timeout {
            limits.admission_deadline = milliseconds_up_to_max("spec.admission.timeoutMilliseconds", milliseconds)?;
        }
        limits.message_bytes = self.message_bytes.map_or(limits.message_bytes, |b| b.clamp(MESSAGE_BYTES_MIN, limits.message_bytes));
        limits.calls_per_second = self.calls_per_second.unwrap_or(limits.calls_per_second);
        limits.burst = self.burst.unwrap_or(limits.burst);
        limits.writes_per_second = self.writes_per_second.unwrap_or(limits.writes_per_second);
        limits.capabilities = self.capabilities.unwrap_or(limits.capabilities);
        limits.workers = self.workers.map_or(limits.workers, |n| n.max(1));
        limits.cpu_millicores = self.cpu_millicores.map_or(limits.cpu_millicores, |n| n.max(1));
        Ok(limits)
    }

    /// What all of these bound, each field at its largest bound; a field that one of them leaves open is open.
    pub fn largest(all: &[&Self]) -> Self {
        macro_rules! largest {
            ($($field:ident),*) => {
                Self { $($field: all.iter().map(|limits| limits.$field).collect::<Option<Vec<_>>>().and_then(|all| all.into_iter().max())),* }
            };
        }
        largest!(
            memory_bytes,
            call_milliseconds,
            calls_per_second,
            burst,
            writes_per_second,
            message_bytes,
            capabilities,
            workers,
            cpu_millicores
        )
    }

    /// `limits`, cut down to these bounds.
    pub fn cut(&self, mut limits: ModuleLimits) -> ModuleLimits {
        macro_rules! cut {
            ($($field:ident),*) => {
                $(limits.$field = self.$field.map_or(limits.$field, |bound| limits.$field.min(bound));)*
            };
        }
        cut!(memory_bytes, calls_per_second, burst, writes_per_second, message_bytes, capabilities, workers, cpu_millicores);
        if let Some(bound) = self.call_milliseconds.map(|ms| Duration::from_millis(ms.into())) {
            for deadline in [&mut limits.admission_deadline, &mut limits.scheduler_deadline, &mut limits.slice_deadline] {
                *deadline = bound.min(*deadline);
            }
        }
        limits
    }
}

fn milliseconds_up_to_max(field: &'static str, milliseconds: u32) -> Result<Duration, HostError> {
    if !(1..=CALL_MILLISECONDS_MAX).contains(&milliseconds) {
        return Err(bad(field, format!("must be 1 to {CALL_MILLISECONDS_MAX}")));
    }
    Ok(Duration::from_millis(milliseconds.into()))
}

impl ControllerSpec {
    fn check(raw: RawController) -> Result<Self, HostError> {
        let watch = |w: RawWatch| {
            Ok(WatchSpec { resource: ResourcePattern::parse("spec.controller.watches", &w.resource)?, map: Mapping::parse(&w.map)? })
        };
        Ok(Self {
            primary: ResourcePattern::parse("spec.controller.primary", &raw.primary)?,
            selector: raw.selector,
            watches: raw.watches.into_iter().map(watch).collect::<Result<_, HostError>>()?,
            related: raw.related.into_iter().map(|r| RelatedSpec::check("spec.controller.related", r)).collect::<Result<_, _>>()?,
            batch: raw.batch.unwrap_or(BATCH_DEFAULT).clamp(1, BATCH_MAX) as usize,
            resync: raw.resync_seconds.filter(|s| *s > 0).map(|s| Duration::from_secs(s.into())),
        })
    }
}

impl AdmissionSpec {
    fn check(raw: RawAdmission) -> Result<Self, HostError> {
        let mut phases: Vec<String> = raw.phases;
        if !raw.phase.is_empty() {
            phases.push(raw.phase);
        }
        if phases.is_empty() {
            phases.push("validating".to_owned());
        }
        let phases: Vec<String> = phases.iter().map(|p| p.to_lowercase()).collect();
        if let Some(other) = phases.iter().find(|p| !["mutating", "validating"].contains(&p.as_str())) {
            return Err(bad("spec.admission.phases", format!("{other:?} is neither mutating nor validating")));
        }
        let ignore_failures = either("spec.admission.failurePolicy", &raw.failure_policy, ["Fail", "Ignore"])?;
        if let Some(rule) = raw.rules.iter().find(|r| !["", "*", "Cluster", "Namespaced"].contains(&r.scope.as_str())) {
            return Err(bad("spec.admission.rules.scope", format!("must be Cluster, Namespaced or \"*\", not {:?}", rule.scope)));
        }
        let reinvoke = either("spec.admission.reinvocationPolicy", &raw.reinvocation_policy, ["Never", "IfNeeded"])?;
        let selector = |field, value: Option<serde_json::Value>| match value {
            None | Some(serde_json::Value::Null) => Ok(LabelSelector::default()),
            Some(value) => LabelSelector::from_object(&value).map_err(|e| bad(field, e.message)),
        };
        let conditions = Conditions::new(&raw.match_conditions);
        if let Some((name, why)) = conditions.broken() {
            return Err(bad("spec.admission.matchConditions", format!("{name:?}: {why}")));
        }
        Ok(Self {
            conditions,
            selectors: Selectors {
                namespace: selector("spec.admission.namespaceSelector", raw.namespace_selector)?,
                object: selector("spec.admission.objectSelector", raw.object_selector)?,
            },
            reinvoke,
            mutating: phases.iter().any(|p| p == "mutating"),
            validating: phases.iter().any(|p| p == "validating"),
            rules: raw.rules,
            ignore_failures,
            order: raw.order.unwrap_or(ORDER_DEFAULT),
            related: raw.related.into_iter().map(|r| RelatedSpec::check("spec.admission.related", r)).collect::<Result<_, _>>()?,
        })
    }
}

impl ResourcePattern {
    fn parse(field: &'static str, text: &str) -> Result<Self, HostError> {
        match text.split_once('/') {
            Some(("*", "*")) => Ok(Self::Everything),
            Some((group, resource)) if !resource.is_empty() && !resource.contains('/') => Ok(Self::One(ResourceKey::new(group, resource))),
            None if !text.is_empty() => Ok(Self::One(ResourceKey::new("", text))),
            _ => Err(bad(field, format!("{text:?} is not group/plural"))),
        }
    }

    /// Whether objects of `key` are meant.
    pub fn matches(&self, key: &ResourceKey) -> bool {
        match self {
            Self::Everything => true,
            Self::One(one) => one == key,
        }
    }
}

impl Mapping {
    fn parse(text: &str) -> Result<Self, HostError> {
        Ok(match text {
            "self" => Self::Own,
            "owner" => Self::Owner,
            "name" => Self::Name,
            "namespace" => Self::Namespace,
            "selector" => Self::Selector,
            "all" => Self::All,
            other => match other.split_once(':') {
                Some(("field", path)) if !path.is_empty() => Self::Field(path.to_owned()),
                Some(("ref", path)) if !path.is_empty() => Self::Reference(path.to_owned()),
                _ => return Err(bad("spec.controller.watches.map", format!("{other:?} is not a mapping"))),
            },
        })
    }
}

impl RelatedSpec {
    fn check(field: &'static str, raw: RawRelated) -> Result<Self, HostError> {
        let judging = field.starts_with("spec.admission");
        let by = match raw.by.as_str() {
            "" | "owner" => Relation::Owner,
            "ownerOrSelector" => Relation::OwnerOrSelector,
            "selector" => Relation::Selector,
            "owners" => Relation::Owners,
            "dependents" => Relation::Dependents,
            "namespace" => Relation::Namespace,
            "namespaceObject" => Relation::NamespaceObject,
            "siblings" if judging => Relation::Siblings,
            "name" => Relation::Name,
            "all" => Relation::All,
            "outdated" => Relation::Outdated,
            other => match other.split_once(':') {
                Some(("field", path)) if !path.is_empty() => Relation::Field(path.to_owned()),
                Some(("ref", path)) if !path.is_empty() => Relation::Reference(path.to_owned()),
                _ => return Err(bad(field, format!("{other:?} is not a relation"))),
            },
        };
        let when = match raw.when.as_str() {
            "" | "always" => When::Always,
            "deleting" => When::Deleting,
            "present" => When::Present,
            other => match other.strip_prefix("found:") {
                Some(name) if judging && !name.is_empty() => When::Found(name.to_owned()),
                _ => return Err(bad(field, format!("when: {other:?} is not a condition"))),
            },
        };
        let needs_resource = !matches!(by, Relation::Owners | Relation::Dependents | Relation::NamespaceObject | Relation::Siblings);
        let resource = if raw.resource.is_empty() && !needs_resource {
            ResourcePattern::Everything
        } else {
            ResourcePattern::parse(field, &raw.resource)?
        };
        Ok(Self { name: raw.name, resource, by, namespace: raw.namespace, fields: raw.fields, when })
    }
}

#[cfg(test)]
mod tests;
