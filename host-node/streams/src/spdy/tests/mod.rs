use super::*;
use crate::spdy_frame::Writer;

#[tokio::test]
async fn a_stream_carries_data_both_ways_and_ends_where_the_client_ends_it() {
    let (mut client, server) = tokio::io::duplex(1 << 16);
    let mut connection = Connection::serve(server);
    let mut writer = Writer::new();
    client.write_all(&writer.syn_stream(1, false, &[("streamtype", "stdin")]).unwrap()).await.unwrap();
    client.write_all(&spdy_frame::data_head(1, true, 2)).await.unwrap();
    client.write_all(b"hi").await.unwrap();

    let mut stream = connection.accept().await.unwrap();
    assert_eq!(stream.header("streamtype"), Some("stdin"));
    assert_eq!(stream.data.recv().await.unwrap(), "hi");
    assert_eq!(stream.data.recv().await, None);
    stream.out.write(Bytes::from_static(b"yo")).await.unwrap();
    stream.out.finish().await.unwrap();

    let mut reader = Reader::new();
    let mut head = [0; HEAD_BYTES];
    client.read_exact(&mut head).await.unwrap();
    let Head::Control { kind, flags, length } = spdy_frame::head(head).unwrap() else { panic!() };
    let mut payload = vec![0; length];
    client.read_exact(&mut payload).await.unwrap();
    assert_eq!(reader.control(kind, flags, &payload).unwrap(), Control::SynReply { id: 1, fin: false, headers: vec![] });
    client.read_exact(&mut head).await.unwrap();
    assert_eq!(spdy_frame::head(head).unwrap(), Head::Data { id: 1, fin: false, length: 2 });
    let mut data = [0; 2];
    client.read_exact(&mut data).await.unwrap();
    assert_eq!(&data, b"yo");
    client.read_exact(&mut head).await.unwrap();
    assert_eq!(spdy_frame::head(head).unwrap(), Head::Data { id: 1, fin: true, length: 0 });
}

#[tokio::test]
async fn garbage_ends_the_connection() {
    let (mut client, server) = tokio::io::duplex(1 << 16);
    let mut connection = Connection::serve(server);
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    // "GET " reads as a data frame of stream 0x47455420 whose length never comes.
    drop(client);
    assert!(connection.accept().await.is_none());
}

#[tokio::test]
async fn a_client_opens_streams_that_end_with_either_side() {
    let (near, far) = tokio::io::duplex(1 << 16);
    let (mut client, mut server) = (Connection::dial(near), Connection::serve(far));
    let mut first = client.open(&[("streamtype", "error")]).await.unwrap();
    let mut second = client.open(&[("streamtype", "stdin")]).await.unwrap();
    first.out.finish().await.unwrap();
    second.out.write(Bytes::from_static(b"hi")).await.unwrap();
    let mut at_server = [server.accept().await.unwrap(), server.accept().await.unwrap()];
    assert_eq!(at_server.each_ref().map(|stream| stream.header("streamtype")), [Some("error"), Some("stdin")]);
    assert_eq!(at_server[0].data.recv().await, None);
    assert_eq!(at_server[1].data.recv().await.unwrap(), "hi");
    at_server[1].out.write(Bytes::from_static(b"yo")).await.unwrap();
    at_server[1].out.finish().await.unwrap();
    assert_eq!((second.data.recv().await.unwrap(), second.data.recv().await), (Bytes::from_static(b"yo"), None));
    drop(server);
    assert_eq!(first.data.recv().await, None, "a connection's end is its streams'");
    assert!(client.open(&[]).await.is_err());
}
