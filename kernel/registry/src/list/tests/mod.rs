use super::*;

#[test]
fn a_continue_token_has_upstreams_form() {
    let text = Token::encode(42, "default/a\0".to_owned());
    assert_eq!(Token::decode(&text).expect("decodes"), Token { v: TOKEN_VERSION.to_owned(), rv: 42, start: "default/a\0".to_owned() });
    for bad in ["", "!", "e30", &Token::encode(0, "a".into()), &Token::encode(5, String::new())] {
        assert_eq!(Token::decode(bad).expect_err("refused").code, 400, "{bad}");
    }
}
