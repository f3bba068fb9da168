//! Removes what pods left that are not here any more: a crash between two steps, a record that was damaged.

use std::collections::BTreeSet;

use crate::error::Error;
use crate::file;
use crate::node::Node;
use crate::pod::record::uid;
use crate::volume::mounts;

/// Removes directories of pods that nobody knows, mounts first. Does not wait in between, so no pod appears meanwhile.
pub fn sweep(node: &Node) {
    let known: BTreeSet<String> = node.roster.views().iter().map(|view| uid(&view.pod.borrow()).to_owned()).collect();
    let names = |directory: &str| {
        let entries = std::fs::read_dir(node.options.state_dir.join(directory)).into_iter().flatten().flatten();
        entries.filter_map(|entry| Some((entry.path(), entry.file_name().into_string().ok()?)))
    };
    let pods = names("pods").map(|(path, name)| (path, name.clone(), name));
    // <namespace>_<name>_<uid>
    let logs = names("logs").map(|(path, name)| (path, name.rsplit('_').next().unwrap_or_default().to_owned(), name));
    for (path, owner, name) in pods.chain(logs).filter(|(_, owner, _)| !known.contains(owner)).collect::<Vec<_>>() {
        tracing::info!(name, owner, "removing what a pod left");
        if let Err(error) = mounts::unmount_below(&path).and_then(|()| file::remove_tree(&path)) {
            tracing::warn!(path = %path.display(), error = Error::chain(&error), "remains stay");
        }
    }
}
