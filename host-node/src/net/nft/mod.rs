//! nf_tables in as many words as this daemon needs: tables, chains, rules, maps and their elements, spoken to the kernel directly.
//!
//! [`Transaction`] collects, [`wire::Socket::commit`] carries out as one. Registers are four bytes each and numbered from 0; a concatenated
//! key is consecutive registers. Facts: linux/netfilter/nf_tables.h. No program is forked and no text is parsed, so a change costs what
//! the kernel needs for it.

pub mod conntrack;
pub mod wire;

use std::net::IpAddr;

use pintle_values::network::{self, Network};
use wire::{APPEND, Attrs, CREATE, DUMP, Messages, NFTABLES, Socket, attr, attrs};

use crate::error::{Error, Result};

const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const NEW_SET: u16 = 9;
const NEW_ELEMENT: u16 = 12;
const GET_ELEMENT: u16 = 13;
const DELETE_ELEMENT: u16 = 14;
/// Elements of one message: their list is one attribute, of 64 KiB at most.
const ELEMENTS_MAX: usize = 400;
const REGISTER_FIRST: u32 = 8;
const VERDICT_TYPE: u32 = 0xffff_ff00;

/// Which packets a table sees: those of one version of IP. Tables of both have the same name and shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// Version 4.
    V4,
    /// Version 6.
    V6,
}

impl Family {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// Of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The operating system's number.
    fn number(self) -> u8 {
        (match self {
            Self::V4 => nix::libc::AF_INET,
            Self::V6 => nix::libc::AF_INET6,
        }) as u8
    }

    /// Registers that an address takes.
    pub fn words(self) -> u32 {
        match self {
            Self::V4 => 1,
            Self::V6 => 4,
        }
    }

    /// `nft`'s number for the type of an address.
    pub fn address_type(self) -> u32 {
        match self {
            Self::V4 => types::ADDRESS,
            Self::V6 => types::ADDRESS_V6,
        }
    }

    /// The address that is none.
    pub fn unspecified(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
            Self::V6 => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        }
    }

    fn highest(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(std::net::Ipv4Addr::BROADCAST),
            Self::V6 => IpAddr::V6(std::net::Ipv6Addr::from_bits(u128::MAX)),
        }
    }

    /// The bytes of a number of an address of this family ([`network::number`]).
    fn bytes(self, number: u128) -> Vec<u8> {
        let all = number.to_be_bytes();
        all[16 - 4 * self.words() as usize..].to_vec()
    }
}

/// An address as the kernel has it.
pub fn octets(address: IpAddr) -> Vec<u8> {
    Family::of(address).bytes(network::number(address))
}

/// Where a base chain hangs.
#[derive(Clone, Copy, Debug)]
pub struct Hook {
    /// `nat` or `filter`.
    pub kind: &'static str,
    /// 0 prerouting, 1 input, 2 forward, 3 output, 4 postrouting.
    pub number: u32,
    /// Lower is earlier; -100 for destination, 100 for source translation.
    pub priority: i32,
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Goes nowhere.
    Drop,
    /// This hook is done.
    Accept,
    /// On in that chain, and not back.
    Goto(String),
    /// Through that chain, and back.
    Jump(String),
    /// Back to where the chain was jumped to from.
    Return,
}

/// A named set or map.
#[derive(Clone, Debug, Default)]
pub struct Set {
    /// Its name.
    pub name: String,
    /// Bytes of a key, a multiple of 4.
    pub key_bytes: u32,
    /// Type of a key as `nft list` shows it.
    pub key_type: u32,
    /// What a key leads to.
    pub leads: Leads,
    /// Written by packets; entries go after this many milliseconds.
    pub timeout_ms: Option<u64>,
    /// Keys are ranges.
    pub interval: bool,
    /// Most elements, for sets that packets write.
    pub size: Option<u32>,
}

/// What the keys of a set lead to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Leads {
    /// Nothing: it is a set.
    #[default]
    Nowhere,
    /// A verdict.
    Verdict,
    /// A number of four bytes in the machine's order.
    Number,
    /// An address of the table's family and a port.
    AddressAndPort,
}

/// `nft`'s numbers for types.
pub mod types {
    /// An IPv4 address.
    pub const ADDRESS: u32 = 7;
    /// An IPv6 address.
    pub const ADDRESS_V6: u32 = 8;
    /// A protocol of IP.
    pub const PROTOCOL: u32 = 12;
    /// A port.
    pub const PORT: u32 = 13;
    /// A number of four bytes in the machine's order.
    pub const NUMBER: u32 = 19;

