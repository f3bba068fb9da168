//! Addresses and ports of Services: the mechanism that sees to it that no two have the same. Addresses are out of the cluster's own range and, when that is
//! full or one is asked for, out of those that ServiceCIDRs add; an IPAddress that somebody made for another purpose is taken.
//!
//! What is taken is what the cache shows plus what writes under way have claimed. The follower frees what a change gave
//! up, so every way for a Service to change or go is covered by one place; a claim that was not stored is freed when its
//! guard is dropped. After a restart the cache says it all.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use parking_lot::Mutex;
use pintle_api::FieldError;
use serde_json::{Map, Value, json};

/// Addresses below this offset are left to Services that ask for one (upstream's static band).
const STATIC_BAND: u32 = 256;
/// Of balanced Services whose outside traffic stays on its node.
const HEALTH_CHECK: &str = "healthCheckNodePort";

/// What is taken.
pub(crate) struct Allocators {
    addresses: Pool,
    ports: Pool,
}

/// Numbers of a range, each free or taken.
struct Pool {
    first: u32,
    last: u32,
    /// Where to look for a free one first.
    dynamic: u32,
    state: Mutex<PoolState>,
}

struct PoolState {
    taken: BTreeSet<u32>,
    next: u32,
    /// First and last of ranges that were added.
    added: Vec<(u32, u32)>,
}

/// Claims of one write; freed when dropped unless kept.
#[must_use]
pub(crate) struct Claims<'a> {
    allocators: &'a Allocators,
    addresses: Vec<u32>,
    ports: Vec<u32>,
}

/// Numbers that a write holds while it is stored.
#[derive(Default)]
pub(crate) struct Numbers {
    addresses: Vec<u32>,
    ports: Vec<u32>,
}

/// What one Service (or IPAddress, or ServiceCIDR) holds.
#[derive(Debug, Default, PartialEq, Eq)]
struct Held {
    addresses: BTreeSet<u32>,
    ports: BTreeSet<u32>,
    ranges: BTreeSet<(u32, u32)>,
}

impl Pool {
    fn new(first: u32, last: u32, dynamic: u32) -> Self {
        let dynamic = if dynamic <= last { dynamic } else { first };
        Self { first, last, dynamic, state: Mutex::new(PoolState { taken: BTreeSet::new(), next: dynamic, added: Vec::new() }) }
    }

    fn contains(&self, number: u32) -> bool {
        let within = |(first, last): &(u32, u32)| (first..=last).contains(&&number);
        within(&(self.first, self.last)) || self.state.lock().added.iter().any(within)
    }

    /// Take this one; false if it is taken.
    fn take(&self, number: u32) -> bool {
        self.state.lock().taken.insert(number)
    }

    /// Take any.
    fn take_any(&self) -> Option<u32> {
        let mut state = self.state.lock();
        let start = state.next;
        let added = state.added.iter().flat_map(|(first, last)| *first..=*last);
        let order = (start..=self.last).chain(self.dynamic..start).chain(self.first..self.dynamic).chain(added);
        let number = { order }.find(|number| !state.taken.contains(number))?;
        state.taken.insert(number);
        state.next = if (start..self.last).contains(&number) { number + 1 } else { self.dynamic };
        Some(number)
    }

    fn free(&self, number: u32) {
        self.state.lock().taken.remove(&number);
    }
}

impl Allocators {
    pub(crate) fn new((network, prefix): (Ipv4Addr, u8), (port_first, port_last): (u16, u16)) -> Self {
        let (first, last) = hosts(network, prefix);
        Self {
            addresses: Pool::new(first, last, (first - 1).saturating_add(STATIC_BAND)),
            ports: Pool::new(u32::from(port_first), u32::from(port_last), u32::from(port_first)),
        }
    }

