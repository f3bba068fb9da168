//! From Endpoints to slices.

use std::collections::BTreeMap;
use std::net::IpAddr;

use pintle_sdk::prelude::*;
use pintle_sdk::serde_json::{Map, Value};
use serde::Deserialize;

/// Addresses of one subset that are mirrored (upstream's default).
const ADDRESSES_MAX: usize = 1000;
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
const MANAGED_BY: (&str, &str) = ("endpointslice.kubernetes.io/managed-by", "endpointslicemirroring-controller.k8s.io");
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Endpoints.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Endpoints {
    pub metadata: Metadata,
    pub subsets: Option<Vec<Subset>>,
}

/// Addresses that share ports.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Subset {
    pub addresses: Option<Vec<Value>>,
    pub not_ready_addresses: Option<Vec<Value>>,
    pub ports: Option<Vec<Value>>,
}

/// A Service, as far as it is read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Service {
    pub metadata: Metadata,
    pub spec: ServiceSpec,
}

/// What is read of a Service's spec.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ServiceSpec {
    pub selector: Option<BTreeMap<String, String>>,
}

/// A slice that is there.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Slice {
    pub metadata: Metadata,
    pub endpoints: Option<Vec<Value>>,
    pub ports: Option<Vec<Value>>,
}

/// Brings the slices to what the Endpoints say.
pub fn plan(endpoints: &Endpoints, service: Option<&Service>, slices: &[Slice]) -> Result<Plan> {
    if endpoints.metadata.is_terminating() {
        return Ok(Plan::new());
    }
    let mut left: BTreeMap<&str, &Slice> = slices.iter().map(|slice| (slice.metadata.name.as_str(), slice)).collect();
    let mut plan = Plan::new();
    if is_mirrored(endpoints, service) {
        let labels = labels(endpoints);
        for (index, subset) in endpoints.subsets.iter().flatten().enumerate() {
            for family in ["IPv4", "IPv6"] {
                let wanted = mirrored(subset, family);
                if wanted.is_empty() {
                    continue;
                }
                let ports: Vec<Value> = subset.ports.iter().flatten().map(port).collect();
                let name = name(endpoints, family, index);
                match left.remove(name.as_str()) {
                    Some(slice) => plan.writes.extend(mend(slice, &wanted, &ports, &labels)),
                    None => {
                        plan = plan.create(&Untyped::new(json!({
                            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                            "metadata": {
                                "name": name, "generateName": format!("{}-", endpoints.metadata.name), "namespace": endpoints.metadata.namespace,
                                "labels": labels, "ownerReferences": [endpoints.metadata.as_controller("v1", "Endpoints")],
                            },
                            "addressType": family, "endpoints": wanted, "ports": ports,
                        }))?);
                    }
                }
            }
        }
    }
    plan.writes.extend(left.values().filter(|slice| !slice.metadata.is_terminating()).map(|slice| Write::delete(target(slice))));
    Ok(plan)
}

fn is_mirrored(endpoints: &Endpoints, service: Option<&Service>) -> bool {
    let metadata = &endpoints.metadata;
    let by_hand = service.is_some_and(|service| service.spec.selector.as_ref().is_none_or(BTreeMap::is_empty));
    by_hand && metadata.labels.get(SKIP).is_none_or(|said| said != "true") && !metadata.annotations.contains_key(LEADER)
}

fn mirrored(subset: &Subset, family: &str) -> Vec<Value> {
    let of = |addresses: &Option<Vec<Value>>, ready: bool| {
        let addresses = addresses.iter().flatten().filter_map(|address| {
            let ip: IpAddr = address["ip"].as_str()?.parse().ok()?;
            (ip.is_ipv6() == (family == "IPv6")).then(|| endpoint(address, ready))
        });
        addresses.collect::<Vec<_>>()
    };
    let mut all = of(&subset.addresses, true);
    all.extend(of(&subset.not_ready_addresses, false));
    all.truncate(ADDRESSES_MAX);
    all
}

fn endpoint(address: &Value, ready: bool) -> Value {
    let mut endpoint = json!({"addresses": [address["ip"]], "conditions": {"ready": ready}});
    for key in ["hostname", "nodeName", "targetRef"] {
        if !address[key].is_null() {
            endpoint[key] = address[key].clone();
        }
    }
    endpoint
}

fn port(port: &Value) -> Value {
    let mut mirrored = json!({
        "name": port["name"].as_str().unwrap_or_default(), "port": port["port"], "protocol": port["protocol"].as_str().unwrap_or("TCP"),
    });
    if !port["appProtocol"].is_null() {
        mirrored["appProtocol"] = port["appProtocol"].clone();
    }
    mirrored
}

fn labels(endpoints: &Endpoints) -> BTreeMap<String, String> {
    let mut labels = endpoints.metadata.labels.clone();
    labels.insert(SERVICE_NAME.to_owned(), endpoints.metadata.name.clone());
    labels.insert(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned());
    labels
}

