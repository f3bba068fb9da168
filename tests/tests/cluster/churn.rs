//! Pods of one node under random kills of everything, the kernel and the daemon too, while real controllers make them anew: at the end what the API
//! says and what is on the machine are the same, and when the workloads are deleted nothing of them is left.
//!
//! A small sample runs with the other tests; `cargo xtask churn` runs as many pods as long as wanted. What is done follows from a seed.

use crate::{Outcome, Test, setup::Setup};
use pintle_tests::{
    books::{self, Books, Dice, Place, setting},
    eventually,
    kubectl::items,
    run,
};
use serde_json::{Value, json};
use std::{
    process::Command,
    time::{Duration, Instant},
};

pub const TESTS: &[Test] = &[("churn_of_a_node_and_its_kernel_ends_with_api_and_machine_agreed", churn)];

const NODE: &str = "node-1";
const SELECTOR: &str = "test=churn";
/// The settings: environment variable and value for the sample.
const PODS: (&str, u64) = ("PINTLE_CHURN_PODS", 12);
const SECONDS: (&str, u64) = ("PINTLE_CHURN_SECONDS", 8);
const SEED: (&str, u64) = ("PINTLE_CHURN_SEED", 1);
const PROGRESS: Duration = Duration::from_secs(10);
/// What is killed, each as often as it stands here.
const DEEDS: [Deed; 10] = {
    use Deed::*;
    [Process, Process, Process, Helper, Daemon, Kernel, Pod, Pod, Pod, Pod]
};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Deed {
    Process,
    Helper,
    Daemon,
    Kernel,
    Pod,
}

/// Half of the pods are plain, half have volumes, an init container and a sidecar.
fn workloads(pods: u64) -> String {
    let forever = json!(["sh", "-c", "trap 'exit 0' TERM; while true; do sleep 0.2; done"]);
    let container = |name: &str| json!({ "name": name, "image": "registry.pintle.test/web:1", "command": forever });
    let plain = json!({ "containers": [container("main")] });
    let mut main = container("main");
    main["volumeMounts"] = json!([{ "name": "m", "mountPath": "/m" }, { "name": "d", "mountPath": "/d", "subPath": "below" }]);
    let mut sidecar = container("beside");
    sidecar["restartPolicy"] = json!("Always");
    let first = json!({ "name": "first", "image": "registry.pintle.test/web:1", "command": ["true"] });
    let rich = json!({ "volumes": [{ "name": "m", "emptyDir": { "medium": "Memory" } }, { "name": "d", "emptyDir": {} }],
        "initContainers": [first, sidecar], "containers": [main] });
    let deployment = |name: &str, replicas: u64, mut spec: Value| {
        spec["nodeSelector"] = json!({ "kubernetes.io/hostname": NODE });
        spec["terminationGracePeriodSeconds"] = json!(1);
        let labels = json!({ "app": name, "test": "churn" });
        json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name, "labels": labels },
            "spec": { "replicas": replicas, "selector": { "matchLabels": { "app": name } }, "template": { "metadata": { "labels": labels }, "spec": spec } } })
    };
    let all = [deployment("churn-plain", pods - pods / 2, plain), deployment("churn-rich", pods / 2, rich)];
    json!({ "apiVersion": "v1", "kind": "List", "items": all }).to_string()
}

struct Churn<'a> {
    setup: &'a Setup,
    place: Place,
    /// Arguments that the cluster is started with.
    options: Vec<String>,
    pods: u64,
}