    /// A Service (or IPAddress, or ServiceCIDR) went from `before` to `after`: free what it gave up, take what it has.
    pub(crate) fn observe(&self, before: Option<&Value>, after: Option<&Value>) {
        let old = before.map(held).unwrap_or_default();
        let new = after.map(held).unwrap_or_default();
        old.addresses.difference(&new.addresses).for_each(|number| self.addresses.free(*number));
        old.ports.difference(&new.ports).for_each(|number| self.ports.free(*number));
        new.addresses.iter().for_each(|number| {
            self.addresses.take(*number);
        });
        new.ports.iter().for_each(|number| {
            self.ports.take(*number);
        });
        let added = &mut self.addresses.state.lock().added;
        for gone in old.ranges.difference(&new.ranges) {
            added.iter().position(|range| range == gone).map(|at| added.remove(at));
        }
        added.extend(new.ranges.difference(&old.ranges));
    }

    /// A write was certainly not stored: free what it held.
    pub(crate) fn release(&self, numbers: &Numbers) {
        numbers.addresses.iter().for_each(|number| self.addresses.free(*number));
        numbers.ports.iter().for_each(|number| self.ports.free(*number));
    }

    /// Give a new or changed Service what it needs, keeping what it had.
    pub(crate) fn assign(&self, service: &mut Value, before: Option<&Value>) -> Result<Claims<'_>, Box<FieldError>> {
        let mut claims = Claims { allocators: self, addresses: Vec::new(), ports: Vec::new() };
        let had = before.map(held).unwrap_or_default();
        let Some(spec) = service.get_mut("spec").and_then(Value::as_object_mut) else { return Ok(claims) };
        let old_spec = before.and_then(|before| before.get("spec")).and_then(Value::as_object);
        let kind = text(spec, "type").unwrap_or("ClusterIP").to_owned();
        if kind == "ExternalName" {
            drop_addresses(spec, old_spec);
            drop_ports(spec, old_spec);
            return Ok(claims);
        }
        if let Some(old) = old_spec {
            carry_over(spec, old);
        }
        claims.address(spec, &had)?;
        if kind == "ClusterIP" {
            drop_ports(spec, old_spec);
        } else if spec.get("allocateLoadBalancerNodePorts").and_then(Value::as_bool) != Some(false) || kind == "NodePort" {
            claims.node_ports(spec, &had)?;
        }
        let old_check = old_spec.and_then(|old| old.get(HEALTH_CHECK));
        if kind == "LoadBalancer" && text(spec, "externalTrafficPolicy") == Some("Local") {
            let asked = spec.get(HEALTH_CHECK).filter(|port| **port != 0).or(old_check).and_then(Value::as_u64);
            let number = claims.port(asked, &had.ports, &format!("spec.{HEALTH_CHECK}"))?;
            spec.insert(HEALTH_CHECK.to_owned(), Value::from(number));
        } else if spec.get(HEALTH_CHECK) == old_check {
            spec.remove(HEALTH_CHECK);
        }
        Ok(claims)
    }
}

