//! Custom resources in several versions that a webhook converts: a real HTTPS server, as `webhooks` has it. `v1` says `hostPort`, `v2` says
//! `host` and `port`.

use serde_json::{Value, json};

use crate::cluster::{Client, Cluster, stop, until};
use crate::transcript;
use crate::webhooks::{Judge, judge};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// The response to a conversion request.
pub fn converted(request: &Value) -> Value {
    let convert = |object: &Value| {
        let mut object = object.clone();
        let text = |key: &str| object[key].as_str().unwrap_or_default().to_owned();
        let (joined, host, port) = (text("hostPort"), text("host"), text("port"));
        let desired = request["desiredAPIVersion"].as_str().unwrap();
        object.as_object_mut().unwrap().retain(|key, _| !matches!(key.as_str(), "hostPort" | "host" | "port"));
        match (desired, joined.split_once(':')) {
            ("stable.example.com/v2", Some((host, port))) => {
                object["host"] = host.into();
                object["port"] = port.into();
            }
            ("stable.example.com/v1", _) if !host.is_empty() => object["hostPort"] = format!("{host}:{port}").into(),
            _ => {}
        }
        object["apiVersion"] = desired.into();
        object
    };
    let objects: Vec<Value> = request["objects"].as_array().unwrap().iter().map(convert).collect();
    json!({"result": {"status": "Success"}, "convertedObjects": objects})
}

/// The same, of a webhook that gives objects another name.
pub fn renamed(request: &Value) -> Value {
    let mut response = converted(request);
    response["convertedObjects"][0]["metadata"]["name"] = "other".into();
    response
}

fn definition(judge: &Judge, path: &str, stored: &str) -> Value {
    let version = |name: &str, fields: &[&str]| {
        let properties: serde_json::Map<_, _> = fields.iter().map(|field| ((*field).to_owned(), json!({"type": "string"}))).collect();
        let selectable: Vec<Value> = fields.iter().map(|field| json!({"jsonPath": format!(".{field}")})).collect();
        json!({
            "name": name, "served": true, "storage": name == stored, "selectableFields": selectable,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": properties}},
        })
    };
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "links.stable.example.com"},
        "spec": {
            "group": "stable.example.com", "scope": "Namespaced", "names": {"plural": "links", "kind": "Link"},
            "versions": [version("v1", &["hostPort"]), version("v2", &["host", "port"])],
            "conversion": {"strategy": "Webhook", "webhook": {
                "conversionReviewVersions": ["v1", "v1beta1"],
                "clientConfig": {"url": format!("https://127.0.0.1:{}{path}", judge.port), "caBundle": judge.bundle},
            }},
        },
    })
}

/// Put the definition, and wait until it is served as it says.
async fn define(client: &mut Client, definition: &Value) {
    let path = format!("{DEFINITIONS}/links.stable.example.com");
    let mut answer = client.post(DEFINITIONS, definition.clone()).await;
    if answer.status == 409 {
        let patch = json!({"spec": definition["spec"]}).to_string();
        answer = client.send("PATCH", &path, &[("Content-Type", "application/merge-patch+json")], patch).await;
    }
    assert!(matches!(answer.status, 200 | 201), "{answer:?}");
    let stored =
        definition["spec"]["versions"].as_array().unwrap().iter().find(|version| version["storage"] == true).unwrap()["name"].clone();
    until("it is served as it says", async || {
        let seen = client.get(&path).await.json();
        let has = |at: &str, is: &dyn Fn(&Value) -> bool| seen["status"][at].as_array().is_some_and(|all| all.iter().any(is));
        let established = |c: &Value| c["type"] == "Established" && c["status"] == "True";
        if has("storedVersions", &|version| *version == stored) && has("conditions", &established) { Ok(()) } else { Err(seen) }
    })
    .await;
}

async fn check(cluster: &Cluster, text: &str) {
    let failures = transcript::failures(cluster, text).await;
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_are_shown_written_selected_and_watched_in_the_version_asked_for() {
    let (cluster, judge) = (Cluster::start().await, judge().await);
    let mut client = cluster.admin().await;
    define(&mut client, &definition(&judge, "/convert", "v1")).await;
    check(&cluster, include_str!("../transcripts/conversion.txt")).await;
    // A page is converted at once.
    let before = judge.asked();
    let list = client.get("/apis/stable.example.com/v2/namespaces/default/links").await;
    assert_eq!((list.json()["items"].as_array().unwrap().len(), judge.asked() - before), (3, 1));
    // The storage version may change under stored objects: each is shown in the version asked for, whatever it is stored in.
    define(&mut client, &definition(&judge, "/convert", "v2")).await;
    check(&cluster, include_str!("../transcripts/conversion-mixed.txt")).await;
    stop(cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_that_fails_is_named_with_why_and_a_changed_definition_counts_at_once() {
    let (cluster, judge) = (Cluster::start().await, judge().await);
    let mut client = cluster.admin().await;
    let links = |version: &str| format!("/apis/stable.example.com/{version}/namespaces/default/links");
    define(&mut client, &definition(&judge, "/convert", "v1")).await;
    let body = json!({"apiVersion": "stable.example.com/v2", "kind": "Link", "metadata": {"name": "a"}, "host": "h", "port": "1"});
    assert_eq!(client.post(&links("v2"), body.clone()).await.status, 201);
    for (path, says) in
        [("/fail", "failed: no such host"), ("/rename", "must have the same name"), ("/nothing", "response.result.status was ''")]
    {
        define(&mut client, &definition(&judge, path, "v1")).await;
        until(says, async || {
            let answer = client.get(&format!("{}/a", links("v2"))).await;
            let body = answer.json();
            let message = body["message"].as_str().unwrap_or_default();
            let named = message.starts_with("conversion webhook for stable.example.com/v1, Kind=Link ");
            if answer.status == 500 && named && message.contains(says) { Ok(()) } else { Err(body) }
        })
        .await;
        // What needs no conversion works on.
        assert_eq!(client.get(&format!("{}/a", links("v1"))).await.json()["hostPort"], "h:1");
        let other = json!({"apiVersion": "stable.example.com/v2", "kind": "Link", "metadata": {"name": "b"}, "host": "h", "port": "1"});
        assert_eq!(client.post(&links("v2"), other).await.status, 500);
        assert_eq!(client.get(&format!("{}/b", links("v1"))).await.status, 404);
    }
    stop(cluster).await;
}
