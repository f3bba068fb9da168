//! A Module object's `spec`, read and checked once. What comes out can be acted on without looking at JSON again.

use crate::{
    engine::Answers,
    fault::HostError,
    grants::{Permission, could_show},
    limits::{HISTORY_DEFAULT, INSTANCE_MEMORY_BYTES_MAX, ModuleLimits},
};
use pintle_api::selector::LabelSelector;
use pintle_registry::{AdmissionRule, Conditions, Phase, ResourceKey, Selectors};
use serde::Deserialize;
use std::time::Duration;

/// What a module is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
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
    /// Versions that can be gone back to, the running one among them.
    pub history_limit: usize,
}

/// `spec.plugin`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct PluginSpec {
    pub points: Vec<Point>,
    /// Of its scores; 1 where nothing is said.
    pub weight: Option<i32>,
    #[serde(default = "usual_order")]
    pub order: i64,
    pub failure_policy: FailurePolicy,
}

/// What becomes of what a module fails to answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum FailurePolicy {
    #[default]
    #[serde(alias = "")]
    Fail,
    /// Go on without it.
    Ignore,
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
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ShadowSpec {
    pub source: Source,
    /// Empty: any.
    #[serde(default)]
    pub digest: String,
    pub take_over: Option<TakeOver>,
}

/// A resource of a manifest: `group/plural`, or `*/*` for the metadata of everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub enum ResourcePattern {
    Everything,
    One(ResourceKey),
}

/// `spec.controller`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ControllerSpec {
    pub primary: ResourcePattern,
    /// Label selector in the query parameter's syntax; empty selects everything.
    pub selector: String,
    pub watches: Vec<WatchSpec>,
    pub related: Vec<RelatedSpec>,
    batch: Option<usize>,
    resync_seconds: u32,
}

/// What puts keys into the queue beside the primary objects themselves.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchSpec {
    pub resource: ResourcePattern,
    pub map: Mapping,
}

/// How a changed object leads to keys.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
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
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum When {
    #[default]
    Always,
    /// While the object is being deleted.
    Deleting,
    /// The primary is there.
    Present,
    /// When the entry of this name, above it, has found something.
    Found(String),
}

/// How related objects are found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Relation {
    #[default]
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
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct AdmissionSpec {
    pub rules: Vec<AdmissionRule>,
    phase: Option<PhaseName>,
    phases: Vec<PhaseName>,
    pub failure_policy: FailurePolicy,
    timeout_milliseconds: Option<u32>,
    #[serde(default = "usual_order")]
    pub order: i64,
    pub related: Vec<RelatedSpec>,
    namespace_selector: Option<serde_json::Value>,
    object_selector: Option<serde_json::Value>,
    match_conditions: serde_json::Value,
    pub reinvocation_policy: Reinvocation,
    /// Both selectors, read.
    #[serde(skip)]
    pub selectors: Selectors,
    /// `matchConditions`, compiled: all must hold.
    #[serde(skip)]
    pub conditions: Conditions,
}

/// A phase, as manifests write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
enum PhaseName {
    #[serde(alias = "mutating")]
    Mutating,
    #[serde(alias = "validating")]
    Validating,
}

