//! Addresses and ports of Services: the mechanism that sees to it that no two have the same. Addresses are out of the cluster's own range and, when that is
//! full or one is asked for, out of those that ServiceCIDRs add; an IPAddress that somebody made for another purpose is taken. Of which families a
//! Service has addresses follows <https://kubernetes.io/docs/concepts/services-networking/dual-stack/>.
//!
//! What is taken is what the cache shows plus what writes under way have claimed. The follower frees what a change gave
//! up, so every way for a Service to change or go is covered by one place; a claim that was not stored is freed when its
//! guard is dropped. After a restart the cache says it all.

use std::collections::BTreeSet;
use std::net::IpAddr;

use parking_lot::Mutex;
use pintle_api::FieldError;
use pintle_api::network::{FAMILIES, Network, address, family, number};
use serde_json::{Map, Value, json};

/// Addresses below this offset are left to Services that ask for one (upstream's static band).
const STATIC_BAND: Number = 256;
/// Of balanced Services whose outside traffic stays on its node.
const HEALTH_CHECK: &str = "healthCheckNodePort";
const ADDRESS_FIELDS: [&str; 4] = ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"];

/// A port, or above these an address: those of version 4 by the form that they have in version 6.
type Number = u128;

/// What is taken.
pub(crate) struct Allocators {
    ports: Pool,
    /// By family, the cluster's own first.
    addresses: Vec<(&'static str, Pool)>,
}

/// Numbers of a range, each free or taken.
struct Pool {
    first: Number,
    last: Number,
    /// Where to look for a free one first.
    dynamic: Number,
    state: Mutex<PoolState>,
}

struct PoolState {
    taken: BTreeSet<Number>,
    next: Number,
    /// First and last of ranges that were added.
    added: Vec<(Number, Number)>,
}

/// Claims of one write; freed when dropped unless kept.
#[must_use]
pub(crate) struct Claims<'a> {
    allocators: &'a Allocators,
    numbers: Numbers,
}

/// Numbers that a write holds while it is stored.
#[derive(Default)]
pub(crate) struct Numbers(Vec<Number>);

/// What one Service (or IPAddress, or ServiceCIDR) holds.
#[derive(Debug, Default, PartialEq, Eq)]
struct Held {
    numbers: BTreeSet<Number>,
    ranges: BTreeSet<(Number, Number)>,
}

impl Pool {
    fn new(first: Number, last: Number, dynamic: Number) -> Self {
        let dynamic = if dynamic <= last { dynamic } else { first };
        Self { first, last, dynamic, state: Mutex::new(PoolState { taken: BTreeSet::new(), next: dynamic, added: Vec::new() }) }
    }

    fn contains(&self, number: Number) -> bool {
        let within = |(first, last): &(Number, Number)| (first..=last).contains(&&number);
        within(&(self.first, self.last)) || self.state.lock().added.iter().any(within)
    }

    /// Take this one; false if it is taken.
    fn take(&self, number: Number) -> bool {
        self.state.lock().taken.insert(number)
    }

    /// Take any.
    fn take_any(&self) -> Option<Number> {
        let mut state = self.state.lock();
        let start = state.next;
        let added = state.added.iter().flat_map(|(first, last)| *first..=*last);
        let order = (start..=self.last).chain(self.dynamic..start).chain(self.first..self.dynamic).chain(added);
        let number = { order }.find(|number| !state.taken.contains(number))?;
        state.taken.insert(number);
        state.next = if (start..self.last).contains(&number) { number + 1 } else { self.dynamic };
        Some(number)
    }

    fn free(&self, number: Number) {
        self.state.lock().taken.remove(&number);
    }
}

impl Allocators {
    /// `ranges` is a network, or one of each family, the cluster's own first.
    pub(crate) fn new(ranges: &[Network], (port_first, port_last): (u16, u16)) -> Self {
        let pool =
            |(first, last): (Number, Number)| (family(address(first)), Pool::new(first, last, (first - 1).saturating_add(STATIC_BAND)));
        Self {
            ports: Pool::new(port_first.into(), port_last.into(), port_first.into()),
            addresses: ranges.iter().map(hosts).map(pool).collect(),
        }
    }

    fn of_family(&self, family: &str) -> Option<&Pool> {
        self.addresses.iter().find(|(name, _)| *name == family).map(|(_, pool)| pool)
    }

    /// Where a number belongs.
    fn pool(&self, number: Number) -> Option<&Pool> {
        if number <= u16::MAX.into() { Some(&self.ports) } else { self.of_family(family(address(number))) }
    }

