//! Built-in modules: `<name>.wasm` with `<name>.json` (a Module manifest without a source) in one folder. They are ordinary Module objects
//! that the kernel makes sure of at its start; a user may point one to another source, suspend it, or delete it, which stops it until
//! the kernel starts again.
//!
//! An annotation remembers which shipped manifest an object was made from: a user's changes stay until a new kernel ships another one.

use crate::{engine::digest_of, fault::HostError};
use pintle_registry::{Body, Caller, Registry, ResourceKey, WriteOptions};
use serde_json::{Value, json};
use std::path::Path;

const LABEL: &str = "pintle.dev/builtin";
const SHIPPED: &str = "pintle.dev/shipped-manifest";

/// Makes sure that each built-in has its object.
///
/// # Errors
/// `Io` for the folder, `Source` for a manifest that is none, `Registry` when a write is refused.
pub async fn ensure(registry: &Registry, dir: &Path) -> Result<usize, HostError> {
    let mut manifests = Vec::new();
    let io = |source| HostError::Io { path: dir.to_owned(), source };
    for entry in std::fs::read_dir(dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default().to_owned();
        if path.extension().is_some_and(|e| e == "json") && path.with_extension("wasm").is_file() {
            manifests.push(manifest(&path, &name)?);
        }
    }
    let ensured = futures::future::join_all(manifests.iter().map(|m| ensure_one(registry, m))).await;
    ensured.into_iter().collect::<Result<Vec<()>, _>>().map(|all| all.len())
}

fn manifest(path: &Path, name: &str) -> Result<Value, HostError> {
    let bad = |problem: String| HostError::Source { source_name: path.display().to_string(), problem };
    let text = std::fs::read(path).map_err(|source| HostError::Io { path: path.to_owned(), source })?;
    let mut module: Value = serde_json::from_slice(&text).map_err(|e| bad(e.to_string()))?;
    if module["kind"] != "Module" || !module["spec"].is_object() {
        return Err(bad("it is not a Module manifest".into()));
    }
    module["metadata"]["name"] = json!(name);
    module["metadata"]["labels"][LABEL] = json!("true");
    module["metadata"]["annotations"][SHIPPED] = json!(digest_of(&text));
    module["spec"]["source"] = json!({"builtin": name});
    Ok(module)
}

async fn ensure_one(registry: &Registry, shipped: &Value) -> Result<(), HostError> {
    let name = shipped["metadata"]["name"].as_str().unwrap_or_default();
    let refused = |error: pintle_api::ApiError| HostError::Registry(error.message);
    let target = registry.resolve("pintle.dev", "v1", "modules", "", "", "").map_err(refused)?;
    let existing = registry.get_cached(&ResourceKey::new("pintle.dev", "modules"), "", name).and_then(|o| o.value().ok());
    let Some(existing) = existing else {
        return registry
            .create(&Caller::kernel(), &target, Body::Value(shipped.clone()), &WriteOptions::default())
            .await
            .map(|_| ())
            .map_err(refused);
    };
    let unchanged = existing["metadata"]["annotations"][SHIPPED] == shipped["metadata"]["annotations"][SHIPPED];
    let replaced = existing["spec"]["source"] != shipped["spec"]["source"];
    if unchanged || replaced {
        return Ok(());
    }
    let mut next = shipped.clone();
    for field in ["resourceVersion", "uid"] {
        next["metadata"][field] = existing["metadata"][field].clone();
    }
    if existing["spec"]["suspend"].is_boolean() {
        next["spec"]["suspend"] = existing["spec"]["suspend"].clone();
    }
    let target = target.named("", name);
    registry.update(&Caller::kernel(), &target, Body::Value(next), &WriteOptions::default()).await.map(|_| ()).map_err(refused)
}
