//! The module platform: what a rule costs in each language and against a webhook, controllers, swaps, recovery, memory.

use super::{Bench, Row, Rows, against, example, median, number, target};
use crate::{compile, shell};
use serde_json::Value;
use std::{error::Error, fs, path::Path, process::Command};

pub fn admission(bench: &Bench) -> Rows {
    bench.kernel()?;
    let webhook = bench.load("webhook", &["--count", "2000"])?;
    let host: Vec<Value> = (0..3).map(|_| example("bench_host", &[])).collect::<Result<_, _>>()?;
    let all = |pointer: &str| host.iter().map(|v| number(v, pointer)).collect::<Result<Vec<_>, _>>();
    let beside = |name, unit, aim, pointer: &str, alone: &str| {
        Ok::<Row, Box<dyn Error>>(against(median(name, unit, aim, all(pointer)?), median("", "", "", all(alone)?).value))
    };
    let mut versus = median("admission_vs_webhook", "us, ratio ours/webhook's time", "0.02", all("/admission_p50_us")?);
    versus = against(versus, number(&webhook, "/us/p50")?);
    let mut versus_p99 = median("admission_vs_webhook_p99", "us, ratio ours/webhook's time", "0.02", all("/admission_p99_us")?);
    versus_p99 = against(versus_p99, number(&webhook, "/us/p99")?);
    Ok(vec![
        median("admission_p50_us", "us", "25 us", all("/admission_p50_us")?),
        median("admission_p99_us", "us", "100 us", all("/admission_p99_us")?),
        versus,
        versus_p99,
        beside(
            "recorded_p50_us",
            "us, a verdict while the module is recorded",
            "5% more than without",
            "/recorded_p50_us",
            "/admission_p50_us",
        )?,
        beside(
            "shadowed_p50_us",
            "us, a verdict while a shadow is asked, too",
            "5% more than without",
            "/shadowed_p50_us",
            "/admission_p50_us",
        )?,
        median("plugin_us", "us, a scheduler plugin for a pod at 5,000 nodes", "30 us", all("/plugin_us")?),
        median("module_cold_ms", "ms", "1,000: compiled and started the first time", all("/cold_ms")?),
        median("module_load_10_ms", "ms, ten modules from a warm code cache to Running", "10 ms", all("/load_ms")?),
        median("module_idle_kb", "KB of the process for one more idle controller", "256 KB", all("/idle_kb")?),
        median("reconciles_per_s", "objects/s that need nothing", "10,000", all("/reconciles_per_s")?),
        median("reconciles_that_write_per_s", "objects/s, each with a write", "1,000", all("/writes_per_s")?),
        median("swap_lost", "calls", "0", all("/swap_lost")?),
        median("swap_pause_ms", "ms", "5 ms", all("/swap_pause_ms")?),
        beside("swap_p99_ms", "ms at 1,000 verdicts/s, against no swap", "1 ms more", "/swap_p99_ms", "/steady_p99_ms")?,
        median("recovery_p99_ms", "ms from a trap to an answer, less the pause of policy", "5 ms", all("/recovery_p99_ms")?),
    ])
}

/// The same check as a module and as a webhook, each as the kernel asks it when a pod is created over HTTPS; what creates take without is subtracted from
/// the medians.
pub fn judged(bench: &Bench) -> Rows {
    bench.kernel()?;
    let seen = bench.load("judged", &["--count", "400"])?;
    eprintln!("  {seen}");
    let all = |at: &str| ["nobody", "module", "webhook"].map(|judge| number(&seen, &format!("/{judge}/{at}")));
    let ([nobody, module, webhook], [_, module_p99, webhook_p99]) = (all("p50"), all("p99"));
    let nobody = nobody?;
    Ok(vec![
        against(median("judged_p50_us", "us more a create, ratio module/webhook", "0.02", vec![module? - nobody]), webhook? - nobody),
        against(median("judged_p99_us", "us, a create, ratio module/webhook", "-", vec![module_p99?]), webhook_p99?),
    ])
}

/// What deadlines cost: the same guests on an engine whose code looks at the clock and on one whose code does not, in turns.
pub fn epochs(_: &Bench) -> Rows {
    let runs: Vec<Value> = (0..3).map(|_| example("bench_host", &["epochs"])).collect::<Result<_, _>>()?;
    runs.iter().for_each(|seen| eprintln!("  {seen}"));
    let all = |pointer: &str| runs.iter().map(|run| number(run, pointer)).collect::<Result<Vec<_>, _>>();
    let row = |name, unit, with: &str, without: &str| {
        Ok::<Row, Box<dyn Error>>(against(median(name, unit, "-", all(with)?), median("", "", "", all(without)?).value))
    };
    Ok(vec![
        row("epochs_verdict_us", "us, a verdict, ratio with/without", "/verdict/compiled_us", "/verdict/none_us")?,
        row("epochs_plugin_us", "us, a plugin's pod, ratio with/without", "/plugin/compiled_us", "/plugin/none_us")?,
        row("deadline_verdict_us", "us, processor time read, too", "/verdict/kept_us", "/verdict/none_us")?,
        row("deadline_plugin_us", "us, processor time read, too", "/plugin/kept_us", "/plugin/none_us")?,
    ])
}

