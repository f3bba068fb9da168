//! One scene under every disturbance that a real cluster has in store: the end must be the same, and it must stay.
//!
//! Enumerated: a crash after the n-th write, for each n; views that are k changes old, for each k up to [`LAG_MAX`]; others who act up to
//! [`MERGE_MAX`] times before the controller hears of it, so that their events come as one. And, from a seed, any mixture of these. The kernel's
//! own promise is kept throughout: a key is decided on again only when its view shows all writes of its last decision.
//!
//! An end is what objects say. Uids, revisions, generations and the made-up part of generated names are how they got there, and do not count.

use std::{collections::BTreeMap, env, ops::Range};

use serde_json::Value;

use super::{FakeKernel, Round, store::text};
use crate::{Controller, Error, Result};

/// The oldest views, in changes.
pub const LAG_MAX: u64 = 4;
/// How often others act before the controller hears of it, at most.
pub const MERGE_MAX: u64 = 3;
/// Seeds that a test runs when `PINTLE_SEEDS` (`FROM..TO`) does not say which.
const SEEDS: Range<u64> = 0..16;
/// Rounds after which a disturbed controller that still writes is called restless.
const ROUNDS_MAX: usize = 2_000;

/// What goes wrong in one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disturbance {
    /// Nothing.
    None,
    /// The controller dies after this many writes, once, and another takes over.
    Crash(usize),
    /// Views lack this many of the newest changes until nothing else happens.
    Lag(u64),
    /// Others act this often between two looks of the controller.
    Merge(u64),
    /// All of it, drawn from a seed.
    Mixed(u64),
}

type Make<'a, T> = Box<dyn Fn() -> Result<T> + 'a>;
type Others<'a> = Box<dyn Fn(&mut FakeKernel) -> Result<()> + 'a>;

/// A scene to disturb: where it begins, who decides, and who else acts in it.
pub struct Disturbed<'a, C> {
    begin: Make<'a, FakeKernel>,
    controller: Make<'a, C>,
    others: Others<'a>,
}

impl<'a, C: Controller> Disturbed<'a, C> {
    /// A scene that begins with what `begin` makes, and is worked on by what `controller` makes.
    pub fn new(begin: impl Fn() -> Result<FakeKernel> + 'a, controller: impl Fn() -> Result<C> + 'a) -> Self {
        Self { begin: Box::new(begin), controller: Box::new(controller), others: Box::new(|_| Ok(())) }
    }

    /// The same with others at work: kubelets, other controllers. They must come to rest, too.
    #[must_use]
    pub fn with_others(mut self, others: impl Fn(&mut FakeKernel) -> Result<()> + 'a) -> Self {
        self.others = Box::new(others);
        self
    }

    /// Runs it undisturbed and under every disturbance; how many runs there were.
    ///
    /// # Errors
    /// The first disturbance under which the end differs or does not stay, and where.
    pub fn check(&self) -> Result<usize> {
        let (expected, writes) = self.run(Disturbance::None)?;
        let seeds = seeds();
        println!("{} writes undisturbed; seeds {}..{} (PINTLE_SEEDS)", writes, seeds.start, seeds.end);
        let all: Vec<Disturbance> = (0..=writes)
            .map(Disturbance::Crash)
            .chain((1..=LAG_MAX).map(Disturbance::Lag))
            .chain((2..=MERGE_MAX).map(Disturbance::Merge))
            .chain(seeds.map(Disturbance::Mixed))
            .collect();
        for disturbance in &all {
            let (end, _) = self.run(*disturbance).map_err(|e| Error::undecided(format!("{disturbance:?}: {e}")))?;
            if let Some(difference) = difference(&expected, &end) {
                return Err(Error::undecided(format!("{disturbance:?} ends otherwise: {difference}")));
            }
        }
        Ok(all.len() + 1)
    }

