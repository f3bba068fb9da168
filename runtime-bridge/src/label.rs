//! What the machine's security modules are to hold a container to: an AppArmor profile, SELinux labels of its processes and files.
//!
//! The daemon decides when a container is made ([`Modules::labels`]), what it decided is kept with the container, and its init and every exec take
//! it on ([`assume`]) before they leave the machine's /proc. Invariant: a profile that was asked for and cannot be had is an error;
//! what nobody asked for is given where the machine has it.

use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::libc;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, Step};
use crate::spec::{AppArmor, SandboxId, Security, SelinuxOptions};
use crate::sys;

/// The profile that containers without one get. Its number changes with its text, so that a new text is loaded beside the old one.
pub const DEFAULT_PROFILE: &str = "pintle-default-1";
const DEFAULT_TEXT: &str = include_str!("apparmor.profile");
const PROFILES: &str = "/sys/kernel/security/apparmor/profiles";
const PARSER: &str = "apparmor_parser";
/// Where a system that has the parser may keep it although it is on no path of a daemon.
const PARSER_PATHS: &[&str] = &["/sbin/apparmor_parser", "/usr/sbin/apparmor_parser"];

const SELINUX: &str = "/sys/fs/selinux";
const SELINUX_CONFIG: &str = "/etc/selinux/config";
/// What the policies of Fedora and Debian call containers, for systems that do not say it in `lxc_contexts`.
const CONTAINER_CONTEXTS: [&str; 2] = ["system_u:system_r:container_t:s0", "system_u:object_r:container_file_t:s0"];
/// Number of categories of a level, as multi-category policies have them.
const CATEGORIES: u32 = 1024;
/// Directories in directories of a volume that are labelled.
const DEPTH_MAX: u32 = 512;

/// What a container's processes and files are labelled with. The default: nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Labels {
    /// AppArmor profile.
    pub(crate) app_armor: Option<String>,
    /// SELinux context of processes.
    pub(crate) process: Option<String>,
    /// SELinux context of files.
    pub(crate) files: Option<String>,
}

/// The security modules of this machine, looked at once.
pub(crate) struct Modules {
    /// With AppArmor: whether our default profile is loaded, else why not.
    app_armor: Option<std::result::Result<(), String>>,
    /// With SELinux: the contexts of containers' processes and files.
    selinux: Option<Contexts>,
}

/// SELinux contexts that containers get unless they ask for other ones.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Contexts {
    process: String,
    files: String,
    /// Whether the loaded policy knows them.
    known: bool,
}

/// Whether the kernel enforces AppArmor profiles.
#[must_use]
pub fn enforces_app_armor() -> bool {
    std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with('Y'))
}

/// Whether the kernel has an SELinux policy.
#[must_use]
pub fn has_selinux() -> bool {
    Path::new(SELINUX).join("enforce").exists()
}

impl Modules {
    /// Looks at the machine, and loads the default profile if it is not there. Blocks while the profile is compiled.
    pub(crate) fn look() -> Self {
        Self { app_armor: enforces_app_armor().then(load_default), selinux: has_selinux().then(Contexts::find) }
    }

    /// What a container with this confinement is labelled with; the containers of one sandbox share their categories.
    ///
    /// # Errors
    /// [`Error::InvalidSpec`] when a profile is asked for that is not loaded, or on a machine without AppArmor.
    pub(crate) fn labels(&self, security: &Security, sandbox: &SandboxId) -> Result<Labels> {
        let app_armor = self.app_armor(security)?;
        let [process, files] = match &self.selinux {
            Some(contexts) if !security.privileged => contexts.of(security.selinux.as_ref(), sandbox),
            _ => [None, None],
        };
        Ok(Labels { app_armor, process, files })
    }

