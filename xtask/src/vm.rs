//! `cargo xtask vm [containers|node|selinux|bench] [FILTER...]`: the suites of real containers on Debian's own kernel with cgroup v2 and AppArmor, in
//! a virtual machine; what there is to show with SELinux, under a policy of our own (`selinux.cil`); or a container's life there against that of
//! runc and of crun.
//!
//! The machine is qemu's, emulated (nested KVM is not to be relied on): slow, and so no part of `cargo xtask test`. Its file system is an
//! archive made here: busybox, the test programs with what they are linked to and call, what Debian has of crun and AppArmor's parser,
//! and the kernel's modules. Nothing of this machine is shared with it, and nothing of it is left.

use crate::{Outcome, needs, shell};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const NEEDS: &[needs::Need] =
    &[needs::Need { proof: "qemu-system-x86_64", package: "qemu-system-x86" }, needs::Need { proof: "runc", package: "runc" }];
/// Debian's kernel for virtual machines, and what brings its version.
const KERNEL: &str = "linux-image-cloud-amd64";
/// Packages that are in the machine alone.
const GUESTS: &[&str] = &["crun", "libyajl2", "apparmor", "secilc", "libsepol2"];
const SUITES: &[&str] = &["containers", "node"];
const BENCH: &str = "bench";
/// The suite of containers on a kernel that has SELinux in AppArmor's place: what is named so.
const SELINUX: &str = "selinux";
const POLICY: &str = include_str!("selinux.cil");
/// As many categories as real policies have.
const CATEGORIES: u32 = 1024;
/// Runtimes that ours is measured against, and in how many rounds.
const PEERS: &[&str] = &["runc", "crun"];
const ROUNDS: u32 = 20;
/// What the suites call of ours.
const OURS: &[&str] = &["host-node", "pintle-runtime", "pintle-oci", "pintle-artifact"];
/// What the suites call besides.
const PROGRAMS: &[&str] =
    &["docker-registry", "ip", "bridge", "unshare", "cp", "iptables", "containerd", "ctr", "containerd-shim-runc-v2", "runc"];
/// Folders of programs that those call.
const FOLDERS: &[&str] = &["/usr/lib/cni", "/usr/lib/x86_64-linux-gnu/xtables"];
/// Families of kernel modules that containers and their network want.
const MODULES: &[&str] = &["fs/overlayfs", "net", "drivers/net", "lib", "crypto", "arch/x86/crypto"];
const MEMORY_MB: &str = "4096";
/// How many times longer than usual the tests wait there.
const SLOWNESS: u32 = 10;
const END: &str = "the suites have ended:";

/// Builds the machine's archive and runs it; fails when a suite does.
pub fn vm(args: &[String]) -> Outcome {
    needs::packages(needs::FOR_TESTS)?;
    needs::packages(NEEDS)?;
    // One boot for the suites, another one for the other security module.
    let (boots, filter) = match args.split_first() {
        Some((job, filter)) if [SUITES, &[BENCH, SELINUX]].concat().contains(&job.as_str()) => (vec![vec![job.as_str()]], filter),
        _ => (vec![SUITES.to_vec(), vec![SELINUX]], args),
    };
    let folder = pintle_tests::programs().with_file_name("vm");
    fs::create_dir_all(&folder)?;
    let kernel = kernel(&folder)?;
    let guests = unpacked(&folder, "guests", GUESTS)?;
    for jobs in boots {
        let programs = jobs.iter().map(|job| program(job)).collect::<Result<Vec<_>, _>>()?;
        let (module, filter) = match jobs.contains(&SELINUX) {
            true => (SELINUX, vec![SELINUX.to_owned()]),
            false => ("apparmor", filter.to_vec()),
        };
        let script = script(&programs, &filter, module);
        let archive = folder.join("archive");
        eprintln!("packing the machine");
        pack(&archive, &kernel, &guests, &programs, &script)?;
        boot(&kernel.image, &archive, module)?;
    }
    Ok(())
}

