//! LimitRanger: what a namespace's limit ranges give to containers that do not say, and what they refuse.
//!
//! Facts: <https://kubernetes.io/docs/concepts/policy/limit-range/>.

use std::collections::BTreeMap;

use pintle_sdk::prelude::*;
use pintle_sdk::workload::milli;
use serde::Deserialize;

type Amounts = BTreeMap<String, String>;

#[derive(Default, Deserialize)]
#[serde(default)]
struct LimitRange {
    spec: Spec,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Spec {
    limits: Vec<Limit>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Limit {
    r#type: String,
    min: Amounts,
    max: Amounts,
    default: Amounts,
    default_request: Amounts,
    max_limit_request_ratio: Amounts,
}

/// What is read of a pod or a claim.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Subject {
    spec: SubjectSpec,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SubjectSpec {
    containers: Vec<Container>,
    init_containers: Vec<Container>,
    resources: Resources,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Container {
    name: String,
    resources: Option<Resources>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Resources {
    requests: Amounts,
    limits: Amounts,
}

/// The edits that give a pod's containers what they do not say.
pub fn edits(review: &Review<'_>) -> Result<Vec<Edit>> {
    let (limits, Some(pod)) = (limits(review)?, review.object::<Subject>()?) else { return Ok(Vec::new()) };
    let mut edits = Vec::new();
    for (list, containers) in [("containers", &pod.spec.containers), ("initContainers", &pod.spec.init_containers)] {
        for (index, container) in containers.iter().enumerate() {
            let had = container.resources.clone().unwrap_or_default();
            let mut now = had.clone();
            for limit in limits.iter().filter(|limit| limit.r#type == "Container") {
                fill(&mut now.limits, &limit.default);
                fill(&mut now.requests, &limit.default_request);
            }
            let path = format!("/spec/{list}/{index}/resources");
            let changed = [("limits", &had.limits, &now.limits), ("requests", &had.requests, &now.requests)];
            let changed: Vec<_> = changed.into_iter().filter(|(_, had, now)| had != now).collect();
            if !changed.is_empty() && container.resources.is_none() {
                edits.push(Edit::add(path.as_str(), &json!({})));
            }
            edits.extend(changed.into_iter().map(|(key, _, now)| Edit::add(format!("{path}/{key}"), now)));
        }
    }
    Ok(edits)
}

fn fill(amounts: &mut Amounts, defaults: &Amounts) {
    for (resource, amount) in defaults {
        amounts.entry(resource.clone()).or_insert_with(|| amount.clone());
    }
}

/// Refuses a pod or a claim that a limit range does not allow.
pub fn review(review: &Review<'_>) -> Result<Verdict> {
    let (limits, Some(subject)) = (limits(review)?, review.object::<Subject>()?) else { return Ok(Verdict::allow()) };
    let mut failures = Vec::new();
    for limit in &limits {
        match (limit.r#type.as_str(), review.target.resource.as_str()) {
            ("Container", "pods") => {
                for container in subject.spec.containers.iter().chain(&subject.spec.init_containers) {
                    check(limit, &format!("Container {}", container.name), &container.resources.clone().unwrap_or_default(), &mut failures);
                }
            }
            ("Pod", "pods") => check(limit, "Pod", &whole(&subject), &mut failures),
            ("PersistentVolumeClaim", "persistentvolumeclaims") => {
                check(limit, "PersistentVolumeClaim", &subject.spec.resources, &mut failures)
            }
            _ => {}
        }
    }
    Ok(if failures.is_empty() { Verdict::allow() } else { Verdict::deny(failures.join(", ")) })
}

fn limits(review: &Review<'_>) -> Result<Vec<Limit>> {
    let ranges = review.related::<LimitRange>("limitranges")?.unwrap_or_default();
    Ok(ranges.into_iter().flat_map(|range| range.spec.limits).collect())
}

/// The sum of the containers, or the largest init container where that is more. A resource that some container does not say has no sum.
fn whole(pod: &Subject) -> Resources {
    let sum = |of: fn(&Resources) -> &Amounts| {
        let each: Vec<Resources> = pod.spec.containers.iter().map(|c| c.resources.clone().unwrap_or_default()).collect();
        let init: Vec<Resources> = pod.spec.init_containers.iter().map(|c| c.resources.clone().unwrap_or_default()).collect();
        let names = each.iter().flat_map(|r| of(r).keys());
        names
            .filter_map(|name| {
                let total = each.iter().map(|r| of(r).get(name).map(|text| milli(text))).sum::<Option<i64>>()?;
                let largest = init.iter().filter_map(|r| of(r).get(name)).map(|text| milli(text)).max().unwrap_or(0);
                Some((name.clone(), format!("{}m", total.max(largest))))
            })
            .collect::<Amounts>()
    };
    Resources { requests: sum(|r| &r.requests), limits: sum(|r| &r.limits) }
}

fn check(limit: &Limit, kind: &str, has: &Resources, failures: &mut Vec<String>) {
    for (resource, least) in &limit.min {
        let what = limit_kind(kind);
        match has.requests.get(resource) {
            None => failures.push(format!("minimum {resource} usage per {what} is {least}.  No request is specified")),
            Some(asked) if milli(asked) < milli(least) => {
                failures.push(format!("minimum {resource} usage per {what} is {least}, but request is {asked}"));
            }
            Some(_) => {}
        }
    }
    for (resource, most) in &limit.max {
        let what = limit_kind(kind);
        let claimed = if what == "PersistentVolumeClaim" { has.requests.get(resource) } else { has.limits.get(resource) };
        let word = if what == "PersistentVolumeClaim" { "request" } else { "limit" };
        match claimed {
            None => failures.push(format!("maximum {resource} usage per {what} is {most}.  No {word} is specified")),
            Some(said) if milli(said) > milli(most) => {
                failures.push(format!("maximum {resource} usage per {what} is {most}, but {word} is {said}"));
            }
            Some(_) => {}
        }
    }
    for (resource, ratio) in &limit.max_limit_request_ratio {
        let what = limit_kind(kind);
        match (has.requests.get(resource).map(|r| milli(r)), has.limits.get(resource).map(|l| milli(l))) {
            (Some(asked), Some(said)) if asked > 0 && i128::from(said) * 1000 <= i128::from(milli(ratio)) * i128::from(asked) => {}
            (Some(_), Some(_)) => {
                failures.push(format!("{resource} max limit to request ratio per {what} is {ratio}, but provided ratio is more"))
            }
            _ => failures
                .push(format!("{resource} max limit to request ratio per {what} is {ratio}, but no request or no limit is specified")),
        }
    }
}

fn limit_kind(kind: &str) -> &str {
    kind.split(' ').next().unwrap_or(kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pintle_sdk::Operation;

    const RANGE: &str = r#"{"spec": {"limits": [
        {"type": "Container", "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "100m"}, "min": {"cpu": "50m"}, "max": {"cpu": "1"},
         "maxLimitRequestRatio": {"cpu": "10"}},
        {"type": "Pod", "max": {"cpu": "1500m"}},
        {"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "2Gi"}}]}}"#;

    fn with<T>(resource: &str, object: &str, then: impl Fn(&Review<'_>) -> Result<T>) -> Result<T> {
        let target = ObjectRef::named("", resource, "shop", "a");
        then(&Review::new(Operation::Create, target, object.as_bytes(), b"").with_related("limitranges", vec![RANGE.as_bytes()]))
    }

    fn pod(resources: &[&str]) -> String {
        let containers: Vec<String> = resources.iter().map(|r| format!(r#"{{"name": "c"{r}}}"#)).collect();
        format!(r#"{{"spec": {{"containers": [{}]}}}}"#, containers.join(","))
    }

    #[test]
    fn containers_get_what_they_do_not_say() -> Result<()> {
        let edited = with("pods", &pod(&["", r#", "resources": {"limits": {"cpu": "200m"}}"#]), edits)?;
        let shown: Vec<String> = edited.iter().map(|edit| format!("{edit:?}")).collect();
        assert_eq!(shown.len(), 4, "{shown:?}");
        assert_eq!(edited[1], Edit::add("/spec/containers/0/resources/limits", &json!({"cpu": "500m"})));
        assert_eq!(edited[2], Edit::add("/spec/containers/0/resources/requests", &json!({"cpu": "100m"})));
        assert_eq!(edited[3], Edit::add("/spec/containers/1/resources/requests", &json!({"cpu": "100m"})));
        Ok(())
    }

    #[test]
    fn what_lies_outside_the_range_is_refused() -> Result<()> {
        let said = |limit: &str, request: &str| {
            format!(r#", "resources": {{"limits": {{"cpu": "{limit}"}}, "requests": {{"cpu": "{request}"}}}}"#)
        };
        let verdict = |containers: &[String]| {
            let object = pod(&containers.iter().map(String::as_str).collect::<Vec<_>>());
            with("pods", &object, review).map(|verdict| verdict.failure.map(|failure| failure.message))
        };
        assert_eq!(verdict(&[said("500m", "100m")])?, None);
        assert_eq!(verdict(&[said("1200m", "200m")])?.as_deref(), Some("maximum cpu usage per Container is 1, but limit is 1200m"));
        assert_eq!(verdict(&[said("200m", "40m")])?.as_deref(), Some("minimum cpu usage per Container is 50m, but request is 40m"));
        assert!(verdict(&[said("900m", "60m")])?.is_some_and(|why| why.contains("ratio")));
        let two = [said("800m", "200m"), said("800m", "200m")];
        assert_eq!(verdict(&two)?.as_deref(), Some("maximum cpu usage per Pod is 1500m, but limit is 1600m"));
        let claim = |size: &str| {
            let object = format!(r#"{{"spec": {{"resources": {{"requests": {{"storage": "{size}"}}}}}}}}"#);
            with("persistentvolumeclaims", &object, review).map(|verdict| verdict.allowed())
        };
        assert_eq!([claim("1Gi")?, claim("3Gi")?, claim("1Mi")?], [true, false, false]);
        Ok(())
    }
}
