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
use std::net::Ipv4Addr;

use super::frontends::{Back, Front, Masquerade};
use crate::net::addresses::Cidr;
use crate::net::nft::{Field, Hook, Is, Lasting, Leads, Rule, Set, Transaction, Update, Value, Verdict, types};

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
    /// The node's pods.
    pub own_pods: Cidr,
    /// All pods.
    pub all_pods: Cidr,
    /// All Services.
    pub services: Cidr,
}

/// A chain that picks an endpoint, shared by all frontends of this description.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Pick {
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
    fn of<'a>(front: &Front, back: &'a Back) -> impl Iterator<Item = (Self, &'static str, u32, &'a [(Ipv4Addr, u16)])> {
        let any_address = front.address.is_unspecified();
        let pick = move |endpoints: &[(Ipv4Addr, u16)], masquerade, inside| {
            let count = u32::try_from(endpoints.len()).unwrap_or(u32::MAX);
            Self { count, affinity: back.affinity, masquerade, any_address, inside }
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
    hairpins: BTreeMap<Ipv4Addr, usize>,
}

impl Ruleset {
    /// Everything anew, in one transaction: whatever was in the table goes, but for the clients that affinity remembers.
    pub fn replace(ground: &Ground, fronts: BTreeMap<Front, Back>, clients: &[Lasting]) -> (Self, Transaction) {
        let mut transaction = Transaction::on(TABLE);
        base(&mut transaction, ground);
        let mut ruleset = Self::default();
        let changes = fronts.into_iter().map(|(front, back)| (front, Some(back))).collect();
        ruleset.change(ground, changes, &mut transaction);
        transaction.add_lasting(CLIENTS, clients);
        (ruleset, transaction)
    }

    /// Takes frontends away (`None`) or sets them; adds to the transaction what that takes. The ruleset is what it will be when the
    /// transaction is carried out: if it is not, start anew.
    pub fn change(&mut self, ground: &Ground, changes: BTreeMap<Front, Option<Back>>, transaction: &mut Transaction) {
        let (mut gone, mut come) = (Elements::default(), Elements::default());
        for (front, back) in changes {
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
            for (address, _) in before.into_iter().flat_map(Back::all).filter(|(a, _)| ground.own_pods.contains(*a)) {
                let count = self.hairpins.entry(*address).or_default();
                *count = count.saturating_sub(1);
            }
            for (address, _) in back.iter().flat_map(Back::all).filter(|(a, _)| ground.own_pods.contains(*a)) {
                *self.hairpins.entry(*address).or_default() += 1;
                come.entry((HAIRPINS, pair(*address))).or_insert(Value::None);
            }
            match back {
                Some(back) => drop(self.installed.insert(front, back)),
                None => drop(self.installed.remove(&front)),
            }
        }
        let alone: Vec<Ipv4Addr> = self.hairpins.iter().filter(|(_, count)| **count == 0).map(|(address, _)| *address).collect();
        for address in alone {
            self.hairpins.remove(&address);
            come.remove(&(HAIRPINS, pair(address)));
            gone.insert((HAIRPINS, pair(address)), Value::None);
        }
        // An element that goes may make room for one of the same key: out first, then in, all at one instant.
        for set in [SERVICES, INSIDERS, ENDPOINTS, STANDING, HAIRPINS] {
            transaction.remove(set, gone.iter().filter(|((of, _), _)| *of == set).map(|((_, key), _)| &key[..]));
        }
        for set in [ENDPOINTS, STANDING, HAIRPINS, INSIDERS, SERVICES] {
            transaction.add(set, come.iter().filter(|((of, _), _)| *of == set).map(|((_, key), value)| (&key[..], value)));
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
    // Registers: 0 to 2 the frontend, 3 the number drawn, or for affinity the client; 4 and 5 the endpoint.
    let name = pick.chain();
    transaction.chain(&name, None);
    match pick.masquerade {
        Masquerade::Never => {}
        Masquerade::Always => transaction.rule(&name, Rule::default().mark(!MASQUERADE_BIT, MASQUERADE_BIT)),
        Masquerade::Outsiders => {
            let pods = ground.all_pods;
            let outside = Rule::default().within(Field::Source, Is::Different, pods.network, pods.prefix);
            transaction.rule(&name, outside.mark(!MASQUERADE_BIT, MASQUERADE_BIT));
        }
    }
    let front = || {
        let rule = Rule::default();
        let rule = if pick.any_address { rule.constant(&[0; 4], 0) } else { rule.load(Field::Destination, 0) };
        rule.protocol(1).load(Field::Port, 2)
    };
    let first = if pick.inside { INSIDERS_FIRST } else { 0 };
    let drawn = || front().random(pick.count, first, 3).look_up(ENDPOINTS, 0, Some(4));
    if let Some(seconds) = pick.affinity {
        let timeout = seconds.saturating_mul(1000);
        let client = || front().load(Field::Source, 3);
        // The endpoint goes behind the frontend, over the client, to see whether it still stands there.
        let standing = client().look_up(CLIENTS, 0, Some(3)).look_up(STANDING, 0, None);
        let again = standing.load(Field::Source, 3).look_up(CLIENTS, 0, Some(4));
        transaction.rule(&name, again.update(Update::Refresh, CLIENTS, 0, 4, timeout).redirect(4));
        transaction.rule(&name, client().look_up(CLIENTS, 0, Some(4)).update(Update::Delete, CLIENTS, 0, 4, timeout));
        let remembered = drawn().load(Field::Source, 3).update(Update::Refresh, CLIENTS, 0, 4, timeout);
        transaction.rule(&name, remembered.redirect(4));
    }
    // Twice: a draw may fall between two states of the maps.
    transaction.rule(&name, drawn().redirect(4));
    transaction.rule(&name, drawn().redirect(4));
    transaction.rule(&name, Rule::default().verdict(&Verdict::Drop));
}

type Elements = BTreeMap<(&'static str, Vec<u8>), Value>;

fn key(front: &Front) -> Vec<u8> {
    let mut key = front.address.octets().to_vec();
    key.extend([front.protocol, 0, 0, 0]);
    key.extend(port(front.port));
    key
}

fn port(number: u16) -> [u8; 4] {
    let [high, low] = number.to_be_bytes();
    [high, low, 0, 0]
}

fn pair(address: Ipv4Addr) -> Vec<u8> {
    [address.octets(), address.octets()].concat()
}

fn elements(front: &Front, back: &Back, picks: &BTreeMap<Pick, u32>) -> Elements {
    let mut all = Elements::new();
    let key = key(front);
    for (pick, map, first, endpoints) in Pick::of(front, back) {
        if let Some(number) = picks.get(&pick) {
            all.insert((map, key.clone()), Value::Bytes(number.to_ne_bytes().to_vec()));
        }
        for (number, (address, target)) in (first..).zip(endpoints) {
            let endpoint = [address.octets(), port(*target)].concat();
            if back.affinity.is_some() {
                all.insert((STANDING, [&key[..], &endpoint[..]].concat()), Value::None);
            }
            all.insert((ENDPOINTS, [&key[..], &number.to_ne_bytes()[..]].concat()), Value::Bytes(endpoint));
        }
    }
    all
}

/// The table without frontends: maps, hooks, and what is true of all of them.
fn base(transaction: &mut Transaction, ground: &Ground) {
    use types::{ADDRESS, NUMBER, PORT, PROTOCOL, concat};
    transaction.table_anew();
    let front = [ADDRESS, PROTOCOL, PORT];
    let set = |name: &str, key: &[u32], leads: Leads| Set {
        name: name.to_owned(),
        key_bytes: u32::try_from(key.len() * 4).unwrap_or(0),
        key_type: concat(key),
        leads,
        ..Set::default()
    };
    transaction.set(&set(SERVICES, &front, Leads::Number));
    transaction.set(&set(INSIDERS, &front, Leads::Number));
    transaction.set(&set(PICKS, &[NUMBER], Leads::Verdict));
    transaction.set(&set(ENDPOINTS, &[&front[..], &[NUMBER]].concat(), Leads::AddressAndPort));
    transaction.set(&set(STANDING, &[&front[..], &[ADDRESS, PORT]].concat(), Leads::Nowhere));
    transaction.set(&set(HAIRPINS, &[ADDRESS, ADDRESS], Leads::Nowhere));
    let clients = set(CLIENTS, &[&front[..], &[ADDRESS]].concat(), Leads::AddressAndPort);
    transaction.set(&Set { timeout_ms: Some(10_800_000), size: Some(CLIENTS_MAX), ..clients });

    for (chain, map) in [("find", SERVICES), ("find-inside", INSIDERS)] {
        transaction.chain(chain, None);
        let find = |rule: Rule| rule.protocol(1).load(Field::Port, 2).look_up(map, 0, Some(4)).dispatch(PICKS, 4);
        transaction.rule(chain, find(Rule::default().load(Field::Destination, 0)));
        transaction.rule(chain, find(Rule::default().destination_local(Is::Equal).constant(&[0; 4], 0)));
    }
    let pods = ground.all_pods;
    let from_pods = Rule::default().within(Field::Source, Is::Equal, pods.network, pods.prefix);
    for (name, number, inside) in [("arriving", 0, from_pods), ("leaving", 3, Rule::default())] {
        transaction.chain(name, Some(Hook { kind: "nat", number, priority: -100 }));
        transaction.rule(name, inside.verdict(&Verdict::Jump("find-inside".to_owned())));
        transaction.rule(name, Rule::default().verdict(&Verdict::Jump("find".to_owned())));
    }
    // What is still addressed to a Service after translation has nobody to go to.
    for (name, number) in [("forwarded", 2), ("sent", 3)] {
        transaction.chain(name, Some(Hook { kind: "filter", number, priority: 0 }));
        let unserved = || {
            let rule = Rule::default().within(Field::Destination, Is::Equal, ground.services.network, ground.services.prefix);
            rule.destination_local(Is::Different)
        };
        transaction.rule(name, unserved().protocol(0).compare(0, Is::Equal, &[6]).reject(true));
        transaction.rule(name, unserved().reject(false));
    }
    source_translation(transaction, ground);
}

/// Whose source address becomes this machine's: who asked for it by the mark, who meets itself, and pods that leave the cluster.
fn source_translation(transaction: &mut Transaction, ground: &Ground) {
    let name = "going-out";
    transaction.chain(name, Some(Hook { kind: "nat", number: 4, priority: 100 }));
    let marked = Rule::default().meta(3, 0).bits(0, MASQUERADE_BIT.to_ne_bytes(), [0; 4]).compare(0, Is::Different, &[0; 4]);
    transaction.rule(name, marked.mark(u32::MAX, MASQUERADE_BIT).masquerade());
    let itself = Rule::default().load(Field::Source, 0).load(Field::Destination, 1).look_up(HAIRPINS, 0, None);
    transaction.rule(name, itself.masquerade());
    let (own, all) = (ground.own_pods, ground.all_pods);
    // Who plugs pods in says whether they leave under the machine's address.
    let Some(bridge) = &ground.bridge else { return };
    let out = Rule::default().within(Field::Source, Is::Equal, own.network, own.prefix);
    let out = out.within(Field::Destination, Is::Different, all.network, all.prefix).interface(7, Is::Different, bridge);
    transaction.rule(name, out.masquerade());
    // A port of a pod on the machine's loopback address: from here only.
    let loopback = Ipv4Addr::new(127, 0, 0, 0);
    let local = Rule::default().within(Field::Source, Is::Equal, loopback, 8).interface(7, Is::Equal, bridge);
    transaction.rule(name, local.masquerade());
    transaction.chain("foreign", Some(Hook { kind: "filter", number: 0, priority: -300 }));
    let foreign = Rule::default().within(Field::Destination, Is::Equal, loopback, 8).interface(6, Is::Equal, bridge);
    transaction.rule("foreign", foreign.verdict(&Verdict::Drop));
}
