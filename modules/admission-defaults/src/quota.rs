//! ResourceQuota: no more than a namespace's quotas have room for.
//!
//! What is used is added up anew from what there is of the object's kind, unless that is very much: then it goes by what the quotas say, which the
//! controller adds up after each change. Writes that pass here at the same moment do not see each other. Of a change only what it takes
//! more than before counts.

use pintle_sdk::prelude::*;
use pintle_sdk::serde_json::Value;
use pintle_sdk::workload::milli;
use pintle_sdk::workload::quota::{Amounts, Quota, quantity, unsaid, usage};

/// The verdict on one new object.
pub fn review(review: &Review<'_>) -> Result<Verdict> {
    let quotas: Vec<Quota> = review.related("quotas")?.unwrap_or_default();
    if quotas.is_empty() {
        return Ok(Verdict::allow());
    }
    let Some(object) = review.object::<Value>()? else { return Ok(Verdict::allow()) };
    let (old, siblings) = (review.old_object::<Value>()?, review.related::<Value>("siblings")?);
    let (group, resource) = (review.target.group.as_str(), review.target.resource.as_str());
    let taken = |quota: &Quota, object: &Value| {
        if quota.covers(group, resource, object) { quota.limited(usage(group, resource, object)) } else { Amounts::new() }
    };
    for quota in quotas.iter().filter(|quota| quota.covers(group, resource, &object)) {
        let mut wanted = taken(quota, &object);
        for (name, amount) in old.iter().flat_map(|old| taken(quota, old)) {
            wanted.entry(name).and_modify(|wanted| *wanted -= amount);
        }
        let mut used: Amounts = quota.status.used.iter().map(|(name, amount)| (name.clone(), milli(amount))).collect();
        if let Some(siblings) = &siblings {
            // Of what only this kind takes, there is no older word than what there is.
            used.iter_mut().filter(|(name, _)| wanted.contains_key(*name)).for_each(|(_, amount)| *amount = 0);
            for (name, amount) in siblings.iter().flat_map(|sibling| taken(quota, sibling)) {
                used.entry(name).and_modify(|used| *used += amount);
            }
        }
        if let Some(why) = refusal(quota, resource, &object, &wanted, &used) {
            return Ok(Verdict::deny(why));
        }
    }
    Ok(Verdict::allow())
}

fn refusal(quota: &Quota, resource: &str, object: &Value, wanted: &Amounts, used: &Amounts) -> Option<String> {
    let name = &quota.metadata.name;
    let missing = if resource == "pods" { unsaid(quota, object) } else { Vec::new() };
    if !missing.is_empty() {
        return Some(format!("failed quota: {name}: must specify {}", missing.join(",")));
    }
    let wanted: Vec<(&String, i64)> = wanted.iter().map(|(key, amount)| (key, *amount)).filter(|(_, amount)| *amount > 0).collect();
    let unknown: Vec<&str> = wanted.iter().map(|(key, _)| key.as_str()).filter(|key| !used.contains_key(*key)).collect();
    if !unknown.is_empty() {
        return Some(format!("status unknown for quota: {name}, resources: {}", unknown.join(",")));
    }
    let used = |key: &str| used.get(key).copied().unwrap_or(0);
    let hard = |key: &str| milli(quota.spec.hard.get(key).map_or("0", String::as_str));
    let over: Vec<(&String, i64)> = wanted.into_iter().filter(|(key, amount)| used(key).saturating_add(*amount) > hard(key)).collect();
    if over.is_empty() {
        return None;
    }
    let list = |amount: &dyn Fn(&str, i64) -> i64| -> String {
        over.iter().map(|(key, asked)| format!("{key}={}", quantity(key, amount(key, *asked)))).collect::<Vec<_>>().join(",")
    };
    let (requested, used, limited) = (list(&|_, asked| asked), list(&|key, _| used(key)), list(&|key, _| hard(key)));
    Some(format!("exceeded quota: {name}, requested: {requested}, used: {used}, limited: {limited}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pintle_sdk::{Operation, Phase};

    /// The refusal of a pod that asks for this much cpu, in a namespace whose quota has this said of it.
    fn refused(cpu: Option<&str>, used: Value) -> Result<Option<String>> {
        let pod = json!({"spec": {"containers": [{"resources": {"requests": cpu.map(|cpu| json!({"cpu": cpu}))}}]}}).to_string();
        let hard = json!({"pods": "2", "requests.cpu": "1"});
        let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": hard}, "status": {"hard": hard, "used": used}}).to_string();
        let target = ObjectRef::named("", "pods", "shop", "a");
        let mut ask = Review::new(Operation::Create, target, pod.as_bytes(), b"").with_related("quotas", vec![quota.as_bytes()]);
        ask.phase = Phase::Validating;
        Ok(review(&ask)?.failure.map(|failure| failure.message))
    }

    #[test]
    fn what_there_is_counts_before_the_quota_says_so() -> Result<()> {
        let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"services.nodeports": "1", "services": "3"}},
            "status": {"used": {"services.nodeports": "0", "services": "0"}}})
        .to_string();
        let service = |kind: &str| json!({"spec": {"type": kind, "ports": [{"port": 80}]}}).to_string();
        let (node_port, plain, balanced) = (service("NodePort"), service("ClusterIP"), service("LoadBalancer"));
        let verdict = |operation: Operation, new: &str, old: &str, there: &[&str]| {
            let mut ask = Review::new(operation, ObjectRef::named("", "services", "shop", "a"), new.as_bytes(), old.as_bytes())
                .with_related("quotas", vec![quota.as_bytes()])
                .with_related("siblings", there.iter().map(|text| text.as_bytes()).collect());
            ask.phase = Phase::Validating;
            review(&ask).map(|verdict| verdict.allowed())
        };
        assert!(verdict(Operation::Create, &node_port, "", &[&plain])?);
        assert!(!verdict(Operation::Create, &balanced, "", &[&node_port, &plain])?, "the one node port is taken");
        assert!(!verdict(Operation::Create, &plain, "", &[&plain, &plain, &plain])?);
        assert!(!verdict(Operation::Update, &node_port, &plain, &[&node_port, &plain])?, "a change that takes more");
        assert!(verdict(Operation::Update, &node_port, &balanced, &[&balanced, &node_port])?, "one that does not, though there is no room");
        Ok(())
    }

    #[test]
    fn what_has_no_room_or_says_too_little_is_refused() -> Result<()> {
        let used = |pods: &str, cpu: &str| json!({"pods": pods, "requests.cpu": cpu});
        assert_eq!(refused(Some("500m"), used("1", "500m"))?, None);
        let over = "exceeded quota: q, requested: pods=1,requests.cpu=600m, used: pods=2,requests.cpu=500m, limited: pods=2,requests.cpu=1";
        assert_eq!(refused(Some("600m"), used("2", "500m"))?.as_deref(), Some(over));
        assert_eq!(refused(None, used("0", "0"))?.as_deref(), Some("failed quota: q: must specify requests.cpu"));
        assert_eq!(refused(Some("1m"), json!({}))?.as_deref(), Some("status unknown for quota: q, resources: pods,requests.cpu"));
        Ok(())
    }
}