/// The check of `examples/module-admission` in the languages that have templates: who writes it, the template's file that it takes the place of, and its text.
const RULES: [(&str, &str, &str); 3] = [
    ("go", "rule.go", include_str!("rules/rule.go")),
    ("javascript", "rule.js", include_str!("rules/rule.js")),
    ("python", "owners.py", include_str!("rules/owners.py")),
];

/// One check in each language, built by the language's own tools, and as a webhook. One whose tools are missing is left out, and says so.
pub fn languages(bench: &Bench) -> Rows {
    let webhook = || bench.load("webhook", &["--count", "2000"]);
    let mut peers = vec![webhook()?];
    let examples = compile::example_modules();
    let mut rows = rule("Rust", &shell::root().join("examples/module-admission/module.json"), &examples.join("module_admission.wasm"))?;
    let folder = target().join("bench-guests");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    let program = pintle_tests::programs().join("pintle-module");
    for (language, file, text) in RULES {
        let name = format!("in-{language}");
        let at = folder.join(&name);
        pintle_tests::run(Command::new(&program).args(["new", &name, "--kind", "admission", "--language", language]).current_dir(&folder))?;
        fs::write(at.join(file), text)?;
        match pintle_tests::run(Command::new(&program).arg("build").current_dir(&at)) {
            Ok(_) => rows.extend(rule(language, &at.join("module.json"), &at.join("module.wasm"))?),
            Err(error) => eprintln!("  {language} was not measured: {error}"),
        }
    }
    peers.push(webhook()?);
    let (policy, example) = (folder.join("kubewarden"), shell::root().join("examples/policy-kubewarden"));
    fs::create_dir_all(policy.join("src"))?;
    for file in ["Cargo.toml", "Cargo.lock"] {
        fs::copy(example.join(file), policy.join(file))?;
    }
    fs::write(policy.join("src/lib.rs"), include_str!("rules/policy.rs"))?;
    // In a place of its own: both policies have the same name.
    compile::policy_in(&policy, "bench-policy", &policy.join("policy.wasm"))?;
    let module = policy.join("module.wasm");
    pintle_tests::run(Command::new(&program).arg("adapt").arg(policy.join("policy.wasm")).arg("--out").arg(&module))?;
    let mut manifest: Value = serde_json::from_slice(&fs::read(example.join("policy.json"))?)?;
    manifest["spec"]["config"] = Value::Object(Default::default());
    fs::write(policy.join("policy.json"), manifest.to_string())?;
    rows.extend(rule("Kubewarden", &policy.join("policy.json"), &module)?);
    peers.push(webhook()?);
    let all = |pointer: &str| peers.iter().map(|peer| number(peer, pointer)).collect::<Result<Vec<_>, _>>();
    rows.push(median("rule_webhook_p50_us", "us", "-", all("/us/p50")?));
    rows.push(median("rule_webhook_p99_us", "us", "-", all("/us/p99")?));
    Ok(rows)
}

fn rule(language: &str, manifest: &Path, wasm: &Path) -> Rows {
    let words = ["rule", &manifest.display().to_string(), &wasm.display().to_string()];
    let runs: Vec<Value> = (0..3).map(|_| example("bench_host", &words)).collect::<Result<_, _>>()?;
    let all = |pointer: &str| runs.iter().map(|v| number(v, pointer)).collect::<Result<Vec<_>, _>>();
    let mega = |pointer: &str| Ok::<Vec<f64>, Box<dyn Error>>(all(pointer)?.into_iter().map(|bytes| bytes / f64::from(1 << 20)).collect());
    let name = |what: &str| &*format!("rule_{}_{what}", language.to_lowercase()).leak();
    Ok(vec![
        median(name("p50_us"), "us", "-", all("/p50_us")?),
        median(name("p99_us"), "us", "-", all("/p99_us")?),
        median(name("idle_mib"), "MiB of linear memory", "-", mega("/idle_bytes")?),
        median(name("busy_mib"), "MiB of linear memory", "-", mega("/busy_bytes")?),
    ])
}
