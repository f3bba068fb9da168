//! What every engine must do. Each case gets an empty store; cases know the trait only.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt, join_all};
use pintle_store::{Batch, Change, Entry, Error, Expect, Limit, RangeQuery, Revision, Store, Txn, Watch, limits};

type Case = (&'static str, fn(Arc<dyn Store>) -> BoxFuture<'static, ()>);

macro_rules! cases {
    ($($name:ident),+ $(,)?) => { &[$((stringify!($name), |store| $name(store).boxed())),+] };
}

const CASES: &[Case] = cases![
    empty_store_stands_at_revision_one,
    put_get_and_delete_count_revisions_and_versions,
    get_at_a_revision_answers_as_of_then,
    range_pages_in_key_order_and_counts_the_rest,
    range_at_a_revision_ignores_what_came_later,
    range_stops_after_enough_bytes,
    txn_is_all_or_nothing,
    conflict_carries_the_current_entry,
    txn_that_changes_nothing_takes_no_revision,
    requests_over_a_limit_are_refused,
    watch_delivers_transactions_whole_and_in_order,
    watch_resumes_after_any_revision,
    watch_sees_only_its_prefix,
    watch_progress_never_runs_ahead,
    watch_that_is_not_read_loses_nothing,
    compaction_forgets_history_but_no_current_value,
    compaction_ends_a_watch_it_overtakes,
    concurrent_updates_of_one_key_lose_none,
    concurrent_writers_get_distinct_revisions,
    list_then_watch_misses_and_repeats_nothing_under_load,
    abandoned_txn_happens_whole_or_not_at_all,
    dropped_watch_is_forgotten,
];

/// Run all cases, each on a new store from `factory`.
pub async fn run(mut factory: impl FnMut() -> BoxFuture<'static, Arc<dyn Store>>) {
    for (name, case) in CASES {
        println!("case {name}");
        let store = factory().await;
        let outcome = tokio::time::timeout(Duration::from_secs(60), case(store)).await;
        assert!(outcome.is_ok(), "{name} did not finish");
    }
}

fn text(number: u64) -> String {
    format!("value {number}")
}

async fn put(store: &dyn Store, key: &str, value: &str) -> Revision {
    store.txn(Txn::new().put(key.to_owned(), value.to_owned())).await.expect("put")
}

async fn delete(store: &dyn Store, key: &str) -> Revision {
    store.txn(Txn::new().delete(key.to_owned())).await.expect("delete")
}

async fn value(store: &dyn Store, key: &str, at: Option<Revision>) -> Option<Bytes> {
    store.get(key.as_bytes(), at).await.expect("get").map(|entry| entry.value)
}

fn keys(entries: &[Entry]) -> Vec<&str> {
    entries.iter().map(|entry| std::str::from_utf8(&entry.key).expect("text")).collect()
}

/// The next batch, or a failure rather than a hang.
pub async fn next(watch: &mut Watch) -> Arc<Batch> {
    let next = tokio::time::timeout(Duration::from_secs(20), watch.next()).await;
    next.expect("an event in time").expect("the watch goes on").expect("no error")
}

fn assert_nothing_waits(watch: &mut Watch) {
    assert!(watch.next().now_or_never().is_none(), "the watch has something to say");
}

fn failure<T: Debug>(outcome: Result<T, Error>) -> Error {
    outcome.expect_err("it must fail")
}

async fn empty_store_stands_at_revision_one(store: Arc<dyn Store>) {
    assert_eq!(store.current(), Revision(1));
    assert_eq!(store.compacted(), Revision(1));
    let page = store.range(RangeQuery::default()).await.expect("range");
    assert_eq!((page.entries.len(), page.more, page.revision, page.remaining), (0, false, Revision(1), Some(0)));
    assert_eq!(value(&*store, "a", None).await, None);
}

async fn put_get_and_delete_count_revisions_and_versions(store: Arc<dyn Store>) {
    assert_eq!(put(&*store, "a", "1").await, Revision(2));
    assert_eq!(put(&*store, "b", "1").await, Revision(3));
    assert_eq!(put(&*store, "a", "2").await, Revision(4));
    let entry = store.get(b"a", None).await.expect("get").expect("exists");
    assert_eq!((entry.create_revision, entry.mod_revision, entry.version), (Revision(2), Revision(4), 2));
    assert_eq!(entry.value, "2");
    assert_eq!(delete(&*store, "a").await, Revision(5));
    assert_eq!(value(&*store, "a", None).await, None);
    assert_eq!(put(&*store, "a", "3").await, Revision(6));
    let entry = store.get(b"a", None).await.expect("get").expect("exists");
    assert_eq!((entry.create_revision, entry.version), (Revision(6), 1));
    assert_eq!(store.current(), Revision(6));
}

