//! Makes RouteTables, which the nodes' HTTP proxy follows, out of the Gateway API: GatewayClasses whose `controllerName` is `pintle.dev/gateway`,
//! their Gateways, and the HTTPRoutes that attach to these. ReferenceGrants are held. Statuses say what became of each.
//!
//! `model` is what is read, `attach` which route meets which listener, `translate` a route's rules as the proxy's, `gateway`, `route` and `class` what
//! is written. The API's definitions are the user's to install; the module ships suspended because without them there is nothing to watch.
//!
//! Not here: who carries requests (the nodes do). GRPCRoutes, TLSRoutes, TCP and UDP are not served, and listeners of theirs say so.
//! Invariants: a table belongs to its Gateway and goes with it; a status is written only when it says something else.

mod attach;
mod class;
mod conditions;
mod gateway;
mod model;
mod route;
mod translate;

use pintle_sdk::prelude::*;
use serde::Deserialize;

/// The controller's name in GatewayClasses.
const CONTROLLER: &str = "pintle.dev/gateway";
/// The API's group.
const GROUP: &str = "gateway.networking.k8s.io";

/// The module's settings.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Config {
    /// IP addresses and names that Gateways show in place of the ready nodes' addresses.
    addresses: Vec<String>,
}

/// The controllers.
pub struct Gateways {
    config: Config,
}

impl Controller for Gateways {
    fn start(start: &Start) -> Result<Self> {
        Ok(Self { config: start.config()? })
    }

    fn reconcile(&mut self, now: Time, request: &Request<'_>) -> Result<Plan> {
        match request.target.resource.as_str() {
            "gatewayclasses" => class::reconcile(now, request),
            "gateways" => gateway::reconcile(&self.config, now, request),
            "httproutes" => route::reconcile(now, request),
            other => Err(Error::undecided(format!("this module does not reconcile {other}"))),
        }
    }
}

pintle_sdk::controller!(Gateways);

#[cfg(test)]
mod tests;
