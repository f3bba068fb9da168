use super::*;

#[tokio::test]
async fn the_exit_comes_after_all_output_even_if_it_was_sent_first() {
    let (client, process) = pipes();
    process.exit.send(Exit::Code(3)).unwrap();
    process.stdout.send(Bytes::from_static(b"a")).await.unwrap();
    process.stderr.send(Bytes::from_static(b"b")).await.unwrap();
    drop((process.stdout, process.stderr));
    let mut outputs = Outputs::new(client.stdout, client.stderr, client.exit);
    assert_eq!(outputs.next().await, Some(Output::Stdout(Bytes::from_static(b"a"))));
    assert_eq!(outputs.next().await, Some(Output::Stderr(Bytes::from_static(b"b"))));
    assert_eq!(outputs.next().await, Some(Output::Exit(Exit::Code(3))));
    assert_eq!(outputs.next().await, None);
}

#[tokio::test]
async fn output_held_open_by_a_child_does_not_keep_the_session() {
    let (client, process) = pipes();
    process.exit.send(Exit::Code(0)).unwrap();
    let mut outputs = Outputs::new(client.stdout, client.stderr, client.exit);
    assert_eq!(outputs.next().await, Some(Output::Exit(Exit::Code(0))));
    drop((process.stdout, process.stderr));
}

#[tokio::test]
async fn a_lost_machine_is_a_failed_exit() {
    let (client, process) = pipes();
    drop(process);
    let mut outputs = Outputs::new(client.stdout, client.stderr, client.exit);
    assert!(matches!(outputs.next().await, Some(Output::Exit(Exit::Failed(_)))));
}