    /// The type of a concatenation.
    pub fn concat(parts: &[u32]) -> u32 {
        parts.iter().fold(0, |all, part| (all << 6) | part)
    }
}

/// What an element leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Of a set.
    None,
    /// Of a verdict map.
    Verdict(Verdict),
    /// Of a map to bytes.
    Bytes(Vec<u8>),
}

/// Changes of the tables of one name, carried out together.
pub struct Transaction {
    table: &'static str,
    family: Family,
    messages: Messages,
    sets: u32,
}

impl Transaction {
    /// Nothing yet.
    pub fn on(table: &'static str) -> Self {
        Self { table, family: Family::V4, messages: Messages::default(), sets: 0 }
    }

    /// What follows is about the table of this family; about that of version 4 until it is said.
    pub fn turn_to(&mut self, family: Family) {
        self.family = family;
    }

    /// What is to be sent.
    pub fn into_messages(self) -> Messages {
        self.messages
    }

    fn say(&mut self, step: &'static str, message: u16, flags: u16, attrs: &Attrs) {
        self.messages.push(step, (NFTABLES, message), flags, self.family.number(), attrs);
    }

    /// Makes the table, empty: what was in it goes.
    pub fn table_anew(&mut self) {
        let name = Attrs::default().text(1, self.table);
        self.say("adding the table", NEW_TABLE, CREATE, &name);
        self.say("emptying the table", DELETE_TABLE, 0, &name);
        self.say("adding the table", NEW_TABLE, CREATE, &name);
    }

    /// Removes the table.
    pub fn remove_table(&mut self) {
        let name = Attrs::default().text(1, self.table);
        self.say("adding the table", NEW_TABLE, CREATE, &name);
        self.say("removing the table", DELETE_TABLE, 0, &name);
    }

    /// Adds a chain; one with a hook sees packets.
    pub fn chain(&mut self, name: &str, hook: Option<Hook>) {
        let mut attrs = Attrs::default().text(1, self.table).text(3, name);
        if let Some(hook) = hook {
            attrs = attrs.nested(4, Attrs::default().number(1, hook.number).number(2, hook.priority.cast_unsigned())).text(7, hook.kind);
        }
        self.say("adding a chain", NEW_CHAIN, CREATE, &attrs);
    }

    /// Adds a rule to the end of a chain.
    pub fn rule(&mut self, chain: &str, rule: Rule) {
        let attrs = Attrs::default().text(1, self.table).text(2, chain).nested(4, rule.0);
        self.say("adding a rule", NEW_RULE, CREATE | APPEND, &attrs);
    }

    /// Adds a set or map.
    pub fn set(&mut self, set: &Set) {
        self.sets += 1;
        let flag = |on: bool, bit: u32| if on { bit } else { 0 };
        let dynamic = set.timeout_ms.is_some();
        let flags = flag(set.interval, 4) | flag(set.leads != Leads::Nowhere, 8) | flag(dynamic, 0x30);
        let mut attrs = Attrs::default().text(1, self.table).text(2, &set.name).number(3, flags);
        attrs = attrs.number(4, set.key_type).number(5, set.key_bytes);
        attrs = match set.leads {
            Leads::Nowhere => attrs,
            Leads::Verdict => attrs.number(6, VERDICT_TYPE),
            Leads::Number => attrs.number(6, types::NUMBER).number(7, 4),
            Leads::AddressAndPort => {
                attrs.number(6, types::concat(&[self.family.address_type(), types::PORT])).number(7, 4 * self.family.words() + 4)
            }
        };
        if let Some(size) = set.size {
            attrs = attrs.nested(9, Attrs::default().number(1, size));
        }
        attrs = attrs.number(10, self.sets);
        if let Some(timeout) = set.timeout_ms {
            attrs = attrs.bytes(11, &timeout.to_be_bytes());
        }
        self.say("adding a set", NEW_SET, CREATE, &attrs);
    }