impl Churn<'_> {
    fn repair(&self) -> Outcome {
        Ok(self.setup.repair_with(&self.options.iter().map(String::as_str).collect::<Vec<_>>())?)
    }

    fn here(&self) -> Result<Value, String> {
        self.setup.kubectl.get(&["pods", "-A", &format!("--field-selector=spec.nodeName={NODE}")]).map_err(|e| e.to_string())
    }

    fn found(&self) -> Result<Books, String> {
        let daemon = self.setup.cluster.pid(NODE).map_err(|e| e.to_string())?;
        let mounts = std::fs::read_to_string(format!("/proc/{daemon}/mountinfo")).map_err(|e| e.to_string())?;
        let mut ip = self.setup.cluster.in_node(NODE).map_err(|e| e.to_string())?;
        let links = run(ip.args(["ip", "-o", "link", "show", "master", "pintle-pods"])).map_err(|e| e.to_string())?;
        self.place.found(&mounts, links.lines().count())
    }

    /// Waits until so many pods are ready and books and machine agree.
    fn settle(&self, pods: u64, at_most: Duration, what: &str) -> Outcome {
        let began = Instant::now();
        eventually(&format!("API and machine agree {what}"), at_most, || {
            let here = self.here()?;
            let ours = items(&here).iter().filter(|pod| pod["metadata"]["labels"]["test"] == "churn").count();
            if ours as u64 != pods {
                return Err(format!("{ours} of {pods} pods"));
            }
            let told = books::told(items(&here)).map_err(|unready| unready.join("\n"))?;
            let differences = told.differences(&self.found()?);
            if differences.is_empty() { Ok(()) } else { Err(differences.join("\n")) }
        })?;
        println!("{what}: API and machine agree after {:.1} s", began.elapsed().as_secs_f64());
        Ok(())
    }

    fn act(&self, deed: Deed, dice: &mut Dice) -> Outcome {
        let kill = |pid: i32| drop(Command::new("kill").args(["-9", &pid.to_string()]).output());
        match deed {
            Deed::Process => {
                let (inside, _) = self.place.processes();
                inside.get(dice.below(inside.len())).copied().into_iter().for_each(kill);
            }
            Deed::Helper => self.place.processes().1.into_iter().for_each(kill),
            Deed::Daemon | Deed::Kernel => {
                self.setup.cluster.kill(if deed == Deed::Kernel { "kernel" } else { NODE })?;
                self.repair()?;
            }
            Deed::Pod => {
                let here = self.setup.kubectl.get(&["pods", "-l", SELECTOR])?;
                let Some(pod) = items(&here).get(dice.below(items(&here).len())) else { return Ok(()) };
                let name = pod["metadata"]["name"].as_str().unwrap_or_default();
                // Half of them are erased in the API while their containers run.
                let how: &[&str] = if dice.below(2) == 0 { &["--force", "--grace-period=0"] } else { &[] };
                self.setup.kubectl.run(&[&["delete", "pod", name, "--ignore-not-found", "--wait=false"], how].concat())?;
            }
        }
        Ok(())
    }

    fn whole(&self, time: Duration, seed: u64) -> Outcome {
        let at_most = Duration::from_secs(60) + time;
        self.setup.kubectl.apply(&workloads(self.pods))?;
        self.settle(self.pods, at_most, "at the start")?;
        let mut dice = Dice(seed);
        let mut done = [0_u32; 5];
        let (began, mut told_at) = (Instant::now(), Instant::now());
        let said = |[processes, helpers, daemons, kernels, pods]: [u32; 5]| {
            format!("killed: {processes} processes, {helpers} helpers, {daemons} daemons, {kernels} kernels; {pods} pods deleted")
        };
        while began.elapsed() < time {
            if told_at.elapsed() >= PROGRESS {
                told_at = Instant::now();
                println!("{} s of {}; {}", began.elapsed().as_secs(), time.as_secs(), said(done));
            }
            let deed = DEEDS[dice.below(DEEDS.len())];
            self.act(deed, &mut dice)?;
            done[deed as usize] += 1;
        }
        println!("{}", said(done));
        self.settle(self.pods, at_most, "after the churn")
    }
}

fn churn(setup: &Setup) -> Outcome {
    let (pods, time, seed) = (setting(PODS), Duration::from_secs(setting(SECONDS)), setting(SEED));
    println!("churn: {pods} pods for {time:?}, seed {seed}");
    let root = setup.cluster.data_dir();
    let place = Place { state: root.join("nodes").join(NODE), run: root.join("run").join(NODE), cgroup: setup.cluster.cgroup(NODE)? };
    let churn = Churn { setup, place, options: vec![format!("--node-arg=--max-pods={}", 2 * pods + 20)], pods };
    setup.cluster.kill(NODE)?;
    churn.repair()?;
    let outcome = churn.whole(time, seed);
    setup.kubectl.run(&["delete", "deployment", "-l", SELECTOR])?;
    let left = churn.settle(0, Duration::from_secs(60) + time, "after all were deleted");
    setup.cluster.kill(NODE)?;
    setup.repair()?;
    outcome.and(left)
}
