//! What is built, and where it is put.

use crate::{Outcome, needs, shell};
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

/// The target of modules.
const WASM: &str = "wasm32-wasip2";

/// What guests in other languages are joined with, and the package that it is built from.
const ADAPTERS: [(&str, &str); 4] = [
    ("admission", "pintle-adapter-admission"),
    ("controller", "pintle-adapter-controller"),
    ("kube-scheduler", "pintle-adapter-kube-scheduler"),
    ("kubewarden", "pintle-adapter-kubewarden"),
];

/// Every program, with the features that the whole workspace gives the crates below them, as [`everything`] has them: both builds share what they make.
pub fn programs() -> Outcome {
    shell::cargo(&["build", "--release", "--workspace", "--bins"])
}

/// Every program, library, test and example of the workspace, in the one build that `cargo test` then finds done.
pub fn everything() -> Outcome {
    shell::cargo(&["build", "--release", "--workspace", "--all-targets"])
}

/// The built-in modules: each folder of `modules/` with a `module.json`, to `target/release/modules/NAME.{wasm,json}`; and the
/// adapters of `modules/adapters/` to `target/release/adapters/`.
pub fn modules() -> Outcome {
    let folders = module_folders(&shell::root().join("modules"))?;
    let packages: Vec<String> = folders.iter().map(|f| format!("pintle-module-{}", name(f))).collect();
    let mut args = vec!["build", "--profile", "module", "--target", WASM];
    for package in packages.iter().map(String::as_str).chain(ADAPTERS.map(|(_, package)| package)) {
        args.extend(["-p", package]);
    }
    shell::cargo(&args)?;
    let out = pintle_tests::programs().join("modules");
    fs::create_dir_all(&out)?;
    let built = pintle_tests::programs().with_file_name(WASM).join("module");
    for folder in &folders {
        let file = format!("pintle_module_{}.wasm", name(folder).replace('-', "_"));
        place(&built.join(file), &out.join(format!("{}.wasm", name(folder))))?;
        place(&folder.join("module.json"), &out.join(format!("{}.json", name(folder))))?;
    }
    adapt()?;
    let out = pintle_tests::programs().join("adapters");
    fs::create_dir_all(&out)?;
    for (name, package) in ADAPTERS {
        place(&built.join(format!("{}.wasm", package.replace('-', "_"))), &out.join(format!("{name}.wasm")))?;
    }
    Ok(())
}

/// The program that joins guests with them, in a workspace of its own.
fn adapt() -> Outcome {
    let target = pintle_tests::programs().with_file_name("adapt");
    let manifest = shell::root().join("modules/adapt/Cargo.toml").display().to_string();
    shell::cargo(&["build", "--release", "--locked", "--manifest-path", &manifest, "--target-dir", &target.display().to_string()])?;
    place(&target.join("release/pintle-adapt"), &pintle_tests::programs().join("pintle-adapt"))?;
    // What replaces it is a new file: it may be run at once.
    Ok(fs::set_permissions(pintle_tests::programs().join("pintle-adapt"), fs::Permissions::from_mode(0o755))?)
}

/// The tests of that program, which `cargo test --workspace` does not see.
pub fn adapt_tests() -> Outcome {
    let target = pintle_tests::programs().with_file_name("adapt").display().to_string();
    let manifest = shell::root().join("modules/adapt/Cargo.toml").display().to_string();
    shell::cargo(&["test", "--release", "--quiet", "--locked", "--manifest-path", &manifest, "--target-dir", &target])
}

/// The tests of the SDK for Go, where there is a Go.
pub fn go_tests() -> Outcome {
    if !needs::go() {
        eprintln!("no go of 1.21 or later: the tests of the SDK for Go are skipped");
        return Ok(());
    }
    let folder = shell::root().join("modules/sdk/go").display().to_string();
    shell::run("go", &["vet", "-C", &folder, "./..."])?;
    shell::run("go", &["test", "-C", &folder, "./..."])
}