async fn get_at_a_revision_answers_as_of_then(store: Arc<dyn Store>) {
    let created = put(&*store, "a", "1").await;
    put(&*store, "z", "1").await;
    let updated = put(&*store, "a", "2").await;
    let deleted = delete(&*store, "a").await;
    let again = put(&*store, "a", "3").await;
    for (at, expected) in
        [(Revision(1), None), (created, Some("1")), (created.next(), Some("1")), (updated, Some("2")), (deleted, None), (again, Some("3"))]
    {
        assert_eq!(value(&*store, "a", Some(at)).await.as_deref(), expected.map(str::as_bytes), "at {at}");
    }
    let error = failure(store.get(b"a", Some(again.next())).await);
    assert!(matches!(error, Error::FutureRevision { requested, current } if requested == again.next() && current == again));
}

async fn range_pages_in_key_order_and_counts_the_rest(store: Arc<dyn Store>) {
    for key in ["/p/c", "/p/a", "/q/a", "/p/d", "/p/b", "/o/z"] {
        put(&*store, key, key).await;
    }
    let first = store.range(RangeQuery::prefix("/p/").limit(3)).await.expect("range");
    assert_eq!(keys(&first.entries), ["/p/a", "/p/b", "/p/c"]);
    assert_eq!((first.more, first.remaining), (true, Some(1)));
    let query = RangeQuery::prefix("/p/").after_key(b"/p/c").limit(3).at(first.revision);
    let second = store.range(query).await.expect("range");
    assert_eq!(keys(&second.entries), ["/p/d"]);
    assert_eq!((second.more, second.remaining, second.revision), (false, Some(0), first.revision));
    let unknown = store.range(RangeQuery::prefix("/p/").limit(1).skip_remaining()).await.expect("range");
    assert_eq!((unknown.more, unknown.remaining), (true, None));
    let between = store.range(RangeQuery::between("/p/b", "/p/d")).await.expect("range");
    assert_eq!(keys(&between.entries), ["/p/b", "/p/c"]);
    let backwards = store.range(RangeQuery::between("/p/d", "/p/b")).await.expect("range");
    assert!(backwards.entries.is_empty());
    let all = store.range(RangeQuery::default()).await.expect("range");
    assert_eq!(all.entries.len(), 6);
}

async fn range_at_a_revision_ignores_what_came_later(store: Arc<dyn Store>) {
    for number in 0..10 {
        put(&*store, &format!("/p/{number}"), "old").await;
    }
    let at = store.current();
    put(&*store, "/p/3", "new").await;
    put(&*store, "/p/3", "newer").await;
    delete(&*store, "/p/5").await;
    delete(&*store, "/p/9").await;
    put(&*store, "/p/a", "late").await;
    put(&*store, "/p/33", "late").await;
    delete(&*store, "/p/33").await;
    let mut seen = Vec::new();
    let mut query = RangeQuery::prefix("/p/").limit(3).at(at);
    loop {
        let page = store.range(query.clone()).await.expect("range");
        assert_eq!(page.revision, at);
        assert_eq!(page.remaining, Some(10 - seen.len() as u64 - page.entries.len() as u64));
        assert!(page.entries.iter().all(|entry| entry.value == "old" && entry.mod_revision <= at));
        seen.extend(keys(&page.entries).into_iter().map(str::to_owned));
        match (page.more, page.entries.last()) {
            (true, Some(last)) => query = query.after_key(&last.key),
            _ => break,
        }
    }
    assert_eq!(seen, (0..10).map(|number| format!("/p/{number}")).collect::<Vec<_>>());
}

async fn range_stops_after_enough_bytes(store: Arc<dyn Store>) {
    for number in 0..5 {
        put(&*store, &format!("k{number}"), &"x".repeat(100)).await;
    }
    let page = store.range(RangeQuery::prefix("k").bytes_max(250)).await.expect("range");
    assert_eq!((page.entries.len(), page.more, page.remaining), (3, true, Some(2)));
    let page = store.range(RangeQuery::prefix("k").bytes_max(0)).await.expect("range");
    assert_eq!((page.entries.len(), page.more), (1, true));
}

