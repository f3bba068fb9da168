//! The rules of the Service proxy, and how a change of frontends becomes a change of map elements.
//!
//! A packet is looked up once by address, protocol and port; the map gives the number of a chain that is shared by all frontends with as
//! many endpoints. The chain draws a number and looks the endpoint up by the same key and that number. So rules are few, whatever the
//! number of Services; a packet costs three look-ups in hash tables; and an endpoint that comes or goes is a handful of elements.
//!
//! The map gives a number, not the chain itself, because the kernel walks every element that leads to a chain whenever one is added: the
//! time of a change would grow with the number of Services.
//!
//! Affinity: a third map, written by packets, remembers who was sent where; its word counts while that endpoint still stands there.
//! The essay of the alternative (a chain for every Service and every endpoint, as kube-proxy makes them) is short: ten thousand
//! Services are forty thousand chains, and changing one takes the kernel the longer the more there are.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use pintle_values::network::Network;

use super::frontends::{Back, Front, Masquerade};
use crate::net::nft::{Family, Field, Hook, Is, Lasting, Leads, Rule, Set, Transaction, Update, Value, Verdict, octets, types};

/// The table's name.
pub const TABLE: &str = "pintle-services";
/// The bit of the mark that asks for masquerading, as kube-proxy's.
const MASQUERADE_BIT: u32 = 0x4000;
/// Clients that affinity remembers on one machine.
const CLIENTS_MAX: u32 = 262_144;

const SERVICES: &str = "services";
const PICKS: &str = "picks";
const ENDPOINTS: &str = "endpoints";
/// As `services`, for who asks from this machine or from a pod; asked first.
const INSIDERS: &str = "insiders";
/// Numbers of insiders' endpoints begin here.
const INSIDERS_FIRST: u32 = 1 << 16;
/// Who was sent where, for affinity.
pub const CLIENTS: &str = "clients";
const STANDING: &str = "standing";
const HAIRPINS: &str = "hairpins";

/// What the rules must know of the node and the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ground {
    /// The bridge of the pods; `None` where plugins plug them in.
    pub bridge: Option<String>,
    /// The node's pods, of each family that they have.
    pub own_pods: Vec<Network>,
    /// All pods.
    pub all_pods: Vec<Network>,
    /// All Services.
    pub services: Vec<Network>,
}

impl Ground {
    /// The families that there are rules of: those that pods of this node have.
    pub fn families(&self) -> Vec<Family> {
        self.own_pods.iter().map(|network| Family::of(network.address())).collect()
    }

    fn is_own(&self, address: IpAddr) -> bool {
        self.own_pods.iter().any(|network| network.contains(address))
    }
}

/// Those of a family.
fn of(family: Family, networks: &[Network]) -> impl Iterator<Item = Network> {
    networks.iter().copied().filter(move |network| Family::of(network.address()) == family)
}

/// Where what a rule works with lies: 0 on the frontend's address, then these.
struct Registers {
    protocol: u32,
    port: u32,
    /// The number drawn, or for affinity the client.
    drawn: u32,
    /// Its address, then its port.
    endpoint: u32,
}

impl Registers {
    fn of(family: Family) -> Self {
        let words = family.words();
        Self { protocol: words, port: words + 1, drawn: words + 2, endpoint: 2 * words + 2 }
    }
}

/// A chain that picks an endpoint, shared by all frontends of this description.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Pick {
    family: Family,
    /// How many endpoints there are to pick from.
    count: u32,
    /// Seconds that a client stays with its endpoint.
    affinity: Option<u64>,
    masquerade: Masquerade,
    /// The frontend is a port of this machine, whatever the address.
    any_address: bool,
    /// For insiders.
    inside: bool,
}

impl Pick {
    /// Those that a frontend needs, each with the map that leads to it, the number of its first endpoint and its endpoints.
    fn of<'a>(front: &Front, back: &'a Back) -> impl Iterator<Item = (Self, &'static str, u32, &'a [SocketAddr])> {
        let (family, any_address) = (front.family(), front.address.is_unspecified());
        let pick = move |endpoints: &[SocketAddr], masquerade, inside| {
            let count = u32::try_from(endpoints.len()).unwrap_or(u32::MAX);
            Self { family, count, affinity: back.affinity, masquerade, any_address, inside }
        };
        let outside = Some(&back.endpoints[..]).filter(|endpoints| !endpoints.is_empty());
        let outside = outside.map(|endpoints| (pick(endpoints, back.masquerade, false), SERVICES, 0, endpoints));
        let inside = back.insiders.as_deref();
        let inside = inside.map(|endpoints| (pick(endpoints, Masquerade::Outsiders, true), INSIDERS, INSIDERS_FIRST, endpoints));
        outside.into_iter().chain(inside)
    }

    fn chain(&self) -> String {
        let masquerade = match self.masquerade {
            Masquerade::Never => "",
            Masquerade::Outsiders => "-outsiders",
            Masquerade::Always => "-masqueraded",
        };
        let affinity = self.affinity.map(|seconds| format!("-for-{seconds}s")).unwrap_or_default();
        let (port, inside) = (if self.any_address { "-port" } else { "" }, if self.inside { "-inside" } else { "" });
        format!("pick-{}{port}{inside}{masquerade}{affinity}", self.count)
    }
}

