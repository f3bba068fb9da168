use super::*;
use crate::watch::Change;

fn batch(revision: u64, keys: &[&'static str]) -> Arc<Batch> {
    let event = |key: &&'static str| Event {
        key: Bytes::from_static(key.as_bytes()),
        change: Change::Delete { prev: Bytes::new() },
        prev_revision: Some(Revision(1)),
    };
    Arc::new(Batch { revision: Revision(revision), events: keys.iter().map(event).collect() })
}

/// What the subscriber finds, as a word.
fn poll(subscriber: &Subscriber) -> String {
    match subscriber.poll(&mut Context::from_waker(Waker::noop())) {
        Next::Batch(batch) => format!("{}", batch.revision),
        Next::Wait => "wait".to_owned(),
        Next::Behind(after) => format!("behind {after}"),
        Next::Ended(error) => error.to_string(),
    }
}

#[test]
fn subscriber_that_read_ahead_of_publication_gets_nothing_twice() {
    let hub = Hub::new(Revision(4), 1000, 1000);
    let subscriber = hub.subscribe("/p/".into(), Revision(5));
    assert!(matches!(hub.attach(&subscriber, Revision(5)), Attached::Live));
    assert_eq!(hub.progress(&subscriber), Revision(5));
    hub.publish(vec![batch(5, &["/p/a"]), batch(6, &["/p/a"])], Revision(6));
    assert_eq!(poll(&subscriber), "6");
    assert_eq!(poll(&subscriber), "wait");
}

#[test]
fn full_queue_leaves_the_rest_to_history_and_comes_back() {
    let one = batch_bytes(&batch(2, &["/p/a"]));
    let hub = Hub::new(Revision(1), 2 * one, 2 * one);
    let subscriber = hub.subscribe("/p/".into(), Revision(1));
    assert!(matches!(hub.attach(&subscriber, Revision(1)), Attached::Live));
    for revision in 2..=6 {
        hub.publish(vec![batch(revision, &["/p/a"])], Revision(revision));
    }
    assert_eq!(hub.progress(&subscriber), Revision(1));
    assert_eq!([poll(&subscriber), poll(&subscriber), poll(&subscriber)], ["2", "3", "behind 3"]);
    assert_eq!(hub.progress(&subscriber), Revision(3));
    assert!(matches!(hub.attach(&subscriber, Revision(3)), Attached::TooFarBehind));
    subscriber.advance(Revision(4));
    assert!(matches!(hub.attach(&subscriber, Revision(4)), Attached::Live));
    assert_eq!([poll(&subscriber), poll(&subscriber), poll(&subscriber)], ["5", "6", "wait"]);
    assert_eq!(hub.progress(&subscriber), Revision(6));
}

#[test]
fn topics_get_their_part_once_and_go_with_their_last_subscriber() {
    let hub = Hub::new(Revision(1), 1000, 1000);
    let prefixes = ["", "/p/", "/p/a", "/q/"];
    let subscribers: Vec<_> = prefixes.iter().map(|prefix| hub.subscribe((*prefix).into(), Revision(1))).collect();
    for subscriber in &subscribers {
        assert!(matches!(hub.attach(subscriber, Revision(1)), Attached::Live));
    }
    hub.publish(vec![batch(2, &["/p/a", "/p/b", "/r"])], Revision(2));
    let sizes: Vec<_> = subscribers
        .iter()
        .map(|subscriber| match subscriber.poll(&mut Context::from_waker(Waker::noop())) {
            Next::Batch(batch) => batch.events.len(),
            _ => 0,
        })
        .collect();
    assert_eq!(sizes, [3, 2, 1, 0]);
    assert!(subscribers.iter().all(|subscriber| poll(subscriber) == "wait"));
    subscribers.iter().for_each(|subscriber| hub.unsubscribe(subscriber));
    let inner = hub.inner.lock();
    assert!(inner.topics.is_empty() && inner.lengths.is_empty());
}
