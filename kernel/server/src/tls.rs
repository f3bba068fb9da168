//! TLS as the server speaks it. One port, three protocols told apart by ALPN: HTTP/2, HTTP/1.1, and the node link.
//!
//! Client certificates are asked for, never demanded here: who came without one is anonymous, and the pipeline (or the
//! node link) refuses what an anonymous may not do. A certificate that is shown must verify, or the handshake fails.

use std::sync::Arc;

use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::CertificateDer;

use crate::error::Result;
use pintle_pki::Pki;

/// ALPN name of the node link.
pub const ALPN_NODE: &[u8] = b"pintle-node/1";
const ALPN_H2: &[u8] = b"h2";
const ALPN_H1: &[u8] = b"http/1.1";

/// What ALPN settled on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
    Node,
}

impl Protocol {
    /// No ALPN at all means HTTP/1.1.
    pub(crate) fn from_alpn(alpn: Option<&[u8]>) -> Protocol {
        match alpn {
            Some(ALPN_NODE) => Protocol::Node,
            Some(ALPN_H2) => Protocol::Http2,
            _ => Protocol::Http1,
        }
    }
}

/// The server's side of TLS, presenting a certificate for `names`.
pub(crate) fn server_config(pki: &Pki, names: &[String]) -> Result<Arc<ServerConfig>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(pki.ca_der())?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).allow_unauthenticated().build()?;
    let (chain, key) = pki.server(names)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![ALPN_NODE.to_vec(), ALPN_H2.to_vec(), ALPN_H1.to_vec()];
    Ok(Arc::new(config))
}

/// Common name and organizations of a certificate that the handshake has verified.
pub(crate) fn subject(cert: &CertificateDer<'_>) -> Option<(String, Vec<String>)> {
    let (_, cert) = x509_parser::parse_x509_certificate(cert).ok()?;
    let subject = cert.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = subject.iter_organization().filter_map(|group| group.as_str().ok()).map(str::to_owned).collect();
    Some((name, groups))
}
