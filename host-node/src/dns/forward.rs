//! Names that are not the cluster's: asked of the machine's own resolvers, or of those that the name's domain has (a stub domain), and remembered
//! for as long as they say.
//!
//! Invariants: an answer counts only when it bears the number and the question that were sent; the memory is bounded.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::error::{Error, Result, Step};

/// For an answer of one server.
const PATIENCE: Duration = Duration::from_secs(2);
/// Answers that are remembered.
const REMEMBERED_MAX: usize = 10_000;
/// Longest memory, of answers and of denials.
const LONGEST: (u32, u32) = (3600, 30);
const PORT: u16 = 53;

/// Where to ask, and what was heard.
pub struct Upstream {
    servers: Vec<SocketAddr>,
    stubs: Vec<(Name, Vec<SocketAddr>)>,
    heard: RefCell<HashMap<(Name, RecordType), (Instant, Instant, Message)>>,
}

impl Upstream {
    /// The servers that a resolv.conf names; `own` is left out, because it is us.
    pub fn from_resolv_conf(text: &str, own: IpAddr) -> Self {
        let named =
            text.lines().filter_map(|line| line.trim().strip_prefix("nameserver")?.split_whitespace().next()?.parse::<IpAddr>().ok());
        Self::new(named.filter(|at| *at != own).map(|at| SocketAddr::new(at, PORT)).take(3).collect())
    }

    /// These servers.
    pub fn new(servers: Vec<SocketAddr>) -> Self {
        Self { servers, stubs: Vec::new(), heard: RefCell::default() }
    }

    /// These servers for names of these domains; the longest that fits counts.
    #[must_use]
    pub fn with_stubs(mut self, mut stubs: Vec<(Name, Vec<SocketAddr>)>) -> Self {
        stubs.sort_by_key(|(domain, _)| std::cmp::Reverse(domain.num_labels()));
        self.stubs = stubs;
        self
    }

    fn servers(&self, name: &Name) -> &[SocketAddr] {
        let stub = self.stubs.iter().find(|(domain, _)| domain.zone_of(name));
        stub.map_or(&self.servers, |(_, servers)| servers)
    }

    /// Asks, or remembers. The number of the answer is for the caller to set.
    pub async fn ask(&self, name: &Name, kind: RecordType) -> Message {
        let key = (name.clone(), kind);
        let now = Instant::now();
        if let Some((at, until, known)) = self.heard.borrow().get(&key).filter(|(_, until, _)| *until > now) {
            let mut known = known.clone();
            debug_assert!(at <= until);
            let age = u32::try_from(now.duration_since(*at).as_secs()).unwrap_or(u32::MAX);
            known.answers.iter_mut().for_each(|record| record.ttl = record.ttl.saturating_sub(age));
            return known;
        }
        for server in self.servers(name) {
            match tokio::time::timeout(PATIENCE, exchange(*server, name, kind)).await {
                Ok(Ok(answer)) if answer.metadata.response_code != ResponseCode::ServFail => {
                    self.remember(key, now, &answer);
                    return answer;
                }
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::debug!(%server, %name, error = Error::chain(&error), "a resolver did not answer"),
                Err(_) => tracing::debug!(%server, %name, "a resolver did not answer in time"),
            }
        }
        Message::error_msg(0, OpCode::Query, ResponseCode::ServFail)
    }

    fn remember(&self, key: (Name, RecordType), now: Instant, answer: &Message) {
        let least = answer.answers.iter().chain(&answer.authorities).map(|record| record.ttl).min();
        let longest = if answer.answers.is_empty() { LONGEST.1 } else { LONGEST.0 };
        let seconds = least.unwrap_or(0).min(longest);
        let mut heard = self.heard.borrow_mut();
        if heard.len() >= REMEMBERED_MAX {
            heard.retain(|_, (_, until, _)| *until > now);
            if heard.len() >= REMEMBERED_MAX {
                heard.clear();
            }
        }
        if seconds > 0 {
            heard.insert(key, (now, now + Duration::from_secs(seconds.into()), answer.clone()));
        }
    }
}

/// One question to one server: by UDP, and again by TCP when the answer was too long for that.
async fn exchange(server: SocketAddr, name: &Name, kind: RecordType) -> Result<Message> {
    let mut number = [0; 2];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom").step(|| "drawing a number".into())?, &mut number)
        .step(|| "drawing a number".into())?;
    let mut question = Message::new(u16::from_ne_bytes(number), MessageType::Query, OpCode::Query);
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(name.clone(), kind));
    let bytes = question.to_vec().map_err(|error| Error::invalid("question", error.to_string()))?;
    let any: SocketAddr = if server.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (std::net::Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(any).await.step(|| "opening a socket".into())?;
    socket.connect(server).await.step(|| format!("reaching {server}"))?;
    socket.send(&bytes).await.step(|| format!("asking {server}"))?;
    let mut block = vec![0; 4096];
    loop {
        let count = socket.recv(&mut block).await.step(|| format!("hearing {server}"))?;
        let Ok(answer) = Message::from_vec(&block[..count]) else { continue };
        let same = answer.metadata.id == question.metadata.id && answer.queries == question.queries;
        match same && answer.metadata.message_type == MessageType::Response {
            true if answer.metadata.truncation => return by_tcp(server, &bytes).await,
            true => return Ok(answer),
            false => {}
        }
    }
}

async fn by_tcp(server: SocketAddr, question: &[u8]) -> Result<Message> {
    let step = || format!("asking {server} by TCP");
    let mut stream = TcpStream::connect(server).await.step(step)?;
    let length = u16::try_from(question.len()).unwrap_or(u16::MAX);
    stream.write_all(&[&length.to_be_bytes()[..], question].concat()).await.step(step)?;
    let mut block = vec![0; usize::from(stream.read_u16().await.step(step)?)];
    stream.read_exact(&mut block).await.step(step)?;
    Message::from_vec(&block).map_err(|error| Error::invalid("answer", error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server of names that answers every question with one address.
    async fn server(last: u8) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
        let address = socket.local_addr().expect("an address");
        tokio::spawn(async move {
            let mut block = [0; 512];
            while let Ok((count, peer)) = socket.recv_from(&mut block).await {
                let question = Message::from_vec(&block[..count]).expect("a question");
                let mut answer = crate::dns::answer_to(&question);
                let name = question.queries[0].name.clone();
                let data = hickory_proto::rr::RData::A(hickory_proto::rr::rdata::A(Ipv4Addr::new(192, 0, 2, last)));
                answer.add_answer(hickory_proto::rr::Record::from_rdata(name, 5, data));
                socket.send_to(&answer.to_vec().expect("bytes"), peer).await.expect("sent");
            }
        });
        address
    }

    #[tokio::test]
    async fn a_stub_domain_is_asked_of_its_own_resolvers_and_the_longest_counts() {
        let name = |text: &str| Name::from_ascii(text).expect("a name");
        let stubs = vec![(name("corp.example."), vec![server(2).await]), (name("lab.corp.example."), vec![server(3).await])];
        let upstream = Upstream::new(vec![server(1).await]).with_stubs(stubs);
        for (asked, last) in
            [("a.example.org.", 1), ("corp.example.", 2), ("x.corp.example.", 2), ("x.lab.corp.example.", 3), ("notcorp.example.", 1)]
        {
            let answer = upstream.ask(&name(asked), RecordType::A).await;
            let shown: Vec<String> = answer.answers.iter().map(|record| record.data.to_string()).collect();
            assert_eq!(shown, [format!("192.0.2.{last}")], "{asked}");
        }
    }
}