    fn free<'a>(&self, numbers: impl IntoIterator<Item = &'a Number>) {
        numbers.into_iter().for_each(|number| self.pool(*number).into_iter().for_each(|pool| pool.free(*number)));
    }

    /// A Service (or IPAddress, or ServiceCIDR) went from `before` to `after`: free what it gave up, take what it has.
    pub(crate) fn observe(&self, before: Option<&Value>, after: Option<&Value>) {
        let old = before.map(held).unwrap_or_default();
        let new = after.map(held).unwrap_or_default();
        self.free(old.numbers.difference(&new.numbers));
        for number in new.numbers {
            self.pool(number).map(|pool| pool.take(number));
        }
        for gone in old.ranges.difference(&new.ranges) {
            let Some(mut state) = self.pool(gone.0).map(|pool| pool.state.lock()) else { continue };
            state.added.iter().position(|range| range == gone).map(|at| state.added.remove(at));
        }
        for come in new.ranges.difference(&old.ranges) {
            self.pool(come.0).into_iter().for_each(|pool| pool.state.lock().added.push(*come));
        }
    }

    /// A write was certainly not stored: free what it held.
    pub(crate) fn release(&self, numbers: &Numbers) {
        self.free(&numbers.0);
    }

    /// Give a new or changed Service what it needs, keeping what it had.
    pub(crate) fn assign(&self, service: &mut Value, before: Option<&Value>) -> Result<Claims<'_>, Box<FieldError>> {
        let mut claims = Claims { allocators: self, numbers: Numbers::default() };
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
        self.families(spec, old_spec)?;
        claims.addresses(spec, &had)?;
        if kind == "ClusterIP" {
            drop_ports(spec, old_spec);
        } else if spec.get("allocateLoadBalancerNodePorts").and_then(Value::as_bool) != Some(false) || kind == "NodePort" {
            claims.node_ports(spec, &had)?;
        }
        let old_check = old_spec.and_then(|old| old.get(HEALTH_CHECK));
        if kind == "LoadBalancer" && text(spec, "externalTrafficPolicy") == Some("Local") {
            let asked = spec.get(HEALTH_CHECK).filter(|port| **port != 0).or(old_check).and_then(Value::as_u64);
            let number = claims.port(asked, &had.numbers, &format!("spec.{HEALTH_CHECK}"))?;
            spec.insert(HEALTH_CHECK.to_owned(), Value::from(number));
        } else if spec.get(HEALTH_CHECK) == old_check {
            spec.remove(HEALTH_CHECK);
        }
        Ok(claims)
    }

    /// Settles the families of a Service's addresses: what it asks for, what it had, what the cluster has.
    fn families(&self, spec: &mut Map<String, Value>, old: Option<&Map<String, Value>>) -> Result<(), Box<FieldError>> {
        let unchanged = |old: &Map<String, Value>| ADDRESS_FIELDS.iter().all(|key| old.get(*key) == spec.get(*key));
        if text(spec, "ipFamilyPolicy") == Some("PreferDualStack") && old.is_some_and(unchanged) {
            return Ok(());
        }
        let (mut ips, mut families) = (texts(spec, "clusterIPs"), texts(spec, "ipFamilies"));
        match text(spec, "clusterIP").filter(|ip| !ip.is_empty()) {
            Some(ip) if ips.is_empty() => ips = vec![ip.to_owned()],
            Some(ip) if ips[0] != ip => return Err(boxed("spec.clusterIPs", ips, "first value must match `clusterIP`")),
            None if !ips.is_empty() => return Err(boxed("spec.clusterIPs", ips, "must be empty when `clusterIP` is not specified")),
            _ => {}
        }
        let headless = ips.first().is_some_and(|ip| ip == "None");
        if headless && ips.len() > 1 {
            return Err(boxed("spec.clusterIPs", ips, "'None' must be the first and only value"));
        }
        let alone = headless && spec.get("selector").and_then(Value::as_object).is_none_or(Map::is_empty);
        let policy = text(spec, "ipFamilyPolicy").or_else(|| text(old?, "ipFamilyPolicy"));
        let policy = policy.unwrap_or(if alone { "RequireDualStack" } else { "SingleStack" }).to_owned();
        let (single, both) = (policy == "SingleStack", self.addresses.len() > 1);
        let refuse = |why: String| Err(boxed("spec.ipFamilyPolicy", &*policy, why));
        for (key, now, one, many) in
            [("clusterIPs", &mut ips, "cluster IP", "cluster IPs"), ("ipFamilies", &mut families, "IP family", "IP families")]
        {
            let before = old.map(|old| texts(old, key)).unwrap_or_default();
            if single && *now == before {
                now.truncate(1);
            } else if single && now.len() == 2 {
                return refuse(format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {many} are specified"));
            } else if !single && !now.is_empty() && now.len() < before.len() && before.starts_with(now) {
                return refuse(format!("must be 'SingleStack' to release the secondary {one}"));
            }
        }
        for (at, ip) in ips.iter().enumerate().skip(families.len()).filter(|_| !headless) {
            let Ok(of) = ip.trim().parse().map(family) else { break };
            if self.of_family(of).is_none() {
                return Err(boxed(&format!("spec.clusterIPs[{at}]"), &*ips, format!("{of} is not configured on this cluster")));
            } else if families.iter().any(|family| family == of) {
                return Err(boxed("spec.clusterIPs", ips, "may specify no more than one IP for each IP family"));
            }
            families.push(of.to_owned());
        }
        if let Some(at) = families.iter().position(|family| !alone && self.of_family(family).is_none()) {
            return Err(boxed(&format!("spec.ipFamilies[{at}]"), &*families[at], "not configured on this cluster"));
        }
        if policy == "RequireDualStack" && !alone && !both {
            return refuse("this cluster is not configured for dual-stack services".to_owned());
        }
        if families.is_empty() {
            families.extend(self.addresses.first().map(|(family, _)| (*family).to_owned()));
        }
        if !single && (alone || both) && families.len() == 1 {
            families.extend(FAMILIES.iter().find(|family| **family != families[0]).map(|family| (*family).to_owned()));
        }
        spec.extend(
            [("clusterIPs", json!(ips)), ("ipFamilies", json!(families)), ("ipFamilyPolicy", json!(policy))]
                .map(|(k, v)| (k.to_owned(), v)),
        );
        Ok(())
    }
}

