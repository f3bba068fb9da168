//! An OCI artifact of one blob: a WebAssembly module in a registry, named by the digest of its manifest.
//!
//! Facts: <https://tag-runtime.cncf.io/wgs/wasm/deliverables/wasm-oci-artifact/>. Invariant: bytes are given out only when both digests on the way
//! to them hold, whether they come from a registry or from the folder where they were kept.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use oci_client::client::{Config, ImageLayer};
use oci_client::{RegistryOperation, manifest::OciImageManifest};
use pintle_signing::{ANNOTATION, PAYLOAD_TYPE, Signature};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::source::{Source, explain};
use super::{Descriptor, ImageRef, PullOptions};
use crate::error::{Error, ImageError, Result};

/// The media type of a module; the others are what older tools pushed.
pub const WASM_TYPES: [&str; 3] =
    ["application/wasm", "application/vnd.wasm.content.layer.v1+wasm", "application/vnd.module.wasm.content.layer.v1+wasm"];
/// The largest module that is pulled, in bytes: what the kernel takes at most.
const MODULE_BYTES_MAX: u64 = 32 << 20;
const CONFIG_TYPE: &str = "application/vnd.wasm.config.v0+json";
const SIGNATURE_CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";

/// The module that `reference` names by digest; from the folder `kept` when it is there whole, and kept there afterwards.
///
/// # Errors
/// A reference without a digest, and whatever a registry can do wrong.
pub async fn fetch(reference: &ImageRef, options: &PullOptions, kept: Option<&Path>) -> Result<Bytes> {
    let digest =
        reference.digest.clone().ok_or_else(|| ImageError::Malformed(format!("{reference} does not say which: it needs @sha256:...")))?;
    let place = |digest: &str| kept.map(|folder| folder.join(digest.trim_start_matches("sha256:")));
    let keep = |digest: &str, bytes: &[u8]| place(digest).map_or(Ok(()), |path| write(&path, bytes));
    let found = |digest: &str| place(digest).and_then(|path| fs::read(path).ok()).filter(|bytes| verify(digest, bytes).is_ok());
    if let Some(module) = found(&digest).and_then(|manifest| blob_of(&manifest).ok()).and_then(|blob| found(&blob)) {
        return Ok(module.into());
    }
    let mut last: Option<Error> = None;
    for (client, address, auth) in Source::candidates(reference, options).await? {
        let pulled = async {
            let (source, manifest, _) = Source::ask(client, address, auth, reference.to_string()).await?;
            verify(&digest, &manifest)?;
            let blob = blob_of(&manifest)?;
            let module = source.blob(&Descriptor { digest: blob.clone(), ..Descriptor::default() }, MODULE_BYTES_MAX).await?;
            verify(&blob, &module)?;
            keep(&blob, &module)?;
            keep(&digest, &manifest)?;
            Ok(module)
        };
        match pulled.await {
            Ok(module) => return Ok(module),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| ImageError::NotFound(reference.to_string()).into()))
}

/// Pushes a module, and says by which reference it is pulled.
///
/// # Errors
/// Whatever a registry can do wrong.
pub async fn push(reference: &ImageRef, options: &PullOptions, module: Bytes) -> Result<String> {
    let name = reference.to_string();
    let candidates = Source::candidates(reference, options).await?;
    let Some((client, address, auth)) = candidates.into_iter().next_back() else { return Err(ImageError::NotFound(name).into()) };
    client.auth(&address, &auth, RegistryOperation::Push).await.map_err(|e| explain(&name, e))?;
    let layers = [ImageLayer::new(module, WASM_TYPES[0].to_owned(), None)];
    let config = Config::new("{}", CONFIG_TYPE.to_owned(), None);
    let manifest = OciImageManifest::build(&layers, &config, None);
    client.push(&address, &layers, config, &auth, Some(manifest)).await.map_err(|e| explain(&name, e))?;
    let (_, digest) =
        client.pull_manifest_raw(&address, &auth, &[oci_client::manifest::OCI_IMAGE_MEDIA_TYPE]).await.map_err(|e| explain(&name, e))?;
    Ok(format!("{}@{digest}", reference.name()))
}

/// Signatures of one artifact at most.
const SIGNATURES_MAX: usize = 64;

/// Where the signatures of the artifact that `reference` names by digest are: the tag that cosign gives them.
fn signatures_of(reference: &ImageRef) -> Result<ImageRef> {
    let digest = reference.digest.as_deref();
    let digest = digest.ok_or_else(|| ImageError::Malformed(format!("{reference} does not say which: it needs @sha256:...")))?;
    Ok(ImageRef { tag: Some(format!("{}.sig", digest.replace(':', "-"))), digest: None, ..reference.clone() })
}

