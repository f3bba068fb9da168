//! One target under libFuzzer: `pintle-fuzz [CORPUS...] [-max_total_time=S ...]`, its name in `PINTLE_FUZZ_TARGET`. Run by `cargo xtask fuzz`.
//! The target's seeds and kept findings are written to the folder `PINTLE_FUZZ_FOLDER` first, and a dictionary beside it; a target called
//! `list` names them all.
#![no_main]

use std::path::PathBuf;
use std::sync::OnceLock;

use pintle_fuzz::draw::dictionary;
use pintle_fuzz::{TARGETS, Target, findings};

static TARGET: OnceLock<&'static Target> = OnceLock::new();

/// Finds the target and writes its seeds.
fn choose() {
    // A panic that our code catches is no finding; one that reaches libFuzzer's caller ends the process all the same.
    let _ = std::panic::take_hook();
    let name = std::env::var("PINTLE_FUZZ_TARGET").unwrap_or_default();
    if name == "list" {
        TARGETS.iter().for_each(|target| println!("{}", target.name));
        std::process::exit(0);
    }
    let Some(target) = TARGETS.iter().find(|target| target.name == name) else {
        eprintln!("PINTLE_FUZZ_TARGET is {name:?}, which is no target");
        std::process::exit(2);
    };
    if let Some(folder) = std::env::var_os("PINTLE_FUZZ_FOLDER").map(PathBuf::from) {
        let numbered = (target.seeds)().into_iter().enumerate().map(|(at, bytes)| (format!("seed-{at}"), bytes));
        for (name, bytes) in numbered.chain(findings(target.name)) {
            std::fs::write(folder.join(name), bytes).expect("the folder is there");
        }
        std::fs::write(folder.with_extension("words"), dictionary()).expect("the folder is there");
    }
    let _ = TARGET.set(target);
}

libfuzzer_sys::fuzz_target!(init: choose(), |data: &[u8]| {
    if let Some(target) = TARGET.get() {
        (target.run)(data);
    }
});