/// What the kernel's maps hold, so that a change is no more than the change.
#[derive(Default)]
pub struct Ruleset {
    installed: BTreeMap<Front, Back>,
    /// Chains that were made, and their numbers.
    picks: BTreeMap<Pick, u32>,
    /// How many endpoints of this node's pods have this address: they may meet themselves.
    hairpins: BTreeMap<IpAddr, usize>,
}

impl Ruleset {
    /// Everything anew, in one transaction: whatever was in the table goes, but for the clients that affinity remembers.
    pub fn replace(ground: &Ground, fronts: BTreeMap<Front, Back>, clients: &[(Family, Vec<Lasting>)]) -> (Self, Transaction) {
        let mut transaction = Transaction::on(TABLE);
        ground.families().into_iter().for_each(|family| base(&mut transaction, family, ground));
        let mut ruleset = Self::default();
        let changes = fronts.into_iter().map(|(front, back)| (front, Some(back))).collect();
        ruleset.change(ground, changes, &mut transaction);
        for (family, clients) in clients {
            transaction.turn_to(*family);
            transaction.add_lasting(CLIENTS, clients);
        }
        (ruleset, transaction)
    }

    /// Takes frontends away (`None`) or sets them; adds to the transaction what that takes. The ruleset is what it will be when the
    /// transaction is carried out: if it is not, start anew.
    pub fn change(&mut self, ground: &Ground, changes: BTreeMap<Front, Option<Back>>, transaction: &mut Transaction) {
        let (mut gone, mut come) = (Elements::default(), Elements::default());
        let families = ground.families();
        for (front, back) in changes.into_iter().filter(|(front, _)| families.contains(&front.family())) {
            transaction.turn_to(front.family());
            let before = self.installed.get(&front);
            if before == back.as_ref() {
                continue;
            }
            let was = before.map(|before| elements(&front, before, &self.picks)).unwrap_or_default();
            for (pick, ..) in back.iter().flat_map(|back| Pick::of(&front, back)) {
                if self.picks.contains_key(&pick) {
                    continue;
                }
                let number = u32::try_from(self.picks.len()).unwrap_or(u32::MAX);
                pick_chain(pick, ground, transaction);
                let chain = Value::Verdict(Verdict::Goto(pick.chain()));
                transaction.add(PICKS, [(&number.to_ne_bytes()[..], &chain)]);
                self.picks.insert(pick, number);
            }
            let is = back.as_ref().map(|back| elements(&front, back, &self.picks)).unwrap_or_default();
            gone.extend(was.iter().filter(|(key, value)| is.get(*key) != Some(*value)).map(|(k, v)| (k.clone(), v.clone())));
            come.extend(is.iter().filter(|(key, value)| was.get(*key) != Some(*value)).map(|(k, v)| (k.clone(), v.clone())));
            for address in before.into_iter().flat_map(Back::all).map(SocketAddr::ip).filter(|address| ground.is_own(*address)) {
                let count = self.hairpins.entry(address).or_default();
                *count = count.saturating_sub(1);
            }
            for address in back.iter().flat_map(Back::all).map(SocketAddr::ip).filter(|address| ground.is_own(*address)) {
                *self.hairpins.entry(address).or_default() += 1;
                come.entry(((front.family(), HAIRPINS), pair(address))).or_insert(Value::None);
            }
            match back {
                Some(back) => drop(self.installed.insert(front, back)),
                None => drop(self.installed.remove(&front)),
            }
        }
        let alone: Vec<IpAddr> = self.hairpins.iter().filter(|(_, count)| **count == 0).map(|(address, _)| *address).collect();
        for address in alone {
            self.hairpins.remove(&address);
            let hairpin = ((Family::of(address), HAIRPINS), pair(address));
            come.remove(&hairpin);
            gone.insert(hairpin, Value::None);
        }
        // An element that goes may make room for one of the same key: out first, then in, all at one instant.
        for family in families {
            transaction.turn_to(family);
            for set in [SERVICES, INSIDERS, ENDPOINTS, STANDING, HAIRPINS] {
                transaction.remove(set, gone.iter().filter(|((of, _), _)| *of == (family, set)).map(|((_, key), _)| &key[..]));
            }
            for set in [ENDPOINTS, STANDING, HAIRPINS, INSIDERS, SERVICES] {
                transaction.add(set, come.iter().filter(|((of, _), _)| *of == (family, set)).map(|((_, key), value)| (&key[..], value)));
            }
        }
    }

