//! `cargo xtask vm [containers|node] [FILTER...]`: the suites of real containers on Debian's own kernel with cgroup v2, in a virtual machine.
//!
//! The machine is qemu's, emulated where there is no KVM that works: slow, and so no part of `cargo xtask test`. Its file system is an
//! archive made here: busybox, the test programs with what they are linked to and call, and the kernel's modules. Nothing of
//! this machine is shared with it, and nothing of it is left.

use crate::{Outcome, needs, shell};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const NEEDS: &[needs::Need] = &[needs::Need { proof: "qemu-system-x86_64", package: "qemu-system-x86" }];
/// Debian's kernel for virtual machines, and what brings its version.
const KERNEL: &str = "linux-image-cloud-amd64";
const SUITES: &[&str] = &["containers", "node"];
/// What the suites call besides their own programs.
const PROGRAMS: &[&str] = &["docker-registry", "ip", "unshare", "cp", "iptables", "containerd", "ctr", "containerd-shim-runc-v2"];
/// Folders of programs that those call.
const FOLDERS: &[&str] = &["/usr/lib/cni", "/usr/lib/x86_64-linux-gnu/xtables"];
/// Families of kernel modules that containers and their network want.
const MODULES: &[&str] = &["fs/overlayfs", "net", "drivers/net", "lib", "crypto", "arch/x86/crypto"];
const MEMORY_MB: &str = "4096";
const END: &str = "the suites have ended:";

/// Builds the machine's archive and runs it; fails when a suite does.
pub fn vm(args: &[String]) -> Outcome {
    needs::packages(needs::FOR_TESTS)?;
    needs::packages(NEEDS)?;
    let (suites, filter) = match args.split_first() {
        Some((suite, filter)) if SUITES.contains(&suite.as_str()) => (vec![suite.as_str()], filter),
        _ => (SUITES.to_vec(), args),
    };
    let folder = pintle_tests::programs().with_file_name("vm");
    fs::create_dir_all(&folder)?;
    let kernel = kernel(&folder)?;
    let programs = suites.iter().map(|suite| program(suite)).collect::<Result<Vec<_>, _>>()?;
    let archive = folder.join("archive");
    eprintln!("packing the machine");
    pack(&archive, &kernel, &programs, &script(&programs, filter))?;
    boot(&kernel.image, &archive)
}

struct Kernel {
    image: PathBuf,
    /// `lib/modules/VERSION`.
    modules: PathBuf,
}

/// Fetches the kernel's package and unpacks it, once.
fn kernel(folder: &Path) -> Result<Kernel, Box<dyn std::error::Error>> {
    let unpacked = folder.join("kernel");
    if !unpacked.join("boot").exists() {
        eprintln!("fetching Debian's kernel");
        let depends = Command::new("apt-cache").args(["depends", KERNEL]).output()?;
        let text = String::from_utf8(depends.stdout)?;
        let package = text.split_whitespace().find(|word| word.starts_with("linux-image-") && *word != KERNEL);
        let package = package.ok_or("no kernel package: run `apt-get update`")?;
        let fetched = Command::new("apt-get").args(["download", "-qq", package]).current_dir(folder).status()?;
        let file = fs::read_dir(folder)?.flatten().map(|entry| entry.path()).find(|path| path.extension().is_some_and(|ext| ext == "deb"));
        let file = file.filter(|_| fetched.success()).ok_or_else(|| format!("{package} was not fetched"))?;
        shell::run("dpkg-deb", &["-x", &file.to_string_lossy(), &unpacked.to_string_lossy()])?;
        fs::remove_file(file)?;
    }
    let only = |folder: &str, prefix: &str| -> Result<PathBuf, Box<dyn std::error::Error>> {
        let entries = fs::read_dir(unpacked.join(folder))?.flatten().map(|entry| entry.path());
        let found = entries.into_iter().find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)));
        found.ok_or_else(|| format!("no {folder}/{prefix}* in the kernel's package").into())
    };
    Ok(Kernel { image: only("boot", "vmlinuz-")?, modules: only("lib/modules", "")? })
}