/// The third-party examples, each a workspace of its own, to `target/release/example-modules/`.
pub fn examples() -> Outcome {
    module_folders(&shell::root().join("examples"))?.iter().try_for_each(|folder| outside(folder))
}

/// The example of a Kubewarden policy, to `policy_kubewarden.wasm` beside the examples. Its authors build for `wasm32-wasip1`; the target that is
/// here makes the same core module when its linker is told to leave it at that.
pub fn policy() -> Outcome {
    fs::create_dir_all(example_modules())?;
    policy_in(&shell::root().join("examples/policy-kubewarden"), "adapt", &example_modules().join("policy_kubewarden.wasm"))
}

/// The same of a folder that is laid out as the example is; `target`: the name of the folder that it is built in.
pub fn policy_in(folder: &Path, target: &str, to: &Path) -> Outcome {
    let target = pintle_tests::programs().with_file_name(target);
    let manifest = folder.join("Cargo.toml").display().to_string();
    let flags = format!("target.{WASM}.rustflags=['-Clink-arg=--skip-wit-component']");
    let (target_dir, words) = (target.display().to_string(), ["build", "--release", "--locked", "--target", WASM]);
    shell::cargo(&[&words[..], &["--config", &flags, "--manifest-path", &manifest, "--target-dir", &target_dir]].concat())?;
    place(&target.join(WASM).join("release/policy_kubewarden.wasm"), to)
}

/// The hostile guests of the host's tests, beside the examples.
pub fn guests() -> Outcome {
    outside(&shell::root().join("kernel/host/tests/guests"))
}

/// Where [`examples`] and [`guests`] put what they build.
pub fn example_modules() -> PathBuf {
    pintle_tests::programs().join("example-modules")
}