    /// Who stands behind a frontend.
    pub fn back(&self, front: &Front) -> Option<&Back> {
        self.installed.get(front)
    }

    /// How many frontends there are.
    pub fn len(&self) -> usize {
        self.installed.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.installed.is_empty()
    }
}

fn pick_chain(pick: Pick, ground: &Ground, transaction: &mut Transaction) {
    let (name, family) = (pick.chain(), pick.family);
    let at = Registers::of(family);
    let rule = || Rule::of(family);
    transaction.chain(&name, None);
    match pick.masquerade {
        Masquerade::Never => {}
        Masquerade::Always => transaction.rule(&name, rule().mark(!MASQUERADE_BIT, MASQUERADE_BIT)),
        Masquerade::Outsiders => {
            let outside = of(family, &ground.all_pods).fold(rule(), |rule, pods| rule.within(Field::Source, Is::Different, pods));
            transaction.rule(&name, outside.mark(!MASQUERADE_BIT, MASQUERADE_BIT));
        }
    }
    let front = || {
        let any = octets(family.unspecified());
        let rule = if pick.any_address { rule().constant(&any, 0) } else { rule().load(Field::Destination, 0) };
        rule.protocol(at.protocol).load(Field::Port, at.port)
    };
    let first = if pick.inside { INSIDERS_FIRST } else { 0 };
    let drawn = || front().random(pick.count, first, at.drawn).look_up(ENDPOINTS, 0, Some(at.endpoint));
    if let Some(seconds) = pick.affinity {
        let timeout = seconds.saturating_mul(1000);
        let client = || front().load(Field::Source, at.drawn);
        let known = || client().look_up(CLIENTS, 0, Some(at.endpoint));
        // The endpoint goes behind the frontend, over the client, to see whether it still stands there.
        let standing = client().look_up(CLIENTS, 0, Some(at.drawn)).look_up(STANDING, 0, None);
        let again = standing.load(Field::Source, at.drawn).look_up(CLIENTS, 0, Some(at.endpoint));
        transaction.rule(&name, again.update(Update::Refresh, CLIENTS, 0, at.endpoint, timeout).redirect(at.endpoint));
        transaction.rule(&name, known().update(Update::Delete, CLIENTS, 0, at.endpoint, timeout));
        let remembered = drawn().load(Field::Source, at.drawn).update(Update::Refresh, CLIENTS, 0, at.endpoint, timeout);
        transaction.rule(&name, remembered.redirect(at.endpoint));
    }
    // Twice: a draw may fall between two states of the maps.
    transaction.rule(&name, drawn().redirect(at.endpoint));
    transaction.rule(&name, drawn().redirect(at.endpoint));
    transaction.rule(&name, rule().verdict(&Verdict::Drop));
}