async fn txn_is_all_or_nothing(store: Arc<dyn Store>) {
    put(&*store, "a", "1").await;
    let txn = Txn::new().put("a", "2").put("b", "2").expect("c", Expect::Exists);
    assert!(matches!(failure(store.txn(txn).await), Error::Conflict(_)));
    assert_eq!(value(&*store, "a", None).await.as_deref(), Some(&b"1"[..]));
    assert_eq!(value(&*store, "b", None).await, None);
    let at = store.txn(Txn::new().put("a", "2").put("b", "2").delete("a2")).await.expect("txn");
    for key in ["a", "b"] {
        let entry = store.get(key.as_bytes(), None).await.expect("get").expect("exists");
        assert_eq!((entry.value, entry.mod_revision), (Bytes::from("2"), at));
    }
}

async fn conflict_carries_the_current_entry(store: Arc<dyn Store>) {
    let Error::Conflict(conflict) = failure(store.txn(Txn::update("a", Revision(1), "x")).await) else {
        panic!("not a conflict");
    };
    assert_eq!((conflict.key.as_ref(), &conflict.current), (&b"a"[..], &None));
    let created = store.txn(Txn::create("a", "1")).await.expect("create");
    let updated = store.txn(Txn::update("a", created, "2")).await.expect("update");
    for txn in [Txn::create("a", "x"), Txn::update("a", created, "x"), Txn::remove("a", created)] {
        let Error::Conflict(conflict) = failure(store.txn(txn).await) else { panic!("not a conflict") };
        let current = conflict.current.expect("it exists");
        assert_eq!((current.value, current.mod_revision), (Bytes::from("2"), updated));
        assert_eq!((current.create_revision, current.version), (created, 2));
    }
    store.txn(Txn::remove("a", updated)).await.expect("remove");
    assert_eq!(value(&*store, "a", None).await, None);
}

async fn txn_that_changes_nothing_takes_no_revision(store: Arc<dyn Store>) {
    let at = put(&*store, "a", "1").await;
    assert_eq!(store.txn(Txn::new()).await.expect("empty"), at);
    assert_eq!(store.txn(Txn::new().expect("a", Expect::Exists)).await.expect("check"), at);
    assert_eq!(delete(&*store, "missing").await, at);
    assert_eq!(store.current(), at);
}

async fn requests_over_a_limit_are_refused(store: Arc<dyn Store>) {
    let long = "k".repeat(limits::KEY_BYTES_MAX + 1);
    let large = vec![0; limits::VALUE_BYTES_MAX + 1];
    let many = (0..=limits::TXN_WRITES_MAX).fold(Txn::new(), |txn, number| txn.put(text(number as u64), ""));
    for (txn, expected) in
        [(Txn::new().put(long, ""), Limit::KeyBytes), (Txn::new().put("a", large), Limit::ValueBytes), (many, Limit::TxnWrites)]
    {
        let error = failure(store.txn(txn).await);
        assert!(matches!(error, Error::TooLarge { limit, .. } if limit == expected), "{error}");
    }
    assert!(matches!(failure(store.txn(Txn::new().put("", "x")).await), Error::EmptyKey));
    let twice = Txn::new().put("a", "1").delete("a");
    assert!(matches!(failure(store.txn(twice).await), Error::DuplicateKey { key } if key == "a"));
    assert_eq!(store.current(), Revision(1));
    put(&*store, &"k".repeat(limits::KEY_BYTES_MAX), "as long as allowed").await;
}

