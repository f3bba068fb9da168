//! Who asks: by client certificate, by service account token, or nobody.

use std::net::SocketAddr;
use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use pintle_api::ApiError;
use pintle_registry::{Caller, Registry};
use rustls_pki_types::CertificateDer;

use super::token::{ISSUER, Tokens};
use crate::tls;

/// The other end of a connection, as the handshake left it.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    /// Who the client certificate names; `None` without one.
    pub(crate) certificate: Option<Arc<Caller>>,
}

impl Peer {
    pub(crate) fn new(address: SocketAddr, certificates: Option<&[CertificateDer<'_>]>) -> Peer {
        let leaf = certificates.and_then(<[_]>::first);
        let certificate = leaf.and_then(tls::subject).map(|(user, groups)| Arc::new(Caller::user(user, groups)));
        Peer { address, certificate }
    }

    /// The node that the certificate names: CN `system:node:NAME` and O `system:nodes`.
    pub(crate) fn node_name(&self) -> Option<&str> {
        let caller = self.certificate.as_deref()?;
        if !caller.groups.iter().any(|group| group == "system:nodes") {
            return None;
        }
        caller.user.strip_prefix("system:node:").filter(|name| !name.is_empty())
    }
}

/// Paths that anybody may read.
const OPEN_PATHS: [&str; 4] = ["/livez", "/readyz", "/healthz", "/version"];

/// Whether nobody in particular may GET this path.
pub(crate) fn is_open(path: &str) -> bool {
    OPEN_PATHS.iter().any(|open| path == *open || path.strip_prefix(open).is_some_and(|rest| rest.starts_with('/')))
}

/// The caller behind a request.
///
/// # Errors
/// 401: no identity shown and the path is not open, or a token that is not good.
pub(crate) fn authenticate(
    registry: &Registry,
    tokens: &Tokens,
    peer: &Peer,
    headers: &HeaderMap,
    path: &str,
) -> Result<Arc<Caller>, ApiError> {
    if let Some(caller) = &peer.certificate {
        return Ok(caller.clone());
    }
    if let Some(token) = bearer(headers) {
        let (caller, _) = tokens.caller(registry, token, &[ISSUER]).ok_or_else(ApiError::unauthorized)?;
        return Ok(Arc::new(caller));
    }
    if is_open(path) { Ok(Arc::new(Caller::anonymous())) } else { Err(ApiError::unauthorized()) }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Whom the caller asks to be (`Impersonate-*`); `None` when nobody else.
///
/// # Errors
/// 400: groups or extras without a user.
pub(crate) fn impersonated(headers: &HeaderMap) -> Result<Option<Caller>, ApiError> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).filter(|value| !value.is_empty());
    let groups: Vec<String> =
        headers.get_all("impersonate-group").iter().filter_map(|value| value.to_str().ok()).map(str::to_owned).collect();
    let Some(user) = text("impersonate-user") else {
        if groups.is_empty() && text("impersonate-uid").is_none() {
            return Ok(None);
        }
        return Err(ApiError::bad_request("requested impersonation of groups or a uid without impersonating a user"));
    };
    let mut caller =
        if groups.is_empty() { service_account(user).unwrap_or_else(|| Caller::user(user, groups)) } else { Caller::user(user, groups) };
    caller.uid = text("impersonate-uid").unwrap_or_default().to_owned();
    for (name, value) in headers {
        if let (Some(key), Ok(value)) = (name.as_str().strip_prefix("impersonate-extra-"), value.to_str()) {
            caller.extra.entry(key.to_owned()).or_default().push(value.to_owned());
        }
    }
    Ok(Some(caller))
}

/// A service account by its user name, with the groups it always has.
fn service_account(user: &str) -> Option<Caller> {
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty())
        .then(|| Caller::user(user, ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")]))
}

#[cfg(test)]
mod tests;