/// By table and set, and by key.
type Elements = BTreeMap<((Family, &'static str), Vec<u8>), Value>;

fn key(front: &Front) -> Vec<u8> {
    let mut key = octets(front.address);
    key.extend([front.protocol, 0, 0, 0]);
    key.extend(port(front.port));
    key
}

fn port(number: u16) -> [u8; 4] {
    let [high, low] = number.to_be_bytes();
    [high, low, 0, 0]
}

fn pair(address: IpAddr) -> Vec<u8> {
    [octets(address), octets(address)].concat()
}

fn elements(front: &Front, back: &Back, picks: &BTreeMap<Pick, u32>) -> Elements {
    let mut all = Elements::new();
    let (key, family) = (key(front), front.family());
    for (pick, map, first, endpoints) in Pick::of(front, back) {
        if let Some(number) = picks.get(&pick) {
            all.insert(((family, map), key.clone()), Value::Bytes(number.to_ne_bytes().to_vec()));
        }
        for (number, target) in (first..).zip(endpoints) {
            let endpoint = [&octets(target.ip())[..], &port(target.port())[..]].concat();
            if back.affinity.is_some() {
                all.insert(((family, STANDING), [&key[..], &endpoint[..]].concat()), Value::None);
            }
            all.insert(((family, ENDPOINTS), [&key[..], &number.to_ne_bytes()[..]].concat()), Value::Bytes(endpoint));
        }
    }
    all
}

/// A family's table without frontends: maps, hooks, and what is true of all of them.
fn base(transaction: &mut Transaction, family: Family, ground: &Ground) {
    use types::{NUMBER, PORT, PROTOCOL, concat};
    transaction.turn_to(family);
    transaction.table_anew();
    let address = family.address_type();
    let front = [address, PROTOCOL, PORT];
    let set = |name: &str, key: &[u32], leads: Leads| Set {
        name: name.to_owned(),
        key_bytes: key.iter().map(|part| if *part == address { 4 * family.words() } else { 4 }).sum(),
        key_type: concat(key),
        leads,
        ..Set::default()
    };
    transaction.set(&set(SERVICES, &front, Leads::Number));
    transaction.set(&set(INSIDERS, &front, Leads::Number));
    transaction.set(&set(PICKS, &[NUMBER], Leads::Verdict));
    transaction.set(&set(ENDPOINTS, &[&front[..], &[NUMBER]].concat(), Leads::AddressAndPort));
    transaction.set(&set(STANDING, &[&front[..], &[address, PORT]].concat(), Leads::Nowhere));
    transaction.set(&set(HAIRPINS, &[address, address], Leads::Nowhere));
    let clients = set(CLIENTS, &[&front[..], &[address]].concat(), Leads::AddressAndPort);
    transaction.set(&Set { timeout_ms: Some(10_800_000), size: Some(CLIENTS_MAX), ..clients });

    let (at, rule) = (Registers::of(family), || Rule::of(family));
    for (chain, map) in [("find", SERVICES), ("find-inside", INSIDERS)] {
        transaction.chain(chain, None);
        let find = |rule: Rule| {
            let front = rule.protocol(at.protocol).load(Field::Port, at.port);
            front.look_up(map, 0, Some(at.endpoint)).dispatch(PICKS, at.endpoint)
        };
        transaction.rule(chain, find(rule().load(Field::Destination, 0)));
        transaction.rule(chain, find(rule().destination_local(Is::Equal).constant(&octets(family.unspecified()), 0)));
    }
    for (name, number) in [("arriving", 0), ("leaving", 3)] {
        transaction.chain(name, Some(Hook { kind: "nat", number, priority: -100 }));
        let inside = |rule: Rule| rule.verdict(&Verdict::Jump("find-inside".to_owned()));
        match name {
            "arriving" => {
                of(family, &ground.all_pods).for_each(|pods| transaction.rule(name, inside(rule().within(Field::Source, Is::Equal, pods))))
            }
            _ => transaction.rule(name, inside(rule())),
        }
        transaction.rule(name, rule().verdict(&Verdict::Jump("find".to_owned())));
    }
    // What is still addressed to a Service after translation has nobody to go to.
    for (name, number) in [("forwarded", 2), ("sent", 3)] {
        transaction.chain(name, Some(Hook { kind: "filter", number, priority: 0 }));
        for services in of(family, &ground.services) {
            let unserved = || rule().within(Field::Destination, Is::Equal, services).destination_local(Is::Different);
            transaction.rule(name, unserved().protocol(0).compare(0, Is::Equal, &[6]).reject(true));
            transaction.rule(name, unserved().reject(false));
        }
    }
    source_translation(transaction, family, ground);
}

/// Whose source address becomes this machine's: who asked for it by the mark, who meets itself, and pods that leave the cluster.
fn source_translation(transaction: &mut Transaction, family: Family, ground: &Ground) {
    let (name, rule) = ("going-out", || Rule::of(family));
    transaction.chain(name, Some(Hook { kind: "nat", number: 4, priority: 100 }));
    let marked = rule().meta(3, 0).bits(0, &MASQUERADE_BIT.to_ne_bytes(), &[0; 4]).compare(0, Is::Different, &[0; 4]);
    transaction.rule(name, marked.mark(u32::MAX, MASQUERADE_BIT).masquerade());
    let itself = rule().load(Field::Source, 0).load(Field::Destination, family.words()).look_up(HAIRPINS, 0, None);
    transaction.rule(name, itself.masquerade());
    // Who plugs pods in says whether they leave under the machine's address.
    let Some(bridge) = &ground.bridge else { return };
    for own in of(family, &ground.own_pods) {
        let from = rule().within(Field::Source, Is::Equal, own);
        let out = of(family, &ground.all_pods).fold(from, |rule, all| rule.within(Field::Destination, Is::Different, all));
        transaction.rule(name, out.interface(7, Is::Different, bridge).masquerade());
    }
    // A port of a pod on the machine's loopback address: from here only. Version 6 routes that address nowhere.
    let Some(loopback) = Network::new(IpAddr::from([127, 0, 0, 0]), 8).filter(|_| family == Family::V4) else { return };
    let local = rule().within(Field::Source, Is::Equal, loopback).interface(7, Is::Equal, bridge);
    transaction.rule(name, local.masquerade());
    transaction.chain("foreign", Some(Hook { kind: "filter", number: 0, priority: -300 }));
    let foreign = rule().within(Field::Destination, Is::Equal, loopback).interface(6, Is::Equal, bridge);
    transaction.rule("foreign", foreign.verdict(&Verdict::Drop));
}
