//! Uses Kubernetes as programs in Rust do: with kube-rs.
//!
//! `pintle-client-kube SCENARIO` does one of the scenarios below against the cluster of `$KUBECONFIG`, in a namespace of its own that it
//! removes; it says why and ends with 1 when something is not as kube-rs's users expect.

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::runtime::{WatchStreamExt as _, conditions, reflector, wait::await_condition, watcher};
use kube::{Api, Client, CustomResource, CustomResourceExt as _, ResourceExt as _};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::{future::Future, pin::pin, process::ExitCode, time::Duration};

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// Bounds each wait on a condition.
const PATIENCE: Duration = Duration::from_secs(60);

/// Names of the scenarios; `scenario` below runs them.
const SCENARIOS: [&str; 5] =
    ["watcher_by_list_and_watch", "watcher_by_streaming_list", "reflector_keeps_a_store", "server_side_apply", "derived_custom_resource"];

#[tokio::main]
async fn main() -> ExitCode {
    let name = std::env::args().nth(1).unwrap_or_default();
    if name == "list" {
        println!("{}", SCENARIOS.join("\n"));
        return ExitCode::SUCCESS;
    }
    match run(&name).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(name: &str) -> Outcome {
    let client = Client::try_default().await?;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let wanted = serde_json::from_value(json!({"metadata": {"generateName": "client-kube-"}}))?;
    let namespace = namespaces.create(&PostParams::default(), &wanted).await?.name_any();
    let outcome = match tokio::time::timeout(PATIENCE, scenario(name, client, &namespace)).await {
        Ok(outcome) => outcome,
        Err(_) => Err("gave up after a minute".into()),
    };
    namespaces.delete(&namespace, &DeleteParams::default()).await?;
    outcome
}

async fn scenario(name: &str, client: Client, namespace: &str) -> Outcome {
    match name {
        "watcher_by_list_and_watch" => follow(client, namespace, watcher::Config::default()).await,
        "watcher_by_streaming_list" => follow(client, namespace, watcher::Config::default().streaming_lists()).await,
        "reflector_keeps_a_store" => reflect(client, namespace).await,
        "server_side_apply" => apply(client, namespace).await,
        "derived_custom_resource" => custom(client, namespace).await,
        _ => Err(format!("no scenario {name:?}; there are {SCENARIOS:?}").into()),
    }
}

fn config_map(name: &str, value: &str) -> ConfigMap {
    let mut object = ConfigMap { data: Some([("k".to_owned(), value.to_owned())].into()), ..ConfigMap::default() };
    object.metadata.name = Some(name.to_owned());
    object.labels_mut().insert("made-by".into(), "client".into());
    object
}

fn expect<T: PartialEq + std::fmt::Debug>(seen: T, wanted: T) -> Outcome {
    if seen == wanted { Ok(()) } else { Err(format!("seen {seen:?}, wanted {wanted:?}").into()) }
}

/// What a watcher tells about objects that were there, come, change and go.
async fn follow(client: Client, namespace: &str, config: watcher::Config) -> Outcome {
    let api: Api<ConfigMap> = Api::namespaced(client, namespace);
    for name in ["a", "b"] {
        api.create(&PostParams::default(), &config_map(name, "0")).await?;
    }
    let mut events = pin!(watcher(api.clone(), config.labels("made-by=client")));
    let (mut seen, mut initial) = (Vec::new(), Vec::new());
    while let Some(event) = events.try_next().await? {
        match event {
            watcher::Event::Init => seen.push("init".to_owned()),
            watcher::Event::InitApply(object) => initial.push(object.name_any()),
            watcher::Event::InitDone => {
                seen.push("done".into());
                api.create(&PostParams::default(), &config_map("c", "0")).await?;
                api.patch("c", &PatchParams::default(), &Patch::Merge(json!({"data": {"k": "1"}}))).await?;
                api.delete("c", &DeleteParams::default()).await?;
            }
            watcher::Event::Apply(object) => seen.push(format!("{}={}", object.name_any(), object.data.unwrap_or_default()["k"])),
            watcher::Event::Delete(object) => {
                seen.push(format!("-{}", object.name_any()));
                break;
            }
        }
    }
    initial.sort();
    expect(initial, vec!["a".to_owned(), "b".to_owned()])?;
    expect(seen, ["init", "done", "c=0", "c=1", "-c"].map(str::to_owned).to_vec())
}

/// A reflector's store ends with what the cluster has.
async fn reflect(client: Client, namespace: &str) -> Outcome {
    let api: Api<ConfigMap> = Api::namespaced(client, namespace);
    api.create(&PostParams::default(), &config_map("a", "0")).await?;
    let (reader, writer) = reflector::store();
    let config = watcher::Config::default().streaming_lists().labels("made-by=client");
    let mut touched = pin!(watcher(api.clone(), config).default_backoff().reflect(writer).touched_objects());
    let filled = reader.wait_until_ready();
    let mut filled = pin!(filled);
    loop {
        tokio::select! {
            ready = &mut filled => { ready?; break }
            object = touched.try_next() => { object?; }
        }
    }
    for i in 1..=50 {
        api.create(&PostParams::default(), &config_map(&format!("n{i}"), "0")).await?;
    }
    api.patch("a", &PatchParams::default(), &Patch::Merge(json!({"data": {"k": "last"}}))).await?;
    let done = || {
        let objects = reader.state();
        objects.len() == 51 && objects.iter().any(|o| o.name_any() == "a" && o.data.as_ref().is_some_and(|d| d["k"] == "last"))
    };
    while !done() {
        touched.try_next().await?.ok_or("the watcher ended")?;
    }
    Ok(())
}

/// Two managers of one object: apart they get along, over one key they conflict, force decides.
async fn apply(client: Client, namespace: &str) -> Outcome {
    let api: Api<ConfigMap> = Api::namespaced(client, namespace);
    let wanted = |key: &str, value: &str| {
        Patch::Apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "shared"}, "data": {key: value}}))
    };
    api.patch("shared", &PatchParams::apply("first"), &wanted("a", "1")).await?;
    let both = api.patch("shared", &PatchParams::apply("second"), &wanted("b", "1")).await?;
    expect(both.data.unwrap_or_default().len(), 2)?;
    let refused = match api.patch("shared", &PatchParams::apply("second"), &wanted("a", "2")).await {
        Err(kube::Error::Api(status)) => status,
        other => return Err(format!("wanted a conflict, got {other:?}").into()),
    };
    expect((refused.code, refused.reason.as_str()), (409, "Conflict"))?;
    let causes = refused.details.map(|d| d.causes).unwrap_or_default();
    let causes: Vec<_> = causes.iter().map(|c| (c.reason.as_str(), c.field.as_str())).collect();
    expect(causes, vec![("FieldManagerConflict", ".data.a")])?;
    let taken = api.patch("shared", &PatchParams::apply("second").force(), &wanted("a", "2")).await?;
    // What second does not apply any more and nobody else owns is gone.
    expect(taken.data.unwrap_or_default(), [("a".to_owned(), "2".to_owned())].into())?;
    let dry = api.patch("shared", &PatchParams::apply("second").dry_run(), &wanted("a", "3")).await?;
    expect(dry.data.unwrap_or_default()["a"].as_str(), "3")?;
    expect(api.get("shared").await?.data.unwrap_or_default()["a"].as_str(), "2")
}