struct Kernel {
    image: PathBuf,
    /// `lib/modules/VERSION`.
    modules: PathBuf,
}

/// Fetches the kernel's package and unpacks it, once.
fn kernel(folder: &Path) -> Result<Kernel, Box<dyn std::error::Error>> {
    let depends = Command::new("apt-cache").args(["depends", KERNEL]).output()?;
    let text = String::from_utf8(depends.stdout)?;
    let package = text.split_whitespace().find(|word| word.starts_with("linux-image-") && *word != KERNEL);
    let unpacked = unpacked(folder, "kernel", &[package.ok_or("no kernel package: run `apt-get update`")?])?;
    let only = |folder: &str, prefix: &str| -> Result<PathBuf, Box<dyn std::error::Error>> {
        let entries = fs::read_dir(unpacked.join(folder))?.flatten().map(|entry| entry.path());
        let found = entries.into_iter().find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)));
        found.ok_or_else(|| format!("no {folder}/{prefix}* in the kernel's package").into())
    };
    Ok(Kernel { image: only("boot", "vmlinuz-")?, modules: only("lib/modules", "")? })
}

/// Fetches Debian's packages and unpacks them together into a folder, once; the folder.
fn unpacked(folder: &Path, name: &str, packages: &[&str]) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let (unpacked, fetched) = (folder.join(name), folder.join("fetched"));
    if unpacked.exists() {
        return Ok(unpacked);
    }
    eprintln!("fetching Debian's packages: {}", packages.join(", "));
    let partial = folder.join("partial");
    for left in [&partial, &fetched] {
        let _ = fs::remove_dir_all(left);
        fs::create_dir_all(left)?;
    }
    let done = Command::new("apt-get").args(["download", "-qq"]).args(packages).current_dir(&fetched).status()?;
    let files: Vec<PathBuf> = fs::read_dir(&fetched)?.flatten().map(|entry| entry.path()).collect();
    if !done.success() || files.len() != packages.len() {
        return Err(format!("not all of {} were fetched: run `apt-get update`", packages.join(", ")).into());
    }
    for file in files {
        shell::run("dpkg-deb", &["-x", &file.to_string_lossy(), &partial.to_string_lossy()])?;
    }
    fs::remove_dir_all(&fetched)?;
    fs::rename(&partial, &unpacked)?;
    Ok(unpacked)
}

/// Builds what a job runs: a suite's program, or the bench's.
fn program(job: &str) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let (words, target): (&[&str], &str) = match job {
        BENCH => (&["build", "--examples"], "bench_container"),
        SELINUX => (&["test", "--no-run", "--test", "containers"], "containers"),
        suite => (&["test", "--no-run", "--test", suite], suite),
    };
    let mut command = Command::new(cargo);
    command.args(words).args(["--release", "--workspace", "--message-format=json"]).current_dir(shell::root());
    let output = command.stderr(Stdio::inherit()).output()?;
    let lines = String::from_utf8(output.stdout)?;
    let artifacts = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let made = artifacts
        .filter(|artifact| artifact["target"]["name"] == target)
        .find_map(|artifact| Some(artifact["executable"].as_str()?.into()));
    made.ok_or_else(|| format!("{target} was not built").into())
}

/// What process 1 does of a job.
fn work(program: &Path, words: &str) -> String {
    let path = program.display();
    let named = path.to_string();
    let calls: Vec<String> = match named.contains("/examples/") {
        true => PEERS.iter().map(|peer| format!("{path} --runs {ROUNDS} --peer {peer}")).collect(),
        false => vec![format!("{path} --test-threads=2{words}")],
    };
    calls.iter().map(|call| format!("cd /; {call} || failed=\"$failed {path}\"\n")).collect()
}

