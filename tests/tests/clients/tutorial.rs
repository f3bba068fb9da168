//! What the documentation tells to do with modules in other languages and from elsewhere, done: the `sh` blocks of `docs/other-languages.md`, a language at a time, each in one shell
//! from an empty folder, with the language's own tools.

use crate::kernel::Kernel;
use libtest_mimic::{Failed, Trial};
use pintle_tests::{clients, has_program, programs, registry::Registry, workspace};
use std::{
    fs,
    net::SocketAddr,
    process::{Command, Stdio},
};

/// A language as the blocks are marked, what it needs on the machine, and what must have been said.
struct Language {
    name: &'static str,
    needs: &'static [&'static str],
    says: &'static str,
}

const LANGUAGES: &[Language] = &[
    Language { name: "go", needs: &["go", "docker-registry"], says: "container stray: images come from registry.local" },
    Language { name: "javascript", needs: &["node", "npm", "docker-registry"], says: "container greedy must have a limit of memory" },
    Language { name: "python", needs: &["python3", "docker-registry"], says: "Hello, mongoose!" },
    Language { name: "kubewarden", needs: &["docker-registry"], says: "label secret is not allowed in default" },
    Language { name: "scheduler", needs: &["go", "docker-registry"], says: "node(s) of another rack" },
];

/// Seconds that a language may take: its tools are fetched and an engine is compiled.
const SECONDS: &str = "500";

const NODE_MAJOR_MIN: u32 = 20;
/// From this one on Go fetches the newer one that a module asks for.
const GO_MINOR_MIN: u32 = 21;

/// Where the modules are pushed to.
const REGISTRY: ([u8; 4], u16) = ([127, 0, 0, 1], 5093);

/// A trial for each language.
pub fn trials() -> Vec<Trial> {
    LANGUAGES
        .iter()
        .map(|language| {
            let name = format!("tutorial_{}", language.name);
            let missing: Vec<&str> = language.needs.iter().copied().filter(|program| !has_program(program) || is_old(program)).collect();
            if !missing.is_empty() {
                println!("skipped: {name} needs {} (of Node.js {NODE_MAJOR_MIN}, of Go 1.{GO_MINOR_MIN} or later)", missing.join(" and "));
                return Trial::test(name, || Ok(())).with_ignored_flag(true);
            }
            Trial::test(name, || follow(language).map_err(Failed::from))
        })
        .collect()
}

/// Debian 12 has Node.js 18, which componentize-js does not run on, and Go 1.19, which does not fetch another.
fn is_old(program: &str) -> bool {
    match program {
        "node" => version(&["node", "--version"], "v").is_none_or(|major| major < NODE_MAJOR_MIN),
        "go" => version(&["go", "env", "GOVERSION"], "go1.").is_none_or(|minor| minor < GO_MINOR_MIN),
        _ => false,
    }
}

/// The number behind `prefix` in what a program says of itself.
fn version(words: &[&str], prefix: &str) -> Option<u32> {
    let output = Command::new(words[0]).args(&words[1..]).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let digits: String = text.trim().strip_prefix(prefix)?.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

fn follow(language: &Language) -> Result<(), String> {
    let kernel = Kernel::get()?;
    let page = workspace().join("docs/other-languages.md");
    let text = fs::read_to_string(&page).map_err(|e| format!("{}: {e}", page.display()))?;
    let mark = format!("sh {}\n", language.name);
    let blocks: String = text.split("```").filter_map(|part| part.strip_prefix(&mark)).collect();
    if blocks.is_empty() {
        return Err(format!("{} says nothing of {}", page.display(), language.name));
    }
    let folder = kernel.folder().join(language.name);
    fs::create_dir_all(&folder).map_err(|e| e.to_string())?;
    let address = SocketAddr::from(REGISTRY);
    let _registry = Registry::start(address, &kernel.folder().join("registry")).map_err(|e| e.to_string())?;
    let path = format!("{}:{}", programs().display(), std::env::var("PATH").map_err(|e| e.to_string())?);
    let output = Command::new("timeout")
        .args([SECONDS, "bash", "-euxo", "pipefail", "-c", &blocks])
        .current_dir(&folder)
        .env("PATH", path)
        .env("POLICY", programs().join("example-modules/policy_kubewarden.wasm"))
        .env("GUEST", clients::folder().join("guest.wasm"))
        .env("REGISTRY", address.to_string())
        .env("KUBECONFIG", kernel.kubeconfig())
        .stdin(Stdio::null())
        .output()
        .map_err(|e| e.to_string())?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    match output.status.success() && said.contains(language.says) {
        true => Ok(()),
        false => Err(format!("{}, and {:?} was to be said: {said}", output.status, language.says)),
    }
}
