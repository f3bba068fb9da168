//! Service account tokens: JSON web tokens signed with the cluster's key (ES256), bound to the objects that they were made for.
//!
//! Invariant: a token is good only while its service account, and the pod, secret or node it is bound to, exist with the same uid.
//! The signature is checked once per token and remembered; the bound objects are checked every time.

use std::collections::HashMap;
use std::sync::Arc;

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use parking_lot::Mutex;
use pintle_api::ApiError;
use pintle_registry::{Caller, Object, Registry, ResourceKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};
use pintle_pki::{Pki, PublicKey};

/// Who issues the tokens, and their default audience: this API.
pub(crate) const ISSUER: &str = "https://kubernetes.default.svc";
/// Verified tokens that are remembered.
const REMEMBERED_MAX: usize = 4096;
/// Longest token that is looked at.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claims {
    pub(crate) aud: Vec<String>,
    pub(crate) exp: u64,
    pub(crate) iat: u64,
    pub(crate) iss: String,
    pub(crate) jti: String,
    #[serde(rename = "kubernetes.io")]
    pub(crate) bound: Bound,
    pub(crate) nbf: u64,
    pub(crate) sub: String,
}

/// What a token is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Bound {
    pub(crate) namespace: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) node: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pod: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) secret: Option<Reference>,
    pub(crate) serviceaccount: Reference,
}

/// An object by name and uid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reference {
    pub(crate) name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) uid: String,
}

impl Reference {
    pub(crate) fn of(object: &Object) -> Reference {
        Reference { name: object.meta().name.to_string(), uid: object.meta().uid.to_string() }
    }
}

/// Makes and reads tokens.
pub(crate) struct Tokens {
    sign: EncodingKey,
    verify: DecodingKey,
    public: PublicKey,
    remembered: Mutex<HashMap<[u8; 32], Arc<Claims>>>,
}

impl Tokens {
    pub(crate) fn new(pki: &Pki) -> Result<Tokens> {
        let public = pki.service_account_public();
        Ok(Tokens {
            sign: EncodingKey::from_ec_der(pki.service_account_key()),
            verify: DecodingKey::from_ec_components(&public.x, &public.y).map_err(Error::Token)?,
            public,
            remembered: Mutex::new(HashMap::new()),
        })
    }

    /// The key that verifies tokens, for `/openid/v1/jwks`.
    pub(crate) fn public(&self) -> &PublicKey {
        &self.public
    }

    pub(crate) fn sign(&self, claims: &Claims) -> Result<String, ApiError> {
        let header = Header { alg: Algorithm::ES256, kid: Some(self.public.kid.clone()), typ: None, ..Header::default() };
        jsonwebtoken::encode(&header, claims, &self.sign).map_err(|error| {
            tracing::error!(%error, "signing a token");
            ApiError::internal("the token could not be signed")
        })
    }

    /// Signature, issuer and times. The audience and the bound objects are the caller's business.
    fn claims(&self, token: &str) -> Option<Arc<Claims>> {
        if token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let digest: [u8; 32] = Sha256::digest(token).into();
        let now = now_seconds();
        if let Some(claims) = self.remembered.lock().get(&digest) {
            return (claims.exp > now).then(|| claims.clone());
        }
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_issuer(&[ISSUER]);
        validation.set_required_spec_claims(&["exp", "iss", "sub", "aud"]);
        validation.validate_aud = false;
        validation.validate_nbf = true;
        let claims = Arc::new(jsonwebtoken::decode::<Claims>(token, &self.verify, &validation).ok()?.claims);
        let mut remembered = self.remembered.lock();
        if remembered.len() >= REMEMBERED_MAX {
            remembered.retain(|_, claims| claims.exp > now);
        }
        if remembered.len() >= REMEMBERED_MAX {
            remembered.clear();
        }
        remembered.insert(digest, claims.clone());
        Some(claims)
    }

    /// The caller that a token stands for, if it is good for one of `audiences`, and which of them.
    pub(crate) fn caller(&self, registry: &Registry, token: &str, audiences: &[&str]) -> Option<(Caller, Vec<String>)> {
        let claims = self.claims(token)?;
        let matching: Vec<String> = claims.aud.iter().filter(|have| audiences.contains(&have.as_str())).cloned().collect();
        (!matching.is_empty() && still_bound(registry, &claims.bound)).then(|| (caller(&claims), matching))
    }
}

/// Whether everything that the token is bound to is still there.
fn still_bound(registry: &Registry, bound: &Bound) -> bool {
    let there = |resource: &str, namespace: &str, reference: &Reference| {
        let object = registry.get_cached(&ResourceKey::new("", resource), namespace, &reference.name);
        object.is_some_and(|object| reference.uid.is_empty() || *object.meta().uid == *reference.uid)
    };
    there("serviceaccounts", &bound.namespace, &bound.serviceaccount)
        && bound.pod.as_ref().is_none_or(|pod| there("pods", &bound.namespace, pod))
        && bound.secret.as_ref().is_none_or(|secret| there("secrets", &bound.namespace, secret))
}

/// The user that upstream makes of a token.
fn caller(claims: &Claims) -> Caller {
    let bound = &claims.bound;
    let groups = ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{}", bound.namespace)];
    let mut caller = Caller::user(format!("system:serviceaccount:{}:{}", bound.namespace, bound.serviceaccount.name), groups);
    caller.uid.clone_from(&bound.serviceaccount.uid);
    let mut add = |key: &str, value: String| caller.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value]);
    add("credential-id", format!("JTI={}", claims.jti));
    for (kind, reference) in [("pod", &bound.pod), ("node", &bound.node)] {
        if let Some(reference) = reference {
            add(&format!("{kind}-name"), reference.name.clone());
            add(&format!("{kind}-uid"), reference.uid.clone());
        }
    }
    caller
}

/// Seconds since 1970.
pub(crate) fn now_seconds() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
