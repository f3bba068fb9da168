//! Signatures of artifacts in registries as cosign makes them with a key: ECDSA P-256 and SHA-256 over a simple-signing payload, which names the
//! digest of the artifact's manifest.
//!
//! Facts: <https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md>. The invariant: [`Signature::is_by`] is true for nobody but the
//! holder of the key, and for no other digest than the one that was signed. Not here: registries (`pintle-artifact` speaks to them), and certificates
//! and transparency logs (keyless signing), which nothing of ours checks.

mod pem;

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The media type of a payload in a registry.
pub const PAYLOAD_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// The annotation beside it that holds the signature, base64.
pub const ANNOTATION: &str = "dev.cosignproject.cosign/signature";
/// What a payload says that it is.
const PAYLOAD_KIND: &str = "cosign container image signature";

/// A DER SubjectPublicKeyInfo of a P-256 key up to its point (RFC 5480): what comes after is 0x04, x and y.
const P256_INFO: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01,
    0x07, 0x03, 0x42, 0x00,
];
const POINT_BYTES: usize = 65;

/// What can be wrong with a key.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    /// It is no PEM of that kind.
    #[error("not a PEM block {0:?}")]
    Pem(&'static str),
    /// It is another kind of key, or an encrypted one.
    #[error("not an unencrypted ECDSA P-256 key")]
    Key,
    /// The crypto library could not do it.
    #[error("cannot sign")]
    Sign,
}

/// A signature as it is kept in a registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// The payload, base64.
    pub payload: String,
    /// Of the payload: ASN.1, base64.
    pub signature: String,
}

/// A key that signatures are held against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey(Vec<u8>);

impl PublicKey {
    /// From `-----BEGIN PUBLIC KEY-----`.
    ///
    /// # Errors
    /// It is none, or not one of P-256.
    pub fn from_pem(text: &str) -> Result<Self, SigningError> {
        let info = pem::block(text, "PUBLIC KEY").ok_or(SigningError::Pem("PUBLIC KEY"))?;
        let point = info.strip_prefix(&P256_INFO).filter(|point| point.len() == POINT_BYTES && point[0] == 4);
        point.map(|point| Self(point.to_vec())).ok_or(SigningError::Key)
    }
}

impl Signature {
    /// Whether the holder of `key` signed the manifest of this digest (`sha256:...`).
    pub fn is_by(&self, key: &PublicKey, manifest_digest: &str) -> bool {
        let (Ok(payload), Ok(signature)) = (STANDARD.decode(&self.payload), STANDARD.decode(&self.signature)) else { return false };
        let Ok(said) = serde_json::from_slice::<Value>(&payload) else { return false };
        let about = &said["critical"];
        about["type"] == PAYLOAD_KIND
            && about["image"]["docker-manifest-digest"] == manifest_digest
            && UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &key.0).verify(&payload, &signature).is_ok()
    }
}

/// Signs the manifest of this digest in `repository` (host and name), with a PKCS#8 key: `-----BEGIN PRIVATE KEY-----`.
///
/// # Errors
/// It is not such a key.
pub fn sign(key_pem: &str, repository: &str, manifest_digest: &str) -> Result<Signature, SigningError> {
    let key = pem::block(key_pem, "PRIVATE KEY").ok_or(SigningError::Pem("PRIVATE KEY"))?;
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &key).map_err(|_| SigningError::Key)?;
    let payload = json!({
        "critical": {
            "identity": { "docker-reference": repository },
            "image": { "docker-manifest-digest": manifest_digest },
            "type": PAYLOAD_KIND,
        },
        "optional": null,
    })
    .to_string();
    let signature = key.sign(&SystemRandom::new(), payload.as_bytes()).map_err(|_| SigningError::Sign)?;
    Ok(Signature { payload: STANDARD.encode(payload), signature: STANDARD.encode(signature) })
}

/// A new key: the private and the public half, PEM.
///
/// # Errors
/// The crypto library cannot make one.
pub fn generate() -> Result<(String, String), SigningError> {
    let private = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new()).map_err(|_| SigningError::Sign)?;
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, private.as_ref()).map_err(|_| SigningError::Sign)?;
    let info = [&P256_INFO[..], key.public_key().as_ref()].concat();
    Ok((pem::text("PRIVATE KEY", private.as_ref()), pem::text("PUBLIC KEY", &info)))
}
