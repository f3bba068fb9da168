//! What every cluster has from its first start.

use futures::future::join_all;
use serde_json::json;

use crate::caller::Caller;
use crate::options::{Body, WriteOptions};
use crate::registry::{Registry, Result};

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

impl Registry {
    pub(crate) async fn create_system_objects(&self) -> Result<()> {
        let target = self.resolve("", "v1", "namespaces", "", "", "")?;
        let caller = Caller::kernel();
        let options = WriteOptions::default();
        // Together, so that they are one commit of the store.
        let creates = NAMESPACES.map(|name| {
            let body = Body::Value(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}));
            self.create(&caller, &target, body, &options)
        });
        for (name, outcome) in NAMESPACES.iter().zip(join_all(creates).await) {
            match outcome {
                Ok(_) => tracing::info!(namespace = name, "created"),
                Err(err) if err.code == 409 => {}
                Err(err) => return Err(err),
            }
        }
        Ok(())
    }
}
