//! What the tables say together, in a shape that is quick to ask: pure, from RouteTables to a programme.
//!
//! A port knows, by host, its matches from the most specific to the least. A request asks its own host first, then wider wildcards, then no
//! host at all; the first match wins. The order is the one that `RouteTableSpec.rules` promises.
//!
//! Invariant: a programme never changes; requests in flight end on the one that they began with.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use regex::Regex;

use super::backend::Service;
use super::model::{Backend, Certificate, Headers, Match, NamedValue, Redirect, Retry, Rewrite, RouteTable, Rule};
use super::path;
use crate::follow::Key;

/// Longest compiled pattern, bytes: patterns come from users.
const PATTERN_BYTES_MAX: usize = 1 << 18;

/// Names a port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// Namespace and name.
    pub service: Key,
    /// By number, or 0.
    pub port: u16,
    /// By name, or empty.
    pub port_name: String,
}

/// A port that clients ask for, and whether TLS ends there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Door {
    /// The port.
    pub port: u16,
    /// HTTPS.
    pub tls: bool,
}

/// Everything the proxy does.
#[derive(Default)]
pub struct Programme {
    /// By port.
    pub doors: BTreeMap<Door, Port>,
}

/// What happens at one port.
#[derive(Default)]
pub struct Port {
    by_host: HashMap<String, Vec<Entry>>,
    /// Which certificate for which host.
    pub certificates: Vec<(String, Certificate)>,
}

/// One match of one rule.
pub struct Entry {
    rank: Rank,
    matcher: Matcher,
    /// What to do.
    pub rule: Arc<Action>,
}

/// Lower comes first.
type Rank = (bool, Reverse<usize>, bool, Reverse<usize>, Reverse<usize>, (String, Key), usize, usize);

/// What a request must be.
pub struct Matcher {
    path: PathMatch,
    method: Option<Method>,
    headers: Vec<(HeaderName, ValueMatch)>,
    query: Vec<(String, ValueMatch)>,
}

enum PathMatch {
    Any,
    Exact(String),
    Prefix(String),
    Pattern(Regex),
}

enum ValueMatch {
    Exact(String),
    Pattern(Regex),
}

/// What is done with a request.
pub struct Action {
    /// Answered by this.
    pub redirect: Option<Redirect>,
    /// Of the target.
    pub rewrite: Option<Rewrite>,
    /// Of the request.
    pub request: Edits,
    /// Of the response.
    pub response: Edits,
    /// Who gets a copy, of how many in a hundred.
    pub mirrors: Vec<(Arc<Service>, u32)>,
    /// Who answers.
    pub shares: Vec<Share>,
    /// 0: without end.
    pub request_milliseconds: u64,
    /// 0: without end.
    pub backend_milliseconds: u64,
    /// When it is sent again.
    pub retry: Retry,
}

/// A backend and its part of the requests.
pub struct Share {
    /// `None`: 500.
    pub service: Option<Arc<Service>>,
    /// Its weight.
    pub weight: u32,
    /// For this backend alone.
    pub request: Edits,
    /// Of its answers alone.
    pub response: Edits,
}

/// Changes of headers, checked.
#[derive(Default)]
pub struct Edits {
    remove: Vec<HeaderName>,
    set: Vec<(HeaderName, HeaderValue)>,
    add: Vec<(HeaderName, HeaderValue)>,
}

/// A request as rules see it.
pub struct Seen<'a> {
    /// Without its port, in lower case.
    pub host: &'a str,
    /// In its one spelling.
    pub path: &'a str,
    /// Its query.
    pub query: &'a str,
    /// Its method.
    pub method: &'a Method,
    /// Its headers.
    pub headers: &'a HeaderMap,
}

impl Programme {
    /// Of these tables; `service` gives the port of a Service by its name.
    pub fn of<'a>(tables: impl Iterator<Item = (&'a Key, &'a RouteTable)>, mut service: impl FnMut(Target) -> Arc<Service>) -> Self {
        let mut programme = Self::default();
        for (key, table) in tables {
            let age = (table.metadata.creation_timestamp.clone(), key.clone());
            for listener in table.spec.listeners.iter().filter(|listener| listener.port != 0) {
                let host = listener.hostname.to_ascii_lowercase();
                let port = programme.doors.entry(Door { port: listener.port, tls: listener.protocol == "HTTPS" }).or_default();
                port.certificates.extend(listener.certificates.iter().map(|certificate| (host.clone(), certificate.clone())));
            }
            for (index, rule) in table.spec.rules.iter().enumerate() {
                let action = Arc::new(Action::of(rule, &mut service));
                let any = [Match::default()];
                let matches = if rule.matches.is_empty() { &any[..] } else { &rule.matches[..] };
                for (number, wanted) in matches.iter().enumerate() {
                    for (door, host) in places(table, rule) {
                        let Some(matcher) = Matcher::of(wanted) else {
                            tracing::warn!(
                                namespace = key.0,
                                table = key.1,
                                rule = index,
                                "a match that cannot be understood matches nothing"
                            );
                            continue;
                        };
                        let rank = matcher.rank(age.clone(), index, number);
                        let entry = Entry { rank, matcher, rule: action.clone() };
                        programme.doors.entry(door).or_default().by_host.entry(host).or_default().push(entry);
                    }
                }
            }
        }
        for entries in programme.doors.values_mut().flat_map(|port| port.by_host.values_mut()) {
            entries.sort_by(|a, b| a.rank.cmp(&b.rank));
        }
        programme
    }

    /// Which match a request meets at a port.
    pub fn find(&self, door: Door, seen: &Seen<'_>) -> Option<&Entry> {
        self.doors.get(&door)?.find(seen)
    }
}

