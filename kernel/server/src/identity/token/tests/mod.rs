use super::*;

fn claims(exp: u64) -> Claims {
    let reference = Reference { name: "default".into(), uid: "u".into() };
    let bound = Bound { namespace: "ns".into(), node: None, pod: None, secret: None, serviceaccount: reference };
    let sub = "system:serviceaccount:ns:default".into();
    Claims { aud: vec![ISSUER.into()], exp, iat: 1, iss: ISSUER.into(), jti: "j".into(), bound, nbf: 1, sub }
}

#[test]
fn a_token_is_read_back_and_a_changed_or_foreign_or_old_one_is_not() {
    let (dir, other) = (crate::testing::TempDir::new(), crate::testing::TempDir::new());
    let tokens = Tokens::new(&Pki::open_or_create(dir.path()).unwrap()).unwrap();
    let good = claims(now_seconds() + 600);
    let token = tokens.sign(&good).unwrap();
    assert_eq!(*tokens.claims(&token).unwrap(), good);
    assert_eq!(*tokens.claims(&token).unwrap(), good, "remembered");
    assert!(tokens.claims(&format!("{token}x")).is_none());
    assert!(tokens.claims("").is_none());
    let foreign = Tokens::new(&Pki::open_or_create(other.path()).unwrap()).unwrap();
    assert!(foreign.claims(&token).is_none());
    let old = tokens.sign(&claims(now_seconds() - 600)).unwrap();
    assert!(tokens.claims(&old).is_none());
}
