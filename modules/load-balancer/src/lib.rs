//! Gives Services of type LoadBalancer an address of each of their families out of the pools that its configuration names; where no pool is of a
//! family it gives none.
//!
//! Not here: who answers for an address on the wire (route a pool to any node; every node leads its packets to the endpoints), and Services that
//! name a `loadBalancerClass`: they are somebody else's.
//! Invariants: no address is given to two Services, and a Service keeps the one that it has. One Service is looked at at a time, on a view that
//! shows all; an address given a moment ago counts even when the view does not show it yet.

mod plan;
mod pool;

use std::collections::BTreeMap;
use std::net::IpAddr;

use pintle_sdk::prelude::*;
use serde::Deserialize;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Config {
    /// `192.0.2.0/28` or `192.0.2.10-192.0.2.20`, of either family.
    pools: Vec<String>,
}

/// The allocator, and what it has given since it started: address to namespace and name.
pub struct LoadBalancer {
    pools: Vec<pool::Pool>,
    given: BTreeMap<IpAddr, (String, String)>,
}

impl Controller for LoadBalancer {
    fn start(start: &Start) -> Result<Self> {
        let config: Config = start.config()?;
        Ok(LoadBalancer { pools: config.pools.iter().map(|pool| pool::Pool::parse(pool)).collect::<Result<_>>()?, given: BTreeMap::new() })
    }

    fn reconcile(&mut self, _now: Time, request: &Request<'_>) -> Result<Plan> {
        let Some(service) = request.object::<plan::Service>()? else {
            let key = (request.target.namespace.clone(), request.target.name.clone());
            self.given.retain(|_, to| *to != key);
            return Ok(Plan::new());
        };
        Ok(plan::plan(&self.pools, &mut self.given, &service, &request.related("services")?))
    }
}

pintle_sdk::controller!(LoadBalancer);
