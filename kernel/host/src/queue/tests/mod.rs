use super::*;

#[test]
fn a_key_is_taken_once_however_often_it_was_added() {
    let mut queue = Queue::default();
    let now = Instant::now();
    for key in ["a", "b", "a", "a"] {
        queue.add(key);
    }
    assert_eq!(queue.take(10, now), ["a", "b"]);
    assert!(queue.take(10, now).is_empty());
}

#[test]
fn a_key_added_in_flight_comes_again_only_after_it_is_done() {
    let mut queue = Queue::default();
    let now = Instant::now();
    queue.add("a");
    queue.take(1, now);
    queue.add("a");
    assert!(queue.take(1, now).is_empty());
    queue.done(&"a", Done::Settled, now);
    assert_eq!(queue.take(1, now), ["a"]);
    queue.done(&"a", Done::Settled, now);
    assert_eq!((queue.len(), queue.in_flight()), (0, 0));
}

#[test]
fn a_failing_key_waits_longer_each_time_and_success_forgets() {
    let mut queue = Queue::default();
    let mut now = Instant::now();
    queue.add("a");
    for expected in [5, 10, 20, 40] {
        assert_eq!(queue.take(1, now), ["a"]);
        queue.done(&"a", Done::Failed, now);
        assert!(!queue.is_ready(now));
        assert_eq!(queue.next_due(), Some(now + Duration::from_millis(expected)));
        now += Duration::from_millis(expected);
    }
    assert_eq!(queue.attempt(&"a"), 4);
    queue.take(1, now);
    queue.done(&"a", Done::Settled, now);
    assert_eq!(queue.attempt(&"a"), 0);
    assert_eq!(backoff(1000), Duration::from_secs(60));
}

#[test]
fn a_change_wakes_a_delayed_key_at_once() {
    let mut queue = Queue::default();
    let now = Instant::now();
    queue.add("a");
    queue.take(1, now);
    queue.done(&"a", Done::After(Duration::from_secs(9)), now);
    assert!(!queue.is_ready(now));
    queue.add("a");
    assert_eq!(queue.take(2, now), ["a"]);
    assert_eq!(queue.len(), 0);
}

#[test]
fn a_key_put_back_is_first_again() {
    let mut queue = Queue::default();
    let now = Instant::now();
    queue.add("a");
    queue.add("b");
    let taken = queue.take(1, now);
    queue.put_back(taken[0]);
    assert_eq!(queue.take(2, now), ["a", "b"]);
}
