//! Keys and signatures, of ours and of OpenSSL's.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use pintle_signing::{PublicKey, Signature, generate, sign};
use serde_json::Value;

const DIGEST: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";

fn signed(repository: &str) -> (Signature, PublicKey, String) {
    let (private, public) = generate().expect("a key");
    (sign(&private, repository, DIGEST).expect("signed"), PublicKey::from_pem(&public).expect("a key"), public)
}

#[test]
fn a_signature_holds_for_its_key_and_its_digest_alone() {
    let (signature, key, _) = signed("registry.example/m");
    let (other, other_key, _) = signed("registry.example/n");
    assert!(signature.is_by(&key, DIGEST) && other.is_by(&other_key, DIGEST));
    assert!(!signature.is_by(&other_key, DIGEST) && !signature.is_by(&key, &DIGEST.replace('1', "2")));
    let mixed = Signature { payload: signature.payload.clone(), signature: other.signature };
    assert!(!mixed.is_by(&key, DIGEST) && !mixed.is_by(&other_key, DIGEST));
    let payload = String::from_utf8(STANDARD.decode(&signature.payload).expect("base64")).expect("text");
    let forged = Signature { payload: STANDARD.encode(payload.replace('1', "2")), signature: signature.signature };
    assert!(!forged.is_by(&key, &DIGEST.replace('1', "2")), "another payload under the same signature");
}

#[test]
fn what_is_no_key_or_no_signature_is_told() {
    let (signature, key, public) = signed("registry.example/m");
    for text in [
        "",
        "-----BEGIN PUBLIC KEY-----",
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
        &public.replace("PUBLIC", "PRIVATE"),
    ] {
        assert!(PublicKey::from_pem(text).is_err(), "{text}");
    }
    assert!(sign(&public.replace("PUBLIC", "PRIVATE"), "r", DIGEST).is_err());
    for broken in ["", "!", "AAAA", &signature.payload] {
        assert!(!Signature { signature: broken.into(), ..signature.clone() }.is_by(&key, DIGEST));
        assert!(broken == signature.payload || !Signature { payload: broken.into(), ..signature.clone() }.is_by(&key, DIGEST));
    }
}

/// Made with OpenSSL 3: `openssl ecparam -name prime256v1 -genkey`, `openssl dgst -sha256 -sign`.
#[test]
fn a_key_and_a_signature_of_openssl_are_understood() {
    let text = include_str!("openssl.json");
    let made: Value = serde_json::from_str(text).expect("JSON");
    let field = |name: &str| made[name].as_str().expect("text").to_owned();
    let signature = Signature { payload: field("payload"), signature: field("signature") };
    let key = PublicKey::from_pem(&field("public")).expect("a key");
    assert!(signature.is_by(&key, DIGEST));
    assert!(sign(&field("private"), "r", DIGEST).expect("signed").is_by(&key, DIGEST));
}
