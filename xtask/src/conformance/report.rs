//! What a run of the suite came to: counts, causes, the files beside the suite's module, and the ratchet.

use crate::{Outcome, shell};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

/// Longest reason that is written down, in characters.
const REASON_MAX: usize = 220;

/// One test's outcome.
struct Test {
    name: String,
    state: String,
    reason: String,
}

/// A run's outcomes, by name.
pub struct Report {
    selected: usize,
    tests: Vec<Test>,
    seconds: u64,
}

/// What is read of a suite's report.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Suite {
    pre_run_stats: PreRunStats,
    #[serde(default)]
    spec_reports: Vec<Spec>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PreRunStats {
    specs_that_will_run: usize,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Spec {
    container_hierarchy_texts: Option<Vec<String>>,
    leaf_node_type: String,
    leaf_node_text: String,
    state: String,
    num_attempts: usize,
    failure: Option<Failure>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    message: String,
}

impl Spec {
    fn test(self) -> Test {
        let words = self.container_hierarchy_texts.into_iter().flatten().chain([self.leaf_node_text]);
        let name = words.filter(|w| !w.is_empty()).collect::<Vec<_>>().join(" ");
        Test { name, state: self.state, reason: self.failure.map(|f| f.message).unwrap_or_default() }
    }
}

fn beside_the_suite(name: &str) -> PathBuf {
    shell::root().join("tests/conformance").join(name)
}

/// The lines of a list file that are not comments; none when there is no such file.
fn list(name: &str) -> Result<BTreeSet<String>, Box<dyn Error>> {
    let path = beside_the_suite(name);
    if !path.exists() {
        return Ok(BTreeSet::new());
    }
    let text = fs::read_to_string(path)?;
    Ok(text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')).map(str::to_owned).collect())
}

/// The tests that `cargo xtask test` runs: `stable.txt`, all of them in `passed.txt`.
pub fn stable() -> Result<BTreeSet<String>, Box<dyn Error>> {
    let (stable, passed) = (list("stable.txt")?, list("passed.txt")?);
    match stable.iter().find(|name| !passed.contains(*name)) {
        Some(name) => Err(format!("stable.txt has a test that passed.txt has not: {name}").into()),
        None => Ok(stable),
    }
}

impl Report {
    /// Reads the report that ginkgo wrote (`--json-report`; its shape is `types.Report` of ginkgo's Go package).
    pub fn read(path: &Path, seconds: u64) -> Result<Self, Box<dyn Error>> {
        Self::parse(&fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?, seconds)
    }

    fn parse(json: &[u8], seconds: u64) -> Result<Self, Box<dyn Error>> {
        let suites: Vec<Suite> = serde_json::from_slice(json)?;
        let mut report = Self { selected: 0, tests: Vec::new(), seconds };
        for suite in suites {
            report.selected += suite.pre_run_stats.specs_that_will_run;
            // The suite's own set-up and tests that were not selected have no attempt.
            report.tests.extend(suite.spec_reports.into_iter().filter(|s| s.num_attempts > 0 && s.leaf_node_type == "It").map(Spec::test));
        }
        report.tests.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(report)
    }

    /// Whether nothing ran.
    pub fn is_empty(&self) -> bool {
        self.tests.is_empty()
    }

    fn count(&self, state: State) -> usize {
        self.tests.iter().filter(|t| t.state() == state).count()
    }

    /// Counts in a line.
    pub fn progress(&self) -> String {
        let (passed, failed, skipped) = (self.count(State::Passed), self.count(State::Failed), self.count(State::Skipped));
        format!("{}/{}: {passed} passed, {failed} failed, {skipped} skipped", self.tests.len(), self.selected)
    }

    /// Counts and time in a line.
    pub fn totals(&self) -> String {
        let not_run = self.selected.saturating_sub(self.tests.len());
        format!("conformance {}, {not_run} not run, {} min {:02} s", self.progress(), self.seconds / 60, self.seconds % 60)
    }

    /// A line for each test that failed.
    pub fn failures(&self) -> String {
        let failed = self.tests.iter().filter(|t| t.state() == State::Failed);
        failed.fold(String::new(), |mut out, t| {
            let _ = writeln!(out, "FAILED {}\n       {}", t.name, t.first_line());
            out
        })
    }

    /// Fails when a test that once passed did not pass now.
    pub fn ratchet(&self) -> Outcome {
        let passed = list("passed.txt")?;
        let fell: Vec<&str> =
            self.tests.iter().filter(|t| t.state() != State::Passed && passed.contains(&t.name)).map(|t| t.name.as_str()).collect();
        if fell.is_empty() { Ok(()) } else { Err(format!("{} tests passed once and do not now:\n{}", fell.len(), fell.join("\n")).into()) }
    }

    /// Fails unless each of these ran and passed.
    pub fn all_passed(&self, names: &BTreeSet<String>) -> Outcome {
        let passed: BTreeSet<&str> = self.tests.iter().filter(|t| t.state() == State::Passed).map(|t| t.name.as_str()).collect();
        let lacking: Vec<&str> = names.iter().map(String::as_str).filter(|n| !passed.contains(n)).collect();
        if lacking.is_empty() { Ok(()) } else { Err(format!("{} tests did not pass:\n{}", lacking.len(), lacking.join("\n")).into()) }
    }

    /// Writes `RESULTS.md`, and adds to `passed.txt` what passed.
    pub fn write(&self) -> Outcome {
        fs::write(beside_the_suite("RESULTS.md"), self.markdown())?;
        let mut passed = list("passed.txt")?;
        passed.extend(self.tests.iter().filter(|t| t.state() == State::Passed).map(|t| t.name.clone()));
        let lines: Vec<&str> = passed.iter().map(String::as_str).collect();
        let text = format!(
            "# Tests that passed in a whole run. A test that is here and fails, fails `cargo xtask conformance`.\n{}\n",
            lines.join("\n")
        );
        fs::write(beside_the_suite("passed.txt"), text)?;
        println!("written: {} and passed.txt", beside_the_suite("RESULTS.md").display());
        Ok(())
    }

    fn markdown(&self) -> String {
        let mut out = String::from("# Results of the upstream conformance suite\n\nWritten by `cargo xtask conformance`.\n\n");
        let _ = writeln!(out, "{}\n", self.totals());
        let _ = writeln!(out, "| sig | tests | passed | failed | skipped |\n| --- | ---: | ---: | ---: | ---: |");
        let mut by_sig: BTreeMap<&str, [usize; 4]> = BTreeMap::new();
        for test in &self.tests {
            let row = by_sig.entry(test.sig()).or_default();
            row[0] += 1;
            row[test.state() as usize] += 1;
        }
        for (sig, [all, passed, failed, skipped]) in by_sig {
            let _ = writeln!(out, "| {sig} | {all} | {passed} | {failed} | {skipped} |");
        }
        out.push_str("\n## Causes\n\nFailed tests by what they said, names and numbers left out.\n\n| tests | reason |\n| ---: | --- |\n");
        let mut causes: BTreeMap<String, usize> = BTreeMap::new();
        for test in self.tests.iter().filter(|t| t.state() == State::Failed) {
            *causes.entry(shape(&test.first_line())).or_default() += 1;
        }
        let mut causes: Vec<(String, usize)> = causes.into_iter().collect();
        causes.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        for (cause, count) in causes {
            let _ = writeln!(out, "| {count} | {} |", cell(&cause));
        }
        for (title, state) in [("Failed", State::Failed), ("Skipped by the suite", State::Skipped), ("Passed", State::Passed)] {
            let _ = writeln!(out, "\n## {title}\n");
            for test in self.tests.iter().filter(|t| t.state() == state) {
                let _ = writeln!(out, "- {}", cell(&test.name));
                if state != State::Passed {
                    let _ = writeln!(out, "  `{}`", test.first_line().replace('`', "'"));
                }
            }
        }
        out
    }
}

/// What a table cell or list item may hold.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('<', "&lt;")
}

/// How a test ended; the numbers are columns of the table of totals.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Passed = 1,
    Failed = 2,
    Skipped = 3,
}

