//! Snapshots of `local-path` volumes, by the definitions that their project publishes, which are installed when everything else runs already.

use crate::{
    Outcome, Test, ensure,
    setup::Setup,
    volumes::{MINUTE, SLEEP, apply, claim, directories, event, nothing_left, of_claim, pod, ready},
};
use pintle_tests::{clients, kubectl::items};
use serde_json::{Value, json};
use std::path::PathBuf;

pub const TESTS: &[Test] = &[
    ("snapshots_a_volume_begins_with_what_another_held_once", restored),
    ("snapshots_what_cannot_be_says_why_and_what_is_retained_stays", refused),
];

const KINDS: [&str; 3] = ["volumesnapshotclasses", "volumesnapshotcontents", "volumesnapshots"];

fn definitions() -> Vec<PathBuf> {
    KINDS.iter().map(|kind| clients::folder().join(format!("snapshots/snapshot.storage.k8s.io_{kind}.yaml"))).collect()
}

/// Whether this machine has them: they come with Go's modules.
fn missing() -> bool {
    let missing = !definitions().iter().all(|file| file.exists());
    if missing {
        println!("skipped: needs the definitions of snapshots, which `cargo xtask test` gets where there is a Go");
    }
    missing
}

fn named() -> Vec<String> {
    KINDS.iter().map(|kind| format!("crd/{kind}.snapshot.storage.k8s.io")).collect()
}

fn install(setup: &Setup) -> Outcome {
    for file in definitions() {
        setup.kubectl.run(&["apply", "--server-side", "-f", &file.display().to_string()])?;
    }
    let named = named();
    let wait = ["wait", "--for=condition=Established", "--timeout=60s"];
    setup.kubectl.run(&wait.into_iter().chain(named.iter().map(String::as_str)).collect::<Vec<_>>())?;
    for (name, policy) in [("copies", "Delete"), ("kept", "Retain")] {
        let mut class = object("VolumeSnapshotClass", name);
        class["driver"] = json!("pintle.dev/local-path");
        class["deletionPolicy"] = json!(policy);
        apply(setup, &class)?;
    }
    Ok(())
}

fn uninstall(setup: &Setup) -> Outcome {
    let named = named();
    setup.kubectl.run(&["delete", "--timeout=60s"].into_iter().chain(named.iter().map(String::as_str)).collect::<Vec<_>>())?;
    Ok(())
}

fn object(kind: &str, name: &str) -> Value {
    json!({"apiVersion": "snapshot.storage.k8s.io/v1", "kind": kind, "metadata": {"name": name}})
}

fn snapshot(name: &str, class: &str, claim: &str) -> Value {
    let mut snapshot = object("VolumeSnapshot", name);
    snapshot["spec"] = json!({"volumeSnapshotClassName": class, "source": {"persistentVolumeClaimName": claim}});
    snapshot
}

fn taken(setup: &Setup, name: &str) -> Result<Value, pintle_tests::Error> {
    setup.kubectl.wait_for("the snapshot is ready", &["volumesnapshot", name], MINUTE, |s| {
        if s["status"]["readyToUse"] == true { Ok(()) } else { Err(s["status"].to_string()) }
    })
}

fn run(setup: &Setup, name: &str, claim: &str, script: &str) -> Result<Value, Box<dyn std::error::Error>> {
    apply(setup, &pod(name, of_claim(claim), script))?;
    Ok(ready(setup, name)?)
}

fn read(setup: &Setup, pod: &str) -> Result<String, pintle_tests::Error> {
    setup.kubectl.run(&["exec", pod, "--", "sh", "-c", "cat /data/words; stat -c '%a %u:%g' /data/words; readlink /data/link"])
}

