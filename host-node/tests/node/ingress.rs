//! The proxy with real sockets: backends are threads of this process that tell what they were asked.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo};
use pintle_host_node::ingress::backend::{Behind, Service, Speech};
use pintle_host_node::ingress::certified;
use pintle_host_node::ingress::model::{Certificate, RouteTable};
use pintle_host_node::ingress::server::{Server, State};
use pintle_host_node::ingress::table::Programme;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use serde_json::{Value, json};

use crate::machine::patience;

/// A backend: its address, and how many requests it has had.
struct Backend {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

/// Answers with its name, the request's head and its body. `/status/N` answers N, `/hang` nothing, `/close` hangs up, `/upgrade` echoes.
fn backend(name: &'static str) -> Backend {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let (address, asked) = (listener.local_addr().expect("bound"), Arc::new(AtomicUsize::new(0)));
    let count = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let count = count.clone();
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().expect("a stream"));
                while let Some((head, body)) = read_message(&mut reader) {
                    count.fetch_add(1, Ordering::SeqCst);
                    if !respond(name, &head, &body, &mut reader, &stream) {
                        return;
                    }
                }
            });
        }
    });
    Backend { address, asked }
}

fn respond(name: &str, head: &str, body: &str, reader: &mut impl Read, mut stream: &TcpStream) -> bool {
    let path = head.split(' ').nth(1).unwrap_or_default();
    let status = path.strip_prefix("/status/").unwrap_or("200");
    match path {
        "/close" => return false,
        "/hang" => std::thread::sleep(Duration::from_secs(600)),
        "/upgrade" => {
            let _ = stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n");
            let mut block = [0; 64];
            while let Ok(count @ 1..) = reader.read(&mut block) {
                let _ = stream.write_all(&block[..count]);
            }
            return false;
        }
        _ => {}
    }
    let text = format!("{name}\n{}\n{body}", head.to_ascii_lowercase());
    stream.write_all(format!("HTTP/1.1 {status} X\r\nkeep-alive: 5\r\ncontent-length: {}\r\n\r\n{text}", text.len()).as_bytes()).is_ok()
}

/// A head and a body by its length or in chunks.
fn read_message(reader: &mut impl BufRead) -> Option<(String, String)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        reader.read_line(&mut head).ok().filter(|count| *count > 0)?;
    }
    let field = |name: &str| head.to_ascii_lowercase().split(&format!("\r\n{name}: ")).nth(1)?.split("\r\n").next().map(str::to_owned);
    let mut body = Vec::new();
    if let Some(length) = field("content-length").and_then(|text| text.parse().ok()) {
        body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
    } else if field("transfer-encoding").is_some() {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size).ok()?;
            let mut chunk = vec![0; usize::from_str_radix(size.trim(), 16).ok()? + 2];
            reader.read_exact(&mut chunk).ok()?;
            if chunk.len() == 2 {
                break;
            }
            body.extend_from_slice(&chunk[..chunk.len() - 2]);
        }
    }
    Some((head, String::from_utf8_lossy(&body).into_owned()))
}

/// A proxy at two free ports, for 80 and 443.
struct Proxy {
    server: Server,
    ports: Arc<BTreeMap<u16, u16>>,
    backends: BTreeMap<&'static str, Vec<SocketAddr>>,
    certificates: Mutex<HashMap<Certificate, Arc<CertifiedKey>>>,
}

