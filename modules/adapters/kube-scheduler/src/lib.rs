//! Plugins of kube-scheduler-wasm-extension: a scheduler plugin like any other, that asks the guest joined to it in that project's words.
//!
//! One crossing of the pipe for all nodes, as for every plugin; in here the guest is asked a node at a time, as it is made for. It reads Pods and Nodes in
//! protobuf; they have what the kernel shows to schedulers. Facts: operations, status codes and texts are those of
//! <https://github.com/kubernetes-sigs/kube-scheduler-wasm-extension>; how they cross is told in `modules/adapt/src/kube.wat`.

mod guest;
mod protobuf;

use pintle_sdk::{
    Error, ObjectRef, Permit, Place, Places, Reason, Result, SchedulerPlugin, Start, Time, Write,
    serde_json::{self, Value},
};
use std::{
    borrow::Cow,
    cell::{Cell, RefCell},
    collections::BTreeMap,
    time::Duration,
};

/// Functions of the guest, as `modules/adapt/src/kube.rs` numbers them.
#[derive(Clone, Copy)]
enum Function {
    PreFilter,
    Filter,
    PreScore,
    Score,
    NormalizeScore,
    Reserve,
    Unreserve,
    PostFilter,
    Permit,
    PreBind,
    Bind,
    PostBind,
}

/// The status codes of the framework that are no refusals, and the one of nodes that a pod is kept from.
const SUCCESS: u32 = 0;
const UNRESOLVABLE: u32 = 3;
const WAIT: u32 = 4;
const SKIP: u32 = 5;

/// What the list of a NodeList is tagged with.
const ITEMS: u32 = 2;

struct Plugin {
    config: Vec<u8>,
    /// Whether a node has changed since the guest's host was told.
    changed: Cell<bool>,
    /// Whom it was told of.
    told: RefCell<Vec<String>>,
    /// The pod that was asked about last, and the codes of the nodes that will not do for it.
    refused: RefCell<(Vec<u8>, BTreeMap<String, u32>)>,
}

/// What a function of the guest answered.
#[derive(Default)]
struct Answer {
    /// The framework's code below, a score above.
    result: u64,
    reason: String,
    /// Nodes that a pod is kept to.
    nodes: Option<Vec<String>>,
    /// JSON.
    scores: String,
    /// The node that a pod which fits nowhere should have.
    nominated: String,
}

impl SchedulerPlugin for Plugin {
    type Node = Vec<u8>;
    type Pod = Vec<u8>;

    fn start(start: &Start) -> Result<Self> {
        let plugin =
            Plugin { config: start.config.clone(), changed: Cell::new(false), told: RefCell::default(), refused: RefCell::default() };
        plugin.tell(&[])?;
        Ok(plugin)
    }

    fn node(&self, row: &[u8]) -> Result<Vec<u8>> {
        self.changed.set(true);
        encoded("Node", row)
    }

    fn pod(&self, row: &[u8]) -> Result<Vec<u8>> {
        encoded("Pod", row)
    }

    fn evaluate(&self, pod: &Vec<u8>, places: &Places<Self>) -> impl IntoIterator<Item = std::result::Result<i16, Reason>> {
        self.opinions(pod, places).unwrap_or_else(|why| vec![Err(why); places.len()])
    }

    /// The guest can make no room: who it nominates a node for is tried again, like every pod, when something changes.
    fn post_filter(&mut self, pod: &Vec<u8>, _: &Places<Self>) -> Option<(String, Vec<ObjectRef>)> {
        let refused = self.refused.borrow();
        let codes = if refused.0 == *pod { serde_json::to_string(&refused.1).unwrap_or_default() } else { "{}".into() };
        match call("p", pod).and_then(|_| self.ask(Function::PostFilter, "", &codes)) {
            Ok(Some(answer)) if !answer.nominated.is_empty() => println!("it nominates node {:?}", answer.nominated),
            Ok(_) => {}
            Err(error) => println!("{error}"),
        }
        None
    }

    fn reserve(&mut self, pod: &Vec<u8>, node: &str) -> std::result::Result<(), String> {
        self.agrees(Function::Reserve, pod, node)
    }

    fn unreserve(&mut self, pod: &Vec<u8>, node: &str) {
        self.tell_of(Function::Unreserve, pod, node);
    }

