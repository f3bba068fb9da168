//! The `podCertificate` source of a projected volume: a key that this node makes, and a certificate that a signer in the cluster issues for it.
//!
//! The key never leaves the node. A request is made once, kept beside the volumes until a signer has answered, and made anew when the answer says that
//! it is time; until then the old certificate serves. A denied request is final for its pod, as with a kubelet. Facts:
//! <https://kubernetes.io/docs/concepts/storage/projected-volumes/#podcertificate>.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Pod, PodCertificateProjection};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, RsaKeySize};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Workshop;
use super::atomic::{File, check_relative};
use crate::error::{Error, Result};
use crate::file;
use crate::link::Reference;
use crate::pod::record::{name, namespace, uid};

const RESOURCE: (&str, &str) = ("certificates.k8s.io", "podcertificaterequests");
/// How often, and how many times in one go, a fresh request is looked at.
const LOOK: (Duration, usize) = (Duration::from_millis(100), 20);

/// What is remembered of one source.
#[derive(Default, Serialize, Deserialize)]
struct Kept {
    issued: Option<Issued>,
    asked: Option<Asked>,
    /// Why there will be none.
    refused: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Issued {
    key: String,
    chain: String,
    renew_at: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct Asked {
    /// Of the PodCertificateRequest.
    name: String,
    key: String,
}

/// What a signer has said of a request.
#[derive(Debug, PartialEq)]
enum Answer {
    None,
    Issued { chain: String, renew_at: Timestamp },
    Refused(String),
}

/// The files of the source. `slot` tells sources of a pod apart.
pub async fn files(
    pod: &Pod,
    slot: &str,
    source: &PodCertificateProjection,
    mode: u32,
    workshop: &Workshop<'_>,
) -> Result<BTreeMap<String, File>> {
    let kept_at = workshop.pod_dir.join("certificates").join(slot);
    let mut kept: Kept = file::read_json(&kept_at)?.unwrap_or_default();
    let fresh = kept.issued.as_ref().is_some_and(|issued| issued.renew_at > Timestamp::now());
    if !fresh && kept.refused.is_none() {
        file::make_dir(&workshop.pod_dir.join("certificates"), 0o700)?;
        if kept.asked.is_none() {
            kept.asked = Some(ask(pod, source, workshop).await?);
            file::replace_json(&kept_at, &kept)?;
        }
        if listen(pod, &mut kept, workshop).await? {
            file::replace_json(&kept_at, &kept)?;
        }
    }
    match (&kept.issued, &kept.refused) {
        (Some(issued), _) => project(source, issued, mode),
        (None, Some(why)) => Err(Error::ContainerConfig(why.clone())),
        (None, None) => Err(Error::ContainerConfig(format!("signer {} has not issued a certificate yet", source.signer_name))),
    }
}

async fn ask(pod: &Pod, source: &PodCertificateProjection, workshop: &Workshop<'_>) -> Result<Asked> {
    let kind = source.key_type.clone();
    let made = tokio::task::spawn_blocking(move || key_and_proof(&kind)).await;
    let (key, proof) = made.map_err(|error| Error::ContainerConfig(format!("making a key: {error}")))??;
    let request = json!({
        "signerName": source.signer_name, "maxExpirationSeconds": source.max_expiration_seconds, "stubPKCS10Request": ByteString(proof),
        "unverifiedUserAnnotations": source.user_annotations,
    });
    let reference = Reference::core("pods", namespace(pod), name(pod)).with_uid(uid(pod));
    let made = parse(&workshop.kernel.request_certificate(&reference, &request).await?)?;
    let name = made["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    Ok(Asked { name, key })
}

/// A key as PKCS #8, PEM; and a request that proves that we have it, PKCS #10, DER, which says nothing else.
fn key_and_proof(kind: &str) -> Result<(String, Vec<u8>)> {
    let failed = |error: rcgen::Error| Error::ContainerConfig(format!("making a key of type {kind}: {error}"));
    let key = match kind {
        "ECDSAP256" => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
        "ECDSAP384" => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
        "ECDSAP521" => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512),
        "ED25519" => KeyPair::generate_for(&rcgen::PKCS_ED25519),
        "RSA3072" => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_3072),
        "RSA4096" => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_4096),
        other => return Err(Error::ContainerConfig(format!("unknown key type {other:?}"))),
    }
    .map_err(failed)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let proof = params.serialize_request(&key).map_err(failed)?;
    Ok((key.serialize_pem(), proof.der().to_vec()))
}