fn restored(setup: &Setup) -> Outcome {
    if missing() {
        return Ok(());
    }
    install(setup)?;
    apply(setup, &claim("first", |_| {}))?;
    let script = "echo old > /data/words; chmod 640 /data/words; chown 1000:2000 /data/words; ln -s words /data/link; sleep 1000";
    let writer = run(setup, "first", "first", script)?;
    let said = "old\n640 1000:2000\nwords\n";
    setup.kubectl.run(&["exec", "first", "--", "sh", "-c", "until [ -L /data/link ]; do sleep 0.1; done"])?;
    ensure!(read(setup, "first")? == said, "written {:?}", read(setup, "first")?);
    apply(setup, &snapshot("then", "copies", "first"))?;
    let then = taken(setup, "then")?;
    let status = &then["status"];
    let content = status["boundVolumeSnapshotContentName"].as_str().unwrap_or_default();
    ensure!(status["restoreSize"] == "16Mi" || status["restoreSize"] == "16777216", "status {status}");
    ensure!(status["creationTime"].is_string() && status["error"].is_null(), "status {status}");
    let bound = setup.kubectl.get(&["volumesnapshotcontent", content])?;
    ensure!(
        bound["spec"]["volumeSnapshotRef"]["uid"] == then["metadata"]["uid"] && bound["status"]["readyToUse"] == true,
        "content {bound}"
    );
    setup.kubectl.run(&["exec", "first", "--", "sh", "-c", "echo new > /data/words"])?;
    // Its spelling of today, and a clone in that of yesterday.
    let source = json!({"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "then"});
    apply(setup, &claim("second", |c| c["spec"]["dataSourceRef"] = source))?;
    apply(setup, &claim("third", |c| c["spec"]["dataSource"] = json!({"kind": "PersistentVolumeClaim", "name": "first"})))?;
    let second = run(setup, "second", "second", SLEEP)?;
    ensure!(second["spec"]["nodeName"] == writer["spec"]["nodeName"], "a copy is where its original is: {}", second["spec"]["nodeName"]);
    ensure!(read(setup, "second")? == said, "restored {:?}", read(setup, "second")?);
    run(setup, "third", "third", SLEEP)?;
    let clone = read(setup, "third")?;
    ensure!(clone == said.replace("old", "new"), "cloned {clone:?}");
    ensure!(directories(setup).len() == 4, "one directory each: {:?}", directories(setup));
    // The snapshot outlives its volume, and a volume the snapshot that it was made from.
    setup.kubectl.run(&["delete", "pod/first", "pvc/first", "--timeout=60s"])?;
    apply(
        setup,
        &claim("fourth", |c| {
            c["spec"]["dataSource"] = json!({"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "then"})
        }),
    )?;
    run(setup, "fourth", "fourth", SLEEP)?;
    setup.kubectl.run(&["delete", "volumesnapshot", "then", "--timeout=60s"])?;
    ensure!(read(setup, "fourth")? == said, "restored {:?}", read(setup, "fourth")?);
    let left = setup.kubectl.get(&["volumesnapshotcontents"])?;
    ensure!(items(&left).is_empty(), "contents go with their snapshots: {left}");
    let all = ["pod/second", "pod/third", "pod/fourth", "pvc/second", "pvc/third", "pvc/fourth"];
    setup.kubectl.run(&["delete", "--timeout=60s"].into_iter().chain(all).collect::<Vec<_>>())?;
    nothing_left(setup)?;
    uninstall(setup)
}

fn refused(setup: &Setup) -> Outcome {
    if missing() {
        return Ok(());
    }
    install(setup)?;
    apply(setup, &claim("data", |_| {}))?;
    run(setup, "data", "data", SLEEP)?;
    apply(setup, &snapshot("early", "copies", "none"))?;
    let said = |name: &str, words: &str| {
        setup.kubectl.wait_for(words, &["volumesnapshot", name], MINUTE, |s| {
            let error = s["status"]["error"]["message"].as_str().unwrap_or_default();
            if error.contains(words) && s["status"]["readyToUse"] == false { Ok(()) } else { Err(s["status"].to_string()) }
        })
    };
    said("early", "persistentvolumeclaim \"none\" not found")?;
    event(setup, "early", "persistentvolumeclaim \"none\" not found")?;
    apply(setup, &snapshot("classless", "no-such-class", "data"))?;
    said("classless", "\"no-such-class\" not found")?;
    let source = json!({"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "early"});
    apply(setup, &claim("waits", |c| c["spec"]["dataSource"] = source))?;
    apply(setup, &pod("waits", of_claim("waits"), SLEEP))?;
    event(setup, "waits", "volumesnapshot \"early\" is not ready to use")?;
    apply(setup, &snapshot("stays", "kept", "data"))?;
    let stays = taken(setup, "stays")?;
    let content = stays["status"]["boundVolumeSnapshotContentName"].as_str().unwrap_or_default();
    setup.kubectl.run(&["delete", "volumesnapshot", "stays", "early", "classless", "--timeout=60s"])?;
    let kept = setup.kubectl.get(&["volumesnapshotcontent", content])?;
    ensure!(kept["metadata"]["deletionTimestamp"].is_null(), "what is retained stays: {kept}");
    let directory = directories(setup).into_iter().find(|path| path.ends_with(content));
    let directory = directory.ok_or_else(|| format!("no directory of {content}: {:?}", directories(setup)))?;
    setup.kubectl.run(&["delete", "volumesnapshotcontent", content, "--timeout=60s"])?;
    ensure!(directory.is_dir(), "its bytes stay, too");
    std::fs::remove_dir_all(directory)?;
    setup.kubectl.run(&["delete", "pod/data", "pod/waits", "pvc/data", "pvc/waits", "--timeout=60s"])?;
    nothing_left(setup)?;
    uninstall(setup)
}
