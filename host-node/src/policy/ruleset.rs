//! The rules that hold pods to their limits: a table of its own for each family of addresses, set anew as one whenever the limits change.
//!
//! A packet of a connection that stands passes at once. Of a new one, the sender's chain and then the receiver's are found by address in
//! a map; each returns what it allows and drops the rest. Packets are seen after translation: a policy is about pods, not Services.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use pintle_values::network::Network;

use super::plan::{Allowed, Limits, Range};
use crate::net::nft::{Family, Field, Hook, Is, Rule, Set, Transaction, Value, Verdict, octets};

/// The table's name.
pub const TABLE: &str = "pintle-policies";
const SENDERS: &str = "senders";
const RECEIVERS: &str = "receivers";
/// State bits of a connection: established or related.
const STANDING: u32 = 2 | 4;

/// The protocol by which neighbours of version 6 find each other, and its messages for that.
const ICMP_V6: u8 = 58;
const NEIGHBOURS: (u8, u8) = (133, 137);

/// The tables of these families for these limits. `resolver` is the address that every pod may ask for names.
pub fn tables(families: &[Family], limits: &BTreeMap<IpAddr, Limits>, resolver: Option<IpAddr>) -> Transaction {
    let mut transaction = Transaction::on(TABLE);
    for family in families {
        transaction.turn_to(*family);
        let limits =
            limits.iter().filter(|(address, _)| Family::of(**address) == *family).map(|(address, limits)| (*address, limits)).collect();
        table(&mut transaction, *family, &limits, resolver.filter(|at| Family::of(*at) == *family));
    }
    transaction
}

fn table(transaction: &mut Transaction, family: Family, limits: &BTreeMap<IpAddr, &Limits>, resolver: Option<IpAddr>) {
    if limits.is_empty() {
        return transaction.remove_table();
    }
    transaction.table_anew();
    for name in [SENDERS, RECEIVERS] {
        let leads = crate::net::nft::Leads::Verdict;
        transaction.set(&Set { leads, ..addresses(name, family) });
    }
    let sets = peer_sets(family, limits, transaction);
    for (address, limits) in limits {
        let directions = [(SENDERS, &limits.egress, Field::Destination), (RECEIVERS, &limits.ingress, Field::Source)];
        for (map, allowed, other) in directions {
            let Some(allowed) = allowed else { continue };
            let chain = format!("{map}-{}", address.to_string().replace(':', "-"));
            pod_chain(&chain, *address, allowed, other, &sets, transaction);
            transaction.add(map, [(&octets(*address)[..], &Value::Verdict(Verdict::Jump(chain)))]);
        }
    }
    let rule = || Rule::of(family);
    let standing = || rule().connection(0, STANDING).verdict(&Verdict::Accept);
    let find = |map: &str, field: Field| rule().load(field, 0).dispatch(map, 0);
    // Before the Service rules of this hook, which let nothing through that is refused here.
    transaction.chain("forwarded", Some(Hook { kind: "filter", number: 2, priority: -10 }));
    transaction.rule("forwarded", standing());
    transaction.rule("forwarded", find(SENDERS, Field::Source));
    transaction.rule("forwarded", find(RECEIVERS, Field::Destination));
    // What a pod sends to its own node: names may be asked for always, because the resolver is no pod that a policy could allow.
    transaction.chain("received", Some(Hook { kind: "filter", number: 1, priority: -10 }));
    transaction.rule("received", standing());
    if let Some(resolver) = resolver.and_then(host) {
        let asked = rule().within(Field::Destination, Is::Equal, resolver).load(Field::Port, 0);
        transaction.rule("received", asked.compare(0, Is::Equal, &53_u16.to_be_bytes()).verdict(&Verdict::Accept));
    }
    if family == Family::V6 {
        // A pod that could not ask for its gateway could not send what it may send.
        let asking = rule().protocol(0).compare(0, Is::Equal, &[ICMP_V6]).load(Field::IcmpType, 0);
        transaction.rule("received", asking.between(0, &[NEIGHBOURS.0], &[NEIGHBOURS.1]).verdict(&Verdict::Accept));
    }
    transaction.rule("received", find(SENDERS, Field::Source));
}

/// The network that is one address.
fn host(address: IpAddr) -> Option<Network> {
    Network::new(address, if address.is_ipv4() { 32 } else { 128 })
}

/// A set whose keys are addresses.
fn addresses(name: &str, family: Family) -> Set {
    Set { name: name.to_owned(), key_bytes: 4 * family.words(), key_type: family.address_type(), ..Set::default() }
}

type PeerSets<'a> = BTreeMap<&'a [Range], String>;

/// One set for each list of peers, however many pods and rules name it.
fn peer_sets<'a>(family: Family, limits: &BTreeMap<IpAddr, &'a Limits>, transaction: &mut Transaction) -> PeerSets<'a> {
    let directions = limits.values().flat_map(|limits: &&'a Limits| limits.ingress.iter().chain(&limits.egress)).flatten();
    let lists: BTreeSet<&[Range]> = directions.filter_map(|allowed| allowed.peers.as_deref()).filter(|peers| !peers.is_empty()).collect();
    let mut sets = PeerSets::new();
    for (number, peers) in lists.into_iter().enumerate() {
        let name = format!("peers-{number}");
        transaction.set(&Set { interval: true, ..addresses(&name, family) });
        transaction.add_ranges(&name, peers);
        sets.insert(peers, name);
    }
    sets
}

fn pod_chain(chain: &str, address: IpAddr, allowed: &BTreeSet<Allowed>, other: Field, sets: &PeerSets<'_>, transaction: &mut Transaction) {
    transaction.chain(chain, None);
    // Nobody is kept from itself, by way of a Service.
    let rule = || Rule::of(Family::of(address));
    if let Some(itself) = host(address) {
        transaction.rule(chain, rule().within(other, Is::Equal, itself).verdict(&Verdict::Return));
    }
    for one in allowed {
        let mut allow = rule();
        if let Some(peers) = &one.peers {
            let Some(set) = sets.get(&peers[..]) else { continue };
            allow = allow.load(other, 0).look_up(set, 0, None);
        }
        if let Some((protocol, range)) = one.ports {
            allow = allow.protocol(0).compare(0, Is::Equal, &[protocol]);
            if let Some((first, last)) = range {
                allow = allow.load(Field::Port, 0).between(0, &first.to_be_bytes(), &last.to_be_bytes());
            }
        }
        transaction.rule(chain, allow.verdict(&Verdict::Return));
    }
    transaction.rule(chain, rule().verdict(&Verdict::Drop));
}
