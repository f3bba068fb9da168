//! What is read off a pod's fields by more than one part of the crate.

use serde_json::Value;

use crate::quantity::Quantity;

/// The pod's quality of service class, from its containers' requests and limits for CPU and memory.
pub fn qos_class(spec: &Value) -> &'static str {
    let mut any = false;
    let mut guaranteed = true;
    let lists = ["initContainers", "containers"].into_iter().filter_map(|key| spec[key].as_array());
    for container in lists.flatten() {
        for resource in ["cpu", "memory"] {
            let amount = |kind: &str| container["resources"][kind][resource].as_str().and_then(Quantity::parse).filter(|q| q.units() > 0);
            let (request, limit) = (amount("requests"), amount("limits"));
            any |= request.is_some() || limit.is_some();
            let same = matches!((request, limit), (Some(r), Some(l)) if r.compare(l).is_eq());
            guaranteed &= same || (request.is_none() && limit.is_some());
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// Every container of a pod spec with the path of the list that it is in.
pub fn containers(spec: &Value) -> impl Iterator<Item = (&'static str, usize, &Value)> {
    ["initContainers", "containers", "ephemeralContainers"]
        .into_iter()
        .flat_map(|key| spec[key].as_array().into_iter().flatten().enumerate().map(move |(index, container)| (key, index, container)))
}
