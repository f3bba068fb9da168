//! What clients write beside bodies: targets, selectors, options, tokens, and the frames of their streams.

use http::Method;
use pintle_api::selector::LabelSelector;
use pintle_registry::fuzz as registry;
use pintle_server::fuzz as server;
use pintle_streams::spdy_frame::{self, Control, Head, Reader, Writer};
use pintle_streams::websocket::CHANNELS;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::input::{choice, chosen, halves, resource, text, texts};

/// A label selector that is read is the same when it is written and read again.
pub fn label_selector(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let Ok(selector) = LabelSelector::parse(text) else { return };
    let written = selector.to_string();
    let again = LabelSelector::parse(&written).unwrap_or_else(|e| panic!("{e}: {written:?}"));
    assert_eq!(selector, again, "{written:?}");
    for labels in [json!({}), json!({"a": "b", "l": "5"})] {
        assert_eq!(selector.matches_labels(&labels), again.matches_labels(&labels));
    }
}

/// Every operator.
pub fn label_selector_seeds() -> Vec<Vec<u8>> {
    texts(&["a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1,m<9", "x.example.com/a_b == v-1 , !y", "a in (,b)", "a=", ""])
}

/// What both selectors select is what each selects.
pub fn field_selector(data: &[u8]) {
    let (choice, rest) = choice(data);
    let (labels, rest) = halves(rest);
    let (fields, body) = halves(rest);
    let (Some(labels), Some(fields)) = (text(labels), text(fields)) else { return };
    let resource = resource(choice);
    let Ok(both) = registry::selects(resource, labels, fields, body) else { return };
    let alone = |labels, fields| registry::selects(resource, labels, fields, body).expect("each is read alone");
    let (by_label, by_field) = (alone(labels, ""), alone("", fields));
    assert_eq!(both, by_label.zip(by_field).map(|(a, b)| a && b));
}

/// Fields that some kinds have, on a pod.
pub fn field_selector_seeds() -> Vec<Vec<u8>> {
    let (at, _) = chosen("Pod");
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "default", "uid": "u", "labels": {"a": "b"}},
        "spec": {"nodeName": "n", "restartPolicy": "Always"}, "status": {"phase": "Running", "podIP": "10.0.0.1"}});
    let fields = ["metadata.name=p", "spec.nodeName==n,status.phase!=Failed", "metadata.namespace=default , status.podIP=10\\,0", ""];
    fields.iter().map(|fields| [&[at][..], format!("a=b\0{fields}\0{pod}").as_bytes()].concat()).collect()
}

/// A request's target has one of the verbs that there are, and its options are no longer than what was written.
pub fn request(data: &[u8]) {
    const METHODS: [Method; 6] = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::HEAD];
    const VERBS: [&str; 15] = [
        "get",
        "list",
        "watch",
        "create",
        "update",
        "patch",
        "delete",
        "deletecollection",
        "head",
        "post",
        "put",
        "options",
        "connect",
        "proxy",
        "unknown",
    ];
    let (choice, rest) = choice(data);
    let (path, rest) = halves(rest);
    let (query, accept) = halves(rest);
    let (Some(path), Some(query)) = (text(path), text(query)) else { return };
    let method = &METHODS[usize::from(choice) % METHODS.len()];
    let Ok((verb, resource, list)) = server::request(method, path, query, accept) else { return };
    assert!(VERBS.contains(&verb), "{verb}");
    assert!(resource.len() <= path.len() && !resource.contains('/'), "{resource:?} of {path:?}");
    assert!(list.label_selector.len() + list.field_selector.len() + list.continue_token.len() <= query.len());
}

/// Targets, queries and headers.
pub fn request_seeds() -> Vec<Vec<u8>> {
    texts(&[
        "\0/api/v1/namespaces/default/pods/p/log\0container=c&follow=true\0application/json",
        "\0/apis/apps/v1/watch/deployments\0labelSelector=a%3Db%2Cc&limit=500&continue=abc\0application/json;as=Table;g=meta.k8s.io;v=v1,application/json",
        "\x04/api/v1/pods\0fieldSelector=metadata.name%3Dx&resourceVersion=0&resourceVersionMatch=NotOlderThan\0application/vnd.kubernetes.protobuf, */*;q=0.5",
        "\0/api/v1/namespaces/a%2Fb/pods/p/proxy/x/y/z\0a=b+c\0application/yaml",
        "\x01/\0\0text/html",
    ])
}

