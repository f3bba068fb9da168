//! The images that the suite asks for, built here: programs from its own Go module, the rest from Debian packages, under the names and tags that
//! its `test/utils/image/manifest.go` has.
//!
//! An image is a directory that becomes a layer. What was pushed is noted with what it was made of, and not made again.

use super::tools::Tools;
use crate::{Outcome, shell};
use pintle_tests::{
    image::{self, Layer},
    registry::Registry,
};
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

/// The registry whose images we have.
pub const REGISTRY: &str = "registry.k8s.io";

/// An image: repository and tag below [`REGISTRY`], the Debian packages in it, what else is put in, how it runs.
struct Recipe {
    name: &'static str,
    tags: &'static [&'static str],
    packages: &'static [&'static str],
    fill: fn(&Path, &Tools) -> Outcome,
    config: fn() -> Value,
}

const DNS_TOOLS: &[&str] = &["bind9-dnsutils", "libc-bin", "bash"];
const AGNHOST_TOOLS: &[&str] = &["bind9-dnsutils", "libc-bin", "bash", "curl", "netcat-openbsd", "iproute2", "iperf", "socat"];

/// Packages that others depend on for their installation, not to run.
const NOT_TO_RUN: &[&str] = &["base-files", "cdebconf", "debconf", "dpkg", "install-info", "libdebian-installer4", "libnewt0.52", "tar"];

const RECIPES: &[Recipe] = &[
    Recipe {
        name: "pause",
        tags: &["3.10.2"],
        packages: &[],
        fill: pause,
        config: || json!({"Entrypoint": ["/pause"], "User": "65535:65535"}),
    },
    Recipe { name: "e2e-test-images/busybox", tags: &["1.37.0-2"], packages: &[], fill: base, config: || json!({"Cmd": ["sh"]}) },
    Recipe {
        name: "e2e-test-images/nonroot",
        tags: &["1.5"],
        packages: &[],
        fill: base,
        config: || json!({"Cmd": ["sh"], "User": "1234"}),
    },
    Recipe { name: "e2e-test-images/nonewprivs", tags: &["1.4"], packages: &[], fill: nonewprivs, config: || json!({"Cmd": ["nnp"]}) },
    Recipe {
        name: "e2e-test-images/agnhost",
        tags: &["2.66.1", "2.55"],
        packages: AGNHOST_TOOLS,
        fill: agnhost,
        config: || agnhost_with("pause"),
    },
    Recipe { name: "e2e-test-images/nautilus", tags: &["1.8"], packages: &[], fill: nautilus, config: || agnhost_with("test-webserver") },
    Recipe { name: "e2e-test-images/kitten", tags: &["1.8"], packages: &[], fill: kitten, config: || agnhost_with("test-webserver") },
    Recipe {
        name: "e2e-test-images/glibc-dns-testing",
        tags: &["2.1.1"],
        packages: DNS_TOOLS,
        fill: base,
        config: || json!({"Cmd": ["bash"]}),
    },
    Recipe {
        name: "e2e-test-images/nginx",
        tags: &["1.27.0-2", "1.28.0-2"],
        packages: &["nginx-light"],
        fill: nginx,
        config: || json!({"Cmd": ["nginx", "-g", "daemon off;"], "StopSignal": "SIGQUIT", "ExposedPorts": {"80/tcp": {}}}),
    },
];

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

fn agnhost_with(verb: &str) -> Value {
    json!({"Entrypoint": ["/agnhost"], "Cmd": [verb]})
}

/// Builds and pushes every image that `registry`, whose data is in `dir`, has not got in its present form.
pub fn push(registry: &Registry, dir: &Path, tools: &Tools) -> Outcome {
    for recipe in RECIPES {
        let made_of = format!("{} {:?} {:?} {} {}", recipe.name, recipe.tags, recipe.packages, (recipe.config)(), tools.stamp()?);
        let note = dir.join("pushed").join(recipe.name.replace('/', "_"));
        if fs::read_to_string(&note).is_ok_and(|old| old == made_of) {
            continue;
        }
        eprintln!("building the image {REGISTRY}/{}:{}", recipe.name, recipe.tags.join(", "));
        let root = dir.join("rootfs");
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(&root)?;
        if !recipe.packages.is_empty() {
            debian(&root, &dir.join("packages"), recipe.packages)?;
        }
        (recipe.fill)(&root, tools)?;
        let mut config = (recipe.config)();
        config["Env"] = json!([PATH]);
        config["WorkingDir"] = json!("/");
        let image = image::assemble(&[Layer::of_directory(&root)?], &config);
        for tag in recipe.tags {
            registry.push(&image, recipe.name, tag)?;
        }
        fs::remove_dir_all(&root)?;
        fs::create_dir_all(dir.join("pushed"))?;
        fs::write(note, made_of)?;
    }
    Ok(())
}

/// Unpacks Debian packages and what they depend on, without their manuals.
fn debian(root: &Path, cache: &Path, packages: &[&str]) -> Outcome {
    fs::create_dir_all(cache)?;
    let quiet = ["pre-depends", "recommends", "suggests", "conflicts", "breaks", "replaces", "enhances"].map(|what| format!("--no-{what}"));
    let closure = pintle_tests::run(Command::new("apt-cache").args(["depends", "--recurse"]).args(&quiet).args(packages))?;
    let plain = |name: &&str| name.starts_with(|c: char| c.is_ascii_lowercase()) && !name.contains(':') && !NOT_TO_RUN.contains(name);
    let wanted: Vec<&str> = closure.lines().filter(plain).collect();
    let missing: Vec<&str> = wanted.iter().copied().filter(|name| cached(cache, name).is_none()).collect();
    if !missing.is_empty() {
        pintle_tests::run(Command::new("apt-get").args(["download", "-qq"]).args(missing).current_dir(cache))?;
    }
    for name in wanted {
        let package = cached(cache, name).ok_or_else(|| format!("apt-get downloaded no {name}"))?;
        pintle_tests::run(Command::new("dpkg-deb").arg("-x").arg(package).arg(root))?;
    }
    // What installing the package would have chosen among its alternatives.
    if root.join("bin/nc.openbsd").exists() {
        symlink("nc.openbsd", root.join("bin/nc"))?;
    }
    // Debian's busybox shell would prefer the tools of its own.
    if root.join("bin/bash").exists() {
        let _ = fs::remove_file(root.join("bin/sh"));
        symlink("bash", root.join("bin/sh"))?;
    }
    for unread in ["doc", "man", "locale", "info", "lintian", "bash-completion"] {
        let _ = fs::remove_dir_all(root.join("usr/share").join(unread));
    }
    Ok(())
}

