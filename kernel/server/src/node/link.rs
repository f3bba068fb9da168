//! One machine's connection: the RPC system on it, and its bootstrap capability.
//!
//! The machine is a hostile peer: a message is bounded in size, depth and how often it may be walked, whatever it claims; what it says about itself
//! counts only for the node that its certificate names.

use std::sync::Arc;

use capnp::capability::Rc as CapRc;
use capnp::message::ReaderOptions;
use capnp_rpc::{RpcSystem, rpc_twoparty_capnp, twoparty};
use futures::io::{AsyncReadExt as _, BufReader, BufWriter};
use pintle_registry::Caller;
use pintle_wit::node_capnp::{node_link, node_session};
use tokio_util::compat::TokioAsyncReadCompatExt as _;
use tokio_util::sync::CancellationToken;

use super::session::Session;
use super::threads::Link;
use super::{agent, status};
use crate::server::Shared;

/// Largest message, in 8-byte words: 16 MiB.
const MESSAGE_WORDS_MAX: usize = 2 << 20;
/// Deepest nesting of a message.
const NESTING_MAX: i32 = 32;

/// Speak with a machine until it is gone or the server stops.
pub(super) async fn serve(shared: Arc<Shared>, link: Link) {
    let Link { node, stream, permit } = link;
    tracing::info!(node, "node connected");
    let (read, write) = stream.compat().split();
    let mut limits = ReaderOptions::new();
    limits.traversal_limit_in_words(Some(MESSAGE_WORDS_MAX)).nesting_limit(NESTING_MAX);
    let network = twoparty::VatNetwork::new(BufReader::new(read), BufWriter::new(write), rpc_twoparty_capnp::Side::Server, limits);
    let ended = CancellationToken::new();
    let bootstrap: node_link::Client =
        capnp_rpc::new_client(Bootstrap { shared: shared.clone(), node: node.clone(), connection: ended.clone() });
    let system = RpcSystem::new(Box::new(network), Some(bootstrap.client));
    let mut stopping = shared.stopping();
    tokio::select! {
        result = system => match result {
            Ok(()) => tracing::info!(node, "node disconnected"),
            Err(error) => tracing::warn!(node, %error, "node link failed"),
        },
        () = stopping.wait() => {}
    }
    ended.cancel();
    drop(permit);
}

/// The bootstrap capability: bound to the node that the certificate names.
struct Bootstrap {
    shared: Arc<Shared>,
    node: String,
    connection: CancellationToken,
}

impl node_link::Server for Bootstrap {
    async fn open(self: CapRc<Self>, params: node_link::OpenParams, mut results: node_link::OpenResults) -> Result<(), capnp::Error> {
        let params = params.get()?;
        let agent = params.get_agent()?;
        let hello = params.get_hello()?;
        let caller = Caller::node(&self.node);
        status::register(&self.shared, &caller, &self.node, hello.get_node()?).await.map_err(refused)?;

        let ended = self.connection.child_token();
        let (generation, calls) = self.shared.nodes.begin(&self.node, &ended);
        let (shared, node, token) = (self.shared.clone(), self.node.clone(), ended.clone());
        tokio::task::spawn_local(async move {
            agent::serve(agent, calls, &token).await;
            shared.nodes.end(&node, generation);
        });

        let session: node_session::Client = capnp_rpc::new_client(Session::new(self.shared.clone(), self.node.clone(), caller, ended));
        let mut results = results.get();
        results.set_session(session);
        let settings = &self.shared.cluster;
        let mut config = results.init_config();
        config.set_cluster_domain(&settings.domain);
        config.set_cluster_dns(settings.dns.to_string().as_str());
        config.set_heartbeat_seconds(settings.heartbeat_seconds);
        config.set_lease_seconds(settings.lease_seconds);
        config.set_service_cidr(&settings.service_cidr);
        config.set_pod_cidr(&settings.pod_cidr);
        Ok(())
    }
}

/// `open` has no failure in its results: it is the call that fails.
fn refused(error: pintle_api::ApiError) -> capnp::Error {
    capnp::Error::failed(format!("{} {}", error.code, error.message))
}