/// At which ports, for which hosts, a rule stands.
fn places(table: &RouteTable, rule: &Rule) -> BTreeSet<(Door, String)> {
    let all = [String::new()];
    let hosts = if rule.hosts.is_empty() { &all[..] } else { &rule.hosts[..] };
    let listeners = table.spec.listeners.iter().filter(|l| rule.listeners.is_empty() || rule.listeners.contains(&l.name));
    let both = |listener: &super::model::Listener| {
        let (door, name) = (Door { port: listener.port, tls: listener.protocol == "HTTPS" }, listener.hostname.to_ascii_lowercase());
        let narrowed = hosts.iter().filter_map(move |host| narrower(&name, &host.to_ascii_lowercase()));
        narrowed.map(move |host| (door, host)).collect::<Vec<_>>()
    };
    listeners.flat_map(both).collect()
}

/// The hosts that both patterns allow.
pub fn narrower(a: &str, b: &str) -> Option<String> {
    for (wide, narrow) in [(a, b), (b, a)] {
        if wide.is_empty() || wide == narrow {
            return Some(narrow.to_owned());
        }
        match (wide.strip_prefix("**."), wide.strip_prefix("*."), narrow.trim_start_matches("*.").trim_start_matches("**.")) {
            (Some(domain), _, base) if base == domain && narrow.starts_with('*') => return Some(narrow.to_owned()),
            (Some(domain), _, base) if base.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.')) => return Some(narrow.to_owned()),
            (None, Some(_), _) if !narrow.starts_with('*') && host_matches(wide, narrow) => return Some(narrow.to_owned()),
            _ => {}
        }
    }
    None
}

/// Whether a host is one of a pattern's.
pub fn host_matches(pattern: &str, host: &str) -> bool {
    let labels_before = |domain: &str| host.strip_suffix(domain).and_then(|rest| rest.strip_suffix('.')).filter(|rest| !rest.is_empty());
    match (pattern.strip_prefix("**."), pattern.strip_prefix("*.")) {
        (Some(domain), _) => labels_before(domain).is_some(),
        (_, Some(domain)) => labels_before(domain).is_some_and(|rest| !rest.contains('.')),
        _ => pattern.is_empty() || pattern == host,
    }
}

/// The patterns that a host may stand under, the narrowest first.
fn patterns(host: &str) -> Vec<String> {
    let mut all = vec![host.to_owned()];
    let mut rest = host;
    let mut first = true;
    while let Some((_, domain)) = rest.split_once('.').filter(|(label, domain)| !label.is_empty() && !domain.is_empty()) {
        if first {
            all.push(format!("*.{domain}"));
        }
        all.push(format!("**.{domain}"));
        (rest, first) = (domain, false);
    }
    if !host.is_empty() {
        all.push(String::new());
    }
    all
}

impl Port {
    fn find(&self, seen: &Seen<'_>) -> Option<&Entry> {
        let entries = patterns(seen.host).into_iter().filter_map(|pattern| self.by_host.get(&pattern)).flatten();
        let mut query = None;
        entries.into_iter().find(|entry| entry.matcher.holds(seen, &mut query))
    }

    /// The certificates for the name that a client asks for, the closest first, those for any name last.
    pub fn certificates_for(&self, name: &str) -> impl Iterator<Item = &Certificate> {
        let of = |pattern: String| self.certificates.iter().filter(move |(host, _)| *host == pattern).map(|(_, certificate)| certificate);
        patterns(name).into_iter().flat_map(of)
    }
}

impl Entry {
    /// What of the path the rule's prefix matched.
    pub fn prefix(&self) -> &str {
        match &self.matcher.path {
            PathMatch::Prefix(prefix) => prefix,
            _ => "/",
        }
    }
}

impl Matcher {
    fn of(wanted: &Match) -> Option<Self> {
        let path = match wanted.path_type.as_str() {
            _ if wanted.path.is_empty() => PathMatch::Any,
            "Exact" => PathMatch::Exact(wanted.path.clone()),
            "RegularExpression" => PathMatch::Pattern(pattern(&wanted.path)?),
            _ => PathMatch::Prefix(wanted.path.clone()),
        };
        let method = if wanted.method.is_empty() { None } else { Some(Method::from_bytes(wanted.method.as_bytes()).ok()?) };
        let mut headers: Vec<(HeaderName, ValueMatch)> = Vec::new();
        for header in &wanted.headers {
            let name = HeaderName::from_bytes(header.name.as_bytes()).ok()?;
            // Of two with one name the first counts: the Gateway API's rule.
            if !headers.iter().any(|(other, _)| *other == name) {
                headers.push((name, ValueMatch::of(header)?));
            }
        }
        let mut query: Vec<(String, ValueMatch)> = Vec::new();
        for parameter in &wanted.query {
            if !query.iter().any(|(other, _)| *other == parameter.name) {
                query.push((parameter.name.clone(), ValueMatch::of(parameter)?));
            }
        }
        Some(Self { path, method, headers, query })
    }

