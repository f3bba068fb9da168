//! Directories of projected files that change as a whole: `..data` is a symlink to a timestamped directory, swapped by rename.
//!
//! A container that reads through `..data` sees the old set or the new one. Invariants: names come from objects that users write,
//! so every path is checked to stay inside; user-visible entries are symlinks through `..data` and never touch the files themselves.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use crate::error::{Error, Result, Step};
use crate::file;

const DATA: &str = "..data";

/// One file to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Content.
    pub bytes: Vec<u8>,
    /// Mode.
    pub mode: u32,
}

/// Who may read the files besides root.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ownership {
    /// Owner of tokens for a container that does not run as root.
    pub uid: Option<u32>,
    /// fsGroup.
    pub gid: Option<u32>,
}

/// Makes `directory` show exactly `files` (relative path to content). Whether anything changed.
pub fn project(directory: &Path, files: &BTreeMap<String, File>, ownership: Ownership) -> Result<bool> {
    for name in files.keys() {
        check_relative(name)?;
    }
    file::make_dir(directory, 0o755)?;
    if shows(directory, files) {
        return Ok(false);
    }
    let stamp = jiff::Timestamp::now().as_nanosecond();
    let fresh = format!("..{stamp}");
    let fresh_path = directory.join(&fresh);
    std::fs::create_dir(&fresh_path).step(|| format!("making {}", fresh_path.display()))?;
    file::set_mode(&fresh_path, 0o755)?;
    for (name, content) in files {
        write(&fresh_path.join(name), content, ownership)?;
    }
    let old = std::fs::read_link(directory.join(DATA)).ok();
    let temporary = directory.join("..data_tmp");
    let _ = std::fs::remove_file(&temporary);
    std::os::unix::fs::symlink(&fresh, &temporary).step(|| "linking ..data_tmp".into())?;
    std::fs::rename(&temporary, directory.join(DATA)).step(|| "swapping ..data".into())?;
    show_names(directory, files)?;
    if let Some(old) = old.filter(|name| name.as_os_str() != fresh.as_str() && name.components().count() == 1) {
        file::remove_tree(&directory.join(old))?;
    }
    Ok(true)
}

fn write(path: &Path, content: &File, ownership: Ownership) -> Result<()> {
    if let Some(parent) = path.parent() {
        file::make_dir(parent, 0o755)?;
    }
    let group_bits = if ownership.gid.is_some() { (content.mode & 0o400) >> 3 } else { 0 };
    file::replace(path, &content.bytes, content.mode | group_bits)?;
    if ownership.uid.is_some() || ownership.gid.is_some() {
        std::os::unix::fs::chown(path, ownership.uid, ownership.gid).step(|| format!("owning {}", path.display()))?;
    }
    Ok(())
}

/// Links the first path element of each file through `..data`, and unlinks those that are no longer there.
fn show_names(directory: &Path, files: &BTreeMap<String, File>) -> Result<()> {
    let wanted: std::collections::BTreeSet<&str> = files.keys().filter_map(|name| name.split('/').next()).collect();
    for name in &wanted {
        let link = directory.join(name);
        if std::fs::symlink_metadata(&link).is_err() {
            std::os::unix::fs::symlink(Path::new(DATA).join(name), &link).step(|| format!("linking {}", link.display()))?;
        }
    }
    for entry in std::fs::read_dir(directory).step(|| format!("reading {}", directory.display()))?.flatten() {
        let name = entry.file_name();
        let shown = name.to_string_lossy();
        if !shown.starts_with("..") && !wanted.contains(shown.as_ref()) {
            std::fs::remove_file(entry.path()).step(|| format!("unlinking {shown}"))?;
        }
    }
    Ok(())
}

/// Whether the directory already shows exactly these contents.
fn shows(directory: &Path, files: &BTreeMap<String, File>) -> bool {
    let data = directory.join(DATA);
    let mut found = Vec::new();
    if list(&data, Path::new(""), &mut found).is_err() || found.len() != files.len() {
        return false;
    }
    files.iter().all(|(name, content)| std::fs::read(data.join(name)).is_ok_and(|bytes| bytes == content.bytes))
}

fn list(root: &Path, below: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(root.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => list(root, &path, found)?,
            false => found.push(path),
        }
    }
    Ok(())
}

/// A relative path of plain names: no root, no `..`, nothing that begins with `..`.
pub fn check_relative(path: &str) -> Result<()> {
    let plain = |c: Component<'_>| matches!(c, Component::Normal(_));
    let fine = !path.is_empty()
        && path.len() <= 4096
        && Path::new(path).components().all(plain)
        && !path.starts_with("..")
        && !path.contains('\0');
    if fine { Ok(()) } else { Err(Error::UnsafePath(path.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::TestDir;

    fn files(pairs: &[(&str, &str)]) -> BTreeMap<String, File> {
        pairs.iter().map(|(name, text)| ((*name).to_owned(), File { bytes: text.as_bytes().to_vec(), mode: 0o644 })).collect()
    }

    fn seen(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(directory)
            .expect("a directory")
            .map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned())
            .filter(|name| !name.starts_with(".."))
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_new_set_replaces_the_old_one_as_a_whole() {
        let dir = TestDir::new("atomic");
        let check = |pairs: &[(&str, &str)], changed: bool, names: &[&str]| {
            assert_eq!(project(&dir.0, &files(pairs), Ownership::default()).expect("projected"), changed);
            assert_eq!(seen(&dir.0), names);
            for (name, text) in pairs {
                assert_eq!(std::fs::read_to_string(dir.0.join(name)).expect("readable"), *text);
            }
        };
        check(&[("a", "1"), ("d/b", "2")], true, &["a", "d"]);
        let before = std::fs::read_link(dir.0.join(DATA)).expect("a link");
        check(&[("a", "1"), ("d/b", "2")], false, &["a", "d"]);
        assert_eq!(std::fs::read_link(dir.0.join(DATA)).expect("a link"), before);
        check(&[("a", "3"), ("c", "4")], true, &["a", "c"]);
        assert!(!dir.0.join(before).exists(), "the old set is removed");
        check(&[], true, &[]);
    }

    #[test]
    fn names_that_leave_the_directory_are_refused() {
        let dir = TestDir::new("atomic-unsafe");
        for bad in ["", "/etc/passwd", "../x", "a/../../x", "..data", "..x"] {
            let result = project(&dir.0, &files(&[(bad, "x")]), Ownership::default());
            assert!(matches!(result, Err(Error::UnsafePath(_))), "{bad:?}");
        }
    }

    #[test]
    fn modes_are_exact_and_a_group_may_read_what_its_owner_may() {
        use std::os::unix::fs::PermissionsExt;
        let dir = TestDir::new("atomic-mode");
        let mut set = files(&[("secret", "x")]);
        set.get_mut("secret").expect("there").mode = 0o400;
        project(&dir.0, &set, Ownership::default()).expect("projected");
        let mode = std::fs::metadata(dir.0.join("secret")).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode, 0o400);
    }
}
