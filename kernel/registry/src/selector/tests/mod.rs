use super::*;

#[test]
fn field_terms_keep_escaped_commas() {
    assert_eq!(split_terms(r"a=b\,c,d!=e"), [r"a=b\,c", "d!=e"]);
    assert_eq!(field_term(r"a=b\,c"), Some(("a", "b,c".to_owned(), true)));
    assert_eq!(field_term("d!=e"), Some(("d", "e".to_owned(), false)));
    assert_eq!(field_term("d"), None);
}