impl Test {
    fn state(&self) -> State {
        match self.state.as_str() {
            "passed" => State::Passed,
            "skipped" | "pending" => State::Skipped,
            _ => State::Failed,
        }
    }

    fn sig(&self) -> &str {
        self.name.strip_prefix('[').and_then(|n| n.split(']').next()).unwrap_or("other")
    }

    /// The first line of the reason that says something; a line that ends in a colon takes the next one along.
    fn first_line(&self) -> String {
        let mut lines = self.reason.lines().map(str::trim).filter(|l| !l.is_empty());
        let mut text = lines.next().unwrap_or("no reason given").to_owned();
        for more in lines {
            let open = text.ends_with(':') || text.starts_with("Timed out after") && text.len() < 40 || text == "Expected";
            if !open {
                break;
            }
            let _ = write!(text, " {more}");
        }
        if self.state != "failed" && self.state != "skipped" {
            text = format!("{}: {text}", self.state);
        }
        text.chars().take(REASON_MAX).collect()
    }
}

/// A reason without what differs from test to test: quoted names, words with digits, numbers.
fn shape(reason: &str) -> String {
    let mut out = String::new();
    let mut quoted = false;
    for word in reason.split(' ') {
        let quotes = word.matches('"').count();
        if quoted || quotes > 0 {
            if quotes % 2 == 1 {
                quoted = !quoted;
                if quoted {
                    out.push_str(" \"...\"");
                }
            } else if !quoted {
                out.push_str(" \"...\"");
            }
            continue;
        }
        out.push(' ');
        out.push_str(if word.contains(|c: char| c.is_ascii_digit()) { "N" } else { word });
    }
    out.trim_start().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn ran() -> Report {
        let spec = |name: &str, state: &str, attempts: usize, reason: &str| {
            json!({ "ContainerHierarchyTexts": ["[sig-a]"], "LeafNodeType": "It", "LeafNodeText": name, "State": state,
                "NumAttempts": attempts, "RunTime": 5, "Failure": { "Message": reason } })
        };
        let specs = [
            spec("two", "failed", 1, "pod \"x-1\" was not ready after 300s:\nno image"),
            spec("one", "passed", 1, ""),
            spec("three", "timedout", 1, "pod \"y-2\" was not ready after 12s:\nno image"),
            spec("filtered out", "skipped", 0, ""),
            json!({ "ContainerHierarchyTexts": null, "LeafNodeType": "BeforeSuite", "LeafNodeText": "", "State": "passed", "NumAttempts": 1 }),
        ];
        let suites = json!([{ "PreRunStats": { "TotalSpecs": 9, "SpecsThatWillRun": 4 }, "SpecReports": specs }]);
        Report::parse(suites.to_string().as_bytes(), 61).expect("a report")
    }

    #[test]
    fn what_was_selected_and_did_not_run_is_counted() {
        assert_eq!(ran().totals(), "conformance 3/4: 1 passed, 2 failed, 0 skipped, 1 not run, 1 min 01 s");
        assert!(ran().markdown().contains("| sig-a | 3 | 1 | 2 | 0 |"));
    }

    #[test]
    fn reasons_that_differ_in_names_and_numbers_are_one_cause() {
        assert_eq!(shape("pod \"a b\" in \"c\" took 5m0s"), shape("pod \"d\" in \"e\" took 12s"));
        assert_ne!(shape("no pod"), shape("no node"));
    }

    #[test]
    fn what_was_asked_for_and_did_not_run_has_not_passed() {
        let report = ran();
        let names = |list: &[&str]| list.iter().map(|n| (*n).to_owned()).collect();
        assert!(report.all_passed(&names(&["[sig-a] one"])).is_ok());
        assert!(report.all_passed(&names(&["[sig-a] one", "[sig-a] never"])).is_err());
    }
}