/// Builds a suite; its program.
fn program(suite: &str) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["test", "--release", "--workspace", "--no-run", "--message-format=json", "--test", suite]).current_dir(shell::root());
    let output = command.stderr(Stdio::inherit()).output()?;
    let lines = String::from_utf8(output.stdout)?;
    let artifacts = lines.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let made =
        artifacts.filter(|artifact| artifact["target"]["name"] == suite).find_map(|artifact| Some(artifact["executable"].as_str()?.into()));
    made.ok_or_else(|| format!("suite {suite} was not built").into())
}

/// What runs as process 1: from the archive into a file system that can be left (`pivot_root` refuses the first one), then the suites.
fn script(programs: &[PathBuf], filter: &[String]) -> String {
    let words: String = filter.iter().map(|word| format!(" '{}'", word.replace('\'', ""))).collect();
    let suites: String = programs
        .iter()
        .map(|program| format!("cd /; {} --test-threads=2{words} || failed=\"$failed {}\"\n", program.display(), program.display()))
        .collect();
    format!(
        "#!/bin/sh\n\
         if [ \"$1\" != inside ]; then\n\
         mount -t tmpfs -o size=90% tmpfs /new; for name in /*; do [ \"$name\" = /new ] || cp -a \"$name\" /new/; done\n\
         exec switch_root /new /init inside\n\
         fi\n\
         export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root RUST_BACKTRACE=0\n\
         mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev; mkdir -p /dev/pts /dev/shm\n\
         mount -t devpts devpts /dev/pts; mount -t tmpfs shm /dev/shm; mount -t cgroup2 cgroup2 /sys/fs/cgroup\n\
         mount -t tmpfs run /run; mount --make-rshared /\n\
         mkdir /sys/fs/cgroup/init; echo 1 > /sys/fs/cgroup/init/cgroup.procs\n\
         depmod -a; for module in overlay veth bridge br_netfilter nf_tables nft_chain_nat sch_tbf dummy; do modprobe $module; done\n\
         ip link set lo up; hostname machine; echo nameserver 127.0.0.1 > /etc/resolv.conf\n\
         echo \"kernel $(uname -r), controllers $(cat /sys/fs/cgroup/cgroup.controllers)\"\n\
         failed=\n{suites}\
         echo \"{END}$failed\"\n\
         poweroff -f\n"
    )
}

/// Writes the archive: `newc`, as the kernel unpacks it.
fn pack(archive: &Path, kernel: &Kernel, programs: &[PathBuf], script: &str) -> Outcome {
    let mut cpio = Cpio { out: BufWriter::new(File::create(archive)?), made: BTreeSet::new(), count: 0 };
    for folder in ["new", "proc", "sys", "dev", "tmp", "run", "root", "etc", "var/lib", "var/tmp", "usr/bin", "usr/sbin", "sbin", "bin"] {
        cpio.folder(Path::new(folder))?;
    }
    cpio.entry("init", 0o100_755, script.as_bytes())?;
    cpio.entry("etc/passwd", 0o100_644, b"root:x:0:0:root:/root:/bin/sh\n")?;
    cpio.entry("etc/group", 0o100_644, b"root:x:0:\n")?;
    cpio.copy(Path::new("/bin/busybox"))?;
    let applets = Command::new("/bin/busybox").arg("--list").output()?;
    for applet in String::from_utf8(applets.stdout)?.lines().filter(|applet| !PROGRAMS.contains(applet) && *applet != "busybox") {
        cpio.entry(&format!("bin/{applet}"), 0o120_777, b"busybox")?;
    }
    let beside = fs::read_dir(pintle_tests::programs())?.flatten().map(|entry| entry.path());
    let ours = beside.filter(|path| path.is_file() && path.extension().is_none());
    for program in ours.chain(programs.iter().cloned()).chain(PROGRAMS.iter().filter_map(|name| which(name))) {
        cpio.program(&program)?;
    }
    for folder in FOLDERS.iter().map(Path::new).filter(|folder| folder.exists()) {
        for entry in fs::read_dir(folder)?.flatten() {
            cpio.program(&entry.path())?;
        }
    }
    let version = kernel.modules.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for family in MODULES.iter().map(|family| kernel.modules.join("kernel").join(family)).filter(|family| family.exists()) {
        cpio.tree(&family, &kernel.modules, &Path::new("lib/modules").join(&version))?;
    }
    let certificates = Path::new("/etc/ssl/certs/ca-certificates.crt");
    if certificates.exists() {
        cpio.copy(certificates)?;
    }
    for list in ["modules.builtin", "modules.order", "modules.builtin.modinfo"] {
        if let Ok(content) = fs::read(kernel.modules.join(list)) {
            cpio.entry(&format!("lib/modules/{version}/{list}"), 0o100_644, &content)?;
        }
    }
    cpio.end()
}