fn target(slice: &Slice) -> ObjectRef {
    ObjectRef::of("discovery.k8s.io", "endpointslices", &slice.metadata)
}

fn mend(slice: &Slice, endpoints: &[Value], ports: &[Value], labels: &BTreeMap<String, String>) -> Option<Write> {
    let same = slice.endpoints.as_deref().unwrap_or(&[]) == endpoints && slice.ports.as_deref().unwrap_or(&[]) == ports;
    if same && slice.metadata.labels == *labels {
        return None;
    }
    let gone = slice.metadata.labels.keys().filter(|key| !labels.contains_key(*key)).map(|key| (key.clone(), Value::Null));
    let kept = labels.iter().map(|(key, value)| (key.clone(), json!(value)));
    let mut body = slice.metadata.precondition();
    body["metadata"]["labels"] = Value::Object(gone.chain(kept).collect::<Map<_, _>>());
    body["endpoints"] = json!(endpoints);
    body["ports"] = json!(ports);
    Some(Write::merge(target(slice), body))
}

fn name(endpoints: &Endpoints, family: &str, index: usize) -> String {
    let base: String = endpoints.metadata.name.chars().take(230).collect();
    format!("{base}-mirror-{}-{index}", family.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Mirror;
    use pintle_sdk::testing::FakeKernel;

    const SLICES: &str = "discovery.k8s.io/endpointslices";

    fn kernel(selector: Value, labels: Value) -> Result<FakeKernel> {
        let mut kernel = FakeKernel::new(include_str!("../module.json"))?;
        kernel.put(
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "db", "namespace": "shop"}, "spec": {"selector": selector}}),
        )?;
        kernel.put(json!({
            "apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "db", "namespace": "shop", "labels": labels},
            "subsets": [{
                "addresses": [{"ip": "192.0.2.1", "hostname": "one"}, {"ip": "2001:db8::1"}], "notReadyAddresses": [{"ip": "192.0.2.2"}],
                "ports": [{"name": "sql", "port": 5432}],
            }],
        }))?;
        Ok(kernel)
    }

    fn shown(kernel: &FakeKernel) -> Vec<(String, Vec<(String, bool)>)> {
        let endpoint = |e: &Value| (e["addresses"][0].as_str().unwrap_or_default().to_owned(), e["conditions"]["ready"] == true);
        let slice = |s: &&Value| {
            let endpoints = s["endpoints"].as_array().into_iter().flatten().map(endpoint).collect();
            (s["addressType"].as_str().unwrap_or_default().to_owned(), endpoints)
        };
        kernel.list(SLICES).iter().map(slice).collect()
    }

    #[test]
    fn endpoints_kept_by_hand_are_mirrored_and_followed() -> Result<()> {
        let mut kernel = kernel(Value::Null, json!({"team": "a"}))?;
        kernel.settle(&mut Mirror)?;
        let (one, two, six) = (("192.0.2.1".to_owned(), true), ("192.0.2.2".to_owned(), false), ("2001:db8::1".to_owned(), true));
        assert_eq!(shown(&kernel), [("IPv4".to_owned(), vec![one.clone(), two]), ("IPv6".to_owned(), vec![six])]);
        let first = kernel.list(SLICES)[0].clone();
        assert_eq!(first["ports"], json!([{"name": "sql", "port": 5432, "protocol": "TCP"}]));
        assert_eq!(first["endpoints"][0]["hostname"], "one");
        assert_eq!((&first["metadata"]["labels"][SERVICE_NAME], &first["metadata"]["labels"]["team"]), (&json!("db"), &json!("a")));
        assert_eq!(first["metadata"]["labels"][MANAGED_BY.0], MANAGED_BY.1);
        kernel.edit("/endpoints", "shop", "db", |e| e["subsets"][0] = json!({"addresses": [{"ip": "192.0.2.1"}], "ports": [{"port": 1}]}));
        kernel.settle(&mut Mirror)?;
        assert_eq!(shown(&kernel), [("IPv4".to_owned(), vec![one])]);
        Ok(())
    }

    #[test]
    fn endpoints_of_selecting_services_and_those_that_say_so_are_not() -> Result<()> {
        for (selector, labels) in [(json!({"app": "db"}), json!({})), (Value::Null, json!({SKIP: "true"}))] {
            let mut kernel = kernel(selector, labels)?;
            kernel.settle(&mut Mirror)?;
            assert_eq!(shown(&kernel), []);
        }
        // A Service that begins to select has its slices from elsewhere.
        let mut kernel = kernel(Value::Null, json!({}))?;
        kernel.settle(&mut Mirror)?;
        kernel.edit("/services", "shop", "db", |service| service["spec"]["selector"] = json!({"app": "db"}));
        kernel.settle(&mut Mirror)?;
        assert_eq!(shown(&kernel), []);
        Ok(())
    }
}