impl Claims<'_> {
    /// The write is about to be stored. Its outcome may stay unknown (a disk error, a client that hangs up), and then a
    /// number that leaks until the next start is better than one that two Services have: from now on it is freed only by
    /// [`Allocators::release`], or by the follower.
    pub(crate) fn hold(mut self) -> Numbers {
        Numbers { addresses: std::mem::take(&mut self.addresses), ports: std::mem::take(&mut self.ports) }
    }

    fn address(&mut self, spec: &mut Map<String, Value>, had: &Held) -> Result<(), Box<FieldError>> {
        let asked = text(spec, "clusterIP").filter(|ip| !ip.is_empty()).or_else(|| first_ip(spec)).map(str::to_owned);
        let pool = &self.allocators.addresses;
        let address = match asked.as_deref() {
            Some("None") => "None".to_owned(),
            Some(asked) => {
                let asked = asked.trim();
                let refuse = |why: &str| boxed("spec.clusterIPs", json!([asked]), format!("failed to allocate IP {asked}: {why}"));
                let number = asked.parse::<Ipv4Addr>().map(u32::from).map_err(|_| refuse("it is not an IPv4 address"))?;
                if !had.addresses.contains(&number) {
                    if !pool.contains(number) {
                        return Err(refuse("the provided IP is not in the valid range"));
                    }
                    if !pool.take(number) {
                        return Err(refuse("provided IP is already allocated"));
                    }
                    self.addresses.push(number);
                }
                asked.to_owned()
            }
            None => {
                let number =
                    pool.take_any().ok_or_else(|| boxed("spec.clusterIPs", json!([]), "failed to allocate a serviceIP: range is full"))?;
                self.addresses.push(number);
                Ipv4Addr::from(number).to_string()
            }
        };
        spec.insert("clusterIPs".to_owned(), json!([address]));
        spec.insert("clusterIP".to_owned(), Value::from(address));
        spec.entry("ipFamilies").or_insert_with(|| json!(["IPv4"]));
        spec.entry("ipFamilyPolicy").or_insert_with(|| json!("SingleStack"));
        Ok(())
    }

    fn node_ports(&mut self, spec: &mut Map<String, Value>, had: &Held) -> Result<(), Box<FieldError>> {
        let ports = spec.get_mut("ports").and_then(Value::as_array_mut);
        // One port number may serve several protocols of the same Service.
        let mut own: BTreeSet<u32> = had.ports.clone();
        for (at, port) in ports.into_iter().flatten().filter_map(Value::as_object_mut).enumerate() {
            let asked = port.get("nodePort").and_then(Value::as_u64).filter(|asked| *asked != 0);
            let field = format!("spec.ports[{at}].nodePort");
            let number = self.port(asked, &own, &field)?;
            own.insert(number);
            port.insert("nodePort".to_owned(), Value::from(number));
        }
        Ok(())
    }

    /// The port that is asked for, unless it is one's own already; any, when none is.
    fn port(&mut self, asked: Option<u64>, own: &BTreeSet<u32>, field: &str) -> Result<u32, Box<FieldError>> {
        let pool = &self.allocators.ports;
        let number = match asked.map(u32::try_from) {
            Some(Ok(asked)) if own.contains(&asked) => return Ok(asked),
            Some(Ok(asked)) if pool.contains(asked) => {
                if !pool.take(asked) {
                    return Err(boxed(field, asked, "provided port is already allocated"));
                }
                asked
            }
            Some(_) => {
                let why = format!("provided port is not in the valid range. The range of valid ports is {}-{}", pool.first, pool.last);
                return Err(boxed(field, asked.unwrap_or_default(), why));
            }
            None => pool.take_any().ok_or_else(|| boxed(field, 0, "failed to allocate a nodePort: range is full"))?,
        };
        self.ports.push(number);
        Ok(number)
    }
}

impl Drop for Claims<'_> {
    fn drop(&mut self) {
        self.addresses.iter().for_each(|number| self.allocators.addresses.free(*number));
        self.ports.iter().for_each(|number| self.allocators.ports.free(*number));
    }
}

fn boxed(path: &str, value: impl Into<Value>, detail: impl Into<String>) -> Box<FieldError> {
    Box::new(FieldError::invalid(path, value, detail))
}

/// The first and the last address of a network that may be given: its own and its broadcast address are nobody's.
fn hosts(network: Ipv4Addr, prefix: u8) -> (u32, u32) {
    let host_bits = 32 - u32::from(prefix.clamp(8, 30));
    let base = u32::from(network) & !((1 << host_bits) - 1);
    (base + 1, base + (1 << host_bits) - 2)
}

