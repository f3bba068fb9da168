//! What the registry does on its own account, as mechanism: old history is compacted, and old core Events expire.

use std::sync::{Arc, Weak};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use pintle_store::{Expect, Revision, Txn};
use tokio::time::sleep;

use crate::cache::suffix_of;
use crate::key;
use crate::kinds;
use crate::registry::Registry;

/// How often expired Events are looked for at least, seconds; a shorter time to live is looked for more often.
const EXPIRY_PERIOD_SECONDS_MAX: u64 = 60;
/// Events removed in one transaction.
const EXPIRY_BATCH: usize = 256;

/// Compact the store's history, one period behind: what is forgotten is at least a period old, and never among the
/// last revisions that the configuration keeps.
pub(crate) async fn compact(registry: Weak<Registry>) {
    let mut horizon: Option<Revision> = None;
    loop {
        let Some(period) = registry.upgrade().map(|registry| registry.config.compaction_period_seconds.max(1)) else { return };
        sleep(Duration::from_secs(period)).await;
        let Some(registry) = registry.upgrade() else { return };
        let now = registry.revision();
        if let Some(horizon) = horizon {
            let keep = Revision(now.0.saturating_sub(registry.config.history_revisions_min));
            let to = horizon.min(keep);
            if to > registry.store.compacted()
                && let Err(err) = registry.store.compact(to).await
            {
                tracing::warn!(error = %err, revision = to.0, "compacting the history failed; it is tried again");
            }
        }
        horizon = Some(now);
    }
}

/// Remove core Events that are older than their time to live.
pub(crate) async fn expire_events(registry: Weak<Registry>) {
    loop {
        let Some(ttl) = registry.upgrade().map(|registry| registry.config.event_ttl_seconds) else { return };
        sleep(Duration::from_secs(ttl.clamp(1, EXPIRY_PERIOD_SECONDS_MAX))).await;
        let Some(registry) = registry.upgrade() else { return };
        expire_before(&registry, horizon(registry.config.event_ttl_seconds)).await;
    }
}

fn horizon(ttl_seconds: u64) -> Timestamp {
    let ttl = SignedDuration::from_secs(i64::try_from(ttl_seconds).unwrap_or(i64::MAX));
    Timestamp::now().saturating_sub(ttl).unwrap_or(Timestamp::MIN)
}

/// Remove core Events that were created before `limit`. A batch in which one is written just now is left to the next round.
pub(crate) async fn expire_before(registry: &Arc<Registry>, limit: Timestamp) {
    let resource = kinds::events_key();
    let Some(shard) = registry.fed.cache.shard(&resource) else { return };
    let mut old = shard.all();
    old.retain(|event| event.meta.creation_timestamp.parse::<Timestamp>().is_ok_and(|created| created < limit));
    for batch in old.chunks(EXPIRY_BATCH) {
        let mut txn = Txn::new();
        for event in batch {
            let key = key::of(&resource, &suffix_of(event));
            txn = txn.expect(key.clone(), Expect::AtRevision(event.revision)).delete(key);
        }
        match registry.store.txn(txn).await {
            Ok(_) | Err(pintle_store::Error::Conflict(_)) => {}
            Err(err) => tracing::warn!(error = %err, "expiring events failed; it is tried again"),
        }
    }
}