/// Looks for the answer to what was asked; whether anything is to be noted.
async fn listen(pod: &Pod, kept: &mut Kept, workshop: &Workshop<'_>) -> Result<bool> {
    let Some(asked) = &kept.asked else { return Ok(false) };
    let reference = Reference { group: RESOURCE.0, ..Reference::core(RESOURCE.1, namespace(pod), &asked.name) };
    for _ in 0..LOOK.1 {
        let answer = match workshop.kernel.get(&reference).await {
            Ok(bytes) => answer(&parse(&bytes)?),
            Err(error) if error.is_not_found() => {
                kept.asked = None;
                return Ok(true);
            }
            Err(error) => return Err(error),
        };
        match answer {
            Answer::None => tokio::time::sleep(LOOK.0).await,
            Answer::Issued { chain, renew_at } => {
                kept.issued = kept.asked.take().map(|asked| Issued { key: asked.key, chain, renew_at });
                return Ok(true);
            }
            Answer::Refused(why) => {
                kept.refused = Some(why);
                return Ok(true);
            }
        }
        if kept.issued.is_some() {
            break; // the old one serves meanwhile
        }
    }
    Ok(false)
}

fn parse(bytes: &[u8]) -> Result<Value> {
    serde_json::from_slice(bytes).map_err(|source| Error::Malformed { what: "a PodCertificateRequest".into(), source })
}

fn answer(request: &Value) -> Answer {
    let status = &request["status"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    for condition in status["conditions"].as_array().into_iter().flatten() {
        match condition["type"].as_str() {
            Some("Issued") => {
                let renew_at = text(&status["beginRefreshAt"]).parse().unwrap_or(Timestamp::MAX);
                return Answer::Issued { chain: text(&status["certificateChain"]), renew_at };
            }
            Some(kind @ ("Denied" | "Failed")) => {
                let (name, reason, message) = (&request["metadata"]["name"], text(&condition["reason"]), text(&condition["message"]));
                return Answer::Refused(format!("PodCertificateRequest {} {kind}: {reason}: {message}", text(name)));
            }
            _ => {}
        }
    }
    Answer::None
}

fn project(source: &PodCertificateProjection, issued: &Issued, mode: u32) -> Result<BTreeMap<String, File>> {
    let rows = [
        (&source.credential_bundle_path, format!("{}{}", issued.key, issued.chain)),
        (&source.key_path, issued.key.clone()),
        (&source.certificate_chain_path, issued.chain.clone()),
    ];
    let wanted = rows.into_iter().filter_map(|(path, text)| Some((path.as_ref().filter(|path| !path.is_empty())?, text)));
    let file = |(path, text): (&String, String)| check_relative(path).map(|()| (path.clone(), File { bytes: text.into_bytes(), mode }));
    wanted.map(file).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_of_key_comes_with_its_proof() {
        for kind in ["ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519", "RSA3072"] {
            let (key, proof) = key_and_proof(kind).expect(kind);
            assert!(key.starts_with("-----BEGIN PRIVATE KEY-----"), "{kind}");
            if kind == "ECDSAP521" {
                continue; // The checker knows no such curve.
            }
            let request = rcgen::CertificateSigningRequestParams::from_der(&proof.into()).expect(kind);
            assert_eq!(request.params.distinguished_name.iter().count(), 0, "{kind}");
        }
        assert!(key_and_proof("DSA").is_err());
    }

    #[test]
    fn an_answer_is_a_condition() {
        let check = |conditions: Value, expected: Answer| {
            let status = json!({ "conditions": conditions, "certificateChain": "PEM", "beginRefreshAt": "2026-01-01T00:00:00Z" });
            assert_eq!(answer(&json!({ "metadata": { "name": "req-1" }, "status": status })), expected);
        };
        let renew_at = "2026-01-01T00:00:00Z".parse().expect("a time");
        check(json!([]), Answer::None);
        check(json!([{ "type": "Issued" }]), Answer::Issued { chain: "PEM".into(), renew_at });
        let why = "PodCertificateRequest req-1 Denied: UnsupportedKeyType: try another";
        check(json!([{ "type": "Denied", "reason": "UnsupportedKeyType", "message": "try another" }]), Answer::Refused(why.into()));
    }

    #[test]
    fn the_files_are_those_that_the_pod_names() {
        let issued = Issued { key: "KEY".into(), chain: "CHAIN".into(), renew_at: Timestamp::MAX };
        let names = |source: Value| {
            let source: PodCertificateProjection = serde_json::from_value(source).expect("a projection");
            let files = project(&source, &issued, 0o644).expect("files");
            files.into_iter().map(|(name, file)| format!("{name}={}", String::from_utf8_lossy(&file.bytes))).collect::<Vec<_>>()
        };
        let base = json!({ "signerName": "s/x", "keyType": "ED25519", "credentialBundlePath": "both" });
        assert_eq!(names(base), ["both=KEYCHAIN"]);
        let apart = json!({ "signerName": "s/x", "keyType": "ED25519", "keyPath": "k", "certificateChainPath": "c" });
        assert_eq!(names(apart), ["c=CHAIN", "k=KEY"]);
    }
}