/// Whether a module is asked once more when a later one edited the object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Reinvocation {
    #[default]
    #[serde(alias = "")]
    Never,
    IfNeeded,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct RawSpec {
    r#type: Option<ModuleType>,
    source: Option<Source>,
    digest: String,
    permissions: Vec<Permission>,
    grants: Vec<String>,
    limits: RawLimits,
    config: Option<serde_json::Value>,
    controller: Option<ControllerSpec>,
    controllers: Vec<ControllerSpec>,
    admission: Option<AdmissionSpec>,
    scheduler_name: String,
    plugin: Option<PluginSpec>,
    api_level: Option<u16>,
    suspend: bool,
    record: Option<RawRecord>,
    shadow: Option<ShadowSpec>,
    history_limit: Option<usize>,
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

const BATCH_DEFAULT: usize = 64;
const BATCH_MAX: usize = 1024;
const ORDER_DEFAULT: i64 = 1000;
const CALL_MILLISECONDS_MAX: u32 = 30_000;
const MESSAGE_BYTES_MIN: usize = 1024;

/// What of a spec will not do, and why.
pub fn bad(field: &str, problem: impl Into<String>) -> HostError {
    HostError::BadSpec { field: field.to_owned(), problem: problem.into() }
}

fn usual_order() -> i64 {
    ORDER_DEFAULT
}

impl ModuleSpec {
    /// Reads the `spec` of a Module object.
    ///
    /// # Errors
    /// `BadSpec` naming the field that cannot be acted on.
    pub fn parse(spec: &serde_json::Value) -> Result<Self, HostError> {
        let raw: RawSpec = serde_path_to_error::deserialize(spec).map_err(|error| {
            let path = error.path().to_string();
            bad(format!("spec.{path}").trim_end_matches('.'), error.into_inner().to_string())
        })?;
        let kind = raw.r#type.ok_or_else(|| bad("spec.type", "is required"))?;
        if let Some(level) = raw.api_level.filter(|level| *level > pintle_wit::API_LEVEL) {
            return Err(bad("spec.apiLevel", format!("this kernel has level {}, not {level}", pintle_wit::API_LEVEL)));
        }
        let mut controllers: Vec<_> = raw.controller.into_iter().chain(raw.controllers).collect();
        controllers.iter_mut().try_for_each(ControllerSpec::check)?;
        let mut admission = raw.admission;
        admission.iter_mut().try_for_each(AdmissionSpec::check)?;
        let timeout = admission.as_ref().and_then(|admission| admission.timeout_milliseconds);
        match kind {
            ModuleType::SchedulerPlugin if raw.plugin.is_none() => return Err(bad("spec.plugin", "is required for a scheduler plugin")),
            ModuleType::Controller if controllers.is_empty() => return Err(bad("spec.controller", "is required for a controller")),
            ModuleType::Admission if admission.is_none() => return Err(bad("spec.admission", "is required for an admission module")),
            _ => {}
        }
        if raw.plugin.as_ref().is_some_and(|plugin| plugin.points.is_empty()) {
            return Err(bad("spec.plugin.points", "must name at least one"));
        }
        for grant in &raw.grants {
            if !["logger", "timer"].contains(&grant.as_str()) {
                return Err(bad("spec.grants", format!("{grant:?} is not something that can be granted; logger and timer are")));
            }
        }
        let scheduler_name = if raw.scheduler_name.is_empty() { "default-scheduler".to_owned() } else { raw.scheduler_name };
        let spec = Self {
            kind,
            source: raw.source.ok_or_else(|| bad("spec.source", "is required"))?,
            digest: raw.digest,
            permissions: raw.permissions,
            grants: raw.grants,
            limits: raw.limits.check(timeout)?,
            config: raw.config.map_or_else(|| "{}".to_owned(), |c| c.to_string()),
            controllers,
            admission,
            scheduler_name,
            plugin: raw.plugin,
            suspend: raw.suspend,
            shadow: raw.shadow,
            history_limit: raw.history_limit.map_or(HISTORY_DEFAULT, |limit| limit.max(1)),
            record: raw.record.map(|record| record.max_bytes.unwrap_or(pintle_record::BYTES_DEFAULT)),
        };
        must_see(spec.kind, &spec.controllers, &spec.permissions)?;
        Ok(spec)
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

fn milliseconds_up_to_max(field: &str, milliseconds: u32) -> Result<Duration, HostError> {
    if !(1..=CALL_MILLISECONDS_MAX).contains(&milliseconds) {
        return Err(bad(field, format!("must be 1 to {CALL_MILLISECONDS_MAX}")));
    }
    Ok(Duration::from_millis(milliseconds.into()))
}

impl ControllerSpec {
    fn check(&mut self) -> Result<(), HostError> {
        if self.primary == ResourcePattern::default() {
            return Err(bad("spec.controller.primary", "is required"));
        }
        let judges = |related: &RelatedSpec| related.by == Relation::Siblings || matches!(related.when, When::Found(_));
        if let Some(related) = self.related.iter().find(|related| judges(related)) {
            return Err(bad(
                "spec.controller.related",
                format!("{:?}: siblings and what was found are for admission modules", related.name),
            ));
        }
        RelatedSpec::settle("spec.controller.related", &mut self.related)
    }

    /// Keys in one call.
    pub fn batch(&self) -> usize {
        self.batch.unwrap_or(BATCH_DEFAULT).clamp(1, BATCH_MAX)
    }

    /// How often everything is looked at again.
    pub fn resync(&self) -> Option<Duration> {
        (self.resync_seconds > 0).then(|| Duration::from_secs(self.resync_seconds.into()))
    }
}

impl AdmissionSpec {
    /// Whether it is asked in the phase; without any it is the validating one.
    pub fn is_in(&self, phase: Phase) -> bool {
        let name = if phase == Phase::Mutating { PhaseName::Mutating } else { PhaseName::Validating };
        let mut said = self.phase.iter().chain(&self.phases).peekable();
        if said.peek().is_none() { phase == Phase::Validating } else { said.any(|said| *said == name) }
    }

    fn check(&mut self) -> Result<(), HostError> {
        if let Some(rule) = self.rules.iter().find(|r| !["", "*", "Cluster", "Namespaced"].contains(&r.scope.as_str())) {
            return Err(bad("spec.admission.rules.scope", format!("must be Cluster, Namespaced or \"*\", not {:?}", rule.scope)));
        }
        let selector = |field, value: &Option<serde_json::Value>| match value {
            None => Ok(LabelSelector::default()),
            Some(value) => LabelSelector::from_object(value).map_err(|e| bad(field, e.message)),
        };
        self.selectors.namespace = selector("spec.admission.namespaceSelector", &self.namespace_selector)?;
        self.selectors.object = selector("spec.admission.objectSelector", &self.object_selector)?;
        self.conditions = Conditions::new(&self.match_conditions);
        if let Some((name, why)) = self.conditions.broken() {
            return Err(bad("spec.admission.matchConditions", format!("{name:?}: {why}")));
        }
        RelatedSpec::settle("spec.admission.related", &mut self.related)
    }
}

impl Default for ResourcePattern {
    /// Nothing is said.
    fn default() -> Self {
        Self::One(ResourceKey::new("", ""))
    }
}

impl TryFrom<String> for ResourcePattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.split_once('/') {
            Some(("*", "*")) => Ok(Self::Everything),
            Some((group, resource)) if !resource.is_empty() && !resource.contains('/') => Ok(Self::One(ResourceKey::new(group, resource))),
            None if !text.is_empty() => Ok(Self::One(ResourceKey::new("", text))),
            _ => Err(format!("{text:?} is not group/plural")),
        }
    }
}

impl ResourcePattern {
    /// Whether objects of `key` are meant.
    pub fn matches(&self, key: &ResourceKey) -> bool {
        match self {
            Self::Everything => true,
            Self::One(one) => one == key,
        }
    }
}

/// `field:PATH` or `ref:PATH`.
fn at_path<T>(text: &str, field: fn(String) -> T, reference: fn(String) -> T) -> Option<T> {
    match text.split_once(':') {
        Some(("field", path)) if !path.is_empty() => Some(field(path.to_owned())),
        Some(("ref", path)) if !path.is_empty() => Some(reference(path.to_owned())),
        _ => None,
    }
}

impl TryFrom<String> for Mapping {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Ok(match text.as_str() {
            "self" => Self::Own,
            "owner" => Self::Owner,
            "name" => Self::Name,
            "namespace" => Self::Namespace,
            "selector" => Self::Selector,
            "all" => Self::All,
            other => at_path(other, Self::Field, Self::Reference).ok_or_else(|| format!("{other:?} is not a mapping"))?,
        })
    }
}