impl Claims<'_> {
    /// The write is about to be stored. Its outcome may stay unknown (a disk error, a client that hangs up), and then a
    /// number that leaks until the next start is better than one that two Services have: from now on it is freed only by
    /// [`Allocators::release`], or by the follower.
    pub(crate) fn hold(mut self) -> Numbers {
        std::mem::take(&mut self.numbers)
    }

    /// One address of each family.
    fn addresses(&mut self, spec: &mut Map<String, Value>, had: &Held) -> Result<(), Box<FieldError>> {
        let mut ips = texts(spec, "clusterIPs");
        let headless = ips.first().is_some_and(|ip| ip == "None");
        for (at, family) in texts(spec, "ipFamilies").iter().enumerate().filter(|_| !headless) {
            let Some(pool) = self.allocators.of_family(family) else { continue };
            let Some(asked) = ips.get(at).map(|ip| ip.trim().to_owned()) else {
                let number =
                    pool.take_any().ok_or_else(|| boxed("spec.clusterIPs", json!([]), "failed to allocate a serviceIP: range is full"))?;
                self.numbers.0.push(number);
                ips.push(address(number).to_string());
                continue;
            };
            let refuse = |why: &str| boxed("spec.clusterIPs", json!([asked]), format!("failed to allocate IP {asked}: {why}"));
            let found: IpAddr = asked.parse().map_err(|_| refuse("it is not an IP address"))?;
            if self::family(found) != family {
                let why = format!("expected an {family} value as indicated by `ipFamilies[{at}]`");
                return Err(boxed(&format!("spec.clusterIPs[{at}]"), asked, why));
            }
            if !had.numbers.contains(&number(found)) {
                if !pool.contains(number(found)) {
                    return Err(refuse("the provided IP is not in the valid range"));
                }
                if !pool.take(number(found)) {
                    return Err(refuse("provided IP is already allocated"));
                }
                self.numbers.0.push(number(found));
            }
            // In one form, by which the address has its object.
            ips[at] = found.to_string();
        }
        spec.insert("clusterIP".to_owned(), json!(ips.first()));
        spec.insert("clusterIPs".to_owned(), json!(ips));
        Ok(())
    }

    fn node_ports(&mut self, spec: &mut Map<String, Value>, had: &Held) -> Result<(), Box<FieldError>> {
        let ports = spec.get_mut("ports").and_then(Value::as_array_mut);
        // One port number may serve several protocols of the same Service.
        let mut own = had.numbers.clone();
        for (at, port) in ports.into_iter().flatten().filter_map(Value::as_object_mut).enumerate() {
            let asked = port.get("nodePort").and_then(Value::as_u64).filter(|asked| *asked != 0);
            let field = format!("spec.ports[{at}].nodePort");
            let number = self.port(asked, &own, &field)?;
            own.insert(number.into());
            port.insert("nodePort".to_owned(), Value::from(number));
        }
        Ok(())
    }

    /// The port that is asked for, unless it is one's own already; any, when none is.
    fn port(&mut self, asked: Option<u64>, own: &BTreeSet<Number>, field: &str) -> Result<u64, Box<FieldError>> {
        let pool = &self.allocators.ports;
        let number = match asked.map(|asked| (asked, Number::from(asked))) {
            Some((asked, number)) if own.contains(&number) => return Ok(asked),
            Some((asked, number)) if pool.contains(number) => {
                if !pool.take(number) {
                    return Err(boxed(field, asked, "provided port is already allocated"));
                }
                number
            }
            Some((asked, _)) => {
                let why = format!("provided port is not in the valid range. The range of valid ports is {}-{}", pool.first, pool.last);
                return Err(boxed(field, asked, why));
            }
            None => pool.take_any().ok_or_else(|| boxed(field, 0, "failed to allocate a nodePort: range is full"))?,
        };
        self.numbers.0.push(number);
        Ok(u64::try_from(number).unwrap_or_default())
    }
}

