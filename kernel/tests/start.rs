//! The program itself: what it does not start with.

use std::{fs, path::Path, process::Command};

#[test]
fn an_audit_policy_that_cannot_be_acted_on_is_named_by_file_and_field() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("start-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("a folder");
    let policy = dir.join("policy.yaml");
    fs::write(&policy, "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: Metadata\n- level: Loud\n").expect("written");
    let started = Command::new(env!("CARGO_BIN_EXE_pintle"))
        .args(["kernel", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(dir.join("data"))
        .arg("--audit-policy-file")
        .arg(&policy)
        .args(["--audit-log-path", "-"])
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&started.stderr).into_owned();
    assert!(!started.status.success());
    assert!(said.contains("policy.yaml: rules[1].level: unknown variant `Loud`"), "{said}");
    assert!(!dir.join("data").exists(), "nothing was begun");
    fs::remove_dir_all(dir).expect("removed");
}
