//! The rules that hold pods to their limits: a table of its own, set anew as one whenever the limits change.
//!
//! A packet of a connection that stands passes at once. Of a new one, the sender's chain and then the receiver's are found by address in
//! a map; each returns what it allows and drops the rest. Packets are seen after translation: a policy is about pods, not Services.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::plan::{Allowed, Limits, Range};
use crate::net::nft::{Field, Hook, Is, Rule, Set, Transaction, Value, Verdict, types};

/// The table's name.
pub const TABLE: &str = "pintle-policies";
const SENDERS: &str = "senders";
const RECEIVERS: &str = "receivers";
/// State bits of a connection: established or related.
const STANDING: u32 = 2 | 4;

/// The table for these limits. `resolver` is the address that every pod may ask for names.
pub fn table(limits: &BTreeMap<Ipv4Addr, Limits>, resolver: Option<Ipv4Addr>) -> Transaction {
    let mut transaction = Transaction::on(TABLE);
    if limits.is_empty() {
        transaction.remove_table();
        return transaction;
    }
    transaction.table_anew();
    for name in [SENDERS, RECEIVERS] {
        let leads = crate::net::nft::Leads::Verdict;
        transaction.set(&Set { name: name.to_owned(), key_bytes: 4, key_type: types::ADDRESS, leads, ..Set::default() });
    }
    let sets = peer_sets(limits, &mut transaction);
    for (address, limits) in limits {
        let directions = [(SENDERS, &limits.egress, Field::Destination), (RECEIVERS, &limits.ingress, Field::Source)];
        for (map, allowed, other) in directions {
            let Some(allowed) = allowed else { continue };
            let chain = format!("{map}-{address}");
            pod_chain(&chain, *address, allowed, other, &sets, &mut transaction);
            transaction.add(map, [(&address.octets()[..], &Value::Verdict(Verdict::Jump(chain)))]);
        }
    }
    let standing = || Rule::default().connection(0, STANDING).verdict(&Verdict::Accept);
    let find = |map: &str, field: Field| Rule::default().load(field, 0).dispatch(map, 0);
    // Before the Service rules of this hook, which let nothing through that is refused here.
    transaction.chain("forwarded", Some(Hook { kind: "filter", number: 2, priority: -10 }));
    transaction.rule("forwarded", standing());
    transaction.rule("forwarded", find(SENDERS, Field::Source));
    transaction.rule("forwarded", find(RECEIVERS, Field::Destination));
    // What a pod sends to its own node: names may be asked for always, because the resolver is no pod that a policy could allow.
    transaction.chain("received", Some(Hook { kind: "filter", number: 1, priority: -10 }));
    transaction.rule("received", standing());
    if let Some(resolver) = resolver {
        let asked = Rule::default().within(Field::Destination, Is::Equal, resolver, 32).load(Field::Port, 0);
        transaction.rule("received", asked.compare(0, Is::Equal, &53_u16.to_be_bytes()).verdict(&Verdict::Accept));
    }
    transaction.rule("received", find(SENDERS, Field::Source));
    transaction
}

type PeerSets<'a> = BTreeMap<&'a [Range], String>;

/// One set for each list of peers, however many pods and rules name it.
fn peer_sets<'a>(limits: &'a BTreeMap<Ipv4Addr, Limits>, transaction: &mut Transaction) -> PeerSets<'a> {
    let directions = limits.values().flat_map(|limits| limits.ingress.iter().chain(&limits.egress)).flatten();
    let lists: BTreeSet<&[Range]> = directions.filter_map(|allowed| allowed.peers.as_deref()).filter(|peers| !peers.is_empty()).collect();
    let mut sets = PeerSets::new();
    for (number, peers) in lists.into_iter().enumerate() {
        let name = format!("peers-{number}");
        transaction.set(&Set { name: name.clone(), key_bytes: 4, key_type: types::ADDRESS, interval: true, ..Set::default() });
        transaction.add_ranges(&name, peers);
        sets.insert(peers, name);
    }
    sets
}

fn pod_chain(
    chain: &str,
    address: Ipv4Addr,
    allowed: &BTreeSet<Allowed>,
    other: Field,
    sets: &PeerSets<'_>,
    transaction: &mut Transaction,
) {
    transaction.chain(chain, None);
    // Nobody is kept from itself, by way of a Service.
    transaction.rule(chain, Rule::default().within(other, Is::Equal, address, 32).verdict(&Verdict::Return));
    for one in allowed {
        let mut rule = Rule::default();
        if let Some(peers) = &one.peers {
            let Some(set) = sets.get(&peers[..]) else { continue };
            rule = rule.load(other, 0).look_up(set, 0, None);
        }
        if let Some((protocol, range)) = one.ports {
            rule = rule.protocol(0).compare(0, Is::Equal, &[protocol]);
            if let Some((first, last)) = range {
                rule = rule.load(Field::Port, 0).between(0, &first.to_be_bytes(), &last.to_be_bytes());
            }
        }
        transaction.rule(chain, rule.verdict(&Verdict::Return));
    }
    transaction.rule(chain, Rule::default().verdict(&Verdict::Drop));
}