    /// A pod that the guest lets wait is refused when the time is over: nobody else could allow it.
    fn permit(&mut self, _: Time, pod: &Vec<u8>, node: &str, waited: Duration) -> Permit {
        let answer = match self.about(Function::Permit, pod, node) {
            Ok(answer) => answer.unwrap_or_default(),
            Err(error) => return Permit::Deny(error.to_string()),
        };
        // The other way round than in all others: the code is above.
        let (code, most) = (answer.score() as u32, Duration::from_millis(u64::from(answer.code())));
        match code {
            SUCCESS | SKIP => Permit::Allow,
            WAIT if waited < most => Permit::Wait(most - waited),
            WAIT => Permit::Deny(format!("rejected due to timeout after waiting {most:?}")),
            _ => Permit::Deny(answer.why(code).into_owned()),
        }
    }

    fn pre_bind(&mut self, pod: &Vec<u8>, node: &str) -> std::result::Result<Vec<Write>, String> {
        self.agrees(Function::PreBind, pod, node).map(|()| Vec::new())
    }

    /// The guest can write nothing: when it agrees, the kernel binds.
    fn bind(&mut self, pod: &Vec<u8>, node: &str) -> std::result::Result<Option<Vec<Write>>, String> {
        self.agrees(Function::Bind, pod, node).map(|()| None)
    }

    fn post_bind(&mut self, pod: &Vec<u8>, node: &str) {
        self.tell_of(Function::PostBind, pod, node);
    }
}

pintle_sdk::scheduler_plugin!(Plugin);

impl Plugin {
    /// Whether each node will do, and how well; an error is about all.
    fn opinions(&self, pod: &[u8], places: &Places<Self>) -> std::result::Result<Vec<std::result::Result<i16, Reason>>, Reason> {
        let ask = |function, node: &str, list: &str| self.ask(function, node, list).map_err(|e| Cow::Owned(e.to_string()));
        self.tell(places).and_then(|()| call("p", pod).map(drop)).map_err(|e| Cow::Owned(e.to_string()))?;
        let before = ask(Function::PreFilter, "", "")?.unwrap_or_default();
        if let Some(why) = before.refusal() {
            return Err(why);
        }
        let mut opinions = Vec::with_capacity(places.len());
        let mut codes = BTreeMap::new();
        for Place { name, .. } in places {
            let kept_out = before.nodes.as_ref().is_some_and(|nodes| !nodes.contains(name));
            let refusal = match before.code() {
                _ if kept_out => Some((UNRESOLVABLE, Cow::Borrowed("node(s) that the plugin does not consider"))),
                SKIP => None,
                _ => ask(Function::Filter, name, "")?.and_then(|answer| Some((answer.code(), answer.refusal()?))),
            };
            opinions.push(refusal.map_or(Ok(0), |(code, why)| {
                codes.insert(name.clone(), code);
                Err(why)
            }));
        }
        self.refused.replace((pod.to_vec(), codes));
        let left: Vec<&String> =
            places.iter().zip(&opinions).filter(|(_, opinion)| opinion.is_ok()).map(|(place, _)| &place.name).collect();
        let list = serde_json::to_string(&left).map_err(|e| Cow::Owned(e.to_string()))?;
        let before = ask(Function::PreScore, "", &list)?.unwrap_or_default();
        if let Some(why) = before.refusal() {
            return Err(why);
        }
        if before.code() == SKIP {
            return Ok(opinions);
        }
        let mut scores: BTreeMap<&String, i64> = BTreeMap::new();
        for name in left {
            let Some(answer) = ask(Function::Score, name, "")? else { return Ok(opinions) };
            if let Some(why) = answer.refusal() {
                return Err(why);
            }
            scores.insert(name, answer.score());
        }
        let list = serde_json::to_string(&scores).map_err(|e| Cow::Owned(e.to_string()))?;
        let after = ask(Function::NormalizeScore, "", &list)?;
        if let Some(why) = after.as_ref().and_then(Answer::refusal) {
            return Err(why);
        }
        let normal: BTreeMap<String, i64> = match after {
            Some(answer) if !answer.scores.is_empty() => {
                serde_json::from_str(&answer.scores).map_err(|e| Cow::Owned(format!("the plugin's scores: {e}")))?
            }
            _ => BTreeMap::new(),
        };
        for (Place { name, .. }, opinion) in places.iter().zip(&mut opinions) {
            if let (Ok(opinion), Some(score)) = (opinion, normal.get(name).or_else(|| scores.get(name))) {
                *opinion = (*score).clamp(0, 100) as i16;
            }
        }
        Ok(opinions)
    }

