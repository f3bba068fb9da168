//! Removes images that nobody uses when their disk fills, or when they are old.
//!
//! Used is what a container was made from, what a pod that has not ended names, and what its volumes show. Everything else goes in the order of its
//! last use, once it is old enough, until the disk is as empty as wanted. Pinned images stay.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::signal::{Signal, observe};
use crate::error::{Error, Result};
use crate::node::Node;
use crate::pod::record::{all_containers, ephemeral_containers};

/// What is remembered of images, while the daemon runs.
#[derive(Debug, Default)]
pub struct Keeper {
    seen: RefCell<BTreeMap<String, Seen>>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    first: Timestamp,
    used: Timestamp,
}

/// An image that could go.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Candidate {
    id: String,
    bytes: u64,
    first: Timestamp,
    used: Timestamp,
}

/// How much is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Want {
    Bytes(u64),
    Everything,
}

/// Looks after images and remains, for ever.
pub async fn run(node: Rc<Node>) {
    let period = Duration::from_millis(node.options.housekeeping.image_gc_period_ms);
    loop {
        if let Err(error) = round(&node).await {
            tracing::warn!(error = Error::chain(&error), "images are not cleaned up");
        }
        super::remains::sweep(&node);
        tokio::time::sleep(period).await;
    }
}

async fn round(node: &Node) -> Result<()> {
    let options = &node.options.housekeeping;
    let candidates = candidates(node).await?;
    if options.image_gc_max_age_s > 0 {
        let oldest = ago(options.image_gc_max_age_s);
        let old: Vec<_> = candidates.iter().filter(|c| c.used < oldest).cloned().collect();
        remove(node, &old, Want::Everything).await;
    }
    let seen = observe(&node.options.state_dir, &node.images_dir());
    let Some(disk) = seen.get(&Signal::ImagefsAvailable).filter(|disk| disk.capacity > 0) else { return Ok(()) };
    let used = 100 - (u128::from(disk.available) * 100 / u128::from(disk.capacity)).min(100) as u64;
    if options.image_gc_high == 100 || used < options.image_gc_high {
        return Ok(());
    }
    let wanted = (u128::from(disk.capacity) * u128::from(100 - options.image_gc_low) / 100) as u64;
    let wanted = wanted.saturating_sub(disk.available);
    let freed = remove(node, &candidates, Want::Bytes(wanted)).await;
    if freed < wanted {
        tracing::warn!(used, wanted, freed, "the images' disk is fuller than wanted, and no more images can be removed");
    }
    Ok(())
}

/// Removes every image that may go: the machine is short of disk space.
pub async fn remove_unused(node: &Node) -> Result<u64> {
    let candidates = candidates(node).await?;
    let freed = remove(node, &candidates, Want::Everything).await;
    node.runtime.sweep_images().await?;
    Ok(freed)
}

async fn remove(node: &Node, candidates: &[Candidate], want: Want) -> u64 {
    let mut freed = 0;
    for candidate in candidates {
        if matches!(want, Want::Bytes(bytes) if freed >= bytes) {
            break;
        }
        match node.runtime.remove_image(&candidate.id).await {
            Ok(()) => {
                tracing::info!(image = candidate.id, bytes = candidate.bytes, "an unused image is removed");
                freed += candidate.bytes;
                node.keeper.seen.borrow_mut().remove(&candidate.id);
            }
            // A container was made from it just now.
            Err(error) => tracing::debug!(image = candidate.id, %error, "an image stays"),
        }
    }
    freed
}

fn ago(seconds: u64) -> Timestamp {
    let seconds = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
    Timestamp::now().checked_sub(seconds).unwrap_or(Timestamp::MIN)
}

/// Images that nobody uses and that are old enough, least recently used first.
async fn candidates(node: &Node) -> Result<Vec<Candidate>> {
    let (images, used, now) = (node.runtime.images().await?, used(node).await?, Timestamp::now());
    let oldest = ago(node.options.housekeeping.image_gc_min_age_s);
    let mut seen = node.keeper.seen.borrow_mut();
    seen.retain(|id, _| images.iter().any(|image| image.id.as_str() == id));
    let mut found = Vec::new();
    for image in images {
        let id = image.id.to_string();
        let entry = seen.entry(id.clone()).or_insert(Seen { first: now, used: now });
        if used.contains(&id) {
            entry.used = now;
        } else if entry.first <= oldest {
            found.push(Candidate { id, bytes: image.size_bytes, first: entry.first, used: entry.used });
        }
    }
    found.sort_by_key(|candidate| (candidate.used, candidate.first));
    Ok(found)
}

/// Ids of images that are in use or pinned.
async fn used(node: &Node) -> Result<BTreeSet<String>> {
    let mut ids: BTreeSet<String> = node.runtime.list().await?.into_iter().map(|state| state.image_id).collect();
    let mut names: BTreeSet<String> = node.options.housekeeping.pinned_images.iter().cloned().collect();
    for view in node.roster.views() {
        let (pod, record) = (view.pod.borrow(), view.record.borrow());
        ids.extend(record.sandbox.iter().flat_map(|sandbox| sandbox.images.iter().cloned()));
        if record.ended.is_none() && record.verdict.is_none() {
            names.extend(all_containers(&pod).filter_map(|c| c.image.clone()));
            names.extend(ephemeral_containers(&pod).into_iter().filter_map(|c| c.image));
            names.extend(crate::volume::images(&pod).filter_map(|(_, source)| source.reference.clone()));
        }
    }
    for name in names {
        if let Some(image) = node.runtime.image(&name).await {
            ids.insert(image.id.to_string());
        }
    }
    Ok(ids)
}
