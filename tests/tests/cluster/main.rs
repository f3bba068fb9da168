//! Whole-system tests on one real cluster of three nodes: real containers, a real kubectl, a real registry.
//!
//! Run them with `cargo xtask test`, or one with `cargo test --release -p pintle-tests --test cluster -- NAME`. They run in the order below, because
//! one machine can hold one such cluster; each makes what it needs and removes it. The last one stops the cluster and looks for
//! anything left behind. With `PINTLE_KEEP=1` the cluster stays for a look. Modules:
//!
//! - `web`: what a user does with a Deployment, from apply to delete;
//! - `workloads`: Jobs, CronJobs, DaemonSets and StatefulSets;
//! - `snapshots`: snapshots of volumes, volumes out of them, and clones;
//! - `csi`: a storage driver with its published sidecars;
//! - `volumes`: claims, volumes, and data that outlives pods;
//! - `nodes`: spreading, killed containers, killed and stopped nodes;
//! - `services`: Services of every type and their names, with real packets from every node and pod;
//! - `reach`: every type of Service from every place, by a table;
//! - `ingress`: the HTTP proxy of every node, programmed by Ingresses;
//! - `gateway`: the same proxy, programmed by the Gateway API;
//! - `dual`: both families of addresses;
//! - `network`: health checks, traffic that stays near, address objects, bandwidth;
//! - `cni`: a node whose pods CNI plugins plug in;
//! - `policies`: who may reach whom, probed for every pair;
//! - `datagrams`: UDP from inside pods;
//! - `churn`: a node, its kernel and its pods killed at random;
//! - `crash`: the kernel killed under load;
//! - `disk`: no room left for the store;
//! - `modules`: loading, swapping and deleting third-party modules, hostile ones too;
//! - `streams`: logs and exec by a client that is not kubectl;
//! - `input`: what is refused, and how it says so;
//! - `teardown`: nothing is left behind.

mod churn;
mod cni;
mod crash;
mod csi;
mod datagrams;
mod disk;
mod dual;
mod gateway;
mod ingress;
mod input;
mod modules;
mod network;
mod nodes;
mod policies;
mod reach;
mod services;
mod setup;
mod snapshots;
mod streams;
mod teardown;
mod volumes;
mod web;
mod workloads;

use libtest_mimic::{Arguments, Failed, Trial};
use setup::Setup;

/// What a test returns; any error fails it with its text.
type Outcome = Result<(), Box<dyn std::error::Error>>;

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let missing = setup::missing();
    if let Some(reason) = &missing {
        println!("skipped: the whole-system tests need {reason}");
    }
    if !dual::is_there() {
        println!("skipped: what needs IPv6, without IPv6 on this machine");
    }
    let trials = [
        web::TESTS,
        workloads::TESTS,
        volumes::TESTS,
        snapshots::TESTS,
        csi::TESTS,
        nodes::TESTS,
        services::TESTS,
        reach::TESTS,
        ingress::TESTS,
        gateway::TESTS,
        dual::TESTS,
        network::TESTS,
        policies::TESTS,
        cni::TESTS,
        churn::TESTS,
        crash::TESTS,
        disk::TESTS,
        modules::TESTS,
        streams::TESTS,
        input::TESTS,
        teardown::TESTS,
    ]
    .concat()
    .into_iter()
    .map(|(name, test)| {
        Trial::test(name, move || {
            let setup = Setup::get().map_err(Failed::from)?;
            test(setup).map_err(|e| Failed::from(e.to_string()))
        })
        .with_ignored_flag(
            missing.is_some()
                || name.starts_with(streams::PREFIX) && streams::missing()
                || name.starts_with(csi::PREFIX) && csi::missing()
                || name.starts_with(dual::PREFIX) && !dual::is_there(),
        )
    })
    .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    setup::finish();
    conclusion.exit();
}

/// A test's name and body.
type Test = (&'static str, fn(&Setup) -> Outcome);

/// Fails a test with a formatted text unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($text:tt)*) => {
        if !$condition {
            return Err(format!($($text)*).into());
        }
    };
}
pub(crate) use ensure;