/// A kind by the derive macro.
#[derive(CustomResource, Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[kube(group = "kube.example.test", version = "v1", kind = "Ship", namespaced, status = "ShipStatus")]
#[kube(shortname = "sh", printcolumn = r#"{"name":"Size","type":"integer","jsonPath":".spec.size"}"#)]
#[kube(scale(spec_replicas_path = ".spec.size", status_replicas_path = ".status.size"))]
#[serde(rename_all = "camelCase")]
struct ShipSpec {
    #[schemars(range(min = 1, max = 100))]
    size: i32,
    #[serde(default)]
    home_port: String,
    cargo: Option<Vec<String>>,
}

/// Its status.
#[derive(Debug, Clone, Default, Deserialize, Serialize, JsonSchema)]
struct ShipStatus {
    size: i32,
}

async fn custom(client: Client, namespace: &str) -> Outcome {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let definition = Ship::crd();
    definitions.patch(&definition.name_any(), &PatchParams::apply("client").force(), &Patch::Apply(&definition)).await?;
    let outcome = within(await_condition(definitions.clone(), &definition.name_any(), conditions::is_crd_established())).await;
    let outcome = match outcome {
        Ok(_) => ships(Api::namespaced(client, namespace)).await,
        Err(error) => Err(error),
    };
    definitions.delete(&definition.name_any(), &DeleteParams::default()).await?;
    outcome
}

async fn within<T, E: std::error::Error + 'static>(what: impl Future<Output = Result<T, E>>) -> Result<T, Box<dyn std::error::Error>> {
    Ok(tokio::time::timeout(PATIENCE / 2, what).await.map_err(|_| "waited in vain")??)
}

async fn ships(api: Api<Ship>) -> Outcome {
    let ship = |size| Ship::new("anna", ShipSpec { size, home_port: "Oban".into(), cargo: None });
    let made = api.create(&PostParams::default(), &ship(3)).await?;
    expect((made.spec.size, made.metadata.generation, made.status.is_none()), (3, Some(1), true))?;
    let start = made.resource_version().unwrap_or_default();
    match api.create(&PostParams::default(), &Ship::new("big", ShipSpec { size: 101, home_port: String::new(), cargo: None })).await {
        Err(kube::Error::Api(status)) if status.code == 422 && status.message.contains("spec.size") => {}
        other => return Err(format!("a ship too big: {other:?}").into()),
    }
    let status = Patch::Merge(json!({"status": {"size": 3}, "spec": {"size": 9}}));
    let seen = api.patch_status("anna", &PatchParams::default(), &status).await?;
    expect((seen.spec.size, seen.status.map(|s| s.size), seen.metadata.generation), (3, Some(3), Some(1)))?;
    let scale = api.patch_scale("anna", &PatchParams::default(), &Patch::Merge(json!({"spec": {"replicas": 7}}))).await?;
    expect(scale.status.map(|s| s.replicas), Some(3))?;
    expect(api.get("anna").await?.spec.size, 7)?;
    expect(api.list(&ListParams::default().fields("metadata.name=anna")).await?.items.len(), 1)?;
    api.delete("anna", &DeleteParams::default()).await?;
    let mut events = pin!(api.watch(&WatchParams::default(), &start).await?.boxed());
    let mut sizes = Vec::new();
    while let Some(event) = events.try_next().await? {
        match event {
            WatchEvent::Modified(ship) => sizes.push(ship.spec.size),
            WatchEvent::Deleted(_) => break,
            other => return Err(format!("unexpected {other:?}").into()),
        }
    }
    expect(sizes, vec![3, 7])
}