fn held(object: &Value) -> Held {
    let Some(spec) = object.get("spec").and_then(Value::as_object) else { return Held::default() };
    if object["kind"] == "ServiceCIDR" {
        let usable = object["metadata"].get("deletionTimestamp").is_none();
        let cidrs = spec.get("cidrs").and_then(Value::as_array).into_iter().flatten().filter_map(|cidr| cidr.as_str()?.split_once('/'));
        let ranges = cidrs.filter(|_| usable).filter_map(|(network, prefix)| Some(hosts(network.parse().ok()?, prefix.parse().ok()?)));
        return Held { ranges: ranges.collect(), ..Held::default() };
    }
    if object["kind"] == "IPAddress" {
        let other = spec.get("parentRef").is_none_or(|parent| parent["resource"] != "services");
        let address = object["metadata"]["name"].as_str().filter(|_| other).and_then(|name| name.parse::<Ipv4Addr>().ok());
        return Held { addresses: address.into_iter().map(u32::from).collect(), ..Held::default() };
    }
    let ips = spec.get("clusterIPs").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let addresses = ips.chain(text(spec, "clusterIP")).filter_map(|ip| ip.parse::<Ipv4Addr>().ok()).map(u32::from).collect();
    let check = spec.get(HEALTH_CHECK).and_then(Value::as_u64).and_then(|port| u32::try_from(port).ok()).filter(|port| *port != 0);
    let ports = node_ports_of(spec).chain(check).collect();
    Held { addresses, ports, ..Held::default() }
}

fn node_ports_of(spec: &Map<String, Value>) -> impl Iterator<Item = u32> {
    let ports = spec.get("ports").and_then(Value::as_array).into_iter().flatten();
    ports.filter_map(|port| u32::try_from(port.get("nodePort")?.as_u64()?).ok()).filter(|port| *port != 0)
}

fn text<'a>(spec: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    spec.get(key).and_then(Value::as_str)
}

fn first_ip(spec: &Map<String, Value>) -> Option<&str> {
    spec.get("clusterIPs")?.as_array()?.first()?.as_str().filter(|ip| !ip.is_empty())
}

/// What an update leaves out of the allocated values, it keeps.
fn carry_over(spec: &mut Map<String, Value>, old: &Map<String, Value>) {
    let absent = |spec: &Map<String, Value>, key: &str| spec.get(key).is_none_or(|value| value == "" || *value == json!([]));
    if absent(spec, "clusterIP") && absent(spec, "clusterIPs") {
        for key in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if let (true, Some(value)) = (absent(spec, key), old.get(key)) {
                spec.insert(key.to_owned(), value.clone());
            }
        }
    }
    if matches!(text(spec, "type"), None | Some("ClusterIP")) {
        return;
    }
    let same = |a: &Value, b: &Value| a.get("port") == b.get("port") && a.get("protocol") == b.get("protocol");
    let old_ports = old.get("ports").and_then(Value::as_array);
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let unset = port.get("nodePort").is_none_or(|value| *value == 0);
        let kept = old_ports.into_iter().flatten().find(|old| same(old, port)).and_then(|old| old.get("nodePort")).cloned();
        if let (true, Some(kept), Some(port)) = (unset, kept, port.as_object_mut()) {
            port.insert("nodePort".to_owned(), kept);
        }
    }
}

/// A Service that became an ExternalName gives its address up, unless the client insists on another.
fn drop_addresses(spec: &mut Map<String, Value>, old: Option<&Map<String, Value>>) {
    let unchanged = old.is_some_and(|old| old.get("clusterIP") == spec.get("clusterIP"));
    if unchanged {
        for key in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            spec.remove(key);
        }
    }
}

/// A Service without node ports gives those that it had up.
fn drop_ports(spec: &mut Map<String, Value>, old: Option<&Map<String, Value>>) {
    let had: BTreeSet<u32> = old.map(|old| node_ports_of(old).collect()).unwrap_or_default();
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut) {
        let number = port.get("nodePort").and_then(Value::as_u64).and_then(|number| u32::try_from(number).ok());
        if number.is_some_and(|number| number == 0 || had.contains(&number)) {
            port.remove("nodePort");
        }
    }
}

#[cfg(test)]
mod tests;