    /// Adds elements.
    pub fn add<'a>(&mut self, set: &str, elements: impl IntoIterator<Item = (&'a [u8], &'a Value)>) {
        let elements = elements.into_iter().map(|(key, value)| element(key, value, 0)).collect();
        self.elements("adding elements", NEW_ELEMENT, set, elements);
    }

    /// Adds elements to a map that packets write.
    pub fn add_lasting(&mut self, set: &str, elements: &[Lasting]) {
        let one = |element: &Lasting| {
            let attrs = Attrs::default().nested(1, data(&element.key)).nested(2, data(&element.leads_to));
            let times = [(4, &element.timeout), (5, &element.rest)];
            times.into_iter().fold(attrs, |attrs, (kind, time)| time.iter().fold(attrs, |attrs, time| attrs.bytes(kind, time)))
        };
        self.elements("adding what lasts", NEW_ELEMENT, set, elements.iter().map(one).collect());
    }

    /// Adds ranges of addresses by their numbers, the last included, to a set of intervals. They must not overlap, and be of the table's family.
    pub fn add_ranges(&mut self, set: &str, ranges: &[(u128, u128)]) {
        let highest = network::number(self.family.highest());
        let mut elements = Vec::new();
        for (first, last) in ranges {
            elements.push(element(&self.family.bytes(*first), &Value::None, 0));
            if *last < highest {
                elements.push(element(&self.family.bytes(last + 1), &Value::None, 1));
            }
        }
        self.elements("adding ranges", NEW_ELEMENT, set, elements);
    }

    /// Removes elements, all of which must be there.
    pub fn remove<'a>(&mut self, set: &str, keys: impl IntoIterator<Item = &'a [u8]>) {
        let elements = keys.into_iter().map(|key| element(key, &Value::None, 0)).collect();
        self.elements("removing elements", DELETE_ELEMENT, set, elements);
    }

    fn elements(&mut self, step: &'static str, message: u16, set: &str, elements: Vec<Attrs>) {
        for chunk in elements.chunks(ELEMENTS_MAX) {
            let mut list = Attrs::default();
            for element in chunk {
                list = list.bytes(1 | 0x8000, &element.0);
            }
            let attrs = Attrs::default().text(1, self.table).text(2, set).nested(3, list);
            self.say(step, message, CREATE, &attrs);
        }
    }
}

/// Removes the tables of a name; a machine without version 6 has none of it.
pub fn remove_tables(table: &'static str) -> Result<()> {
    let socket = Socket::open()?;
    for family in Family::BOTH {
        let mut transaction = Transaction::on(table);
        transaction.turn_to(family);
        transaction.remove_table();
        match socket.commit(transaction.into_messages()) {
            Err(error) if family == Family::V6 => tracing::debug!(error = Error::chain(&error), "no rules of version 6"),
            outcome => outcome?,
        }
    }
    Ok(())
}

/// An element of a map that packets write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lasting {
    key: Vec<u8>,
    leads_to: Vec<u8>,
    timeout: Option<Vec<u8>>,
    rest: Option<Vec<u8>>,
}

/// The elements of a family's map that packets write, with the time that each has left; none when there is no such map.
///
/// # Errors
/// The kernel refuses.
pub fn lasting_elements(socket: &Socket, family: Family, table: &str, set: &str) -> Result<Vec<Lasting>> {
    let mut request = Messages::default();
    request.push("reading elements", (NFTABLES, GET_ELEMENT), DUMP, family.number(), &Attrs::default().text(1, table).text(2, set));
    let mut all = Vec::new();
    let read = socket.dump(&request, |bytes| {
        for (_, element) in attr(bytes, 3).into_iter().flat_map(attrs) {
            let value = |kind: u16| attr(attr(element, kind)?, 1).map(<[u8]>::to_vec);
            let time = |kind: u16| attr(element, kind).map(<[u8]>::to_vec);
            if let Some((key, leads_to)) = value(1).zip(value(2)) {
                all.push(Lasting { key, leads_to, timeout: time(4), rest: time(5) });
            }
        }
    });
    match read {
        Err(Error::Io { source, .. }) if source.raw_os_error() == Some(nix::libc::ENOENT) => Ok(Vec::new()),
        read => read.map(|()| all),
    }
}

fn element(key: &[u8], value: &Value, flags: u32) -> Attrs {
    let mut attrs = Attrs::default().nested(1, data(key));
    match value {
        Value::None => {}
        Value::Verdict(verdict) => attrs = attrs.nested(2, self::verdict(verdict)),
        Value::Bytes(bytes) => attrs = attrs.nested(2, data(bytes)),
    }
    if flags != 0 { attrs.number(3, flags) } else { attrs }
}

fn data(bytes: &[u8]) -> Attrs {
    Attrs::default().bytes(1, bytes)
}

fn verdict(verdict: &Verdict) -> Attrs {
    let (code, chain) = match verdict {
        Verdict::Drop => (0, None),
        Verdict::Accept => (1, None),
        Verdict::Jump(chain) => (-3_i32, Some(chain)),
        Verdict::Goto(chain) => (-4, Some(chain)),
        Verdict::Return => (-5, None),
    };
    let mut inner = Attrs::default().number(1, code.cast_unsigned());
    if let Some(chain) = chain {
        inner = inner.text(2, chain);
    }
    Attrs::default().nested(2, inner)
}

