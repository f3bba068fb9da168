//! What every cluster has from its first start.

use serde_json::json;

use crate::caller::Caller;
use crate::options::{Body, WriteOptions};
use crate::registry::{Registry, Result};

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

impl Registry {
    pub(crate) async fn create_system_objects(&self) -> Result<()> {
        let target = self.resolve("", "v1", "namespaces", "", "", "")?;
        for name in NAMESPACES {
            let body = Body::Value(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}));
            match self.create(&Caller::kernel(), &target, body, &WriteOptions::default()).await {
                Ok(_) => tracing::info!(namespace = name, "created"),
                Err(err) if err.code == 409 => {}
                Err(err) => return Err(err),
            }
        }
        Ok(())
    }
}