async fn watch_delivers_transactions_whole_and_in_order(store: Arc<dyn Store>) {
    let mut watch = store.watch("/p/".into(), store.current()).await.expect("watch");
    let first = store.txn(Txn::new().put("/p/a", "1").put("/p/b", "1")).await.expect("txn");
    let second = store.txn(Txn::new().put("/p/a", "2").delete("/p/b").put("/p/c", "1")).await.expect("txn");
    let batch = next(&mut watch).await;
    assert_eq!((batch.revision, batch.events.len()), (first, 2));
    for event in &batch.events {
        let expected = Change::Put { value: "1".into(), prev: None, create_revision: first };
        assert_eq!((&event.change, event.prev_revision), (&expected, None));
    }
    let batch = next(&mut watch).await;
    assert_eq!(batch.revision, second);
    let updated = Change::Put { value: "2".into(), prev: Some("1".into()), create_revision: first };
    let created = Change::Put { value: "1".into(), prev: None, create_revision: second };
    let expected = [("/p/a", updated, Some(first)), ("/p/b", Change::Delete { prev: "1".into() }, Some(first)), ("/p/c", created, None)];
    assert_eq!(batch.events.len(), expected.len());
    for (event, (key, change, prev_revision)) in batch.events.iter().zip(expected) {
        assert_eq!((event.key.as_ref(), &event.change), (key.as_bytes(), &change));
        assert_eq!(event.prev_revision, prev_revision);
    }
    assert_nothing_waits(&mut watch);
    assert_eq!(watch.progress(), second);
}

async fn watch_resumes_after_any_revision(store: Arc<dyn Store>) {
    for number in 0..200 {
        let key = format!("/p/{}", number % 7);
        if number % 11 == 10 {
            delete(&*store, &key).await;
        } else {
            put(&*store, &key, &text(number)).await;
        }
    }
    let last = store.current();
    let mut whole = store.watch("/p/".into(), Revision(1)).await.expect("watch");
    let mut batches = Vec::new();
    while batches.last().is_none_or(|batch: &Arc<Batch>| batch.revision < last) {
        batches.push(next(&mut whole).await);
    }
    for after in [Revision(1), Revision(2), Revision(57), Revision(last.0 - 1), last] {
        let mut watch = store.watch("/p/".into(), after).await.expect("watch");
        for expected in batches.iter().filter(|batch| batch.revision > after) {
            assert_eq!(&next(&mut watch).await, expected);
        }
        assert_nothing_waits(&mut watch);
    }
    let error = failure(store.watch("/p/".into(), last.next()).await);
    assert!(matches!(error, Error::FutureRevision { .. }));
    let late = put(&*store, "/p/late", "x").await;
    assert_eq!(next(&mut whole).await.revision, late);
}

async fn watch_sees_only_its_prefix(store: Arc<dyn Store>) {
    let mut pods = store.watch("/pods/".into(), Revision(1)).await.expect("watch");
    let mut one = store.watch("/pods/b".into(), Revision(1)).await.expect("watch");
    let mut all = store.watch(Bytes::new(), Revision(1)).await.expect("watch");
    let mixed = store.txn(Txn::new().put("/nodes/a", "n").put("/pods/a", "p")).await.expect("txn");
    let other = put(&*store, "/podsx", "x").await;
    let exact = put(&*store, "/pods/b", "p").await;
    let batch = next(&mut pods).await;
    assert_eq!((batch.revision, batch.events.len(), batch.events[0].key.as_ref()), (mixed, 1, &b"/pods/a"[..]));
    assert_eq!(next(&mut pods).await.revision, exact);
    assert_eq!(next(&mut one).await.revision, exact);
    let mut seen = Vec::new();
    for _ in 0..3 {
        let batch = next(&mut all).await;
        seen.push((batch.revision, batch.events.len()));
    }
    assert_eq!(seen, [(mixed, 2), (other, 1), (exact, 1)]);
    for watch in [&mut pods, &mut one, &mut all] {
        assert_nothing_waits(watch);
    }
}

async fn watch_progress_never_runs_ahead(store: Arc<dyn Store>) {
    let mut watch = store.watch("/p/".into(), Revision(1)).await.expect("watch");
    assert_eq!(next_or_progress(&mut watch), Revision(1));
    for round in 0..50 {
        put(&*store, "/q/other", &text(round)).await;
        assert_eq!(next_or_progress(&mut watch), store.current(), "nothing under the prefix is outstanding");
        let before = watch.progress();
        let wanted = put(&*store, "/p/a", &text(round)).await;
        assert!(watch.progress() < wanted, "the event was not returned yet");
        assert!(watch.progress() >= before, "progress goes forward");
        assert_eq!(next(&mut watch).await.revision, wanted);
        assert!(watch.progress() >= wanted);
    }
}

/// Let the watch find that it has nothing to say, then ask how far it is.
fn next_or_progress(watch: &mut Watch) -> Revision {
    assert_nothing_waits(watch);
    watch.progress()
}

