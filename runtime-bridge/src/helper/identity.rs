//! Who a process is: users and groups from the image's own files, capability sets.
//!
//! Invariants: the inheritable and ambient sets stay empty; a name is looked up inside the container's root only.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;

use nix::libc;

use super::init::Failure;
use crate::error::StartFailure;
use crate::spec::{Security, User};
use crate::sys;

/// A set of capabilities, one bit each.
pub(crate) type CapabilitySet = u64;

/// In the kernel's order.
const CAPABILITIES: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];
/// What an unprivileged container's root may do.
const DEFAULT: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];
const ALL: CapabilitySet = (1 << CAPABILITIES.len()) - 1;
const ACCOUNT_FILE_BYTES_MAX: u64 = 4 << 20;

/// A resolved user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

/// The bit of `CAP_NET_ADMIN`, `NET_ADMIN` or `net_admin`.
pub(crate) fn capability_bit(name: &str) -> Option<CapabilitySet> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    CAPABILITIES.iter().position(|known| *known == bare).map(|index| 1 << index)
}

/// The set a spec comes to.
///
/// # Errors
/// The name that is not a capability.
pub(crate) fn capabilities(security: &Security) -> Result<CapabilitySet, String> {
    if security.privileged {
        return Ok(ALL);
    }
    let set = |names: &[String]| {
        names.iter().try_fold(0, |set, name| {
            if name.eq_ignore_ascii_case("ALL") || name.eq_ignore_ascii_case("CAP_ALL") {
                return Ok(ALL);
            }
            capability_bit(name).map(|bit| set | bit).ok_or_else(|| name.clone())
        })
    };
    let default = DEFAULT.iter().filter_map(|name| capability_bit(name)).fold(0, |set, bit| set | bit);
    let (add, drop) = (set(&security.add_capabilities)?, set(&security.drop_capabilities)?);
    // ALL on either side is the base line that the other side's names amend.
    Ok(match (add == ALL, drop == ALL) {
        (_, true) if add != ALL => add,
        _ => (default | add) & !drop,
    })
}

/// What this process may hand on at most.
pub(crate) fn bounding_set() -> CapabilitySet {
    (0..CAPABILITIES.len() as libc::c_ulong)
        .filter(|cap| sys::prctl(libc::PR_CAPBSET_READ, *cap, 0).is_ok_and(|r| r == 1))
        .fold(0, |set, cap| set | (1 << cap))
}

/// Becomes `identity` with exactly `capabilities` (as far as this process has them itself).
pub(crate) fn assume(identity: &Identity, capabilities: CapabilitySet) -> Result<(), Failure> {
    let capabilities = capabilities & bounding_set();
    for cap in 0..64 {
        let known = sys::prctl(libc::PR_CAPBSET_READ, cap, 0);
        if known.is_err() {
            break;
        }
        if capabilities & (1 << cap) == 0 {
            sys::prctl(libc::PR_CAPBSET_DROP, cap, 0).map_err(Failure::step("drop bounding capability"))?;
        }
    }
    sys::prctl(libc::PR_SET_KEEPCAPS, 1, 0).map_err(Failure::step("keep capabilities"))?;
    let groups: Vec<_> = identity.groups.iter().map(|g| nix::unistd::Gid::from_raw(*g)).collect();
    nix::unistd::setgroups(&groups).map_err(Failure::step("setgroups"))?;
    let gid = nix::unistd::Gid::from_raw(identity.gid);
    nix::unistd::setresgid(gid, gid, gid).map_err(Failure::step("setresgid"))?;
    let uid = nix::unistd::Uid::from_raw(identity.uid);
    nix::unistd::setresuid(uid, uid, uid).map_err(Failure::step("setresuid"))?;
    // Raising ambient capabilities needs inheritable ones, so empty here means empty there.
    sys::capset(capabilities, capabilities, 0).map_err(Failure::step("capset"))
}

/// Looks a user up in the passwd and group files below `root`.
pub(crate) fn resolve(root: BorrowedFd<'_>, user: &User) -> Result<Identity, Failure> {
    let passwd = account_file(root, c"etc/passwd").map_err(Failure::step("read /etc/passwd"))?;
    let group = account_file(root, c"etc/group").map_err(Failure::step("read /etc/group"))?;
    let identity =
        lookup(&passwd, &group, user).map_err(|missing| Failure::new(StartFailure::UnknownUser, format!("no {missing} in the image")))?;
    if user.must_not_be_root && identity.uid == 0 {
        return Err(Failure::new(StartFailure::RunsAsRoot, "the spec forbids root and the image runs as root".to_owned()));
    }
    Ok(identity)
}

