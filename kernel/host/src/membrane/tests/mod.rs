use super::*;
use std::time::Duration;

#[test]
fn a_rate_lets_a_second_of_burst_through_and_then_its_pace() {
    let start = Instant::now();
    let mut rate = Rate::new(100, 0, start);
    assert!((0..100).all(|_| rate.take(1, start)));
    assert!(!rate.take(1, start));
    assert!(rate.take(1, start + Duration::from_millis(10)));
    assert!(!rate.take(1, start + Duration::from_millis(10)));
    assert!(rate.take(1000, start + Duration::from_secs(5)), "more than a bucketful passes when it is full");
    assert!(!rate.take(1, start + Duration::from_secs(6)), "and is paid off");
    let mut bursting = Rate::new(100, 50, start);
    assert!((0..150).all(|_| bursting.take(1, start)) && !bursting.take(1, start));
}

#[test]
fn a_revoked_gate_lets_nothing_through_and_a_flood_ends_the_instance() {
    let ended = Rc::new(Cell::new(None));
    let (seen, counters) = (ended.clone(), Arc::new(Counters::default()));
    let limits = ModuleLimits { calls_per_second: 10, bytes_in_flight: 100, ..ModuleLimits::default() };
    let gate = Gate::new(ModuleId::new("m"), Generation(1), limits, counters.clone(), |_| {}, move |kind, _| seen.set(Some(kind)));
    let heavy = gate.admit(90).expect("within the budget");
    assert!(gate.admit(20).is_err());
    drop(heavy);
    assert!(gate.admit(20).is_ok());
    for _ in 0..100 {
        let _ = gate.admit(0);
    }
    assert_eq!(ended.get(), Some(FaultKind::Misuse));
    gate.revoke();
    assert!(gate.admit(0).is_err_and(|e| e.to_string().contains("stale generation")));
    assert!(counters.denied.load(std::sync::atomic::Ordering::Relaxed) > 80);
}
