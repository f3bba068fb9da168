//! The cluster's resolver, on every node: no pod to schedule, answers from what the proxy follows anyway.
//!
//! `zone` says what the cluster's names stand for (pure), `forward` asks others, this file speaks UDP and TCP at the address that the
//! cluster gives for it, which each node holds for itself: a question never leaves the node it was asked on.
//!
//! Until the Services are known whole the cluster's names are answered with a failure, which clients try again, and never denied.

pub mod forward;
pub mod zone;

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::ProtoError;
use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::RecordType;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use crate::error::{Error, Result, Step};
use crate::node::Node;
use forward::Upstream;
use zone::Zone;

const PORT: u16 = 53;
/// Questions to others at a time; more are answered with a failure.
const WAITING_MAX: usize = 512;
/// Connections at a time.
const CONNECTIONS_MAX: usize = 256;
/// A connection that says nothing for this long is closed.
const IDLE: Duration = Duration::from_secs(10);
/// Wait before the sockets are tried again.
const RETRY: Duration = Duration::from_secs(2);
/// Bytes of an answer by UDP when the client does not say how many it takes, and at most.
const UDP_BYTES: (u16, u16) = (512, 1232);

/// The resolver's parts.
struct Resolver {
    node: Rc<Node>,
    zone: Zone,
    upstream: Upstream,
    waiting: Arc<Semaphore>,
    turn: Cell<usize>,
}