impl TryFrom<String> for Relation {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Ok(match text.as_str() {
            "" | "owner" => Self::Owner,
            "ownerOrSelector" => Self::OwnerOrSelector,
            "selector" => Self::Selector,
            "owners" => Self::Owners,
            "dependents" => Self::Dependents,
            "namespace" => Self::Namespace,
            "namespaceObject" => Self::NamespaceObject,
            "siblings" => Self::Siblings,
            "name" => Self::Name,
            "all" => Self::All,
            "outdated" => Self::Outdated,
            other => at_path(other, Self::Field, Self::Reference).ok_or_else(|| format!("{other:?} is not a relation"))?,
        })
    }
}

impl TryFrom<String> for When {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match (text.as_str(), text.strip_prefix("found:")) {
            ("" | "always", _) => Ok(Self::Always),
            ("deleting", _) => Ok(Self::Deleting),
            ("present", _) => Ok(Self::Present),
            (_, Some(name)) if !name.is_empty() => Ok(Self::Found(name.to_owned())),
            (other, _) => Err(format!("{other:?} is not a condition")),
        }
    }
}

impl RelatedSpec {
    /// Only relations that lead to whatever there is need no resource.
    fn settle(field: &str, all: &mut [Self]) -> Result<(), HostError> {
        for related in all.iter_mut().filter(|related| related.resource == ResourcePattern::default()) {
            if !matches!(related.by, Relation::Owners | Relation::Dependents | Relation::NamespaceObject | Relation::Siblings) {
                return Err(bad(field, format!("{:?} must name a resource", related.name)));
            }
            related.resource = ResourcePattern::Everything;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
