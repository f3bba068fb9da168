//! Follows the store's watch and shows each change to the cache, the watches and the subscriptions. The only writer of
//! the cache, and the only way a change gets there: this kernel's writes and those of others alike.
//!
//! When the store ends the watch (a disk error, or history compacted away under a follower that was stopped too long),
//! the follower resumes after the last change it showed, or reads everything again and shows the difference.

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use pintle_store::{Batch, Change, RangeQuery, Revision, Store, Watch};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use crate::allocate::Allocators;
use crate::cache::{Cache, Shard};
use crate::encode;
use crate::event::{Event, EventKind};
use crate::key;
use crate::kinds;
use crate::object::Object;
use crate::registry::OpenError;
use crate::subscription::Subscribers;
use crate::target::{ResourceInfo, ResourceKey};

/// Entries read from the store in one step of loading.
const LOAD_PAGE_BYTES: usize = 4 * 1024 * 1024;
/// Pause before a failed watch is opened again, milliseconds.
const RETRY_MILLIS: u64 = 50;

/// What the follower feeds.
pub(crate) struct Fed {
    pub(crate) cache: Cache,
    pub(crate) subscribers: Subscribers,
    pub(crate) allocators: Allocators,
}

impl Fed {
    /// Take what the loaded Services have.
    pub(crate) fn load_allocations(&self) {
        for (group, plural) in kinds::ALLOCATING {
            for object in self.cache.shard(&ResourceKey::new(group, plural)).iter().flat_map(|shard| shard.all()) {
                self.allocators.observe(None, object.value().ok().as_ref());
            }
        }
    }
}

/// A change of what the cache keeps.
pub(crate) struct Reshape {
    /// Resources to keep from now on, read from the store; one that is kept already is read again under its new face, and
    /// its watches end.
    pub(crate) add: Vec<Arc<ResourceInfo>>,
    pub(crate) remove: Vec<ResourceKey>,
    pub(crate) done: oneshot::Sender<Result<(), pintle_store::Error>>,
}

/// Take a change of shape in, as of the revision that the cache shows.
async fn reshape(store: &dyn Store, cache: &Cache, add: &[Arc<ResourceInfo>], remove: &[ResourceKey]) -> Result<(), pintle_store::Error> {
    for resource in add {
        let shard = Cache::new_shard(resource);
        let mut query = RangeQuery::prefix(key::prefix(&resource.key)).bytes_max(LOAD_PAGE_BYTES).skip_remaining().at(cache.applied());
        loop {
            let page = store.range(query.clone()).await?;
            for entry in &page.entries {
                let Some((_, suffix)) = key::parse(&entry.key) else { continue };
                match encode::publish(resource, &entry.value, entry.mod_revision) {
                    Ok(object) => cache.load(&shard, suffix, Arc::new(object)),
                    Err(err) => tracing::error!(key = %String::from_utf8_lossy(&entry.key), error = %err, "a stored object cannot be read"),
                }
            }
            match page.entries.last() {
                Some(last) if page.more => query = query.after_key(&last.key),
                _ => break,
            }
        }
        cache.put_shard(shard);
    }
    remove.iter().for_each(|key| cache.remove_shard(key));
    Ok(())
}

/// Read every object into an empty cache. Keys of resources that nobody serves are left alone. Returns the revision
/// read at.
pub(crate) async fn load(store: &dyn Store, cache: &Cache) -> Result<Revision, OpenError> {
    let mut query = RangeQuery::prefix(key::root()).bytes_max(LOAD_PAGE_BYTES).skip_remaining();
    loop {
        let page = store.range(query.clone()).await?;
        for entry in &page.entries {
            let Some((shard, suffix)) = place(cache, &entry.key) else { continue };
            let object = encode::publish(&shard.resource, &entry.value, entry.mod_revision)
                .map_err(|err| OpenError::Damaged { key: String::from_utf8_lossy(&entry.key).into_owned(), detail: err.detail })?;
            cache.load(&shard, suffix, Arc::new(object));
        }
        match page.entries.last() {
            Some(last) if page.more => query = query.after_key(&last.key).at(page.revision),
            _ => return Ok(page.revision),
        }
    }
}

/// Follow until nobody holds the cache any more.
pub(crate) async fn follow(store: Arc<dyn Store>, fed: Weak<Fed>, mut watch: Watch, mut reshapes: mpsc::Receiver<Reshape>) {
    loop {
        let next = tokio::select! {
            biased;
            Some(asked) = reshapes.recv() => {
                let Some(fed) = fed.upgrade() else { return };
                let outcome = reshape(store.as_ref(), &fed.cache, &asked.add, &asked.remove).await;
                // Whoever asked may be gone; what they asked for holds.
                let _ = asked.done.send(outcome);
                continue;
            }
            next = watch.next() => next,
        };
        match next {
            Some(Ok(batch)) => {
                let Some(fed) = fed.upgrade() else { return };
                show(&fed, &batch);
            }
            failed => {
                let reason = failed.and_then(Result::err).map_or_else(|| "it ended".to_owned(), |err| err.to_string());
                tracing::warn!(reason, "the store ended the registry's watch; opening it again");
                match reopen(&store, &fed).await {
                    Some(next) => watch = next,
                    None => return,
                }
            }
        }
    }
}

