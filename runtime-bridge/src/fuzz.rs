//! What `tests/fuzz` reaches of this crate: decoders of bytes from a registry, as functions of those bytes. For tests only.

use std::os::fd::BorrowedFd;

use crate::image::{ConfigFile, Document, ImageLimits, store, unpack};

/// Unpacks the tar archive `layer` below `root`. The number of files, or why not.
///
/// # Errors
/// For people.
pub fn layer(mut layer: &[u8], root: BorrowedFd<'_>, limits: &ImageLimits) -> Result<u64, String> {
    unpack::unpack(&mut layer, root, limits).map(|done| done.files).map_err(|error| format!("{error:?}"))
}

/// Reads a manifest and a config: the digest and the directory's name of each layer, lowest first; nothing for an index.
///
/// # Errors
/// They are not what they should be.
pub fn image(manifest: &[u8], config: &[u8]) -> Result<Vec<(String, String)>, String> {
    let manifest: Document = serde_json::from_slice(manifest).map_err(|e| e.to_string())?;
    let config: ConfigFile = serde_json::from_slice(config).map_err(|e| e.to_string())?;
    let pairs = store::pair_layers(manifest.layers, &config.rootfs.diff_ids, &ImageLimits::default()).map_err(|e| e.to_string())?;
    Ok(pairs.into_iter().map(|(layer, diff)| (layer.digest, store::layer_name(&diff))).collect())
}
