//! Which address a Service gets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use pintle_sdk::network::{FAMILIES, family};
use pintle_sdk::prelude::*;
use serde::Deserialize;

use crate::pool::Pool;

/// Services that got none are looked at again after this time: somebody may have given one back.
const RETRY: Duration = Duration::from_secs(30);

/// A Service, as far as it is read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Service {
    pub metadata: Metadata,
    pub spec: ServiceSpec,
    pub status: ServiceStatus,
}

/// What is read of a Service's spec.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ServiceSpec {
    pub r#type: String,
    #[serde(rename = "loadBalancerClass")]
    pub class: Option<String>,
    /// The address that it would like (deprecated upstream, still understood).
    #[serde(rename = "loadBalancerIP")]
    pub wish: String,
    #[serde(rename = "ipFamilies")]
    pub families: Vec<String>,
}

/// What is read of a Service's status.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceStatus {
    pub load_balancer: Balancer,
}

/// `status.loadBalancer`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Balancer {
    pub ingress: Vec<Ingress>,
}

/// One address.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Ingress {
    pub ip: String,
}

impl Service {
    fn key(&self) -> (String, String) {
        (self.metadata.namespace.clone(), self.metadata.name.clone())
    }

    fn is_ours(&self) -> bool {
        self.spec.r#type == "LoadBalancer" && self.spec.class.is_none()
    }

    fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.status.load_balancer.ingress.iter().filter_map(|ingress| ingress.ip.parse().ok())
    }
}

