//! Where an image's bytes come from: a registry, or a directory in the OCI image layout.
//!
//! A source delivers bytes by digest and promises nothing: the store verifies everything it is given.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::StreamExt;
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::manifest::{IMAGE_MANIFEST_LIST_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE, OCI_IMAGE_INDEX_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference, RegistryOperation};
use tokio::sync::mpsc;

use super::reference::ImageRef;
use super::{Descriptor, PullOptions};
use crate::error::{Error, ImageError, Result};

/// Manifests and configs larger than this are refused.
pub(crate) const DOCUMENT_BYTES_MAX: u64 = 8 << 20;
/// Chunks of a layer that may wait for the unpacker.
const CHUNKS_MAX: usize = 32;
const CONNECT_TIME: std::time::Duration = std::time::Duration::from_secs(15);
const READ_TIME: std::time::Duration = std::time::Duration::from_secs(60);

/// A source of one image.
pub(crate) enum Source {
    Registry { client: Client, reference: Reference, auth: RegistryAuth, name: String },
    Layout { blobs: PathBuf, name: String },
}

impl Source {
    /// The registries to ask for `image`, mirrors first.
    ///
    /// # Errors
    /// [`ImageError::Unreachable`] when this machine cannot speak to any.
    pub(crate) async fn candidates(image: &ImageRef, options: &PullOptions) -> Result<Vec<(Client, Reference, RegistryAuth)>> {
        let endpoints = options.mirrors.iter().filter(|m| m.registry == image.registry).map(|m| Some(m.endpoint.clone()));
        let auth = match &options.credentials {
            Some(c) => RegistryAuth::Basic(c.username.clone(), c.password.clone()),
            None => RegistryAuth::Anonymous,
        };
        endpoints
            .chain([None])
            .map(|endpoint| {
                let mut reference = match (&image.digest, &image.tag) {
                    (Some(digest), _) => Reference::with_digest(image.registry.clone(), image.repository.clone(), digest.clone()),
                    (None, tag) => Reference::with_tag(
                        image.registry.clone(),
                        image.repository.clone(),
                        tag.clone().unwrap_or_else(|| "latest".to_owned()),
                    ),
                };
                // Credentials are for the registry that the user named, never for a mirror.
                let mut auth = auth.clone();
                if let Some(endpoint) = endpoint {
                    reference.set_mirror_registry(endpoint);
                    auth = RegistryAuth::Anonymous;
                }
                let host = reference.resolve_registry().to_owned();
                let plain = is_loopback(&host) || options.plain_http.contains(&host);
                let protocol = if plain { ClientProtocol::Http } else { ClientProtocol::Https };
                let config = ClientConfig {
                    protocol,
                    connect_timeout: Some(CONNECT_TIME),
                    read_timeout: Some(READ_TIME),
                    ..ClientConfig::default()
                };
                // Its `new` ends the process where this one says why, as on a machine without CA certificates.
                let client = Client::try_from(config);
                let reason = |e: oci_client::errors::OciDistributionError| format!("{e} (are ca-certificates installed?)");
                let client = client.map_err(|e| ImageError::Unreachable { reference: image.to_string(), reason: reason(e) })?;
                Ok((client, reference, auth))
            })
            .collect()
    }

    /// Asks one registry for the image's manifest (or index) document.
    pub(crate) async fn ask(client: Client, reference: Reference, auth: RegistryAuth, name: String) -> Result<(Self, Bytes, String)> {
        let source = Self::Registry { client, reference, auth, name };
        let Self::Registry { client, reference, auth, name } = &source else { return Err(unavailable("registry")) };
        client.auth(reference, auth, RegistryOperation::Pull).await.map_err(|e| explain(name, e))?;
        let accepted = [OCI_IMAGE_MEDIA_TYPE, OCI_IMAGE_INDEX_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE, IMAGE_MANIFEST_LIST_MEDIA_TYPE];
        let (body, digest) = client.pull_manifest_raw(reference, auth, &accepted).await.map_err(|e| explain(name, e))?;
        Ok((source, body, digest))
    }

    /// A manifest by digest (the one for this platform, out of an index).
    pub(crate) async fn manifest(&self, descriptor: &Descriptor) -> Result<Bytes> {
        match self {
            Self::Registry { client, reference, auth, name } => {
                let reference = reference.clone_with_digest(descriptor.digest.clone());
                let accepted = [OCI_IMAGE_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE];
                let pulled = client.pull_manifest_raw(&reference, auth, &accepted).await;
                pulled.map(|(body, _)| body).map_err(|e| explain(name, e))
            }
            Self::Layout { .. } => self.document(descriptor).await,
        }
    }

    /// A small blob in one piece.
    pub(crate) async fn document(&self, descriptor: &Descriptor) -> Result<Bytes> {
        self.blob(descriptor, DOCUMENT_BYTES_MAX).await
    }

