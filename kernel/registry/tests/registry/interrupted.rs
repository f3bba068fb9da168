//! A store whose watches end when told to: the registry must go on where it was, or find out what it missed.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use pintle_registry::{Body, Caller, Feed, GetOptions, Registry, RegistryConfig, SubscriptionFilter, WriteOptions};
use pintle_store::{Batch, Entry, Error, Options, RangePage, RangeQuery, RedbStore, Result, Revision, Store, Txn, Watch, WatchSource};

use crate::world::config_map;

struct Interrupted {
    inner: RedbStore,
    /// Watches that are open end, and new ones are refused, while this is set.
    cut: Arc<AtomicBool>,
    waker: Arc<Mutex<Option<Waker>>>,
}

impl Interrupted {
    fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
        if let Some(waker) = self.waker.lock().take() {
            waker.wake();
        }
    }

    fn mend(&self) {
        self.cut.store(false, Ordering::SeqCst);
    }
}

impl Store for Interrupted {
    fn get<'a>(&'a self, key: &'a [u8], at: Option<Revision>) -> BoxFuture<'a, Result<Option<Entry>>> {
        self.inner.get(key, at)
    }

    fn range(&self, query: RangeQuery) -> BoxFuture<'_, Result<RangePage>> {
        self.inner.range(query)
    }

    fn txn(&self, txn: Txn) -> BoxFuture<'_, Result<Revision>> {
        self.inner.txn(txn)
    }

    fn watch(&self, prefix: Bytes, after: Revision) -> BoxFuture<'_, Result<Watch>> {
        Box::pin(async move {
            if self.cut.load(Ordering::SeqCst) {
                return Err(broken());
            }
            let inner = self.inner.watch(prefix, after).await?;
            Ok(Watch::new(Source { inner, cut: Arc::clone(&self.cut), waker: Arc::clone(&self.waker) }))
        })
    }

    fn compact(&self, to: Revision) -> BoxFuture<'_, Result<()>> {
        self.inner.compact(to)
    }

    fn current(&self) -> Revision {
        self.inner.current()
    }

    fn compacted(&self) -> Revision {
        self.inner.compacted()
    }
}

struct Source {
    inner: Watch,
    cut: Arc<AtomicBool>,
    waker: Arc<Mutex<Option<Waker>>>,
}

impl WatchSource for Source {
    fn poll_batch(&mut self, cx: &mut Context<'_>) -> Poll<Result<Arc<Batch>>> {
        *self.waker.lock() = Some(cx.waker().clone());
        if self.cut.load(Ordering::SeqCst) {
            return Poll::Ready(Err(broken()));
        }
        Pin::new(&mut self.inner).poll_next(cx).map(|next| next.unwrap_or_else(|| Err(broken())))
    }

    fn progress(&self) -> Revision {
        self.inner.progress()
    }
}

fn broken() -> Error {
    Error::Unavailable(Arc::new(std::io::Error::other("cut")))
}

async fn open() -> (Arc<Interrupted>, Arc<Registry>) {
    let inner = RedbStore::in_memory(Options::default()).expect("the store opens");
    let store = Arc::new(Interrupted { inner, cut: Arc::default(), waker: Arc::default() });
    let registry = Registry::open(Arc::clone(&store) as Arc<dyn Store>, RegistryConfig::default()).await.expect("opens");
    (store, registry)
}

async fn create(registry: &Registry, name: &str) {
    let target = registry.resolve("", "v1", "configmaps", "", "default", "").expect("resolves");
    let body = Body::Value(config_map(name, "1"));
    registry.create(&Caller::kernel(), &target, body, &WriteOptions::default()).await.expect("created");
}

async fn names_of(feed: &mut pintle_registry::Subscription, count: usize) -> Vec<String> {
    let mut names = Vec::new();
    while names.len() < count {
        let fed = tokio::time::timeout(Duration::from_secs(10), feed.next()).await.expect("in time");
        let Some(Feed::Event(event)) = fed else { panic!("an event") };
        names.push(format!("{:?} {}", event.kind, event.object.meta().name));
    }
    names
}

#[tokio::test]
async fn the_registry_goes_on_after_the_stores_watch_ended() {
    let (store, registry) = open().await;
    let mut feed = registry.subscribe(SubscriptionFilter::All);
    create(&registry, "a").await;
    store.cut();
    // Stored while nobody follows; acknowledged only when the cache shows it.
    let (_, ()) = tokio::join!(create(&registry, "b"), async {
        tokio::time::sleep(Duration::from_millis(120)).await;
        store.mend();
    });
    let target = registry.resolve("", "v1", "configmaps", "", "default", "b").expect("resolves");
    registry.get(&target, &GetOptions::default()).await.expect("there");
    assert_eq!(names_of(&mut feed, 2).await, ["Added a", "Added b"]);
}

#[tokio::test]
async fn what_was_compacted_away_unseen_is_found_by_reading_again() {
    let (store, registry) = open().await;
    let mut feed = registry.subscribe(SubscriptionFilter::All);
    create(&registry, "a").await;
    create(&registry, "b").await;
    store.cut();
    // Behind the registry's back, as another kernel would.
    let key = |name: &str| format!("/registry/core/configmaps/default/{name}");
    let text = |name: &str, value: &str| {
        format!(
            r#"{{"kind":"ConfigMap","apiVersion":"v1","metadata":{{"name":"{name}","namespace":"default"}},"data":{{"value":"{value}"}}}}"#
        )
    };
    store.txn(Txn::new().put(key("a"), text("a", "2"))).await.expect("changed");
    store.txn(Txn::new().delete(key("b"))).await.expect("deleted");
    store.txn(Txn::new().put(key("c"), text("c", "1"))).await.expect("created");
    store.compact(store.current()).await.expect("compacted");
    store.mend();
    assert_eq!(names_of(&mut feed, 5).await, ["Added a", "Added b", "Modified a", "Added c", "Deleted b"]);
    assert_eq!(registry.revision(), store.current());
}
