//! What a module is told when it starts.

use pintle_wit::module_capnp::hello;
use serde::de::DeserializeOwned;

use crate::{Error, Result};

/// What a module is told when it starts.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// Selects semantics, not layout.
    pub api_level: u16,
    /// The name of the Module object.
    pub module_name: String,
    /// Of this instance; grows with each restart and swap.
    pub generation: u64,
    /// `spec.config` of the Module object, JSON; see [`Start::config`].
    pub config: Vec<u8>,
    /// Facts about the cluster that do not change.
    pub cluster: ClusterFacts,
}

/// Facts about the cluster that do not change while it lives.
#[derive(Clone, Debug, Default)]
pub struct ClusterFacts {
    /// The certificate authority that clients of the API trust, PEM.
    pub root_ca_pem: String,
    /// Usually `cluster.local`.
    pub cluster_domain: String,
    /// The range that pods' addresses come from.
    pub pod_cidr: String,
    /// The range that services' addresses come from.
    pub service_cidr: String,
}

impl Start {
    /// `spec.config` as the module's own type; its default when the Module object has none.
    pub fn config<T: DeserializeOwned + Default>(&self) -> Result<T> {
        if self.config.is_empty() || self.config == b"null" {
            return Ok(T::default());
        }
        serde_json::from_slice(&self.config).map_err(Error::Config)
    }

    pub(crate) fn read(hello: hello::Reader<'_>) -> Result<Self> {
        let facts = hello.get_cluster()?;
        let text = |text: capnp::Result<capnp::text::Reader<'_>>| -> Result<String> { Ok(text?.to_string().map_err(capnp::Error::from)?) };
        Ok(Start {
            api_level: hello.get_api_level(),
            module_name: text(hello.get_module_name())?,
            generation: hello.get_generation(),
            config: hello.get_config()?.to_vec(),
            cluster: ClusterFacts {
                root_ca_pem: text(facts.get_root_ca_pem())?,
                cluster_domain: text(facts.get_cluster_domain())?,
                pod_cidr: text(facts.get_pod_cidr())?,
                service_cidr: text(facts.get_service_cidr())?,
            },
        })
    }
}
