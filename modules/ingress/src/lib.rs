//! Makes RouteTables, which the nodes' HTTP proxy follows, out of Ingresses.
//!
//! An Ingress is ours when its class is: an IngressClass whose `spec.controller` is `pintle.dev/ingress`; the name `pintle` where no IngressClass of
//! that name is another's; or no class at all where the default class is ours. `model` is what is read, `translate` the rules of the Ingress API as
//! routes, `plan` what is written.
//!
//! Not here: who carries requests (the nodes do), and which endpoints a Service has (they know).
//! Invariants: a table belongs to its Ingress, bears its name, and goes with it; a table of that name that is not ours is left alone and told of.

mod model;
mod plan;
mod translate;

use pintle_sdk::prelude::*;
use serde::Deserialize;

/// The module's settings.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Config {
    /// Where plain HTTP is served, on every node.
    http_port: u16,
    /// Where TLS is.
    https_port: u16,
    /// IP addresses and names that Ingresses show in place of the ready nodes' addresses.
    addresses: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self { http_port: 80, https_port: 443, addresses: Vec::new() }
    }
}

/// The controller.
pub struct Ingresses {
    config: Config,
}

impl Controller for Ingresses {
    fn start(start: &Start) -> Result<Self> {
        Ok(Self { config: start.config()? })
    }

    fn reconcile(&mut self, _now: Time, request: &Request<'_>) -> Result<Plan> {
        let Some(ingress) = request.object::<model::Ingress>()? else { return Ok(Plan::new()) };
        let around = plan::Around {
            classes: request.related("classes")?,
            secrets: request.related("secrets")?,
            table: request.related("tables")?.into_iter().next(),
            nodes: request.related("nodes")?,
        };
        plan::plan(&self.config, &ingress, &around)
    }
}

pintle_sdk::controller!(Ingresses);