    /// A blob of at most `bytes_max` in one piece.
    pub(crate) async fn blob(&self, descriptor: &Descriptor, bytes_max: u64) -> Result<Bytes> {
        let mut body = Vec::new();
        let mut reader = self.stream(descriptor).await?;
        let read = tokio::task::spawn_blocking(move || (&mut reader).take(bytes_max + 1).read_to_end(&mut body).map(|_| body));
        let body = read.await.map_err(|_| unavailable("reader"))?.map_err(|e| self.transfer(e))?;
        if body.len() as u64 > bytes_max {
            return Err(ImageError::TooLarge(format!("document {}", descriptor.digest)).into());
        }
        Ok(body.into())
    }

    /// A blob as a blocking reader, for a thread that may block.
    pub(crate) async fn stream(&self, descriptor: &Descriptor) -> Result<Box<dyn Read + Send>> {
        match self {
            Self::Registry { client, reference, name, .. } => {
                let descriptor = oci_client::manifest::OciDescriptor {
                    digest: descriptor.digest.clone(),
                    ..oci_client::manifest::OciDescriptor::default()
                };
                let mut stream = client.pull_blob_stream(reference, &descriptor).await.map_err(|e| explain(name, e))?;
                let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
                tokio::spawn(async move {
                    while let Some(chunk) = stream.next().await {
                        let last = chunk.is_err();
                        if sender.send(chunk).await.is_err() || last {
                            return;
                        }
                    }
                });
                Ok(Box::new(ChunkReader { receiver, current: Bytes::new() }))
            }
            Self::Layout { blobs, name } => {
                let path = blobs.join(descriptor.digest.trim_start_matches("sha256:"));
                match File::open(&path) {
                    Ok(file) => Ok(Box::new(file)),
                    Err(e) if e.kind() == io::ErrorKind::NotFound => Err(ImageError::NotFound(name.clone()).into()),
                    Err(source) => Err(ImageError::Store { step: format!("open {}", path.display()), source }.into()),
                }
            }
        }
    }

    /// What a failure in the middle of a transfer means.
    pub(crate) fn transfer(&self, error: io::Error) -> Error {
        match self {
            Self::Registry { name, .. } => ImageError::Unreachable { reference: name.clone(), reason: error.to_string() }.into(),
            Self::Layout { name, .. } => ImageError::Store { step: format!("read {name}"), source: error }.into(),
        }
    }
}

/// Blobs of an OCI layout directory.
pub(crate) fn layout_blobs(layout: &Path) -> PathBuf {
    layout.join("blobs/sha256")
}

/// A channel of chunks as a reader.
struct ChunkReader {
    receiver: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.receiver.blocking_recv() {
                Some(chunk) => self.current = chunk?,
                None => return Ok(0),
            }
        }
        let n = buffer.len().min(self.current.len());
        buffer[..n].copy_from_slice(&self.current.split_to(n));
        Ok(n)
    }
}

fn unavailable(what: &str) -> Error {
    ImageError::Store { step: what.to_owned(), source: io::ErrorKind::Other.into() }.into()
}

/// Whether `host[:port]` is this machine.
fn is_loopback(host: &str) -> bool {
    let bare = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = bare.trim_start_matches('[').trim_end_matches(']');
    bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// A registry's refusal in our words.
pub(super) fn explain(name: &str, error: OciDistributionError) -> Error {
    use OciDistributionError as D;
    let reference = name.to_owned();
    let image = match error {
        D::UnauthorizedError { .. } | D::AuthenticationFailure(_) => ImageError::Unauthorized(reference),
        D::ImageManifestNotFoundError(_) => ImageError::NotFound(reference),
        D::ServerError { code: 404, .. } => ImageError::NotFound(reference),
        D::ServerError { code: 401 | 403, .. } => ImageError::Unauthorized(reference),
        D::RegistryError { ref envelope, .. } => match envelope.errors.first().map(|e| &e.code) {
            Some(OciErrorCode::ManifestUnknown | OciErrorCode::NameUnknown | OciErrorCode::BlobUnknown | OciErrorCode::NotFound) => {
                ImageError::NotFound(reference)
            }
            Some(OciErrorCode::Unauthorized | OciErrorCode::Denied) => ImageError::Unauthorized(reference),
            _ => ImageError::BadAnswer { reference, reason: error.to_string() },
        },
        D::RequestError(e) if e.is_connect() || e.is_timeout() => ImageError::Unreachable { reference, reason: chain(&e) },
        D::RequestError(e) => ImageError::Unreachable { reference, reason: chain(&e) },
        D::DigestError(oci_client::errors::DigestError::VerificationError { expected, actual }) => {
            ImageError::BadDigest { expected, actual }
        }
        other => ImageError::BadAnswer { reference, reason: other.to_string() },
    };
    image.into()
}

/// An error and its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::is_loopback;

    #[test]
    fn loopback_registries_are_told_from_others() {
        for host in ["127.0.0.1:5000", "localhost", "localhost:80", "[::1]:5000", "127.1.2.3"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["docker.io", "10.0.0.1:5000", "localhost.example.com", "127.0.0.1.nip.io"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