/// The downloaded file of a package.
fn cached(cache: &Path, name: &str) -> Option<PathBuf> {
    let prefix = format!("{name}_");
    let mut files = fs::read_dir(cache).ok()?.flatten().map(|e| e.path());
    files.find(|f| f.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&prefix)) && f.extension().is_some_and(|e| e == "deb"))
}

fn file(path: PathBuf, content: impl AsRef<[u8]>, mode: u32) -> Outcome {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(&path, content)?;
    Ok(fs::set_permissions(&path, fs::Permissions::from_mode(mode))?)
}

/// Directories, accounts, and Debian's static busybox for every program that nothing else brought.
fn base(root: &Path, _: &Tools) -> Outcome {
    for dir in ["bin", "etc", "proc", "sys", "dev", "tmp", "var/run", "var/log", "root", "usr/bin", "usr/sbin", "home"] {
        fs::create_dir_all(root.join(dir))?;
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    file(root.join("bin/busybox"), fs::read("/bin/busybox")?, 0o755)?;
    for applet in pintle_tests::run(Command::new("/bin/busybox").arg("--list"))?.lines() {
        let elsewhere = ["bin", "sbin", "usr/bin", "usr/sbin"].iter().any(|d| root.join(d).join(applet).symlink_metadata().is_ok());
        if !elsewhere {
            symlink("busybox", root.join("bin").join(applet))?;
        }
    }
    let accounts =
        "root:x:0:0:root:/root:/bin/sh\nuser-defined-in-image:x:1000:1000::/home:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
    let groups = "root:x:0:\nuser-defined-in-image:x:1000:\ngroup-defined-in-image:x:50000:user-defined-in-image\nnogroup:x:65534:\n";
    file(root.join("etc/passwd"), accounts, 0o644)?;
    file(root.join("etc/group"), groups, 0o644)?;
    file(root.join("etc/nsswitch.conf"), "hosts: files dns\n", 0o644)
}

fn pause(root: &Path, tools: &Tools) -> Outcome {
    let (source, program) = (tools.source.join("pause.c"), root.join("pause"));
    let (source, program) = (source.display().to_string(), program.display().to_string());
    shell::run("cc", &["-static", "-Os", "-s", "-o", &program, &source])
}

fn nonewprivs(root: &Path, tools: &Tools) -> Outcome {
    base(root, tools)?;
    file(root.join("usr/local/bin/nnp"), fs::read(tools.program("nonewprivs"))?, 0o6755)
}

fn agnhost(root: &Path, tools: &Tools) -> Outcome {
    base(root, tools)?;
    fs::create_dir_all(root.join("uploads"))?;
    for name in ["localhost.crt", "localhost.key"] {
        file(root.join(name), fs::read(tools.upstream.join("test/images/agnhost/porter").join(name))?, 0o644)?;
    }
    file(root.join("agnhost"), fs::read(tools.program("agnhost"))?, 0o755)?;
    Ok(symlink("agnhost", root.join("agnhost-2"))?)
}

fn nautilus(root: &Path, tools: &Tools) -> Outcome {
    page(root, tools, "nautilus")
}

fn kitten(root: &Path, tools: &Tools) -> Outcome {
    page(root, tools, "kitten")
}

/// The web server with the pages of an upstream image.
fn page(root: &Path, tools: &Tools, of: &str) -> Outcome {
    agnhost(root, tools)?;
    for entry in fs::read_dir(tools.upstream.join("test/images").join(of).join("html"))?.flatten() {
        file(root.join(entry.file_name()), fs::read(entry.path())?, 0o644)?;
    }
    // Upstream's image is made from Alpine's; a test of image volumes knows it by this file.
    file(root.join("etc/os-release"), "NAME=\"Alpine Linux\"\nID=alpine\n", 0o644)
}

fn nginx(root: &Path, tools: &Tools) -> Outcome {
    base(root, tools)?;
    for dir in ["var/lib/nginx", "var/log/nginx", "run", "usr/share/nginx/html"] {
        fs::create_dir_all(root.join(dir))?;
    }
    for (log, stream) in [("access.log", "/dev/stdout"), ("error.log", "/dev/stderr")] {
        symlink(stream, root.join("var/log/nginx").join(log))?;
    }
    let settings = "user nobody nogroup;\nworker_processes 1;\npid /run/nginx.pid;\nerror_log /var/log/nginx/error.log;\nevents {}\nhttp {\n  \
                    include mime.types;\n  access_log /var/log/nginx/access.log;\n  server {\n    listen 80;\n    root /usr/share/nginx/html;\n    \
                    index index.html;\n  }\n}\n";
    file(root.join("etc/nginx/nginx.conf"), settings, 0o644)?;
    file(root.join("usr/share/nginx/html/index.html"), "<html><title>Welcome to nginx!</title><h1>Welcome to nginx!</h1></html>\n", 0o644)
}
