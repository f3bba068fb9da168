//! How many pods each ReplicaSet should ask for. Numbers in, numbers out.

use crate::model::{DESIRED, Deployment, MAX, ReplicaSet};

/// A ReplicaSet and how many pods it should ask for.
pub type Sizing<'a> = Vec<(&'a ReplicaSet, i64)>;

/// The size of the newest ReplicaSet: up as far as the surge allows, down to what is asked for.
pub fn newest_size(deployment: &Deployment, sets: &[ReplicaSet], current: i64) -> i64 {
    let wanted = deployment.replicas();
    if deployment.is_recreate() || current > wanted {
        return wanted;
    }
    let room = wanted + deployment.max_surge() - sets.iter().map(ReplicaSet::replicas).sum::<i64>();
    current + room.max(0).min(wanted - current)
}

/// Old ReplicaSets made smaller, as far as availability allows: first pods that are not available anyway, then others, oldest set first.
pub fn shrink_old<'a>(deployment: &Deployment, sets: &[ReplicaSet], newest: &ReplicaSet, old: &[&'a ReplicaSet]) -> Sizing<'a> {
    let minimum = deployment.replicas() - deployment.max_unavailable();
    let asked: i64 = sets.iter().map(ReplicaSet::replicas).sum();
    let not_yet = newest.replicas() - newest.status.available_replicas;
    let mut room = asked - minimum - not_yet;
    let mut sizes: Sizing<'a> = old.iter().map(|set| (*set, set.replicas())).collect();
    sizes.sort_by_key(|(set, _)| set.age());
    for (set, size) in &mut sizes {
        let broken = (*size - set.status.available_replicas).max(0).min(room.max(0));
        *size -= broken;
        room -= broken;
    }
    let available: i64 = sets.iter().map(|set| set.status.available_replicas).sum();
    let mut spare = (available - minimum).max(0).min(room.max(0));
    for (_, size) in &mut sizes {
        let taken = (*size).min(spare);
        *size -= taken;
        spare -= taken;
    }
    sizes.retain(|(set, size)| *size != set.replicas());
    sizes
}

/// Whether `replicas` of the Deployment has changed since its sets were last sized.
pub fn is_due(deployment: &Deployment, sets: &[ReplicaSet]) -> bool {
    sets.iter().any(|set| set.replicas() > 0 && set.number(DESIRED).is_some_and(|desired| desired != deployment.replicas()))
}

/// New sizes after `replicas` changed, without a rollout going on: the one active set takes it all; in the middle of a rollout each takes
/// its share, so that a scaling is no rollout.
pub fn proportional<'a>(deployment: &Deployment, sets: &'a [ReplicaSet], newest: Option<&'a ReplicaSet>) -> Sizing<'a> {
    let wanted = deployment.replicas();
    let mut active: Vec<&ReplicaSet> = sets.iter().filter(|set| set.replicas() > 0).collect();
    if active.len() <= 1 {
        let only = active.pop().or(newest).or_else(|| sets.iter().max_by_key(|set| set.age()));
        return only.map(|set| (set, wanted)).into_iter().collect();
    }
    if let Some(newest) = newest.filter(|set| is_saturated(deployment, set)) {
        return active.into_iter().filter(|set| set.metadata.uid != newest.metadata.uid).map(|set| (set, 0)).collect();
    }
    if deployment.is_recreate() {
        return Vec::new();
    }
    let allowed = if wanted > 0 { wanted + deployment.max_surge() } else { 0 };
    let change = allowed - active.iter().map(|set| set.replicas()).sum::<i64>();
    share(active, change, allowed)
}

/// Gives each set its part of the change: the largest first, the newer first among equals when growing, the older when shrinking; what
/// rounding leaves over goes to the first.
fn share(mut active: Vec<&ReplicaSet>, change: i64, allowed: i64) -> Sizing<'_> {
    active.sort_by(|a, b| {
        let by_age = if change > 0 { b.age().cmp(&a.age()) } else { a.age().cmp(&b.age()) };
        b.replicas().cmp(&a.replicas()).then(by_age)
    });
    let mut given = 0;
    let mut sizes: Sizing<'_> = Vec::with_capacity(active.len());
    for set in active {
        let before = set.number(MAX).filter(|max| *max > 0).unwrap_or(allowed).max(1);
        let part = rounded(set.replicas() * allowed, before) - set.replicas();
        let part = if change > 0 { part.clamp(0, change - given) } else { part.clamp(change - given, 0) };
        given += part;
        sizes.push((set, set.replicas() + part));
    }
    if let Some((_, first)) = sizes.first_mut() {
        *first = (*first + change - given).max(0);
    }
    sizes
}

fn rounded(number: i64, divisor: i64) -> i64 {
    (number + divisor / 2) / divisor
}

fn is_saturated(deployment: &Deployment, set: &ReplicaSet) -> bool {
    let wanted = deployment.replicas();
    set.replicas() == wanted && set.number(DESIRED) == Some(wanted) && set.status.available_replicas == wanted
}