impl Proxy {
    fn new(backends: &[(&'static str, &[SocketAddr])]) -> Self {
        let free = [(); 2].map(|()| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a port"));
        let [http, https] = free.map(|listener| listener.local_addr().expect("bound").port());
        let backends = backends.iter().map(|(name, all)| (*name, all.to_vec())).collect();
        Self { server: Server::default(), ports: Arc::new([(80, http), (443, https)].into()), backends, certificates: Mutex::default() }
    }

    fn set(&self, rules: Value) {
        let listeners = json!([
            { "name": "http", "port": 80, "protocol": "HTTP" },
            { "name": "tls", "port": 443, "protocol": "HTTPS", "hostname": "a.test", "certificates": [{ "namespace": "n", "name": "a" }] },
        ]);
        self.set_spec(json!({ "listeners": listeners, "rules": rules }));
    }

    fn set_spec(&self, spec: Value) {
        let key = ("n".to_owned(), "t".to_owned());
        let table: RouteTable = serde_json::from_value(json!({ "spec": spec })).expect("a table");
        let programme = Programme::of([(&key, &table)].into_iter(), |target| {
            let service = Arc::new(Service::default());
            let endpoints = self.backends.get(&*target.service.1).cloned().unwrap_or_default();
            service.set(Behind { endpoints, speech: Speech::Http1 });
            service
        });
        let certificates = Arc::new(self.certificates.lock().expect("no panic").clone());
        self.server.set(State { programme: Arc::new(programme), certificates, ports: self.ports.clone() }).expect("set");
    }

    /// Connects; ports open a moment after they are asked for.
    fn connect(&self, port: u16) -> TcpStream {
        let deadline = std::time::Instant::now() + patience(20);
        loop {
            match TcpStream::connect((Ipv4Addr::LOCALHOST, self.ports[&port])) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(patience(20))).expect("a timeout");
                    return stream;
                }
                Err(error) => assert!(std::time::Instant::now() < deadline, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The answer to a request as it stands here, with `\n` for the ends of lines.
    fn ask(&self, request: &str) -> String {
        exchange(&mut self.connect(80), request)
    }

    fn get(&self, path: &str) -> String {
        self.ask(&format!("GET {path} HTTP/1.1\nhost: a.test\n\n"))
    }
}

fn exchange(stream: &mut TcpStream, request: &str) -> String {
    stream.write_all(request.replace('\n', "\r\n").as_bytes()).expect("sent");
    let mut reader = BufReader::new(stream.try_clone().expect("a stream"));
    read_message(&mut reader).map(|(head, body)| head + &body).unwrap_or_else(|| "hung up".into())
}

fn to(name: &str, more: Value) -> Value {
    let mut rule = json!({ "backends": [{ "namespace": "n", "service": name, "port": 80 }] });
    rule.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    rule
}

fn starts(answer: &str, expected: &str) {
    assert!(answer.starts_with(&format!("HTTP/1.1 {expected}")), "{expected}: {answer}");
}

/// An address where nobody listens.
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port")
}

#[test]
fn requests_go_where_rules_say_and_say_who_asked() {
    let (one, two) = (backend("one"), backend("two"));
    let proxy = Proxy::new(&[("one", &[one.address]), ("two", &[two.address])]);
    proxy.set(json!([
        to("one", json!({ "hosts": ["a.test"], "matches": [{ "pathType": "Prefix", "path": "/x" }] })),
        to("two", json!({ "hosts": ["a.test"] })),
        to("absent", json!({ "hosts": ["b.test"] })),
        { "hosts": ["c.test"] },
    ]));
    let said = proxy.ask(
        "POST /x/y?q=1 HTTP/1.1\nhost: A.test:80\nx-forwarded-for: 1.2.3.4\nconnection: x-secret\nx-secret: 1\ncontent-length: 4\n\nbody",
    );
    starts(&said, "200");
    for part in ["one\npost /x/y?q=1 http/1.1\r\n", "host: a.test:80", "x-forwarded-for: 127.0.0.1", "x-forwarded-proto: http", "\nbody"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    assert!(!said.contains("x-secret") && !said.contains("1.2.3.4") && !said.contains("keep-alive: 5"), "{said}");
    let chunked = "POST /x HTTP/1.1\nhost: a.test\ntransfer-encoding: chunked\n\n3\nabc\n2\nde\n0\n\n";
    assert!(proxy.ask(chunked).ends_with("\nabcde"));
    assert!(proxy.get("/%78/../x/%2e%2E/z").contains("two\nget /z http"), "paths have one spelling");
    starts(&proxy.ask("GET / HTTP/1.1\nhost: b.test\n\n"), "503");
    starts(&proxy.ask("GET / HTTP/1.1\nhost: c.test\n\n"), "500");
    starts(&proxy.ask("GET / HTTP/1.1\nhost: d.test\n\n"), "404");
    starts(&proxy.ask("GET / HTTP/1.1\nhost: a.test\nhost: b.test\n\n"), "400");
    starts(&proxy.ask("GET / HTTP/1.1\nx: y\n\n"), "400");
    starts(&proxy.ask("GET /%zz HTTP/1.1\nhost: a.test\n\n"), "400");
}

#[test]
fn a_length_beside_chunks_smuggles_nothing() {
    let one = backend("one");
    let proxy = Proxy::new(&[("one", &[one.address])]);
    proxy.set(json!([to("one", json!({}))]));
    let mut stream = proxy.connect(80);
    let said = exchange(
        &mut stream,
        "POST / HTTP/1.1\nhost: a.test\ncontent-length: 40\ntransfer-encoding: chunked\n\n0\n\nGET /smuggled HTTP/1.1\nhost: a.test\n\n",
    );
    // Either it is refused, or its chunks count and what follows is a request of its own that the rules have seen.
    assert!(said.starts_with("HTTP/1.1 400") || !said.contains("content-length: 40"), "{said}");
    assert!(!said.contains("smuggled"), "{said}");
}

#[test]
fn a_new_table_counts_from_the_next_request_on_without_cutting_connections() {
    let (one, two) = (backend("one"), backend("two"));
    let proxy = Proxy::new(&[("one", &[one.address]), ("two", &[two.address])]);
    proxy.set(json!([to("one", json!({}))]));
    let mut kept = proxy.connect(80);
    assert!(exchange(&mut kept, "GET / HTTP/1.1\nhost: a.test\n\n").contains("one\nget"));
    proxy.set(json!([to("two", json!({}))]));
    assert!(exchange(&mut kept, "GET / HTTP/1.1\nhost: a.test\n\n").contains("two\nget"));
    proxy.set_spec(json!({ "listeners": [], "rules": [] }));
    // The port closes; the connection that stands is told to go.
    let deadline = std::time::Instant::now() + patience(20);
    while TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.ports[&80])).is_ok() {
        assert!(std::time::Instant::now() < deadline, "the port stays open");
    }
    assert_eq!(kept.read(&mut [0; 16]).expect("an end"), 0);
}

#[test]
fn endpoints_that_take_no_connection_are_passed_over() {
    let one = backend("one");
    let proxy = Proxy::new(&[("half", &[nobody(), one.address, nobody()]), ("dead", &[nobody(), nobody()])]);
    proxy.set(json!([to("half", json!({ "hosts": ["a.test"] })), to("dead", json!({ "hosts": ["b.test"] }))]));
    for _ in 0..6 {
        starts(&proxy.ask("POST / HTTP/1.1\nhost: a.test\ncontent-length: 1\n\nx"), "200");
    }
    starts(&proxy.ask("GET / HTTP/1.1\nhost: b.test\n\n"), "502");
    starts(&proxy.get("/close"), "502");
}

#[test]
fn retries_and_timeouts_are_as_the_rule_says() {
    let one = backend("one");
    let proxy = Proxy::new(&[("one", &[one.address])]);
    let retry = json!({ "attempts": 2, "statusCodes": [503] });
    proxy.set(json!([
        to("one", json!({ "hosts": ["a.test"], "retry": retry })),
        to("one", json!({ "hosts": ["b.test"], "requestMilliseconds": 50 })),
        to("one", json!({ "hosts": ["c.test"], "backendMilliseconds": 50 })),
    ]));
    let asked = || one.asked.swap(0, Ordering::SeqCst);
    starts(&proxy.get("/status/503"), "503");
    assert_eq!(asked(), 3);
    starts(&proxy.get("/status/500"), "500");
    assert_eq!(asked(), 1);
    starts(&proxy.ask("POST /status/503 HTTP/1.1\nhost: a.test\ncontent-length: 1\n\nx"), "503");
    assert_eq!(asked(), 1);
    starts(&proxy.ask("GET /hang HTTP/1.1\nhost: b.test\n\n"), "504");
    starts(&proxy.ask("GET /hang HTTP/1.1\nhost: c.test\n\n"), "504");
}

#[test]
fn filters_change_what_goes_and_what_comes() {
    let (one, two) = (backend("one"), backend("two"));
    let proxy = Proxy::new(&[("one", &[one.address]), ("two", &[two.address])]);
    let below = |path: &str| json!([{ "pathType": "Prefix", "path": path }]);
    let v = |name: &str, value: &str| json!({ "name": name, "value": value });
    proxy.set(json!([
        { "matches": below("/r"), "redirect": { "scheme": "https", "hostname": "b.test", "statusCode": 301, "pathType": "Prefix", "path": "/n" } },
        to("one", json!({ "matches": below("/w"), "rewrite": { "hostname": "c.test", "pathType": "Prefix", "path": "/new" } })),
        to("one", json!({
            "matches": below("/h"),
            "requestHeaders": { "set": [v("x-a", "1")], "add": [v("x-b", "2")], "remove": ["x-c"] },
            "responseHeaders": { "set": [v("x-d", "4")] },
        })),
        to("one", json!({ "matches": below("/m"), "mirrors": [{ "namespace": "n", "service": "two", "port": 80 }] })),
    ]));
    let said = proxy.get("/r/x?q=1");
    assert!(said.starts_with("HTTP/1.1 301") && said.contains("location: https://b.test/n/x?q=1\r\n"), "{said}");
    let said = proxy.get("/w/x?q=1");
    assert!(said.contains("get /new/x?q=1 http") && said.contains("host: c.test\r\n"), "{said}");
    assert!(said.contains("x-forwarded-host: a.test"), "{said}");
    let said = proxy.ask("GET /h HTTP/1.1\nhost: a.test\nx-a: 0\nx-b: 0\nx-c: 0\n\n");
    assert!(said.contains("x-a: 1\r\n") && said.contains("x-b: 0\r\nx-b: 2\r\n") && !said.contains("x-c"), "{said}");
    assert!(said.contains("\r\nx-d: 4\r\n"), "{said}");
    starts(&proxy.get("/m"), "200");
    let deadline = std::time::Instant::now() + patience(20);
    while two.asked.load(Ordering::SeqCst) == 0 {
        assert!(std::time::Instant::now() < deadline, "no copy");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_connection_may_go_over_to_another_protocol() {
    let one = backend("one");
    let proxy = Proxy::new(&[("one", &[one.address])]);
    proxy.set(json!([to("one", json!({}))]));
    let mut stream = proxy.connect(80);
    let said = exchange(&mut stream, "GET /upgrade HTTP/1.1\nhost: a.test\nconnection: upgrade\nupgrade: echo\n\n");
    assert!(said.starts_with("HTTP/1.1 101") && said.contains("upgrade: echo"), "{said}");
    for word in ["ping", "pong"] {
        stream.write_all(word.as_bytes()).expect("sent");
        let mut back = [0; 4];
        stream.read_exact(&mut back).expect("an echo");
        assert_eq!(&back, word.as_bytes());
    }
    starts(&proxy.get("/"), "200");
}

fn certificate(names: &[&str]) -> (CertifiedKey, CertificateDer<'static>) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
    let key = certified(made.cert.pem().as_bytes(), made.signing_key.serialize_pem().as_bytes()).expect("a pair");
    (key, made.cert.der().clone())
}

#[test]
fn tls_ends_here_with_the_certificate_of_the_name_now() {
    let one = backend("one");
    let proxy = Proxy::new(&[("one", &[one.address])]);
    let named = Certificate { namespace: "n".into(), name: "a".into(), resource_version: String::new() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    // Over HTTP/2; what the backend was asked, or why there is no connection.
    let ask = |root: &CertificateDer<'static>, name: &'static str| -> std::result::Result<String, String> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(root.clone()).expect("a root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = proxy.connect(443);
        runtime.block_on(async {
            stream.set_nonblocking(true).expect("set");
            let stream = tokio::net::TcpStream::from_std(stream).expect("a stream");
            let server = name.try_into().expect("a name");
            let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
            let stream = connector.connect(server, stream).await.map_err(|error| error.to_string())?;
            let io = TokioIo::new(stream);
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.map_err(|error| error.to_string())?;
            tokio::spawn(connection);
            let request = http::Request::get(format!("https://{name}/"))
                .header("cookie", "a=1")
                .header("cookie", "b=2")
                .body(http_body_util::Empty::<bytes::Bytes>::new())
                .expect("a request");
            let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
            let body = http_body_util::BodyExt::collect(response.into_body()).await.map_err(|error| error.to_string())?;
            Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned())
        })
    };
    for _ in 0..2 {
        let (key, root) = certificate(&["a.test"]);
        proxy.certificates.lock().expect("no panic").insert(named.clone(), Arc::new(key));
        proxy.set(json!([to("one", json!({ "hosts": ["a.test"] }))]));
        let said = ask(&root, "a.test").expect("an answer");
        for part in ["get / http/1.1", "host: a.test", "x-forwarded-proto: https", "cookie: a=1; b=2"] {
            assert!(said.contains(part), "{part} in {said}");
        }
        assert!(ask(&root, "b.test").is_err(), "a name without a certificate");
    }
}

#[test]
fn certificates_are_checked_before_they_are_used() {
    let made =
        |names: &[&str]| rcgen::generate_simple_self_signed(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).expect("made");
    let (a, b) = (made(&["a.test"]), made(&["b.test"]));
    let check = |chain: &str, key: &str| certified(chain.as_bytes(), key.as_bytes()).map(drop);
    assert!(check(&a.cert.pem(), &a.signing_key.serialize_pem()).is_ok());
    assert!(check(&a.cert.pem(), &b.signing_key.serialize_pem()).is_err(), "another's key");
    assert!(check("", &a.signing_key.serialize_pem()).is_err());
    assert!(check(&a.cert.pem(), "no key").is_err());
}