/// The text of an account file; empty when there is none. A fifo or device in its place is not waited for.
fn account_file(root: BorrowedFd<'_>, path: &std::ffi::CStr) -> io::Result<String> {
    let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = match sys::openat2(root, path, flags, 0, libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS) {
        Ok(fd) => File::from(fd),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)) => return Ok(String::new()),
        Err(e) => return Err(e),
    };
    if !file.metadata()?.is_file() {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    file.take(ACCOUNT_FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn lookup(passwd: &str, group: &str, user: &User) -> Result<Identity, String> {
    let (user_part, group_part) = match (&user.uid, &user.name) {
        (Some(uid), _) => (uid.to_string(), None),
        (None, Some(name)) if !name.is_empty() => match name.split_once(':') {
            Some((user, group)) => (user.to_owned(), Some(group.to_owned())),
            None => (name.clone(), None),
        },
        _ => ("0".to_owned(), None),
    };
    let by_number = user_part.parse::<u32>().ok();
    let row = rows(passwd).find(|row| match by_number {
        Some(uid) => row.get(2).and_then(|f| f.parse().ok()) == Some(uid),
        None => row.first() == Some(&user_part.as_str()),
    });
    let number = |row: &[&str], index: usize| row.get(index).and_then(|f| f.parse::<u32>().ok());
    let uid = match (&row, by_number) {
        (_, Some(uid)) => uid,
        (Some(row), None) => number(row, 2).ok_or_else(|| format!("usable entry for user {user_part:?}"))?,
        (None, None) => return Err(format!("user {user_part:?}")),
    };
    let gid = match (user.gid, group_part) {
        (Some(gid), _) => gid,
        (None, Some(name)) => match name.parse::<u32>() {
            Ok(gid) => gid,
            Err(_) => rows(group)
                .find(|row| row.first() == Some(&name.as_str()))
                .and_then(|row| number(&row, 2))
                .ok_or_else(|| format!("group {name:?}"))?,
        },
        (None, None) => row.as_ref().and_then(|row| number(row, 3)).unwrap_or(0),
    };
    let login = row.as_ref().and_then(|row| row.first().copied()).unwrap_or_default().to_owned();
    let mut groups: Vec<u32> = rows(group)
        .filter(|row| !login.is_empty() && row.get(3).is_some_and(|members| members.split(',').any(|m| m == login)))
        .filter_map(|row| number(&row, 2))
        .chain(user.additional_gids.iter().copied())
        .collect();
    groups.push(gid);
    groups.sort_unstable();
    groups.dedup();
    let home = row.as_ref().and_then(|row| row.get(5).copied()).filter(|h| !h.is_empty()).unwrap_or("/");
    Ok(Identity { uid, gid, groups, home: home.to_owned() })
}

fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().filter(|l| !l.trim_start().starts_with('#')).map(|l| l.trim_end().split(':').collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n";
    const GROUP: &str = "root:x:0:\napp:x:1001:\nvideo:x:44:app,root\n";

    fn named(name: &str) -> User {
        User { name: Some(name.to_owned()), ..User::default() }
    }

    #[test]
    fn users_resolve_by_name_number_and_group() {
        let check = |user: User, uid, gid, groups: &[u32], home: &str| {
            let found = lookup(PASSWD, GROUP, &user).expect("resolves");
            assert_eq!((found.uid, found.gid, &found.groups[..], &found.home[..]), (uid, gid, groups, home), "{user:?}");
        };
        check(User::default(), 0, 0, &[0, 44], "/root");
        check(named("app"), 1000, 1001, &[44, 1001], "/home/app");
        check(named("app:video"), 1000, 44, &[44], "/home/app");
        check(named("65534:65533"), 65534, 65533, &[65533], "/");
        check(User { uid: Some(1000), gid: Some(7), additional_gids: vec![9], ..User::default() }, 1000, 7, &[7, 9, 44], "/home/app");
    }

    #[test]
    fn an_unknown_user_name_is_an_error() {
        assert_eq!(lookup(PASSWD, GROUP, &named("nobody")), Err("user \"nobody\"".to_owned()));
        assert_eq!(lookup(PASSWD, GROUP, &named("app:none")), Err("group \"none\"".to_owned()));
    }

    #[test]
    fn capability_sets_follow_add_and_drop() {
        let set = |add: &[&str], drop: &[&str]| {
            let owned = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
            capabilities(&Security { add_capabilities: owned(add), drop_capabilities: owned(drop), ..Security::default() })
        };
        let bit = |name: &str| capability_bit(name).expect("known");
        assert_eq!(set(&[], &[]).expect("default"), 0xa804_25fb);
        assert_eq!(set(&["NET_ADMIN"], &["ALL"]).expect("only one"), bit("NET_ADMIN"));
        assert_eq!(set(&["ALL"], &["SYS_ADMIN"]).expect("all but one"), ALL & !bit("SYS_ADMIN"));
        assert_eq!(set(&[], &["CAP_MKNOD", "chown"]).expect("two less"), 0xa804_25fb & !bit("MKNOD") & !bit("CHOWN"));
        assert_eq!(set(&["FLY"], &[]), Err("FLY".to_owned()));
    }
}
