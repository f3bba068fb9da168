//! What plugins say of the places, found by place.

use std::borrow::Cow;

use pintle_sdk::Opinion;

use crate::filter::Refusal;
use crate::snapshot::Snapshot;

/// Of all places, for one pod.
pub struct Opinions<'a> {
    all: &'a [Opinion<'a>],
    /// Each place's number in the order of names, which is how plugins count.
    order: Vec<usize>,
}

impl<'a> Opinions<'a> {
    pub fn new(snapshot: &Snapshot, all: &'a [Opinion<'a>]) -> Self {
        let mut order = Vec::new();
        if !all.is_empty() {
            order.resize(snapshot.places.len(), 0);
            for (number, at) in snapshot.by_name().enumerate() {
                order[at] = number;
            }
        }
        Opinions { all, order }
    }

    /// Whether every plugin agrees. What one has against a node, fewer pods there will not change: it would have to say so itself.
    pub fn check(&self, at: usize) -> Result<(), Refusal> {
        let reasons: Vec<Cow<'static, str>> =
            self.all.iter().filter_map(|opinion| opinion.of(self.order[at]).err()).map(|reason| reason.to_owned().into()).collect();
        if reasons.is_empty() { Ok(()) } else { Err(Refusal { reasons, curable: false }) }
    }

    /// The sum of their scores by their weights.
    pub fn score(&self, at: usize) -> i64 {
        self.all.iter().map(|opinion| i64::from(opinion.weight) * opinion.of(self.order[at]).unwrap_or(0)).sum()
    }
}