/// Builds a module that stands outside the workspace.
fn outside(folder: &Path) -> Outcome {
    let target = pintle_tests::programs().with_file_name("example-modules");
    let (manifest, target_dir) = (folder.join("Cargo.toml").display().to_string(), target.display().to_string());
    shell::cargo(&["build", "--release", "--target", WASM, "--manifest-path", &manifest, "--target-dir", &target_dir])?;
    fs::create_dir_all(example_modules())?;
    for entry in fs::read_dir(target.join(WASM).join("release"))?.flatten() {
        if entry.path().extension().is_some_and(|e| e == "wasm") {
            place(&entry.path(), &example_modules().join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// Folders that hold a module: those with a `module.json` beside a `Cargo.toml`.
fn module_folders(parent: &Path) -> Result<Vec<PathBuf>, std::io::Error> {
    let mut folders: Vec<PathBuf> = fs::read_dir(parent)?
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.join("module.json").exists() && p.join("Cargo.toml").exists())
        .collect();
    folders.sort();
    Ok(folders)
}

fn name(folder: &Path) -> String {
    folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Copies by rename, so that a running kernel never sees half a file; leaves an equal file alone.
fn place(from: &Path, to: &Path) -> Outcome {
    let bytes = fs::read(from).map_err(|e| format!("{}: {e}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let fresh = to.with_extension("new");
    fs::write(&fresh, bytes)?;
    Ok(fs::rename(fresh, to)?)
}

/// The clients that the tests run, each where its tools are: programs in Go (one of client-go, kubectl, Helm; a scheduler's guest), Rust and Python.
pub fn clients() -> Outcome {
    let (sources, out) = (pintle_tests::clients::sources(), pintle_tests::clients::folder());
    fs::create_dir_all(&out)?;
    let (from, to) = (|name: &str| sources.join(name).display().to_string(), |name: &str| out.join(name).display().to_string());
    shell::cargo(&["build", "--locked", "--manifest-path", &from("kube/Cargo.toml"), "--target-dir", &to("kube")])?;
    if needs::go() {
        let version =
            ["client-go/pkg", "component-base"].map(|package| format!("-X k8s.io/{package}/version.gitVersion=v1.37.1")).join(" ");
        let programs = ["./client", "./kubectl", "helm.sh/helm/v4/cmd/helm"];
        let (folder, out) = (from("go"), format!("{}/", out.display()));
        shell::run("go", &[&["build", "-C", &folder, "-ldflags", &version, "-o", &out], &programs[..]].concat())?;
        let words = ["-trimpath", "-buildmode=c-shared", "-ldflags=-s -w", "-o", &format!("{out}guest.wasm"), "./guest"];
        shell::run("env", &[&["GOOS=wasip1", "GOARCH=wasm", "go", "build", "-C", &folder], &words[..]].concat())?;
        definitions(Path::new(&out))?;
        storage(&from("csi"), Path::new(&out))?;
    } else {
        eprintln!(
            "no go of 1.21 or later: the tests of client-go, of today's kubectl, of Helm, of storage drivers, of snapshots and of the Gateway API will be skipped"
        );
    }
    // The environment is complete when its last step has left this mark.
    let (wanted, mark) = (fs::read(sources.join("python/requirements.txt"))?, out.join("python/requirements.txt"));
    if fs::read(&mark).is_ok_and(|there| there == wanted) {
        return Ok(());
    }
    needs::python()?;
    shell::run("python3", &["-m", "venv", "--clear", &to("python")])?;
    shell::run(&to("python/bin/pip"), &["install", "--quiet", "--requirement", &from("python/requirements.txt")])?;
    Ok(fs::write(mark, wanted)?)
}

/// Definitions as their projects publish them, out of their Go modules: of the Gateway API and of snapshots, each in its folder in `out`.
fn definitions(out: &Path) -> Outcome {
    const MODULES: [(&str, &str, &str); 2] = [
        ("sigs.k8s.io/gateway-api@v1.4.1", "config/crd/standard", "gateway-api"),
        ("github.com/kubernetes-csi/external-snapshotter/client/v8@v8.2.0", "config/crd", "snapshots"),
    ];
    for (module, within, folder) in MODULES {
        let (folder, mark) = (out.join(folder), out.join(folder).join("VERSION"));
        if fs::read_to_string(&mark).is_ok_and(|there| there == module) {
            continue;
        }
        let sources = go_module(module, out)?;
        fs::create_dir_all(&folder)?;
        for file in fs::read_dir(sources.join(within))?.flatten() {
            fs::write(folder.join(file.file_name()), fs::read(file.path())?)?;
        }
        fs::write(mark, module)?;
    }
    Ok(())
}

/// The sources of a Go module, downloaded if need be.
fn go_module(module: &str, out: &Path) -> Result<PathBuf, Box<dyn std::error::Error>> {
    let output = std::process::Command::new("go").args(["mod", "download", "-json", module]).current_dir(out).output()?;
    let told: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    Ok(told["Dir"].as_str().ok_or_else(|| format!("{module}: {told}"))?.into())
}

/// A storage driver of ours and its judge, `csi-sanity`; and the published sidecars, each out of its own module with the versions that it pins itself.
fn storage(folder: &str, out: &Path) -> Outcome {
    const SIDECARS: [(&str, &str); 3] = [
        ("github.com/kubernetes-csi/external-provisioner/v5@v5.3.0", "csi-provisioner"),
        ("github.com/kubernetes-csi/external-attacher/v4@v4.13.0", "csi-attacher"),
        ("github.com/kubernetes-csi/external-resizer/v2@v2.3.0", "csi-resizer"),
    ];
    let to = format!("{}/", out.display());
    // In containers there is no C library.
    let build = |folder: &str, programs: &[&str]| {
        shell::run("env", &[&["CGO_ENABLED=0", "go", "build", "-C", folder, "-ldflags=-s -w", "-o", &to], programs].concat())
    };
    build(folder, &["./csi-driver", "github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity"])?;
    for (module, program) in SIDECARS {
        let mark = out.join(format!("{program}.version"));
        if fs::read_to_string(&mark).is_ok_and(|there| there == module) && out.join(program).exists() {
            continue;
        }
        build(&go_module(module, out)?.display().to_string(), &[&format!("./cmd/{program}")])?;
        fs::write(mark, module)?;
    }
    Ok(())
}