/// Keeps, gives or takes back the addresses of one Service.
pub fn plan(pools: &[Pool], given: &mut BTreeMap<IpAddr, (String, String)>, service: &Service, all: &[Service]) -> Plan {
    let key = service.key();
    let of_pools = |address: &IpAddr| pools.iter().any(|pool| pool.holds(*address));
    let target = || ObjectRef::of("", "services", &service.metadata);
    if !service.is_ours() || service.metadata.is_terminating() {
        given.retain(|_, to| *to != key);
        // What a Service of another type still shows was ours; a class's address is not for us to take.
        let stale = service.spec.class.is_none() && service.spec.r#type != "LoadBalancer" && service.addresses().any(|a| of_pools(&a));
        return if stale { Plan::new().patch_status(target(), json!({"loadBalancer": {"ingress": null}})) } else { Plan::new() };
    }
    let others = all.iter().filter(|other| other.key() != key && other.is_ours());
    let mut taken: BTreeSet<IpAddr> = others.flat_map(|other| other.addresses().collect::<Vec<_>>()).collect();
    taken.extend(given.iter().filter(|(_, to)| **to != key).map(|(address, _)| *address));
    let wish: Option<IpAddr> = service.spec.wish.parse().ok();
    let usual = [FAMILIES[0].to_owned()];
    let families = if service.spec.families.is_empty() { &usual[..] } else { &service.spec.families };
    let (mut chosen, mut lacking) = (Vec::new(), false);
    for of in families {
        let free = |address: &IpAddr| family(*address) == of && of_pools(address) && !taken.contains(address);
        let before = given.iter().find(|(address, to)| **to == key && free(address)).map(|(address, _)| *address);
        let found = service.addresses().find(free).or_else(|| match wish.filter(|wish| family(*wish) == of) {
            Some(wish) => Some(wish).filter(free),
            None => before.or_else(|| pools.iter().filter(|pool| pool.family() == of).flat_map(Pool::addresses).find(free)),
        });
        lacking |= found.is_none() && pools.iter().any(|pool| pool.family() == of);
        chosen.extend(found);
    }
    given.retain(|_, to| *to != key);
    given.extend(chosen.iter().map(|address| (*address, key.clone())));
    let shown: Vec<IpAddr> = service.addresses().filter(of_pools).collect();
    let mut plan = Plan::new();
    if !chosen.is_empty() && chosen != shown {
        let ingress: Vec<_> = chosen.iter().map(|address| json!({"ip": address.to_string(), "ipMode": "VIP"})).collect();
        plan = plan.patch_status(target(), json!({"loadBalancer": {"ingress": ingress}}));
    }
    if lacking {
        let which = wish.map_or_else(|| "no address of the pools is free".to_owned(), |wish| format!("{wish} is not free or of no pool"));
        plan = plan.warning("AllocationFailed", which).requeue_after(RETRY);
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LoadBalancer;
    use pintle_sdk::testing::FakeKernel;

    fn balancer(pools: &[&str]) -> Result<LoadBalancer> {
        Ok(LoadBalancer { pools: pools.iter().map(|pool| Pool::parse(pool)).collect::<Result<_>>()?, given: BTreeMap::new() })
    }

    fn kernel(services: &[(&str, pintle_sdk::serde_json::Value)]) -> Result<FakeKernel> {
        let mut kernel = FakeKernel::new(include_str!("../module.json"))?;
        for (name, spec) in services {
            kernel.put(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"}, "spec": spec}))?;
        }
        Ok(kernel)
    }

    fn shown(kernel: &FakeKernel) -> Vec<String> {
        let ip = |s: &pintle_sdk::serde_json::Value| s["status"]["loadBalancer"]["ingress"][0]["ip"].as_str().unwrap_or("-").to_owned();
        kernel.list("/services").iter().map(|service| ip(service)).collect()
    }

    #[test]
    fn each_balanced_service_has_an_address_of_its_own_and_keeps_it() -> Result<()> {
        let balanced = || json!({"type": "LoadBalancer"});
        let mut kernel = kernel(&[
            ("a", balanced()),
            ("b", json!({"type": "LoadBalancer", "loadBalancerIP": "192.0.2.1"})),
            ("c", json!({"type": "ClusterIP"})),
            ("d", json!({"type": "LoadBalancer", "loadBalancerClass": "example.com/other"})),
            ("e", balanced()),
        ])?;
        let mut balancer = balancer(&["192.0.2.0/30"])?;
        kernel.settle(&mut balancer)?;
        assert_eq!(shown(&kernel), ["192.0.2.0", "192.0.2.1", "-", "-", "192.0.2.2"]);
        // A new incarnation keeps what is there.
        kernel.settle(&mut super::tests::balancer(&["192.0.2.0/30"])?)?;
        assert_eq!(shown(&kernel), ["192.0.2.0", "192.0.2.1", "-", "-", "192.0.2.2"]);
        Ok(())
    }

    #[test]
    fn a_service_has_an_address_of_each_of_its_families_that_pools_are_of() -> Result<()> {
        let of = |families: &[&str]| json!({"type": "LoadBalancer", "ipFamilies": families});
        let mut kernel = kernel(&[("a", of(&["IPv6", "IPv4"])), ("b", of(&["IPv6"])), ("c", of(&["IPv4"]))])?;
        let addresses = |kernel: &FakeKernel| -> Vec<String> {
            let ip = |ingress: &pintle_sdk::serde_json::Value| ingress["ip"].as_str().unwrap_or("-").to_owned();
            let of = |s: &&pintle_sdk::serde_json::Value| {
                s["status"]["loadBalancer"]["ingress"].as_array().into_iter().flatten().map(ip).collect::<Vec<_>>().join(" ")
            };
            kernel.list("/services").iter().map(of).collect()
        };
        let mut balancer = balancer(&["192.0.2.0/30", "2001:db8::/126"])?;
        kernel.settle(&mut balancer)?;
        assert_eq!(addresses(&kernel), ["2001:db8:: 192.0.2.0", "2001:db8::1", "192.0.2.1"]);
        kernel.edit("/services", "shop", "a", |service| service["spec"]["ipFamilies"] = json!(["IPv6"]));
        kernel.settle(&mut balancer)?;
        assert_eq!(addresses(&kernel), ["2001:db8::", "2001:db8::1", "192.0.2.1"]);
        Ok(())
    }

    #[test]
    fn an_old_view_gives_no_address_twice() -> Result<()> {
        let mut kernel = kernel(&[("a", json!({"type": "LoadBalancer"})), ("b", json!({"type": "LoadBalancer"}))])?;
        let mut balancer = balancer(&["192.0.2.4-192.0.2.5"])?;
        kernel.freeze_view();
        kernel.round(&mut balancer)?;
        kernel.round(&mut balancer)?;
        assert_eq!(shown(&kernel), ["192.0.2.4", "192.0.2.5"]);
        Ok(())
    }

    #[test]
    fn an_exhausted_pool_is_told_and_a_freed_address_is_given_again() -> Result<()> {
        let mut kernel = kernel(&[("a", json!({"type": "LoadBalancer"})), ("b", json!({"type": "LoadBalancer"}))])?;
        let mut balancer = balancer(&["192.0.2.9/32"])?;
        kernel.settle(&mut balancer)?;
        assert_eq!(shown(&kernel), ["192.0.2.9", "-"]);
        assert!(kernel.events.iter().any(|event| event.reason == "AllocationFailed"));
        kernel.edit("/services", "shop", "a", |service| service["spec"]["type"] = json!("ClusterIP"));
        kernel.settle(&mut balancer)?;
        assert_eq!(shown(&kernel), ["-", "192.0.2.9"]);
        Ok(())
    }

    #[test]
    fn without_pools_services_wait() -> Result<()> {
        let mut kernel = kernel(&[("a", json!({"type": "LoadBalancer"}))])?;
        kernel.settle(&mut balancer(&[])?)?;
        assert_eq!(shown(&kernel), ["-"]);
        assert!(kernel.events.is_empty());
        Ok(())
    }
}
