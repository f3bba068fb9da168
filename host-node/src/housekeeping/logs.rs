//! Containers' logs in pieces of bounded size.
//!
//! A log that has reached the limit is renamed to `<log>.<time>`, and the runtime opens a new one under the old name. Of the renamed ones the newest stays as
//! it is, so that tools that still read it can finish; older ones are compressed, and beyond the number allowed the oldest go. Names and order are
//! the kubelet's (containerLogMaxSize, containerLogMaxFiles), so log shippers find what they know.
//! Invariant: at no moment is a line lost: the old file is written until the new one exists.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use jiff::Timestamp;
use pintle_runtime_bridge::ContainerId;

use crate::error::{Error, Result, Step};
use crate::node::Node;

/// What a container's logs may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes after which a log is rotated.
    pub bytes: u64,
    /// Files of one container at most, the one being written included; two at least.
    pub files: usize,
}

/// Rotates the logs of running containers, for ever.
pub async fn run(node: Rc<Node>) {
    let options = &node.options.housekeeping;
    let limits = Limits { bytes: options.container_log_max_size, files: options.container_log_max_files };
    loop {
        tokio::time::sleep(Duration::from_millis(options.container_log_monitor_ms)).await;
        for (id, log) in running(&node) {
            if let Err(error) = rotate(&node, &id, &log, limits).await {
                tracing::warn!(container = id, error = Error::chain(&error), "a log is not rotated");
            }
        }
    }
}

fn running(node: &Node) -> Vec<(String, PathBuf)> {
    let views = node.roster.views();
    let logs = views.iter().flat_map(|view| {
        let record = view.record.borrow();
        let open = record.containers.values().filter_map(|c| c.running());
        open.map(|attempt| (attempt.id.clone(), attempt.log.clone())).collect::<Vec<_>>()
    });
    logs.collect()
}

async fn rotate(node: &Node, id: &str, log: &Path, limits: Limits) -> Result<()> {
    let id = ContainerId::parse(id)?;
    match std::fs::metadata(log) {
        Ok(found) if found.len() < limits.bytes => return Ok(()),
        Ok(_) => {}
        // A rotation was cut short, or somebody removed it: what the container writes now has no name.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(node.runtime.reopen_log(&id).await?),
        Err(error) => return Err(Error::io(format!("looking at {}", log.display()), error)),
    }
    let path = log.to_owned();
    let tidied = tokio::task::spawn_blocking(move || tidy(&path, limits.files)).await;
    tidied.map_err(|e| Error::io("tidying logs", std::io::Error::other(e)))??;
    let rotated = with_suffix(log, &Timestamp::now().strftime("%Y%m%d-%H%M%S").to_string());
    if rotated.exists() {
        return Ok(()); // twice in a second: the next look does it
    }
    std::fs::rename(log, &rotated).step(|| format!("renaming {}", log.display()))?;
    if let Err(error) = node.runtime.reopen_log(&id).await {
        // It is still written under its new name: give it the old one back.
        std::fs::rename(&rotated, log).step(|| format!("renaming {} back", rotated.display()))?;
        return Err(error.into());
    }
    Ok(())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// The files that a log was renamed to, oldest first.
fn rotated(log: &Path) -> Result<Vec<PathBuf>> {
    let (Some(directory), Some(name)) = (log.parent(), log.file_name().and_then(|name| name.to_str())) else { return Ok(Vec::new()) };
    let prefix = format!("{name}.");
    let entries = std::fs::read_dir(directory).step(|| format!("listing {}", directory.display()))?;
    let ours = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
    let mut found: Vec<_> = ours.map(|entry| entry.path()).collect();
    found.sort();
    Ok(found)
}

fn has_extension(path: &Path, wanted: &str) -> bool {
    path.extension().is_some_and(|extension| extension == wanted)
}

/// Makes room for one more rotated file: removes what is too much, compresses what is left.
fn tidy(log: &Path, files: usize) -> Result<()> {
    let (half_done, mut whole): (Vec<_>, Vec<_>) = rotated(log)?.into_iter().partition(|path| has_extension(path, "tmp"));
    // One is being written, one is about to be added.
    let excess = whole.len().saturating_sub(files.saturating_sub(2));
    for path in half_done.iter().chain(&whole[..excess]) {
        std::fs::remove_file(path).step(|| format!("removing {}", path.display()))?;
    }
    whole.drain(..excess);
    whole.iter().filter(|path| !has_extension(path, "gz")).try_for_each(|path| compress(path))
}

fn compress(path: &Path) -> Result<()> {
    let (temporary, target) = (with_suffix(path, "tmp"), with_suffix(path, "gz"));
    let step = || format!("compressing {}", path.display());
    let mut source = File::open(path).step(step)?;
    let mut encoder = flate2::write::GzEncoder::new(File::create(&temporary).step(step)?, flate2::Compression::default());
    std::io::copy(&mut source, &mut encoder).step(step)?;
    encoder.finish().step(step)?;
    std::fs::rename(&temporary, &target).step(step)?;
    std::fs::remove_file(path).step(step)
}

/// Removes a log with all that it was rotated to.
pub fn remove(log: &Path) {
    for path in rotated(log).unwrap_or_default().iter().map(PathBuf::as_path).chain([log]) {
        let _ = std::fs::remove_file(path);
    }
}

/// Bytes of a container's logs (all in its directory), for what its pod takes of the disk.
pub fn bytes(log: &Path) -> u64 {
    log.parent().map_or(0, |directory| pintle_runtime_bridge::disk_usage(directory).bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::TestDir;
    use std::io::Read;

    #[test]
    fn old_logs_are_compressed_and_the_oldest_go() {
        let dir = TestDir::new("logs-tidy");
        let log = dir.0.join("0.log");
        for name in
            ["0.log", "0.log.20260101-000001", "0.log.20260101-000002.gz", "0.log.20260101-000003", "0.log.20260101-000003.tmp", "1.log.x"]
        {
            std::fs::write(dir.0.join(name), name).expect("written");
        }
        tidy(&log, 3).expect("tidied");
        let mut names: Vec<_> =
            std::fs::read_dir(&dir.0).expect("listed").flatten().map(|e| e.file_name().into_string().expect("text")).collect();
        names.sort();
        assert_eq!(names, ["0.log", "0.log.20260101-000003.gz", "1.log.x"]);
        let mut text = String::new();
        let packed = File::open(dir.0.join(&names[1])).expect("opened");
        flate2::read::GzDecoder::new(packed).read_to_string(&mut text).expect("unpacked");
        assert_eq!(text, "0.log.20260101-000003");
        remove(&log);
        assert_eq!(std::fs::read_dir(&dir.0).expect("listed").count(), 1, "another attempt's stays");
    }
}
