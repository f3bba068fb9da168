//! Watches against a model, under random writes. Each watcher keeps a map of what it was told; it stops and resumes at
//! random, and in the end its map must be what a list says. On the way revisions must rise strictly: nothing twice,
//! nothing out of order. The seed is printed; `PINTLE_SEED` repeats a run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pintle_registry::{DeleteOptions, ListOptions, RegistryConfig, Revision, WatchEvent, WatchOptions, WatchStream};
use serde_json::json;

use crate::world::{World, config_map, from, with_initial_events};

const NAMES: u64 = 12;
const WRITERS: u64 = 4;
const WRITES_EACH: usize = 150;
const SELECTORS: [(&str, &str); 5] = [("", ""), ("on=yes", ""), ("on!=yes", ""), ("", "metadata.name=cm-3"), ("on", "metadata.name!=cm-5")];

/// A small generator of random numbers (xorshift), so that a seed repeats.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

async fn write(world: &World, mut random: Random) {
    for _ in 0..WRITES_EACH {
        let name = format!("cm-{}", random.below(NAMES));
        // Conflicts, missing and existing objects are all part of it.
        let outcome = match random.below(5) {
            0 | 1 => world.create("configmaps", config_map(&name, "0")).await.map(|_| ()),
            2 => world.delete("configmaps", "default", &name, &DeleteOptions::default()).await.map(|_| ()),
            3 => {
                let value = if random.below(2) == 0 { json!("yes") } else { json!(null) };
                world.merge("configmaps", "default", &name, json!({"metadata": {"labels": {"on": value}}})).await.map(|_| ())
            }
            _ => {
                let value = random.below(1000).to_string();
                world.merge("configmaps", "default", &name, json!({"data": {"value": value}})).await.map(|_| ())
            }
        };
        if let Err(err) = outcome {
            assert!(matches!(err.code, 404 | 409), "{err:?}");
        }
    }
}

/// What a watcher believes: revision of each object by name.
#[derive(Default)]
struct Belief {
    objects: BTreeMap<String, Revision>,
    seen: Revision,
}

impl Belief {
    /// `initial`: the object comes from a snapshot, in which revisions are in no order.
    fn learn(&mut self, event: &WatchEvent, initial: bool) {
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                let known = self.objects.insert(object.meta().name.to_string(), object.revision());
                assert_eq!(known.is_some(), matches!(event, WatchEvent::Modified(_)), "{event:?}");
                if !initial {
                    self.rise(object.revision());
                }
            }
            WatchEvent::Deleted(object) => {
                assert!(self.objects.remove(&*object.meta().name).is_some(), "{event:?}");
                self.rise(object.revision());
            }
            WatchEvent::Bookmark { revision, .. } => {
                assert!(*revision >= self.seen, "{event:?} after {}", self.seen);
                self.seen = *revision;
            }
        }
    }

    fn rise(&mut self, to: Revision) {
        assert!(to > self.seen, "{to} after {}", self.seen);
        self.seen = to;
    }
}

async fn observe(world: &World, (labels, fields): (&str, &str), mut random: Random, done: &AtomicBool) {
    let select = |options: WatchOptions| WatchOptions { label_selector: labels.to_owned(), field_selector: fields.to_owned(), ..options };
    let mut belief = Belief::default();
    let mut stream = world.watch("configmaps", &select(with_initial_events())).await;
    initial(&mut stream, &mut belief).await;
    loop {
        for _ in 0..random.below(30) {
            match tokio::time::timeout(Duration::from_millis(5), stream.next()).await {
                Ok(event) => belief.learn(&event.expect("not ended").expect("no error"), false),
                Err(_) => break,
            }
        }
        let finished = done.load(Ordering::SeqCst);
        if random.below(2) == 0
            && let Some(bookmark) = stream.bookmark()
        {
            belief.learn(&bookmark, false);
        }
        if finished {
            break;
        }
        if random.below(3) == 0 {
            stream = world.watch("configmaps", &select(from(belief.seen))).await;
        }
    }
    let list = ListOptions { label_selector: labels.to_owned(), field_selector: fields.to_owned(), ..ListOptions::default() };
    let page = world.list("configmaps", "", &list).await.expect("listed");
    while stream.bookmark().is_none() {
        belief.learn(&stream.next().await.expect("not ended").expect("no error"), false);
    }
    let expected: BTreeMap<String, Revision> =
        page.items.iter().map(|object| (object.meta().name.to_string(), object.revision())).collect();
    assert_eq!(belief.objects.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{labels:?} {fields:?}");
    assert_eq!(belief.objects, expected);
}

async fn initial(stream: &mut WatchStream, belief: &mut Belief) {
    loop {
        let event = stream.next().await.expect("not ended").expect("no error");
        belief.learn(&event, true);
        if matches!(event, WatchEvent::Bookmark { initial_events_end: true, .. }) {
            return;
        }
    }
}

async fn run(seed: u64, recent_events_max: usize) {
    println!("PINTLE_SEED={seed} recent_events_max={recent_events_max}");
    let world = Arc::new(World::with(RegistryConfig { recent_events_max, ..RegistryConfig::default() }).await);
    let done = Arc::new(AtomicBool::new(false));
    let random = |stream: u64| Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(stream * 0x1234_5678_9ABC) | 1);
    let observers: Vec<_> = (0..10)
        .map(|at| {
            let (world, done, random) = (Arc::clone(&world), Arc::clone(&done), random(100 + at));
            tokio::spawn(async move { observe(&world, SELECTORS[at as usize % SELECTORS.len()], random, &done).await })
        })
        .collect();
    let writers: Vec<_> = (0..WRITERS)
        .map(|at| {
            let (world, random) = (Arc::clone(&world), random(at));
            tokio::spawn(async move { write(&world, random).await })
        })
        .collect();
    for writer in writers {
        writer.await.expect("no panic");
    }
    done.store(true, Ordering::SeqCst);
    for observer in observers {
        tokio::time::timeout(Duration::from_secs(30), observer).await.expect("in time").expect("no panic");
    }
}

fn seed() -> u64 {
    let given = std::env::var("PINTLE_SEED").ok().and_then(|text| text.parse().ok());
    given
        .unwrap_or_else(|| u64::from(std::process::id()) << 16 | u64::from(jiff::Timestamp::now().subsec_nanosecond().unsigned_abs() >> 14))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_watcher_believes_what_a_list_says_when_it_resumes_from_memory() {
    run(seed(), 8192).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_watcher_believes_what_a_list_says_when_it_resumes_from_history() {
    run(seed().wrapping_add(1), 3).await;
}
