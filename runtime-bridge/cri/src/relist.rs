//! States turned into events: containers are listed again and again, and whoever has ended since is told of, once.
//!
//! containerd 1.6 has no `GetContainerEvents`. Its health is asked on the way.

use std::collections::HashSet;
use std::sync::Weak;
use std::time::Duration;

use jiff::Timestamp;
use pintle_runtime_bridge::{ContainerId, Event};

use crate::client::Fault;
use crate::{Health, Shared, exit_of, message as m};

/// Between two lists.
const PERIOD: Duration = Duration::from_millis(500);
/// Lists between two questions after its health.
const HEALTH_EVERY: u32 = 8;

/// All containers of this node, as the runtime lists them.
pub(crate) async fn containers(shared: &Shared) -> Result<Vec<m::Container>, Fault> {
    let filter = m::ContainerFilter { label_selector: [shared.owner.clone()].into() };
    let listed: m::ListContainersResponse =
        shared.client.runtime("ListContainers", &m::ListContainersRequest { filter: Some(filter) }).await?;
    Ok(listed.containers)
}

/// Lists until nobody holds the runtime any more.
pub(crate) async fn run(shared: Weak<Shared>) {
    let mut told = HashSet::new();
    for round in 0u32.. {
        tokio::time::sleep(PERIOD).await;
        let Some(shared) = shared.upgrade() else { return };
        if let Err(fault) = round_of(&shared, &mut told).await {
            set_health(&shared, Some(format!("container runtime is down: {}", fault.message)));
        } else if round % HEALTH_EVERY == 0 || shared.health.borrow().fault.is_some() {
            look(&shared).await;
        }
    }
}

async fn round_of(shared: &Shared, told: &mut HashSet<String>) -> Result<(), Fault> {
    let listed = containers(shared).await?;
    let here: HashSet<&str> = listed.iter().map(|container| container.id.as_str()).collect();
    told.retain(|id| here.contains(id.as_str()));
    for container in &listed {
        let over = !matches!(container.state, m::state::CREATED | m::state::RUNNING);
        let Ok(id) = ContainerId::parse(&container.id) else { continue };
        if !over || told.contains(&container.id) {
            continue;
        }
        let request = m::ContainerIdOnly { container_id: container.id.clone() };
        // Removed in between: whoever removed it knows.
        let Ok(answer) = shared.client.runtime::<m::ContainerStatusResponse>("ContainerStatus", &request).await else { continue };
        if let Some(exit) = answer.status.as_ref().and_then(exit_of) {
            told.insert(container.id.clone());
            // Nobody may be listening.
            let _ = shared.events.send(Event::Exited { id, exit });
        }
    }
    Ok(())
}

/// Asks the runtime whether it is ready.
pub(crate) async fn look(shared: &Shared) {
    let answer: Result<m::StatusResponse, Fault> = shared.client.runtime("Status", &m::StatusRequest { verbose: false }).await;
    let fault = match answer {
        Err(fault) => Some(format!("container runtime is down: {}", fault.message)),
        Ok(answer) => {
            let short = |kind: &str| match kind {
                "NetworkReady" => "container runtime network not ready",
                _ => "container runtime not ready",
            };
            let conditions = answer.status.unwrap_or_default().conditions;
            let bad =
                conditions.into_iter().find(|condition| !condition.status && matches!(&*condition.kind, "RuntimeReady" | "NetworkReady"));
            bad.map(|c| format!("{}: {}=false reason:{} message:{}", short(&c.kind), c.kind, c.reason, c.message))
        }
    };
    set_health(shared, fault);
}

fn set_health(shared: &Shared, fault: Option<String>) {
    shared.health.send_if_modified(|health| {
        let changed = health.fault != fault;
        if changed {
            *health = Health { fault, since: Timestamp::now() };
        }
        changed
    });
}