/// The signatures of an artifact, unchecked: they say themselves what they are worth, to whoever has the key.
///
/// # Errors
/// Whatever a registry can do wrong; an artifact without signatures has none.
pub async fn signatures(reference: &ImageRef, options: &PullOptions) -> Result<Vec<Signature>> {
    let tagged = signatures_of(reference)?;
    let mut last: Option<Error> = None;
    for (client, address, auth) in Source::candidates(&tagged, options).await? {
        let (source, manifest, _) = match Source::ask(client, address, auth, tagged.to_string()).await {
            Ok(found) => found,
            Err(Error::Image(ImageError::NotFound(_))) => return Ok(Vec::new()),
            Err(error) => {
                last = Some(error);
                continue;
            }
        };
        let manifest: Value = serde_json::from_slice(&manifest).map_err(|e| ImageError::Malformed(e.to_string()))?;
        let mut signatures = Vec::new();
        for layer in
            manifest["layers"].as_array().into_iter().flatten().filter(|layer| layer["mediaType"] == PAYLOAD_TYPE).take(SIGNATURES_MAX)
        {
            let (Some(digest), Some(signature)) = (layer["digest"].as_str(), layer["annotations"][ANNOTATION].as_str()) else { continue };
            let payload = source.document(&Descriptor { digest: digest.to_owned(), ..Descriptor::default() }).await?;
            verify(digest, &payload)?;
            signatures.push(Signature { payload: STANDARD.encode(payload), signature: signature.to_owned() });
        }
        return Ok(signatures);
    }
    Err(last.unwrap_or_else(|| ImageError::NotFound(reference.to_string()).into()))
}

/// Signs an artifact that is in a registry, beside the signatures that it has.
///
/// # Errors
/// A key that is none, and whatever a registry can do wrong.
pub async fn sign(reference: &ImageRef, options: &PullOptions, key_pem: &str) -> Result<()> {
    let (tagged, digest) = (signatures_of(reference)?, reference.digest.clone().unwrap_or_default());
    let signed = pintle_signing::sign(key_pem, &reference.name(), &digest).map_err(|e| ImageError::Malformed(e.to_string()))?;
    let mut all = signatures(reference, options).await?;
    all.push(signed);
    let decoded = |signature: &Signature| STANDARD.decode(&signature.payload).map_err(|e| ImageError::Malformed(e.to_string()));
    let mut layers = Vec::with_capacity(all.len());
    for signature in &all {
        let annotations = BTreeMap::from([(ANNOTATION.to_owned(), signature.signature.clone())]);
        layers.push(ImageLayer::new(decoded(signature)?, PAYLOAD_TYPE.to_owned(), Some(annotations)));
    }
    let candidates = Source::candidates(&tagged, options).await?;
    let name = tagged.to_string();
    let Some((client, address, auth)) = candidates.into_iter().next_back() else { return Err(ImageError::NotFound(name).into()) };
    client.auth(&address, &auth, RegistryOperation::Push).await.map_err(|e| explain(&name, e))?;
    let config = Config::new("{}", SIGNATURE_CONFIG_TYPE.to_owned(), None);
    let manifest = OciImageManifest::build(&layers, &config, None);
    client.push(&address, &layers, config, &auth, Some(manifest)).await.map_err(|e| explain(&name, e))?;
    Ok(())
}

/// The digest of the one blob that a manifest is about.
fn blob_of(manifest: &[u8]) -> Result<String> {
    let malformed = |why: &str| ImageError::Malformed(why.to_owned());
    let manifest: Value = serde_json::from_slice(manifest).map_err(|e| malformed(&e.to_string()))?;
    let layers = manifest["layers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let layer = layers.iter().find(|layer| layer["mediaType"].as_str().is_some_and(|kind| WASM_TYPES.contains(&kind)));
    let digest = layer.and_then(|layer| layer["digest"].as_str()).filter(|digest| super::reference::valid_digest(digest));
    Ok(digest.ok_or_else(|| malformed("the artifact holds no WebAssembly"))?.to_owned())
}

fn verify(expected: &str, bytes: &[u8]) -> Result<()> {
    let actual = Sha256::digest(bytes).iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"));
    if actual == expected { Ok(()) } else { Err(ImageError::BadDigest { expected: expected.to_owned(), actual }.into()) }
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = |source| ImageError::Store { step: format!("keep {}", path.display()), source };
    let fresh = path.with_extension(format!("{}.tmp", std::process::id()));
    fs::create_dir_all(path.parent().unwrap_or(path)).map_err(failed)?;
    fs::write(&fresh, bytes).map_err(failed)?;
    Ok(fs::rename(&fresh, path).map_err(failed)?)
}
