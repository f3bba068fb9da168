//! What a fresh Debian machine lacks: packages and the WebAssembly target. Says what it installs before it does.

use crate::{Outcome, shell};
use std::process::Command;

/// A program or file, and the Debian package that brings it.
#[derive(Clone, Copy)]
pub struct Need {
    /// A program on the PATH, or an absolute path, that shows the package is there.
    pub proof: &'static str,
    /// The package's name.
    pub package: &'static str,
}

/// The schema compiler.
pub const CAPNP: Need = Need { proof: "capnp", package: "capnproto" };

/// The compiler of libFuzzer.
pub const CXX: Need = Need { proof: "c++", package: "build-essential" };

/// To start a cluster and run the example.
pub const FOR_UP: &[Need] = &[
    Need { proof: "ip", package: "iproute2" },
    Need { proof: "kubectl", package: "kubernetes-client" },
    Need { proof: "docker-registry", package: "docker-registry" },
    Need { proof: "/bin/busybox", package: "busybox-static" },
    Need { proof: "cc", package: "build-essential" },
];

/// To run every test.
pub const FOR_TESTS: &[Need] = &[
    Need { proof: "ip", package: "iproute2" },
    Need { proof: "kubectl", package: "kubernetes-client" },
    Need { proof: "docker-registry", package: "docker-registry" },
    Need { proof: "/bin/busybox", package: "busybox-static" },
    Need { proof: "cc", package: "build-essential" },
    Need { proof: "curl", package: "curl" },
    Need { proof: "containerd", package: "containerd" },
    Need { proof: "/usr/lib/cni/bridge", package: "containernetworking-plugins" },
    CAPNP,
];

/// To measure against peers.
pub const FOR_BENCH: &[Need] = &[
    Need { proof: "runc", package: "runc" },
    Need { proof: "etcd", package: "etcd-server" },
    Need { proof: "etcdctl", package: "etcd-client" },
    Need { proof: "containerd", package: "containerd" },
    Need { proof: "/usr/lib/cni/loopback", package: "containernetworking-plugins" },
];

/// Installs the packages whose proof is missing.
pub fn packages(needs: &[Need]) -> Outcome {
    let there =
        |n: &Need| if n.proof.starts_with('/') { std::path::Path::new(n.proof).exists() } else { pintle_tests::has_program(n.proof) };
    let missing: Vec<&str> = needs.iter().filter(|n| !there(n)).map(|n| n.package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !pintle_tests::has_program("apt-get") {
        return Err(format!("missing: {}; install them with this machine's package manager", missing.join(", ")).into());
    }
    eprintln!("installing Debian packages: {}", missing.join(", "));
    shell::run("apt-get", &["update", "-qq"])?;
    let mut args = vec!["install", "-y", "-qq", "--no-install-recommends"];
    args.extend(&missing);
    shell::run("env", &[&["DEBIAN_FRONTEND=noninteractive", "apt-get"], &args[..]].concat())
}

/// The target that modules are built for.
pub fn wasm_target() -> Outcome {
    const TARGET: &str = "wasm32-wasip2";
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output()?;
    let sysroot = String::from_utf8_lossy(&sysroot.stdout).trim().to_owned();
    if std::path::Path::new(&sysroot).join("lib/rustlib").join(TARGET).exists() {
        return Ok(());
    }
    eprintln!("installing the Rust target {TARGET}");
    shell::run("rustup", &["target", "add", TARGET])
        .map_err(|e| format!("{e}; without rustup's downloads the modules cannot be built yet (README.md, \"Not there yet\")").into())
}

/// Whether there is a Go that brings the Go a module asks for: 1.21 or later. Debian 12 has an older one, which is of no use.
pub fn go() -> bool {
    let Ok(output) = Command::new("go").args(["env", "GOVERSION"]).output() else { return false };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let minor = text.trim().strip_prefix("go1.").and_then(|rest| rest.split(['.', 'r', 'b']).next()?.parse::<u32>().ok());
    minor.is_some_and(|minor| minor >= 21)
}

/// Python with what its environments are made by: Debian has that in a package of its own.
pub fn python() -> Outcome {
    if Command::new("python3").args(["-c", "import ensurepip, venv"]).output().is_ok_and(|output| output.status.success()) {
        return Ok(());
    }
    packages(&[Need { proof: "/usr/share/doc/python3-venv", package: "python3-venv" }])
}
