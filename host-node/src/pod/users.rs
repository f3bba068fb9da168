//! Which ids of the machine a pod's own users are (`hostUsers: false`).
//!
//! Each such pod has 65,536 ids that no other pod has, as the kubelet gives them: multiples of 65,536, the first of them left to the machine itself. What a pod
//! has is a file in its directory, so that it lasts as long as the pod and goes with it.

use std::collections::BTreeSet;
use std::path::Path;

use k8s_openapi::api::core::v1::Pod;
use pintle_runtime_bridge::IdRange;

use crate::error::{Error, Result, Step};
use crate::file;

/// Ids of one pod.
const LENGTH: u32 = 1 << 16;
/// In a pod's directory.
const FILE: &str = "users.json";
/// Linux from which on overlayfs takes layers whose ids are mapped.
const LINUX: (u32, u32) = (5, 19);

/// Whether pods can have users of their own on this machine.
pub fn able() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Path::new("/proc/self/ns/user").exists() && is_able(&release)
}

fn is_able(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= LINUX
}

/// The ids of a pod that wants its own, where the runtime is `able` to give them: those that it has, or the lowest that nobody has.
///
/// # Errors
/// [`Error::Unsupported`] where the machine cannot; [`Error::Invalid`] when there are none left.
pub fn range(pod: &Pod, able: bool, pods: &Path, pod_dir: &Path) -> Result<Option<IdRange>> {
    if pod.spec.as_ref().and_then(|spec| spec.host_users) != Some(false) {
        return Ok(None);
    }
    if !able {
        let (major, minor) = LINUX;
        let needs = format!("hostUsers false (it needs Linux {major}.{minor} and the node's own runtime)");
        return Err(Error::Unsupported(needs));
    }
    let range = |number: u32| IdRange { first: number * LENGTH, length: LENGTH };
    let own = pod_dir.join(FILE);
    if let Some(number) = file::read_json::<u32>(&own)?.filter(|number| (1..=u32::MAX / LENGTH - 1).contains(number)) {
        return Ok(Some(range(number)));
    }
    let mut taken = BTreeSet::new();
    for entry in std::fs::read_dir(pods).step(|| format!("reading {}", pods.display()))?.flatten() {
        taken.extend(file::read_json::<u32>(&entry.path().join(FILE))?);
    }
    let free = (1..u32::MAX / LENGTH).find(|number| !taken.contains(number));
    let free = free.ok_or_else(|| Error::invalid("spec.hostUsers", "false, and all ranges of users are taken"))?;
    file::replace_json(&own, &free)?;
    Ok(Some(range(free)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::TestDir;
    use serde_json::json;

    #[test]
    fn no_two_pods_have_one_id_and_a_pod_keeps_its_own() {
        let dir = TestDir::new("users");
        let pod = |users: bool| serde_json::from_value(json!({ "spec": { "hostUsers": users, "containers": [] } })).expect("a pod");
        let first = |name: &str| {
            let own = dir.0.join(name);
            std::fs::create_dir_all(&own).expect("a directory");
            range(&pod(false), true, &dir.0, &own).expect("a range").map(|range| (range.first, range.length))
        };
        assert_eq!(range(&pod(true), false, &dir.0, &dir.0).expect("none needed"), None);
        assert_eq!((first("a"), first("b"), first("a")), (Some((65_536, 65_536)), Some((131_072, 65_536)), Some((65_536, 65_536))));
        let refused = range(&pod(false), false, &dir.0, &dir.0.join("d")).expect_err("not able").to_string();
        assert!(refused.contains("hostUsers"), "{refused}");
        std::fs::remove_dir_all(dir.0.join("a")).expect("removed");
        assert_eq!(first("c"), Some((65_536, 65_536)), "its ids go with a pod");
    }

    #[test]
    fn old_kernels_are_known() {
        for (release, able) in
            [("5.10.0-30-amd64", false), ("5.19.0", true), ("6.1.0-9-cloud-amd64", true), ("4.20.1", false), ("x", false)]
        {
            assert_eq!(is_able(release), able, "{release}");
        }
    }
}