/// The expressions of a rule of a family's table, in order. A comparison that fails ends the rule.
pub struct Rule(Attrs, Family);

/// How two values compare.
#[derive(Clone, Copy)]
pub enum Is {
    /// The same.
    Equal,
    /// Not the same.
    Different,
}

/// A field of a packet.
#[derive(Clone, Copy)]
pub enum Field {
    /// Where it comes from.
    Source,
    /// Where it goes.
    Destination,
    /// The port that it goes to: two bytes.
    Port,
    /// What a message of ICMP is: one byte.
    IcmpType,
}

/// What a rule does to a set that packets write.
#[derive(Clone, Copy)]
pub enum Update {
    /// Adds, or makes what is there last longer.
    Refresh,
    /// Removes.
    Delete,
}

impl Rule {
    /// No expression yet.
    pub fn of(family: Family) -> Self {
        Self(Attrs::default(), family)
    }

    fn expression(self, name: &str, attrs: Attrs) -> Self {
        Self(self.0.nested(1, Attrs::default().text(1, name).nested(2, attrs)), self.1)
    }

    /// Loads a field.
    #[must_use]
    pub fn load(self, field: Field, register: u32) -> Self {
        let (base, offset, bytes) = match (field, self.1) {
            (Field::Source, Family::V4) => (1, 12, 4),
            (Field::Destination, Family::V4) => (1, 16, 4),
            (Field::Source, Family::V6) => (1, 8, 16),
            (Field::Destination, Family::V6) => (1, 24, 16),
            (Field::Port, _) => (2, 2, 2),
            (Field::IcmpType, _) => (2, 0, 1),
        };
        let attrs = Attrs::default().number(1, REGISTER_FIRST + register).number(2, base).number(3, offset).number(4, bytes);
        self.expression("payload", attrs)
    }

    /// Loads what is known of the packet: 3 the mark, 6 and 7 the names of the interfaces, 16 the protocol.
    #[must_use]
    pub fn meta(self, key: u32, register: u32) -> Self {
        self.expression("meta", Attrs::default().number(1, REGISTER_FIRST + register).number(2, key))
    }

    /// Loads the protocol.
    #[must_use]
    pub fn protocol(self, register: u32) -> Self {
        self.meta(16, register)
    }

    /// Loads a constant of at most 16 bytes.
    #[must_use]
    pub fn constant(self, bytes: &[u8], register: u32) -> Self {
        self.expression("immediate", Attrs::default().number(1, REGISTER_FIRST + register).nested(2, data(bytes)))
    }

    /// Goes on when the register's bytes compare so.
    #[must_use]
    pub fn compare(self, register: u32, is: Is, bytes: &[u8]) -> Self {
        let operator = match is {
            Is::Equal => 0,
            Is::Different => 1,
        };
        self.expression("cmp", Attrs::default().number(1, REGISTER_FIRST + register).number(2, operator).nested(3, data(bytes)))
    }

    /// Goes on when the register's bytes are between these, both included.
    #[must_use]
    pub fn between(self, register: u32, first: &[u8], last: &[u8]) -> Self {
        let attrs = Attrs::default().number(1, REGISTER_FIRST + register).number(2, 0);
        self.expression("range", attrs.nested(3, data(first)).nested(4, data(last)))
    }

    /// `(register & mask) ^ xor`, in place.
    #[must_use]
    pub fn bits(self, register: u32, mask: &[u8], xor: &[u8]) -> Self {
        let register = REGISTER_FIRST + register;
        let length = u32::try_from(mask.len()).unwrap_or(0);
        let attrs = Attrs::default().number(1, register).number(2, register).number(3, length).nested(4, data(mask)).nested(5, data(xor));
        self.expression("bitwise", attrs)
    }

    /// Goes on when a field is in a network, or when it is not.
    #[must_use]
    pub fn within(self, field: Field, is: Is, network: Network) -> Self {
        let octets = octets(network.address());
        let mask = self.1.bytes(!(network.last() ^ network.first()));
        self.load(field, 0).bits(0, &mask, &vec![0; octets.len()]).compare(0, is, &octets)
    }

    /// Goes on when the packet came by (6) or leaves by (7) this interface, or does not.
    #[must_use]
    pub fn interface(self, key: u32, is: Is, name: &str) -> Self {
        let mut bytes = [0; 16];
        let kept = name.len().min(15);
        bytes[..kept].copy_from_slice(&name.as_bytes()[..kept]);
        self.meta(key, 0).compare(0, is, &bytes)
    }