/// What runs as process 1: from the archive into a file system that can be left (`pivot_root` refuses the first one), then the suites.
fn script(programs: &[PathBuf], filter: &[String], module: &str) -> String {
    let words: String = filter.iter().map(|word| format!(" '{}'", word.replace('\'', ""))).collect();
    let work: String = programs.iter().map(|program| work(program, &words)).collect();
    format!(
        "#!/bin/sh\n\
         if [ \"$1\" != inside ]; then\n\
         mount -t tmpfs -o size=90% tmpfs /new; for name in /*; do [ \"$name\" = /new ] || cp -a \"$name\" /new/; done\n\
         exec switch_root /new /init inside\n\
         fi\n\
         export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root RUST_BACKTRACE=0 PINTLE_TEST_SLOWNESS={SLOWNESS}\n\
         mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev; mkdir -p /dev/pts /dev/shm\n\
         mount -t devpts devpts /dev/pts; mount -t tmpfs shm /dev/shm; mount -t cgroup2 cgroup2 /sys/fs/cgroup\n\
         mount -t securityfs securityfs /sys/kernel/security\n\
         mount -t tmpfs run /run; mount --make-rshared /\n\
         if [ {module} = {SELINUX} ]; then\n\
         mount -t selinuxfs selinuxfs /sys/fs/selinux; secilc -c 33 -o /policy -f /dev/null /selinux.cil\n\
         dd if=/policy of=/sys/fs/selinux/load bs=1M 2>/dev/null; echo 1 > /sys/fs/selinux/enforce\n\
         fi\n\
         mkdir /sys/fs/cgroup/init; echo 1 > /sys/fs/cgroup/init/cgroup.procs\n\
         echo /bin/modprobe > /proc/sys/kernel/modprobe; depmod -a; for module in overlay veth bridge br_netfilter nf_tables nft_chain_nat sch_tbf dummy; do modprobe $module; done\n\
         ip link set lo up; hostname machine; echo nameserver 127.0.0.1 > /etc/resolv.conf\n\
         echo \"kernel $(uname -r), controllers $(cat /sys/fs/cgroup/cgroup.controllers), modules $(cat /sys/kernel/security/lsm)\"\n\
         failed=\n{work}\
         echo \"{END}$failed\"\n\
         poweroff -f\n"
    )
}

/// The policy with its categories, which the language has no loop for.
fn policy() -> String {
    let names: Vec<String> = (0..CATEGORIES).map(|number| format!("c{number}")).collect();
    let declared: String = names.iter().map(|name| format!("(category {name})\n")).collect();
    POLICY.replace("CATEGORIES", &format!("{declared}(categoryorder ({}))", names.join(" ")))
}