    fn app_armor(&self, security: &Security) -> Result<Option<String>> {
        let refuse = |reason: String| Err(Error::spec("AppArmor profile", reason));
        match (&security.app_armor, &self.app_armor) {
            (AppArmor::Unconfined | AppArmor::Unsaid, None) | (AppArmor::Unconfined, _) => Ok(None),
            (_, None) => refuse("AppArmor is not enabled on this machine".to_owned()),
            (AppArmor::Profile(name), Some(_)) => match is_loaded(name) {
                Ok(false) => refuse(format!("{name:?} is not loaded")),
                // Where the list cannot be read, the kernel says at the start whether there is such a profile.
                _ => Ok(Some(name.clone())),
            },
            (AppArmor::Unsaid | AppArmor::RuntimeDefault, _) if security.privileged => Ok(None),
            (AppArmor::Unsaid, Some(Err(_))) => Ok(None),
            (AppArmor::RuntimeDefault, Some(Err(why))) => refuse(format!("the default profile was not loaded: {why}")),
            (AppArmor::Unsaid | AppArmor::RuntimeDefault, Some(Ok(()))) => Ok(Some(DEFAULT_PROFILE.to_owned())),
        }
    }
}

/// Whether the kernel's list of profiles has this one.
fn is_loaded(name: &str) -> io::Result<bool> {
    let list = std::fs::read_to_string(PROFILES)?;
    Ok(list.lines().filter_map(|line| line.rsplit_once(" (")).any(|(loaded, _)| loaded == name))
}

fn load_default() -> std::result::Result<(), String> {
    if is_loaded(DEFAULT_PROFILE).map_err(|e| format!("{PROFILES}: {e}"))? {
        return Ok(());
    }
    let loaded = run_parser(&DEFAULT_TEXT.replace("NAME", DEFAULT_PROFILE));
    if let Err(why) = &loaded {
        tracing::warn!(%why, "the default AppArmor profile is not loaded: containers that ask for none run without");
    }
    loaded
}

