use super::*;

fn headers(protocols: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_str(protocols).unwrap());
    headers
}

#[test]
fn the_clients_first_known_subprotocol_wins() {
    assert_eq!(Channels::choose(&headers("v6.channel.k8s.io, v5.channel.k8s.io,v4.channel.k8s.io")).unwrap().version, 5);
    assert_eq!(Channels::choose(&headers("channel.k8s.io")).unwrap().version, 1);
    assert_eq!(Channels::choose(&headers("chat")), None);
    assert_eq!(Channels::choose(&HeaderMap::new()).unwrap().name, "");
}

#[test]
fn messages_survive_both_codecs() {
    for channels in CHANNELS {
        let message = channels.encode(2, b"hello");
        assert_eq!(channels.decode(message), Some((2, Bytes::from_static(b"hello"))), "{channels:?}");
    }
    let binary = CHANNELS[0];
    assert_eq!(binary.decode(Message::Binary(Bytes::new())), None);
    assert_eq!(CHANNELS[3].decode(Message::Text("0!!".into())), None);
}