impl Drop for Claims<'_> {
    fn drop(&mut self) {
        self.allocators.free(&self.numbers.0);
    }
}

fn boxed(path: &str, value: impl Into<Value>, detail: impl Into<String>) -> Box<FieldError> {
    Box::new(FieldError::invalid(path, value, detail))
}

/// The first and the last address of a network that may be given: its own is nobody's, nor is the broadcast address of version 4.
fn hosts(network: &Network) -> (Number, Number) {
    (network.first() + 1, network.last() - Number::from(network.family() == FAMILIES[0]))
}

fn held(object: &Value) -> Held {
    let Some(spec) = object.get("spec").and_then(Value::as_object) else { return Held::default() };
    if object["kind"] == "ServiceCIDR" {
        let usable = object["metadata"].get("deletionTimestamp").is_none();
        let cidrs = texts(spec, "cidrs").into_iter().filter_map(|cidr| cidr.parse().ok());
        return Held { ranges: cidrs.filter(|_| usable).map(|network| hosts(&network)).collect(), ..Held::default() };
    }
    let numbers = |ips: &[String]| ips.iter().filter_map(|ip| ip.parse().ok()).map(number).collect::<BTreeSet<_>>();
    if object["kind"] == "IPAddress" {
        let other = spec.get("parentRef").is_none_or(|parent| parent["resource"] != "services");
        let address = object["metadata"]["name"].as_str().filter(|_| other).map(str::to_owned);
        return Held { numbers: numbers(address.as_slice()), ..Held::default() };
    }
    let mut all = numbers(&texts(spec, "clusterIPs"));
    let check = spec.get(HEALTH_CHECK).and_then(Value::as_u64).filter(|port| *port != 0);
    all.extend(node_ports_of(spec).chain(check).map(Number::from));
    Held { numbers: all, ..Held::default() }
}

fn node_ports_of(spec: &Map<String, Value>) -> impl Iterator<Item = u64> {
    let ports = spec.get("ports").and_then(Value::as_array).into_iter().flatten();
    ports.filter_map(|port| port.get("nodePort")?.as_u64()).filter(|port| *port != 0)
}

fn text<'a>(spec: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    spec.get(key).and_then(Value::as_str)
}

fn texts(spec: &Map<String, Value>, key: &str) -> Vec<String> {
    spec.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// What an update leaves out of the allocated values, it keeps. Who takes the older field alone away has taken the newer one away, too.
fn carry_over(spec: &mut Map<String, Value>, old: &Map<String, Value>) {
    let absent = |spec: &Map<String, Value>, key: &str| spec.get(key).is_none_or(|value| value == "" || *value == json!([]));
    let same = |spec: &Map<String, Value>, key: &str| absent(spec, key) || spec.get(key) == old.get(key);
    if same(spec, "clusterIP") && same(spec, "clusterIPs") {
        for key in ADDRESS_FIELDS {
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
    spec.retain(|key, value| !ADDRESS_FIELDS.contains(&key.as_str()) || old.is_none_or(|old| old.get(key) != Some(value)));
}

/// A Service without node ports gives those that it had up.
fn drop_ports(spec: &mut Map<String, Value>, old: Option<&Map<String, Value>>) {
    let had: BTreeSet<u64> = old.map(|old| node_ports_of(old).collect()).unwrap_or_default();
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut) {
        let number = port.get("nodePort").and_then(Value::as_u64);
        if number.is_some_and(|number| number == 0 || had.contains(&number)) {
            port.remove("nodePort");
        }
    }
}

#[cfg(test)]
mod tests;