fn which(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(name)).find(|path| path.is_file())
}

struct Cpio {
    out: BufWriter<File>,
    made: BTreeSet<PathBuf>,
    count: u32,
}

impl Cpio {
    /// One entry; `name` without the leading slash, `mode` with its kind.
    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) -> Outcome {
        let path = PathBuf::from(name);
        if !self.made.insert(path.clone()) {
            return Ok(());
        }
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            self.folder(parent)?;
        }
        self.count += 1;
        let fields = [self.count, mode, 0, 0, 1, 0, u32::try_from(content.len())?, 0, 0, 0, 0, u32::try_from(name.len() + 1)?, 0];
        let header: String = fields.iter().map(|field| format!("{field:08x}")).collect();
        let head = format!("070701{header}{name}\0");
        self.out.write_all(head.as_bytes())?;
        self.out.write_all(&[0; 3][..(4 - head.len() % 4) % 4])?;
        self.out.write_all(content)?;
        self.out.write_all(&[0; 3][..(4 - content.len() % 4) % 4])?;
        Ok(())
    }

    fn folder(&mut self, path: &Path) -> Outcome {
        self.entry(&path.to_string_lossy(), 0o040_755, b"")
    }

    /// A file under its own path.
    fn copy(&mut self, path: &Path) -> Outcome {
        let mode = 0o100_000 | (fs::metadata(path)?.permissions().mode() & 0o777);
        self.entry(path.to_string_lossy().trim_start_matches('/'), mode, &fs::read(path)?)
    }

    /// A program with the libraries that it is linked to.
    fn program(&mut self, path: &Path) -> Outcome {
        self.copy(path)?;
        let linked = Command::new("ldd").arg(path).stderr(Stdio::null()).output()?;
        for library in String::from_utf8_lossy(&linked.stdout).split_whitespace().filter(|word| word.starts_with('/')) {
            self.copy(Path::new(library))?;
        }
        Ok(())
    }

    /// Everything below `folder`, which is below `from`, to below `to`.
    fn tree(&mut self, folder: &Path, from: &Path, to: &Path) -> Outcome {
        for entry in fs::read_dir(folder)?.flatten() {
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                self.tree(&path, from, to)?;
            } else {
                let name = to.join(path.strip_prefix(from)?);
                self.entry(&name.to_string_lossy(), 0o100_000 | (entry.metadata()?.mode() & 0o777), &fs::read(&path)?)?;
            }
        }
        Ok(())
    }

    fn end(&mut self) -> Outcome {
        self.entry("TRAILER!!!", 0, b"")?;
        Ok(self.out.flush()?)
    }
}

/// Runs the machine with its console shown.
fn boot(image: &Path, archive: &Path) -> Outcome {
    eprintln!("starting the machine (emulated: some minutes)");
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args([
        // With more processors, or in more threads, the emulated kernel locks up under load.
        "-accel",
        "tcg,thread=single",
        "-cpu",
        "Nehalem",
        "-smp",
        "1",
        "-m",
        MEMORY_MB,
        "-nodefaults",
        "-display",
        "none",
        "-serial",
        "stdio",
        "-no-reboot",
    ]);
    qemu.arg("-kernel")
        .arg(image)
        .arg("-initrd")
        .arg(archive)
        .args(["-append", "console=ttyS0 quiet panic=-1 edd=off nowatchdog mitigations=off tsc=unstable"]);
    let mut machine = qemu.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut ended = None;
    if let Some(console) = machine.stdout.take() {
        for line in BufReader::new(console).split(b'\n') {
            let line = String::from_utf8_lossy(&line?).trim_end().to_owned();
            println!("{line}");
            if let Some((_, failed)) = line.split_once(END) {
                ended = Some(failed.trim().to_owned());
            }
        }
    }
    machine.wait()?;
    match ended {
        Some(failed) if failed.is_empty() => Ok(()),
        Some(failed) => Err(format!("failed in the machine: {failed}").into()),
        None => Err("the machine ended before its suites".into()),
    }
}