fn run_parser(text: &str) -> std::result::Result<(), String> {
    let path = PARSER_PATHS.iter().find(|path| Path::new(path).exists()).copied().unwrap_or(PARSER);
    let failed = |e: io::Error| format!("{path}: {e}");
    let mut child = Command::new(path)
        .args(["--replace", "--skip-cache", "--quiet"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output().map_err(failed)?;
    match (output.status.success(), written) {
        (true, Ok(())) => Ok(()),
        (_, Err(e)) if output.status.success() => Err(failed(e)),
        _ => Err(format!("{path}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

impl Contexts {
    /// As the system's policy says them (`lxc_contexts`), else as most policies call them.
    fn find() -> Self {
        let config = std::fs::read_to_string(SELINUX_CONFIG).unwrap_or_default();
        let policy = config.lines().find_map(|line| line.trim().strip_prefix("SELINUXTYPE=")).unwrap_or("targeted").trim().to_owned();
        let text = std::fs::read_to_string(Path::new("/etc/selinux").join(policy).join("contexts/lxc_contexts")).unwrap_or_default();
        let contexts = Self::parse(&text);
        // The kernel takes a context here only if its policy knows it.
        let known = std::fs::write(Path::new(SELINUX).join("context"), &contexts.process).is_ok();
        Self { known, ..contexts }
    }

    fn parse(text: &str) -> Self {
        let value = |key: &str| {
            let rows = text.lines().filter_map(|line| line.split_once('='));
            rows.filter(|(name, _)| name.trim() == key).map(|(_, value)| value.trim().trim_matches('"').to_owned()).next()
        };
        let [process, files] = CONTAINER_CONTEXTS;
        Self { process: value("process").unwrap_or(process.into()), files: value("file").unwrap_or(files.into()), known: true }
    }

    /// Contexts of processes and of files.
    fn of(&self, asked: Option<&SelinuxOptions>, sandbox: &SandboxId) -> [Option<String>; 2] {
        if asked.is_none() && !self.known {
            return [None, None];
        }
        let default = SelinuxOptions::default();
        let asked = asked.unwrap_or(&default);
        let mut process: Vec<String> = self.process.splitn(4, ':').map(str::to_owned).collect();
        for (part, asked) in process.iter_mut().zip([&asked.user, &asked.role, &asked.kind]) {
            if let Some(asked) = asked {
                part.clone_from(asked);
            }
        }
        // A policy without levels has contexts of three parts.
        let level = process.get(3).map(|level| match &asked.level {
            Some(asked) => asked.clone(),
            None if level == "s0" => format!("s0:{}", categories(sandbox)),
            None => level.clone(),
        });
        let with_level = |parts: &[String]| parts.iter().take(3).cloned().chain(level.clone()).collect::<Vec<_>>().join(":");
        let files: Vec<String> = self.files.splitn(4, ':').map(str::to_owned).collect();
        [Some(with_level(&process)), Some(with_level(&files))]
    }
}

/// Two of the categories, which a sandbox's id chooses: two pods have the same ones by a chance of one in half a million.
fn categories(sandbox: &SandboxId) -> String {
    // FNV-1a: spreads ids, keeps no secret.
    let hash = sandbox.as_str().bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let first = hash % CATEGORIES;
    let second = (first + 1 + (hash >> 16) % (CATEGORIES - 1)) % CATEGORIES;
    format!("c{},c{}", first.min(second), first.max(second))
}

/// Takes the labels on from the next exec on. The process must still see the machine's /proc.
///
/// # Errors
/// What the kernel says: no such profile, a context that its policy does not know, or a security module that is not there.
pub(crate) fn assume(labels: &Labels) -> io::Result<()> {
    let told = |what: &str, name: &str, e: io::Error| io::Error::new(e.kind(), format!("{what} {name:?}: {e}"));
    if let Some(name) = &labels.app_armor {
        // Kernels before 5.8 have only the file that all modules share.
        let own = std::fs::write("/proc/self/attr/apparmor/exec", format!("exec {name}"));
        let done = match own {
            Err(e) if e.kind() == io::ErrorKind::NotFound && !is_loaded(name).unwrap_or(false) => Err(e),
            Err(e) if e.kind() == io::ErrorKind::NotFound => std::fs::write("/proc/self/attr/exec", format!("exec {name}")),
            other => other,
        };
        done.map_err(|e| told("AppArmor profile", name, e))?;
    }
    if let Some(context) = &labels.process {
        std::fs::write("/proc/self/attr/exec", context).map_err(|e| told("SELinux label", context, e))?;
    }
    Ok(())
}

/// Gives `path` and everything below it the label of a container's files. No link is followed, not even one that a container puts in a
/// directory's place meanwhile: the walk goes by descriptors.
pub(crate) fn relabel(path: &Path, context: &str) -> Result<()> {
    let failed = || format!("label {} with {context}", path.display());
    match sys::openat2(nix::fcntl::AT_FDCWD, &sys::cpath(path).step(failed)?, libc::O_PATH, 0, 0) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        opened => opened.and_then(|opened| relabel_opened(&opened, context, DEPTH_MAX)).step(failed),
    }
}

fn relabel_opened(opened: &OwnedFd, context: &str, depth: u32) -> io::Result<()> {
    let link = format!("/proc/self/fd/{}", opened.as_raw_fd());
    match sys::set_label(&link, context) {
        // What knows no labels (an NFS export), or cannot be written to, has those of its mount.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOTSUP | libc::EROFS)) => return Ok(()),
        other => other?,
    }
    if nix::sys::stat::fstat(opened)?.st_mode & libc::S_IFMT != libc::S_IFDIR {
        return Ok(());
    }
    let deeper = depth.checked_sub(1).ok_or_else(|| io::Error::other("directories are too deep"))?;
    for entry in std::fs::read_dir(&link)? {
        let name = sys::cstring(entry?.file_name().as_bytes())?;
        let flags = libc::O_PATH | libc::O_NOFOLLOW;
        match sys::openat2(opened.as_fd(), &name, flags, 0, libc::RESOLVE_BENEATH | libc::RESOLVE_NO_MAGICLINKS) {
            // A link's own label is nobody's matter: what it leads to counts.
            Ok(found) if nix::sys::stat::fstat(&found)?.st_mode & libc::S_IFMT == libc::S_IFLNK => {}
            Ok(found) => relabel_opened(&found, context, deeper)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sandbox() -> SandboxId {
        SandboxId::parse("s").expect("an id")
    }

    #[test]
    fn a_profile_that_was_asked_for_is_there_or_refused() {
        let check = |machine: Option<std::result::Result<(), String>>,
                     asked: AppArmor,
                     privileged: bool,
                     expected: std::result::Result<Option<&str>, &str>| {
            let modules = Modules { app_armor: machine, selinux: None };
            let security = Security { app_armor: asked.clone(), privileged, ..Security::default() };
            let found = modules.labels(&security, &sandbox()).map(|labels| labels.app_armor).map_err(|e| e.to_string());
            match expected {
                Ok(name) => assert_eq!(found.as_ref().map(|name| name.as_deref()), Ok(name), "{asked:?}"),
                Err(words) => assert!(found.as_ref().is_err_and(|why| why.contains(words)), "{asked:?}: {found:?}"),
            }
        };
        let broken = || Some(Err("no parser".to_owned()));
        check(None, AppArmor::Unsaid, false, Ok(None));
        check(None, AppArmor::Unconfined, false, Ok(None));
        check(None, AppArmor::RuntimeDefault, false, Err("not enabled"));
        check(None, AppArmor::Profile("x".into()), true, Err("not enabled"));
        check(broken(), AppArmor::Unsaid, false, Ok(None));
        check(broken(), AppArmor::RuntimeDefault, false, Err("no parser"));
        check(Some(Ok(())), AppArmor::Unsaid, false, Ok(Some(DEFAULT_PROFILE)));
        check(Some(Ok(())), AppArmor::RuntimeDefault, false, Ok(Some(DEFAULT_PROFILE)));
        check(Some(Ok(())), AppArmor::RuntimeDefault, true, Ok(None));
        check(Some(Ok(())), AppArmor::Unconfined, false, Ok(None));
    }

    #[test]
    fn contexts_are_the_systems_with_what_was_asked_for() {
        let text = "process = \"u:r:box_t:s0\"\nfile = \"u:object_r:box_file_t:s0\"\nsandbox_lxc_process=\"x\"\n";
        let check = |contexts: &Contexts, asked: Option<SelinuxOptions>, expected: [&str; 2]| {
            assert_eq!(contexts.of(asked.as_ref(), &sandbox()), expected.map(|text| Some(text.to_owned())));
        };
        let found = Contexts::parse(text);
        let own = categories(&sandbox());
        check(&found, None, [&format!("u:r:box_t:s0:{own}"), &format!("u:object_r:box_file_t:s0:{own}")]);
        let asked = SelinuxOptions { kind: Some("db_t".into()), level: Some("s0:c3".into()), ..SelinuxOptions::default() };
        check(&found, Some(asked), ["u:r:db_t:s0:c3", "u:object_r:box_file_t:s0:c3"]);
        check(&Contexts::parse("process=\"u:r:t\"\nfile=\"u:o:f\""), None, ["u:r:t", "u:o:f"]);
        assert_eq!(Contexts { known: false, ..Contexts::parse("") }.of(None, &sandbox()), [None, None], "the policy knows no containers");
    }

    #[test]
    fn categories_are_two_different_ones() {
        for number in 0..5000 {
            let text = categories(&SandboxId::parse(&format!("pod{number}")).expect("an id"));
            let (first, second) = text.split_once(',').expect("two");
            let number = |text: &str| text[1..].parse::<u32>().expect("a number");
            assert!(number(first) < number(second) && number(second) < CATEGORIES, "{text}");
        }
    }
}