async fn watch_that_is_not_read_loses_nothing(store: Arc<dyn Store>) {
    let mut lazy = store.watch("/p/".into(), Revision(1)).await.expect("watch");
    let mut attached = store.watch("/p/".into(), Revision(1)).await.expect("watch");
    assert_nothing_waits(&mut attached);
    // More than any buffer of the engine: 8 MiB in 8 writers.
    let writers = (0..8).map(|writer| {
        let store = store.clone();
        async move {
            for round in 0..64 {
                put(&*store, &format!("/p/{writer}"), &format!("{round} {}", "x".repeat(16 * 1024))).await;
            }
        }
    });
    join_all(writers).await;
    for watch in [&mut lazy, &mut attached] {
        let mut values = BTreeMap::<Bytes, Bytes>::new();
        for revision in 2..2 + 8 * 64 {
            let batch = next(watch).await;
            assert_eq!((batch.revision, batch.events.len()), (Revision(revision), 1));
            let event = &batch.events[0];
            assert_eq!(event.prev(), values.get(&event.key), "the value before is the last one seen");
            values.insert(event.key.clone(), event.value().expect("a put").clone());
        }
        assert_nothing_waits(watch);
    }
}

async fn compaction_forgets_history_but_no_current_value(store: Arc<dyn Store>) {
    let first = put(&*store, "a", "1").await;
    put(&*store, "b", "1").await;
    put(&*store, "a", "2").await;
    delete(&*store, "b").await;
    let to = put(&*store, "c", "1").await;
    let after = put(&*store, "a", "3").await;
    assert!(matches!(failure(store.compact(after.next()).await), Error::FutureRevision { .. }));
    store.compact(to).await.expect("compact");
    store.compact(first).await.expect("an older compaction changes nothing");
    assert_eq!(store.compacted(), to);
    for old in [first, Revision(to.0 - 1)] {
        assert!(matches!(failure(store.get(b"a", Some(old)).await), Error::Compacted { oldest } if oldest == to));
        let query = RangeQuery::default().at(old);
        assert!(matches!(failure(store.range(query).await), Error::Compacted { oldest } if oldest == to));
        let watch = store.watch(Bytes::new(), old).await;
        assert!(matches!(failure(watch), Error::Compacted { oldest } if oldest == to));
    }
    assert_eq!(value(&*store, "a", Some(to)).await.as_deref(), Some(&b"2"[..]));
    assert_eq!(value(&*store, "a", None).await.as_deref(), Some(&b"3"[..]));
    assert_eq!(value(&*store, "c", None).await.as_deref(), Some(&b"1"[..]));
    let page = store.range(RangeQuery::default().at(to)).await.expect("range");
    assert_eq!(keys(&page.entries), ["a", "c"]);
    let mut watch = store.watch(Bytes::new(), to).await.expect("watch");
    let batch = next(&mut watch).await;
    assert_eq!((batch.revision, batch.events[0].prev().map(Bytes::as_ref)), (after, Some(&b"2"[..])));
    store.compact(after).await.expect("compact to now");
    assert_eq!(value(&*store, "a", None).await.as_deref(), Some(&b"3"[..]));
}

async fn compaction_ends_a_watch_it_overtakes(store: Arc<dyn Store>) {
    let mut watch = store.watch("/p/".into(), Revision(1)).await.expect("watch");
    // Far more than is kept in memory, so that history is needed, and gone.
    for round in 0..12 {
        put(&*store, "/p/a", &format!("{round} {}", "x".repeat(1024 * 1024))).await;
    }
    store.compact(store.current()).await.expect("compact");
    let mut seen = Revision(1);
    loop {
        match watch.next().await {
            Some(Ok(batch)) => {
                assert_eq!(batch.revision, seen.next(), "no gap before the end");
                seen = batch.revision;
                if seen == store.current() {
                    break; // The engine had it all in memory: allowed.
                }
            }
            Some(Err(Error::Compacted { oldest })) => {
                assert_eq!(oldest, store.current());
                assert!(watch.next().await.is_none(), "an ended watch stays ended");
                break;
            }
            other => panic!("unexpected: {other:?}"),
        }
    }
}