/// Writes the archive: `newc`, as the kernel unpacks it.
fn pack(archive: &Path, kernel: &Kernel, guests: &Path, programs: &[PathBuf], script: &str) -> Outcome {
    let mut cpio = Cpio { out: BufWriter::new(File::create(archive)?), made: BTreeSet::new(), count: 0 };
    for folder in ["new", "proc", "sys", "dev", "tmp", "run", "root", "etc", "var/lib", "var/tmp", "usr/bin", "usr/sbin", "sbin", "bin"] {
        cpio.folder(Path::new(folder))?;
    }
    cpio.entry("init", 0o100_755, script.as_bytes())?;
    cpio.entry("selinux.cil", 0o100_644, policy().as_bytes())?;
    cpio.entry("etc/passwd", 0o100_644, b"root:x:0:0:root:/root:/bin/sh\n")?;
    cpio.entry("etc/group", 0o100_644, b"root:x:0:\n")?;
    cpio.entry("etc/hosts", 0o100_644, b"127.0.0.1 localhost\n")?;
    cpio.copy(Path::new("/bin/busybox"))?;
    let applets = Command::new("/bin/busybox").arg("--list").output()?;
    for applet in String::from_utf8(applets.stdout)?.lines().filter(|applet| !PROGRAMS.contains(applet) && *applet != "busybox") {
        cpio.entry(&format!("bin/{applet}"), 0o120_777, b"busybox")?;
    }
    let ours = OURS.iter().map(|name| pintle_tests::programs().join(name)).filter(|path| path.exists());
    let found = PROGRAMS.iter().filter_map(|name| which(name));
    for program in ours.chain(programs.iter().cloned()).chain(found) {
        cpio.program(&program)?;
    }
    cpio.guests(guests)?;
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

    /// Programs and libraries of packages that are unpacked in `guests`, with what they are linked to.
    fn guests(&mut self, guests: &Path) -> Outcome {
        let libraries = guests.join("usr/lib/x86_64-linux-gnu");
        for folder in ["usr/bin", "usr/sbin", "sbin", "bin", "usr/lib/x86_64-linux-gnu"] {
            for entry in fs::read_dir(guests.join(folder)).into_iter().flatten().flatten().filter(|entry| entry.path().is_file()) {
                let name = format!("{folder}/{}", entry.file_name().to_string_lossy());
                self.entry(&name, 0o100_755, &fs::read(entry.path())?)?;
                let linked = Command::new("ldd").arg(entry.path()).env("LD_LIBRARY_PATH", &libraries).stderr(Stdio::null()).output()?;
                let text = String::from_utf8_lossy(&linked.stdout).into_owned();
                for library in text.split_whitespace().filter(|word| word.starts_with('/') && !Path::new(word).starts_with(guests)) {
                    self.copy(Path::new(library))?;
                }
            }
        }
        // What the programs read: AppArmor's parser is not quiet without its own.
        for folder in ["etc", "usr/share/apparmor-features"].map(|folder| guests.join(folder)).iter().filter(|folder| folder.exists()) {
            self.tree(folder, guests, Path::new(""))?;
        }
        Ok(())
    }

    /// Everything below `folder`, which is below `from`, to below `to`.
    fn tree(&mut self, folder: &Path, from: &Path, to: &Path) -> Outcome {
        for entry in fs::read_dir(folder)?.flatten() {
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                self.folder(&to.join(path.strip_prefix(from)?))?;
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
fn boot(image: &Path, archive: &Path, module: &str) -> Outcome {
    eprintln!("starting the machine (emulated: some minutes)");
    let mut qemu = Command::new("qemu-system-x86_64");
    // One processor in one thread: with more, an emulated kernel whose processors wait for each other locks up when this machine is busy.
    qemu.args(["-accel", "tcg,thread=single,tb-size=512", "-cpu", "Nehalem", "-smp", "1", "-m", MEMORY_MB]);
    qemu.args(["-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"]);
    qemu.arg("-kernel").arg(image).arg("-initrd").arg(archive);
    // Nothing that goes by the time of a clock may take the emulation's pauses for faults.
    let calm = "nokaslr mitigations=off nowatchdog rcupdate.rcu_cpu_stall_suppress=1 tsc=reliable";
    qemu.arg("-append").arg(format!("console=ttyS0 quiet panic=-1 edd=off security={module} {calm}"));
    let mut machine = qemu.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut ended = None;
    if let Some(console) = machine.stdout.take() {
        for line in BufReader::new(console).split(b'\n') {
            let line = String::from_utf8_lossy(&line?).trim_end().to_owned();
            println!("{line}");
            if let Some(row) = measured(&line) {
                println!("{row}");
            }
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

/// A line of the bench in words.
fn measured(line: &str) -> Option<String> {
    let row: Value = serde_json::from_str(line).ok()?;
    let number = |name: &str| row[name].as_f64();
    let (ours, theirs) = (number("p50_ms")?, number("peer_p50_ms")?);
    let peer = row["peer"].as_str()?;
    let mut text = format!(
        "create + start + delete: {ours:.1} ms ({:.1} to {:.1}), {peer} {theirs:.1} ms ({:.1} to {:.1}): {:.2}x",
        number("min_ms")?,
        number("max_ms")?,
        number("peer_min_ms")?,
        number("peer_max_ms")?,
        ours / theirs
    );
    if let (Some(ours), Some(theirs)) = (number("exec_p50_ms"), number("peer_exec_p50_ms")) {
        text += &format!("; exec {ours:.1} ms, {peer} {theirs:.1} ms: {:.2}x", ours / theirs);
    }
    Some(text)
}
