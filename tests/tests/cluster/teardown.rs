//! `pintle down` leaves no process, mount, namespace, cgroup or link behind, also when everything was killed before.

use crate::{
    Outcome, Test, ensure,
    setup::{NODES, Setup},
};
use pintle_tests::{eventually, kubectl::is_ready, kubectl::items, run};
use std::{process::Command, time::Duration};

pub const TESTS: &[Test] = &[("teardown_down_leaves_nothing_behind_even_after_a_kill", nothing_left)];

fn nothing_left(setup: &Setup) -> Outcome {
    setup.kubectl.run(&["create", "deployment", "left", "--image=registry.pintle.test/web:1", "--replicas=6", "--", "sleep", "1000"])?;
    setup.kubectl.wait_for("its pods run", &["pods", "-l", "app=left"], Duration::from_secs(60), |l| {
        let ready = items(l).iter().filter(|p| is_ready(p)).count();
        if ready == 6 { Ok(()) } else { Err(format!("{ready} ready")) }
    })?;
    let (bridge, cgroup) = (setup.cluster.layout("bridge")?, setup.cluster.layout("cgroup")?);
    ensure!(!bridge.is_empty() && !cgroup.is_empty(), "the layout names no bridge or no cgroup");
    let data_dir = setup.cluster.data_dir().display().to_string();
    setup.cluster.kill("kernel")?;
    for index in 1..=NODES {
        setup.cluster.kill(&format!("node-{index}"))?;
    }
    setup.cluster.down(&[])?;
    let leftovers = || -> Result<(), String> {
        let output = |program: &str, args: &[&str]| run(Command::new(program).args(args)).map_err(|e| e.to_string());
        let check = |what: &str, text: &str, needle: &str| match text.lines().find(|l| l.contains(needle)) {
            Some(line) => Err(format!("{what} is left: {line}")),
            None => Ok(()),
        };
        check("a process", &output("ps", &["axww", "-o", "pid,args"])?, &data_dir)?;
        check("a process", &output("ps", &["axww", "-o", "pid,args"])?, "sleep 1000")?;
        check("a mount", &output("cat", &["/proc/self/mountinfo"])?, &data_dir)?;
        check("a network namespace", &output("ip", &["netns", "list"])?, &cgroup)?;
        check("a link", &output("ip", &["-o", "link"])?, &bridge)?;
        check("a cgroup", &output("find", &["/sys/fs/cgroup", "-maxdepth", "2", "-type", "d"])?, &cgroup)?;
        check("a route", &output("ip", &["route"])?, &bridge)
    };
    eventually("nothing is left", Duration::from_secs(10), leftovers)?;
    ensure!(setup.cluster.data_dir().join("kernel").exists(), "the data was deleted without being asked");
    Ok(())
}