/// Show one transaction.
fn show(fed: &Fed, batch: &Batch) {
    for change in &batch.events {
        let Some((shard, suffix)) = place(&fed.cache, &change.key) else { continue };
        let object = match &change.change {
            Change::Put { value, .. } => match encode::publish(&shard.resource, value, batch.revision) {
                Ok(object) => Some(Arc::new(object)),
                Err(err) => {
                    tracing::error!(key = %String::from_utf8_lossy(&change.key), error = %err, "a stored object cannot be read");
                    continue;
                }
            },
            Change::Delete { .. } => None,
        };
        show_change(fed, &shard, suffix, object, batch.revision);
    }
    fed.cache.advance(batch.revision);
}

fn show_change(fed: &Fed, shard: &Shard, suffix: &str, object: Option<Arc<Object>>, revision: Revision) {
    let previous = shard.get(suffix);
    let (kind, object) = match (object, &previous) {
        (Some(object), None) => (EventKind::Added, object),
        (Some(object), Some(_)) => (EventKind::Modified, object),
        (None, Some(previous)) => (EventKind::Deleted, Arc::new(encode::restamp(previous, revision))),
        (None, None) => return,
    };
    if kinds::ALLOCATING.contains(&(&*shard.resource.group, &*shard.resource.plural)) {
        let parse = |object: &Arc<Object>| object.value().ok();
        let after = (kind != EventKind::Deleted).then(|| parse(&object)).flatten();
        fed.allocators.observe(previous.as_ref().and_then(parse).as_ref(), after.as_ref());
    }
    let event = Arc::new(Event { kind, object, previous, revision });
    fed.cache.history.push(Arc::clone(&event));
    fed.cache.apply(shard, suffix, &event);
    fed.subscribers.publish(&event);
}

async fn reopen(store: &Arc<dyn Store>, fed: &Weak<Fed>) -> Option<Watch> {
    loop {
        sleep(Duration::from_millis(RETRY_MILLIS)).await;
        let fed = fed.upgrade()?;
        let outcome = match store.watch(key::root(), fed.cache.applied()).await {
            Ok(watch) => return Some(watch),
            Err(pintle_store::Error::Compacted { .. }) => reload(store.as_ref(), &fed).await,
            Err(pintle_store::Error::Closed) => return None,
            Err(err) => Err(err),
        };
        if let Err(err) = outcome {
            tracing::error!(error = %err, "the registry cannot follow the store");
        }
    }
}

/// Read everything and show what is different from the cache, as changes.
async fn reload(store: &dyn Store, fed: &Fed) -> Result<(), pintle_store::Error> {
    let mut seen = HashSet::new();
    let mut changed = Vec::new();
    let mut query = RangeQuery::prefix(key::root()).bytes_max(LOAD_PAGE_BYTES).skip_remaining();
    let revision = loop {
        let page = store.range(query.clone()).await?;
        for entry in &page.entries {
            seen.insert(entry.key.clone());
            let Some((shard, suffix)) = place(&fed.cache, &entry.key) else { continue };
            if shard.get(suffix).is_none_or(|known| known.revision < entry.mod_revision) {
                changed.push(entry.clone());
            }
        }
        match page.entries.last() {
            Some(last) if page.more => query = query.after_key(&last.key).at(page.revision),
            _ => break page.revision,
        }
    };
    fed.cache.history.reset(revision);
    changed.sort_by_key(|entry| entry.mod_revision);
    for entry in &changed {
        let Some((shard, suffix)) = place(&fed.cache, &entry.key) else { continue };
        match encode::publish(&shard.resource, &entry.value, entry.mod_revision) {
            Ok(object) => show_change(fed, &shard, suffix, Some(Arc::new(object)), entry.mod_revision),
            Err(err) => tracing::error!(key = %String::from_utf8_lossy(&entry.key), error = %err, "a stored object cannot be read"),
        }
    }
    for shard in fed.cache.shards() {
        for object in shard.all() {
            let suffix = crate::cache::suffix_of(&object);
            if !seen.contains(&key::of(&shard.resource.key, &suffix)) {
                show_change(fed, &shard, &suffix, None, revision);
            }
        }
    }
    fed.cache.advance(revision);
    Ok(())
}

fn place<'k>(cache: &Cache, key: &'k [u8]) -> Option<(Arc<Shard>, &'k str)> {
    let (resource, suffix) = key::parse(key)?;
    Some((cache.shard(&resource)?, suffix))
}
