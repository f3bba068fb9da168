//! What machines read from others: questions of pods, images of registries.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::LazyLock;

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use pintle_host_node::dns::{self, zone::Zone};
use pintle_host_node::link::Row;
use pintle_host_node::net::addresses::{gateway, usable};
use pintle_host_node::service::Catalog;
use pintle_runtime_bridge::{ImageLimits, ImageRef, fuzz};
use pintle_values::network::Network;
use serde_json::json;

use crate::input::{halves, text, texts};

fn zone() -> Zone {
    let ranges = ["10.96.0.0/16", "10.244.0.0/16"].map(|text| text.parse().expect("a network"));
    Zone::new("cluster.local", ranges.to_vec()).expect("a zone")
}

/// A Service with an address and more endpoints than an answer by UDP holds.
fn catalog() -> Catalog {
    let (mut catalog, mut dirty) = (Catalog::default(), BTreeSet::new());
    let ports = json!([{"name": "http", "port": 80, "protocol": "TCP"}]);
    for (name, address) in [("web", "10.96.0.5"), ("db", "None")] {
        let service = json!({"metadata": {"namespace": "default", "name": name}, "spec": {"clusterIP": address, "clusterIPs": [address], "ports": ports}});
        catalog.take_service(Row::Put(service.to_string().into_bytes()), &mut dirty);
    }
    let endpoints: Vec<_> = (1..120)
        .map(|at| json!({"addresses": [format!("10.244.1.{at}")], "hostname": format!("db-{at}"), "conditions": {"ready": true}}))
        .collect();
    let slice = json!({"metadata": {"namespace": "default", "name": "db-1", "labels": {"kubernetes.io/service-name": "db"}}, "addressType": "IPv4", "ports": ports, "endpoints": endpoints});
    catalog.take_slice(Row::Put(slice.to_string().into_bytes()), &mut dirty);
    catalog
}

/// A question of the cluster's is answered in no more bytes than the client takes, and the answer is read as one to it.
pub fn dns(data: &[u8]) {
    thread_local!(static CLUSTER: (Zone, Catalog) = (zone(), catalog()));
    let Ok(question) = Message::from_vec(data) else { return };
    let [query] = question.queries.as_slice() else { return };
    let mut answer = dns::answer_to(&question);
    CLUSTER.with(|(zone, catalog)| {
        if let Some(found) = zone.answer(catalog, &query.name.to_lowercase(), query.query_type) {
            answer.metadata.response_code = found.code;
            answer.add_answers(found.records);
            answer.add_additionals(found.additional);
            answer.add_authority(zone.authority());
        }
    });
    let Ok(bytes) = dns::datagram_of(&question, answer) else { return };
    assert!(bytes.len() <= 1232, "{} bytes", bytes.len());
    let answer = Message::from_vec(&bytes).expect("what was written is read");
    assert_eq!((answer.metadata.id, answer.metadata.message_type), (question.metadata.id, MessageType::Response));
    assert_eq!(answer.queries, question.queries);
}

/// Questions of each kind.
pub fn dns_seeds() -> Vec<Vec<u8>> {
    let names = [
        ("web.default.svc.cluster.local.", RecordType::A),
        ("db.default.svc.cluster.local.", RecordType::SRV),
        ("_http._tcp.db.default.svc.cluster.local.", RecordType::SRV),
        ("5.0.96.10.in-addr.arpa.", RecordType::PTR),
        ("10-244-1-2.default.pod.cluster.local.", RecordType::AAAA),
        ("example.org.", RecordType::A),
    ];
    let question = |(name, kind): (&str, RecordType)| {
        let mut question = Message::new(7, MessageType::Query, OpCode::Query);
        question.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
        if kind == RecordType::SRV {
            let mut edns = hickory_proto::op::Edns::new();
            edns.set_max_payload(4096);
            question.set_edns(edns);
        }
        question.to_vec().expect("a question")
    };
    names.into_iter().map(question).collect()
}

/// A network that is read is the same when it is written and read again, and holds its own first address.
pub fn cidr(data: &[u8]) {
    let Some(Ok(network)) = text(data).map(str::parse::<Network>) else { return };
    assert_eq!(network.to_string().parse::<Network>().ok(), Some(network));
    assert!(network.contains(network.address()) && (usable(network).is_err() || network.contains(gateway(network))), "{network}");
}

/// Networks.
pub fn cidr_seeds() -> Vec<Vec<u8>> {
    texts(&["10.244.1.0/24", "255.255.255.255/30", "10.1.2.3/8", "fd00::/64"])
}

/// A reference that is read is the same when it is written and read again, and leads nowhere else in a URL.
pub fn image_reference(data: &[u8]) {
    let Some(Ok(image)) = text(data).map(ImageRef::parse) else { return };
    let written = image.to_string();
    assert_eq!(ImageRef::parse(&written).ok().as_ref(), Some(&image), "{written}");
    // A tag may have any number of dots, but no slash.
    assert!(!image.name().contains("..") && !image.name().contains("//") && written.bytes().all(|b| b.is_ascii_graphic()), "{written}");
}