/// Resolves for ever, once the network is there.
pub async fn run(node: Rc<Node>) {
    let mut ready = node.network.ready();
    if ready.wait_for(|ready| *ready).await.is_err() {
        return;
    }
    loop {
        let config = node.kernel.config();
        let ranges = [&config.service_cidr, &config.pod_cidr]
            .into_iter()
            .flat_map(|text| text.split(','))
            .filter_map(|text| text.parse().ok())
            .collect();
        let zone = Zone::new(&config.cluster_domain, ranges);
        if let Some((zone, address)) = zone.zip(config.cluster_dns.parse().ok()) {
            let host_file = std::fs::read_to_string(&node.options.resolv_conf).unwrap_or_default();
            let stubs = node.options.stub_domains().unwrap_or_default();
            let upstream = Upstream::from_resolv_conf(&host_file, address).with_stubs(stubs);
            let waiting = Arc::new(Semaphore::new(WAITING_MAX));
            let resolver = Rc::new(Resolver { node: node.clone(), zone, upstream, waiting, turn: Cell::default() });
            if let Err(error) = resolver.serve(address).await {
                tracing::warn!(%address, error = Error::chain(&error), "the resolver cannot listen");
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

impl Resolver {
    async fn serve(self: Rc<Self>, address: IpAddr) -> Result<()> {
        self.node.network.add_own_address(address).await?;
        let udp = Rc::new(UdpSocket::bind((address, PORT)).await.step(|| format!("binding UDP {address}:{PORT}"))?);
        let tcp = TcpListener::bind((address, PORT)).await.step(|| format!("binding TCP {address}:{PORT}"))?;
        tracing::info!(%address, "the resolver listens");
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut block = vec![0; 4096];
        loop {
            tokio::select! {
                received = udp.recv_from(&mut block) => match received {
                    Ok((count, peer)) => self.clone().datagram(&udp, &block[..count], peer).await,
                    // An earlier answer could not be delivered: nobody's loss but its client's.
                    Err(error) => tracing::debug!(%error, "receiving a question"),
                },
                accepted = tcp.accept() => {
                    let (Ok((stream, _)), Ok(permit)) = (accepted, connections.clone().try_acquire_owned()) else { continue };
                    let resolver = self.clone();
                    tokio::task::spawn_local(async move {
                        if let Err(error) = resolver.connection(stream).await {
                            tracing::debug!(error = Error::chain(&error), "a client's connection");
                        }
                        drop(permit);
                    });
                }
            }
        }
    }

    async fn datagram(self: Rc<Self>, socket: &Rc<UdpSocket>, bytes: &[u8], peer: SocketAddr) {
        let Ok(question) = Message::from_vec(bytes) else { return };
        if question.metadata.message_type != MessageType::Query {
            return;
        }
        if let Some(answer) = self.local(&question) {
            return send(socket, &question, answer, peer).await;
        }
        let Ok(permit) = self.waiting.clone().try_acquire_owned() else {
            return send(socket, &question, failure(&question, ResponseCode::ServFail), peer).await;
        };
        let socket = socket.clone();
        tokio::task::spawn_local(async move {
            let answer = self.elsewhere(&question).await;
            send(&socket, &question, answer, peer).await;
            drop(permit);
        });
    }

    async fn connection(&self, mut stream: TcpStream) -> Result<()> {
        let step = || "reading a question".into();
        loop {
            let Ok(Ok(length)) = tokio::time::timeout(IDLE, stream.read_u16()).await else { return Ok(()) };
            let mut block = vec![0; usize::from(length)];
            let whole = tokio::time::timeout(IDLE, stream.read_exact(&mut block)).await;
            whole.map_err(|_| Error::TimedOut("reading a question".into()))?.step(step)?;
            let Ok(question) = Message::from_vec(&block) else { return Ok(()) };
            let answer = match self.local(&question) {
                Some(answer) => answer,
                None => self.elsewhere(&question).await,
            };
            let bytes = answer.to_vec().map_err(|error| Error::invalid("answer", error.to_string()))?;
            let Ok(length) = u16::try_from(bytes.len()) else { return Ok(()) };
            stream.write_all(&[&length.to_be_bytes()[..], &bytes].concat()).await.step(|| "answering".into())?;
        }
    }

    /// What can be answered at once: what is the cluster's, and nonsense.
    fn local(&self, question: &Message) -> Option<Message> {
        let [query] = question.queries.as_slice() else { return Some(failure(question, ResponseCode::FormErr)) };
        if question.metadata.op_code != OpCode::Query {
            return Some(failure(question, ResponseCode::NotImp));
        }
        let catalog = self.node.proxy.catalog.borrow();
        let found = self.zone.answer(&catalog, &query.name.to_lowercase(), query.query_type)?;
        if !catalog.is_synced() {
            return Some(failure(question, ResponseCode::ServFail));
        }
        if found.follow.is_some() {
            return None;
        }
        let mut answer = answer_to(question);
        answer.metadata.authoritative = true;
        answer.metadata.response_code = found.code;
        if found.records.is_empty() {
            answer.add_authority(self.zone.authority());
        }
        let mut records = found.records;
        if records.len() > 1 && records.iter().all(|record| matches!(record.record_type(), RecordType::A | RecordType::AAAA)) {
            let turn = self.turn.get().wrapping_add(1);
            self.turn.set(turn);
            let by = turn % records.len();
            records.rotate_left(by);
        }
        answer.add_answers(records);
        answer.add_additionals(found.additional);
        Some(answer)
    }

    /// What others must be asked for: a name that is not the cluster's, or what an external name stands for.
    async fn elsewhere(&self, question: &Message) -> Message {
        let Some(query) = question.queries.first() else { return failure(question, ResponseCode::FormErr) };
        let found = self.zone.answer(&self.node.proxy.catalog.borrow(), &query.name.to_lowercase(), query.query_type);
        let followed = found.as_ref().and_then(|found| found.follow.clone());
        let heard = self.upstream.ask(followed.as_ref().unwrap_or(&query.name), query.query_type).await;
        let mut answer = answer_to(question);
        if let Some(found) = found {
            // The other name is an answer, whether or not somebody knows more of it.
            answer.add_answers(found.records);
        } else {
            answer.metadata.response_code = heard.metadata.response_code;
            answer.add_authorities(heard.authorities);
        }
        answer.add_answers(heard.answers);
        answer
    }
}

/// An answer that says nothing yet.
pub fn answer_to(question: &Message) -> Message {
    let mut answer = Message::new(question.metadata.id, MessageType::Response, question.metadata.op_code);
    answer.metadata = Metadata::response_from_request(&question.metadata);
    answer.metadata.recursion_available = true;
    answer.add_queries(question.queries.iter().cloned());
    if question.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_BYTES.1);
        answer.set_edns(edns);
    }
    answer
}

fn failure(question: &Message, code: ResponseCode) -> Message {
    let mut answer = answer_to(question);
    answer.metadata.response_code = code;
    answer
}

/// The bytes of an answer by UDP, no more than the client takes.
///
/// # Errors
/// The answer cannot be written.
pub fn datagram_of(question: &Message, mut answer: Message) -> std::result::Result<Vec<u8>, ProtoError> {
    let room = question.edns.as_ref().map_or(UDP_BYTES.0, |edns| edns.max_payload().clamp(UDP_BYTES.0, UDP_BYTES.1));
    let fits = |bytes: &Vec<u8>| bytes.len() <= usize::from(room);
    let bytes = answer.to_vec()?;
    if fits(&bytes) {
        return Ok(bytes);
    }
    // Too long: without what was only said along, or the client asks again by TCP.
    answer.additionals.clear();
    let bytes = answer.to_vec()?;
    if fits(&bytes) { Ok(bytes) } else { answer.truncate().to_vec() }
}

async fn send(socket: &UdpSocket, question: &Message, answer: Message, peer: SocketAddr) {
    match datagram_of(question, answer) {
        Ok(bytes) => {
            if let Err(error) = socket.send_to(&bytes, peer).await {
                tracing::debug!(%peer, %error, "an answer was not sent");
            }
        }
        Err(error) => tracing::warn!(%error, "an answer could not be written"),
    }
}