    /// Tells the guest's host of the nodes, if there is news of them; the first time starts the guest.
    fn tell(&self, places: &Places<Self>) -> Result<()> {
        let same = !self.changed.get() && self.told.borrow().iter().eq(places.iter().map(|place| &place.name)) && !places.is_empty();
        if same {
            return Ok(());
        }
        let header = 16 + self.config.len() + 16 * places.len();
        let names_len: usize = places.iter().map(|place| place.name.len()).sum();
        let (mut index, mut names, mut list) = (Vec::new(), Vec::new(), Vec::new());
        for place @ Place { name, .. } in places {
            protobuf::put_bytes(&mut list, ITEMS, &place.node);
            let object = header + names_len + list.len() - place.node.len();
            for number in [header + names.len(), name.len(), object, place.node.len()] {
                index.extend_from_slice(&word(number));
            }
            names.extend_from_slice(name.as_bytes());
        }
        let head = [self.config.len(), places.len(), list.len(), header + names_len].map(word).concat();
        call("k", &[&head[..], &self.config, &index, &names, &list].concat())?;
        self.changed.set(false);
        *self.told.borrow_mut() = places.iter().map(|place| place.name.clone()).collect();
        Ok(())
    }

    /// Calls a function of the guest; `None` when it has none of that name.
    fn ask(&self, function: Function, node: &str, list: &str) -> Result<Option<Answer>> {
        let number = self.told.borrow().binary_search_by(|known| known.as_str().cmp(node)).unwrap_or(0);
        let payload = [&word(node.len())[..], &word(number), node.as_bytes(), list.as_bytes()].concat();
        answer(&call(&char::from(b'0' + function as u8).to_string(), &payload)?)
    }

    /// The same about a pod that has a node.
    fn about(&self, function: Function, pod: &[u8], node: &str) -> Result<Option<Answer>> {
        call("p", pod)?;
        self.ask(function, node, "")
    }

    /// Whether it says yes.
    fn agrees(&self, function: Function, pod: &[u8], node: &str) -> std::result::Result<(), String> {
        let answer = self.about(function, pod, node).map_err(|e| e.to_string())?.unwrap_or_default();
        answer.refusal().map_or(Ok(()), |why| Err(why.into_owned()))
    }

    /// When it has no say.
    fn tell_of(&self, function: Function, pod: &[u8], node: &str) {
        if let Err(error) = self.about(function, pod, node) {
            println!("{error}");
        }
    }
}

impl Answer {
    fn code(&self) -> u32 {
        self.result as u32
    }

    fn score(&self) -> i64 {
        i64::from((self.result >> 32) as i32)
    }

    /// Why not, unless it is a yes.
    fn refusal(&self) -> Option<Reason> {
        match self.code() {
            SUCCESS | SKIP => None,
            code => Some(self.why(code)),
        }
    }

    fn why(&self, code: u32) -> Reason {
        if self.reason.is_empty() { format!("the plugin refused it with code {code}").into() } else { self.reason.clone().into() }
    }
}

/// Records of (tag, length, bytes).
fn answer(mut records: &[u8]) -> Result<Option<Answer>> {
    let mut found = None;
    let mut answer = Answer::default();
    while let Some((head, rest)) = records.split_first_chunk::<5>() {
        let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let (bytes, rest) = rest.split_at_checked(length).ok_or_else(|| Error::undecided("the guest's host answered half a record"))?;
        let text = || String::from_utf8_lossy(bytes).into_owned();
        match head[0] {
            b'r' => found = bytes.try_into().ok().map(u64::from_le_bytes),
            b'w' => answer.reason = text(),
            b'n' => answer.nodes = Some(text().split('\0').filter(|name| !name.is_empty()).map(str::to_owned).collect()),
            b's' => answer.scores = text(),
            b'm' => answer.nominated = text(),
            _ => {}
        }
        records = rest;
    }
    Ok(found.map(|result| Answer { result, ..answer }))
}

/// One operation of the guest's host.
fn call(operation: &str, payload: &[u8]) -> Result<Vec<u8>> {
    guest::call(operation, payload).map_err(|e| Error::undecided(format!("the guest failed: {}", String::from_utf8_lossy(&e))))
}

fn encoded(message: &str, row: &[u8]) -> Result<Vec<u8>> {
    let object: Value = serde_json::from_slice(row).map_err(|source| Error::Shape { what: format!("a {message}"), source })?;
    Ok(protobuf::message(message, &object))
}

/// A length or an offset: 32 bits, because it is one of an address space of 32 bits.
fn word(number: usize) -> [u8; 4] {
    (number as u32).to_le_bytes()
}