/// References of each form.
pub fn image_reference_seeds() -> Vec<Vec<u8>> {
    let digest = format!("a:t@sha256:{}", "a".repeat(64));
    texts(&["busybox", "ghcr.io/a/b:1.2_x-y", "127.0.0.1:5000/web", "[::1]:5000/a", "index.docker.io/library/x--y/z__w", &digest])
}

/// Layers of an image that is accepted have digests and directories of the one form.
pub fn image_manifest(data: &[u8]) {
    let (manifest, config) = halves(data);
    let Ok(layers) = fuzz::image(manifest, config) else { return };
    for (digest, directory) in layers {
        assert!(digest.len() == 71 && digest.starts_with("sha256:"), "{digest}");
        assert!(directory.len() == 24 && directory.bytes().all(|b| b.is_ascii_hexdigit()), "{directory}");
    }
}

/// A manifest and its config; an index.
pub fn image_manifest_seeds() -> Vec<Vec<u8>> {
    let digest = |digit: &str| format!("sha256:{}", digit.repeat(64));
    let manifest = json!({"schemaVersion": 2, "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest("1"), "size": 7},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest("2"), "size": 9, "annotations": {"a": "b"}}]});
    let config = json!({"config": {"User": "1:2", "ExposedPorts": {"80/tcp": {}}, "Env": ["A=b"], "Cmd": null, "Labels": null}, "rootfs": {"diff_ids": [digest("3")]}});
    let index = json!({"manifests": [{"digest": digest("4"), "size": 5, "platform": {"architecture": "amd64", "os": "linux"}}]});
    vec![format!("{manifest}\0{config}").into_bytes(), format!("{index}\0{{}}").into_bytes()]
}

/// A folder with one file that no layer may change, and a folder in which layers are unpacked.
static OUTSIDE: LazyLock<PathBuf> = LazyLock::new(|| {
    let outside = std::env::temp_dir().join(format!("pintle-fuzz-{}", std::process::id()));
    let _ = fs::remove_dir_all(&outside);
    fs::create_dir_all(&outside).expect("a folder");
    fs::write(outside.join("kept"), "kept").expect("a file");
    outside
});

/// Removes what the targets have left on the disk.
pub fn clean() {
    let _ = fs::remove_dir_all(&*OUTSIDE);
}

/// A layer changes nothing outside of its folder, and makes no more than its limits allow.
pub fn image_layer(data: &[u8]) {
    let inside = OUTSIDE.join("layer");
    fs::create_dir_all(&inside).expect("a folder");
    let limits = ImageLimits { layer_bytes_max: 1 << 20, layer_files_max: 100, layers_max: 1 };
    let unpacked = fuzz::layer(data, File::open(&inside).expect("the folder").as_fd(), &limits);
    let mut there: Vec<_> = fs::read_dir(&*OUTSIDE).expect("the folder").flatten().map(|entry| entry.file_name()).collect();
    there.sort();
    assert_eq!(there, ["kept", "layer"]);
    assert_eq!(fs::read(OUTSIDE.join("kept")).ok().as_deref(), Some(&b"kept"[..]));
    fs::remove_dir_all(&inside).expect("what was unpacked goes away");
    assert!(unpacked.unwrap_or(0) <= limits.layer_files_max, "too many files");
}

/// An archive with every kind of entry, and some that try to leave.
pub fn image_layer_seeds() -> Vec<Vec<u8>> {
    let archive = |rows: &[(tar::EntryType, &str, &str, &[u8])]| {
        let mut builder = tar::Builder::new(Vec::new());
        for (kind, path, link, body) in rows {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_size(body.len() as u64);
            header.set_mode(0o644);
            // The builder's own setters refuse what a hostile archive has.
            let fields = header.as_old_mut();
            fields.name[..path.len()].copy_from_slice(path.as_bytes());
            fields.linkname[..link.len()].copy_from_slice(link.as_bytes());
            header.set_cksum();
            builder.append(&header, *body).expect("appended");
        }
        builder.into_inner().expect("an archive")
    };
    use tar::EntryType as T;
    vec![
        archive(&[
            (T::Directory, "etc/", "", b""),
            (T::Regular, "etc/a", "", b"x"),
            (T::Symlink, "b", "etc/a", b""),
            (T::Link, "c", "etc/a", b""),
        ]),
        archive(&[(T::Regular, "etc/.wh.passwd", "", b""), (T::Directory, "var/", "", b""), (T::Regular, "var/.wh..wh..opq", "", b"")]),
        archive(&[(T::Symlink, "up", "../", b""), (T::Regular, "up/kept", "", b"gone")]),
        archive(&[(T::Symlink, "up", "..", b""), (T::Link, "x", "up/kept", b""), (T::Regular, "../kept", "", b"gone")]),
        archive(&[(T::XHeader, "pax", "", b"18 path=dir/file\n\n"), (T::Regular, "short", "", b"y"), (T::Block, "dev", "", b"")]),
    ]
}
