//! How much of a file system a directory takes, as `du` counts: blocks in use, a file with several names once, one file system only.
//!
//! Containers write these directories, so nothing in them is trusted: no link is followed, and a tree that is deeper than a path can
//! name counts as more than any limit.

use std::collections::HashSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Counted for what cannot be looked into because its path is too long: only someone who hides makes such trees.
const HIDDEN_BYTES: u64 = 1 << 50;
const BLOCK_BYTES: u64 = 512;

/// What a directory takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Bytes on disk.
    pub bytes: u64,
    /// Files, directories, links.
    pub inodes: u64,
}

impl std::ops::AddAssign for DiskUsage {
    fn add_assign(&mut self, other: Self) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.inodes = self.inodes.saturating_add(other.inodes);
    }
}

/// Measures what `path` takes; what is not there takes nothing. Reads every directory below it: not for an async thread.
pub fn disk_usage(path: &Path) -> DiskUsage {
    let mut sum = DiskUsage::default();
    let Ok(root) = std::fs::symlink_metadata(path) else { return sum };
    let mut linked = HashSet::new();
    let mut waiting: Vec<PathBuf> = Vec::new();
    let mut count = |path: PathBuf, waiting: &mut Vec<PathBuf>| {
        let found = match std::fs::symlink_metadata(&path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::InvalidFilename => return sum.bytes = sum.bytes.saturating_add(HIDDEN_BYTES),
            Err(_) => return,
        };
        let again = found.nlink() > 1 && !found.is_dir() && !linked.insert(found.ino());
        if found.dev() != root.dev() || again {
            return;
        }
        sum += DiskUsage { bytes: found.blocks() * BLOCK_BYTES, inodes: 1 };
        if found.is_dir() {
            waiting.push(path);
        }
    };
    count(path.to_owned(), &mut waiting);
    while let Some(directory) = waiting.pop() {
        // What is removed while we look is not counted.
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            count(entry.path(), &mut waiting);
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_count_once_and_links_are_not_followed() {
        let dir = std::env::temp_dir().join(format!("pintle-usage-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(dir.join("a/b")).expect("made");
        std::fs::write(dir.join("a/b/file"), vec![1; 100_000]).expect("written");
        let before = disk_usage(&dir);
        std::fs::hard_link(dir.join("a/b/file"), dir.join("same")).expect("linked");
        std::os::unix::fs::symlink("/", dir.join("a/root")).expect("linked");
        let after = disk_usage(&dir);
        assert!((100_000..200_000).contains(&after.bytes), "{after:?}");
        assert_eq!((before.inodes, after.inodes), (4, 5));
        assert_eq!(disk_usage(&dir.join("none")), DiskUsage::default());
        std::fs::remove_dir_all(&dir).expect("removed");
    }
}