    fn rank(&self, age: (String, Key), rule: usize, number: usize) -> Rank {
        let (exact, length) = match &self.path {
            PathMatch::Any => (false, 0),
            PathMatch::Exact(path) => (true, path.len()),
            PathMatch::Prefix(prefix) => (false, prefix.trim_end_matches('/').len() + 1),
            PathMatch::Pattern(pattern) => (false, pattern.as_str().len()),
        };
        let counts = (Reverse(self.headers.len()), Reverse(self.query.len()));
        (!exact, Reverse(length), self.method.is_none(), counts.0, counts.1, age, rule, number)
    }

    fn holds(&self, seen: &Seen<'_>, query: &mut Option<Vec<(String, String)>>) -> bool {
        let path = match &self.path {
            PathMatch::Any => true,
            PathMatch::Exact(path) => path == seen.path,
            PathMatch::Prefix(prefix) => path::below(seen.path, prefix).is_some(),
            PathMatch::Pattern(pattern) => pattern.is_match(seen.path),
        };
        let header = |(name, value): &(HeaderName, ValueMatch)| {
            let all: Vec<&str> = seen.headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).collect();
            !all.is_empty() && value.holds(&all.join(","))
        };
        path && self.method.as_ref().is_none_or(|method| method == seen.method)
            && self.headers.iter().all(header)
            && self.query.iter().all(|(name, value)| {
                let pairs = query.get_or_insert_with(|| path::query(seen.query));
                pairs.iter().find(|(other, _)| other == name).is_some_and(|(_, found)| value.holds(found))
            })
    }
}

impl ValueMatch {
    fn of(wanted: &NamedValue) -> Option<Self> {
        match wanted.r#type.as_str() {
            "RegularExpression" => pattern(&wanted.value).map(Self::Pattern),
            _ => Some(Self::Exact(wanted.value.clone())),
        }
    }

    fn holds(&self, value: &str) -> bool {
        match self {
            Self::Exact(wanted) => wanted == value,
            Self::Pattern(pattern) => pattern.is_match(value),
        }
    }
}

/// A pattern of a whole value.
fn pattern(text: &str) -> Option<Regex> {
    regex::RegexBuilder::new(&format!("^(?:{text})$")).size_limit(PATTERN_BYTES_MAX).build().ok()
}

impl Action {
    fn of(rule: &Rule, service: &mut impl FnMut(Target) -> Arc<Service>) -> Self {
        let mut named = |backend: &Backend| {
            let target = Target {
                service: (backend.namespace.clone(), backend.service.clone()),
                port: backend.port,
                port_name: backend.port_name.clone(),
            };
            (!backend.service.is_empty()).then(|| service(target))
        };
        let mirrors = rule.mirrors.iter().filter_map(|mirror| Some((named(mirror)?, mirror.percent.unwrap_or(100)))).collect();
        let shares = rule.backends.iter().map(|backend| Share {
            service: named(backend),
            weight: backend.weight.unwrap_or(1),
            request: Edits::of(&backend.request_headers),
            response: Edits::of(&backend.response_headers),
        });
        Self {
            mirrors,
            shares: shares.filter(|share| share.weight > 0).collect(),
            redirect: rule.redirect.clone(),
            rewrite: rule.rewrite.clone(),
            request: Edits::of(&rule.request_headers),
            response: Edits::of(&rule.response_headers),
            request_milliseconds: rule.request_milliseconds,
            backend_milliseconds: rule.backend_milliseconds,
            retry: rule.retry.clone(),
        }
    }

    /// Who answers the request of this number: over many numbers each has its share.
    pub fn share(&self, number: u64) -> Option<&Share> {
        let total: u64 = self.shares.iter().map(|share| u64::from(share.weight)).sum();
        let mut at = spread(number).checked_rem(total)?;
        self.shares.iter().find(|share| {
            let here = at < u64::from(share.weight);
            at = at.saturating_sub(u64::from(share.weight));
            here
        })
    }
}

/// Numbers in a row, spread evenly over all numbers below 2^32: the golden ratio's multiples never cluster.
pub fn spread(number: u64) -> u64 {
    number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32
}

impl Edits {
    fn of(headers: &Headers) -> Self {
        let name = |text: &String| HeaderName::from_bytes(text.as_bytes()).ok();
        let pair = |value: &NamedValue| Some((name(&value.name)?, HeaderValue::from_str(&value.value).ok()?));
        Self {
            remove: headers.remove.iter().filter_map(name).collect(),
            set: headers.set.iter().filter_map(pair).collect(),
            add: headers.add.iter().filter_map(pair).collect(),
        }
    }

    /// Changes them.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
    }
}