    /// One run: its end, and how many writes the controller made.
    fn run(&self, disturbance: Disturbance) -> Result<(End, usize)> {
        let (mut kernel, mut controller) = ((self.begin)()?, (self.controller)()?);
        let mut chance = Chance(if let Disturbance::Mixed(seed) = disturbance { seed } else { 0 });
        if let Disturbance::Crash(writes) = disturbance {
            kernel.crash_after(writes);
        }
        // A round may be quiet only because its view was old: it is over when one with a true view is.
        let mut quiet = 0;
        for _ in 0..ROUNDS_MAX {
            let (lag, acts) = match disturbance {
                Disturbance::Lag(lag) => (lag, 1),
                Disturbance::Merge(acts) => (0, acts),
                Disturbance::Mixed(_) => {
                    if chance.draw(8) == 0 {
                        kernel.crash_after(usize::try_from(chance.draw(3)).unwrap_or(0));
                    }
                    (chance.draw(LAG_MAX + 1), 1 + chance.draw(MERGE_MAX))
                }
                _ => (0, 1),
            };
            let lag = lag.saturating_sub(quiet);
            kernel.lag_views(lag);
            let before = kernel.store.revision;
            let round = kernel.round(&mut controller)?;
            if round == Round::Crashed {
                controller = (self.controller)()?;
            }
            for _ in 0..acts {
                (self.others)(&mut kernel)?;
            }
            let rested = round == Round::Quiet && kernel.store.revision == before;
            if rested && lag == 0 {
                return Ok((End::of(&kernel), kernel.writes.len()));
            }
            quiet = if rested { quiet + 1 } else { 0 };
        }
        Err(Error::undecided(format!("it does not come to rest; its last refusal: {:?}", kernel.refusals.last())))
    }
}

/// From `PINTLE_SEEDS`, or the default few.
fn seeds() -> Range<u64> {
    let parse = |text: String| {
        let (from, to) = text.split_once("..")?;
        Some(from.parse().ok()?..to.parse().ok()?)
    };
    env::var("PINTLE_SEEDS").ok().and_then(parse).unwrap_or(SEEDS)
}

/// Numbers from a seed (splitmix64).
struct Chance(u64);

impl Chance {
    /// One of `0..below`.
    fn draw(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below.max(1)
    }
}

/// What the objects say, in an order that their made-up names have no part in.
#[derive(Debug, PartialEq)]
struct End(Vec<(String, Value)>);

impl End {
    fn of(kernel: &FakeKernel) -> Self {
        let mut told: BTreeMap<String, String> = BTreeMap::new();
        for (key, object) in kernel.store.iter() {
            let generated = text(object, "/metadata/generateName");
            let name = if generated.is_empty() { key.name.clone() } else { format!("{generated}*") };
            told.insert(text(object, "/metadata/uid").to_owned(), format!("uid of {} {}/{name}", key.resource, key.namespace));
            if !generated.is_empty() {
                told.insert(key.name.clone(), name);
            }
        }
        let one = |object: &Value| {
            let mut object = object.clone();
            for (parent, fields) in [("/metadata", &["uid", "resourceVersion", "generation"][..]), ("/status", &["observedGeneration"])] {
                if let Some(map) = object.pointer_mut(parent).and_then(Value::as_object_mut) {
                    fields.iter().for_each(|field| drop(map.remove(*field)));
                }
            }
            rename(&mut object, &told);
            object
        };
        let mut objects: Vec<(String, Value)> = kernel
            .store
            .iter()
            .map(|(key, object)| {
                let name = told.get(&key.name).unwrap_or(&key.name);
                (format!("{} {}/{name}", key.resource, key.namespace), one(object))
            })
            .collect();
        objects.sort_by_cached_key(|(key, object)| (key.clone(), object.to_string()));
        Self(objects)
    }
}

