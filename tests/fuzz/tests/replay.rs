//! Every target on its seeds, on what was found before, and on mutations of these that a seed decides. No instrumentation: a search is
//! `cargo xtask fuzz`'s. `PINTLE_SEEDS=0..100 cargo test --release --workspace --test replay` runs many seeds, `PINTLE_SEEDS=7` one.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use pintle_fuzz::draw::Draw;
use pintle_fuzz::sample::{self, Fill};
use pintle_fuzz::{TARGETS, Target, findings};
use serde_json::Value;

/// The stack of the threads that read bodies in the kernel: what nests deep must fit into it.
const STACK_BYTES: usize = 2 << 20;

fn seeds() -> std::ops::Range<u64> {
    let text = std::env::var("PINTLE_SEEDS").unwrap_or_else(|_| "1".to_owned());
    let number = |text: &str| text.parse::<u64>().expect("PINTLE_SEEDS is a number or a range");
    text.split_once("..").map_or_else(|| number(&text)..number(&text) + 1, |(from, to)| number(from)..number(to))
}

/// Runs one input; an answer when it fails.
fn run(target: &Target, what: &str, bytes: &[u8]) -> Option<String> {
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(bytes)));
    outcome.is_err().then(|| {
        let file = std::env::temp_dir().join(format!("pintle-fuzz-{}-{}", target.name, what.replace([' ', '/'], "-")));
        std::fs::write(&file, bytes)
            .map_or_else(|e| e.to_string(), |()| format!("{}: {what}: its input is in {}", target.name, file.display()))
    })
}

/// The first failure of a target.
fn replay(target: &Target) -> Option<String> {
    let mut pool = (target.seeds)();
    assert!(!pool.is_empty(), "{} has no seeds", target.name);
    for (at, bytes) in pool.iter().enumerate() {
        if let Some(failure) = run(target, &format!("seed input {at}"), bytes) {
            return Some(failure);
        }
    }
    for (name, bytes) in findings(target.name) {
        if let Some(failure) = run(target, &format!("kept finding {name}"), &bytes) {
            return Some(failure);
        }
        pool.push(bytes);
    }
    seeds().find_map(|seed| {
        let mut draw = Draw::new(seed);
        (0..target.mutations).find_map(|at| run(target, &format!("PINTLE_SEEDS={seed} mutation {at}"), &draw.mutation(&pool)))
    })
}

#[test]
fn every_target_holds_on_its_seeds_on_what_was_found_and_on_mutations() {
    let wanted = std::env::var("PINTLE_FUZZ_TARGET").ok();
    let mut failures = Vec::new();
    for target in TARGETS.iter().filter(|target| wanted.as_deref().is_none_or(|wanted| wanted == target.name)) {
        let started = std::time::Instant::now();
        let running = thread::Builder::new().stack_size(STACK_BYTES).spawn(|| replay(target)).expect("a thread");
        failures.extend(running.join().unwrap_or_else(|_| Some(format!("{}: its seeds cannot be made", target.name))));
        println!("{:<18} {:>6} ms", target.name, started.elapsed().as_millis());
    }
    pintle_fuzz::clean();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn every_kind_with_every_field_is_the_same_through_json_yaml_and_protobuf() {
    let (mut kinds, mut failures) = (0, Vec::new());
    for resource in pintle_api::resources() {
        let mut object = sample::object(resource, Fill::Whole, &mut Draw::new(1));
        let issues = pintle_fuzz::conform(resource, &mut object);
        assert!(issues.is_empty(), "{}: {issues:?}", resource.kind);
        for (form, again) in pintle_fuzz::through_every_form(resource, &object) {
            if again != object {
                failures.push(format!("{} through {form}:\n{object}\n{again}", resource.kind));
            }
        }
        assert!(fields(&object) > 5, "{} has hardly a field", resource.kind);
        kinds += 1;
    }
    println!("{kinds} kinds held");
    assert!(kinds > 60 && failures.is_empty(), "{}", failures.join("\n"));
}

fn fields(value: &Value) -> usize {
    match value {
        Value::Object(map) => map.len() + map.values().map(fields).sum::<usize>(),
        Value::Array(list) => list.iter().map(fields).sum(),
        _ => 0,
    }
}
