//! A container's life: start, output, exec, signals, end.

use std::time::Duration;

use pintle_runtime_bridge::{Error, ExitCause, Phase, StartFailure};

use crate::fixture::{Fixture, command, log_text, until};

#[tokio::test]
async fn exit_codes_and_output_are_carried() {
    crate::require_containers!();
    let f = Fixture::new().await;
    assert_eq!(f.run_script("echo out; echo err >&2; printf unfinished; exit 7").await.0, 7);
    let raw = {
        f.run_script("echo out; sleep 0.01; echo err >&2; exit 7").await;
        std::fs::read_to_string(f.dir.join("log")).expect("log")
    };
    let lines: Vec<Vec<&str>> = raw.lines().map(|l| l.splitn(4, ' ').collect()).collect();
    assert_eq!((lines[0][1], lines[0][2], lines[0][3]), ("stdout", "F", "out"));
    assert_eq!((lines[1][1], lines[1][2], lines[1][3]), ("stderr", "F", "err"));
    assert_eq!(lines[0][0].len(), "2026-01-01T00:00:00.000000000Z".len());
}

#[tokio::test]
async fn exec_carries_input_output_and_exit_code() {
    crate::require_containers!();
    let f = Fixture::new().await;
    let id = f.start(f.spec("sleep 1000")).await;
    let done = f.exec(&id, command(&["sh", "-c", "echo o; echo e >&2; exit 9"])).await;
    assert_eq!(done, (9, "o\n".to_owned(), "e\n".to_owned()));
}