async fn concurrent_updates_of_one_key_lose_none(store: Arc<dyn Store>) {
    const TASKS: u64 = 8;
    const ROUNDS: u64 = 25;
    put(&*store, "counter", "0").await;
    let mut watch = store.watch("counter".into(), store.current()).await.expect("watch");
    let tasks = (0..TASKS).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            for _ in 0..ROUNDS {
                increment(&*store).await;
            }
        })
    });
    for task in join_all(tasks).await {
        task.expect("no panic");
    }
    assert_eq!(value(&*store, "counter", None).await, Some((TASKS * ROUNDS).to_string().into()));
    for count in 1..=TASKS * ROUNDS {
        let batch = next(&mut watch).await;
        assert_eq!(batch.events[0].value(), Some(&Bytes::from(count.to_string())));
        assert_eq!(batch.events[0].prev(), Some(&Bytes::from((count - 1).to_string())));
    }
}

async fn increment(store: &dyn Store) {
    let mut current = store.get(b"counter", None).await.expect("get").expect("exists");
    loop {
        let count: u64 = std::str::from_utf8(&current.value).expect("text").parse().expect("a number");
        match store.txn(Txn::update("counter", current.mod_revision, (count + 1).to_string())).await {
            Ok(_) => return,
            Err(Error::Conflict(conflict)) => current = conflict.current.expect("exists"),
            Err(error) => panic!("{error}"),
        }
    }
}

async fn concurrent_writers_get_distinct_revisions(store: Arc<dyn Store>) {
    let writers = (0..64).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut revisions = Vec::new();
            for round in 0..8 {
                let revision = put(&*store, &format!("/w/{writer}/{round}"), &text(round)).await;
                let seen = store.get(format!("/w/{writer}/{round}").as_bytes(), None).await.expect("get");
                assert_eq!(seen.expect("an acknowledged write is seen").mod_revision, revision);
                assert!(store.current() >= revision);
                revisions.push(revision);
            }
            assert!(revisions.is_sorted());
            revisions
        })
    });
    let mut all: Vec<Revision> = Vec::new();
    for writer in join_all(writers).await {
        all.extend(writer.expect("no panic"));
    }
    all.sort_unstable();
    assert_eq!(all, (2..2 + 512).map(Revision).collect::<Vec<_>>());
}

/// What every informer does. The revision of a list may be newer than what watches have been told yet.
async fn list_then_watch_misses_and_repeats_nothing_under_load(store: Arc<dyn Store>) {
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for round in 0..150 {
                    put(&*store, &format!("/p/{writer}"), &text(round)).await;
                }
            })
        })
        .collect();
    let last = Revision(1 + 4 * 150);
    let mut listed = Revision(1);
    while listed < last {
        let page = store.range(RangeQuery::prefix("/p/")).await.expect("range");
        assert!(page.revision >= listed, "lists go forward");
        listed = page.revision;
        let mut watch = store.watch("/p/".into(), listed).await.expect("what was listed can be watched");
        assert!(watch.progress() >= listed);
        let ahead = Revision(last.0.min(listed.0 + 5));
        for revision in listed.0 + 1..=ahead.0 {
            assert_eq!(next(&mut watch).await.revision, Revision(revision));
        }
    }
    for writer in join_all(writers).await {
        writer.expect("no panic");
    }
}

async fn abandoned_txn_happens_whole_or_not_at_all(store: Arc<dyn Store>) {
    for round in 0..20 {
        let txn = Txn::new().put(format!("{round}/left"), "x").put(format!("{round}/right"), "x");
        let answer = store.txn(txn);
        // Asked once, then dropped: the caller went away.
        let _ = answer.now_or_never();
    }
    put(&*store, "later", "x").await;
    for round in 0..20 {
        let left = store.get(format!("{round}/left").as_bytes(), None).await.expect("get");
        let right = store.get(format!("{round}/right").as_bytes(), None).await.expect("get");
        assert_eq!(left.map(|entry| entry.mod_revision), right.map(|entry| entry.mod_revision));
    }
}

async fn dropped_watch_is_forgotten(store: Arc<dyn Store>) {
    let watch = store.watch("/p/".into(), Revision(1)).await.expect("watch");
    let mut other = store.watch("/p/".into(), Revision(1)).await.expect("watch");
    drop(watch);
    let revision = put(&*store, "/p/a", "1").await;
    assert_eq!(next(&mut other).await.revision, revision);
}