/// A continue token that is read is the same when it is written and read again.
pub fn continue_token(data: &[u8]) {
    let Some(text) = text(data) else { return };
    let Ok(written) = registry::continue_token(text) else { return };
    assert_eq!(registry::continue_token(&written).as_deref(), Ok(written.as_str()));
}

/// Tokens in upstream's form.
pub fn continue_token_seeds() -> Vec<Vec<u8>> {
    use base64::Engine as _;
    let tokens = [r#"{"v":"meta.k8s.io/v1","rv":42,"start":"default/a\u0000"}"#, r#"{"v":"meta.k8s.io/v1","rv":-1,"start":"x"}"#];
    tokens.iter().map(|token| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(token).into_bytes()).collect()
}

/// Reads frames as a SPDY connection does, until they end or one is bad: the bytes of each one's headers.
fn frames(mut bytes: &[u8]) -> Vec<usize> {
    let (mut reader, mut frames) = (Reader::new(), Vec::new());
    while let Some((Ok(head), rest)) = bytes.split_first_chunk().map(|(head, rest)| (spdy_frame::head(*head), rest)) {
        let (Head::Control { length, .. } | Head::Data { length, .. }) = head;
        let Some((payload, rest)) = rest.split_at_checked(length) else { break };
        bytes = rest;
        let Head::Control { kind, flags, .. } = head else { continue };
        match reader.control(kind, flags, payload) {
            Ok(Control::SynStream { headers, .. } | Control::SynReply { headers, .. }) => {
                frames.push(headers.iter().map(|(name, value)| name.len() + value.len()).sum());
            }
            Ok(_) => frames.push(0),
            Err(_) => break,
        }
    }
    frames
}

/// Headers of one frame are no more than the limit, whatever was inflated.
pub fn spdy(data: &[u8]) {
    for headers in frames(data) {
        assert!(headers <= 64 * 1024 + 4096, "{headers} bytes of headers");
    }
}

/// Frames as our own writer makes them, and small ones of other kinds.
pub fn spdy_seeds() -> Vec<Vec<u8>> {
    let (long, mut writer) = ("v".repeat(9000), Writer::new());
    let streams: [&[(&str, &str)]; 3] = [&[("streamtype", "stdin")], &[("streamtype", "error"), ("x", &long)], &[]];
    let streams: Vec<u8> = streams.iter().flat_map(|headers| writer.syn_stream(1, false, headers).expect("a frame")).collect();
    assert_eq!(frames(&streams), [15, 15 + 1 + 9000, 0], "our own frames are read");
    let ping = [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1];
    let data = [0, 0, 0, 1, 1, 0, 0, 2, b'h', b'i'];
    vec![streams.clone(), [&streams[..], &ping, &data].concat(), [&ping[..], &[0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 5]].concat()]
}

/// A message is for one channel, and brings no more than it holds.
pub fn websocket(data: &[u8]) {
    let (choice, bytes) = choice(data);
    let text = text(bytes).filter(|_| choice % 2 == 1);
    let message = text.map_or_else(|| Message::Binary(bytes.to_vec().into()), Message::text);
    for (_, payload) in CHANNELS.iter().filter_map(|channels| channels.decode(message.clone())) {
        assert!(payload.len() < bytes.len());
    }
}

/// Messages of each codec.
pub fn websocket_seeds() -> Vec<Vec<u8>> {
    vec![b"\0\x00hello".to_vec(), b"\x010aGVsbG8=".to_vec(), b"\x014eyJXaWR0aCI6MSwiSGVpZ2h0IjoyfQ==".to_vec(), b"\0\xff\x00".to_vec()]
}
