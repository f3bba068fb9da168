//! A scheduler plugin of one's own: software with licences runs where there are some left. A node has as many as its label `licences` says; a pod with the
//! label `licence` takes one, and goes where most are left.

use pintle_sdk::prelude::*;
use pintle_sdk::{Place, Reason, SchedulerPlugin};

struct Licences;

impl Licences {
    fn left(place: &Place<Self>) -> usize {
        place.node.saturating_sub(place.pods.values().filter(|takes| **takes).count())
    }
}

impl SchedulerPlugin for Licences {
    /// How many there are.
    type Node = usize;
    /// Whether it takes one.
    type Pod = bool;

    fn start(_: &Start) -> Result<Self> {
        Ok(Licences)
    }

    fn node(&self, row: &[u8]) -> Result<usize> {
        let labels = Partial::read(row)?.metadata.labels;
        Ok(labels.get("licences").and_then(|count| count.parse().ok()).unwrap_or(0))
    }

    fn pod(&self, row: &[u8]) -> Result<bool> {
        Ok(Partial::read(row)?.metadata.labels.contains_key("licence"))
    }

    fn filter(&self, takes_one: &bool, place: &Place<Self>) -> Result<(), Reason> {
        if !takes_one || Self::left(place) > 0 { Ok(()) } else { Err("node(s) had no licence left".into()) }
    }

    fn score(&self, takes_one: &bool, place: &Place<Self>) -> i16 {
        if *takes_one { Self::left(place).min(100) as i16 } else { 0 }
    }
}

pintle_sdk::scheduler_plugin!(Licences);

#[cfg(test)]
mod tests {
    use super::*;
    use pintle_sdk::testing::FakeScheduler;

    #[test]
    fn a_pod_with_a_licence_goes_where_most_are_left_and_not_where_none_are() -> Result<()> {
        let mut scheduler = FakeScheduler::new::<Licences>(&Start::default())?;
        let node = |name: &str, licences: &str| json!({"metadata": {"name": name, "labels": {"licences": licences}}});
        let pod = |name: &str, node: &str| json!({"metadata": {"name": name, "uid": name, "labels": {"licence": "cad"}}, "spec": {"nodeName": node}});
        scheduler.put(&[node("a", "2"), node("b", "1"), node("c", "none")], &[pod("one", "a"), pod("two", "b")])?;
        let said = scheduler.evaluate(&pod("three", ""))?;
        let no = || Err("node(s) had no licence left".to_owned());
        assert_eq!(said.into_values().collect::<Vec<_>>(), [Ok(1), no(), no()]);
        let plain = json!({"metadata": {"name": "plain"}, "spec": {}});
        assert!(scheduler.evaluate(&plain)?.values().all(|said| *said == Ok(0)));
        Ok(())
    }
}