fn rename(value: &mut Value, told: &BTreeMap<String, String>) {
    match value {
        Value::String(text) => {
            if let Some(name) = told.get(text.as_str()) {
                text.clone_from(name);
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|one| rename(one, told)),
        Value::Object(map) => map.values_mut().for_each(|one| rename(one, told)),
        _ => {}
    }
}

fn difference(expected: &End, found: &End) -> Option<String> {
    let (expected, found) = (&expected.0, &found.0);
    let at =
        expected.iter().zip(found).position(|(a, b)| a != b).or((expected.len() != found.len()).then(|| expected.len().min(found.len())))?;
    let show = |list: &[(String, Value)]| list.get(at).map_or_else(|| "nothing".to_owned(), |(key, object)| format!("{key}: {object}"));
    Some(format!(
        "{} objects, not {}; the first that differs is\n{}\nand undisturbed\n{}",
        found.len(),
        expected.len(),
        show(found),
        show(expected)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ObjectRef, Plan, Request, Start, Time, Untyped};
    use serde_json::json;

    const MANIFEST: &str = r#"{"spec": {"type": "controller", "controller": {"primary": "/namespaces",
        "related": [{"name": "maps", "resource": "/configmaps", "by": "namespace"}]}}}"#;

    /// Makes two maps in each namespace; how it names and counts them is what the tests vary.
    struct Maker {
        names: fn(usize, &Request<'_>) -> Value,
    }

    impl Controller for Maker {
        fn start(_: &Start) -> Result<Self> {
            Ok(Maker { names: |n, _| json!({"name": format!("map-{n}")}) })
        }

        fn reconcile(&mut self, _: Time, request: &Request<'_>) -> Result<Plan> {
            let there = request.related_bytes("maps").len();
            let map = |n| {
                let mut meta = (self.names)(n, request);
                meta["namespace"] = json!(request.target.name);
                Untyped::new(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta}))
            };
            (there..2).try_fold(Plan::new(), |plan, n| Ok(plan.create(&map(n)?)))
        }
    }

    fn scene() -> Result<FakeKernel> {
        let mut kernel = FakeKernel::new(MANIFEST)?;
        for name in ["a", "b", "c"] {
            kernel.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))?;
        }
        Ok(kernel)
    }

    #[test]
    fn a_controller_that_names_what_it_makes_ends_the_same() -> Result<()> {
        let runs = Disturbed::new(scene, || Maker::start(&Start::default())).check()?;
        assert_eq!(runs as u64, 1 + 7 + LAG_MAX + (MERGE_MAX - 1) + (SEEDS.end - SEEDS.start));
        Ok(())
    }

    /// Looks away: it makes another map for each one that somebody takes, and counts who took it.
    #[test]
    fn a_controller_that_writes_by_what_it_remembers_is_found_out() {
        struct Forgetful(bool);
        impl Controller for Forgetful {
            fn start(_: &Start) -> Result<Self> {
                Ok(Forgetful(false))
            }
            fn reconcile(&mut self, _: Time, request: &Request<'_>) -> Result<Plan> {
                if std::mem::replace(&mut self.0, true) || request.target.name != "a" {
                    return Ok(Plan::new());
                }
                let map = |name: &str| {
                    Untyped::new(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": name, "namespace": "a"}}))
                };
                Ok(Plan::new().create(&map("first-")?).create(&map("second-")?))
            }
        }
        let found = Disturbed::new(scene, || Forgetful::start(&Start::default())).check().expect_err("a crash doubles its first map");
        assert!(found.to_string().contains("Crash(1)"), "{found}");
    }

    #[test]
    fn a_decision_on_an_old_view_is_found_out() {
        // It makes one map for each map that others made: on an old view it makes too many, and never looks back.
        struct Counter;
        impl Controller for Counter {
            fn start(_: &Start) -> Result<Self> {
                Ok(Counter)
            }
            fn reconcile(&mut self, _: Time, request: &Request<'_>) -> Result<Plan> {
                let seen = request.related_bytes("maps").len();
                let target = ObjectRef::named("", "namespaces", "", &request.target.name);
                let told: Value = request.object::<Value>()?.unwrap_or_default()["metadata"]["annotations"]["first-seen"].clone();
                Ok(if told.is_null() {
                    Plan::new().patch(target, json!({"metadata": {"annotations": {"first-seen": seen.to_string()}}}))
                } else {
                    Plan::new()
                })
            }
        }
        let begin = || {
            let mut kernel = scene()?;
            kernel.note_view();
            kernel.put(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "namespace": "c"}}))?;
            Ok(kernel)
        };
        let found = Disturbed::new(begin, || Ok(Counter)).check().expect_err("an old view lacks the map");
        assert!(found.to_string().contains("Lag("), "{found}");
    }
}
