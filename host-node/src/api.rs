//! The Kubernetes API as the node speaks it: HTTPS with the node's own certificate, one connection a request, for the few objects that the link has no
//! word for (its CSINode, labels of its Node, the status of claims whose volumes it has made larger).

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;

use crate::error::{Error, Result, Step};
use crate::link;
use crate::options::NodeOptions;

/// Largest answer that is read.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Who sets the fields.
const MANAGER: &str = "host-node";

/// The node's way to the API.
#[derive(Clone)]
pub struct Api {
    options: NodeOptions,
}

/// How a patch is meant.
#[derive(Clone, Copy, Debug)]
pub enum Patch {
    /// RFC 7386.
    Merge,
    /// Server-side apply; conflicts are overruled.
    Apply,
}

impl Api {
    /// By the node's own options: where the kernel is, and the certificate.
    pub fn new(options: NodeOptions) -> Self {
        Self { options }
    }

    /// Reads an object by its path, as `/api/v1/nodes/n1`.
    ///
    /// # Errors
    /// [`Error::Refused`] with the API's words.
    pub async fn get(&self, path: &str) -> Result<Value> {
        self.send("GET", path, "application/json", String::new()).await
    }

    /// Patches an object, which an apply makes if it is not there.
    ///
    /// # Errors
    /// [`Error::Refused`] with the API's words.
    pub async fn patch(&self, path: &str, patch: Patch, body: &Value) -> Result<Value> {
        let (kind, query) = match patch {
            Patch::Merge => ("application/merge-patch+json", ""),
            Patch::Apply => ("application/apply-patch+yaml", "&force=true"),
        };
        self.send("PATCH", &format!("{path}?fieldManager={MANAGER}{query}"), kind, body.to_string()).await
    }

    async fn send(&self, method: &str, path: &str, kind: &str, body: String) -> Result<Value> {
        let failed = || format!("asking the kernel for {path}");
        let http = |error: hyper::Error| Error::io(failed(), std::io::Error::other(error));
        let stream = link::connect(&self.options, b"http/1.1").await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
        let driver = tokio::spawn(connection);
        let request = http::Request::builder().method(method).uri(path).header("host", "kubernetes").header("accept", "application/json");
        let request = request.header("content-type", kind).body(Full::new(Bytes::from(body)));
        let request = request.map_err(|error| Error::io(failed(), std::io::Error::other(error)))?;
        let answer = sender.send_request(request).await.map_err(http)?;
        let code = answer.status().as_u16();
        let bytes =
            Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(std::io::Error::other).step(failed)?.to_bytes();
        driver.abort();
        let value: Value =
            serde_json::from_slice(&bytes).map_err(|source| Error::Malformed { what: format!("answer to {path}"), source })?;
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        if code < 300 { Ok(value) } else { Err(Error::Refused { code, reason: text("reason"), message: text("message") }) }
    }
}