    /// Goes on when the destination is an address of this machine, or is not.
    #[must_use]
    pub fn destination_local(self, is: Is) -> Self {
        const LOCAL: u32 = 2;
        self.expression("fib", Attrs::default().number(1, REGISTER_FIRST).number(2, 3).number(3, 2)).compare(0, is, &LOCAL.to_ne_bytes())
    }

    /// Goes on when the connection has one of these bits of state (0) or status (2).
    #[must_use]
    pub fn connection(self, key: u32, bits: u32) -> Self {
        let loaded = self.expression("ct", Attrs::default().number(1, REGISTER_FIRST).number(2, key));
        loaded.bits(0, &bits.to_ne_bytes(), &[0; 4]).compare(0, Is::Different, &[0; 4])
    }

    /// A random number from `first` on, one of `modulus`, in the machine's order.
    #[must_use]
    pub fn random(self, modulus: u32, first: u32, register: u32) -> Self {
        let attrs = Attrs::default().number(1, REGISTER_FIRST + register).number(2, modulus).number(3, 1).number(4, first);
        self.expression("numgen", attrs)
    }

    /// Goes on when the key in the registers from `key` is in the set; what it leads to goes into the registers from `value`.
    #[must_use]
    pub fn look_up(self, set: &str, key: u32, value: Option<u32>) -> Self {
        let attrs = Attrs::default().text(1, set).number(2, REGISTER_FIRST + key);
        self.expression("lookup", value.into_iter().fold(attrs, |attrs, value| attrs.number(3, REGISTER_FIRST + value)))
    }

    /// Goes on when the key is not in the set.
    #[must_use]
    pub fn missing_in(self, set: &str, key: u32) -> Self {
        self.expression("lookup", Attrs::default().text(1, set).number(2, REGISTER_FIRST + key).number(5, 1))
    }

    /// Does what the key leads to in a map of verdicts; goes on when it is not in it.
    #[must_use]
    pub fn dispatch(self, map: &str, key: u32) -> Self {
        self.expression("lookup", Attrs::default().text(1, map).number(2, REGISTER_FIRST + key).number(3, 0))
    }

    /// Writes to a map: from the registers from `key` to the two from `value`.
    #[must_use]
    pub fn update(self, update: Update, map: &str, key: u32, value: u32, timeout_ms: u64) -> Self {
        let operation = match update {
            Update::Refresh => 1,
            Update::Delete => 2,
        };
        let attrs = Attrs::default().text(1, map).number(3, operation).number(4, REGISTER_FIRST + key).number(5, REGISTER_FIRST + value);
        self.expression("dynset", attrs.bytes(6, &timeout_ms.to_be_bytes()))
    }

    /// Sets bits of the mark, or with `xor` alone flips them.
    #[must_use]
    pub fn mark(self, keep: u32, xor: u32) -> Self {
        let loaded = self.meta(3, 0).bits(0, &keep.to_ne_bytes(), &xor.to_ne_bytes());
        loaded.expression("meta", Attrs::default().number(3, REGISTER_FIRST).number(2, 3))
    }

    /// Sends the connection to the address in the registers from this one on and the port in the next.
    #[must_use]
    pub fn redirect(self, register: u32) -> Self {
        let (address, port) = (REGISTER_FIRST + register, REGISTER_FIRST + register + self.1.words());
        let attrs = Attrs::default().number(1, 1).number(2, self.1.number().into()).number(3, address).number(4, address);
        self.expression("nat", attrs.number(5, port).number(6, port).number(7, 3))
    }

    /// Gives the connection this machine's address as its source.
    #[must_use]
    pub fn masquerade(self) -> Self {
        self.expression("masq", Attrs::default())
    }

    /// Answers that nobody is there: a reset to TCP, else port unreachable.
    #[must_use]
    pub fn reject(self, tcp: bool) -> Self {
        let unreachable = match self.1 {
            Family::V4 => 3,
            Family::V6 => 4,
        };
        let attrs = if tcp { Attrs::default().number(1, 1).bytes(2, &[0]) } else { Attrs::default().number(1, 0).bytes(2, &[unreachable]) };
        self.expression("reject", attrs)
    }

    /// Ends with a verdict.
    #[must_use]
    pub fn verdict(self, of: &Verdict) -> Self {
        self.expression("immediate", Attrs::default().number(1, 0).nested(2, verdict(of)))
    }
}
